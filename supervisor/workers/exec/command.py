"""Represents one running command of an operator: what it asks for, its pipes or its terminal, its input, and its end.

Guarantees that it reads no more output than its reader takes, and that nothing of it is left when `run` returns. It
knows neither who asked for it nor what it runs beside.
"""

import asyncio
import base64
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from corral.worker.contract.errors import Conflict

from ..process.launcher_client import Launcher
from ..process.parent import Exit


class ExecRequest(NamedTuple):
    """Describes a command: its program, what differs from the worker's environment and folder, and its streams.

    `size` is that of a terminal, rows and columns; None for pipes. Without `has_input` its stdin is /dev/null.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    folder: str | None
    size: tuple[int, int] | None
    has_input: bool


class Reader(Protocol):
    """Receives notifications."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while it reads too slowly."""
        ...


READ_BYTES = 32 * 1024
"""Bytes of output in one notification, before base64."""

DRAIN_S = 0.5
"""Seconds for which the output of an ended command is still read: processes that it left behind may hold it."""

GONE_S = 10.0
"""Seconds to wait for the end of a killed command and its tree."""

OUTPUT = "exec.output"
"""The notification with a piece of output."""

END_OF_INPUT = b"\x04"
"""One byte, Ctrl-D: a terminal takes it for the end of its input."""


