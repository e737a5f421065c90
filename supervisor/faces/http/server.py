"""Serves HTTP on the daemon's own loop: one listener, and the faces below their prefixes.

Connections are bounded, and so is the time that each may take to send the head of its first request: any
program that reaches the address can open connections and send nothing. A client with a token goes before them. A token, or
a tenant with all of its tokens, has a share of the connections, and some are left for the daemon's user and for probes.

This module must not know the daemon, nor what a face serves. aiohttp is imported with this module, and this module only
where HTTP is on.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import cast

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from corral.supervisor.tenants.quotas.connections import Clients, allowed
from corral.worker.contract.errors import (
    CorralError,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    ShuttingDown,
)

from .admission import Admission, Guesses, bracketed, check_target
from .answers import Refused, failure
from .face import ANONYMOUS, FOREIGN, TENANT_HEADER, TENANT_KEY, WRONG_TOKEN, Access, Face, HttpClient
from .listener import HttpHandover, Listener

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

    @property
    def is_idle(self) -> bool:
        """Returns whether it waits for a request."""
        return self._current_request is None and not self._messages

    @property
    def obstacle(self) -> str:
        """Returns the request, in words, that no other program can go on with; a reader of events opens another connection."""
        request = self._current_request
        if request is None:
            return "" if self.is_idle else "a request over HTTP is being read"
        is_follower = request.method == "GET" and "text/event-stream" in request.headers.get("Accept", "")
        is_carried = is_follower or request.path == UPGRADE
        return "" if is_carried else f'"{request.method} {request.path}" over HTTP is under way'

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


UPGRADE = "/api/v1/upgrade"
"""The path of the request that asks for the next program: its connection ends with this one."""

MAX_CONNECTIONS = 512

VERSIONS = (HttpVersion11, HttpVersion10)
"""Versions of HTTP that are served."""

logger = logging.getLogger(__name__)


class _Request(web.BaseRequest):
    """Represents a request whose answer does not tell the versions of libraries, as aiohttp would by itself."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.pop("Server", None)


