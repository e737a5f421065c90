"""Implements `corral tenant`: adds, shows, lists, changes, suspends, resumes and removes tenants."""

import json

import click

from corral.worker.contract.errors import InvalidParams

from ..assignments import assigned, toml_value
from ..context import CommandGroup, Session, complete_names, option
from ..fields import toml_text
from ..render import Record, Table, inner, inners, items, word

complete_tenants = complete_names("tenant.list", "tenants")

tenant = CommandGroup("tenant", help="Add, list, change, suspend and remove tenants.")

of_name = click.argument("name", metavar="NAME", shell_complete=complete_tenants)


@tenant.define("add")
@click.argument("name", metavar="NAME")
@click.argument("assignments", nargs=-1, metavar="[KEY=VALUE]...")
@option("--new", "Refuse a name that exists.")
def add(session: Session, name: str, assignments: tuple[str, ...], new: bool) -> None:
    """Add a tenant with limits, or show the existing one.

    A KEY is one of [tenants.NAME]: tier=free, max_agents=5, max_memory_bytes=2GiB. Agents of an existing tenant
    that have given up start again.
    """
    found = session.call("tenant.add", {"name": name, "spec": _table(name, assignments), "new": new})
    session.answer(found, f"{'added' if found.get('created') else 'there is'} {name}")
    if restarted := " ".join(map(str, items(found, "restarted"))):
        session.note(f"started again: {restarted}")


@tenant.define("list")
def list_(session: Session) -> None:
    """List the tenants."""
    table = Table("NAME STATE TIER AGENTS SERVERS WORKERS UID SOURCE", drop="SOURCE SERVERS", state=_state)
    nothing = 'there are no tenants; "corral tenant add NAME" makes one'
    session.print_list(session.call("tenant.list", {}), "tenants", nothing, table)


@tenant.define("show")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_tenants)
def show(session: Session, name: str | None) -> None:
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
@of_name
@click.argument("assignments", nargs=-1, metavar="KEY=VALUE...")
def set_(session: Session, name: str, assignments: tuple[str, ...]) -> None:
    """Change keys of a tenant at once; KEY= removes a key."""
    spec = _table(name, assignments)
    if not spec:
        raise InvalidParams(f'cannot set tenant "{name}": give KEY=VALUE', key="spec")
    found = session.call("tenant.set", {"name": name, "spec": spec})
    keys = " ".join(map(str, items(found, "keys")))
    session.answer(found, f"changed {name}: {keys}" if keys else f"{name} is unchanged")


@tenant.define("suspend")
@of_name
def suspend(session: Session, name: str) -> None:
    """Stop a tenant, and refuse its tasks until it is resumed."""
    _print_switched(session, session.call("tenant.suspend", {"name": name}), "stopped")


@tenant.define("resume")
@of_name
def resume(session: Session, name: str) -> None:
    """Start the agents of a suspended tenant, and take its tasks again."""
    _print_switched(session, session.call("tenant.resume", {"name": name}), "started")


@tenant.define("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_tenants)
def remove(session: Session, names: tuple[str, ...]) -> None:
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


def _print_switched(session: Session, found: dict[str, object], verb: str) -> None:
    record = inner(found, "tenant")
    session.answer(found, f"{word(record, 'name')}: {_state(record)}")
    if workers := " ".join(map(str, items(found, "workers"))):
        session.note(f"{verb}: {workers}")


def _state(record: Record) -> str:
    return "suspended" if record.get("suspended") else "active"


def _table(name: str, assignments: tuple[str, ...]) -> dict[str, object]:
    """Returns the table of KEY=VALUE words; a value is read as JSON or TOML where it is that, else it is a text."""
    found: dict[str, object] = {}
    for text in assignments:
        key, value = assigned(f'tenant "{name}"', text)
        found[key] = _value(value) if value else None
    return found


def _value(text: str) -> object:
    found = toml_value(text)
    if found != text:
        return found
    try:
        return json.loads(text)
    except ValueError:
        return text
