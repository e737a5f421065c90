"""Implements `corral tenant`, `token`, `secret` and `whoami`: who may do what, and the secrets that agents get.

A token's text is printed once; a secret's value is read, and never printed.
"""

import json
import sys
from typing import Any

import click

from corral.worker.contract.errors import InvalidParams

from ..context import (
    CommandGroup,
    Session,
    assigned,
    calling,
    command,
    complete_agents,
    complete_names,
    duration,
    listing,
    option,
    toml_value,
)
from ..fields import toml_text
from ..render import Record, Table, inner, inners, items, word

complete_tenants = complete_names("tenant.list", "tenants")

tenant = CommandGroup("tenant", help="Add, list, change, suspend and remove tenants.")

of_tenant = click.argument("name", metavar="NAME", shell_complete=complete_tenants)


@tenant.define("add")
@click.argument("name", metavar="NAME")
@click.argument("assignments", nargs=-1, metavar="[KEY=VALUE]...")
@option("--new", "Refuse a name that exists.")
def add_tenant(session: Session, name: str, assignments: tuple[str, ...], new: bool) -> None:
    """Add a tenant with limits, or show the existing one.

    A KEY is one of [tenants.NAME]: tier=free, max_agents=5, max_memory_bytes=2GiB. Agents of an existing tenant
    that have given up start again.
    """
    found = session.call("tenant.add", {"name": name, "spec": _table(name, assignments), "new": new})
    session.answer(found, f"{'added' if found.get('created') else 'there is'} {name}")
    if restarted := " ".join(map(str, items(found, "restarted"))):
        session.note(f"started again: {restarted}")


def _state(record: Record) -> str:
    return "suspended" if record.get("suspended") else "active"


TENANTS = Table("NAME STATE TIER AGENTS SERVERS WORKERS UID SOURCE", drop="SOURCE SERVERS", state=_state)
NO_TENANTS = 'there are no tenants; "corral tenant add NAME" makes one'
tenant.add_command(listing("list", "tenant.list", "tenants", NO_TENANTS, TENANTS, text="List the tenants."))


@tenant.define("show")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_tenants)
def show_tenant(session: Session, name: str | None) -> None:
    """Show a tenant with its limits, its agents and its layers.

    A tenant sees itself alone, and needs no NAME.
    """
    found = session.call("tenant.show", {} if name is None else {"name": name})
    if session.printed_json(found):
        return
    record = inner(found, "tenant")
    session.print_line(f"{word(record, 'name')}: {_state(record)}, from {word(record, 'source')}")
    for key in ("runtime_id", "tier", "user", "uid", "pool", "folder", "created_at"):
        if record.get(key) is not None:
            session.print_line(f"  {key}: {word(record, key)}")
    for key, value in inner(record, "limits").items():
        session.print_line(f"  {key} = {toml_text(value)}")
    for key in ("agents", "servers", "groups"):
        if names := " ".join(map(str, items(found, key))):
            session.print_line(f"  {key}: {names}")
    for layer in inners(found, "layers"):
        mark = "yes" if layer.get("in_force") else "no"
        detail = f" ({word(layer, 'detail')})" if layer.get("detail") else ""
        session.print_line(f"  {word(layer, 'name')}: {mark}{detail}")


@tenant.define("set")
@of_tenant
@click.argument("assignments", nargs=-1, metavar="KEY=VALUE...")
def set_tenant(session: Session, name: str, assignments: tuple[str, ...]) -> None:
    """Change keys of a tenant at once; KEY= removes a key."""
    spec = _table(name, assignments)
    if not spec:
        raise InvalidParams(f'cannot set tenant "{name}": give KEY=VALUE', key="spec")
    found = session.call("tenant.set", {"name": name, "spec": spec})
    keys = " ".join(map(str, items(found, "keys")))
    session.answer(found, f"changed {name}: {keys}" if keys else f"{name} is unchanged")


def _switch(verb: str, done: str, text: str) -> None:
    def act(session: Session, name: str) -> None:
        found = session.call(f"tenant.{verb}", {"name": name})
        session.answer(found, f"{name}: {_state(inner(found, 'tenant'))}")
        if workers := " ".join(map(str, items(found, "workers"))):
            session.note(f"{done}: {workers}")

    tenant.define(verb, help=text)(of_tenant(act))


_switch("suspend", "stopped", "Stop a tenant, and refuse its tasks until it is resumed.")
_switch("resume", "started", "Start the agents of a suspended tenant, and take its tasks again.")


