"""Sends server-sent events over HTTP: the one way in which a stream is begun, kept alive, bounded and ended.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. `send` sends any chunks; `send_call` sends what
a call of the method table puts into an `Outbox`, and its end last. A reader that takes nothing for STALL_S is disconnected; a sender that
follows something waits in `drain` meanwhile, and of progress at most MAX_BYTES are held.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError

from .answers import write
from .sse import PING, PING_S, SSE_HEADERS

DEFER_S = 0.25
"""Seconds to wait for a failure or an event before the answer begins."""

HIGH_BYTES = 64 * 1024
"""Bytes that wait to be sent, beyond which `drain` waits."""

MAX_BYTES = 4 * 1024 * 1024
"""Bytes that wait to be sent, beyond the newest event, beyond which a reader of progress is disconnected."""

GREETING = b": corral\n\n"
"""Comment that makes the headers of an answer go out before there is an event."""

T = TypeVar("T")


class Outbox:
    """Holds the events of one stream until they are sent."""

    def __init__(self) -> None:
        self.is_broken = False
        """True if the reader does not read and was sent more than can be held."""
        self.refusal: CorralError | None = None
        """Why the reader may read no more."""
        self.is_patient = False
        """True if its sender waits in `drain`, so that there is no need for a limit."""
        self._waiting = bytearray()
        self._stirred = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def is_waiting(self) -> bool:
        """Returns whether there is something to be sent."""
        return bool(self._waiting)

    def put(self, data: bytes) -> None:
        """Queues bytes of the stream."""
        if len(self._waiting) > MAX_BYTES and not self.is_patient:
            self.is_broken = True
        else:
            self._waiting += data
        if len(self._waiting) > HIGH_BYTES:
            self._has_room.clear()
        self._stirred.set()

    def refuse(self, error: CorralError) -> None:
        """Ends the stream with this error, and without what waits."""
        self.refusal = error
        self._stirred.set()

    async def drain(self) -> None:
        """Waits while the client reads too slowly."""
        await self._has_room.wait()

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


async def send(request: web.BaseRequest, chunks: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Answers with these chunks of events, to their end."""
    response = web.StreamResponse(headers=SSE_HEADERS)
    await response.prepare(request)
    try:
        async with contextlib.aclosing(chunks):
            async for data in chunks:
                await write(request, response, data)
    except ConnectionError:
        if request.transport is not None:
            request.transport.abort()
        raise
    with contextlib.suppress(ConnectionError):
        await response.write_eof()
    return response


async def send_call(
    request: web.BaseRequest, outbox: Outbox, call: Awaitable[T], ending: Callable[["asyncio.Future[T]"], bytes]
) -> web.StreamResponse:
    """Answers with what a call puts into the outbox, and with its end; a client that hangs up ends the call."""
    task = asyncio.ensure_future(call)
    task.add_done_callback(outbox.wake)
    try:
        first = await outbox.next(DEFER_S)
        if task.done() and not first:
            task.result()  # raises its error, with the status of it
        return await send(request, _chunks(first, outbox, task, ending))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _chunks(
    first: bytes, outbox: Outbox, task: "asyncio.Future[T]", ending: Callable[["asyncio.Future[T]"], bytes]
) -> AsyncGenerator[bytes, None]:
    yield first or GREETING
    while not task.done() or outbox.is_waiting:
        data = await outbox.next(PING_S)
        if outbox.is_broken:
            raise ConnectionResetError("the client does not read")
        if outbox.refusal is not None:
            yield event("error", outbox.refusal.to_record())
            return
        if data or not task.done():
            yield data or PING
    yield ending(task)
