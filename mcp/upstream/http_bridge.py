"""Runs a remote MCP server as a process: JSON-RPC lines on stdin and stdout, streamable HTTP to the server.

The daemon starts `python -m corral.mcp.upstream.http_bridge` for a server with `url`, so that remote servers have the
life cycle of local ones: a crash, a limit and a restart have the same effects. It implements the client side of the
transport of every revision, and must not know messages beyond the needs of the transport: ids, `initialize`,
cancellation, and the tools with arguments in headers. When the server has dropped the session, the process ends with the
reason on stderr, and its supervisor restarts it. Access tokens come over stdin, from the client: see `http_token`.

The address is in CORRAL_MCP_URL and the headers, a JSON object, in CORRAL_MCP_HEADERS; neither is ever printed.
"""

import asyncio
import contextlib
import http
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import aiohttp
from yarl import URL

from corral.worker.contract.codec import as_array, as_object, decode, encode
from corral.worker.contract.errors import (
    CorralError,
    InternalError,
    MethodNotFound,
    Overloaded,
    PermissionDenied,
    ToolFailed,
)
from corral.worker.contract.jsonrpc import CANCELLED, MAX_MESSAGE_BYTES

from ..protocol import messages
from ..protocol.sse import EventStream
from . import http_headers
from .http_client import (
    CONNECT_S,
    STREAM_TYPE,
    HttpClient,
    error_answer,
    events,
    head_of,
    is_forgotten,
    pause_s,
    session_id,
    whole_body,
)
from .http_token import TokenSource, asks, is_challenge

URL_VARIABLE = "CORRAL_MCP_URL"
HEADERS_VARIABLE = "CORRAL_MCP_HEADERS"
TRANSPORT_VARIABLE = "CORRAL_MCP_TRANSPORT"

LISTEN_S = 1.0
"""Seconds for the response to the GET that opens the stream of unsolicited messages.

Messages that a server sends before that stream is open are lost, so it is opened before any request; but some servers
respond only with the first event.
"""

GOODBYE_S = 0.5
"""Seconds for the DELETE that ends a session."""

MAX_RESUMES = 5
"""Number of resumptions in a row without an event after which the response counts as lost."""

MAX_IN_FLIGHT = 1000

MAX_CHALLENGES = 2
"""Number of tokens that are tried for one request after the first was refused: another one, and one with more scopes."""

MAY_BE_OLD = frozenset(range(400, 500)) - {401, 403, 407, 408, 429}
"""HTTP statuses with which a server of 2024-11-05 may refuse a POST: those of the client, but for rights and times."""

Id = str | int
NO_MARKS: Mapping[http_headers.Path, str] = MappingProxyType({})


class Lost(Exception):
    """Raised if the process has to end, with the reason."""


@dataclass
class _PendingRequest:
    method: str
    params: Mapping[str, object]
    modern_version: str | None
    task: asyncio.Task[None] | None = field(default=None)


