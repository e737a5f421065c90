"""Serves MCP over streamable HTTP: https://modelcontextprotocol.io/specification (transports).

Clients of the legacy era have a session, whose requests go on
when a connection breaks, and whose streams can be taken up again; a modern request stands for itself, and ends with its connection.
All of it is bounded: sessions, requests, streams and the events kept for clients that come back.

This module must not know the pool or the daemon: it serves the tools that it is given.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import cast

from aiohttp import web

from corral.mcp.endpoint.request import unsupported_version
from corral.mcp.endpoint.server import McpEndpoint
from corral.mcp.protocol.messages import (
    BATCHING_VERSION,
    INITIALIZE,
    LEGACY_VERSIONS,
    LISTEN,
    META,
    MODERN_VERSIONS,
    Caller,
)
from corral.mcp.upstream import http_headers
from corral.worker.contract import codec
from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import (
    CorralError,
    InternalError,
    InvalidRequest,
    MethodNotFound,
    NotFound,
    Overloaded,
    ParseError,
)

from ..http.answers import Refused as HttpRefused
from ..http.answers import read_body
from ..http.credentials import TOKEN_BYTES
from ..http.event_sender import GREETING, send
from ..http.face import HttpClient
from ..http.sse import Stream, place_of
from .mcp_request import (
    LAST_EVENT,
    HttpTools,
    ViewQuery,
    accepted_types,
    check_headers,
    client_name,
    version_of,
    view_query,
)
from .mcp_session import MAX_SESSIONS, HttpSession, HttpSessions, Id, Refused, Reply, RpcRequest, failure, read_request

PATH = "/mcp"

DEFER_S = 0.25
"""Seconds to wait for an answer before a stream is begun for it; one that comes sooner needs none."""

IDLE_S = 1800.0
"""Seconds that a session is kept without any request or stream."""

SWEEP_S = 30.0

MAX_REQUESTS = 256
"""Number of requests under way in one session, and of its streams that are not finished."""

MAX_MODERN = 1024
"""Number of requests of modern clients under way."""

MAX_BATCH = 100


SINCE_PRIMED = "2025-11-25"
"""The first revision in which a client knows events without data."""

STATUS = {-32700: 400, -32600: 400, -32602: 400, -32020: 400, -32021: 400, -32022: 400, -32601: 404}
"""The status of an answer to a modern request by its error code; others, and results, are 200."""

CLOSE_S = 1.0
"""Seconds that requests that are cancelled may take to end."""

Offer = Callable[[ViewQuery, Caller, HttpClient], HttpTools]
"""Makes the tools of a client with such a query; raises CorralError, NotFound of an unknown profile."""


class McpFace:
    """Serves MCP."""

    prefix = PATH
    open = False

    def __init__(self, offer: Offer, *, version: str, max_sessions: int = MAX_SESSIONS) -> None:
        self._offer = offer
        self._version = version
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sessions = HttpSessions(max_sessions)
        self._modern: dict[asyncio.Task[None], bool] = {}
        """Requests under way, each with whether it listens, and so ends by itself when its endpoint is closed."""
        self._endpoints: set[McpEndpoint] = set()
        self._is_closing = False
        self._sweep()

    async def close(self) -> None:
        """Ends every session and every stream."""
        self._is_closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for endpoint in list(self._endpoints):
            endpoint.close()  # listening requests are answered
        tasks = list(self._modern)
        for task, listens in self._modern.items():
            if not listens:
                task.cancel()
        for session in list(self._sessions):
            tasks += session.running.values()
            self._sessions.end(session)
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _sweep(self) -> None:
        """Ends idle sessions, again and again."""
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        self._sessions.end_idle(self._loop.time() - IDLE_S)

    # -- one HTTP request

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers one request; errors are those of JSON-RPC."""
        try:
            if request.path != PATH:
                raise Refused(404, NotFound(f'cannot find "{request.path}"; MCP is at "{PATH}"'))
            if request.method == "POST":
                return await self._post(request, client)
            if request.method == "GET":
                return await self._get(request, client)
            if request.method == "DELETE":
                self._sessions.end(self._session(request, client))
                return web.Response(status=204)
            raise Refused(405, MethodNotFound(f"cannot serve {request.method}"), Allow="GET, POST, DELETE")
        except Refused as refused:
            return _json(failure(refused.request_id, refused.error), refused.status, refused.headers)
        except HttpRefused as refused:
            return _json(failure(None, refused.error), refused.status, refused.headers)

    async def _post(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        if request.content_type != "application/json" or "Content-Encoding" in request.headers:
            raise Refused(415, InvalidRequest("cannot read the body: it is no plain application/json"))
        takes = accepted_types(request)
        if not takes:
            text = "cannot answer: the client takes neither application/json nor text/event-stream"
            raise Refused(406, InvalidRequest(text))
        try:
            message = codec.decode(await read_body(request))
        except ValueError as error:
            raise Refused(400, ParseError(f"cannot read the body as JSON: {error}")) from error
        fields = as_object(message)
        version = request.headers.get(http_headers.VERSION, "").strip()
        if fields is not None and ((version and version not in LEGACY_VERSIONS) or version_of(fields) is not None):
            return await self._modern_post(request, fields, takes, client)
        if fields is not None and fields.get("method") == INITIALIZE:
            return await self._initialize(request, fields, client)
        return await self._legacy_post(request, message, takes, client)

    # -- the modern era

    async def _modern_post(
        self, request: web.BaseRequest, message: dict[str, object], takes: frozenset[str], client: HttpClient
    ) -> web.StreamResponse:
        if "id" not in message and isinstance(message.get("method"), str):
            version = request.headers.get(http_headers.VERSION, "").strip()
            if version not in MODERN_VERSIONS:
                raise Refused(400, unsupported_version(version))
            return web.Response(status=202)  # there is none that concerns us
        rpc = read_request(message)
        meta = as_object(rpc.params.get("_meta")) or {}
        caller = Caller(name=client_name(meta.get(META + "clientInfo")), sharer="http clients")
        try:
            client_tools = self._offer(view_query(request), caller, client)
            check_headers(request, rpc, client_tools)
        except CorralError as error:
            raise Refused(400, error, request_id=rpc.id) from error
        streams = "text/event-stream" in takes
        if rpc.method == LISTEN and not streams:
            text = "cannot listen: the client takes no text/event-stream"
            raise Refused(406, InvalidRequest(text), request_id=rpc.id)
        if len(self._modern) >= MAX_MODERN:
            full = Overloaded(f"cannot serve more than {MAX_MODERN} requests", retry_after_s=1)
            raise Refused(503, full, request_id=rpc.id, Retry_After="1")
        endpoint = McpEndpoint(client_tools, version=self._version, caller=caller, tasks=client_tools.tasks)
        reply = Reply(Stream(0, keeps=False) if streams else None)
        task = self._loop.create_task(reply.answer(endpoint, rpc))
        task.add_done_callback(lambda task: reply.give_up() if task.cancelled() else None)
        self._modern[task] = rpc.method == LISTEN
        self._endpoints.add(endpoint)
        try:
            if await reply.is_short():
                if not reply.answers:
                    ending = Overloaded("cannot finish the request: the daemon is stopping")
                    raise Refused(503, ending, request_id=rpc.id)
                code = (as_object(reply.answers[0].get("error")) or {}).get("code")
                return _json(reply.answers[0], STATUS.get(cast("int", code), 200))  # None is no key
            return await self._stream(request, reply.begin())
        except (asyncio.CancelledError, ConnectionError):
            if not self._is_closing:  # hanging up is how a client of this era withdraws a request
                task.cancel("the client has hung up")
            raise
        finally:
            task.cancel()  # the daemon ends, or it has ended by itself
            self._modern.pop(task, None)
            self._endpoints.discard(endpoint)
            endpoint.close()

    # -- the legacy era

    async def _initialize(
        self, request: web.BaseRequest, message: dict[str, object], client: HttpClient
    ) -> web.StreamResponse:
        rpc = read_request(message)
        self._sessions.make_room(rpc.id)
        session_id = secrets.token_urlsafe(TOKEN_BYTES)
        caller = Caller(name=client_name(rpc.params.get("clientInfo")), sharer=f"http {session_id[:8]}")
        try:
            client_tools = self._offer(view_query(request), caller, client)
        except CorralError as error:
            raise Refused(400, error, request_id=rpc.id) from error
        session = HttpSession(
            session_id, client_tools, caller, self._version, owner=client.owner, tasks=client_tools.tasks
        )
        reply = Reply(None)
        await reply.answer(session.endpoint, rpc)
        if "error" in reply.answers[0]:
            return _json(reply.answers[0])
        self._sessions.add(session)
        return _json(reply.answers[0], headers={http_headers.SESSION: session_id})

    def _session(self, request: web.BaseRequest, client: HttpClient) -> "HttpSession":
        session_id = request.headers.get(http_headers.SESSION)
        if session_id is None:
            raise Refused(400, InvalidRequest(f"cannot serve the request without {http_headers.SESSION}"))
        session = self._sessions.find(session_id)
        if session is None or session.owner != client.owner:
            raise Refused(404, NotFound("cannot find the session: it has ended"))
        version = request.headers.get(http_headers.VERSION, "").strip()
        if version and version not in LEGACY_VERSIONS:
            raise Refused(400, unsupported_version(version))
        self._sessions.note_use(session)
        return session

    async def _legacy_post(
        self, request: web.BaseRequest, message: object, takes: frozenset[str], client: HttpClient
    ) -> web.StreamResponse:
        session = self._session(request, client)
        batch = as_array(message)
        if batch is not None and (session.endpoint.version != BATCHING_VERSION or not 0 < len(batch) <= MAX_BATCH):
            raise Refused(400, InvalidRequest("cannot take the batch"))
        questions: list[RpcRequest] = []
        for each in [message] if batch is None else batch:
            fields = as_object(each)
            if fields is not None and "id" in fields and "method" in fields:
                questions.append(read_request(fields))
            else:
                session.take(fields)
        if not questions:
            return web.Response(status=202)
        ids = {question.id for question in questions}
        if len(ids) < len(questions) or not session.running.keys().isdisjoint(ids):
            raise Refused(400, InvalidRequest("cannot take the request: its id is in use"), request_id=questions[0].id)
        if len(session.running) + len(questions) > MAX_REQUESTS:
            full = Overloaded(f"cannot take more than {MAX_REQUESTS} requests", retry_after_s=1)
            raise Refused(429, full, request_id=questions[0].id, Retry_After="1")
        stream = session.new_stream() if "text/event-stream" in takes else None
        reply = Reply(stream, session, expected=len(questions), on_finished=self._sessions.keep)
        tasks = [session.start(reply, question) for question in questions]
        is_short = True
        try:
            is_short = await reply.is_short(None if stream is None else DEFER_S)
        except asyncio.CancelledError:  # without a stream no client can come back for the answer
            for task in tasks:
                task.cancel()
            raise
        finally:
            if is_short and stream is not None:
                session.streams.pop(stream.number)
        if stream is None or is_short:
            if not reply.answers:  # it was withdrawn
                return web.Response(status=202)
            return _json(reply.answers if batch is not None else reply.answers[0])
        if session.endpoint.version >= SINCE_PRIMED:
            stream.prime()
        return await self._stream(request, reply.begin())

    async def _get(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        version = request.headers.get(http_headers.VERSION, "").strip()
        if version in MODERN_VERSIONS:
            raise Refused(405, MethodNotFound("cannot serve GET in this revision"), Allow="POST")
        if "text/event-stream" not in accepted_types(request):
            raise Refused(406, InvalidRequest("cannot stream: the client takes no text/event-stream"))
        session = self._session(request, client)
        last = request.headers.get(LAST_EVENT)
        place = (0, None) if last is None else place_of(last)
        stream = None if place is None else session.streams.get(place[0])
        if place is None or stream is None:
            raise Refused(400, NotFound(f"cannot go on after event {last!r}: it is not kept"))
        return await self._stream(request, stream, after=place[1], greeting=GREETING)

    # -- streams

    async def _stream(
        self, request: web.BaseRequest, stream: Stream, *, after: int | None = None, greeting: bytes = b""
    ) -> web.StreamResponse:
        return await send(request, _chunks(stream, after, greeting))


async def _chunks(stream: Stream, after: int | None, greeting: bytes) -> AsyncGenerator[bytes, None]:
    if greeting:  # so that its headers are sent
        yield greeting
    async with contextlib.aclosing(stream.read(after)) as events:
        async for data in events:
            yield data
    if stream.is_broken:
        raise ConnectionResetError("the client does not read")


# -- answers


def _json(message: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    try:
        body = codec.encode(message)
    except ValueError as error:
        fields = as_object(message) or {}
        fault = InternalError(f"cannot send the result: {error}")
        body = codec.encode(failure(cast("Id | None", fields.get("id")), fault))  # it was read from JSON
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
