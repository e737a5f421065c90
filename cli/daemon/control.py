"""Implements `corral reload`, `log-level`, `emergency-stop` and `daemon stop`, which change the daemon as a whole."""

import os
import select
from contextlib import suppress

import click

from corral.worker.contract.errors import Timeout

from .. import render
from ..context import WAIT, WAIT_S, CommandGroup, Session, command, duration, limit_s, option, waiting
from ..render import inner, items, number, word

LEVELS = ("debug", "info", "warning", "error")


@command("reload")
@option("--dry-run", "Print the changes without making them.")
@WAIT
@WAIT_S
def reload(session: Session, dry_run: bool, wait: bool, timeout_s: float | None) -> None:
    """Read the configuration again, and apply its changes."""
    params = {"dry_run": dry_run, **waiting(wait, timeout_s)}
    found = session.call("daemon.reload", params, timeout_s=limit_s(params))
    if session.printed_json(found):
        return
    print_changes(session, found)


def print_changes(session: Session, found: render.Record) -> None:
    """Prints the result of `daemon.reload`, one line for each change."""
    lines = [f"+ {name}" for name in items(found, "added")]
    lines += [f"- {name}" for name in items(found, "removed")]
    effects = {"live": "takes effect at once", "restart": "restarts"}
    rolling = items(found, "rolling")
    for name, effect in inner(found, "changed").items():
        how = "rolls" if name in rolling else effect
        keys = ", ".join(map(str, items(inner(found, "keys"), name)))
        lines.append(f"~ {name}: {effects.get(str(how), how)}" + (f": {keys}" if keys else ""))
    lines += [f"~ {name}: renewed, its sources have changed" for name in items(found, "renewed")]
    signs = {"added": "+", "removed": "-"}
    for kind in ("teams", "workflows", "schedules"):
        for name, effect in inner(found, kind).items():
            lines.append(f"{signs.get(str(effect), '~')} {name}: {kind[:-1]}, {effect}")
    lines += [f"~ {key}: takes effect at once" for key in items(found, "live")]
    lines += [
        f"~ {name}: the file has changed it, and wins over what was set" for name in items(found, "overrides_ended")
    ]
    lines += [f"! {key}: takes effect when corrald starts" for key in items(found, "pending")]
    for line in lines or ["nothing has changed"]:
        session.print_line(line)


@command("log-level")
@click.argument("level", required=False, metavar="[LEVEL]", type=click.Choice(LEVELS))
def log_level(session: Session, level: str | None) -> None:
    """Show or set the level of the daemon's own log.

    LEVEL is debug, info, warning or error. It holds until the next reload, which restores the level of the
    configuration file, or until corrald ends.
    """
    if level is None:
        level = word(inner(session.call("daemon.status", {"names": []}), "daemon"), "log_level")
    else:
        session.call("daemon.log_level", {"level": level})
    session.answer({"level": level}, level)


@command("emergency-stop")
def emergency_stop(session: Session) -> None:
    """Kill every worker and MCP server at once. Cancels every task, and refuses work until `corral start`."""
    found = session.call("daemon.emergency_stop", {}, timeout_s=None)
    killed, cancelled = word(found, "workers"), word(found, "tasks")
    words = f"killed {killed} workers, cancelled {cancelled} tasks"
    session.answer(found, f'{words}; "corral start --all" goes on')


@click.group("daemon", cls=CommandGroup)
def daemon() -> None:
    """Control the daemon itself."""


@daemon.define("stop")
@option("--timeout D", "Give up waiting (exit 5).", "timeout_s", type=duration)
@option("--no-wait", "Return when the daemon has begun to stop.")
def daemon_stop(session: Session, timeout_s: float | None, no_wait: bool) -> None:
    """Stop the daemon and all that it runs, and wait for its end.

    A daemon that a service manager has started is stopped there: systemctl stop corrald.socket corrald.
    """
    found = session.call("daemon.stop", {})
    pid = int(number(found, "pid") or 0)
    if not no_wait and not _has_ended(pid, timeout_s):
        text = f"cannot see the end of the daemon with pid {pid} within {render.duration(timeout_s)}"
        raise Timeout(f"{text}: it goes on stopping", pid=pid, limit=timeout_s)
    session.answer(found, f"{'stopping' if no_wait else 'stopped'} corrald, pid {pid}")


def _has_ended(pid: int, timeout_s: float | None) -> bool:
    """Waits for the end of a process; returns whether it has ended."""
    with suppress(ProcessLookupError):  # it has ended already
        fd = os.pidfd_open(pid)
        try:
            waiting = select.poll()
            waiting.register(fd, select.POLLIN)
            return bool(waiting.poll(None if timeout_s is None else timeout_s * 1000))
        finally:
            os.close(fd)
    return True
