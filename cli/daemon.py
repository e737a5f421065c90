"""`corral log-level`: about the daemon itself."""

import click

from .context import Session, Verb
from .render import inner, word

LEVELS = ("debug", "info", "warning", "error")


@click.command("log-level", cls=Verb)
@click.argument("level", required=False, metavar="[LEVEL]", type=click.Choice(LEVELS))
@click.pass_obj
def log_level(session: Session, level: str | None) -> None:
    """Show or set the level of the daemon's own log.

    LEVEL is debug, info, warning or error. It holds until the next reload, which puts that of the file in
    force again, or until corrald ends.
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
