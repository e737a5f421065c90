"""Gives callers their turns, so that the calls of one do not stand before those of another.

The daemon has one thread. Calls that arrive together are served one after the other, and those of a flood would all stand
before a single call of another caller. So about TURN_S of calls begin in one turn of the loop; the further ones wait here,
and go on by turns: of each caller one, and of each tenant one however many callers it has.

While several tenants call, each gets one call in a turn of the loop. For NEAR_S after the call of another each gets one
in PACE_S, and the output of its workers is read at a pace, so that the loop, the store and the processors are not busy
with a flood alone while that call is served.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.names import tenant_of

from .fair_share import Turns
from .room import DiskUse

TURN_S = 0.005
"""Seconds for which calls of one tenant keep one turn of the loop busy."""

CALLS = 32
"""Number of calls that begin in one turn of the loop, until it is known how long they take."""

CALLS_MAX = 256
"""Number of them however short they are."""

QUIET_S = 1.0
"""Seconds without a call after which a tenant counts as one that does not call."""

NEAR_S = 0.1
"""Seconds after the call of another tenant for which calls and output have their pace."""

PACE_S = 0.001
"""Seconds from one call of a tenant that floods to its next: about as many as one thread can serve."""

WRITES = 8
"""Number of tasks of one tenant that are written at once while others call."""

WRITES_NEAR = 2
"""Number of them for NEAR_S after the call of another tenant."""

REST_S = 0.004
"""Seconds within that time from the end of one of them to the next: the task itself is to be run, and its end written."""

READ_S = 0.0005
"""Seconds that one read of a pipe counts for."""

READ_BYTES_PER_S = 16 * 1024 * 1024
"""Bytes of output of one tenant that are read in a second, at most."""

BURST_S = 0.02
"""Seconds' worth of output that is read at once."""


WRITE_S = 0.008
"""Seconds that one write of a task counts for: a task of which one ends in 20 ms is written twice."""

WRITES_SAVED = 4
"""Number of writes that a tenant may have beyond that."""

WRITE_WAIT_S = 0.01
"""Seconds that a write waits at most for the commit of another."""


