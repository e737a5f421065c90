"""A remote MCP server as a process: JSON-RPC lines on stdin and stdout, streamable HTTP to the server.

`python -m corral.mcp.upstream.http_bridge` is what the daemon starts for a server with `url`, so that remote servers have the one
life that local ones have: a crash, a limit and a restart mean the same. It speaks the client's half of the transport
of every revision and knows nothing of what is said, but for what the transport itself needs: ids, `initialize`,
cancellation, and the tools that want arguments in headers. When the server has forgotten the session the process ends
with the reason on stderr, and whoever keeps it starts it anew. OAuth is not spoken: a token belongs into a header.

The address is in CORRAL_MCP_URL and the headers, a JSON object, in CORRAL_MCP_HEADERS; neither is ever printed.
"""

import asyncio
import contextlib
import http
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import aiohttp
from yarl import URL

from ...worker.contract.codec import as_array, as_object, decode, encode
from ...worker.contract.errors import (
    CorralError,
    InternalError,
    Overloaded,
    ToolFailed,
)
from ...worker.contract.jsonrpc import CANCELLED, MAX_MESSAGE_BYTES
from ..protocol import messages
from ..protocol.sse import Event, EventStream
from . import http_headers
from .http_client import CONNECT_S, RETRY_S, STREAM_TYPE, HttpClient, head_of, whole_body

URL_VARIABLE = "CORRAL_MCP_URL"
HEADERS_VARIABLE = "CORRAL_MCP_HEADERS"

LISTEN_S = 1.0
"""For the answer to the request for the stream of what nobody asked.

What a server says before that stream is open is lost, so that it is opened before anything is asked; but there are servers
that answer only with the first event.
"""

GOODBYE_S = 0.5
"""For the DELETE that ends a session."""

MAX_RETRY_S = 30.0
"""Before a stream that broke off is taken up again: RETRY_S at first, or what the server says, and doubled up to this."""

MAX_RESUMES = 5
"""In a row, without anything heard in between, before the answer counts as lost."""

MAX_IN_FLIGHT = 1000

Id = str | int
NO_MARKS: Mapping[http_headers.Path, str] = MappingProxyType({})


class Lost(Exception):
    """The process has to end, for this reason."""


@dataclass
class _Exchange:
    """A request whose answer is out."""

    method: str
    params: Mapping[str, object]
    modern_version: str | None
    task: asyncio.Task[None] | None = field(default=None)


