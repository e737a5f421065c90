"""Implements `corral reload`, `log-level` and `emergency-stop`, which change the daemon as a whole."""

import click

from .. import render
from ..context import Command, Session
from ..render import inner, items, word

LEVELS = ("debug", "info", "warning", "error")


@click.command("reload", cls=Command)
@click.option("--dry-run", is_flag=True, help="Print the changes without making them.")
@click.pass_obj
def reload(session: Session, dry_run: bool) -> None:
    """Read the configuration again, and apply its changes."""
    found = session.call("daemon.reload", {"dry_run": dry_run})
    if session.json:
        session.print_json(found)
        return
    lines = [f"+ {name}" for name in items(found, "added")]
    lines += [f"- {name}" for name in items(found, "removed")]
    effects = {"live": "takes effect at once", "restart": "restarts"}
    for name, how in inner(found, "changed").items():
        keys = ", ".join(map(str, items(inner(found, "keys"), name)))
        lines.append(f"~ {name}: {effects.get(str(how), how)}" + (f": {keys}" if keys else ""))
    lines += [f"~ {name}: renewed, its sources have changed" for name in items(found, "renewed")]
    signs = {"added": "+", "removed": "-"}
    for kind in ("teams", "workflows"):
        for name, effect in inner(found, kind).items():
            lines.append(f"{signs.get(str(effect), '~')} {name}: {kind[:-1]}, {effect}")
    lines += [f"~ {key}: takes effect at once" for key in items(found, "live")]
    lines += [f"! {key}: takes effect when corrald starts" for key in items(found, "pending")]
    for line in lines or ["nothing has changed"]:
        session.print(render.one_line(line))


@click.command("log-level", cls=Command)
@click.argument("level", required=False, metavar="[LEVEL]", type=click.Choice(LEVELS))
@click.pass_obj
def log_level(session: Session, level: str | None) -> None:
    """Show or set the level of the daemon's own log.

    LEVEL is debug, info, warning or error. It holds until the next reload, which restores the level of the
    configuration file, or until corrald ends.
    """
    if level is None:
        status = session.call("daemon.status", {"names": []})
        level = word(inner(status, "daemon"), "log_level")
    else:
        session.call("daemon.log_level", {"level": level})
    if session.json:
        session.print_json({"level": level})
        return
    session.print(level)


@click.command("emergency-stop", cls=Command)
@click.pass_obj
def emergency_stop(session: Session) -> None:
    """Kill every worker and MCP server at once. Cancels every task, and refuses work until `corral start`."""
    found = session.call("daemon.emergency_stop", {}, timeout_s=None)
    if session.json:
        session.print_json(found)
        return
    killed, cancelled = word(found, "workers"), word(found, "tasks")
    words = f"killed {killed} workers, cancelled {cancelled} tasks"
    session.print(render.one_line(f'{words}; "corral start --all" goes on'))
