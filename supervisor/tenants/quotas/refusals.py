"""Counts refusals by the limits of tenants, and publishes few events about many refusals."""

import time
from collections import Counter
from collections.abc import Callable

from corral.supervisor.records.events.bus import Bus

EVENT_S = 60.0
"""Seconds between two events about one limit of one tenant; refusals in between are counted in the next."""


class Refusals:
    """Counts the refusals of one daemon by tenant and key."""

    def __init__(self, bus: Bus, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._clock = clock
        self.counts = Counter[tuple[str, str]]()
        """Number of refusals since the start of the daemon, by tenant and key."""
        self._published: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, tenant: str, key: str, limit: float, used: float, reason: str, *, agent: str | None) -> None:
        """Counts a refusal, and publishes it unless an event about the same limit is younger than EVENT_S."""
        self.counts[tenant, key] += 1
        now, count = self._clock(), self.counts[tenant, key]
        at, before = self._published.get((tenant, key), (-EVENT_S, 0))
        if now < at + EVENT_S:
            return
        self._published[tenant, key] = now, count
        self._bus.publish(
            "limit.tenant",
            agent=agent,
            tenant=tenant,
            key=key,
            limit=limit,
            used=used,
            refused=count - before,
            reason=reason,
        )

    def forget(self, tenant: str) -> None:
        """Drops the counts of a tenant that is gone."""
        for pair in [pair for pair in self.counts if pair[0] == tenant]:
            del self.counts[pair]
            self._published.pop(pair, None)
