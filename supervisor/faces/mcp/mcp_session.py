"""Runs the requests of HTTP clients, apart from HTTP: sessions of the legacy era, and replies.

An `HttpSession` is a session of MCP; their number and the bytes kept for them are bounded. Its requests go on when their
connection breaks: their notifications and answers are in their `Stream`. A `Reply` is the answer to one POST.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast

from corral.mcp.endpoint.request import Provider, TaskSource
from corral.mcp.endpoint.server import McpEndpoint
from corral.mcp.protocol.messages import Caller
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import (
    CorralError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    Overloaded,
    Timeout,
    from_wire,
)

from ..http.answers import Refused as HttpRefused
from ..http.sse import Stream

ASK_S = 600.0
"""Seconds that a client may take to answer a request of a server."""

KEPT_BYTES = 32 * 1024 * 1024
"""Bytes kept of finished streams, of all sessions together, for clients that lost them."""

KEPT_STREAMS = 1000

MAX_SESSIONS = 256

Id = str | int

logger = logging.getLogger(__name__)


class Refused(HttpRefused):
    """Raised about a request of MCP that is answered by HTTP alone."""

    def __init__(self, status: int, error: CorralError, *, request_id: Id | None = None, **headers: str) -> None:
        super().__init__(status, error, **headers)
        self.request_id = request_id


class RpcRequest(NamedTuple):
    """Represents a request of JSON-RPC."""

    id: Id
    method: str
    params: dict[str, object]


class HttpSession:
    """Represents the session of one legacy client."""

    def __init__(
        self,
        session_id: str,
        client_tools: Provider,
        caller: Caller,
        version: str,
        *,
        owner: str,
        tasks: TaskSource | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.id = session_id
        self.owner = owner
        self.endpoint = McpEndpoint(client_tools, version=version, caller=caller, notify=self._notify, tasks=tasks)
        self.streams: dict[int, Stream] = {0: Stream(0, keeps=True)}
        """Number 0 is for messages that belong to no request."""
        self.running: dict[Id, asyncio.Task[None]] = {}
        self.used_at = self._loop.time()
        self._asks: dict[str, asyncio.Future[object]] = {}
        self._last_stream = 0
        self._last_ask = 0

    @property
    def is_idle(self) -> bool:
        """Returns whether no request is under way, and no client listens."""
        return not self.running and not any(stream.is_read for stream in self.streams.values())

    def new_stream(self) -> Stream:
        """Makes one more stream."""
        self._last_stream += 1
        stream = self.streams[self._last_stream] = Stream(self._last_stream, keeps=True)
        return stream

    def start(self, reply: "Reply", rpc: RpcRequest) -> asyncio.Task[None]:
        """Begins to serve a request; it goes on when its connection breaks."""
        task = self._loop.create_task(reply.answer(self.endpoint, rpc))
        self.running[rpc.id] = task

        def done(task: asyncio.Task[None]) -> None:
            del self.running[rpc.id]
            self.used_at = self._loop.time()
            if task.cancelled():
                reply.give_up()

        task.add_done_callback(done)
        return task

    def take(self, message: dict[str, object] | None) -> None:
        """Takes a notification, or an answer to a request of ours."""
        if message is None or message.get("jsonrpc") != "2.0":
            raise Refused(400, InvalidRequest("cannot read the body as a message of JSON-RPC"))
        method, params = message.get("method"), as_object(message.get("params")) or {}
        if method == "notifications/cancelled":
            request_id = params.get("requestId")
            is_id = isinstance(request_id, str | int) and not isinstance(request_id, bool)
            if is_id and request_id in self.running:
                # With a reason, which the handler can tell from a client that is only gone.
                self.running[request_id].cancel(str(params.get("reason") or ""))
        elif isinstance(method, str):
            self.endpoint.handle_notification(method, params)
        elif "result" in message or "error" in message:
            answer = self._asks.get(str(message.get("id")))
            if answer is not None and not answer.done():
                if message.get("error") is not None:
                    answer.set_exception(from_wire(message["error"]))
                else:
                    answer.set_result(message.get("result"))
        else:
            raise Refused(400, InvalidRequest("cannot read the body as a message of JSON-RPC"))

    def _notify(self, method: str, params: Mapping[str, object]) -> None:
        with contextlib.suppress(ValueError):
            self.streams[0].put({"jsonrpc": "2.0", "method": method, "params": params})

    async def ask(self, stream: Stream, method: str, params: Mapping[str, object]) -> object:
        """Sends the client a request on a stream and returns its answer."""
        self._last_ask += 1
        request_id = f"corral-{self._last_ask}"
        answer = self._asks[request_id] = self._loop.create_future()
        try:
            stream.put({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
            async with asyncio.timeout(ASK_S):
                return await answer
        except TimeoutError as error:
            raise Timeout(f'cannot wait longer for the answer to "{method}"') from error
        except ValueError as error:
            raise InternalError(f'cannot ask "{method}": {error}') from error
        except asyncio.CancelledError:
            cancelled = {"requestId": request_id, "reason": "no longer needed"}
            stream.put({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
            raise
        finally:
            del self._asks[request_id]

    def close(self) -> None:
        """Ends all that is under way."""
        self.endpoint.close()
        for task in self.running.values():
            task.cancel()
        for stream in self.streams.values():
            stream.finish()


class HttpSessions:
    """Holds all sessions, the last used one at the end, and their finished streams."""

    def __init__(self, most: int = MAX_SESSIONS) -> None:
        self._most = most
        self._sessions: dict[str, HttpSession] = {}
        self._kept: deque[tuple[HttpSession, Stream]] = deque()
        self._kept_bytes = 0

    def __iter__(self) -> Iterator[HttpSession]:
        return iter(self._sessions.values())

    def find(self, session_id: str) -> HttpSession | None:
        """Returns the session that a client names."""
        return self._sessions.get(session_id)

    def note_use(self, session: HttpSession) -> None:
        """Marks a session as used now."""
        session.used_at = asyncio.get_running_loop().time()
        self._sessions[session.id] = self._sessions.pop(session.id)

    def make_room(self, request_id: Id) -> None:
        """Ends, where there are too many, the session that was idle for longest."""
        if len(self._sessions) < self._most:
            return
        idle = next((session for session in self if session.is_idle), None)
        if idle is None:
            error = Overloaded(f"cannot open more than {self._most} sessions", retry_after_s=10)
            raise Refused(503, error, request_id=request_id, Retry_After="10")
        self.end(idle)

    def add(self, session: HttpSession) -> None:
        """Adds a session."""
        self._sessions[session.id] = session

    def end_idle(self, before: float) -> None:
        """Ends sessions that were not used since `before`, on the loop's clock."""
        for session in list(self):
            if session.is_idle and session.used_at < before:
                self.end(session)

    def end(self, session: HttpSession) -> None:
        """Ends a session, with all that is kept for it; again is harmless."""
        if self._sessions.pop(session.id, None) is None:
            return
        session.close()
        if any(owner is session for owner, _ in self._kept):  # no client can come back for that
            self._kept = deque(each for each in self._kept if each[0] is not session)
            self._kept_bytes = sum(stream.size_bytes for _, stream in self._kept)

    def keep(self, session: HttpSession, stream: Stream) -> None:
        """Keeps a finished stream for a client that has lost it, at the cost of the oldest."""
        if session.id not in self._sessions:
            return
        self._kept.append((session, stream))
        self._kept_bytes += stream.size_bytes
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_STREAMS:
            owner, oldest = self._kept.popleft()
            self._kept_bytes -= oldest.size_bytes
            owner.streams.pop(oldest.number, None)


