"""Listens at the address of one service, and answers with its faces; aiohttp is imported with this module."""

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.api.table.table import Control
from corral.supervisor.config.decoding.values import HttpAuth

from ..http.face import Face, HttpClient
from ..http.listener import HttpHandover
from ..http.server import HttpServer
from .face import HealthFace, ServiceFace

LEAVE_S = 1.0
"""Seconds that a connection has for its request when the address is left."""


class _Counting:
    """Passes requests on to a face, and knows how many are under way; after `leave` each answer closes its connection."""

    def __init__(self, face: Face, traffic: "_Traffic") -> None:
        self._face = face
        self._traffic = traffic

    @property
    def prefix(self) -> str:
        """Returns the prefix of the face."""
        return self._face.prefix

    @property
    def open(self) -> bool:
        """Returns whether the face is served without a token."""
        return self._face.open

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers one request."""
        self._traffic.begin()
        try:
            response = await self._face.serve(request, client)
            if self._traffic.is_leaving and not response.prepared:
                response.force_close()
            return response
        finally:
            asyncio.get_running_loop().call_soon(self._traffic.end)  # after the answer is written

    async def close(self) -> None:
        """Closes the face."""
        await self._face.close()


class _Traffic:
    """Counts the requests of one service that are under way."""

    def __init__(self) -> None:
        self.is_leaving = False
        self._count = 0
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()

    def begin(self) -> None:
        self._count += 1
        self._is_quiet.clear()

    def end(self) -> None:
        self._count -= 1
        if not self._count:
            self._is_quiet.set()

    async def quiet(self) -> None:
        """Returns when no request is under way."""
        await self._is_quiet.wait()


class Listener:
    """Serves one agent, team or workflow at one address; see `services.Listening`."""

    def __init__(
        self,
        make_server: Callable[[Sequence[Face]], HttpServer],
        control: Control,
        agents: Agents,
        name: str,
        auth: Callable[[], HttpAuth],
        *,
        scheme: str,
    ) -> None:
        self._traffic = _Traffic()
        faces = (HealthFace(agents, name), ServiceFace(control, name, auth))
        self.server = make_server([_Counting(face, self._traffic) for face in faces])
        self._scheme = scheme
        self.url = ""

    async def open(self, host: str, port: int, left: HttpHandover | None) -> None:
        """Opens the address, or goes on with what another program of the daemon has left."""
        self.url = f"{self._scheme}://{await self.server.open(host, port, left)}"

    async def leave(self) -> None:
        """Stops listening at once, and returns when the last request is answered."""
        self.server.stop_listening()
        self._traffic.is_leaving = True
        await asyncio.sleep(LEAVE_S)
        await self._traffic.quiet()
        await self.server.close()

    async def close(self) -> None:
        """Ends at once, with all requests."""
        await self.server.close()
