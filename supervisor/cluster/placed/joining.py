"""Holds what joining the cluster has brought: the engine and the lease of this node, neither of them before."""

import uuid

from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import Timeout

from ..engine.interface import Engine
from ..lease.lease import Lease, Timing
from ..lease.membership import Membership, boot_clock


class Joining:
    """Represents how far this node has joined: `problem` is why it has no engine, "" before the first answer."""

    def __init__(self, settings: ClusterSettings) -> None:
        self.incarnation = uuid.uuid4().hex
        """Differs for every start of a daemon."""
        self.timing = Timing(lease_s=float(settings.lease), beat_s=settings.beat)
        self.engine: Engine | None = None
        self.membership: Membership | None = None
        self.problem = ""
        self._settings = settings

    def reached(self, what: str) -> Engine:
        """Returns the engine; `what` is what cannot be done without."""
        if self.engine is None:
            raise self.no_answer(what)
        return self.engine

    def no_answer(self, what: str) -> Timeout:
        """Returns the error where the engine does not answer."""
        return Timeout(
            f"cannot {what}: the engine at {self._settings.shown} does not answer",
            engine=self._settings.engine,
            url=self._settings.shown,
            uncertain=False,
        )

    def lease(self) -> Lease:
        """Returns the lease of this node, as known here."""
        return Lease() if self.membership is None else self.membership.lease

    def holds_lease(self) -> bool:
        """Returns whether the lease holds at this moment, also where nothing has looked at the clock yet."""
        lease = self.lease()
        is_held = lease.phase in ("held", "doubtful")
        return is_held and boot_clock() < lease.good_at + self.timing.stop_after_s
