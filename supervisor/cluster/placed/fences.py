"""Holds for which replica of each placed agent this node writes, and with which fencing token."""

from typing import NamedTuple

from corral.supervisor.workers.lifecycle.placements import Placements

from .joining import Joining


class Fence(NamedTuple):
    """Names the replica for which a node writes, and its fencing token."""

    replica: int
    token: int


class Fences:
    """Knows the fences of this node."""

    def __init__(self, joining: Joining, placements: Placements) -> None:
        self.joining = joining
        self.placements = placements
        self.replicas: dict[str, int] = {}
        """The replica of each agent whose token is the newest."""

    def of(self, agent: str) -> Fence | None:
        """Returns the fence of an agent; None where this node does not run it, or has no lease."""
        hold = self.placements.find(agent) if self.joining.holds_lease() else None
        return None if hold is None else Fence(self.replicas.get(agent, 0), hold.fencing_token)
