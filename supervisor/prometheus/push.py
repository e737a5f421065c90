"""Sends the figures of `/metrics` to a collector, at an interval.

They are copied and encoded as for a scrape. A collector that is slow or gone costs figures of some moments, and nothing else:
each request has the sums since the start.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client.metrics_core import Metric

from ..api.table import Control
from . import exposition, snapshot

Send = Callable[[Callable[[], Iterable[Metric]], int, int], Awaitable[bool]]
"""Sends what a function returns in a thread, with the ns of the Unix epoch since when it was counted, and of now."""

Report = Callable[[bool, int], None]
"""Takes that figures are dropped now, or no longer, and how many requests were since it was last called."""


async def push(control: Control, send: Send, report: Report, interval_s: float) -> None:
    """Sends all figures every `interval_s` until it is cancelled."""
    is_dropping = False
    while True:
        await asyncio.sleep(interval_s)
        if not control.agents.config.defaults.monitoring.enable_metrics:
            continue
        figures = await snapshot.take(control, None)
        started_ns = int(figures.started_s * 1e9)

        def metrics(figures: snapshot.Snapshot = figures) -> Iterable[Metric]:
            return exposition.metrics(figures)

        is_taken = await send(metrics, started_ns, time.time_ns())
        if is_taken is is_dropping:
            is_dropping = not is_taken
            report(is_dropping, int(is_dropping))
