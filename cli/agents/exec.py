"""Implements `corral exec`: runs a command in the isolation of a worker, with this terminal, and exits as it does."""

import base64
import os
import select
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

import click

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, NotFound, SpawnFailed
from corral.worker.contract.jsonrpc import Id, Response

from ..context import ANSWER_S, Command, Session, command, complete_agents, given, option
from ..render import as_record, number, word
from .raw_terminal import RawTerminal, Signals, size

READ_BYTES = 16 * 1024
"""Bytes of input in one request: the next is read when the command has taken them."""

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
"""Signals that go to the command; on a terminal Ctrl-C is a character, which its terminal turns into one."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a shell for a command that cannot be started."""

ENDED = (Conflict, NotFound)
"""Errors of input for a command that reads no more of it: its end is on the way."""


class ExecCommand(Command):
    """A command whose words after NAME are another's, options included."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs["context_settings"] = {"allow_interspersed_args": False}
        super().__init__(*args, **kwargs)


@command(
    "exec",
    cls=ExecCommand,
    epilog="""\b
Examples:
  corral exec greeter -- ls -l
  corral exec -it greeter-0 sh
  tar c data | corral exec -i greeter tar x
""",
)
@option("-i, --interactive", "Send stdin to the command.")
@option("-t, --tty", "Give the command a terminal, as large as this one.")
@option("-e, --env K=V", "Set a variable; repeatable.", "variables", multiple=True)
@option("-w, --workdir DIR", "Run in this folder; default the worker's.")
@click.argument("name", metavar="NAME", shell_complete=complete_agents)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD...")
def exec(  # noqa: A001 - the name of the command
    session: Session,
    interactive: bool,
    tty: bool,
    variables: tuple[str, ...],
    workdir: str | None,
    name: str,
    command: tuple[str, ...],
) -> int:
    """Run a command in the isolation of a worker.

    The command has the user, limits, environment and folder of the worker.

    NAME is a worker's id, or an agent's name for its first worker that runs. The command ends with this one; its exit
    code is passed on, 128+N after signal N, 126 or 127 where it cannot be started.
    """
    argv = command[1:] if command[:1] == ("--",) else command
    if not argv:
        raise click.UsageError("give the command to run: corral exec NAME -- CMD")
    if tty and not os.isatty(0):
        raise click.UsageError("-t needs a terminal as stdin")
    params = given(name=name, argv=list(argv), stdin=interactive or tty, working_directory=workdir)
    environment = dict(_variable(each) for each in variables)
    if tty:
        rows, columns = size()
        params |= {"tty": True, "rows": rows, "columns": columns}
        environment = {"TERM": os.environ.get("TERM", "xterm"), **environment}
    if environment:
        params["environment"] = environment
    with session.connect() as connection:
        try:
            started = connection.call("agent.exec", params, timeout_s=ANSWER_S)
        except SpawnFailed as error:
            if error.data.get("stage") != "exec":
                raise
            click.echo(f"corral: {error.message}", err=True)
            return NOT_FOUND if error.data.get("errno") == 2 else NOT_EXECUTABLE
        unit = word(as_record(started), "exec")
        with RawTerminal(is_raw=tty):
            return _Connected(connection, unit, is_terminal=tty, has_input=interactive).run()


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidParams(f"cannot run: --env {text!r} is not K=V", key="--env", value=text)
    return key, value


@dataclass(eq=False)
class _Connected:
    """Copies between this process and a command, until it ends."""

    connection: Client
    unit: str
    is_terminal: bool
    has_input: bool
    asked: Id | None = None
    """The input that is not taken yet: until then no more is read."""

    def run(self) -> int:
        signals = Signals("SIGWINCH", *FORWARDED)
        arrived = self.connection.kept()
        while True:
            for event in arrived:
                if isinstance(event, Response):
                    self._answered(event)
                elif event.params.get("exec") == self.unit:
                    if event.method == "exec.end":
                        return _status(event.params)
                    self._print(event.params)
            waiting: list[Client | Signals | TextIO] = [self.connection, signals]
            if self.has_input and self.asked is None:
                waiting.append(sys.stdin)
            ready = select.select(waiting, [], [])[0]
            for name in signals.take():
                self._pass_on(name)
            if sys.stdin in ready:
                self._read()
            arrived = self.connection.arrived() if self.connection in ready else []

    def _read(self) -> None:
        typed = os.read(sys.stdin.fileno(), READ_BYTES)
        data = {"data": base64.b64encode(typed).decode(), "end": not typed}
        self.has_input = bool(typed)
        self.asked = self.connection.ask("agent.exec_input", {"exec": self.unit, **data})

    def _answered(self, response: Response) -> None:
        if response.id == self.asked:
            self.asked = None
        if isinstance(response.error, ENDED):
            self.has_input = False
        elif isinstance(response.error, CorralError):
            raise response.error

    def _pass_on(self, name: str) -> None:
        if name != "SIGWINCH":
            self.connection.ask("agent.exec_input", {"exec": self.unit, "signal": name})
        elif self.is_terminal:
            rows, columns = size()
            self.connection.ask("agent.exec_input", {"exec": self.unit, "rows": rows, "columns": columns})

    @staticmethod
    def _print(params: Mapping[str, object]) -> None:
        stream = sys.stderr if params.get("stream") == "stderr" else sys.stdout
        rest = memoryview(base64.b64decode(word(params, "data")))
        while rest:
            rest = rest[os.write(stream.fileno(), rest) :]


def _status(params: Mapping[str, object]) -> int:
    import signal  # noqa: PLC0415 - start-up time: at its end alone

    if reason := word(params, "reason"):
        click.echo(f"corral: the command was ended: {reason}", err=True)
    name = word(params, "signal")
    if name:
        return 128 + (getattr(signal, name, None) or int(name.removeprefix("SIG")))
    code = number(params, "code")
    return 1 if code is None else int(code)
