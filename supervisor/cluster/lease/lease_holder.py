"""Performs what the lease of this node permits and forbids: arms the launcher, permits and stops placed agents, and says so."""

from collections.abc import Callable
from typing import Protocol

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.workers.lifecycle.placements import Placements
from corral.supervisor.workers.process.launcher_client import Launcher

from .lease import Lease
from .record import NodeRecord

PART = "cluster"
"""The word for it in `degraded`."""


class PlacedAgents(Protocol):
    """Represents the placed agents of this node."""

    def permit(self, token: int) -> None:
        """Starts what is assigned to this node, under a lease."""
        ...

    def stop(self, reason: str) -> None:
        """Asks all of them to end now."""
        ...


class LeaseHolder:
    """Performs the actions of one node's lease."""

    def __init__(
        self,
        node: str,
        launcher: Launcher,
        bus: Bus,
        placements: Placements,
        lease: Callable[[], Lease],
        agents: PlacedAgents,
    ) -> None:
        self._node = node
        self._launcher = launcher
        self._bus = bus
        self._placements = placements
        self._lease = lease
        self._agents = agents
        self._is_degraded = False
        self.may_start = False

    @property
    def is_degraded(self) -> bool:
        """Returns whether the node has no lease that it can rely on, once it has begun to join."""
        return self._is_degraded

    def arm(self, kill_at: float) -> None:
        """Sets the moment at which the launcher kills the workers of this lease; it kills those of an earlier one now."""
        self._launcher.set_lease(self._lease().token, kill_at)

    def run(self, token: int) -> None:
        """Permits placed agents."""
        self.may_start = True
        self._bus.publish("node.joined", node=self._node, token=token)
        self.note_engine(is_there=True)
        self._agents.permit(token)

    def cordon(self) -> None:
        """Forbids new starts; workers that run go on."""
        self.may_start = False
        self._bus.publish("node.cordoned", node=self._node)
        self.note_engine(is_there=False)

    def stop(self, reason: str) -> None:
        """Ends all placed agents; the launcher kills those that are left at the deadline."""
        was_held, self.may_start = bool(self._placements.clear()), False
        self._bus.publish("node.stopped", node=self._node, reason=reason, ran=was_held)
        self.note_engine(is_there=False)
        self._agents.stop(reason)

    def wait_for(self, other: NodeRecord) -> None:
        """Notes that another daemon has the lease of this node's name."""
        self.note_engine(is_there=False)

    def note_engine(self, *, is_there: bool) -> None:
        """Notes whether the node can rely on the engine, and publishes the change."""
        if self._is_degraded is not is_there:
            return
        self._is_degraded = not is_there
        self._bus.publish("daemon.recovered" if is_there else "daemon.degraded", part=PART, stalled_s=0.0, lost=0)