class Reply:
    """Answers one POST: with results alone, or with a stream that ends with them. It is the ClientLink of its requests."""

    def __init__(
        self,
        stream: Stream | None,
        session: HttpSession | None = None,
        *,
        expected: int = 1,
        on_finished: Callable[[HttpSession, Stream], None] | None = None,
    ) -> None:
        self.answers: list[dict[str, object]] = []
        self._stream = stream
        self._session = session
        self._on_finished = on_finished
        self._expected = expected
        self._is_streaming = False
        self._stirred: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answer(self, endpoint: McpEndpoint, rpc: RpcRequest) -> None:
        """Serves one of its requests; cancelled, it answers nothing."""
        answer: dict[str, object]
        try:
            result = await endpoint.request(rpc.id, rpc.method, rpc.params, self)
            answer = {"jsonrpc": "2.0", "id": rpc.id, "result": result}
        except CorralError as error:
            answer = failure(rpc.id, error)
        except Exception as error:  # the outermost frame of this request: a defect of ours
            logger.exception("%s over HTTP failed", rpc.method)
            answer = failure(rpc.id, InternalError(f'cannot answer "{rpc.method}": {type(error).__name__}'))
        if self._is_streaming and self._stream is not None:
            self._put(self._stream, answer)
        else:
            self.answers.append(answer)
        self.give_up()

    def give_up(self) -> None:
        """Counts a request that was withdrawn and has no answer."""
        self._expected -= 1
        if self._expected == 0:
            self._finish()
            self._stir()

    def _finish(self) -> None:
        if self._is_streaming and self._stream is not None:
            self._stream.finish()
            if self._on_finished is not None and self._session is not None:
                self._on_finished(self._session, self._stream)

    @staticmethod
    def _put(stream: Stream, answer: dict[str, object]) -> None:
        try:
            stream.put(answer)
        except ValueError as error:
            fault = InternalError(f"cannot send the result: {error}")
            stream.put(failure(cast("Id", answer["id"]), fault))  # we put it there

    async def is_short(self, defer_s: float | None = None) -> bool:
        """Waits for all answers, an earlier notification, or `defer_s`; returns whether all is answered."""
        if not self._stirred.done():
            timer = None
            if defer_s is not None:
                timer = asyncio.get_running_loop().call_later(defer_s, self._stir)
            try:
                await self._stirred
            finally:
                if timer is not None:
                    timer.cancel()
        return self._expected == 0 and (self._stream is None or self._stream.is_empty)

    def begin(self) -> Stream:
        """Begins the stream, with the answers so far."""
        assert self._stream is not None, "without one, nothing but answers stirs it"
        if not self._is_streaming:
            self._is_streaming = True
            for answer in self.answers:
                self._put(self._stream, answer)
            if self._expected == 0:
                self._finish()
        return self._stream

    def _stir(self) -> None:
        if not self._stirred.done():
            self._stirred.set_result(None)

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification, if the client takes any."""
        if self._stream is not None:
            with contextlib.suppress(ValueError):
                self._stream.put({"jsonrpc": "2.0", "method": method, "params": params})
            self._stir()

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        """Returns the client's answer; raises CorralError."""
        if self._stream is None or self._session is None:
            raise MethodNotFound(f'cannot ask the client "{method}": it takes no stream', method=method)
        self._stir()  # the waiter looks when the request is in the stream
        return await self._session.ask(self._stream, method, params)


def read_request(message: Mapping[str, object]) -> RpcRequest:
    """Returns the request in a message."""
    request_id, method = message.get("id"), message.get("method")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        raise Refused(400, InvalidRequest("cannot read the request: its id is no string and no integer"))
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise Refused(400, InvalidRequest("cannot read the body as a request of JSON-RPC"), request_id=request_id)
    params = {} if message.get("params") is None else as_object(message["params"])
    if params is None:
        invalid = InvalidParams(f'cannot call "{method}": its params are no object')
        raise Refused(400, invalid, request_id=request_id)
    return RpcRequest(request_id, method, params)


def failure(request_id: Id | None, error: CorralError) -> dict[str, object]:
    """Encodes an error as the answer to a request; `request_id` None where that is unknown."""
    return {"jsonrpc": "2.0", "id": request_id, "error": error.to_wire()}
