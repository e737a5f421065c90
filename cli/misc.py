"""`corral version` and `corral completion`: about the command itself, without a daemon."""

import click
from click.shell_completion import get_completion_class

from .. import __version__
from .context import Session, Verb
from .render import inner, word

SHELLS = ("bash", "zsh", "fish")


@click.command("version", cls=Verb)
@click.pass_obj
def version(session: Session) -> None:
    """Show the version of this command. `status` shows that of the daemon."""
    if session.json:
        session.print_json({"version": __version__})
        return
    session.print(f"corral {__version__}")


@click.command("completion", cls=Verb)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script for completion in a shell. It completes commands, options and names.

    For bash, in ~/.bashrc: eval "$(corral completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows the shells of SHELLS"
    root = context.find_root()
    script = found(root.command, {}, "corral", "_CORRAL_COMPLETE").source()
    root.obj.print(script.rstrip())


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
