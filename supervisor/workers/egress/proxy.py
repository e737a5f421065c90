"""Starts the proxy when the first worker needs it, hands it the socket of each, and starts it again when it has died.

One process serves all workers, as a unit of the launcher: it dies with the daemon, and the daemon's loop copies no data.
The daemon keeps each listening socket, so that a new proxy goes on where the old one has ended; connections are lost
then, workers are not.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from corral.supervisor.machine.isolation.levels import Sandbox

from ..process.helper_process import HelperProcess, Program
from ..process.launch import Host
from ..process.launcher_client import Launcher

PROGRAM = Program(
    title="the proxy of agents' networks",
    unit="corral.proxy",
    module="workers.egress.program",
    environment=("PATH", "LANG", "SSL_CERT_FILE"),
)

Note = Callable[[Mapping[str, object]], None]
"""Takes one record of refusals: agent, host, port, reason, count."""


class EgressProxy:
    """Represents the proxy; for use in one event loop."""

    def __init__(self, launcher: Launcher, host: Host, generation: int, note: Note) -> None:
        self._note = note
        self._gates: dict[str, tuple[Sandbox, int]] = {}
        self._process = HelperProcess(
            launcher, host, generation, PROGRAM, on_start=self._open_all, on_message=self._on_message
        )

    def open(self, unit: str, sandbox: Sandbox, listener_fd: int) -> None:
        """Serves a worker at a socket in its network, which belongs to this object from now on."""
        self._gates[unit] = (sandbox, listener_fd)
        if self._process.is_up:
            self._send(unit)
        else:
            self._process.start()

    def close(self, unit: str) -> None:
        """Ends the connections of a worker that is gone; units without a gate are ignored."""
        found = self._gates.pop(unit, None)
        if found is not None:
            os.close(found[1])
            self._process.send({"op": "close", "unit": unit})

    async def end(self) -> None:
        """Ends the proxy."""
        await self._process.end()
        for _sandbox, listener_fd in self._gates.values():
            os.close(listener_fd)
        self._gates.clear()

    async def _open_all(self) -> None:
        for unit in self._gates:
            self._send(unit)

    def _send(self, unit: str) -> None:
        sandbox, listener_fd = self._gates[unit]
        message: dict[str, object] = {"op": "open", "unit": unit, "agent": sandbox.agent, "hosts": list(sandbox.hosts)}
        self._process.send(message, [os.dup(listener_fd)])

    def _on_message(self, message: Any) -> None:  # Any: JSON
        if message.get("op") == "refused":
            self._note({key: message[key] for key in ("agent", "host", "port", "reason", "count")})
