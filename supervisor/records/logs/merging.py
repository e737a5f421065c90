"""Merges the records of several cursors by time, in batches of bounded number and size.

Each cursor holds one block of its file and one record, so that memory grows neither with what is asked for nor with the
length of a line. `turn` is held while there is something to do, and given up after each batch: however many readers there are, they
take turns with each other and with the rest of the loop. A `LogPosition` notes how far the reader of all this is.
"""

import asyncio
import base64
import heapq
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Annotated, Literal, Self, cast

import msgspec
from msgspec import Meta, Struct

from corral.worker.contract.log_pieces import PieceJoiner

from .file_format import LogFilter, Record, json_line, rfc3339_seconds, time_of
from .reader import Cursor, Room
from .record import Place, PlacedRecord

BATCH_RECORDS = 256
"""Number of records in one batch."""

BATCH_BYTES = 256 * 1024
"""Bytes of one batch; the last record may exceed them. As JSON, where one byte may take six, it stays below a message's limit."""

KEPT_BYTES = 2 * 1024 * 1024
"""Bytes of found records that one reader holds, before it prefers to read them a second time."""

BEGUN_BYTES = 64 * 1024
"""Bytes of the beginning of a line that a reader of the last lines is given if it ends later."""

RECORD_BYTES = 600
"""Bytes of memory that a record takes beside its text."""

POSITION_BYTES = 1024
"""Bytes of a position, before it is written as text."""

STALE_RECORDS = 10_000
"""Number of records that are read and not wanted, after which a reader is given its position nevertheless."""

LATEST_NS = 2**62
"""Nanoseconds of the Unix epoch before which times in positions are: the year 2116."""

SEARCH_FACTOR = 8
"""Factor by which more lines are searched each time, until enough of them match."""


_Nanoseconds = Annotated[int, Meta(ge=0, lt=LATEST_NS)]
_Name = Annotated[str, Meta(max_length=256)]
_StreamName = Literal["stdout", "stderr"]
_Rest = tuple[_StreamName, Annotated[bytes, Meta(max_length=3)]]


