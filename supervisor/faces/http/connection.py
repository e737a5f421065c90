"""Serves one connection: requests that cannot be parsed are answered as all other errors are, and not logged."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from corral.worker.contract.errors import InvalidRequest

from .answers import failure

IDLE_S = 75.0
"""Seconds that a connection may be without a request, and the head of a request may take."""

LINGER_S = 5.0
"""Seconds to read the rest of a body that is not wanted, so that the client reads the answer."""

MAX_REASON = 200
"""Characters of the parser's reason: it quotes the bytes that it does not take."""


class Connection(web.RequestHandler):
    """Serves the requests of one connection, one after the other."""

    __slots__ = ("_on_lost",)

    def __init__(self, server: web.Server, idle_s: float, on_lost: Callable[[asyncio.BaseProtocol], None]) -> None:
        self._on_lost = on_lost
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle_s,
            lingering_time=LINGER_S,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own signature leaves None out
            auto_decompress=False,
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tells the server, which counts the connections of each client."""
        self._on_lost(self)
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Returns the answer to a request that could not be parsed; the connection ends with it."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client is gone
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        reason = (message or "it is no HTTP").splitlines()[0].rstrip(":")
        error = InvalidRequest(f"cannot parse the request: {reason[:MAX_REASON]}")
        response = failure(error, 431 if isinstance(exc, LineTooLong) else 400)
        response.force_close()
        return response
