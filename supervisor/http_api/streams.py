"""Serves a method as a stream of server-sent events: its notifications as they come, and its result last.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. A call that fails before its first
notification is answered with the error and its status, as without a stream; later the last event is `error`. Where the table
says how a reader goes on (`faces.resumption`), each record is an event of its own, or each notification, with its id. A reader that is slow
makes the sender wait in `drain`, as on the socket: nothing is held for it beyond MAX_BYTES.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping, Sequence

from aiohttp import web

from ...worker.contract import codec
from ...worker.contract.errors import Conflict, CorralError, InternalError
from ...worker.control.params import AttachParams
from ..api.faces import Resumption
from ..api.table import Control, Method, Permission
from ..http.face import HttpClient
from ..http.sse import SSE_HEADERS
from ..supervision.worker_supervisor import WorkerSupervisor

DEFER_S = 0.25
"""Seconds to wait for a failure or a notification before the answer begins."""

KEEP_ALIVE_S = 15.0
"""Seconds between comments on a silent stream: a proxy must not take it for dead, and a dead reader shows."""

KEEP_ALIVE = b": keep-alive\n\n"

HIGH_BYTES = 64 * 1024
"""Bytes that wait to be sent, beyond which `drain` waits."""

MAX_BYTES = 4 * 1024 * 1024
"""Bytes that wait to be sent, beyond the newest event, beyond which a reader of progress is disconnected."""

logger = logging.getLogger(__name__)


class StreamCaller:
    """Represents a caller that gets its notifications as events.

    Args:
        client: of the request.
        resumption: how a reader goes on where it was; None where it cannot.
    """

    def __init__(self, client: HttpClient, resumption: Resumption | None) -> None:
        self.name = client.name
        self.permission: Permission = client.permission
        self.who: Mapping[str, object] = client.who
        self.agents: Sequence[str] | None = client.agents
        self.supervisor: WorkerSupervisor | None = None  # a worker is known by its process alone
        self.following: Awaitable[None] | None = None
        self.is_broken = False
        """True if it does not read, and was sent more than can be held; or if its token is valid no more."""
        self._is_valid = client.is_valid
        self._resumption = resumption
        self._waiting = bytearray()
        self._stirred = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def is_waiting(self) -> bool:
        """Returns whether there is something to be sent."""
        return bool(self._waiting)

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Queues a notification as an event, or as one for each of its records; of a token that has ended, none."""
        if not self._is_valid():
            self.is_broken = True
            self.wake()
            return
        if self._resumption is None:
            self.put(event(method, params))
            return
        if self._resumption.of_all:
            self.put(event(method, params, params.get(self._resumption.field)))
            return
        records: list[object] = []
        for value in params.values():
            records = records or codec.as_array(value) or []
        for record in records:
            number = (codec.as_object(record) or {}).get(self._resumption.field)
            self.put(event(method, record, number))

    def put(self, data: bytes) -> None:
        """Queues bytes of the stream."""
        if len(self._waiting) > MAX_BYTES and self.following is None:
            self.is_broken = True
        else:
            self._waiting += data
        if len(self._waiting) > HIGH_BYTES:
            self._has_room.clear()
        self._stirred.set()

    async def drain(self) -> None:
        """Waits while the client reads too slowly."""
        await self._has_room.wait()

    def follow(self, following: Awaitable[None]) -> None:
        """Keeps `following` for after the call: it goes on until the client hangs up."""
        self.following = following

    def attach(self, view: AttachParams) -> None:
        """Refuses: MCP has a path of its own."""
        raise Conflict("cannot attach over HTTP: MCP is at /mcp")

    def log_in(self, digest: bytes) -> None:
        """Refuses: each request brings a token."""
        raise Conflict("cannot log in over HTTP: each request brings its token")

    def wake(self, _task: object = None) -> None:
        """Lets `next` return."""
        self._stirred.set()

    async def next(self, timeout_s: float) -> bytes:
        """Returns what waits to be sent, as soon as there is something or it is woken; nothing after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._stirred.wait()
        self._stirred.clear()
        data = bytes(self._waiting)
        self._waiting.clear()
        self._has_room.set()
        return data


def event(name: str, value: object, number: object = None) -> bytes:
    """Encodes an event."""
    id_line = b"" if number is None else f"id: {number}\n".encode()
    return b"%sevent: %s\ndata: %s\n\n" % (id_line, name.encode(), codec.encode(value))


async def serve_stream(
    request: web.BaseRequest,
    control: Control,
    method: Method,
    params: Mapping[str, object],
    client: HttpClient,
) -> web.StreamResponse:
    """Answers a request with the events of a call.

    Raises:
        CorralError: the call fails before its first event.
    """
    caller = StreamCaller(client, method.faces.resumption)
    call = asyncio.ensure_future(_performed(control, method, params, caller))
    call.add_done_callback(caller.wake)
    try:
        first = await caller.next(DEFER_S)
        if call.done() and not first:
            call.result()  # raises its error, with the status of it
        response = web.StreamResponse(headers=SSE_HEADERS)
        await response.prepare(request)
        await response.write(first or b": corral\n\n")
        while not call.done() or caller.is_waiting:
            data = await caller.next(KEEP_ALIVE_S)
            if caller.is_broken:
                raise ConnectionResetError("the client does not read")
            if data or not call.done():
                await response.write(data or KEEP_ALIVE)
        await response.write(_ending(call))
        await response.write_eof()
        return response
    except ConnectionError:
        if request.transport is not None:
            request.transport.abort()
        raise
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)


async def _performed(
    control: Control, method: Method, params: Mapping[str, object], caller: StreamCaller
) -> object:
    """Calls the method, and does what follows the call; returns the result of the call."""
    result = await control.call(method.name, params, caller)
    if caller.following is not None:
        position = getattr(result, "position", None)
        # An id without an event: a reader that loses its stream before the first one has a place, too.
        caller.put(b": corral\n\n" if position is None else f"id: {position}\n\n".encode())
        await caller.following
    return result


def _ending(call: "asyncio.Future[object]") -> bytes:
    try:
        return event("result", call.result())
    except CorralError as error:
        return event("error", error.to_record())
    except Exception as error:  # a defect of ours: the status is sent already
        logger.exception("cannot go on with a stream")
        return event("error", InternalError(f"cannot go on: {type(error).__name__}").to_record())
