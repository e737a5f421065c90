"""Holds the collaborators that all worker supervisors of one daemon share.

A plain value, filled by the composition root: no behaviour but the clocks, and the ports that other rooms fill. It knows
no worker.
"""

import asyncio
import functools
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.records.store.incarnations import Incarnations
from corral.worker.contract.read_turns import ReadTurns

from ..lifecycle.placements import Placements
from ..listening.sockets import ListenSockets
from ..process.launch import Host
from ..process.launcher_client import Launcher
from ..process.sandbox import Removals
from ..zygote.pool import ZygotePool
from .health_monitor import Surroundings
from .probes import Probes
from .start_gate import StartGate
from .task_moments import TaskMoments

PREPARED_STARTS = 128
"""Number of starts prepared at a time, more than may be under way: a task for each of a thousand waiting ones takes 3 kB."""

logger = logging.getLogger(__name__)


class StallClock:
    """Notes when the daemon last came back from a stall: silence before that is no fault of a worker.

    A daemon that was stopped, starved or suspended finds its workers' heartbeats unread. A judgement of
    silence counts from `floor()`, which has to be called every second or so.
    """

    STALL_S = 3.0

    def __init__(self) -> None:
        self._seen_at = time.monotonic()
        self._woke_at = 0.0

    def floor(self) -> float:
        """Returns the monotonic time before which silence does not count."""
        now = time.monotonic()
        if now - self._seen_at > self.STALL_S:
            logger.warning("the daemon was stalled for %.1f s", now - self._seen_at)
            self._woke_at = now
        self._seen_at = now
        return self._woke_at


@dataclass(frozen=True)
class Shared:
    """Holds the collaborators of every supervisor.

    `generation` counts the daemon's starts on its store; `starting` bounds the launches under way, and
    `start_gate` those that are prepared.
    """

    launcher: Launcher
    zygotes: ZygotePool
    bus: Bus
    incarnations: Incarnations
    logs: LogStore
    generation: int
    host: Host
    probes: Probes
    starting: asyncio.Semaphore
    stall_clock: StallClock = field(default_factory=StallClock)
    start_gate: StartGate = field(default_factory=lambda: StartGate(PREPARED_STARTS))
    turns: ReadTurns = field(default_factory=ReadTurns)
    removals: Removals = field(default_factory=Removals)
    task_moments: TaskMoments = field(default_factory=TaskMoments)
    sockets: ListenSockets = field(default_factory=ListenSockets)
    placements: Placements = field(default_factory=Placements)

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        """Returns the collaborators that the health monitors of all workers share."""
        return Surroundings(self.bus, self.probes, self.stall_clock.floor, utc_now)


def utc_now() -> str:
    """Returns the wall-clock time for people, RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
