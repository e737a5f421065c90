"""The `corral` command: holds the table of commands, and turns errors into messages and exit codes.

A command's module is imported when the command is used; nothing here may import asyncio, sqlite3, the
daemon or a library that the command does not use, because that delays every start. Exit codes are those
of worker.errors; beside them 130 and 141, the deaths by Ctrl-C and by a closed pipe of any other tool.
"""

import errno
import os
import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # start-up time: typing takes milliseconds
if TYPE_CHECKING:
    from typing import Any, NoReturn

    import click

    from corral.worker.contract.errors import CorralError

    from .context import Session

_MODULES = (
    ("agents.agent", "status show"),
    ("agents.add", "add"),
    ("agents.agent", "rm start stop restart reset pause resume hibernate wake scale"),
    ("agents.revision", "set history diff rollback"),
    ("agents.agent", "expose"),
    ("agents.add", "templates"),
    ("agents.agent", "signal"),
    ("agents.exec", "exec attach"),
    ("agents.checkpoint", "checkpoint"),
    ("agents.memory", "memory"),
    ("tasks.task", "run"),
    ("tasks.trial", "try"),
    ("tasks.bench", "bench"),
    ("tasks.task", "tasks task"),
    ("tasks.approval", "approvals"),
    ("tasks.inbox", "inbox"),
    ("tasks.team", "team workflow"),
    ("tasks.schedule", "schedules schedule"),
    ("packages.package", "package deploy deployments"),
    ("observe.log", "logs"),
    ("observe.event", "events"),
    ("observe.figures", "quota cost models stores stats"),
    ("observe.top", "top"),
    ("observe.figures", "metrics"),
    ("observe.audit", "audit"),
    ("tools.mcp", "mcp"),
    ("convert.import_file", "import"),
    ("daemon.init", "init"),
    ("daemon.edit", "edit"),
    ("daemon.control", "reload log-level"),
    ("daemon.backup", "export backup restore"),
    ("daemon.control", "emergency-stop daemon call"),
    ("daemon.access", "secret tenant token whoami"),
    ("daemon.cluster", "cluster"),
    ("daemon.control", "nodes node"),
    ("daemon.doctor", "doctor"),
    ("daemon.service", "install-service uninstall-service"),
    ("daemon.manual", "man"),
    ("daemon.about", "completion help schema version"),
)

COMMANDS = {command: module for module, commands in _MODULES for command in commands.split()}
"""Command -> module below this package, whose attribute of the same name is the click command.

The folder of the module is the heading under which `corral --help` lists the command.
"""

OUTPUT_LOST = frozenset({errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF})
"""Errors of a write to a full or broken stdout."""

COMPLETE_VARIABLE = "_CORRAL_COMPLETE"


class _Later(ModuleType):
    """Stands for a module, which is imported at the first access to an attribute."""

    def cleandoc(self, text: str) -> str:
        """Avoids the import of inspect for texts of one line, such as the help of options."""
        return text if "\n" not in text else str(self.__getattr__("cleandoc")(text))

    def __getattr__(self, name: str) -> "Any":  # Any: whatever the module has
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def main() -> "NoReturn":
    """Runs the command line of this process and exits."""
    _keep_out()
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  # `corral … >&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the end
    try:
        status = _serve(sys.argv[1:]) if "serve" in sys.argv else None
        if status is None and "status" in sys.argv and _is_answered(sys.argv[1:]):
            status = 0
        if status is None:
            status = _run(sys.argv[1:])
    except KeyboardInterrupt:
        _die_by("SIGINT")
    except BrokenPipeError:
        _die_by("SIGPIPE")
    except OSError as error:
        if error.errno not in OUTPUT_LOST:
            raise
        print(f"corral: cannot write the output: {os.strerror(error.errno).lower()}", file=sys.stderr)
        status = 1
    # Nothing is left to clean up, and taking the interpreter apart costs milliseconds.
    os._exit(status)


def _keep_out() -> None:
    """Keeps modules out of this process that click and the codec import but a command line does not need.

    Measured: inspect is 4 of the 15 ms that importing click takes; msgspec takes 7 to 18 ms, depending on
    the interpreter, and json is fast enough for one answer.
    """
    sys.modules.setdefault("inspect", _Later("inspect"))
    sys.modules.setdefault("msgspec", None)  # type: ignore[arg-type]  # None is how an import is refused


def _serve(arguments: list[str]) -> int | None:
    """Runs `corral mcp serve` without click and returns its exit status; returns None for other command lines."""
    from corral.worker.contract.errors import CorralError  # noqa: PLC0415 - after _keep_out

    from .tools.serve import handed_over  # noqa: PLC0415 - likewise

    serve = None if COMPLETE_VARIABLE in os.environ else handed_over(arguments)
    try:
        return None if serve is None else serve()
    except CorralError as error:
        print(f"corral: {' '.join(error.message.split())}", file=sys.stderr, flush=True)
        return error.exit_status


