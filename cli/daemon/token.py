"""Implements `corral token` and `corral whoami`: makes, lists, rotates and removes tokens. A token's text is printed once."""

import click

from ..context import CommandGroup, Session, command, complete_names, duration, option
from ..render import Record, Table, items, word

complete_tokens = complete_names("token.list", "tokens")

token = CommandGroup("token", help="Create, list, rotate and remove tokens.")

of_expiry = option(
    "--expires D", "Let it expire after this time, such as 30d; by default never.", "expires_s", type=duration
)


@token.define("add")
@click.argument("name", metavar="NAME")
@option(
    "--rights",
    "Its rights; each includes those before it.",
    required=True,
    type=click.Choice(["read", "operate", "admin"]),
)
@option("--agents GLOB", "Restrict it to these agents, servers, teams and workflows; repeatable.", multiple=True)
@of_expiry
def add(session: Session, name: str, rights: str, agents: tuple[str, ...], expires_s: float | None) -> None:
    """Create a token, and print it once."""
    params: dict[str, object] = {"name": name, "rights": rights, "agents": list(agents) or None}
    params |= {} if expires_s is None else {"expires_s": expires_s}
    _print_new(session, session.call("token.add", params))


@token.define("list")
def list_(session: Session) -> None:
    """List the tokens, without their texts."""
    table = Table(
        "NAME RIGHTS AGENTS EXPIRES LAST_USED CREATED_BY",
        drop="CREATED_BY LAST_USED",
        agents=_agents,
        expires=lambda record: "expired" if record.get("expired") else session.at(word(record, "expires_at")),
        last_used=lambda record: session.at(word(record, "last_used")),
    )
    nothing = 'there are no tokens; "corral token add" makes one'
    session.print_list(session.call("token.list", {}), "tokens", nothing, table)


@token.define("rm")
@click.argument("name", metavar="NAME", shell_complete=complete_tokens)
def remove(session: Session, name: str) -> None:
    """Remove a token, which ends at once."""
    session.answer(session.call("token.rm", {"name": name}), f"removed {name}")


@token.define("rotate")
@click.argument("name", metavar="NAME", shell_complete=complete_tokens)
@option(
    "--overlap D", "Time for which the old text stays valid; none by default.", "overlap_s", type=duration, default=None
)
@of_expiry
def rotate(session: Session, name: str, overlap_s: float | None, expires_s: float | None) -> None:
    """Replace the text of a token, and print the new one once."""
    params: dict[str, object] = {"name": name, "overlap_s": overlap_s or 0}
    params |= {} if expires_s is None else {"expires_s": expires_s}
    _print_new(session, session.call("token.rotate", params))


@command("whoami")
def whoami(session: Session) -> None:
    """Print the caller's name, rights and agents."""
    found = session.call("auth.whoami", {})
    session.answer(found, f"{word(found, 'name')}: {word(found, 'rights')}, agents: {_agents(found)}")


def _print_new(session: Session, found: dict[str, object]) -> None:
    session.answer(found, word(found, "token"))
    name, rights = word(found, "name"), word(found, "rights")
    session.note(f'token "{name}" ({rights}, agents: {_agents(found)}) is not shown again')


def _agents(record: Record) -> str:
    return " ".join(map(str, items(record, "agents"))) or "all"
