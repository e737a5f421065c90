"""Reading the log of one worker from a position on, across rotation, and those of several merged by time.

A position is (inode, offset): it holds no descriptor, so that a slow reader keeps no deleted file on the disk. Where
its file is gone a reader is skipped ahead, with a count. Nothing here writes.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar, cast

from .logfile import (
    CAPTURED,
    FIRST,
    HEAD_BYTES,
    NOTIFIED,
    OWN,
    PREFIX_BYTES,
    File,
    Library,
    OpenFile,
    Place,
    Record,
    Search,
    Wanted,
    at_of,
    back,
    chain,
    first_from,
    instant,
    json_line,
    opened,
    passed_over,
    places_of,
    previous_span,
    shown_of,
    text_fields,
)

JOIN_LIMIT_BYTES = 2 * 1024 * 1024  # longer lines are shown in pieces, marked `partial`
BLOCK_BYTES = 64 * 1024
BLOCKS_BYTES = 4 * 1024 * 1024  # of all the cursors of one reader together
LONGEST_BLOCK_BYTES = 1024 * 1024
BATCH_RECORDS = 256
BATCH_BYTES = 256 * 1024
"""With JOIN_LIMIT_BYTES: as JSON, where one byte may take six, a batch stays below a message's limit."""

KEPT_BYTES = 4 * 1024 * 1024
"""Of found records that one reader holds, before it prefers to read them a second time."""

RECORD_BYTES = 600
"""What a record takes beside its text."""

SEARCH_FACTOR = 8
"""Of lines that are looked at for the last that match: more each time, until there are enough."""

T = TypeVar("T")

_CAPTURED = (CAPTURED, FIRST[CAPTURED])
_NOTIFIED = (NOTIFIED, FIRST[NOTIFIED])


