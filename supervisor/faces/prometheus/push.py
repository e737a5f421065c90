"""Sends the figures of `/metrics` to a collector, at an interval.

They are copied and encoded as for a scrape. A collector that is slow or gone costs figures of some moments, and nothing else:
each request has the sums since the start.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from prometheus_client.metrics_core import Metric

from corral.supervisor.config.spec.in_force import InForce

from . import exposition, snapshot

Send = Callable[[Callable[[], Iterable[Metric]], int, int], Awaitable[bool]]
"""Sends what a function returns in a thread, with the ns of the Unix epoch since when it was counted, and of now."""

Report = Callable[[bool, int], None]
"""Takes after each request whether its figures were dropped, and the number of those that were."""


async def push(figures: snapshot.Figures, in_force: InForce, send: Send, report: Report, interval_s: float) -> None:
    """Sends all figures every `interval_s` until it is cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        if not in_force.config.defaults.monitoring.enable_metrics:
            continue
        taken = await figures.take(None)
        is_taken = await send(partial(exposition.metrics, taken), int(taken.started_s * 1e9), time.time_ns())
        report(not is_taken, int(not is_taken))
