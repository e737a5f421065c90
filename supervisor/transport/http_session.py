"""What a client of HTTP asks for and is answered, apart from HTTP: sessions of the legacy era, and replies.

A `Visit` is what MCP calls a session, `Visits` are bounded in number and in what is kept of them. The requests of one go on when their connection breaks: what they have told by
then, and what they answer later, is in their `Stream`. A `Reply` is what one POST is answered with.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast

from ...mcp.endpoint.server import McpEndpoint, Offering
from ...mcp.protocol.caller import Caller
from ...worker.contract.codec import as_object
from ...worker.contract.errors import (
    CorralError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    Overloaded,
    Timeout,
    from_wire,
)
from .sse import Stream

ASK_S = 600.0
"""How long a client may take to answer a question of a server."""

KEPT_BYTES = 32 * 1024 * 1024
"""What is kept of finished streams, of all sessions together, for clients that lost them."""

KEPT_STREAMS = 1000

MAX_SESSIONS = 256

Id = str | int

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that gets no further than HTTP."""

    def __init__(
        self, status: int, error: CorralError, *, request_id: Id | None = None, **headers: str
    ) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.request_id = request_id
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}


class Asked(NamedTuple):
    """A request of JSON-RPC."""

    id: Id
    method: str
    params: dict[str, object]


