"""Implements `corral version`, `corral completion` and `corral schema`, which need no daemon."""

import click
from click.shell_completion import get_completion_class

from corral import __version__
from corral.build import commit, with_commit
from corral.worker.contract.errors import InvalidParams

from ..context import Command, Session, admit_msgspec, command

SHELLS = ("bash", "zsh", "fish")
DOCUMENTS = ("config", "agent", "server", "template", "team", "workflow", "task", "event")
OPENAPI = "openapi"


@command("version")
def version(session: Session) -> None:
    """Show the version of this command and its commit. `corral status` shows that of the daemon."""
    session.answer({"version": __version__, "commit": commit()}, f"corral {with_commit(__version__)}")


def _complete_commands(context: click.Context, _: click.Parameter, start: str) -> list[str]:
    root = context.find_root()
    command: click.Command | None = root.command
    for word in context.params.get("words") or ():
        command = command.get_command(root, word) if isinstance(command, click.Group) else None
    names = command.list_commands(root) if isinstance(command, click.Group) else []
    return [name for name in names if name.startswith(start)]


@click.command("help", cls=Command, add_help_option=True)
@click.argument("words", nargs=-1, metavar="[COMMAND]...", shell_complete=_complete_commands)
@click.pass_context
def help(  # noqa: A001 - the name of the command
    context: click.Context, words: tuple[str, ...]
) -> None:
    """Show the help of a command."""
    root = context.find_root()
    inner, command = root, root.command
    for word in words:
        if not isinstance(command, click.Group):
            text = f'cannot show "{" ".join(words)}": {inner.command_path} has no commands of its own'
            raise InvalidParams(text, command=word)
        name, found, _ = command.resolve_command(inner, [word])
        assert name is not None, "resolve_command raises where there is none"
        assert found is not None, "resolve_command raises where there is none"
        inner, command = click.Context(found, parent=inner, info_name=name), found
    root.obj.print(inner.get_help())


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
    root.obj.print(found(root.command, {}, "corral", "_CORRAL_COMPLETE").source().rstrip())


@command("schema")
@click.argument("document", default="config", type=click.Choice((*DOCUMENTS, OPENAPI)))
def schema(session: Session, document: str) -> None:
    """Print the JSON Schema of the configuration.

    DOCUMENT is the whole file, a table in it, a task or an event. With it an editor checks and
    completes corral.toml: corral schema > corral.schema.json, and #:schema ./corral.schema.json
    as the first line of the file. openapi is the HTTP interface, as a daemon has it at /openapi.json.
    """
    admit_msgspec()
    if document == OPENAPI:
        from corral.supervisor.faces.http_api.openapi import openapi  # noqa: PLC0415 - start-up time: this document alone
        from corral.worker.methods.table import METHODS  # noqa: PLC0415 - start-up time: this document alone

        session.print_json(openapi(METHODS))
        return
    from corral.supervisor.api.schema.documents import schema_of  # noqa: PLC0415 - start-up time: this command alone

    session.print_json(schema_of(document))  # type: ignore[arg-type]  # click has checked the word