class Remote:
    """The client's half of streamable HTTP for one server.

    Args:
        url: of the MCP endpoint.
        headers: for every request; those of the protocol win over them.
        write: takes one line for whoever asks, and waits while he does not read.
        listen_s: how long what is asked first waits for the stream of what nobody asked.
    """

    def __init__(
        self,
        url: URL,
        headers: Mapping[str, str],
        write: Callable[[bytes], Awaitable[None]],
        *,
        listen_s: float = LISTEN_S,
    ) -> None:
        self._server = HttpClient(url, headers)
        self._listen_s = listen_s
        self._write = write
        self._exchanges: dict[Id, _Exchange] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session_id: str | None = None
        self._version: str | None = None
        self._marks: dict[str, dict[http_headers.Path, str]] = {}
        self._is_old = False
        self._group: asyncio.TaskGroup

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Carries messages until there are no more to carry.

        Raises:
            BaseExceptionGroup: with `Lost`, when the server has to be greeted anew.
        """
        async with self._server:
            async with asyncio.TaskGroup() as self._group:
                try:
                    while line := await _line(reader):
                        await self._take(line.rstrip(b"\r\n"))
                finally:
                    for task in self._tasks:
                        task.cancel()
            await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        if self._session_id is None:
            return
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, CorralError):
            async with asyncio.timeout(GOODBYE_S):
                (await self._server.send("DELETE", None, self._legacy_headers())).close()

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
            self._start(self._tell(line))  # an answer to the server
        elif isinstance(number, str | int):
            if len(self._exchanges) >= MAX_IN_FLIGHT:
                text = f"cannot send the request: {MAX_IN_FLIGHT} wait for their answers"
                await self._fail(number, Overloaded(text, limit=MAX_IN_FLIGHT))
                return
            exchange = _Exchange(method, params, http_headers.modern_version(params))
            self._exchanges[number] = exchange
            exchange.task = self._start(self._exchange(number, exchange, line))
        elif method == CANCELLED:
            self._cancel(params.get("requestId"), line)
        elif method == messages.INITIALIZED:
            # What follows may be refused by a server that has not heard it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    await self._tell(line)
            if not self._is_old:
                listening = asyncio.Event()
                self._start(self._listen(listening))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._listen_s):
                        await listening.wait()
        else:
            self._start(self._tell(line))

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _cancel(self, number: object, line: bytes) -> None:
        """Closing its stream cancels a request of the modern era; in the legacy one that must be said."""
        exchange = self._exchanges.pop(number, None) if isinstance(number, str | int) else None
        if exchange is None:
            return
        if exchange.task is not None:
            exchange.task.cancel()
        if exchange.modern_version is None:
            self._start(self._tell(line))

    async def _tell(self, line: bytes) -> None:
        """Posts what gets no answer; what cannot be told is logged, and a server that misses it will say so."""
        try:
            async with await self._server.send("POST", line, self._legacy_headers()) as response:
                if response.status >= http.HTTPStatus.BAD_REQUEST:
                    body = await head_of(response)
                    if self._session_id is not None and _is_forgotten(response.status, body):
                        raise _forgotten(response.status)
                    reason = self._server.described(response.status, body)
                    _log(f"cannot tell the server: {reason}")
        except (aiohttp.ClientError, OSError, CorralError) as error:
            _log(f"cannot tell the server: {self._server.masked(str(error))}")

    async def _exchange(self, number: Id, exchange: _Exchange, line: bytes) -> None:
        try:
            await self._ask(number, exchange, line)
        except CorralError as error:
            await self._fail(number, error)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
            reason = self._server.masked(str(error)) or type(error).__name__
            text = f"cannot reach {self._server.address}: {reason}"
            unsent = isinstance(
                error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError
            )
            await self._fail(number, ToolFailed(text, sent=not unsent))
        finally:
            if self._exchanges.get(number) is exchange and not self._is_old:
                del self._exchanges[number]

    async def _ask(self, number: Id, exchange: _Exchange, line: bytes) -> None:
        if exchange.method == messages.INITIALIZE:
            self._session_id = self._version = None
        if exchange.modern_version is None:
            headers = self._legacy_headers()
        else:
            marks = NO_MARKS
            if exchange.method == messages.CALL:
                marks = self._marks.get(str(exchange.params.get("name")), NO_MARKS)
            headers = http_headers.request_headers(
                exchange.modern_version, exchange.method, exchange.params, marks
            )
        async with await self._server.send("POST", line, headers) as response:
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                await self._refused(number, exchange, response, line)
                return
            if exchange.method == messages.INITIALIZE:
                self._session_id = _session_id(response)
            if self._is_old:
                return  # the answer comes on the one stream
            if response.content_type == STREAM_TYPE:
                await self._follow(number, response, resumes=exchange.modern_version is None)
            else:
                await self._deliver(await whole_body(response))
                if number in self._exchanges:
                    text = f"cannot read the answer: {response.status} without one"
                    raise ToolFailed(text, status=response.status)

    async def _refused(
        self, number: Id, exchange: _Exchange, response: aiohttp.ClientResponse, line: bytes
    ) -> None:
        """Says what an HTTP error means for the request it answers.

        Raises:
            Lost: the session is gone.
            CorralError: what the caller is told.
        """
        status = response.status
        body = await head_of(response)
        answer = _error_answer(body)
        is_ours = answer is not None and answer.get("id") == number
        if not is_ours and self._session_id is not None and _is_forgotten(status, body):
            raise _forgotten(status)
        if answer is not None:
            await self._answered({"jsonrpc": "2.0", "id": number, "error": answer["error"]})
            return
        may_be_old = exchange.method == messages.INITIALIZE and status in (400, 404, 405)
        if may_be_old and await self._open_old(line):
            return
        raise self._server.error_of(response, body)

    # -- what is sent

    def _legacy_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._session_id is not None:
            headers[http_headers.SESSION] = self._session_id
        if self._version is not None:
            headers[http_headers.VERSION] = self._version
        return headers

    # -- from the server to stdout

    async def _deliver(self, data: bytes) -> None:
        """Passes on a message, or a batch of them (2025-03-26); what is none goes to the log."""
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
        if message is None:
            return
        number = message.get("id")
        exchange = None
        if "method" not in message and isinstance(number, str | int):
            exchange = self._exchanges.pop(number, None)
        if exchange is not None and self._learn(exchange, message):
            raw = None
        if raw is None or b"\n" in raw or b"\r" in raw:
            raw = encode(message)
        await self._write(raw + b"\n")

    async def _answered(self, message: dict[str, object]) -> None:
        await self._pass_on(message, None)

    async def _fail(self, number: Id, error: CorralError) -> None:
        await self._answered({"jsonrpc": "2.0", "id": number, "error": error.to_wire()})

    def _learn(self, exchange: _Exchange, message: dict[str, object]) -> bool:
        """Keeps what later messages need; whether it has changed this one."""
        result = as_object(message.get("result"))
        if result is None:
            return False
        if exchange.method == messages.INITIALIZE:
            version = result.get("protocolVersion")
            self._version = version if isinstance(version, str) else None
        if exchange.method != messages.LIST_TOOLS or exchange.modern_version is None:
            return False
        tools = as_array(result.get("tools")) or []
        kept = [tool for tool in tools if self._mark(as_object(tool) or {})]
        result["tools"] = kept
        return len(kept) != len(tools)

    def _mark(self, tool: Mapping[str, object]) -> bool:
        """Notes what the tool wants mirrored; one that wants what must not be is not passed on."""
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
        """Delivers what comes on a stream until it has brought the answer, and again after it broke off."""
        stream = EventStream()
        tries = 0
        try:
            while True:
                known = stream.last_id
                try:
                    async for event in _events(response, stream):
                        await self._deliver(event.data)
                        if number not in self._exchanges:
                            return
                except (aiohttp.ClientError, OSError):
                    if not (resumes and stream.last_id):
                        raise
                tries = 0 if stream.last_id != known else tries + 1
                if not (resumes and stream.last_id) or tries > MAX_RESUMES:
                    raise ToolFailed(
                        "cannot finish the request: its stream ended without an answer"
                    )
                response.close()
                response = await self._resumed(stream, tries)
        finally:
            response.close()

    async def _resumed(self, stream: EventStream, tries: int) -> aiohttp.ClientResponse:
        """The rest of a stream, once the server wants to be asked for it."""
        for number in range(tries, MAX_RESUMES + 1):
            await asyncio.sleep(_pause_s(stream, number))
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
        return await self._server.send("GET", None, headers)

    async def _listen(self, listening: asyncio.Event) -> None:
        """Keeps the stream open on which a legacy server says what nobody asked; many have none."""
        stream = EventStream()
        tries = 0
        while True:
            try:
                async with await self._open_stream(stream.last_id) as response:
                    listening.set()
                    if response.status < 500 and response.content_type != STREAM_TYPE:
                        return
                    if response.status == http.HTTPStatus.OK:
                        async for event in _events(response, stream):
                            tries = 0
                            await self._deliver(event.data)
            except (aiohttp.ClientError, OSError):
                pass  # it is taken up again
            except CorralError as error:
                _log(f"cannot listen to the server: {error.message}")
                return
            finally:
                listening.set()
            await asyncio.sleep(_pause_s(stream, tries))
            tries += 1

    async def _open_old(self, line: bytes) -> bool:
        """Whether the server speaks the transport of 2024-11-05; then the message goes where it wants it."""
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
        async with await self._server.send("POST", line, {}) as answer:
            if answer.status >= http.HTTPStatus.BAD_REQUEST:
                raise self._server.error_of(answer, await head_of(answer))
        return True

    async def _follow_old(
        self, response: aiohttp.ClientResponse, opened: asyncio.Future[bool]
    ) -> None:
        try:
            async for event in _events(response, EventStream()):
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


def _is_forgotten(status: int, body: bytes) -> bool:
    """Whether an HTTP error about no request in particular means the session; many servers say 400 for 404."""
    if status == http.HTTPStatus.BAD_REQUEST:
        return re.search(rb"session|not initialized", body, re.IGNORECASE) is not None
    return status == http.HTTPStatus.NOT_FOUND


def _pause_s(stream: EventStream, tries: int) -> float:
    base_s = RETRY_S if stream.retry_s is None else stream.retry_s
    return min(base_s * 2.0 ** min(tries, 10), max(MAX_RETRY_S, base_s))


def _session_id(response: aiohttp.ClientResponse) -> str | None:
    """The session that the server opened; None for a server without sessions."""
    given = response.headers.get(http_headers.SESSION)
    if given is not None and not all("\x21" <= one <= "\x7e" for one in given):
        raise ToolFailed("cannot open a session: its id is not visible ASCII")
    return given or None


def _error_answer(body: bytes) -> dict[str, object] | None:
    """The JSON-RPC error in the body of an HTTP error, if there is one."""
    try:
        message = as_object(decode(body)) or {}
    except ValueError:
        return None
    error = as_object(message.get("error"))
    return message if error is not None and isinstance(error.get("code"), int) else None


async def _events(
    response: aiohttp.ClientResponse, stream: EventStream
) -> AsyncGenerator[Event, None]:
    async for chunk in response.content.iter_any():
        for event in stream.feed(chunk):
            yield event


# -- the process


async def serve(url: URL, headers: Mapping[str, str], read_fd: int, write_fd: int) -> int:
    """Carries messages between the two pipes and the server; returns the exit status."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES + 2)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", buffering=0)
    )
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(write_fd, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)

    async def write(line: bytes) -> None:
        try:
            writer.write(line)
            await writer.drain()
        except ConnectionError as error:
            raise Lost("nobody reads stdout") from error

    status = 0
    try:
        await Remote(url, headers, write).run(reader)
    except* Lost as losses:
        _log(f"cannot go on: {losses.exceptions[0]}")
        status = 1
    return status


