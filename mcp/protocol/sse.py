"""Parses server-sent events from chunks of bytes, without I/O (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from collections.abc import Iterator
from typing import NamedTuple

from corral.worker.contract.errors import ResourceLimitExceeded
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES


class Event(NamedTuple):
    """Represents one event of a stream."""

    name: str
    data: bytes


class EventStream:
    """Holds the parser state of one stream and of its resumptions."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry_s: float | None = None
        self._partial: list[bytes] = []
        self._data: list[bytes] = []
        self._size_bytes = 0
        self._name = ""
        self._ended_in_cr = False
        self._is_first = True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yields the events that this chunk completes."""
        if self._ended_in_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._ended_in_cr = False
        cut = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if cut:
            self._ended_in_cr = chunk[cut - 1 : cut] == b"\r"
            whole = b"".join((*self._partial, chunk[:cut]))
            self._partial, self._size_bytes = [], sum(map(len, self._data))
            if self._is_first:
                whole, self._is_first = whole.removeprefix(b"\xef\xbb\xbf"), False
            for line in whole.splitlines():
                event = self._take(line)
                if event is not None:
                    yield event
        if cut < len(chunk):
            self._ended_in_cr = False
            self._partial.append(chunk[cut:])
            self._grow(len(chunk) - cut)

    def _take(self, line: bytes) -> Event | None:
        if not line:
            event = Event(self._name or "message", b"\n".join(self._data)) if self._data else None
            self._data, self._size_bytes, self._name = [], 0, ""
            return event if event is not None and event.data else None
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._grow(len(value))
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self.last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry_s = int(value) / 1000
        return None

    def _grow(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > MAX_MESSAGE_BYTES:
            raise too_long()


def too_long() -> ResourceLimitExceeded:
    """Returns the error for an answer that is longer than the size limit of a message."""
    text = f"cannot read the answer: it is longer than {MAX_MESSAGE_BYTES} bytes"
    return ResourceLimitExceeded(text, limit=MAX_MESSAGE_BYTES)
