"""Starts the gateway when the first worker needs it, feeds it, and starts it again when it has died.

One process serves all workers, as a unit of the launcher: it dies with the daemon, and the daemon's loop copies no data.
The daemon keeps each listening socket, so that a new gateway goes on where the old one has ended; calls are lost then,
workers are not. The keys of providers reach it over a socket pair: they are in no command line, environment or file.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ...worker.contract.errors import CorralError
from ..models.endpoint import Endpoint
from ..process.launch import Host
from ..process.launcher_client import Launcher
from ..process.launcher_link import Channel
from ..process.parent import Launch

AGAIN_S = (0.1, 5.0)
"""Seconds of the first and of the longest pause before a dead gateway is started again."""
REFRESH_S = 10.0
"""Seconds after which keys are read again when a call comes: a secret may have changed."""
DESCRIPTORS = 16384
BACKLOG = 512
ENVIRONMENT = (
    *("PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy"),
)
OUTPUT_BYTES = 4096

log = logging.getLogger(__name__)


class Desk(Protocol):
    """Decides about calls, and counts what they have used."""

    def decide(self, asked: Mapping[str, Any]) -> Mapping[str, object]:  # Any: JSON
        """Returns the answer for a call: `go` or `refuse`."""
        ...

    def used(self, report: Mapping[str, Any]) -> bool:  # Any: JSON
        """Takes what a call has used; returns whether calls are to begin in a new journal."""
        ...

    def journal(self) -> tuple[str, int]:
        """Returns a new journal: its name, and its file, which is the receiver's.

        Raises:
            ResourceLimitExceeded: it cannot be made.
        """
        ...

    def closed(self, journal: str) -> None:
        """Notes that all calls of a journal have ended."""
        ...

    def lost(self) -> None:
        """Notes that the calls under way are lost."""
        ...


class ModelGateway:
    """Represents the gateway; for use in one event loop, but for `port`.

    Args:
        launcher: starts the process.
        host: facts of the machine.
        generation: the number of this daemon.
        desk: decides and counts.
        endpoints: returns the models with their keys; it may wait for a disk.
    """

    def __init__(
        self,
        launcher: Launcher,
        host: Host,
        generation: int,
        desk: Desk,
        endpoints: Callable[[], Awaitable[Sequence[Endpoint]]],
    ) -> None:
        self._launcher = launcher
        self._host = host
        self._generation = generation
        self._desk = desk
        self._endpoints = endpoints
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, int] = {}
        self._lock = threading.Lock()
        self._port = 0
        self._channel: Channel | None = None
        self._runs = 0
        self._running: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0
        self._gone = asyncio.Event()
        self._is_closed = False
        self.pid: int | None = None
        """The process, None while there is none."""
        self.restarts = 0
        """Number of times that a dead one was replaced."""

    def port(self) -> int:
        """Returns the port of the gateway on the loopback of the machine, and starts it; any thread may call it."""
        with self._lock:
            if not self._port:
                sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", 0))
                sock.listen(BACKLOG)
                self._port = sock.getsockname()[1]
                self._loop.call_soon_threadsafe(self.open, "", sock.detach())
        return self._port

    def open(self, unit: str, listener_fd: int) -> None:
        """Serves at a socket in the network of a worker, "" for the machine's; it belongs to this object from now on."""
        if self._is_closed:
            os.close(listener_fd)
            return
        self._listeners[unit] = listener_fd
        if self._channel is not None:
            self._send_listener(unit)
        elif self._running is None:
            self._running = self._loop.create_task(self._run())

    def close(self, unit: str) -> None:
        """Ends the calls of a worker that is gone."""
        found = self._listeners.pop(unit, None)
        if found is not None:
            os.close(found)
        if self._channel is not None:
            self._channel.send({"op": "close", "unit": unit})

    def refresh(self) -> None:
        """Reads the models and their keys again."""
        self._refreshed_at = self._loop.time()
        if self._channel is not None and self._refreshing is None:
            self._refreshing = self._loop.create_task(self._feed())
            self._refreshing.add_done_callback(self._refreshed)

    def settle(self) -> None:
        """Takes what the gateway has told until now."""
        if self._channel is not None:
            self._channel.read()

    async def end(self) -> None:
        """Ends the gateway."""
        self._is_closed = True
        for task in (self._running, self._refreshing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for listener_fd in self._listeners.values():
            os.close(listener_fd)
        self._listeners.clear()

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and task.exception() is not None:
            log.error("cannot read the models: %s", task.exception())

    async def _feed(self) -> None:
        endpoints = await self._endpoints()
        if self._channel is not None:
            self._channel.send({"op": "models", "models": msgspec.to_builtins(endpoints)})

    def _send_journal(self) -> None:
        assert self._channel is not None, "the caller has looked"
        try:
            name, fd = self._desk.journal()
        except CorralError as error:  # calls are counted all the same, as long as no process dies
            log.error("%s", error.message)
            return
        self._channel.send({"op": "journal", "name": name}, [fd])

    def _send_listener(self, unit: str) -> None:
        assert self._channel is not None, "the caller has looked"
        self._channel.send({"op": "listen", "unit": unit}, [os.dup(self._listeners[unit])])

    async def _run(self) -> None:
        """Runs one gateway after the other."""
        pause_s = AGAIN_S[0]
        while True:
            try:
                began = self._loop.time()
                await self._run_once()
                log.error("the gateway of models has died; a new one is started")
                if self._loop.time() - began > AGAIN_S[1]:
                    pause_s = AGAIN_S[0]
            except CorralError as error:
                log.error("cannot start the gateway of models: %s", error.message)
            self.restarts += 1
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_S[1])

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._runs += 1
        unit = f"corral.models#{self._generation}.{self._runs}"
        outputs: Sequence[int] = ()
        self._gone.clear()
        try:
            child = await self._launcher.spawn(self._launch(unit), stdin_fd=theirs.detach())
            assert child.stdout_fd is not None, "it has one"
            outputs = (child.stdout_fd, child.stderr_fd)
            for fd in outputs:
                self._loop.add_reader(fd, self._read, fd)
            self.pid = child.pid
            self._channel = Channel(ours, self._on_message, on_end=self._gone.set)
            self._refreshed_at = self._loop.time()
            self._send_journal()
            await self._feed()  # a call is known by then
            for each in self._listeners:
                self._send_listener(each)
            await self._gone.wait()
        finally:
            if self._channel is not None:
                self._channel.read()
            self._channel, self.pid = None, None
            self._desk.lost()
            for fd in outputs:
                self._loop.remove_reader(fd)
                os.close(fd)
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(ours.fileno())
                self._loop.remove_writer(ours.fileno())
            ours.close()
            self._launcher.kill(unit)

    def _launch(self, unit: str) -> Launch:
        environ = self._host.environ
        env = {name: environ[name] for name in ENVIRONMENT if name in environ}
        env["PYTHONPATH"] = str(self._host.sdk_path)
        return Launch(
            unit=unit,
            argv=(sys.executable, "-P", "-m", "corral.supervisor.model_gateway.program"),
            env=env,
            cwd="/",
            user=self._host.default_user,
            limits={"CORE": 0, "NOFILE": DESCRIPTORS},
        )

    def _read(self, fd: int) -> None:
        try:
            text = os.read(fd, OUTPUT_BYTES)
        except (BlockingIOError, OSError):
            return
        if not text:
            self._loop.remove_reader(fd)
            return
        log.warning("the gateway of models: %s", text.decode("utf-8", "replace").strip())

    def _on_message(self, message: Any) -> None:  # Any: JSON
        if message.get("op") == "used":
            if self._desk.used(message) and self._channel is not None:
                self._send_journal()
        elif message.get("op") == "closed":
            self._desk.closed(message["journal"])
        elif message.get("op") == "ask" and self._channel is not None:
            if self._loop.time() > self._refreshed_at + REFRESH_S:
                self.refresh()
            answer = self._desk.decide(message)
            self._channel.send({**answer, "call": message["call"]})
