"""Joins the pieces in which the daemon sends a line of a log that is long, or was written with pauses.

The daemon holds little of a line, a reader as much as it likes.
"""

import base64
from collections.abc import Iterable

Record = dict[str, object]

JOINED_BYTES = 2 * 1024 * 1024
"""Bytes of a line that is joined; a longer one comes in pieces of about this size; all but the last have `partial`."""


WHOLE_PART_BYTES = 16 * 1024 - 4
"""Bytes of a piece, less a character, from the middle of a long line; behind a shorter one the worker has paused."""


class PieceJoiner:
    """Joins records that are pieces of one line, of many workers at the same time."""

    def __init__(self, joined_bytes: int = JOINED_BYTES, *, waits: bool = True) -> None:
        """Joins lines up to `joined_bytes`. Unless it `waits`, the beginning of a line behind which the worker has paused is returned."""
        self._joined_bytes = joined_bytes
        self._waits = waits
        self._pieces: dict[tuple[object, object, object], _Pieces] = {}

    def join(self, records: Iterable[Record]) -> list[Record]:
        """Returns the records with whole lines, and with `partial` pieces of lines; other pieces wait for the rest of their line."""
        found: list[Record] = []
        for record in records:
            if record.get("stream") == "corral":  # the rest of what has begun may be missing
                found += self._flush(record.get("node"), record.get("worker"))
            key = (record.get("node"), record.get("worker"), record.get("stream"))
            pieces = self._pieces.pop(key, None)
            is_held = record.get("partial") and record.get("stream") != "log"
            if not is_held:
                found.append(record if pieces is None else pieces.joined(record))
                continue
            pieces = pieces or _Pieces()
            pieces.add(record)
            if pieces.size_bytes >= self._joined_bytes:
                found.append(pieces.joined())
            else:
                self._pieces[key] = pieces
        if not self._waits:
            paused = [key for key, pieces in self._pieces.items() if pieces.last_bytes < WHOLE_PART_BYTES]
            found += [self._pieces.pop(key).joined() for key in paused]
        return found

    def flush(self) -> list[Record]:
        """Returns what is there of lines that have not ended, and forgets them."""
        pieces, self._pieces = self._pieces, {}
        return [each.joined() for each in pieces.values()]

    def _flush(self, node: object, worker: object) -> list[Record]:
        keys = [key for key in self._pieces if key[:2] == (node, worker)]
        return [self._pieces.pop(key).joined() for key in keys]


class _Pieces:
    """Holds the pieces of one line."""

    def __init__(self) -> None:
        self.size_bytes = self.last_bytes = 0
        self._contents: list[bytes] = []
        self._last: Record = {}

    def add(self, piece: Record) -> None:
        self._last = piece
        self._contents.append(_content(piece))
        self.last_bytes = len(self._contents[-1])
        self.size_bytes += self.last_bytes

    def joined(self, last: Record | None = None) -> Record:
        """Returns one record with the text of all, and the rest of the last."""
        if last is not None:
            self.add(last)
        whole = b"".join(self._contents)
        joined = {key: value for key, value in self._last.items() if key != "bytes"}
        try:
            return {**joined, "text": whole.decode()}
        except UnicodeDecodeError:
            shown = base64.b64encode(whole).decode()
            return {**joined, "text": whole.decode("utf-8", "replace"), "bytes": shown}


def _content(piece: Record) -> bytes:
    coded = piece.get("bytes")
    return str(piece["text"]).encode() if coded is None else base64.b64decode(str(coded))
