"""Implements `corral exec`, which runs a command in the isolation of a worker, and `corral attach`, which prints its output.

Both exit as the command or the worker does, and leave the terminal as it was.
"""

import base64
import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TextIO

import click

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, NotFound, SpawnFailed
from corral.worker.contract.jsonrpc import Id, Notification, Response

from ..context import ANSWER_S, Command, Session, command, complete_agents, given, option
from ..render import as_record, inner, inners, number, visible, word

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


TYPED_BYTES = 1024
"""Bytes of what is typed that are looked at for the keys to leave."""

NO_PROCESS = frozenset({"Terminated", "Failed", "Recovering", "Initial"})
"""States in which a worker has no process."""

LAST_S = 0.3
"""Seconds without a line after the end of a worker: its last lines come after the news of it."""

INTERRUPT = b"\x03"
"""One byte, Ctrl-C: it leaves, too, since nothing that is typed reaches the worker."""


@command(
    "attach",
    epilog="""\b
Examples:
  corral attach greeter
  corral attach greeter-1
""",
)
@click.argument("name", metavar="NAME", shell_complete=complete_agents)
def attach(session: Session, name: str) -> int:
    """Print what a worker prints, until it ends.

    NAME is a worker's id, or an agent's name for its first worker. stdout and stderr of the worker go to stdout and
    stderr. Ctrl-P Ctrl-Q or Ctrl-C leave it running. The exit code is the worker's, 128+N after signal N. Nothing
    that is typed reaches the worker: its stdin is its protocol, or /dev/null.
    """
    with session.connect() as connection:
        worker = _worker(connection, name)
        connection.call("event.follow", {"types": ["worker.state"], "worker": worker}, timeout_s=ANSWER_S)
        connection.call("log.follow", {"names": [worker], "n": 0}, timeout_s=ANSWER_S)
        is_terminal = os.isatty(0)
        with RawTerminal(is_raw=is_terminal):
            is_over = _print_until_end(connection, is_terminal=is_terminal)
        return _last_status(connection, worker) if is_over else 0


def _workers(connection: Client) -> list[dict[str, object]]:
    status = as_record(connection.call("daemon.status", {}, timeout_s=ANSWER_S))
    return [
        {**each, "agent": word(entry, "name")}
        for kind in ("agents", "mcp_servers")
        for entry in inners(status, kind)
        for each in inners(entry, "workers")
    ]


def _worker(connection: Client, name: str) -> str:
    workers = _workers(connection)
    found = [word(each, "id") for each in workers if word(each, "id") == name]
    found += [word(each, "id") for each in workers if word(each, "agent") == name]
    if not found:
        known = sorted({word(each, "agent") for each in workers})
        raise NotFound(f'cannot find agent or worker "{name}"', name=name, known=known)
    return found[0]


def _print_until_end(connection: Client, *, is_terminal: bool) -> bool:
    """Prints until the worker ends, and returns True; False where the keys to leave were typed."""
    keys = LeavingKeys()
    end = "\r\n" if is_terminal else "\n"
    arrived = connection.kept()
    is_over = False
    while True:
        for note in arrived:
            if not isinstance(note, Notification):
                continue
            if note.method == "log":
                for record in inners(note.params, "records"):
                    stream = word(record, "stream")
                    if stream in ("stdout", "stderr"):
                        target = sys.stderr if stream == "stderr" else sys.stdout
                        text = word(record, "text")
                        target.write(visible(text, keep_colours=True) if target.isatty() else text)
                        target.write("" if record.get("partial") else end)
                        target.flush()
            states = {word(event, "to") for event in inners(note.params, "events")}
            is_over = is_over or not states.isdisjoint(NO_PROCESS)
        waiting: list[Client | TextIO] = [connection, *([sys.stdin] if is_terminal else [])]
        ready = select.select(waiting, [], [], LAST_S if is_over else None)[0]
        if sys.stdin in ready:
            typed, leaves = keys.pass_on(os.read(sys.stdin.fileno(), TYPED_BYTES))
            if leaves or INTERRUPT in typed:
                return False
        arrived = connection.arrived() if connection in ready else []
        if is_over and not ready:
            return True


def _last_status(connection: Client, worker: str) -> int:
    import signal  # noqa: PLC0415 - start-up time: at its end alone

    found = [each for each in _workers(connection) if word(each, "id") == worker]
    last = inner(found[0], "last_exit") if found else {}
    if name := word(last, "signal"):
        return 128 + int(getattr(signal, name, 0))
    code = number(last, "code")
    return 0 if code is None else int(code)


LEAVING = b"\x10\x11"
"""Ctrl-P Ctrl-Q: the keys that leave, as those of docker attach."""


class RawTerminal:
    """Holds stdin in raw mode, where it is a terminal; without `is_raw` it is left as it is."""

    def __init__(self, *, is_raw: bool) -> None:
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd) if is_raw else None

    def __enter__(self) -> "RawTerminal":
        if self._before is not None:
            tty.setraw(self._fd, termios.TCSADRAIN)  # what was typed already is kept
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


class Signals:
    """Collects signals in place of being ended by them; `fileno` is readable when there are some."""

    def __init__(self, *names: str) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._seen: list[str] = []
        for name in names:
            signal.signal(getattr(signal, name), self._note)

    def fileno(self) -> int:
        """Returns the descriptor to wait for."""
        return self._reader

    def take(self) -> list[str]:
        """Returns the names of the signals since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
        seen, self._seen = self._seen, []
        return seen

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._seen.append(signal.Signals(number).name)
        with contextlib.suppress(BlockingIOError):  # it is readable already
            os.write(self._writer, b"0")


class LeavingKeys:
    """Finds the keys that leave in what is typed; a first one alone is held back until the next."""

    def __init__(self) -> None:
        self._held = b""

    def pass_on(self, typed: bytes) -> tuple[bytes, bool]:
        """Returns what is to be sent, and whether the keys that leave were typed after it."""
        typed, self._held = self._held + typed, b""
        before, found, _ = typed.partition(LEAVING)
        if found:
            return before, True
        if typed.endswith(LEAVING[:1]):
            typed, self._held = typed[:-1], LEAVING[:1]
        return typed, False


def size() -> tuple[int, int]:
    """Returns rows and columns of the terminal of stdin."""
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    return rows or 24, columns or 80  # one that does not say its size
