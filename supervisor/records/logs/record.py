"""Decodes the lines of a worker's files into records, and joins the parts of long ones, within a limit.

A line that is longer than the limit comes in pieces, each of them a record with `partial`, but for the last; for a reader that
holds nothing, so does one that was written with pauses. Pieces of text end at a whole character. Each record knows its place in the files, so that a reader can come back to it. Nothing here reads a file.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from corral.worker.contract.log_pieces import WHOLE_PART_BYTES

from .file_format import CAPTURED, FIRST, HEAD_BYTES, NOTIFIED, OWN, PREFIX_BYTES, Record, decode_message, text_fields

MESSAGE_BYTES = 4 * 1024 * 1024
"""Bytes of a stored message, which can only be decoded as a whole; a longer one is foreign."""

_CAPTURED = (CAPTURED, FIRST[CAPTURED])
_NOTIFIED = (NOTIFIED, FIRST[NOTIFIED])

_LONGEST_CHARACTER = 4
"""Bytes of the longest character in UTF-8."""


Rests: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Streams that end within a character; its rest is in the next part of the line."""

Place: TypeAlias = tuple[bytes, int, Rests]
"""A place in the files of one worker: the time of the first line of a file, an offset in it, and what is before it."""


class PlacedRecord(Record):
    """Holds a record with the place behind it."""

    __slots__ = ("place",)

    place: Place


class LineDecoder:
    """Turns stored lines of one worker into records, and holds the parts of those that have not ended."""

    def __init__(self, agent: str, worker: str) -> None:
        self.at = "1970-01-01T00:00:00.000000000Z"
        """The time of the last line."""
        self._origin = {"agent": agent, "worker": worker}
        self._parts: dict[tuple[bytes, bytes], bytearray] = {}
        self._head = b""
        self._offset = 0

    @property
    def is_inside(self) -> bool:
        """Returns whether a line has begun that has not ended."""
        return bool(self._parts)

    def clear(self) -> None:
        """Forgets the parts of lines that have not ended."""
        self._parts.clear()

    def move(self, head: bytes, offset: int) -> None:
        """Notes where the next lines begin."""
        self._head, self._offset = head, offset

    def restore(self, place: Place) -> None:
        """Takes the beginnings of characters that were before a place."""
        self._parts = {(CAPTURED, stream): bytearray(rest) for stream, rest in place[2]}

    def flush(self) -> Iterator[Record]:
        """Yields what is there of lines that have not ended, and forgets them: their rest is lost."""
        for kind, stream in [*self._parts]:
            if parts := self._parts.pop((kind, stream)):
                yield self._piece(kind, stream, bytes(parts))

    def records(self, lines: Iterable[bytes], piece_bytes: int, *, holds: bool = True) -> Iterator[Record]:
        """Yields the records of these lines; lines longer than `piece_bytes` come in pieces.

        Unless it `holds` what has begun, all that is in these lines is yielded, whatever comes behind it.
        """
        held: tuple[bytes, bytes] | None = None  # whose line may go on with the very next one
        for line in lines:
            kind, stream, tag = line[28:29], line[31:37], line[38:40]
            text = line[PREFIX_BYTES:]
            key = (CAPTURED if kind in _CAPTURED else NOTIFIED, stream)
            if held and (held != key or len(self._parts[held]) + len(text) >= WHOLE_PART_BYTES):
                yield from self._begun(held)
                held = None
            if not _is_ours(line):
                self._offset += len(line) + 1
                yield self.record("stderr", text_fields(line))
                continue
            self.at = line[:HEAD_BYTES].decode("ascii", "replace")
            if kind == OWN:
                yield from self.flush()  # the rest of these lines was lost: they are not continued
            self._offset += len(line) + 1
            if kind != OWN and (tag == b"P " or self._parts):
                parts = self._parts.setdefault(key, bytearray())
                parts += text
                if tag == b"P ":
                    if len(parts) >= (piece_bytes if kind in _CAPTURED else MESSAGE_BYTES):
                        yield from self._begun(key)
                    elif kind in _CAPTURED and not holds:
                        held = key
                    continue
                held = None
                del self._parts[key]
                text = bytes(parts)
            if kind in _CAPTURED:
                yield self.record(stream.decode("ascii", "replace"), text_fields(text))
            else:
                yield self.record("log" if kind in _NOTIFIED else "corral", decode_message(text))
        if held:
            yield from self._begun(held)

    def _begun(self, key: tuple[bytes, bytes]) -> Iterator[Record]:
        """Yields what is there of a line, up to a whole character."""
        if text := _whole_characters(self._parts[key]):
            yield self._piece(*key, text)

    def record(self, stream: str, shown: Mapping[str, object]) -> Record:
        """Returns a record at the time of the last line."""
        record = PlacedRecord({"at": self.at, **self._origin, "stream": stream, "level": None, **shown})
        record.place = (self._head, self._offset, self._rests() if self._parts else ())
        return record

    def _rests(self) -> Rests:
        return tuple(
            (stream, bytes(parts))
            for (kind, stream), parts in self._parts.items()
            if kind == CAPTURED and 0 < len(parts) < _LONGEST_CHARACTER
        )

    def _piece(self, kind: bytes, stream: bytes, text: bytes) -> Record:
        name = stream.decode("ascii", "replace") if kind == CAPTURED else "log"
        return self.record(name, {**text_fields(text), "partial": True})


def _is_ours(line: bytes) -> bool:
    return line[29:31] == b"Z " and line[38:40] in (b"F ", b"P ")


def ended_lines(lines: Iterable[bytes]) -> int:
    """Returns the number of lines that end in these stored ones."""
    return sum(line[38:40] == b"F " and line[29:31] == b"Z " for line in lines)


def _whole_characters(parts: bytearray) -> bytes:
    """Takes out all but the beginning of a character of UTF-8 at the end."""
    end = len(parts)
    for back in range(1, min(_LONGEST_CHARACTER, end + 1)):
        byte = parts[-back]
        if byte & 0xC0 != 0x80:  # no continuation: here a character begins
            needed = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
            end -= back if needed > back else 0
            break
    taken = bytes(parts[:end])
    del parts[:end]
    return taken
