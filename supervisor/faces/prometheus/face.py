"""Answers `GET /metrics`, in the text format of Prometheus or as OpenMetrics, whichever `Accept` prefers.

A token with the right `read` is enough; one with some agents sees their series alone. Scrapes are answered one after
the other, so that many scrapers cost no more at a time than one.
"""

import asyncio

from aiohttp import web

from corral.supervisor.config.spec.in_force import InForce
from corral.worker.contract.errors import MethodNotFound, NotFound

from ..http.answers import Refused
from ..http.face import HttpClient
from . import snapshot


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
