"""Answers a scrape with the figures of this moment, and pushes them to a gateway where one is configured."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from aiohttp import web
from prometheus_client.metrics_core import Metric

from corral.supervisor.config.spec.in_force import InForce
from corral.worker.contract.errors import MethodNotFound, NotFound

from ..http.answers import Refused
from ..http.face import HttpClient
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


class MetricsFace:
    """Serves the figures of one daemon."""

    prefix = "/metrics"
    open = False

    def __init__(self, figures: snapshot.Figures, in_force: InForce) -> None:
        self._figures = figures
        self._in_force = in_force
        self._scraping = asyncio.Lock()

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers with the figures of this moment."""
        if request.path != self.prefix:
            raise NotFound(f'cannot find "{request.path}"', path=request.path)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, MethodNotFound(f'cannot serve {request.method} of "{request.path}"'), Allow="GET, HEAD")
        if not self._in_force.config.defaults.monitoring.enable_metrics:
            raise NotFound("cannot serve metrics: enable_metrics is false", key="enable_metrics")
        accept = request.headers.get("Accept", "")
        async with self._scraping:
            figures = await self._figures.take(client.agents)
            body, content_type = await asyncio.to_thread(_exposition, figures, accept)
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def close(self) -> None:
        """Returns at once."""


def _exposition(figures: snapshot.Snapshot, accept: str) -> tuple[bytes, str]:
    from .exposition import encoded  # noqa: PLC0415  # 17 ms, which the loop does not wait for

    return encoded(figures, accept)