def read_environment(environ: Mapping[str, str]) -> tuple[URL, dict[str, str]]:
    """The address and the headers.

    Raises:
        InternalError: they are not as the daemon gives them; the message has no value in it.
    """
    try:
        url = URL(environ.get(URL_VARIABLE, ""))
        given = as_object(decode(environ.get(HEADERS_VARIABLE, "{}").encode()))
    except ValueError:
        url, given = URL(), None
    if url.scheme not in ("http", "https") or not url.host:
        raise InternalError(f"cannot start: {URL_VARIABLE} is no address of a server")
    if given is None or not all(isinstance(value, str) for value in given.values()):
        raise InternalError(f"cannot start: {HEADERS_VARIABLE} is no JSON object of strings")
    return url, {name: str(value) for name, value in given.items()}


def _log(text: str) -> None:
    """Writes a line to stderr, which is the log of the server; the prefix is the one of all versions."""
    with contextlib.suppress(OSError, ValueError):  # stderr is closed, or nothing reads it
        print(f"corral.mcp.remote: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Runs until EOF on stdin (0), the session is lost (1), or not at all (2)."""
    # A netrc file is for people's own programs: the server gets the headers that were configured, no others.
    os.environ["NETRC"] = os.devnull
    try:
        url, headers = read_environment(os.environ)
    except CorralError as error:
        _log(error.message)
        os._exit(2)
    # Not asyncio.run: it would wait for threads that look up a name.
    loop = asyncio.new_event_loop()
    status = loop.run_until_complete(serve(url, headers, 0, 1))
    os._exit(status)


if __name__ == "__main__":
    main()