class CallTurns:
    """Orders the calls of one daemon by round robin between tenants (the owner, "", is one) and between callers of each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._waiting = Turns[str, None]()
        """Calls that wait, by tenant."""
        self._callers: dict[str, Turns[str, asyncio.Future[None]]] = {}
        """The same, by tenant and caller."""
        self._most = CALLS
        """Number of calls that fit into TURN_S, as the last turns were."""
        self._left = self._most
        """Number of them that may still begin in this turn."""
        self._began_at = 0.0
        """When this turn began."""
        self._taken = set[str]()
        """Tenants that had a call since `_pump` ran last."""
        self._last = ""
        self._last_at = -QUIET_S
        self._other_at = -QUIET_S
        """When a tenant other than `_last` called."""
        self._is_pumping = False
        self._writing = Counter[str]()
        """Number of submissions that are being written, by tenant."""
        self._held: dict[str, deque[asyncio.Future[None]]] = {}
        self._read_to: dict[str, float] = {}
        """When the output of a tenant that was read so far is paid for, by tenant."""
        self._written_to: dict[str, float] = {}
        """The same of its writes."""

    def is_next(self, tenant: str) -> bool:
        """Returns whether a call of a tenant may begin at once; else `wait` has to be awaited before it."""
        now = self._clock()
        if tenant != self._last:
            self._other_at = self._last_at
            self._last = tenant
        self._last_at = now
        is_over = self._left <= 0 or (self._is_pumping and now - self._began_at > TURN_S)
        is_alone = now - self._other_at >= QUIET_S and not len(self._waiting)
        if is_over or (not is_alone and (tenant in self._taken or self._waiting.waiting(tenant))):
            return False
        self._left -= 1
        self._taken.add(tenant)
        self._pump_soon()
        return True

    @asynccontextmanager
    async def submitting(self, tenant: str) -> AsyncGenerator[None]:
        """Bounds how many tasks of a tenant are written at once while others call: the ends of one write come together."""
        while self._writing[tenant] >= self._writes:
            freed: asyncio.Future[None] = self._loop.create_future()
            self._held.setdefault(tenant, deque()).append(freed)
            try:
                await freed
            except asyncio.CancelledError:
                if not freed.cancelled():  # it was this one's turn: the next is to have it
                    self._free(tenant)
                raise
        self._writing[tenant] += 1
        try:
            yield
        finally:
            if self._is_near and self._held.get(tenant):
                self._loop.call_later(REST_S, self._written, tenant)
            else:
                self._written(tenant)

    @property
    def _writes(self) -> float:
        """Returns the number of tasks of one tenant that may be written at once."""
        return WRITES_NEAR if self._is_near else WRITES if self.is_contended else math.inf

    def _written(self, tenant: str) -> None:
        self._writing[tenant] -= 1
        if not self._writing[tenant]:
            del self._writing[tenant]
        self._free(tenant)

    def _free(self, tenant: str) -> None:
        """Lets the next submission of a tenant go on; all of them if nobody else calls."""
        held = self._held.get(tenant)
        is_contended = self.is_contended
        while held:
            freed = held.popleft()
            if not freed.done():  # else its caller has hung up
                freed.set_result(None)
                if is_contended:
                    break
        if held is not None and not held:
            self._held.pop(tenant, None)

    @property
    def _is_near(self) -> bool:
        """Returns whether two tenants called within the last NEAR_S."""
        return self._clock() - self._other_at < NEAR_S

    @property
    def is_contended(self) -> bool:
        """Returns whether several tenants called within the last QUIET_S."""
        return self._clock() - self._other_at < QUIET_S

    def read_pause_s(self, tenant: str, size_bytes: int) -> float:
        """Counts a read of the output of a tenant; returns the seconds until the next: 0 unless it floods near the call of another."""
        now = self._clock()
        if not self._is_near_other(tenant, now):
            self._read_to.pop(tenant, None)
            return 0.0
        since = max(self._read_to.get(tenant, 0.0), now - BURST_S)
        paid = self._read_to[tenant] = since + READ_S + size_bytes / READ_BYTES_PER_S
        return max(0.0, paid - now)

    def write_wait_s(self, tenant: str) -> float:
        """Counts a write of a tenant; returns the seconds for which it may wait for the commit of another: 0 unless it floods near the call of another.

        A commit takes the disk for as long as the disk likes, and a write of the other that comes meanwhile waits for its end.
        """
        now = self._clock()
        if not self._is_near_other(tenant, now):
            self._written_to.pop(tenant, None)
            return 0.0
        since = max(self._written_to.get(tenant, 0.0), now - WRITES_SAVED * WRITE_S)
        paid = self._written_to[tenant] = min(since + WRITE_S, now + WRITE_WAIT_S)
        return max(0.0, paid - now)

    def _is_near_other(self, tenant: str, now: float) -> bool:
        """Returns whether a tenant other than this one called within the last NEAR_S."""
        return now - (self._other_at if tenant == self._last else self._last_at) < NEAR_S

    async def wait(self, tenant: str, caller: str) -> None:
        """Returns when it is the turn of a call of one caller of a tenant."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.put(tenant, None)
        self._callers.setdefault(tenant, Turns()).put(caller, turn)
        self._pump_soon()
        await turn

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            self._began_at = self._clock()
            if self._is_near:
                self._loop.call_later(PACE_S, self._pump)
            else:
                self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Begins a new turn: of the calls that wait each tenant has one, or as many as fit if nobody else calls."""
        self._is_pumping = False
        self._measure()
        self._taken.clear()
        is_alone = self._clock() - self._other_at >= QUIET_S
        most = self._left if is_alone else min(self._left, self._waiting.parties)
        while most and (turn := self._next()) is not None:
            if not turn.done():  # else its caller has hung up
                turn.set_result(None)
                self._left -= 1
                most -= 1
        if self._taken or len(self._waiting):
            self._pump_soon()

    def _measure(self) -> None:
        """Adapts the number of calls of a turn to the time that the last one took, where it was full."""
        took_s = self._clock() - self._began_at
        if took_s > TURN_S:
            self._most = max(1, self._most // 2)
        elif took_s < TURN_S / 2 and self._left <= 0:
            self._most = min(CALLS_MAX, 2 * self._most)
        self._left = self._most

    def _next(self) -> asyncio.Future[None] | None:
        """Removes and returns the call whose turn it is, and counts its tenant as one that had it."""
        found = self._waiting.next()
        if found is None:
            return None
        tenant, callers = found[0], self._callers[found[0]]
        of_caller = callers.next()
        assert of_caller is not None, "both count the same calls"
        if not len(callers):
            del self._callers[tenant]
        if not of_caller[1].done():
            self._taken.add(tenant)
        return of_caller[1]


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
