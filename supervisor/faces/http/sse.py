"""Encodes one stream of server-sent events, apart from HTTP: numbered, bounded, and kept for a reader that comes back.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. An event's id is
`STREAM-NUMBER`, so that the last one that a reader has seen tells the stream and the place to go on. A
stream that is *kept* holds its events, within limits, for a reader that lost its connection; another forgets delivered
events, and is broken off when its reader is too slow, since no reader could ever have the rest.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from corral.worker.contract import codec

MAX_EVENTS = 1000
"""Number of events that one stream holds."""

MAX_BYTES = 4 * 1024 * 1024
"""Bytes of the events of one stream, beside the newest one, which may be as long as a message."""

RETRY_MS = 1000
"""Milliseconds after which a reader that lost its stream should come back."""

PING_S = 15.0
"""Seconds between comments on a silent stream: a proxy must not take it for dead, and a dead reader shows."""

PING = b": ping\n\n"


SSE_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class Stream:
    """Holds the events of one stream."""

    def __init__(self, number: int, *, keeps: bool) -> None:
        self.number = number
        self.is_finished = False
        self.is_broken = False
        """True if it was broken off, as its reader was too slow."""
        self.size_bytes = 0
        self._keeps = keeps
        self._last = 0
        self._delivered = -1
        self._events: deque[tuple[int, bytes]] = deque()
        self._reader: object = None
        self._stirred: asyncio.Future[None] | None = None

    @property
    def is_read(self) -> bool:
        """Returns whether it has a reader now."""
        return self._reader is not None

    @property
    def is_empty(self) -> bool:
        """Returns whether it holds no event."""
        return not self._events

    def prime(self) -> None:
        """Begins the stream with an event without data, which gives a reader a place to come back to."""
        frame = f"id: {self.number}-0\nretry: {RETRY_MS}\ndata: \n\n".encode()
        self._events.appendleft((0, frame))
        self.size_bytes += len(frame)
        self._stir()

    def put(self, message: object) -> None:
        """Appends one message; of too many that wait, the oldest are dropped, or the stream is broken off."""
        data = codec.encode(message)
        if self.is_finished:
            return
        self._last += 1
        head = f"id: {self.number}-{self._last}\n".encode() if self._keeps else b""
        self._add(b"event: message\n" + head + b"data: " + data + b"\n\n", self._last)

    def finish(self) -> None:
        """Ends the stream after the events that it holds."""
        self.is_finished = True
        self._stir()

    def _add(self, frame: bytes, number: int) -> None:
        self._events.append((number, frame))
        self.size_bytes += len(frame)
        while len(self._events) > 1 and (len(self._events) > MAX_EVENTS or self.size_bytes - len(frame) > MAX_BYTES):
            if not self._keeps:
                self.is_broken = self.is_finished = True
                self._events.clear()
                self.size_bytes = 0
                break
            self.size_bytes -= len(self._events.popleft()[1])
        self._stir()

    def _stir(self) -> None:
        if self._stirred is not None and not self._stirred.done():
            self._stirred.set_result(None)

    async def read(self, after: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yields the events behind number `after` as bytes to send, to the end; by default those that were not delivered.

        The last reader is the only one; for the one before, the stream ends.
        """
        after = self._delivered if after is None else after
        me = self._reader = object()
        self._stir()  # the reader until now
        loop = asyncio.get_running_loop()
        try:
            while self._reader is me:
                if data := self._taken(after):
                    after = self._delivered = self._last
                    yield data
                elif self.is_finished:
                    return
                else:
                    self._stirred = loop.create_future()
                    silence = loop.call_later(PING_S, self._stir)
                    try:
                        await self._stirred
                    finally:
                        silence.cancel()
                    if self._reader is me and not self.is_finished and not self._is_behind(after):
                        yield PING
        finally:
            if self._reader is me:
                self._reader = None

    def _is_behind(self, after: int) -> bool:
        return bool(self._events) and self._events[-1][0] > after

    def _taken(self, after: int) -> bytes:
        if not self._is_behind(after):
            return b""
        data = b"".join(frame for number, frame in self._events if number > after)
        if not self._keeps:
            self._events.clear()
            self.size_bytes = 0
        return data


def place_of(event_id: str) -> tuple[int, int] | None:
    """Returns the stream and the number in an event's id; None if it is none of ours."""
    stream, _, number = event_id.partition("-")
    if stream.isdecimal() and number.isdecimal() and len(event_id) < 40 and event_id.isascii():
        return int(stream), int(number)
    return None