class HttpBridge:
    """Implements the client side of streamable HTTP for one server."""

    def __init__(
        self,
        url: URL,
        headers: Mapping[str, str],
        write: Callable[[bytes], Awaitable[None]],
        *,
        has_old: bool = False,
        asks_tokens: bool = False,
        listen_s: float = LISTEN_S,
    ) -> None:
        self._server = HttpClient(url, headers)
        self._listen_s = listen_s
        self._write = write
        self._pending: dict[Id, _PendingRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session_id: str | None = None
        self._version: str | None = None
        self._marks: dict[str, dict[http_headers.Path, str]] = {}
        self._has_old = has_old
        self._is_old = False
        self._is_proven = False
        self._tokens = TokenSource(write, is_off=not asks_tokens)
        self._group: asyncio.TaskGroup

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Relays messages until EOF."""
        async with self._server:
            async with asyncio.TaskGroup() as self._group:
                try:
                    while line := await _line(reader):
                        await self._take(line.rstrip(b"\r\n"))
                finally:
                    for task in self._tasks:
                        task.cancel()
            await self._end_session()

    async def _end_session(self) -> None:
        if self._session_id is None:
            return
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, CorralError):
            async with asyncio.timeout(GOODBYE_S):
                (await self._send("DELETE", None, self._legacy_headers())).close()

    # -- from stdin to the server

    async def _take(self, line: bytes) -> None:
        try:
            message = as_object(decode(line)) or {}
        except ValueError as error:
            _log(f"cannot read a line: {error}")
            return
        method, number = message.get("method"), message.get("id")
        params = as_object(message.get("params")) or {}
        if not isinstance(method, str):
            if not self._tokens.take(message):
                self._start(self._post(line))  # an answer to the server
        elif isinstance(number, str | int):
            if len(self._pending) >= MAX_IN_FLIGHT:
                text = f"cannot send the request: {MAX_IN_FLIGHT} wait for their answers"
                await self._fail(number, Overloaded(text, limit=MAX_IN_FLIGHT))
                return
            pending = _PendingRequest(method, params, http_headers.modern_version(params))
            self._pending[number] = pending
            pending.task = self._start(self._run(number, pending, line))
        elif method == CANCELLED:
            self._cancel(params.get("requestId"), line)
        elif method == messages.INITIALIZED:
            # A server may refuse requests before it has received this.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    await self._post(line)
            if not self._is_old:
                listening = asyncio.Event()
                self._start(self._listen(listening))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._listen_s):
                        await listening.wait()
        else:
            self._start(self._post(line))

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _cancel(self, number: object, line: bytes) -> None:
        """Cancels a request: by closing its stream in the modern era, by a notification in the legacy one."""
        pending = self._pending.pop(number, None) if isinstance(number, str | int) else None
        if pending is None:
            return
        if pending.task is not None:
            pending.task.cancel()
        if pending.modern_version is None:
            self._start(self._post(line))

    async def _post(self, line: bytes) -> None:
        try:
            async with await self._send("POST", line, self._legacy_headers()) as response:
                if response.status >= http.HTTPStatus.BAD_REQUEST:
                    body = await head_of(response)
                    if self._session_id is not None and is_forgotten(response.status, body):
                        raise _forgotten(response.status)
                    reason = self._server.described(response.status, body)
                    _log(f"cannot notify the server: {reason}")
        except (aiohttp.ClientError, OSError, CorralError) as error:
            _log(f"cannot notify the server: {self._server.masked(str(error))}")

    async def _run(self, number: Id, pending: _PendingRequest, line: bytes) -> None:
        try:
            await self._ask(number, pending, line)
        except CorralError as error:
            await self._fail(number, error)
            is_denied = isinstance(error, PermissionDenied)
            if self._is_proven and is_denied and error.data.get("reason") == "needs-login":
                raise Lost("the server requires another login") from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
            reason = self._server.masked(str(error)) or type(error).__name__
            text = f"cannot reach {self._server.address}: {reason}"
            unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            await self._fail(number, ToolFailed(text, sent=not unsent))
        finally:
            if self._pending.get(number) is pending and not self._is_old:
                del self._pending[number]

    async def _ask(self, number: Id, pending: _PendingRequest, line: bytes) -> None:
        if pending.method == messages.INITIALIZE:
            self._session_id = self._version = None
        if self._has_old and not self._is_old:
            await self._ask_old(pending, line)
            return
        if pending.modern_version is None:
            headers = self._legacy_headers()
        else:
            marks = NO_MARKS
            if pending.method == messages.CALL:
                marks = self._marks.get(str(pending.params.get("name")), NO_MARKS)
            headers = http_headers.request_headers(pending.modern_version, pending.method, pending.params, marks)
        async with await self._send("POST", line, headers) as response:
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                await self._refused(number, pending, response, line)
                return
            self._is_proven = True
            if pending.method == messages.INITIALIZE:
                self._session_id = session_id(response)
            if self._is_old:
                return  # the answer comes on the one stream
            if response.content_type == STREAM_TYPE:
                await self._follow(number, response, resumes=pending.modern_version is None)
            else:
                await self._deliver(await whole_body(response))
                if number in self._pending:
                    raise ToolFailed(f"cannot read the answer: {response.status} without one", status=response.status)

    async def _refused(
        self, number: Id, pending: _PendingRequest, response: aiohttp.ClientResponse, line: bytes
    ) -> None:
        """Handles an HTTP error for its request: writes a JSON-RPC error, or tries the old transport."""
        status = response.status
        body = await head_of(response)
        answer = error_answer(body)
        is_ours = answer is not None and answer.get("id") == number
        if not is_ours and self._session_id is not None and is_forgotten(status, body):
            raise _forgotten(status)
        if answer is not None:
            await self._answered({"jsonrpc": "2.0", "id": number, "error": answer["error"]})
            return
        may_be_old = pending.method == messages.INITIALIZE and status in MAY_BE_OLD
        if may_be_old and await self._open_old(line):
            return
        raise self._server.error_of(response, body)

    async def _ask_old(self, pending: _PendingRequest, line: bytes) -> None:
        """Opens the transport of 2024-11-05 for `initialize`; it has no other first request."""
        if pending.method != messages.INITIALIZE:
            raise MethodNotFound(f'cannot call "{pending.method}": the server begins with {messages.INITIALIZE}')
        if not await self._open_old(line):
            raise ToolFailed(f"cannot open {self._server.address}: it does not answer a GET with a stream")

    # -- what is sent

    async def _send(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Sends a request with an access token where there is one, and again with another one when the server wants that."""
        for challenges in range(MAX_CHALLENGES + 1):
            token = await self._tokens.current()
            self._server.hide(token)
            own = self._tokens.headers(method, str(self._server.url))
            response = await self._server.send(method, body, {**headers, **own})
            header = ", ".join(response.headers.getall("WWW-Authenticate", []))
            wants_nonce = self._tokens.takes_nonce(response.headers, header)
            is_asked = not self._tokens.is_off and is_challenge(response.status, header)
            if not is_asked or challenges == MAX_CHALLENGES:
                break
            response.close()
            if not wants_nonce:
                await self._tokens.renew(token, response.status, header)
        return response

    def _legacy_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._session_id is not None:
            headers[http_headers.SESSION] = self._session_id
        if self._version is not None:
            headers[http_headers.VERSION] = self._version
        return headers

    # -- from the server to stdout

    async def _deliver(self, data: bytes) -> None:
        """Relays a message, or a batch of them (2025-03-26); invalid ones are logged."""
        try:
            value = decode(data)
        except ValueError as error:
            if data.strip():
                _log(f"cannot read a message of the server: {error}")
            return
        batch = as_array(value)
        if batch is None and as_object(value) is not None:
            await self._pass_on(value, data)
            return
        for one in batch or ():
            await self._pass_on(one, None)

    async def _pass_on(self, value: object, raw: bytes | None) -> None:
        message = as_object(value)
        if message is None or message.get("method") == messages.TOKEN:
            return  # a server has no token to ask for
        number = message.get("id")
        pending = None
        if "method" not in message and isinstance(number, str | int):
            pending = self._pending.pop(number, None)
        if pending is not None and self._learn(pending, message):
            raw = None
        if raw is None or b"\n" in raw or b"\r" in raw:
            raw = encode(message)
        await self._write(raw + b"\n")

    async def _answered(self, message: dict[str, object]) -> None:
        await self._pass_on(message, None)

    async def _fail(self, number: Id, error: CorralError) -> None:
        await self._answered({"jsonrpc": "2.0", "id": number, "error": error.to_wire()})

    def _learn(self, pending: _PendingRequest, message: dict[str, object]) -> bool:
        """Stores facts of a result that later requests need; returns True if it has changed the result."""
        result = as_object(message.get("result"))
        if result is None:
            return False
        if pending.method == messages.INITIALIZE:
            version = result.get("protocolVersion")
            self._version = version if isinstance(version, str) else None
        if pending.method != messages.LIST_TOOLS or pending.modern_version is None:
            return False
        tools = as_array(result.get("tools")) or []
        kept = [tool for tool in tools if self._mark(as_object(tool) or {})]
        result["tools"] = kept
        return len(kept) != len(tools)

    def _mark(self, tool: Mapping[str, object]) -> bool:
        """Stores the marked arguments of a tool; returns False for invalid marks, whose tool is not relayed."""
        name = str(tool.get("name"))
        try:
            marks = http_headers.marks_of(tool.get("inputSchema"))
        except ValueError as error:
            _log(f'cannot offer tool "{name}": {error}')
            self._marks.pop(name, None)
            return False
        if marks:
            self._marks[name] = marks
        else:
            self._marks.pop(name, None)
        return True

    # -- streams

    async def _follow(self, number: Id, response: aiohttp.ClientResponse, *, resumes: bool) -> None:
        """Relays the events of a stream until the response, and resumes it when it breaks."""
        stream = EventStream()
        tries = 0
        try:
            while True:
                known = stream.last_id
                try:
                    async for event in events(response, stream):
                        await self._deliver(event.data)
                        if number not in self._pending:
                            return
                except (aiohttp.ClientError, OSError):
                    if not (resumes and stream.last_id):
                        raise
                tries = 0 if stream.last_id != known else tries + 1
                if not (resumes and stream.last_id) or tries > MAX_RESUMES:
                    raise ToolFailed("cannot finish the request: its stream ended without an answer")
                response.close()
                response = await self._resumed(stream, tries)
        finally:
            response.close()

    async def _resumed(self, stream: EventStream, tries: int) -> aiohttp.ClientResponse:
        for number in range(tries, MAX_RESUMES + 1):
            await asyncio.sleep(pause_s(stream, number))
            try:
                response = await self._open_stream(stream.last_id)
            except (aiohttp.ClientError, OSError):
                continue
            if response.status == http.HTTPStatus.OK and response.content_type == STREAM_TYPE:
                return response
            response.close()
            if response.status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                break
        raise ToolFailed("cannot finish the request: its stream broke off and cannot be taken up")

    async def _open_stream(self, last_id: str) -> aiohttp.ClientResponse:
        headers = self._legacy_headers()
        if last_id:
            headers["Last-Event-ID"] = last_id
        return await self._send("GET", None, headers)

    async def _listen(self, listening: asyncio.Event) -> None:
        """Keeps the stream of a legacy server's unsolicited messages open; many servers have none."""
        stream = EventStream()
        tries = 0
        while True:
            try:
                async with await self._open_stream(stream.last_id) as response:
                    listening.set()
                    if response.status < 500 and response.content_type != STREAM_TYPE:
                        return
                    if response.status == http.HTTPStatus.OK:
                        async for event in events(response, stream):
                            tries = 0
                            await self._deliver(event.data)
            except (aiohttp.ClientError, OSError):
                pass  # it is resumed below
            except CorralError as error:
                _log(f"cannot listen to the server: {error.message}")
                return
            finally:
                listening.set()
            await asyncio.sleep(pause_s(stream, tries))
            tries += 1

    async def _open_old(self, line: bytes) -> bool:
        """Opens the transport of 2024-11-05 and posts the message there; returns False if the server has none."""
        async with asyncio.timeout(CONNECT_S):
            response = await self._open_stream("")
        if response.status != http.HTTPStatus.OK or response.content_type != STREAM_TYPE:
            response.close()
            return False
        opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._start(self._follow_old(response, opened))
        async with asyncio.timeout(CONNECT_S):
            if not await opened:
                return False
        async with await self._send("POST", line, {}) as answer:
            if answer.status >= http.HTTPStatus.BAD_REQUEST:
                raise self._server.error_of(answer, await head_of(answer))
        self._is_proven = True
        return True

    async def _follow_old(self, response: aiohttp.ClientResponse, opened: asyncio.Future[bool]) -> None:
        try:
            async for event in events(response, EventStream()):
                if not opened.done():
                    url = self._server.url.join(URL(event.data.decode("utf-8", "replace")))
                    self._is_old = event.name == "endpoint" and url.origin() == self._server.address
                    if self._is_old:
                        self._server.url = url
                    opened.set_result(self._is_old)
                    if not self._is_old:
                        return
                else:
                    await self._deliver(event.data)
        except (aiohttp.ClientError, OSError, CorralError) as error:
            _log(f"the stream has broken off: {self._server.masked(str(error))}")
        finally:
            response.close()
            if not opened.done():
                opened.set_result(False)
        raise Lost(f"the stream of {self._server.address} has ended")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:
        raise Lost(f"a line on stdin is longer than {MAX_MESSAGE_BYTES} bytes") from error


def _forgotten(status: int) -> Lost:
    return Lost(f"the server has forgotten the session (HTTP {status})")


# -- the process


async def serve(url: URL, headers: Mapping[str, str], read_fd: int, write_fd: int) -> int:
    """Relays messages between the two pipes and the server; returns the exit status."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES + 2)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", buffering=0))
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(write_fd, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)

    async def write(line: bytes) -> None:
        try:
            writer.write(line)
            await writer.drain()
        except ConnectionError as error:
            raise Lost("stdout is closed") from error

    status = 0
    try:
        bridge = HttpBridge(
            url, headers, write, has_old=os.environ.get(TRANSPORT_VARIABLE) == "sse", asks_tokens=asks(os.environ)
        )
        await bridge.run(reader)
    except* Lost as losses:
        _log(f"cannot go on: {losses.exceptions[0]}")
        status = 1
    return status


def read_environment(environ: Mapping[str, str]) -> tuple[URL, dict[str, str]]:
    """Returns the address and the headers."""
    try:
        url = URL(environ.get(URL_VARIABLE, ""))
        given = as_object(decode(environ.get(HEADERS_VARIABLE, "{}").encode()))
    except ValueError:
        url, given = URL(), None
    if url.scheme not in ("http", "https") or not url.host:
        raise InternalError(f"cannot start: {URL_VARIABLE} is not the address of a server")
    if given is None or not all(isinstance(value, str) for value in given.values()):
        raise InternalError(f"cannot start: {HEADERS_VARIABLE} is not a JSON object of strings")
    return url, {name: str(value) for name, value in given.items()}


def _log(text: str) -> None:
    """Writes a line to stderr, which is the log of the server; the prefix is the one of all versions."""
    with contextlib.suppress(OSError, ValueError):  # stderr is closed, or nothing reads it
        print(f"corral.mcp.remote: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Runs until EOF on stdin (0), the session is lost (1), or not at all (2)."""
    # A netrc file must not apply: the server gets only the configured headers.
    os.environ["NETRC"] = os.devnull
    try:
        url, headers = read_environment(os.environ)
    except CorralError as error:
        _log(error.message)
        os._exit(2)
    # Not asyncio.run, which would wait for threads in name resolution.
    os._exit(asyncio.new_event_loop().run_until_complete(serve(url, headers, 0, 1)))


if __name__ == "__main__":
    main()
