"""Keeps the lease of this node: sends its beats, and performs what the state machine of leases decides.

Beats overlap: one that the engine does not answer is given up after `beat_s`, and the next one is sent, since an answer may
never come over a connection that was lost. A beat that finds its own record at another revision is the one after such.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from corral.worker.contract.errors import Conflict, CorralError

from ..engine.interface import Engine
from .lease import (
    TIMING,
    Action,
    Arm,
    Beat,
    Cordon,
    Event,
    Failed,
    Granted,
    Lease,
    Run,
    Stop,
    Taken,
    Tick,
    Timing,
    deadline,
    step,
)
from .record import NodeRecord, decoded, encoded, key_of

logger = logging.getLogger(__name__)

BEATS_MAX = 8
"""Number of beats that may wait for an answer at a time."""

TICK_MIN_S = 0.005
"""Seconds between two looks at the clock, at least."""


def boot_clock() -> float:
    """Returns the seconds since the machine began; they go on while it sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Performer(Protocol):
    """Performs what a lease permits and forbids."""

    def arm(self, kill_at: float) -> None:
        """Sets when the launcher kills the workers of the cluster, in seconds of the boot clock, unless it is set again."""
        ...

    def run(self, token: int) -> None:
        """Permits workers under this token."""
        ...

    def cordon(self) -> None:
        """Forbids new starts until the next `run`."""
        ...

    def stop(self, reason: str) -> None:
        """Ends all workers of the cluster now."""
        ...

    def wait_for(self, other: NodeRecord) -> None:
        """Notes that another daemon has the lease of this node's name; `run` follows when that is gone."""
        ...


class Membership:
    """Keeps the lease of one node."""

    def __init__(
        self,
        engine: Engine,
        record: Callable[[], NodeRecord],
        performer: Performer,
        *,
        timing: Timing = TIMING,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._engine = engine
        self._record = record
        self._performer = performer
        self._timing = timing
        self._clock = clock
        self._revision = 0
        self._beats: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.lease = Lease()
        self.joined = asyncio.Event()
        """Set once this node has had a lease."""
        self.other: NodeRecord | None = None
        """The daemon that has the lease of this node's name, in place of this one."""

    async def run(self) -> None:
        """Keeps the lease until it is cancelled; then stops the workers and gives the lease back."""
        try:
            while True:
                self._take(Tick())
                self._wake.clear()
                wait_s = max(TICK_MIN_S, deadline(self.lease, self._timing) - self._clock())
                try:
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for beat in self._beats:
                beat.cancel()
            self._performer.stop("the daemon ends")

    async def leave(self) -> None:
        """Removes the lease, once `run` has ended and no worker of the cluster is left: others need not wait for its end."""
        try:
            entry = await self._engine.get(key_of(self._record().name))
            if entry is not None and self._is_own(entry.value):
                await self._engine.put(entry.key, None, revision=entry.revision)
        except CorralError as error:
            logger.warning("the lease of this node ends by itself: %s", error)

    def _take(self, event: Event) -> None:
        before = self.lease.phase
        self.lease, actions = step(self.lease, event, self._clock(), self._timing)
        if self.lease.phase != before:
            logger.info("lease of this node: %s, was %s", self.lease.phase, before)
        for action in actions:
            self._perform(action)
        self._wake.set()

    def _perform(self, action: Action) -> None:
        match action:
            case Beat(token=token):
                assert self.lease.sent_at is not None, "a beat is on its way"
                if len(self._beats) >= BEATS_MAX:
                    return  # given up after beat_s, as one without an answer
                beat = asyncio.create_task(self._send(token, self.lease.sent_at))
                self._beats.add(beat)
                beat.add_done_callback(self._beats.discard)
            case Arm(kill_at=kill_at):
                self._performer.arm(kill_at)
            case Run(token=token):
                self.joined.set()
                self._performer.run(token)
            case Cordon():
                self._performer.cordon()
            case Stop(reason=reason):
                logger.warning("the workers of the cluster are stopped: %s", reason)
                self._performer.stop(reason)

    async def _send(self, token: int, sent_at: float) -> None:
        try:
            revision = await self._stored(token)
        except Conflict:
            self._take(Taken(sent_at))
        except CorralError as error:
            logger.info("a beat of this node failed: %s", error)
            self._take(Failed(sent_at))
        else:
            self.other = None
            self._revision = max(revision, self._revision)
            self._take(Granted(sent_at, token or revision))

    async def _stored(self, token: int) -> int:
        """Takes or renews the lease, and returns its revision."""
        record = self._record()
        key, value = key_of(record.name), encoded(record)
        lease_s = int(self._timing.lease_s)
        revision = self._revision if token else 0
        try:
            return await self._engine.put(key, value, revision=revision, ttl_s=lease_s)
        except Conflict:
            entry = await self._engine.get(key)
            other = None if entry is None else decoded(entry.value)
            if entry is None or other is None or other.incarnation != record.incarnation:
                self._note_other(other)
                raise
            if entry.revision < token:
                raise
            return await self._engine.put(key, value, revision=entry.revision, ttl_s=lease_s)

    def _note_other(self, other: NodeRecord | None) -> None:
        if other is not None and other.address == self._record().address != "":
            other = None  # this daemon before its program was replaced
        known, self.other = self.other, other
        if other is not None and (known is None or known.incarnation != other.incarnation):
            logger.warning("the name of this node is in use by %s, since %s", other.address, other.since)
            self._performer.wait_for(other)

    def _is_own(self, value: bytes) -> bool:
        found = decoded(value)
        return found is not None and found.incarnation == self._record().incarnation
