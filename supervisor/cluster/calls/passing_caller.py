"""Represents a caller in whose place another object gets the notifications of a call."""

from collections.abc import Awaitable, Mapping, Sequence

from corral.supervisor.api.table.handlers import Caller
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams


class PassingCaller:
    """Holds the rights and names of a caller, and what is to follow the call; drops notifications."""

    def __init__(self, caller: Caller) -> None:
        self.name = caller.name
        self.permission: Rights = caller.permission
        self.who: Mapping[str, object] = caller.who
        self.agents: Sequence[str] | None = caller.agents
        self.tenant = caller.tenant
        self.supervisor: WorkerSupervisor | None = caller.supervisor
        self.following: Awaitable[None] | None = None

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Drops a notification."""

    async def drain(self) -> None:
        """Returns at once."""

    def follow(self, following: Awaitable[None]) -> None:
        """Keeps what is to run after the answer."""
        self.following = following

    def attach(self, _view: AttachParams) -> None:
        """Refuses: the connection is that of another caller."""
        raise Conflict("cannot attach to more than one node")

    def log_in(self, _digest: bytes | None, _tenant: str) -> None:
        """Refuses: the connection is that of another caller."""
        raise Conflict("cannot log in on more than one node")
