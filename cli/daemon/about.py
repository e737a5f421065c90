"""Implements `corral version` and `corral completion`, which need no daemon."""

import click
from click.shell_completion import get_completion_class

from ... import __version__
from ..context import Command, Session

SHELLS = ("bash", "zsh", "fish")


@click.command("version", cls=Command)
@click.pass_obj
def version(session: Session) -> None:
    """Show the version of this command. `corral status` shows that of the daemon."""
    if session.json:
        session.print_json({"version": __version__})
        return
    session.print(f"corral {__version__}")


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for completion in a shell.

    It completes commands, options and names.

    For bash, in ~/.bashrc: eval "$(corral completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows the shells of SHELLS"
    root = context.find_root()
    script = found(root.command, {}, "corral", "_CORRAL_COMPLETE").source()
    root.obj.print(script.rstrip())
