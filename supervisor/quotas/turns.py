"""Gives callers of several tenants their turns, so that the calls of one do not stand before those of another.

The daemon has one thread. Calls that arrive together are served one after the other, and those of a flood would all stand
before a single call of another tenant. While several tenants call, each gets one call in a turn of the loop; the further
ones wait here. A tenant that calls alone waits for nothing.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from .fair_share import Turns

QUIET_S = 1.0
"""Seconds without a call after which a tenant counts as one that does not call."""


WRITES = 8
"""Number of tasks of one tenant that are written at once while others call."""


class CallTurns:
    """Orders the calls of one daemon by deficit round robin between tenants; the owner, "", is one of them.

    Args:
        loop: runs the calls.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._waiting = Turns[str, asyncio.Future[None]]()
        self._taken = set[str]()
        """Tenants that had a call in this turn of the loop."""
        self._last = ""
        self._last_at = 0.0
        self._other_at = -QUIET_S
        """When a tenant other than `_last` called."""
        self._is_pumping = False
        self._writing = Counter[str]()
        """Number of submissions that are being written, by tenant."""
        self._held: dict[str, deque[asyncio.Future[None]]] = {}

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
        while self._writing[tenant] >= WRITES and self.is_contended:
            freed: asyncio.Future[None] = self._loop.create_future()
            self._held.setdefault(tenant, deque()).append(freed)
            await freed
        self._writing[tenant] += 1
        try:
            yield
        finally:
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
    def is_contended(self) -> bool:
        """Returns whether several tenants called within the last QUIET_S."""
        return self._clock() - self._other_at < QUIET_S

    async def wait(self, tenant: str) -> None:
        """Returns when it is the turn of a call of a tenant."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.put(tenant, turn)
        self._pump_soon()
        await turn

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
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