@tenant.define("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_tenants)
def remove_tenants(session: Session, names: tuple[str, ...]) -> None:
    """Remove tenants with all that they have.

    The audit alone keeps its records. The first tenant that cannot be removed ends the command; those before it are gone. With --json each has a line.
    """
    for name in names:
        found = session.call("tenant.rm", {"name": name}, timeout_s=None)
        if session.json:
            session.print_json(found)
            continue
        session.print_line(f"removed {name}")
        counts = ", ".join(f"{value} {key}" for key, value in inner(found, "erased").items())
        if counts:
            session.note(f"erased: {counts}")


def _table(name: str, assignments: tuple[str, ...]) -> dict[str, object]:
    """Returns the table of KEY=VALUE words; a value is read as JSON or TOML where it is that, else it is a text."""
    found: dict[str, object] = {}
    for text in assignments:
        key, value = assigned(f'tenant "{name}"', text)
        found[key] = _json_or_toml(value) if value else None
    return found


def _json_or_toml(text: str) -> object:
    found = toml_value(text)
    if found != text:
        return found
    try:
        return json.loads(text)
    except ValueError:
        return text


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
def add_token(session: Session, name: str, rights: str, agents: tuple[str, ...], expires_s: float | None) -> None:
    """Create a token, and print it once."""
    params: dict[str, object] = {"name": name, "rights": rights, "agents": list(agents) or None}
    params |= {} if expires_s is None else {"expires_s": expires_s}
    _print_new(session, session.call("token.add", params))


@token.define("list")
def list_tokens(session: Session) -> None:
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


of_token = click.argument("name", metavar="NAME", shell_complete=complete_tokens)
token.add_command(calling("rm", "token.rm", "removed {name}", of_token, text="Remove a token, which ends at once."))


@token.define("rotate")
@of_token
@option(
    "--overlap D", "Time for which the old text stays valid; none by default.", "overlap_s", type=duration, default=None
)
@of_expiry
def rotate_token(session: Session, name: str, overlap_s: float | None, expires_s: float | None) -> None:
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


complete_secrets = complete_names("secret.list", "secrets")

secret = CommandGroup("secret", help="Set, list, rotate and remove secrets.")

SECRETS = Table(
    "NAME KEPT_IN=source FOR=agents CHANGED=changed_at USED_BY",
    drop="CHANGED",
    source=lambda record: word(record, "problem") or word(record, "source", "nowhere"),
    agents=lambda record: " ".join(map(str, items(record, "agents"))) or "all",
)

of_secret = click.argument("name", metavar="NAME", shell_complete=complete_secrets)
of_source = click.argument("source", metavar="[-]", required=False, type=click.Choice(["-"]))
of_file = option("--file F", "Read the value from this file, or from stdin with -.", "path")
of_agents = option(
    "--agent GLOB",
    "Let only these agents and servers have it; repeatable.",
    "agents",
    multiple=True,
    shell_complete=complete_agents,
)


@secret.define("set")
@of_secret
@of_source
@of_file
@of_agents
@option("--replace", "Replace a secret of this name.")
def set_secret(session: Session, /, name: str, **options: Any) -> None:  # Any: the options above
    """Keep a secret. Asks for its value, unless it comes from a file or from stdin."""
    params: dict[str, object] = {"name": name, "secret": _value(name, options)}
    params |= {"agents": list(options["agents"]), "replace": options["replace"]}
    _print_kept(session, session.call("secret.set", params), "set")


@secret.define("rotate")
@of_secret
@of_source
@of_file
@of_agents
@option("--restart", "Restart the workers that use it, one after another.")
def rotate_secret(session: Session, /, name: str, **options: Any) -> None:  # Any: the options above
    """Replace the value of a secret.

    Without --agent it stays for the same agents.
    """
    params: dict[str, object] = {"name": name, "secret": _value(name, options)}
    params |= {"agents": list(options["agents"]) or None, "restart": options["restart"]}
    timeout: dict[str, Any] = {"timeout_s": None} if options["restart"] else {}
    _print_kept(session, session.call("secret.rotate", params, **timeout), "rotated")


NO_SECRETS = 'there are no secrets; "corral secret set" keeps one'
ABOUT_LIST = "List the secrets and the agents that name them, without values."
secret.add_command(listing("list", "secret.list", "secrets", NO_SECRETS, SECRETS, text=ABOUT_LIST))
force = option("--force", "Remove it although agents name it.")
secret.add_command(calling("rm", "secret.rm", "removed {name}", of_secret, force, text="Remove a secret."))


def _print_kept(session: Session, found: dict[str, object], done: str) -> None:
    if session.printed_json(found):
        return
    session.print_line(f"{done} {word(found, 'name')}")
    restarted = [str(each) for each in items(found, "restarted")]
    if restarted:
        session.print_line(f"restarted {' '.join(restarted)}")
    elif users := " ".join(map(str, items(found, "used_by"))):
        session.note(f"processes that run keep the value before: corral restart {users}")


def _value(name: str, options: dict[str, Any]) -> str:
    """Reads the value: from a file, from stdin, or from a person at the terminal; without one final newline."""
    path = options["path"] if options["source"] is None else "-"
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        elif path is not None:
            with open(path, "rb") as file:
                data = file.read()
        elif sys.stdin.isatty():
            from getpass import getpass  # noqa: PLC0415 - start-up time: only where a person is asked

            data = getpass(f"value of {name}: ").encode("utf-8", "surrogateescape")
        else:
            words = f'cannot read secret "{name}": stdin is no terminal; write - or --file F'
            raise InvalidParams(words, key="--file", name=name)
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        words = f'cannot read secret "{name}" from "{path}": {(error.strerror or "").lower()}'
        raise InvalidParams(words, key="--file", value=path) from error
    except UnicodeError:  # whose text has the bytes
        raise InvalidParams(f'cannot read secret "{name}": it is not UTF-8', key="--file", value=path) from None
