"""Joins the pieces in which the daemon sends a long line of a log: it holds little of a line, a reader as much as it likes."""

import base64
from collections.abc import Iterable

Record = dict[str, object]

JOINED_BYTES = 2 * 1024 * 1024
"""Bytes of a line that is joined; a longer one comes in pieces of about this size; all but the last have `partial`."""


class PieceJoiner:
    """Joins records that are pieces of one line, of many workers at the same time."""

    def __init__(self, joined_bytes: int = JOINED_BYTES) -> None:
        self._joined_bytes = joined_bytes
        self._pieces: dict[tuple[object, object, object], list[Record]] = {}

    def join(self, records: Iterable[Record]) -> list[Record]:
        """Returns the records with whole lines; pieces of a line that has not ended wait for the rest."""
        found: list[Record] = []
        for record in records:
            if record.get("stream") == "corral":  # the rest of what has begun may be missing
                found += self._flush(record.get("node"), record.get("worker"))
            key = (record.get("node"), record.get("worker"), record.get("stream"))
            pieces = self._pieces.pop(key, [])
            is_held = record.get("partial") and record.get("stream") != "log"
            if not is_held:
                found.append(_joined([*pieces, record]) if pieces else record)
                continue
            pieces.append(record)
            if sum(map(_size_bytes, pieces)) >= self._joined_bytes:
                found.append(_joined(pieces))
            else:
                self._pieces[key] = pieces
        return found

    def flush(self) -> list[Record]:
        """Returns what is there of lines that have not ended, and forgets them."""
        pieces, self._pieces = self._pieces, {}
        return [_joined(each) for each in pieces.values()]

    def _flush(self, node: object, worker: object) -> list[Record]:
        keys = [key for key in self._pieces if key[:2] == (node, worker)]
        return [_joined(self._pieces.pop(key)) for key in keys]


def _size_bytes(piece: Record) -> int:
    coded = piece.get("bytes")
    return len(str(piece["text"])) if coded is None else len(str(coded)) * 3 // 4


def _joined(pieces: list[Record]) -> Record:
    """Returns one record with the text of all, and the rest of the last."""
    whole = b"".join(map(_content, pieces))
    joined = {key: value for key, value in pieces[-1].items() if key != "bytes"}
    try:
        return {**joined, "text": whole.decode()}
    except UnicodeDecodeError:
        shown = base64.b64encode(whole).decode()
        return {**joined, "text": whole.decode("utf-8", "replace"), "bytes": shown}


def _content(piece: Record) -> bytes:
    coded = piece.get("bytes")
    return str(piece["text"]).encode() if coded is None else base64.b64decode(str(coded))