class HttpServer:
    """Serves faces over HTTP."""

    def __init__(
        self,
        faces: Sequence[Face],
        access: Access,
        *,
        names: Collection[str] = (),
        is_behind_proxy: bool = False,
        tls: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        idle_s: float = IDLE_S,
    ) -> None:
        self._faces = sorted(faces, key=lambda face: len(face.prefix), reverse=True)
        self._exact = {face.prefix: face for face in self._faces}
        assert len(self._exact) == len(self._faces), "two faces have the same prefix"
        self._access = access
        self._guesses = Guesses()
        self._names = names
        self._is_behind_proxy = is_behind_proxy
        self._max_connections = allowed(max_connections)
        self._idle_s = idle_s
        self._clients = Clients(self._max_connections)
        self._loop = asyncio.get_running_loop()
        self._admission: Admission | None = None
        self._runner: web.ServerRunner | None = None
        self._listener = Listener(self._connection, self._make_room, tls=tls)
        self._is_closing = False

    # -- opening and closing

    async def open(self, host: str, port: int, left: HttpHandover | None = None) -> str:
        """Listens, or goes on with what another program of the daemon has left; returns the address: `HOST:PORT`."""
        # There are few prefixes: an Application with its router would cost each request a tenth of its time.
        server = web.Server(self._serve, request_factory=self._request, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            number = await self._listener.open(host, port, left)
        except CorralError:
            await self._runner.cleanup()
            raise
        self._admission = Admission(
            host, number, self._access.authenticate, names=self._names, is_behind_proxy=self._is_behind_proxy
        )
        return f"{bracketed(host)}:{number}"

    # -- from one program of the daemon to the next

    def hold(self) -> None:
        """Accepts and reads nothing more, until `release`."""
        self._listener.hold()
        self._read(is_wanted=False)

    def release(self) -> None:
        """Accepts and reads again."""
        self._listener.release()
        self._read(is_wanted=True)

    def _read(self, *, is_wanted: bool) -> None:
        for each in self._open_connections:
            transport = cast("asyncio.ReadTransport | None", each.transport)  # uvloop's does not inherit from it
            if transport is None or transport.is_closing() or not each.is_idle or transport.is_reading() == is_wanted:
                continue
            if is_wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()

    @property
    def _open_connections(self) -> list[Connection]:
        return [each for each in self._server.connections if isinstance(each, Connection)]

    def obstacles(self) -> list[str]:
        """Returns the requests that no other program can go on with, each in words."""
        opening = ["a connection over HTTP is being opened"] if self._listener.is_opening else []
        return opening + [words for each in self._open_connections if (words := each.obstacle)]

    def hand_over(self) -> HttpHandover:
        """Returns what the next program goes on from; a connection with TLS ends, for its keys are in this program."""
        idle = [each for each in self._open_connections if each.is_idle and self._listener.tls is None]
        sockets = [each.transport.get_extra_info("socket") for each in idle if each.transport is not None]
        return HttpHandover(self._listener.fd, tuple(each.fileno() for each in sockets))

    def renew_tls(self, tls: ssl.SSLContext) -> None:
        """Takes another certificate, for connections from now on."""
        self._listener.tls = tls

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        if message.version not in VERSIONS:  # it may mean something else by all that follows
            message = message._replace(version=HttpVersion11, path="")
        return _Request(message, payload, protocol, writer, task, self._loop)

    @property
    def connections(self) -> int:
        """Returns the number of connections."""
        return len(self._server.connections)

    @property
    def _server(self) -> web.Server:
        server = None if self._runner is None else self._runner.server
        assert server is not None, "it listens"
        return server

    def _connection(self) -> Connection:
        return Connection(self._server, self._idle_s, self._clients.forget)

    def _make_room(self, opening: int) -> bool:
        """Returns whether one more connection is accepted, if need be at the cost of one that never showed a token."""
        connections = self._server.connections
        if len(connections) + opening < self._max_connections:
            return True
        # Any program that reaches the address can open connections and send nothing: a client with a token goes before them.
        strangers = (each for each in connections if each.transport is not None and each not in self._clients)
        first = next(strangers, None)
        if first is None:
            return False
        first.force_close()
        return True

    def stop_listening(self) -> None:
        """Takes no more connections; those that there are, and those that wait to be accepted, go on."""
        self._listener.stop()

    async def close(self) -> None:
        """Stops listening, and closes the faces and every connection."""
        self._is_closing = True
        self._listener.close()
        await asyncio.gather(*(face.close() for face in self._faces))
        if self._runner is not None:
            await self._runner.cleanup()

    # -- one request

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            face = self._face(request)
            client = self._admit(request, is_open=face is not None and face.open)
            if self._is_closing:
                raise ShuttingDown("cannot serve HTTP: the daemon is stopping")
            if face is None:
                raise NotFound(f'cannot find "{request.path}"')
            return await face.serve(request, client)
        except Refused as refused:
            if refused.error.data.get("reason") == WRONG_TOKEN:
                address = request.remote or ""
                self._access.note_wrong(address)
                await asyncio.sleep(self._guesses.wait_s(address, self._loop.time()))
            found = failure(refused.error, refused.status, refused.headers)
        except CorralError as error:
            found = failure(error)
        except ConnectionError:
            raise
        except Exception as error:  # the outermost frame of this request: a defect of ours
            logger.exception("%s over HTTP failed", request.method)
            found = failure(InternalError(f"cannot answer: {type(error).__name__}"))
        if request.writer.output_size > 0:  # its answer has begun, and cannot be taken back
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the answer had begun")
        return found

    def _face(self, request: web.BaseRequest) -> Face | None:
        """Returns the face whose prefix is the longest that fits."""
        try:
            check_target(request.raw_path)
        except InvalidRequest as error:
            raise Refused(400, error, Connection="close") from error
        path = request.path
        found = self._exact.get(path)
        if found is not None:
            return found
        for face in self._faces:
            prefix = face.prefix
            if prefix == "/" or (path.startswith(prefix) and path[len(prefix)] == "/"):
                return face
        return None

    def _admit(self, request: web.BaseRequest, *, is_open: bool) -> HttpClient:
        """Returns the client of a request."""
        assert self._admission is not None, "it listens"
        hosts, origins = (request.headers.getall(name, []) for name in ("Host", "Origin"))
        try:
            self._admission.check_place(hosts, origins)
        except PermissionDenied as error:
            raise Refused(403, error, Connection="close") from error
        try:
            client = None
            if "Authorization" not in request.headers:
                client = self._access.browser_client(request)
            client = client or self._admission.client(request.headers)
        except PermissionDenied as error:
            if is_open:
                return ANONYMOUS
            if error.data.get("reason") == FOREIGN:
                raise Refused(403, error) from error
            raise Refused(401, error, WWW_Authenticate='Bearer realm="corral"') from error
        try:
            self._clients.note(request.protocol, client.sharer)
        except Overloaded as error:
            raise Refused(429, error, Connection="close") from error
        tenant = _tenant(request)
        return client if tenant is None else self._access.bind(client, tenant)


def _tenant(request: web.BaseRequest) -> str | None:
    """Returns the tenant that a request names, however its name is encoded; None where it names none."""
    given = request.headers.getall(TENANT_HEADER, [])
    raw = request.rel_url.raw_query_string
    if TENANT_KEY in raw or "%" in raw:  # no other query can name one
        given = given + request.query.getall(TENANT_KEY, [])
    if not given:
        return None
    if len(set(given)) > 1 or not given[0]:
        words = "it is empty" if not given[0] else "it is given twice"
        raise Refused(400, InvalidRequest(f"cannot tell the tenant of the request: {words}", header=TENANT_HEADER))
    return given[0]
