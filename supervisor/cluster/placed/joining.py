"""Holds what joining the cluster has brought: the engine and the lease of this node, neither of them before."""

import uuid

from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import Timeout

from ..engine.interface import Engine
from ..lease.lease import Lease, Timing
from ..lease.membership import Membership, boot_clock
from ..lease.record import NodeRecord


class Joining:
    """Represents how far this node has joined: `problem` is why it has no engine, "" before the first answer."""

    def __init__(self, settings: ClusterSettings, node: str, address: str) -> None:
        self.node = node
        self.address = address
        """Where this daemon is, for a person."""
        self.since = utc_now()
        self.settings = settings
        self.incarnation = uuid.uuid4().hex
        """Differs for every start of a daemon."""
        self.timing = Timing(lease_s=float(settings.lease), beat_s=settings.beat)
        self.engine: Engine | None = None
        self.membership: Membership | None = None
        self.problem = ""

    def reached(self, what: str) -> Engine:
        """Returns the engine; `what` is what cannot be done without."""
        if self.engine is None:
            raise self.no_answer(what)
        return self.engine

    def no_answer(self, what: str) -> Timeout:
        """Returns the error where the engine does not answer."""
        return Timeout(
            f"cannot {what}: the engine at {self.settings.shown} does not answer",
            engine=self.settings.engine,
            url=self.settings.shown,
            uncertain=False,
        )

    def lease(self) -> Lease:
        """Returns the lease of this node, as known here."""
        return Lease() if self.membership is None else self.membership.lease

    @property
    def other(self) -> NodeRecord | None:
        """Returns the daemon that has the lease of this node's name, in place of this one."""
        return None if self.membership is None else self.membership.other

    def has_name(self) -> bool:
        """Returns whether what the engine has of a node of this name is about this daemon: it has had the lease, and no other one has it."""
        return self.membership is not None and self.membership.joined.is_set() and self.other is None

    def trouble(self) -> str:
        """Returns why this node has no lease, as far as that is known."""
        if (other := self.other) is None:
            return self.problem or f"the engine at {self.settings.shown} does not answer"
        since, address = other.since or "an unknown time", other.address or "an older version"
        return f'the node name "{self.node}" is in use since {since} by another daemon: {address}'

    def holds_lease(self) -> bool:
        """Returns whether the lease holds at this moment, also where nothing has looked at the clock yet."""
        lease = self.lease()
        is_held = lease.phase in ("held", "doubtful")
        return is_held and boot_clock() < lease.good_at + self.timing.stop_after_s