class Cursor:
    """A position in the files of one worker, and the parts of lines that have been read up to it."""

    def __init__(self, library: Library, agent: str, worker: str) -> None:
        self.agent = agent
        self.worker = worker
        self.until: tuple[int, int] | None = None
        """Where to stop: an inode and an offset in it; None is the end of what there is."""
        self.count = 0
        """How many of the lines that were asked for are between the place of the last rewind and its end."""
        self.line: int | None = 0
        """How many lines the writer had written up to here, if that is known."""
        self._library = library
        self._directory = library.directory / agent
        self._until_head = b""
        self._line_until: int | None = 0
        self._inode = 0  # none: before the first file
        self._head = b""  # the time of the first line: numbers of deleted files are used again
        self._offset: int = 0
        self._path: Path | None = None
        self._at = "1970-01-01T00:00:00.000000000Z"
        self._parts: dict[tuple[bytes, bytes], bytearray] = {}
        self._broken = False  # the file has more than can be read

    async def rewind(
        self, files: list[Place], wanted: Wanted, n: int | None, *, stream: str | None = None
    ) -> bool:
        """Go to where the last `n` lines begin, or all of them; say whether no wanted line is before that.

        With `stream` only its lines count, and those of corral itself.
        """
        library = self._library
        while not files[0].is_ours and len(files) > 1:
            files = files[1:]
        writer = library.find_writer(self.agent, self.worker)
        # Only now, before anybody else has a turn, the writer's count belongs to the end of the file.
        written = writer.lines if writer and files[-1].refresh() else None
        end = (len(files) - 1, files[-1].size)
        first, last = (0, 0), end
        if wanted.previous:
            is_running = self.worker in wanted.running
            is_current = is_running and not (writer is not None and writer.is_fresh)
            first, last = await _stepwise(
                previous_span(files, library, is_current=is_current), library.turn
            )
        if wanted.since is not None:
            first = max(first, first_from(files, library, instant(wanted.since).encode()))
        if wanted.until is not None:
            after = instant(wanted.until)[:-1] + "["  # the character behind Z
            last = min(last, first_from(files, library, after.encode()))
        last = max(first, last)
        count, position = 0, first
        if n is not None:
            search = back(files, library, last, n, stream=stream, floor=first)
            position, count = await _stepwise(search, library.turn)
        reaches_back = position <= first
        if n is None or position < first:
            position, _ = await _stepwise(back(files, library, first, 0), library.turn)
        self.until = (files[last[0]].inode, last[1])
        self._until_head = self._head_of(files[last[0]])
        self._line_until = written if last == end else None
        place = files[position[0]]
        self._inode, self._offset, self._path = place.inode, position[1], place.path
        self._head = b""
        self._parts.clear()
        self.line = None
        self._block(0)
        self.count = count
        return reaches_back

    def place(self) -> Callable[[], None]:
        """What brings the cursor back to where it is now, right after a rewind."""
        inode, offset, path, head = self._inode, self._offset, self._path, self._head

        def restore() -> None:
            self._inode, self._offset, self._path, self._head = inode, offset, path, head
            self._parts.clear()
            self.line = None

        return restore

    def _head_of(self, place: Place) -> bytes:
        with opened(self._directory, place.inode, self._library, place.path) as file:
            return b"" if file is None else file.pread(HEAD_BYTES, 0)

    def records(self, block_bytes: int) -> Iterator[Record]:
        """All records up to where the cursor is to stop."""
        while batch := self.pull(block_bytes):
            yield from batch

    def pull(self, block_bytes: int) -> list[Record]:
        """The next records, about one block of them; [] at the end of what there is."""
        while True:
            records = self.step(block_bytes)
            if records is None:
                return []
            if records:
                return records

    def step(self, block_bytes: int, stream: str | None = None) -> list[Record] | None:
        """The records of the next block, which may have none; None at the end of what there is.

        With `stream` a block in which none can be of it is passed over.
        """
        while True:
            size = block_bytes
            if self._is_last():
                assert self.until is not None, "only then a file can be the last"
                size = min(size, self.until[1] - self._offset)
                if size <= 0:
                    self.line = self._line_until
                    return None
            data = self._block(size)
            if data is None:
                return self._skip_ahead(self._newer())
            end = data.rfind(b"\n") + 1
            if not end and len(data) == size and size == block_bytes:
                if block_bytes < LONGEST_BLOCK_BYTES:
                    block_bytes *= 2  # a line that is longer than a block
                    continue
                end = len(data)  # not our file: take it in pieces
            if self._broken:
                return [self._gap_record(None, "the file cannot be read here")]
            if not end:
                return self._advance()
            self._offset += end
            passed = passed_over(data[:end], stream)
            if passed is None:
                return self._parse(data[: end - 1].split(b"\n"))
            if self.line is not None:
                self.line += passed
            return []

    def _is_last(self) -> bool:
        if self.until is None:
            return False
        inode = self.until[0]
        if self._inode not in (inode, self._library.packed.get(inode)):
            return False
        if not self._head:
            self._block(0)
        return self._head == self._until_head

    def _block(self, size: int) -> bytes | None:
        """Bytes at the position, b"" at the end of the file, None if the file is gone."""
        packed = self._library.packed.get(self._inode)
        for inode, hint in ((self._inode, self._path), (packed, None)):
            if inode is None:
                continue
            with opened(self._directory, inode, self._library, hint) as file:
                if file is None:
                    continue
                found = self._pread(file, size)
            if found is not None:
                return found
            if packed is None:
                self._inode = 0  # a new file got the number of ours
        return None

    def _pread(self, file: OpenFile, size: int) -> bytes | None:
        """None if it is another file."""
        head = file.pread(HEAD_BYTES, 0)
        self._head = self._head or head
        if head != self._head or file.size < self._offset:
            writer = self._library.find_writer(self.agent, self.worker)
            written = writer.files if writer else []
            ours = [each for each in written if each.inode == file.inode]
            if not ours or self.line is None or ours[0].first_line > self.line:
                return None
            self._head, self._offset = head, 0  # ours, truncated from outside
        self._path, self._inode = file.path, file.inode
        expected = min(size, file.size - self._offset)
        data = file.pread(size, self._offset)
        self._broken = len(data) < expected and b"\n" not in data
        if self._broken:
            self._offset = file.size
        return data

    def _advance(self) -> list[Record] | None:
        """From the end of this file go to the next newer one; None if there is none yet."""
        writer = self._library.find_writer(self.agent, self.worker)
        written = writer.files if writer else []
        numbers = [file.inode for file in written]
        if writer is not None and self._inode in numbers:
            newer = written[numbers.index(self._inode) + 1 :]
            if newer:
                self._go(newer[0].inode, newer[0].first_line)
                return []
            self.line = writer.lines
            return None
        # Of an earlier daemon, or so old that the writer has forgotten it: the names tell the order.
        is_next = self._inode in [place.inode for place in self.files()]
        return self._skip_ahead(self._newer(), is_next=is_next)

    def files(self) -> list[Place]:
        """The files of the worker as they are now, oldest first."""
        return places_of(chain(self._directory, self.worker))

    def _newer(self) -> list[File]:
        """The files behind this one, oldest first; what is not known of one is how many lines were before it: -1."""
        writer = self._library.find_writer(self.agent, self.worker)
        written = writer.files if writer else []
        numbers = [file.inode for file in written]
        if self._inode in numbers:
            return written[numbers.index(self._inode) + 1 :]
        first_lines = {file.inode: file.first_line for file in written}
        places = [place for place in self.files() if place.is_ours]
        inodes = [place.inode for place in places]
        if self._inode in inodes:
            places = places[inodes.index(self._inode) + 1 :]
        else:  # it was rotated away, or somebody has moved it: then what is older is still there
            places = [place for place in places if self._head_of(place) > self._head]
        return [File(place.inode, first_lines.get(place.inode, -1)) for place in places]

    def _skip_ahead(self, newer: list[File], *, is_next: bool = False) -> list[Record] | None:
        """From the end of a file, or one that is gone, go to the next that is left, and tell what was missed between them.

        None if there is nothing newer yet. `is_next`: nothing was, as far as is known.
        """
        if not newer:
            return None
        target = newer[0]
        # Not known of files of an earlier daemon, nor if the worker has got a new writer.
        known = self.line is not None and target.first_line >= self.line
        skipped = target.first_line - (self.line or 0) if known else None
        self._parts.clear()
        self._go(target.inode, target.first_line if target.first_line >= 0 else None)
        if skipped == 0 or (skipped is None and is_next):
            return []
        return [self._gap_record(skipped, "they were rotated away before they were read")]

    def _gap_record(self, skipped: int | None, reason: str) -> Record:
        count = "lines" if skipped is None else f"{skipped} lines"
        text = f"corral: {count} skipped: {reason}"
        shown = {"level": "warning", "text": text, "skipped_lines": skipped}
        return self._record(self._at, "corral", shown)

    def _go(self, inode: int, line: int | None) -> None:
        self._inode = inode
        self._head = b""
        self._offset = 0
        self._path = None
        self.line = line
        self._block(0)  # from now on it is known by its head

    def _parse(self, lines: list[bytes]) -> list[Record]:
        records: list[Record] = []
        ended = 0
        for line in lines:
            kind, stream, tag = line[28:29], line[31:37], line[38:40]
            text = line[PREFIX_BYTES:]
            if line[29:31] != b"Z " or tag not in (b"F ", b"P "):
                records.append(self._record(self._at, "stderr", text_fields(line)))  # not our line
                continue
            self._at = line[:HEAD_BYTES].decode("ascii", "replace")
            if tag == b"P " or self._parts:
                joined = self._join(kind, stream, tag == b"F ", text, records)
                if joined is None:
                    continue
                text = joined
            ended += tag == b"F "
            if kind in _CAPTURED:
                records.append(
                    self._record(self._at, stream.decode("ascii", "replace"), text_fields(text))
                )
            else:
                name = "log" if kind in _NOTIFIED else "corral"
                records.append(self._record(self._at, name, shown_of(text)))
        if self.line is not None:
            self.line += ended
        return records

    def _join(
        self, kind: bytes, stream: bytes, last: bool, text: bytes, records: list[Record]
    ) -> bytes | None:
        """The whole line if this part ends it, else None."""
        if kind == OWN:
            # What was lost is the rest of these lines: they are not continued.
            for (_, name), parts in self._parts.items():
                shown = {**text_fields(bytes(parts)), "partial": True}
                records.append(self._record(self._at, name.decode("ascii", "replace"), shown))
            self._parts.clear()
            return text
        is_captured = kind in _CAPTURED
        key = (CAPTURED if is_captured else NOTIFIED, stream)
        parts = self._parts.setdefault(key, bytearray())
        parts += text
        if last:
            del self._parts[key]
            return bytes(parts)
        if is_captured and len(parts) >= JOIN_LIMIT_BYTES:
            shown = {**text_fields(bytes(parts)), "partial": True}
            records.append(self._record(self._at, stream.decode("ascii", "replace"), shown))
            parts.clear()
        return None

    def _record(self, at: str, stream: str, shown: Mapping[str, object]) -> Record:
        record: Record = {"at": at, "agent": self.agent, "worker": self.worker, "stream": stream}
        return {**record, "level": None, **shown}


