"""Implements `corral deploy` and `corral deployments`: they put packages to work, and show how that went."""

import sys
from collections.abc import Iterable, Mapping, Sequence

import click

from corral.worker.contract import errors
from corral.worker.contract.errors import CorralError, InvalidParams
from corral.worker.contract.jsonrpc import Notification

from .. import render
from ..context import Session, command, complete_named, duration, json_value, option, pair
from ..render import Record, Table, as_record, inner, inners, number, word


@command("deploy")
@click.argument("target", metavar="PACKAGE[@VERSION]")
@option("--as NAME", "The agent; by default the package's name.", "agent")
@option("--canary PERCENT", "Give this part of the workers the version first, and wait for --promote or --abort.")
@option(
    "--promote-after D",
    "Promote the canary by itself if nothing fails for this long.",
    "promote_after_s",
    type=duration,
)
@option(
    "--set KEY=VALUE",
    "A key of the agent that overrides the package's; kept for later versions. null removes it.",
    "settings",
    multiple=True,
)
@option("--timeout D", "Give up after this long.", "timeout_s", type=duration)
@option("--why TEXT", "The reason, for the history.", default="")
@option("--promote", "Give all workers of the agent the canary's version.")
@option("--abort", "Take the canary, or what is under way, back.")
def deploy(
    session: Session,
    target: str,
    agent: str | None,
    canary: str | None,
    promote_after_s: float | None,
    settings: tuple[str, ...],
    timeout_s: float | None,
    why: str,
    promote: bool,
    abort: bool,
) -> int:
    """Deploy a package as an agent.

    The version is installed beside the one that serves, and replaces it when its workers are up, healthy and past
    the smoke task; otherwise it is taken back. With --promote or --abort the argument is the NAME of the agent.
    """
    if promote or abort:
        if (promote and abort) or any((agent, canary, promote_after_s, timeout_s, why, settings)):
            reason = "--promote and --abort stand alone, with the name of the agent"
            raise InvalidParams(f'cannot deploy "{target}": {reason}', key="promote", reason=reason)
        method = "deployment.promote" if promote else "deployment.abort"
        record = as_record(session.call(method, {"name": target}, timeout_s=None))
        return _print(session, record, is_wanted=not abort or word(record, "state") == "failed")
    params: dict[str, object] = {
        "package": target,
        "agent": agent,
        "settings": nested(settings),
        "canary_percent": None if canary is None else percent(canary),
        "promote_after_s": promote_after_s,
        "timeout_s": timeout_s,
        "why": why,
    }
    with session.connect() as connection:
        found = connection.call(
            "deployment.create", params, timeout_s=None, on_notification=lambda each: _show_step(session, each)
        )
    return _print(session, as_record(found))


def percent(text: str) -> int:
    """Reads a share of workers, as 10% or 10."""
    digits = text.removesuffix("%")
    if digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 99:
        return int(digits)
    reason = "write a part of the workers from 1% to 99%"
    raise InvalidParams(f'cannot read --canary "{text}": {reason}', key="canary", value=text)


def nested(settings: Iterable[str]) -> dict[str, object]:
    """Returns the table of settings such as `resources.max_memory_bytes=1GiB`; a value is JSON, or else a text."""
    table: dict[str, object] = {}
    for setting in settings:
        path, text = pair("the package", "--set", setting)
        table = _with(table, path.split("."), json_value(text, "--set", or_text=True))
    return table


def _with(table: Record, keys: Sequence[str], value: object) -> dict[str, object]:
    below = value if len(keys) == 1 else _with(inner(table, keys[0]), keys[1:], value)
    return {**table, keys[0]: below}


def _show_step(session: Session, notification: Notification) -> None:
    if notification.method != "deployment.event":
        return
    event = inner(notification.params, "event")
    if session.json:
        session.print_ndjson([event])
        return
    parts = (session.at(word(event, "at"), in_note=True), word(event, "agent"), word(event, "version"))
    words = (word(event, "state"), word(event, "step"))
    print(render.one_line("  ".join(part for part in (*parts, *words) if part)), file=sys.stderr, flush=True)


def _print(session: Session, record: Record, *, is_wanted: bool = False) -> int:
    """Prints how a deployment ended, and returns the exit status."""
    error = _error(record)
    if session.json:
        session.print_ndjson([record])
    elif error is None:
        name, state = word(record, "agent"), word(record, "state")
        what = f"{word(record, 'package')} {word(record, 'version')}"
        session.print_line(f"{name} is {what}: {state}")
    elif not is_wanted:
        session.stdout.flush()
        session.note(f"corral: {error.message}")
    if is_wanted or error is None:
        return 0
    return error.exit_status


def _error(record: Mapping[str, object]) -> CorralError | None:
    found = record.get("error")
    return errors.from_wire(found) if found is not None else None


@command("deployments")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_named)
@option("-n N", "At most N.", "limit", type=click.IntRange(1, 1000), default=50)
def deployments(session: Session, name: str | None, limit: int) -> None:
    """Show deployments, the newest first.

    NAME may be the number of one, which is shown in full.
    """
    if name is not None and name.isdecimal():
        record = as_record(session.call("deployment.show", {"deployment": int(name)}))
        if session.json:
            session.print_json(record)
        else:
            _print_full(session, record)
        return
    found = session.call("deployment.list", {"name": name, "limit": limit})
    if not session.printed_json(found):
        session.print_records(inners(found, "deployments"), DEPLOYMENTS)


def _state(record: Record) -> str:
    share, state = number(record, "canary_percent"), word(record, "state")
    return f"{state} {share:g}%" if state == "canary" and share is not None else state


DEPLOYMENTS = Table(
    "DEPLOYMENT NAME=agent PACKAGE VERSION STATE REVISION AT=created_at BY",
    drop="BY AT REVISION",
    right="DEPLOYMENT REVISION",
    state=_state,
)


def _print_full(session: Session, record: Record) -> None:
    keys = ("deployment", "agent", "package", "version", "state", "revision", "digest", "why")
    for key in (*keys, "folder", "environment"):
        if word(record, key):
            session.print_line(f"{key:12} {word(record, key)}")
    for key in ("created_at", "finished_at"):
        if word(record, key):
            session.print(f"{key:12} {session.at(word(record, key), is_brief=False)}")
    for check in inners(record, "checks"):
        words = f"{word(check, 'name'):12} {word(check, 'state')}  {word(check, 'message')}"
        session.print_line(f"check {words.rstrip()}")
    error = _error(record)
    if error is not None:
        session.print_line(f"{'error':12} {error.message}")
        for line in str(error.data.get("output") or "").splitlines():
            session.print_line(f"  {line}")
