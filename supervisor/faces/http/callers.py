"""Represents the client of a request over HTTP to the method table; it knows no face."""

from collections.abc import Awaitable, Mapping, Sequence

from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams

from .face import HttpClient


class OneAnswer:
    """Represents a caller over HTTP that waits for one answer: notifications are not sent to it."""

    def __init__(self, client: HttpClient) -> None:
        self.name = client.name
        self.permission: Rights = client.permission
        self.who: Mapping[str, object] = client.who
        self.agents: Sequence[str] | None = client.agents
        self.tenant = client.tenant
        self.supervisor: WorkerSupervisor | None = None  # a worker is known by its process alone

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Drops a notification."""

    async def drain(self) -> None:
        """Returns at once."""

    def follow(self, following: Awaitable[None]) -> None:
        """Refuses: it has one answer."""
        raise Conflict("cannot follow anything in one answer: accept text/event-stream")

    def attach(self, view: AttachParams) -> None:
        """Refuses: MCP has a path of its own."""
        raise Conflict("cannot attach over HTTP: MCP is at /mcp")

    def log_in(self, digest: bytes | None, tenant: str) -> None:
        """Refuses: each request brings a token."""
        raise Conflict("cannot log in over HTTP: each request brings its token")