async def merged(
    cursors: list[Cursor], wanted: Wanted, n: int | None, turn: asyncio.Lock
) -> AsyncGenerator[list[Record], None]:
    """What the cursors give up to their ends, by time, in batches; the last `n` lines if given.

    Each cursor was rewound by `n`, unless the wanted ones have to be looked for. What is held at a time does not
    grow with `n`. `turn` is held while there is something to do.
    """
    block_bytes = block_size(len(cursors))
    kept_bytes = KEPT_BYTES // max(len(cursors), 1)
    runs: list[Iterator[Record]] = []
    excess = -(n or 0)
    for cursor in cursors:
        if n is not None and wanted.is_rare:
            count, found = await _last_rare(cursor, wanted, n, (block_bytes, kept_bytes), turn)
            excess += count
            runs.append(cursor.records(block_bytes) if found is None else iter(found))
        else:
            excess += cursor.count
            async with turn:
                first = cursor.pull(block_bytes)  # here: the merge would begin with all at once
                runs.append(itertools.chain(first, cursor.records(block_bytes)))
                await asyncio.sleep(0)
    merging = heapq.merge(*runs, key=at_of)
    some: list[Record] | None = None
    while some or some is None:
        async with turn:
            some = list(itertools.islice(merging, BATCH_RECORDS))
            chosen = wanted.select(some)
            await asyncio.sleep(0)
        if n is not None:
            chosen, excess = _without_first(chosen, excess)
        for batch in in_batches(chosen):
            yield batch


