"""Runs a helper process of the daemon, and starts it again when it has died.

A helper is a program of this package that serves many workers at a time, so that the daemon's loop copies none of their
data. It is a unit of the launcher, and dies with the daemon. Its stdin is one end of a socket pair, over which both sides
send messages (see `launcher.protocol`); its output is logged.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from corral.worker.contract.errors import CorralError

from .launch import Host
from .launcher_client import Exit, Launcher
from .launcher_link import Channel, close_all
from .parent import Launch

AGAIN_S = (0.1, 5.0)
"""Seconds of the first and of the longest pause before a dead helper is started again; one that has lived longer begins anew."""
DESCRIPTORS = 16384
OUTPUT_BYTES = 4096

log = logging.getLogger(__name__)


class Program(NamedTuple):
    """Describes the program of a helper."""

    title: str
    """The name in the log, with its article."""
    unit: str
    """The beginning of the names of its units."""
    module: str
    """The module that it runs, below `corral.supervisor`."""
    environment: Sequence[str]
    """The names of the daemon's variables that it gets."""


class HelperProcess:
    """Represents one helper; for use in one event loop."""

    def __init__(
        self,
        launcher: Launcher,
        host: Host,
        generation: int,
        program: Program,
        *,
        on_start: Callable[[], Awaitable[None]],
        on_message: Callable[[Any], None],  # Any: JSON
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._launcher = launcher
        self._host = host
        self._generation = generation
        self._program = program
        self._on_start = on_start
        self._on_message = on_message
        self._on_end = on_end
        self._channel: Channel | None = None
        self._runs = 0
        self._running: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self.pid: int | None = None
        """The process, None while there is none."""
        self.restarts = 0
        """Number of times that a dead one was replaced, or could not be started."""

    @property
    def is_up(self) -> bool:
        """Returns whether there is a process that can be told something."""
        return self._channel is not None

    def start(self) -> None:
        """Starts the process, and another after each that dies, until `end`; does nothing if that is done already."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    def send(self, message: dict[str, object], fds: Sequence[int] = ()) -> None:
        """Sends a message, or drops it while there is no process; `fds` are closed in any case."""
        if self._channel is None:
            close_all(fds)
        else:
            self._channel.send(message, fds)

    def read(self) -> None:
        """Takes the messages that have arrived until now."""
        if self._channel is not None:
            self._channel.read()

    def exited(self, report: Exit) -> None:
        """Does nothing: the end of its channel has told it."""

    def emptied(self, unit: str) -> None:
        """Does nothing, as for its exit."""

    async def end(self) -> None:
        """Ends the process."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        """Runs one process after the other."""
        loop, title = asyncio.get_running_loop(), self._program.title
        pause_s = AGAIN_S[0]
        while True:
            try:
                began = loop.time()
                await self._run_once()
                log.error("%s has died; a new one is started", title)
                if loop.time() - began > AGAIN_S[1]:
                    pause_s = AGAIN_S[0]
            except CorralError as error:
                log.error("cannot start %s: %s", title, error.message)
            self.restarts += 1
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_S[1])

    async def _run_once(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._runs += 1
        unit = f"{self._program.unit}#{self._generation}.{self._runs}"
        self._gone.clear()
        with contextlib.ExitStack() as stack:
            stack.callback(self._launcher.kill, unit)
            stack.callback(ours.close)
            child = await self._launcher.spawn(self._launch(unit), self, stdin_fd=theirs.detach())
            assert child.stdout_fd is not None, "it has one"
            for fd in (child.stdout_fd, child.stderr_fd):
                stack.callback(os.close, fd)
                loop.add_reader(fd, self._log_output, fd)
                stack.callback(loop.remove_reader, fd)
            self.pid = child.pid
            self._channel = Channel(ours, self._on_message, on_end=self._gone.set)
            stack.callback(self._hang_up, self._channel)
            await self._on_start()
            await self._gone.wait()

    def _hang_up(self, channel: Channel) -> None:
        channel.read()  # what a dead one has told before
        self._channel, self.pid = None, None
        channel.close()
        self._on_end()

    def _launch(self, unit: str) -> Launch:
        environ = self._host.environ
        env = {name: environ[name] for name in self._program.environment if name in environ}
        env["PYTHONPATH"] = str(self._host.sdk_path)
        return Launch(
            unit=unit,
            argv=(sys.executable, "-P", "-m", f"corral.supervisor.{self._program.module}"),
            env=env,
            cwd="/",
            user=self._host.default_user,
            limits={"CORE": 0, "NOFILE": DESCRIPTORS},
        )

    def _log_output(self, fd: int) -> None:
        try:
            text = os.read(fd, OUTPUT_BYTES)
        except (BlockingIOError, OSError):
            return
        if text:
            log.warning("%s: %s", self._program.title, text.decode("utf-8", "replace").strip())
        else:
            asyncio.get_running_loop().remove_reader(fd)
