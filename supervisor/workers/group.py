"""Makes what the supervisors of workers share, and what rooms above enter themselves into."""

from dataclasses import dataclass

from .supervision.requests import Requests
from .supervision.shared import Shared
from .supervision.worker_changes import WorkerChanges
from .supervision.worker_supervisor import WorkerSupervisor


@dataclass(frozen=True, slots=True)
class WorkersGroup:
    """Holds what other groups use of the workers of one daemon."""

    shared: Shared
    requests: Requests[WorkerSupervisor]
    changes: WorkerChanges[WorkerSupervisor]


def make_workers(shared: Shared) -> WorkersGroup:
    """Makes them for the collaborators of all supervisors."""
    return WorkersGroup(shared, Requests(), WorkerChanges())