class HttpSession:
    """One legacy client, with what MCP calls a session.

    Args:
        visit_id: which the client sends with each request.
        offering: what it is offered.
        caller: who it is.
        version: corral's own.
    """

    def __init__(self, visit_id: str, offering: Offering, caller: Caller, version: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.id = visit_id
        self.face = McpEndpoint(offering, version=version, caller=caller, notify=self._notify)
        self.streams: dict[int, Stream] = {0: Stream(0, keeps=True)}
        """Number 0 is for what belongs to no request."""
        self.running: dict[Id, asyncio.Task[None]] = {}
        self.used_at = self._loop.time()
        self._asks: dict[str, asyncio.Future[object]] = {}
        self._last_stream = 0
        self._last_ask = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nobody listens."""
        return not self.running and not any(stream.is_read for stream in self.streams.values())

    def new_stream(self) -> Stream:
        """One more stream."""
        self._last_stream += 1
        stream = self.streams[self._last_stream] = Stream(self._last_stream, keeps=True)
        return stream

    def start(self, reply: "Reply", asked: Asked) -> asyncio.Task[None]:
        """Begins to serve a request; it goes on when its connection breaks."""
        task = self._loop.create_task(reply.answer(self.face, asked))
        self.running[asked.id] = task

        def done(task: asyncio.Task[None]) -> None:
            del self.running[asked.id]
            self.used_at = self._loop.time()
            if task.cancelled():
                reply.give_up()

        task.add_done_callback(done)
        return task

    def take(self, message: dict[str, object] | None) -> None:
        """Takes a notification, or an answer to what the client was asked."""
        if message is None or message.get("jsonrpc") != "2.0":
            raise Refused(400, InvalidRequest("cannot read the body as a message of JSON-RPC"))
        method, params = message.get("method"), as_object(message.get("params")) or {}
        if method == "notifications/cancelled":
            request_id = params.get("requestId")
            is_id = isinstance(request_id, str | int) and not isinstance(request_id, bool)
            if is_id and request_id in self.running:
                # With a reason, which tells what serves it from a client that is only gone.
                self.running[request_id].cancel(str(params.get("reason") or ""))
        elif isinstance(method, str):
            self.face.hear(method, params)
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
        """The client's answer to a request on a stream.

        Raises:
            CorralError: what it answered, or Timeout.
        """
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
            told = {"requestId": request_id, "reason": "no longer needed"}
            stream.put({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": told})
            raise
        finally:
            del self._asks[request_id]

    def close(self) -> None:
        """Ends all that is under way."""
        self.face.close()
        for task in self.running.values():
            task.cancel()
        for stream in self.streams.values():
            stream.finish()


class HttpSessions:
    """All that are there, the one that was used last at the end, and what is kept of their finished streams.

    Args:
        most: how many there may be at once.
    """

    def __init__(self, most: int = MAX_SESSIONS) -> None:
        self._most = most
        self._visits: dict[str, HttpSession] = {}
        self._kept: deque[tuple[HttpSession, Stream]] = deque()
        self._kept_bytes = 0

    def __iter__(self) -> Iterator[HttpSession]:
        return iter(self._visits.values())

    def find(self, visit_id: str) -> HttpSession | None:
        """The one that a client names."""
        return self._visits.get(visit_id)

    def note_use(self, visit: HttpSession) -> None:
        """A request of its client has come."""
        visit.used_at = asyncio.get_running_loop().time()
        self._visits[visit.id] = self._visits.pop(visit.id)

    def make_room(self, request_id: Id) -> None:
        """Ends, where there are too many, the one that was not used for longest.

        Raises:
            Refused: none is idle.
        """
        if len(self._visits) < self._most:
            return
        idle = next((visit for visit in self if visit.is_idle), None)
        if idle is None:
            error = Overloaded(f"cannot open more than {self._most} sessions", retry_after_s=10)
            raise Refused(503, error, request_id=request_id, Retry_After="10")
        self.end(idle)

    def add(self, visit: HttpSession) -> None:
        """One more is there."""
        self._visits[visit.id] = visit

    def end_idle(self, before: float) -> None:
        """Ends those that nobody has used since, on the loop's clock."""
        for visit in list(self):
            if visit.is_idle and visit.used_at < before:
                self.end(visit)

    def end(self, visit: HttpSession) -> None:
        """Ends one, with all that is kept for it; again is harmless."""
        if self._visits.pop(visit.id, None) is None:
            return
        visit.close()
        if any(whose is visit for whose, _ in self._kept):  # nobody can come back for that
            self._kept = deque(each for each in self._kept if each[0] is not visit)
            self._kept_bytes = sum(stream.size_bytes for _, stream in self._kept)

    def keep(self, visit: HttpSession, stream: Stream) -> None:
        """Keeps a finished stream for a client that has lost it, at the cost of the oldest."""
        if visit.id not in self._visits:
            return
        self._kept.append((visit, stream))
        self._kept_bytes += stream.size_bytes
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_STREAMS:
            whose, oldest = self._kept.popleft()
            self._kept_bytes -= oldest.size_bytes
            whose.streams.pop(oldest.number, None)


class Reply:
    """What one POST is answered with: results alone, or a stream that ends with them. It is the Link of its requests."""

    def __init__(
        self,
        stream: Stream | None,
        visit: HttpSession | None = None,
        *,
        expected: int = 1,
        on_finished: Callable[[HttpSession, Stream], None] | None = None,
    ) -> None:
        self.answers: list[dict[str, object]] = []
        self._stream = stream
        self._visit = visit
        self._on_finished = on_finished
        self._expected = expected
        self._is_streaming = False
        self._stirred: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answer(self, face: McpEndpoint, asked: Asked) -> None:
        """Serves one of its requests; cancelled, it answers nothing."""
        answer: dict[str, object]
        try:
            result = await face.request(asked.id, asked.method, asked.params, self)
            answer = {"jsonrpc": "2.0", "id": asked.id, "result": result}
        except CorralError as error:
            answer = failure(asked.id, error)
        except Exception as error:  # the outermost frame of this request: a defect of ours
            logger.exception("%s over HTTP failed", asked.method)
            text = f'cannot answer "{asked.method}": {type(error).__name__}'
            answer = failure(asked.id, InternalError(text))
        if self._is_streaming and self._stream is not None:
            self._put(self._stream, answer)
        else:
            self.answers.append(answer)
        self.give_up()

    def give_up(self) -> None:
        """One of its requests is over; one that was withdrawn has no answer."""
        self._expected -= 1
        if self._expected == 0:
            self._finish()
            self._stir()

    def _finish(self) -> None:
        if self._is_streaming and self._stream is not None:
            self._stream.finish()
            if self._on_finished is not None and self._visit is not None:
                self._on_finished(self._visit, self._stream)

    @staticmethod
    def _put(stream: Stream, answer: dict[str, object]) -> None:
        try:
            stream.put(answer)
        except ValueError as error:
            fault = InternalError(f"cannot send the result: {error}")
            stream.put(failure(cast("Id", answer["id"]), fault))  # we put it there

    async def is_short(self, defer_s: float | None = None) -> bool:
        """Waits until all is answered, or something is told before, or it takes long; whether all is answered."""
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
        """The stream, with what was answered by now."""
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
        """The client's answer; raises CorralError."""
        if self._stream is None or self._visit is None:
            text = f'cannot ask the client "{method}": it takes no stream'
            raise MethodNotFound(text, method=method)
        self._stir()  # whoever waits for it looks when the question is in the stream
        return await self._visit.ask(self._stream, method, params)


def read_request(message: Mapping[str, object]) -> Asked:
    """The request in a message.

    Raises:
        Refused: there is none.
    """
    request_id, method = message.get("id"), message.get("method")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        error = InvalidRequest("cannot read the request: its id is no string and no integer")
        raise Refused(400, error)
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        error = InvalidRequest("cannot read the body as a request of JSON-RPC")
        raise Refused(400, error, request_id=request_id)
    params = {} if message.get("params") is None else as_object(message["params"])
    if params is None:
        invalid = InvalidParams(f'cannot call "{method}": its params are no object')
        raise Refused(400, invalid, request_id=request_id)
    return Asked(request_id, method, params)


def failure(request_id: Id | None, error: CorralError) -> dict[str, object]:
    """The error as the answer to a request; None where it is not known to which."""
    return {"jsonrpc": "2.0", "id": request_id, "error": error.to_wire()}
