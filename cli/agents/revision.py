"""Implements `corral set`, `history`, `diff` and `rollback`: changes of tables, and the way back."""

from collections.abc import Mapping
from typing import Any, cast

import click

from corral.worker.contract.errors import InvalidParams

from .. import render
from ..context import WAIT, WAIT_S, Session, assigned, command, complete_named, limit_s, option, toml_value, waiting
from ..fields import toml_text
from ..render import Record, Table, inner, inners, items, word

OF_TEXTS = ("environment", "headers", "labels")
"""Tables whose values are texts, also where they look like numbers."""

DRY_RUN = option("--dry-run", "Print what would change, and change nothing.")
WHY = option("--why TEXT", "Reason of the change; shown in the history.", default="")


@command("set")
@click.argument("name", metavar="NAME", shell_complete=complete_named)
@click.argument("assignments", nargs=-1, metavar="KEY=VALUE...")
@option("--unset KEY", "Remove KEY: its default applies again.", multiple=True)
@WHY
@WAIT
@WAIT_S
@DRY_RUN
def set_(
    session: Session,
    name: str,
    assignments: tuple[str, ...],
    unset: tuple[str, ...],
    why: str,
    wait: bool,
    timeout_s: float | None,
    dry_run: bool,
) -> None:
    """Change keys of an agent, server, team or workflow.

    A KEY may have dots: tasks.max_attempts=5, environment.MODEL=x, labels.team=red. VALUE is TOML, or else
    a text. KEY= removes the key, as --unset does. Each change is a revision.
    """
    spec: dict[str, Any] = {}
    for text in assignments:
        key, value = assigned(f'"{name}"', text)
        found = toml_value(value) if value else None
        is_text = key.partition(".")[0] in OF_TEXTS and isinstance(found, int | float)
        _put(spec, key, value if is_text else found)
    for key in unset:
        _put(spec, key, None)
    if not spec:
        reason = "give KEY=VALUE, or --unset KEY"
        raise InvalidParams(f'cannot set "{name}": {reason}', key="spec", reason=reason)
    params = {"name": name, "spec": spec, "why": why, "dry_run": dry_run}
    params |= waiting(wait, timeout_s)
    found = session.call("agent.set", params, timeout_s=limit_s(params))
    if session.printed_json(found):
        return
    _print_changed(session, name, found, dry_run)


@command("history")
@click.argument("name", metavar="NAME", shell_complete=complete_named)
@click.argument("revision", required=False, type=click.IntRange(1), metavar="[REV]")
@option("-n N", "How many, the newest first.", "count", type=click.IntRange(1, 1000), default=20, show_default=True)
def history(session: Session, name: str, revision: int | None, count: int) -> None:
    """List the revisions of a name, or print one in full.

    The name is that of an agent, server, team or workflow. With REV its table is printed.
    """
    if revision is not None:
        shown = session.call("revision.show", {"name": name, "revision": revision})
        if session.json:
            session.print_json(shown)
            return
        _print_table(session, inner(shown, "spec"), "")
        return
    found = session.call("revision.list", {"name": name, "limit": count})
    if not session.printed_json(found):
        session.print_records(inners(found, "revisions"), REVISIONS)


@command("diff")
@click.argument("name", metavar="NAME", shell_complete=complete_named)
@click.argument("before", required=False, type=click.IntRange(1), metavar="[A]")
@click.argument("after", required=False, type=click.IntRange(1), metavar="[B]")
def diff(session: Session, name: str, before: int | None, after: int | None) -> None:
    """Compare two revisions key by key.

    A is compared with B, which is the current one unless it is given. Without numbers the current one is compared
    with the one before it. Values of environment, headers and secrets are hidden.
    """
    found = session.call("revision.diff", {"name": name, "before": before, "after": after})
    if session.printed_json(found):
        return
    session.print_line(f"--- {name} {word(found, 'before', 'nothing')}")
    session.print_line(f"+++ {name} {word(found, 'after')}")
    for each in inners(found, "changes"):
        for sign, side, colour in (("-", "before", "31"), ("+", "after", "32")):
            if each.get(side) is not None:
                line = f"{sign}{word(each, 'key')} = {toml_text(each[side])}"
                session.print(session.styled(render.one_line(line), colour))


@command("rollback")
@click.argument("name", metavar="NAME", shell_complete=complete_named)
@click.argument("revision", required=False, metavar="[REV|VERSION]")
@WHY
@WAIT
@WAIT_S
@DRY_RUN
def rollback(
    session: Session, name: str, revision: str | None, why: str, wait: bool, timeout_s: float | None, dry_run: bool
) -> None:
    """Restore the table of an earlier revision.

    REV is its number, VERSION that of a package, such as 1.2.0; without either, it is the revision that was current before.
    The rollback is a new revision.
    """
    params: dict[str, object] = {"name": name, "why": why, "dry_run": dry_run}
    if revision is not None:
        is_number = revision.isdecimal()
        params |= {"revision": int(revision)} if is_number else {"version": revision}
    params |= waiting(wait, timeout_s)
    found = session.call("agent.rollback", params, timeout_s=limit_s(params))
    if session.printed_json(found):
        return
    _print_changed(session, name, found, dry_run, f" to revision {word(found, 'of')}")


def _print_changed(session: Session, name: str, found: Mapping[str, object], dry_run: bool, to: str = "") -> None:
    keys = ", ".join(str(each) for each in items(found, "changed"))
    if not keys:
        session.print_line(f"{name} is unchanged")
        return
    done = "would change" if dry_run else "changed"
    number = "" if dry_run else f", as revision {word(found, 'revision')}"
    session.print_line(f"{name} {done}{to}: {keys}{number}")
    if found.get("rolling"):
        session.note(f"it is rolling: corral status {name}")


def _how(each: Record) -> str:
    of = f" to {word(each, 'of')}" if each.get("of") else ""
    package = f" {word(each, 'package')}" if each.get("package") else ""
    return word(each, "how") + of + package


def _why(each: Record) -> str:
    return word(each, "reason") if word(each, "state") == "failed" else word(each, "why")


REVISIONS = Table("REV=revision STATE AT HOW BY WHY", drop="BY AT", how=_how, why=_why)


def _print_table(session: Session, table: Mapping[str, object], above: str) -> None:
    for key, value in table.items():
        within = render.as_record(value)
        if within:
            _print_table(session, within, f"{above}{key}.")
        else:
            session.print_line(f"{above}{key} = {toml_text(value)}")


def _put(spec: dict[str, Any], key: str, value: object) -> None:
    """Puts a value under a key with dots into a merge patch."""
    *above, last = key.split(".")
    for part in above:
        inside: object = spec.setdefault(part, {})
        if not isinstance(inside, dict):
            reason = f'"{part}" is given as a value, too'
            raise InvalidParams(f'cannot set "{key}": {reason}', key=key, reason=reason)
        spec = cast("dict[str, Any]", inside)  # such are all tables in it
    spec[last] = value
