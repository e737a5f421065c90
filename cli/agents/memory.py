"""Implements `corral memory …`: sessions and stored values of agents."""

import click

from .. import render
from ..context import CommandGroup, Session, calling, complete_agents, duration, json_value, listing, option
from ..render import Record, Table, inner, inners, items, number, word

memory = CommandGroup("memory", help="Show and change sessions and stored values of agents.")

AGENTS_SHOWN = 5
"""Number of agents of a pool that the table names."""


SESSIONS = Table(
    "AGENT SESSION TURNS MESSAGES SIZE=size_bytes STORED=stored_bytes CREATED=created_at LAST_ACCESS=accessed_at EXPIRES=expires_at",
    drop="CREATED STORED MESSAGES EXPIRES",
    right="TURNS MESSAGES SIZE STORED",
)


def _value(record: Record) -> str:
    value = record.get("value")
    text = value if isinstance(value, str) else render.json_text(value, indent=False)
    return "(corrupted)" if record.get("corrupted") else text


ITEMS = Table("KEY SESSION VALUE", value=_value)


def _fullness(record: Record) -> str:
    most = number(record, "max_bytes")
    return f"{100 * (number(record, 'used_bytes') or 0) / most:.0f}%" if most else "-"


def _first_agents(record: Record) -> str:
    agents = [str(each) for each in items(record, "agents")]
    more = f" and {len(agents) - AGENTS_SHOWN} more" if len(agents) > AGENTS_SHOWN else ""
    return ", ".join(agents[:AGENTS_SHOWN]) + more


POOLS = Table(
    "POOL=name USED=used_bytes OF=max_bytes FULL OVERFLOW SESSIONS KEYS AGENTS",
    drop="KEYS SESSIONS OVERFLOW",
    right="USED OF FULL SESSIONS KEYS",
    full=_fullness,
    agents=_first_agents,
)

STATISTICS = Table(
    "AGENT POOL SESSIONS TURNS MESSAGES SIZE=size_bytes KEYS KEYS_SIZE=keys_bytes",
    drop="POOL MESSAGES TURNS",
    right="SESSIONS TURNS MESSAGES SIZE KEYS KEYS_SIZE",
)


def duration_or_never(text: str) -> float | None:
    """Returns seconds of a duration, None for "never"."""
    return None if text == "never" else duration(text)


_session = option("--session S", "Session that the key belongs to, instead of the agent as a whole.", "of")
of_agent = click.argument("agent", metavar="AGENT", shell_complete=complete_agents)
any_agent = click.argument("agent", metavar="[AGENT]", required=False, shell_complete=complete_agents)


@memory.define("list")
@any_agent
@option("--limit N", "List at most N.", type=click.IntRange(1, 10_000), default=1_000)
def list_(session: Session, agent: str | None, limit: int) -> None:
    """List sessions, the most recently used first."""
    found = session.call("memory.sessions", {"agent": agent, "limit": limit})
    session.print_list(found, "sessions", "there are no sessions", SESSIONS)


@memory.define("show")
@of_agent
@click.argument("of", metavar="SESSION")
@option("-n N", "Show only the last N messages.", "last", type=click.IntRange(0))
def show(session: Session, agent: str, of: str, last: int | None) -> None:
    """Show the messages, variables and data of a session."""
    record = session.call("memory.show", {"agent": agent, "session": of, "last": last})
    if session.printed_json(record):
        return
    keys = ("agent", "session", "turns", "messages", "size_bytes", "created_at", "accessed_at", "expires_at")
    session.print_fields({key: record.get(key) for key in keys})
    for part in ("variables", "data"):
        if values := inner(record, part):
            session.print(session.styled(part, "bold"))
            session.print_foreign(render.json_text(values, indent=True))
    if messages := inners(record, "history"):
        session.print(session.styled("history", "bold"))
        for message in messages:
            role = word(message, "role", "-")
            content = message.get("content", message)
            session.print_foreign(f"{role}: {render.output_text(content)}")


@memory.define("get")
@of_agent
@click.argument("key", metavar="KEY")
@_session
def get(session: Session, agent: str, key: str, of: str | None) -> None:
    """Print the value of a key, or null if there is none."""
    value = session.call("memory.get", {"agent": agent, "key": key, "session": of or ""}).get("value")
    if session.json or not isinstance(value, str):
        session.print_json(value)
    else:
        session.print_foreign(value)


@memory.define("put")
@of_agent
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="JSON|TEXT|@FILE|-")
@_session
@option("--ttl D", "Delete the value after this long.", "ttl_s", type=duration)
def put(session: Session, agent: str, key: str, value: str, of: str | None, ttl_s: float | None) -> None:
    """Store a value under a key."""
    given = json_value(value, "VALUE", or_text=True)
    params = {"agent": agent, "key": key, "value": given, "session": of or "", "ttl_s": ttl_s}
    found = session.call("memory.put", params)
    if session.json:
        session.print_json(found)


@memory.define("rm")
@of_agent
@click.argument("key", metavar="KEY")
@_session
def rm(session: Session, agent: str, key: str, of: str | None) -> None:
    """Delete a key and its value."""
    found = session.call("memory.delete", {"agent": agent, "key": key, "session": of or ""})
    if session.json:
        session.print_json(found)


@memory.define("search")
@of_agent
@click.argument("query", metavar="TEXT", default="")
@_session
@option("--limit N", "List at most N.", type=click.IntRange(1, 1000), default=100)
def search(session: Session, agent: str, query: str, of: str | None, limit: int) -> None:
    """List keys and values that contain a text. Without TEXT, list all, the newest first."""
    params = {"agent": agent, "query": query, "session": of, "limit": limit}
    session.print_list(session.call("memory.search", params), "items", "nothing is found", ITEMS)


FORGOT = "{agent}: forgot {0[sessions]} sessions and {0[keys]} keys"
one_session = click.argument("session", metavar="[SESSION]", required=False)
CLEAR = "Delete a session with its keys, or the whole memory of an agent."
memory.add_command(calling("clear", "memory.clear", FORGOT, of_agent, one_session, text=CLEAR))

REMOVED = "removed {0[sessions]} expired sessions and {0[keys]} expired keys"
CLEANUP = "Remove what has expired, of an agent or of all."
memory.add_command(calling("cleanup", "memory.cleanup", REMOVED, any_agent, text=CLEANUP))


@memory.define("expire")
@of_agent
@click.argument("of", metavar="SESSION")
@click.argument("after", metavar="D|never", type=duration_or_never)
def expire(session: Session, agent: str, of: str, after: float | None) -> None:
    """Set the time after which a session expires."""
    found = session.call("memory.expire", {"agent": agent, "session": of, "ttl_s": after})
    session.answer(found, f"{agent}: {of} is gone after {session.at(word(found, 'expires_at'))}")


ABOUT_POOLS = "Show the memory pools with their sizes and their agents."
memory.add_command(listing("pools", "memory.pools", "pools", "there are no memory pools", POOLS, text=ABOUT_POOLS))


@memory.define("stats")
@any_agent
def stats(session: Session, agent: str | None) -> None:
    """Show the number and size of sessions and keys by agent."""
    found = session.call("memory.stats", {"agent": agent})
    if session.printed_json(found):
        return
    session.print_records(inners(found, "agents"), STATISTICS)
    pool = inner(found, "pool")
    held = [render.size(number(pool, key)) for key in ("size_bytes", "limit_bytes")]
    counts = ", ".join(f"{word(pool, key)} {key}" for key in ("hits", "misses", "evictions"))
    session.print(f"in memory: {word(pool, 'sessions')} sessions, {held[0]} of {held[1]}; {counts}")
