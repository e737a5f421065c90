"""Gives the requests of workers their turns, and refuses to keep more for a tenant that keeps too much."""

from collections.abc import Awaitable

from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.names import tenant_of

from .disk_use import DiskUse
from .turns import CallTurns

KEPT = frozenset({"memory/put", "checkpoint/put"})
"""Requests that keep something."""


class RequestGate:
    """Decides when a request of a worker is served."""

    def __init__(self, turns: CallTurns, disk: DiskUse) -> None:
        self._turns = turns
        self._disk = disk

    def __call__(self, supervisor: WorkerSupervisor, method: str) -> Awaitable[None] | None:
        """Returns what a request of a worker has to wait for, None if it is its turn; raises ResourceLimitExceeded."""
        agent = supervisor.spec.name
        tenant = tenant_of(agent)
        if tenant and method in KEPT:
            self._disk.check(tenant, agent, f"serve {method} of")
        return None if self._turns.is_next(tenant) else self._turns.wait(tenant, supervisor.id)