class Ends:
    """Holds both ends of a command's stdin, stdout and stderr: pipes, or one terminal."""

    def __init__(self, size: tuple[int, int] | None, owner: tuple[int, int] | None, *, has_input: bool) -> None:
        self.is_terminal = size is not None
        self.theirs: list[int] = []
        self.outputs: dict[str, int] = {}
        self.input = -1
        try:
            if size is not None:
                self._open_terminal(size, owner)
            else:
                self._open_pipes(has_input=has_input)
        except BaseException:
            self.close()
            raise

    def _open_terminal(self, size: tuple[int, int], owner: tuple[int, int] | None) -> None:
        master, slave = os.openpty()
        self.theirs = [slave]
        self.input = self.outputs["stdout"] = master
        os.set_blocking(master, False)
        self.resize(*size)
        if owner is not None:
            os.fchown(slave, *owner)  # so that it may be opened by its name, as ssh(1) does
        self.theirs = [slave, _copy(slave), _copy(slave)]

    def _open_pipes(self, *, has_input: bool) -> None:
        if has_input:
            reading, self.input = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.input, False)
        else:
            reading = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.theirs.append(reading)
        for name in ("stdout", "stderr"):
            self.outputs[name], writing = os.pipe2(os.O_CLOEXEC)
            self.theirs.append(writing)
            os.set_blocking(self.outputs[name], False)

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of the terminal; its foreground processes get SIGWINCH."""
        fcntl.ioctl(self.input, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def given_away(self) -> list[int]:
        """Returns the ends of the command, which another closes from now on."""
        given, self.theirs = self.theirs, []
        return given

    def close_input(self) -> None:
        """Closes a pipe to its stdin."""
        if self.input >= 0 and not self.is_terminal:
            os.close(self.input)
            self.input = -1

    def close(self) -> None:
        """Closes all that is open."""
        fds = {*self.theirs, *self.outputs.values(), self.input} - {-1}
        self.theirs, self.outputs, self.input = [], {}, -1
        for fd in fds:
            os.close(fd)


class Command:
    """Represents one command that runs."""

    def __init__(self, unit: str, worker: str, agent: str, ends: Ends, launcher: Launcher) -> None:
        self.unit = unit
        self.worker = worker
        self.agent = agent
        self.pid: int | None = None
        self.reason = ""
        """Why it was ended from outside; empty where it was not."""
        loop = asyncio.get_running_loop()
        self.exit: asyncio.Future[Exit] = loop.create_future()
        self.emptied = asyncio.Event()
        self._loop = loop
        self._ends = ends
        self._launcher = launcher
        self._writing = asyncio.Lock()
        self._wait: asyncio.Future[None] | None = None
        self._reads: set[asyncio.Future[None]] = set()
        self._is_draining = False
        self._proc_fd = -1

    def hold_proc(self) -> None:
        """Holds /proc/PID open: Landlock's rules for it are lost when the kernel drops that folder."""
        with contextlib.suppress(OSError):
            self._proc_fd = os.open(f"/proc/{self.pid}", os.O_PATH | os.O_CLOEXEC)

    # -- input

    async def write(self, data: bytes, *, end: bool) -> None:
        """Writes to its stdin, and returns once it is taken; with `end` the input ends there."""
        async with self._writing:
            rest = memoryview(data + (END_OF_INPUT if end and self._ends.is_terminal else b""))
            while rest:
                if self._ends.input < 0:
                    raise Conflict(f'cannot write to "{self.unit}": its input is closed', reason="input")
                try:
                    rest = rest[os.write(self._ends.input, rest) :]
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    text = f'cannot write to "{self.unit}": it no longer reads its input'
                    raise Conflict(text, reason="input") from error
            if end:
                self._ends.close_input()

    async def _writable(self) -> None:
        fd = self._ends.input
        self._wait = self._loop.create_future()
        self._loop.add_writer(fd, _settle, self._wait)
        try:
            await self._wait
        finally:
            self._wait = None
            if self._ends.input == fd:
                self._loop.remove_writer(fd)

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of its terminal; does nothing where it has none."""
        if self._ends.is_terminal and self._ends.input >= 0:
            self._ends.resize(rows, columns)

    def signal(self, signum: int) -> None:
        """Signals the command; it is killed with all of its processes by SIGKILL."""
        if signum == signal.SIGKILL:
            self._launcher.kill(self.unit)
        else:
            self._launcher.signal(self.unit, signum)

    def end(self, reason: str) -> None:
        """Kills it with all of its processes, for a reason that its end names."""
        self.reason = self.reason or reason
        self._launcher.kill(self.unit)

    # -- output

    async def run(self, reader: Reader) -> None:
        """Sends its output to the reader until it has ended; a cancelled one is killed."""
        pumps = [self._loop.create_task(self._pump(name, fd, reader)) for name, fd in self._ends.outputs.items()]
        gone = self._loop.create_task(_first_failure(pumps))
        try:
            await asyncio.wait((self.exit, gone), return_when=asyncio.FIRST_COMPLETED)
            self._launcher.kill(self.unit)  # with all that it left behind
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GONE_S):
                    await self.emptied.wait()
            self._drain()
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._launcher.kill(self.unit)
            for task in (gone, *pumps):
                task.cancel()
            await asyncio.gather(gone, *pumps, return_exceptions=True)
            self._close()

    def _drain(self) -> None:
        """Lets output end that nothing is written to for DRAIN_S: a process of another unit may hold it."""
        self._is_draining = True
        for ready in self._reads:
            _settle(ready)

    async def _pump(self, name: str, fd: int, reader: Reader) -> None:
        while True:
            try:
                chunk = os.read(fd, READ_BYTES)
            except BlockingIOError:
                try:
                    await self._readable(fd)
                except TimeoutError:
                    return
                continue
            except OSError:  # EIO: no process has the terminal open any more
                chunk = b""
            if not chunk:
                return
            data = base64.b64encode(chunk).decode()
            reader.notify(OUTPUT, {"exec": self.unit, "stream": name, "data": data})
            await reader.drain()

    async def _readable(self, fd: int) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(fd, _settle, ready)
        self._reads.add(ready)
        try:
            async with asyncio.timeout(DRAIN_S if self._is_draining else None):
                await ready
        finally:
            self._reads.discard(ready)
            self._loop.remove_reader(fd)

    @property
    def outcome(self) -> str:
        """Returns how it ended, in a few words."""
        code, name = self._code_and_signal()
        ended = f"killed by {name}" if name is not None else f"exited with status {code}"
        if name is None and code is None:
            ended = "not ended"
        return f"{ended}: {self.reason}" if self.reason else ended

    @property
    def record(self) -> dict[str, object]:
        """Returns its end, as the last notification tells it."""
        code, name = self._code_and_signal()
        found: dict[str, object] = {"exec": self.unit, "worker": self.worker}
        return {**found, "code": code, "signal": name, "reason": self.reason}

    def _code_and_signal(self) -> tuple[int | None, str | None]:
        if not self.exit.done():
            return None, None  # the kernel cannot end it
        status = self.exit.result().status
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status), None
        number = os.WTERMSIG(status)
        return None, {int(each): each.name for each in signal.Signals}.get(number, f"SIG{number}")

    def _close(self) -> None:
        if self._wait is not None:
            self._loop.remove_writer(self._ends.input)
            _settle(self._wait)
        self._ends.close()
        if self._proc_fd >= 0:
            os.close(self._proc_fd)
            self._proc_fd = -1


async def _first_failure(pumps: list[asyncio.Task[None]]) -> None:
    """Returns when the reader is gone; never where all output was read."""
    done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
    if all(task.cancelled() or task.exception() is None for task in done):
        await asyncio.get_running_loop().create_future()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _copy(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
