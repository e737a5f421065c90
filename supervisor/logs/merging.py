"""Merges the records of several cursors by time, in batches of bounded number and size.

Each cursor holds one block of its file and one record, so that memory grows neither with what is asked for nor with the
length of a line. `turn` is held while there is something to do, and given up after each batch: however many readers there are, they
take turns with each other and with the rest of the loop.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import chain
from typing import cast

from .file_format import LogFilter, Record, json_line, time_of
from .reader import Cursor, Room

BATCH_RECORDS = 256
"""Number of records in one batch."""

BATCH_BYTES = 256 * 1024
"""Bytes of one batch; the last record may exceed them. As JSON, where one byte may take six, it stays below a message's limit."""

KEPT_BYTES = 2 * 1024 * 1024
"""Bytes of found records that one reader holds, before it prefers to read them a second time."""

RECORD_BYTES = 600
"""Bytes of memory that a record takes beside its text."""

SEARCH_FACTOR = 8
"""Factor by which more lines are searched each time, until enough of them match."""


async def merged(
    cursors: list[Cursor], wanted: LogFilter, n: int | None, turn: asyncio.Lock
) -> AsyncGenerator[list[Record], None]:
    """Yields the records of all cursors up to their ends, by time, in batches; the last `n` lines if given.

    Each cursor was rewound by `n`, unless matching lines have to be searched for. Memory does not grow with `n`.
    """
    room = Room.of(len(cursors))
    kept_bytes = KEPT_BYTES // max(len(cursors), 1)
    runs: list[Iterator[Record]] = []
    excess = -(n or 0)
    for cursor in cursors:
        if n is not None and wanted.is_rare:
            count, found = await _last_rare(cursor, wanted, n, (room, kept_bytes), turn)
            excess += count
            runs.append(cursor.records(room) if found is None else iter(found))
        else:
            excess += cursor.count
            async with turn:
                records = cursor.records(room)
                first = next(records, None)  # here: the merge would begin with all at once
                if first is not None:
                    runs.append(chain((first,), records))
                await asyncio.sleep(0)
    async for batch in batches_of(runs, wanted, turn):
        if n is not None:
            batch[:], excess = _without_first(batch, excess)
        if batch:
            yield batch


async def batches_of(
    runs: list[Iterator[Record]], wanted: LogFilter, turn: asyncio.Lock
) -> AsyncGenerator[list[Record], None]:
    """Yields what is wanted of these records, merged by time; nothing is read before the batch before is taken.

    Raises:
        ResourceLimitExceeded: the pattern takes too long.
    """
    batches = in_batches(heapq.merge(*runs, key=time_of))
    while True:
        async with turn:
            batch = next(batches, None)
            if batch is None:
                return
            batch[:] = wanted.select(batch)
            await asyncio.sleep(0)
        if batch:
            yield batch


def _without_first(records: list[Record], lines: int) -> tuple[list[Record], int]:
    """Returns the records after the first `lines` lines, and the number of lines still to be left out."""
    for index, record in enumerate(records):
        if lines <= 0:
            return records[index:], lines
        lines -= _ends_line(record)
    return [], lines


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
                chosen = wanted.select(some or ())
                await asyncio.sleep(0)
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