class _StoredPlace(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    agent: _Name
    worker: _Name
    head_ns: _Nanoseconds
    offset: Annotated[int, Meta(ge=0, lt=2**53)]
    rests: Annotated[list[_Rest], Meta(max_length=2)] = []


class _StoredPosition(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    at_ns: _Nanoseconds
    places: Annotated[list[_StoredPlace], Meta(max_length=POSITION_BYTES)]


class LogPosition:
    """Notes how far one reader is: it has all lines up to a time, and of the workers that wrote last up to a place.

    Since no two writes have the same time, the time alone is exact for workers without a place: lines are given to a reader by
    their time, up to a horizon before which nothing more can be written. A place is exact also where a write
    was given in part, and where the clock was set back. As text it holds as many places as fit into POSITION_BYTES, of the workers that
    moved last. Of the others a lost line is not reported: files that were rotated away leave no trace of the time before them.
    """

    def __init__(self, at: str = "", places: Iterable[tuple[tuple[str, str], Place]] = ()) -> None:
        self.at = at
        """The time up to which all lines were given, but those of `places`; "" before the first."""
        self.places = OrderedDict(places)
        """The places of workers, the last one that has moved last."""
        self.is_given = bool(at)
        """Whether a reader has come back with it."""
        self._horizon = at
        self._unasked = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Decodes what `text` has returned."""
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            stored = msgspec.msgpack.decode(data, type=_StoredPosition)
        except (ValueError, msgspec.DecodeError) as error:
            raise ValueError("not the position of a reader") from error
        found = {
            (each.agent, each.worker): (
                _stamp(each.head_ns).encode(),
                each.offset,
                tuple((stream.encode(), rest) for stream, rest in each.rests),
            )
            for each in stored.places
        }
        return cls(_stamp(stored.at_ns), found.items())

    @property
    def is_stale(self) -> bool:
        """Returns whether many records were passed since the text was asked for."""
        return self._unasked >= STALE_RECORDS

    def begin_round(self, horizon: str) -> None:
        """Notes up to which time lines are given next."""
        self._horizon = horizon
        self.at = min(self.at, horizon)  # the clock was set back

    def note(self, batch: Sequence[Record]) -> None:
        """Notes that these records are given."""
        for record in batch:
            if isinstance(record, PlacedRecord):
                key = (str(record["agent"]), str(record["worker"]))
                self.places[key] = record.place
                self.places.move_to_end(key)
        if batch:
            self._unasked += len(batch)
            self.at = max(self.at, min(time_of(batch[-1]), self._horizon))

    def end_round(self) -> None:
        """Notes that all lines up to the horizon are given."""
        self.at = self._horizon

    def text(self) -> str:
        """Returns the position as a short text of letters, digits, `-` and `_`."""
        self._unasked = 0
        places: list[_StoredPlace] = []
        left = POSITION_BYTES
        last_first = reversed(self.places.items())
        # A character that has begun is known by its place alone.
        ordered = sorted(last_first, key=lambda each: not each[1][2])
        for (agent, worker), (head, offset, rests) in ordered:
            head_ns = _nanoseconds(head.decode("ascii", "replace"))
            left -= len(agent.encode()) + len(worker.encode()) + 24 + 12 * len(rests)
            if left < 0 and places:
                break
            if head_ns is not None:  # else the file is foreign
                shown: list[_Rest] = [(_stream_name(stream), rest) for stream, rest in rests]
                places.append(_StoredPlace(agent, worker, head_ns, offset, shown))
        stored = _StoredPosition(1, _nanoseconds(self.at or self._horizon) or 0, places[::-1])
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(stored)).rstrip(b"=").decode()


def _stream_name(stream: bytes) -> _StreamName:
    return "stdout" if stream == b"stdout" else "stderr"


def _stamp(at_ns: int) -> str:
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    return f"{rfc3339_seconds(seconds)}.{nanoseconds:09d}Z"


def _nanoseconds(stamp: str) -> int | None:
    try:
        seconds = datetime.fromisoformat(stamp[:19] + "+00:00").timestamp()
        at_ns = int(seconds) * 1_000_000_000 + int(stamp[20:29])
    except ValueError:
        return None
    return at_ns if _stamp(at_ns) == stamp and at_ns < LATEST_NS else None


async def merged(
    cursors: list[Cursor],
    wanted: LogFilter,
    n: int | None,
    turn: asyncio.Lock,
    *,
    horizon: str,
    position: LogPosition | None = None,
) -> AsyncGenerator[list[Record], None]:
    """Yields the records of all cursors up to their ends and `horizon`, by time, in batches; the last `n` lines if given.

    Each cursor was rewound by `n`, unless matching lines have to be searched for. Memory does not grow with `n`.
    """
    room = Room.of(len(cursors), holds=holds(wanted, position))
    kept_bytes = KEPT_BYTES // max(len(cursors), 1)
    runs: list[Iterator[Record]] = []
    dropped = PieceJoiner(BEGUN_BYTES)
    excess = -(n or 0)
    for cursor in cursors:
        if n is not None and wanted.is_rare:
            count, found = await _last_rare(cursor, wanted, n, (room, kept_bytes), turn)
            excess += count
            if found is not None:
                cursor.keep(iter(found))
        else:
            excess += cursor.count
        async with turn:
            records = cursor.upto(horizon, room)
            first = next(records, None)  # here: the merge would begin with all at once
            if first is not None:
                runs.append(chain((first,), records))
            await asyncio.sleep(0)
    async for batch in batches_of(runs, wanted, turn, position):
        if n is not None:
            batch[:], excess = _without_first(batch, excess, dropped)
        if batch or (position is not None and position.is_stale):
            yield batch


async def batches_of(
    runs: list[Iterator[Record]], wanted: LogFilter, turn: asyncio.Lock, position: LogPosition | None = None
) -> AsyncGenerator[list[Record], None]:
    """Yields what is wanted of these records, merged by time; nothing is read before the batch before is taken.

    Notes in `position` what it has passed; a batch is empty where that is much.
    """
    batches = in_batches(heapq.merge(*runs, key=time_of))
    while True:
        async with turn:
            batch = next(batches, None)
            if batch is None:
                return
            if position is not None:
                position.note(batch)
            batch[:] = await wanted.selected(batch)
        if batch or (position is not None and position.is_stale):
            yield batch


def holds(wanted: LogFilter, position: LogPosition | None) -> bool:
    """Returns whether lines that have begun are held for their end.

    A reader that comes back would miss what is held; but a pattern is looked for in whole lines.
    """
    return position is None or wanted.pattern is not None


def _without_first(records: list[Record], lines: int, dropped: PieceJoiner) -> tuple[list[Record], int]:
    """Returns the records after the first `lines` lines, and the number of lines still to be left out.

    What was dropped of lines that have not ended by then comes first.
    """
    for index, record in enumerate(records):
        if lines <= 0:
            return dropped.flush() + records[index:], lines
        lines -= _ends_line(record)
        dropped.join((record,))
    return dropped.flush() if lines <= 0 else [], lines


def _ends_line(record: Record) -> bool:
    # Pieces of a message are lines of their own in the files.
    return record["stream"] == "log" or not record.get("partial")


async def _last_rare(
    cursor: Cursor, wanted: LogFilter, n: int, limits: tuple[Room, int], turn: asyncio.Lock
) -> tuple[int, list[Record] | None]:
    """Finds the last `n` matching lines of one worker; returns how many were found, and their records.

    The records are None where they are too long to be held: then the cursor is where they begin, else at its end.
    The limits are those of one read, and the bytes that may be held.
    """
    room, kept_bytes = limits
    stream = "log" if wanted.level is not None else wanted.stream
    lines = max(n, BATCH_RECORDS)
    while True:
        files = cursor.files()
        if not files:
            return 0, []
        reaches_back = await cursor.rewind(files, wanted, lines, stream=stream)
        restore = cursor.save()
        found: list[Record] | None = []
        count = size = 0
        while True:
            async with turn:
                some = cursor.step(room, stream)
                chosen = await wanted.selected(some or ())
            if some is None:
                break
            count += sum(map(_ends_line, chosen))
            if found is not None:
                found += chosen
                size += sum(RECORD_BYTES + _text_bytes(record) for record in chosen)
                found = found if size <= kept_bytes else None
        if reaches_back or count >= n:
            if found is None:
                restore()
            return count, found
        lines *= SEARCH_FACTOR


def _text_bytes(record: Record) -> int:
    """Estimates the bytes of a record in a message, with one byte for each character."""
    size = len(str(record["text"])) + len(str(record.get("bytes", "")))
    fields = record.get("fields")
    return size if fields is None else size + len(json_line(cast("Record", fields)))


def in_batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yields the records in lists of bounded number and size; takes no record more than it yields."""
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += _text_bytes(record)
        if len(batch) == BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
