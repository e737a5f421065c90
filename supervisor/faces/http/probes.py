"""Serves the two probes of an orchestrator: `/healthz`, the daemon lives, and `/readyz`, all that is wanted is up.

It must not know the daemon: the function that looks is given.
"""

from collections.abc import Callable

from aiohttp import web
from msgspec import Struct

from corral.worker.contract.errors import MethodNotFound

from .answers import Refused, answer
from .face import HttpClient

HEALTH_PATH = "/healthz"

READY_PATH = "/readyz"


class Readiness(Struct, frozen=True):
    """Holds the answer of `/readyz`: it is ready if neither is set."""

    draining: bool
    down: list[str]
    """Agents, and MCP servers, with a worker that is wanted and not up."""


class Health:
    """Answers 200 as long as the daemon's loop turns. It needs no token, and tells nothing else."""

    prefix = HEALTH_PATH
    open = True

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers 200."""
        _check_verb(request)
        return answer({"status": "ok"})

    async def close(self) -> None:
        """Does nothing: no request of it waits."""


class Ready:
    """Answers 200 if nothing that is wanted is down, else 503 with the names."""

    prefix = READY_PATH
    open = False

    def __init__(self, look: Callable[[HttpClient], Readiness]) -> None:
        self._look = look

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers 200 or 503."""
        _check_verb(request)
        found = self._look(client)
        is_ready = not (found.draining or found.down)
        body = {"status": "ready" if is_ready else "not ready", "draining": found.draining, "down": found.down}
        return answer(body, 200 if is_ready else 503)

    async def close(self) -> None:
        """Does nothing: no request of it waits."""


def _check_verb(request: web.BaseRequest) -> None:
    if request.method not in ("GET", "HEAD"):
        raise Refused(405, MethodNotFound(f"cannot serve {request.method}"), Allow="GET, HEAD")