def _without_first(records: list[Record], lines: int) -> tuple[list[Record], int]:
    """The records behind so many lines, and how many lines are still to be left out."""
    for index, record in enumerate(records):
        if lines <= 0:
            return records[index:], lines
        lines -= _ends_line(record)
    return [], lines


def _ends_line(record: Record) -> bool:
    # Pieces of a message are lines of their own in the files.
    return record["stream"] == "log" or not record.get("partial")


async def _last_rare(
    cursor: Cursor, wanted: Wanted, n: int, limits: tuple[int, int], turn: asyncio.Lock
) -> tuple[int, list[Record] | None]:
    """How many of the last lines of one worker that are wanted were found, and they, the last `n` of them.

    None where they are too much to be held: then the cursor is where they begin, else at its end. The limits are
    what is read at a time, and what may be held.
    """
    block_bytes, kept_bytes = limits
    stream = "log" if wanted.level is not None else wanted.stream
    lines = max(n, BATCH_RECORDS)
    while True:
        files = cursor.files()
        if not files:
            return 0, []
        reaches_back = await cursor.rewind(files, wanted, lines, stream=stream)
        go_back = cursor.place()
        found: list[Record] | None = []
        count = size = 0
        while True:
            async with turn:
                some = cursor.step(block_bytes, stream)
                chosen = wanted.select(some or [])
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
                go_back()
            return count, found
        lines *= SEARCH_FACTOR


def _text_bytes(record: Record) -> int:
    """About what a record's contents take in a message, with one byte for each character."""
    size = len(str(record["text"])) + len(str(record.get("bytes", "")))
    fields = record.get("fields")
    return size if fields is None else size + len(json_line(cast("Record", fields)))


async def _stepwise(search: Search[T], turn: asyncio.Lock) -> T:
    """What the search finds; between its blocks all others have their turns."""
    while True:
        async with turn:
            try:
                next(search)
            except StopIteration as found:
                return cast("T", found.value)  # a generator's result is untyped
            await asyncio.sleep(0)


def in_batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in lists of bounded number and size."""
    batch: list[Record] = []
    size = 0
    for record in records:
        added = _text_bytes(record)
        if batch and (len(batch) == BATCH_RECORDS or size + added > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += added
    if batch:
        yield batch


def block_size(cursors: int) -> int:
    """How much each of so many cursors may read at a time."""
    return max(4096, min(BLOCK_BYTES, BLOCKS_BYTES // max(cursors, 1)))
