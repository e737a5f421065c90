"""Starts the proxy when the first worker needs it, hands it the socket of each, and starts it again when it has died.

One process serves all workers, as a unit of the launcher: it dies with the daemon, and the daemon's loop copies no data.
The daemon keeps each listening socket, so that a new proxy goes on where the old one has ended; connections are lost
then, workers are not.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...worker.contract.errors import CorralError
from ..isolation.levels import Sandbox
from ..process.launch import Host
from ..process.launcher_client import Launcher
from ..process.launcher_link import Channel
from ..process.parent import Launch

AGAIN_S = (0.1, 5.0)
"""Seconds of the first and of the longest pause before a dead proxy is started again."""
DESCRIPTORS = 16384
ENVIRONMENT = ("PATH", "LANG", "SSL_CERT_FILE")
OUTPUT_BYTES = 4096

log = logging.getLogger(__name__)

Note = Callable[[Mapping[str, object]], None]
"""Takes one record of refusals: agent, host, port, reason, count."""


class EgressProxy:
    """Represents the proxy; for use in one event loop."""

    def __init__(self, launcher: Launcher, host: Host, generation: int, note: Note) -> None:
        self._launcher = launcher
        self._host = host
        self._generation = generation
        self._note = note
        self._gates: dict[str, tuple[Sandbox, int]] = {}
        self._channel: Channel | None = None
        self._runs = 0
        self._running: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    def open(self, unit: str, sandbox: Sandbox, listener_fd: int) -> None:
        """Serves a worker at a socket in its network, which belongs to this object from now on."""
        self._gates[unit] = (sandbox, listener_fd)
        if self._channel is not None:
            self._send(unit)
        elif self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    def close(self, unit: str) -> None:
        """Ends the connections of a worker that is gone; units without a gate are ignored."""
        found = self._gates.pop(unit, None)
        if found is None:
            return
        os.close(found[1])
        if self._channel is not None:
            self._channel.send({"op": "close", "unit": unit})

    async def end(self) -> None:
        """Ends the proxy."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for _sandbox, listener_fd in self._gates.values():
            os.close(listener_fd)
        self._gates.clear()

    def _send(self, unit: str) -> None:
        sandbox, listener_fd = self._gates[unit]
        message: dict[str, object] = {
            "op": "open",
            "unit": unit,
            "agent": sandbox.agent,
            "hosts": list(sandbox.hosts),
        }
        assert self._channel is not None, "the caller has looked"
        self._channel.send(message, [os.dup(listener_fd)])

    async def _run(self) -> None:
        """Runs one proxy after the other."""
        pause_s = AGAIN_S[0]
        while True:
            try:
                await self._run_once()
                log.error("the proxy of agents' networks has died; a new one is started")
            except CorralError as error:
                log.error("cannot start the proxy of agents' networks: %s", error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_S[1])

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._runs += 1
        unit = f"corral.proxy#{self._generation}.{self._runs}"
        outputs: Sequence[int] = ()
        self._gone.clear()
        try:
            child = await self._launcher.spawn(self._launch(unit), stdin_fd=theirs.detach())
            assert child.stdout_fd is not None, "it has one"
            outputs = (child.stdout_fd, child.stderr_fd)
            for fd in outputs:
                asyncio.get_running_loop().add_reader(fd, self._read, fd)
            self._channel = Channel(ours, self._on_message, on_end=self._gone.set)
            for each in self._gates:
                self._send(each)
            await self._gone.wait()
        finally:
            self._channel = None
            for fd in outputs:
                asyncio.get_running_loop().remove_reader(fd)
                os.close(fd)
            with contextlib.suppress(OSError, ValueError):
                asyncio.get_running_loop().remove_reader(ours.fileno())
            ours.close()
            self._launcher.kill(unit)

    def _launch(self, unit: str) -> Launch:
        environ = self._host.environ
        env = {name: environ[name] for name in ENVIRONMENT if name in environ}
        env["PYTHONPATH"] = str(self._host.sdk_path)
        return Launch(
            unit=unit,
            argv=(sys.executable, "-P", "-m", "corral.supervisor.egress.program"),
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
            asyncio.get_running_loop().remove_reader(fd)
            return
        log.warning("the proxy of agents' networks: %s", text.decode("utf-8", "replace").strip())

    def _on_message(self, message: Any) -> None:  # Any: JSON
        if message.get("op") == "refused":
            facts = {key: message[key] for key in ("agent", "host", "port", "reason", "count")}
            self._note(facts)
