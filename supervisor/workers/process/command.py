"""Runs a command through the launcher, as a unit of its own: for health checks, recoveries, alerts and installations.

The command has the user, environment, limits and isolation of a spec and a timeout, and ends with its whole tree:
processes that it leaves behind are killed. The end of its output is kept; all of it goes to the caller that asks for
it, else the rest is read and dropped. The caller
bounds how many run at a time. The module knows neither agents nor the purpose of a command.
"""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import CorralError

from .launch import Host, prepare
from .launcher_client import Child, Exit, Launch, Launcher
from .sandbox import remove_containers, remove_temporary

OUTPUT_BYTES = 4 * 1024
"""Bytes kept of a command's output: its end."""

DRAIN_S = 0.5
"""Seconds for which the pipes of a dead command are still read: processes that it left behind may hold them."""

GONE_S = 10.0
"""Seconds to wait for the end of a killed command and its tree."""

INPUT_BYTES = 4 * 1024
"""Bytes that a command may be given on its stdin: any pipe takes as many at once, see pipe(7)."""

LINE_CHARS = 300


class Outcome(Struct, frozen=True):
    """Describes how a command ended; without code and signal if it never ran, for the reason `problem`."""

    code: int | None = None
    signal: str | None = None
    output: str = ""
    problem: str = ""

    @property
    def is_success(self) -> bool:
        """Returns True if it exited with status 0, in time."""
        return self.code == 0 and not self.problem

    @property
    def words(self) -> str:
        """Returns how it ended, and the last line of its output."""
        ended = self.problem or (f"killed by {self.signal}" if self.signal else f"exited with status {self.code}")
        lines = [line for line in self.output.splitlines() if line.strip()]
        return f"{ended}: {lines[-1].strip()[:LINE_CHARS]}" if lines else ended


@dataclass
class _Running:
    agent: str
    exit: asyncio.Future[Exit]
    pid: int | None = None
    emptied: asyncio.Event = field(default_factory=asyncio.Event)


class Commands:
    """Runs commands and tracks those that are running."""

    def __init__(self, launcher: Launcher, host: Host, generation: int) -> None:
        self._launcher = launcher
        self._host = host
        self._generation = generation
        self._running: dict[str, _Running] = {}
        self._numbers = itertools.count(1)

    async def run(
        self,
        spec: Spec,
        argv: Sequence[str],
        *,
        unit: str,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Outcome:
        """Runs a command, and returns how it ended once no process of it is left; never raises for its failures."""
        assert stdin is None or len(stdin) <= INPUT_BYTES, "the caller bounds it"
        key = f"{unit}#{self._generation}.{next(self._numbers)}"
        running = _Running(spec.name, asyncio.get_running_loop().create_future())
        self._running[key] = running
        own = replace(spec, command=tuple(argv), entrypoint=None, python=None)
        own = replace(own, environment={**spec.environment, **(environment or {})})
        launch: Launch | None = None
        try:
            launch = await prepare(own, self._host, key)  # named for the end
            return await self._run(launch, running, timeout_s, stdin, on_output)
        except CorralError as error:
            return Outcome(problem=error.message)
        finally:
            del self._running[key]
            if launch is not None and launch.temporary is not None:
                await asyncio.to_thread(remove_temporary, launch.temporary)
            if launch is not None and launch.container is not None:
                await asyncio.to_thread(remove_containers, [launch.container])

    def exited(self, report: Exit) -> None:
        """Takes the exit of a command."""
        running = self._running.get(report.unit)
        if running is not None and not running.exit.done():
            running.exit.set_result(report)

    def emptied(self, unit: str) -> None:
        """Takes the news that no process of a command is left."""
        running = self._running.get(unit)
        if running is not None:
            running.emptied.set()

    def leaders(self) -> dict[int, str]:
        """Returns the pids of all running commands with the names of their agents."""
        return {each.pid: each.agent for each in self._running.values() if each.pid is not None}

    async def _run(
        self,
        launch: Launch,
        running: _Running,
        timeout_s: float,
        stdin: bytes | None,
        on_output: Callable[[bytes], None] | None,
    ) -> Outcome:
        pipes: _Pipes | None = None
        problem = ""
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    child = await self._launcher.spawn(launch, self, pipe_stdin=stdin is not None)
                    running.pid = child.pid
                    pipes = _Pipes(child, stdin, on_output)
                    await asyncio.shield(running.exit)
            except TimeoutError:
                problem = f"not done within {timeout_s:g} s"
            if pipes is None:  # a spawn that was cancelled leaves no process
                return Outcome(problem=problem)
            self._launcher.kill(launch.unit)  # with all processes that it left behind
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await pipes.ended.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GONE_S):
                    await running.emptied.wait()
            code, name = _code_and_signal(running.exit)
            return Outcome(code, name, pipes.text, problem)
        finally:
            self._launcher.kill(launch.unit)
            if pipes is not None:
                pipes.close()


def _code_and_signal(exit_: asyncio.Future[Exit]) -> tuple[int | None, str | None]:
    if not exit_.done():
        return None, None  # the kernel cannot end it
    status = exit_.result().status
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status), None
    try:
        return None, signal.Signals(os.WTERMSIG(status)).name
    except ValueError:
        return None, f"SIG{os.WTERMSIG(status)}"


class _Pipes:
    """Holds the pipes of one command: writes its input at once, keeps the end of its output."""

    def __init__(self, child: Child, stdin: bytes | None, on_output: Callable[[bytes], None] | None) -> None:
        self.ended = asyncio.Event()
        self._on_output = on_output
        self._tail = b""
        self._loop = asyncio.get_running_loop()
        self._open: set[int] = set()
        if child.stdin_fd is not None:
            with contextlib.suppress(OSError):  # it has ended already, which its status shows
                os.write(child.stdin_fd, stdin or b"")
            os.close(child.stdin_fd)
        for fd in (child.stdout_fd, child.stderr_fd):
            assert fd is not None, "both are asked for"
            self._open.add(fd)
            self._loop.add_reader(fd, self._read, fd)

    @property
    def text(self) -> str:
        """Returns the end of the output of both streams."""
        return self._tail.decode("utf-8", "replace")

    def close(self) -> None:
        """Stops reading and closes the pipes."""
        for fd in list(self._open):
            self._close(fd)

    def _read(self, fd: int) -> None:
        try:
            chunk = os.read(fd, 64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            self._tail = (self._tail + chunk)[-OUTPUT_BYTES:]
            if self._on_output is not None:
                self._on_output(chunk)
        else:
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        self._open.discard(fd)
        if not self._open:
            self.ended.set()
