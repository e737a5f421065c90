"""Gives callers of several tenants their turns, so that the calls of one do not stand before those of another.

The daemon has one thread. Calls that arrive together are served one after the other, and those of a flood would all stand
before a single call of another tenant. While several tenants call, each gets one call in a turn of the loop; the further
ones wait here. For NEAR_S after the call of another each gets one in PACE_S, and the output of its workers is read at a pace,
so that the loop, the store and the processors are not busy with a flood alone while that call is served. A tenant that calls
alone waits for nothing.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from .fair_share import Turns

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
    """Orders the calls of one daemon by deficit round robin between tenants; the owner, "", is one of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._waiting = Turns[str, asyncio.Future[None]]()
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
        if now - self._other_at >= QUIET_S and not len(self._waiting):
            return True
        if tenant in self._taken or self._waiting.waiting(tenant):
            return False
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

    async def wait(self, tenant: str) -> None:
        """Returns when it is the turn of a call of a tenant."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.put(tenant, turn)
        self._pump_soon()
        await turn

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            if self._is_near:
                self._loop.call_later(PACE_S, self._pump)
            else:
                self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Gives each waiting tenant one call, or all that wait if nobody else calls."""
        self._is_pumping = False
        self._taken.clear()
        is_alone = self._clock() - self._other_at >= QUIET_S
        left = len(self._waiting) if is_alone else self._waiting.parties
        while left and (found := self._waiting.next()) is not None:
            tenant, turn = found
            if not turn.done():  # else its caller has hung up
                turn.set_result(None)
                self._taken.add(tenant)
                left -= 1
        if self._taken or len(self._waiting):
            self._pump_soon()