def _is_answered(arguments: list[str]) -> bool:
    """Answers a plain `corral status` without click; returns False for other command lines."""
    if COMPLETE_VARIABLE in os.environ:
        return False
    from .status_fast import answered  # noqa: PLC0415 - start-up time: only for this command

    is_done = answered(arguments, os.environ)
    sys.stdout.flush()
    return is_done


def _run(arguments: list[str]) -> int:
    import click  # noqa: PLC0415 - after _keep_out

    from corral.worker.contract.errors import CorralError  # noqa: PLC0415 - likewise

    from .context import Session  # noqa: PLC0415 - likewise

    session = Session(os.environ)
    # --json applies also to the error about a command line that cannot be parsed.
    before_dashes = arguments[: arguments.index("--")] if "--" in arguments else arguments
    wants_json = "--json" in before_dashes
    try:
        status = _invoke(list(arguments), session)
        sys.stdout.flush()
    except CorralError as error:
        return _report(session, error, as_json=session.json or wants_json)
    except click.ClickException as error:
        from .usage_error import usage_error  # noqa: PLC0415 - start-up time: only when it ends badly

        return _report(session, usage_error(error, arguments), as_json=wants_json)
    except (click.Abort, EOFError) as error:
        raise KeyboardInterrupt from error
    return status


def _invoke(arguments: list[str], session: "Session") -> int:
    group = command_line()
    if COMPLETE_VARIABLE in os.environ:
        session.set_option("connect_timeout", 0.0)  # TAB must not wait for a daemon
        from click.shell_completion import shell_complete  # noqa: PLC0415 - only on TAB

        return shell_complete(group, {"obj": session}, "corral", COMPLETE_VARIABLE, os.environ[COMPLETE_VARIABLE])
    import click  # noqa: PLC0415 - after _keep_out

    try:
        with group.make_context("corral", arguments, obj=session) as context:
            result = group.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return result if isinstance(result, int) else 0


def command_line() -> "click.Group":
    """Returns the whole command line; its commands are imported when they are looked up."""
    import click  # noqa: PLC0415 - after _keep_out

    from corral import __version__  # noqa: PLC0415 - likewise

    from .context import CommandGroup  # noqa: PLC0415 - likewise

    def show_version(context: click.Context, _: click.Parameter, value: object) -> None:
        if value:
            from corral.build import with_commit  # noqa: PLC0415 - start-up time: only when it is asked for

            print(f"corral {with_commit(__version__)}")
            context.exit()

    return CommandGroup(
        "corral",
        table=COMMANDS,
        help="Run AI agents and MCP tool servers as supervised processes with limits and logs.",
        epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 timeout, "
        "6 no daemon, 7 limit, 8 cancelled.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                help="Show the version.",
                callback=show_version,
            )
        ],
    )


def _report(session: "Session", error: "CorralError", *, as_json: bool) -> int:
    """Prints an error as JSON, or on one line for each mistake, and returns its exit code."""
    from . import render  # noqa: PLC0415 - after _keep_out
    from .usage_error import with_option  # noqa: PLC0415 - start-up time: only when it ends badly

    sys.stdout.flush()
    if as_json:
        session.print_json({"error": error.to_record()})
    else:
        hint = _next_step(error)
        for message in [with_option(error)] if len(error.messages) == 1 else error.messages:
            print(f"corral: {render.one_line(message + hint)}", file=sys.stderr)
    sys.stdout.flush()
    return error.exit_status


def _next_step(error: "CorralError") -> str:
    """Returns the hint for a refused name: the candidates or the nearest known name; empty if there is none."""
    from difflib import get_close_matches  # noqa: PLC0415 - start-up time: only when it ends badly

    from . import render  # noqa: PLC0415 - likewise

    if candidates := render.items(error.data, "candidates"):
        return "; name one: " + ", ".join(f'"{each}"' for each in candidates[:3])
    if error.data.get("name") == "all":
        return "; did you mean --all?"
    known = [str(each) for each in render.items(error.data, "known")]
    near = [str(each) for each in render.items(error.data, "near")]
    if not near and known:
        near = get_close_matches(render.word(error.data, "name"), known, 1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return '; "corral mcp tools" lists them' if "near" in error.data and "tool" in error.data else ""


def _die_by(name: str) -> "NoReturn":
    """Ends this process by the signal: a shell that runs the command in a loop has to see it."""
    import signal  # noqa: PLC0415 - start-up time: only when it ends badly

    number = signal.Signals[name]
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
