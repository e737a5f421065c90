"""Reads the log of one worker from a position on, across rotation, and merges those of several by time.

A position is a place in a file, and how many lines the worker's writer had written before it. It holds no
descriptor, so that a slow reader keeps no deleted file on the disk. The next file follows from the writer's count of
lines, not from names: at the end of a file, or where it is gone, the reader goes to the next that is left, and reports the
lines that the count has jumped by as missed. Nothing here writes.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from .file_format import (
    CAPTURED,
    FIRST,
    HEAD_BYTES,
    NOTIFIED,
    OWN,
    PREFIX_BYTES,
    File,
    FoundFile,
    LogFilter,
    LogSource,
    OpenFile,
    Record,
    Search,
    WriterState,
    decode_message,
    files_at,
    first_line_of,
    json_line,
    log_paths,
    opened,
    opened_by_inode,
    text_fields,
    time_of,
    timestamp,
)
from .seek import find_last, first_from, lines_after, lines_without, previous_span

JOIN_LIMIT_BYTES = 2 * 1024 * 1024
"""Bytes of a line; longer ones are shown in pieces, marked `partial`."""

BLOCK_BYTES = 64 * 1024
"""Bytes that a cursor reads at a time."""

BLOCKS_BYTES = 4 * 1024 * 1024
"""Bytes that all the cursors of one reader read at a time, together."""

LONGEST_BLOCK_BYTES = 1024 * 1024
"""Bytes within which a newline is looked for."""

BATCH_RECORDS = 256
"""Number of records in one batch."""

BATCH_BYTES = 256 * 1024
"""Bytes of one batch. With JOIN_LIMIT_BYTES: as JSON, where one byte may take six, it stays below a message's limit."""

COUNTED_BYTES = 16 * 1024 * 1024
"""Bytes of a file whose lines are counted where a reader begins, so that it can report missed lines."""

KEPT_BYTES = 4 * 1024 * 1024
"""Bytes of found records that one reader holds, before it prefers to read them a second time."""

RECORD_BYTES = 600
"""Bytes of memory that a record takes beside its text."""

SEARCH_FACTOR = 8
"""Factor by which more lines are searched each time, until enough of them match."""

T = TypeVar("T")

_CAPTURED = (CAPTURED, FIRST[CAPTURED])
_NOTIFIED = (NOTIFIED, FIRST[NOTIFIED])


class Cursor:
    """Represents a position in the files of one worker, with the parts of lines that have been read up to it."""

    def __init__(self, source: LogSource, agent: str, worker: str, line: int | None = None) -> None:
        """Begins before the worker's first file; `line` is the number of lines that its writer has written, if known."""
        self.agent = agent
        self.worker = worker
        self.is_bounded = False
        """Whether to stop where the end was at the last rewind."""
        self.count = 0
        """How many of the lines that were asked for are between the place of the last rewind and its end."""
        self.line: int | None = line
        """How many lines the writer had written up to here, if that is known."""
        self._source = source
        self._directory = source.directory / agent
        self._end = (b"", 0)  # the time of the first line of the last file, and an offset in it
        self._line_at_end: int | None = None
        self._inode = 0
        self._head = b""  # none: before the first file
        self._first_line: int | None = None  # `line` where the file begins
        self._offset: int = 0
        self._path: Path | None = None
        self._at = "1970-01-01T00:00:00.000000000Z"
        self._parts: dict[tuple[bytes, bytes], bytearray] = {}
        self._broken = False  # the file has more than can be read

    def forget(self) -> None:
        """Forgets the writer's count of lines, which begins anew."""
        self.line = self._first_line = self._line_at_end = None

    async def rewind(
        self, files: list[FoundFile], wanted: LogFilter, n: int | None, *, stream: str | None = None
    ) -> bool:
        """Moves to where the last `n` lines begin, or all of them; returns whether no wanted line is before that.

        With `stream` only its lines count, and those of corral itself.
        """
        source = self._source
        writer = self._writer()
        # Only now, before another reader runs, all this belongs together: files, their ends, the writer's count.
        files = self._readable(files)
        ends = _line_ends(writer)
        for entry in files:
            entry.first_line = first_line_of(writer, entry.inode)
        if not files:
            self._settle(None, 0, writer.lines if writer else self.line)
            self._end, self._line_at_end = (b"", 0), self.line
            return True
        with files[-1].opened(source):  # from now on it is known by its head
            end = (len(files) - 1, files[-1].size)
        first, last = (0, 0), end
        if wanted.previous:
            is_running = self.worker in wanted.running
            is_current = is_running and not (writer is not None and writer.is_fresh)
            first, last = await _stepwise(
                previous_span(files, source, is_current=is_current), source.turn
            )
        if wanted.since is not None:
            first = max(first, first_from(files, source, timestamp(wanted.since).encode()))
        if wanted.until is not None:
            after = timestamp(wanted.until)[:-1] + "["  # the character behind Z
            last = min(last, first_from(files, source, after.encode()))
        last = max(first, last)
        count, position = 0, first
        if n is not None:
            search = find_last(files, source, last, n, stream=stream, floor=first)
            position, count = await _stepwise(search, source.turn)
        reaches_back = position <= first
        is_counted = n is not None and position >= first and last == end and stream is None
        if n is None or position < first:
            position, _ = await _stepwise(find_last(files, source, first, 0), source.turn)
        entry = files[position[0]]
        line = ends.get(entry.inode)
        if is_counted and (entry is files[-1] or line is None or entry.size > COUNTED_BYTES):
            line = ends.get(files[-1].inode)
            line = None if line is None else line - count
        elif line is not None and entry.size - position[1] <= COUNTED_BYTES:
            line -= await _stepwise(lines_after(entry, source, position[1]), source.turn)
        else:
            line = None
        if line is not None and line < 0:
            line = None  # an earlier daemon wrote these lines, uncounted
        with files[last[0]].opened(source):
            self._end = (files[last[0]].head, last[1])
        self._line_at_end = ends.get(files[-1].inode) if last == end else None
        with entry.opened(source):
            self._settle(entry, position[1], line)
        self.count = count
        return reaches_back

    def _readable(self, files: list[FoundFile]) -> list[FoundFile]:
        """Returns the files as they are now, without those that have no line or cannot be read."""
        found = [entry.refresh() for entry in files]  # every one: they are measured, too
        if not all(found):
            files = self.files()
        files = [entry for entry in files if not entry.is_empty]
        while files and not files[0].is_ours:
            files = files[1:]
        return files

    def _settle(self, entry: FoundFile | None, offset: int, line: int | None) -> None:
        self._inode = entry.inode if entry else 0
        self._path = entry.path if entry else None
        self._head = entry.head if entry else b""
        self._first_line = entry.first_line if entry else None
        self._offset = offset
        self._parts.clear()
        self.line = line
        self.is_bounded = True

    def save(self) -> Callable[[], None]:
        """Returns a function that brings the cursor back to its present position, right after a rewind."""
        found = self._inode, self._path, self._head, self._first_line, self._offset, self.line

        def restore() -> None:
            self._inode, self._path, self._head, self._first_line, self._offset, self.line = found
            self._parts.clear()

        return restore

    def records(self, block_bytes: int) -> Iterator[Record]:
        """Yields all records up to the end of the last rewind."""
        while batch := self.pull(block_bytes):
            yield from batch

    def pull(self, block_bytes: int) -> list[Record]:
        """Returns the next records, about one block of them; [] at the end of what there is."""
        while True:
            records = self.step(block_bytes)
            if records is None:
                return []
            if records:
                return records

    def step(self, block_bytes: int, stream: str | None = None) -> list[Record] | None:
        """Returns the records of the next block, which may have none; None at the end of what there is.

        With `stream` a block in which none can be of it is passed over.
        """
        while True:
            size = block_bytes
            if self.is_bounded and self._end[0] == self._head:
                size = min(size, self._end[1] - self._offset)
                if size <= 0:
                    if self.line is None:
                        self.line = self._line_at_end
                    return None
            data = self._block(size)
            if data is None:
                return self._leave(is_gone=True)
            end = data.rfind(b"\n") + 1
            if not end and len(data) == size and size == block_bytes:
                if block_bytes < LONGEST_BLOCK_BYTES:
                    block_bytes *= 2  # a line that is longer than a block
                    continue
                end = len(data)  # not our file: take it in pieces
            if self._broken:
                self.line = None  # it is known again at the end of the file
                return [self._gap_record(None, "the file cannot be read here")]
            if not end:
                return self._leave(is_gone=False)
            self._offset += end
            passed = lines_without(data[:end], stream)
            if passed is None:
                return self._parse(data[: end - 1].split(b"\n"))
            if self.line is not None:
                self.line += passed
            return []

    def files(self) -> list[FoundFile]:
        """Returns the files of the worker as they are now, oldest first."""
        return files_at(log_paths(self._directory, self.worker))

    def _writer(self) -> WriterState | None:
        return self._source.find_writer(self.agent, self.worker)

    def _block(self, size: int) -> bytes | None:
        """Reads a block at the position; b"" at the end of the file, None if the file is gone."""
        if not self._inode:
            return None
        if self._head:
            with opened(self._directory, self._inode, self._source, self._path, self._head) as file:
                if file is not None:
                    return self._read(file, size)
        # Of a file that its writer goes on with the head is another after a truncation.
        if self._first_line is None or self._first_line != first_line_of(
            self._writer(), self._inode
        ):
            return None
        with opened_by_inode(self._directory, self.worker, self._inode) as file:
            if file is None:
                return None
            self._head, self._offset = file.head, 0
            return self._read(file, size)

    def _read(self, file: OpenFile, size: int) -> bytes:
        self._path, self._inode = file.path, file.inode
        if self._first_line is None:  # an earlier daemon's: has a writer gone on with it?
            self._first_line = first_line_of(self._writer(), self._inode)
        self._offset = min(self._offset, file.size)  # what is beyond was read, and then cut off
        expected = min(size, file.size - self._offset)
        data = file.pread(size, self._offset)
        self._broken = len(data) < expected and b"\n" not in data
        if self._broken:
            self._offset = file.size
        return data

    def _leave(self, *, is_gone: bool) -> list[Record] | None:
        """Moves from the end of a file, or one that is gone, to the next that is left, and reports the lines missed between.

        None if there is nothing newer yet.
        """
        writer = self._writer()
        later, is_next = self._later(writer.files if writer else [], is_gone=is_gone)
        if self.is_bounded:
            later = [file for file in later if self._is_before_end(file)]
        for file in later:
            if self._enter(file):
                # A file that was there before its writer has uncounted lines.
                is_known = file.first_line > 0 or (file.first_line == 0 and self.line is not None)
                return self._gap_to(file.first_line if is_known else None, is_next=is_next)
            is_next = False
        is_present = writer is not None and not is_gone and is_next and not later
        if writer is None or not is_present or self._first_line is None:
            return None
        # At the end of the present file nothing may be missing.
        return self._gap_to(writer.lines, is_next=True) or None

    def _is_before_end(self, file: File) -> bool:
        """Returns whether a file was there at the last rewind."""
        if self._line_at_end is None or file.first_line < self._line_at_end:
            return True
        # An earlier daemon may have written to it, and its writer nothing yet.
        with opened_by_inode(self._directory, self.worker, file.inode) as found:
            return found is not None and found.head == self._end[0]

    def _later(self, written: Sequence[File], *, is_gone: bool) -> tuple[Sequence[File], bool]:
        """Returns the files behind this one, oldest first, and whether the first of them is the very next.

        The number of lines before one is -1 where it is not known.
        """
        numbers = (self._inode, self._source.compressed.get(self._inode))
        if self._first_line is not None:
            for index, file in enumerate(written):
                if file.first_line == self._first_line and file.inode in numbers:
                    return written[index + 1 :], not is_gone
        # Its writer has forgotten it: then it is older than all that the writer knows.
        line, first_line = self.line, self._first_line
        if written and line is not None:
            return [file for file in written if file.first_line >= line], False
        if written and first_line is not None:
            return [file for file in written if file.first_line > first_line], False
        # Of an earlier daemon: the names give the order.
        first_lines = {file.inode: file.first_line for file in written}
        entries = [entry for entry in self.files() if entry.is_ours]
        inodes = [entry.inode for entry in entries]
        is_there = not is_gone and self._inode in inodes
        if is_there:
            entries = entries[inodes.index(self._inode) + 1 :]
        else:  # it was rotated away, or moved by another program: then what is older is still there
            entries = [
                p for p in entries if p.inode in first_lines or self._head_of(p) > self._head
            ]
        later = [File(entry.inode, first_lines.get(entry.inode, -1)) for entry in entries]
        return later, is_there or not self._head

    def _head_of(self, entry: FoundFile) -> bytes:
        with opened_by_inode(self._directory, self.worker, entry.inode) as file:
            return b"" if file is None else file.head

    def _enter(self, file: File) -> bool:
        """Moves to the beginning of a file; returns False if it is gone, or empty."""
        with opened_by_inode(self._directory, self.worker, file.inode) as found:
            head = b"" if found is None else found.head
            if found is None or not head:
                return False
            self._inode, self._path, self._head, self._offset = file.inode, found.path, head, 0
            self._first_line = file.first_line if file.first_line >= 0 else None
            return True

    def _gap_to(self, line: int | None, *, is_next: bool) -> list[Record]:
        """Moves the count to `line`; returns the record that reports the lines in between, if any."""
        before, self.line = self.line, line
        skipped = None if before is None or line is None else line - before
        if (is_next and skipped is None) or (skipped is not None and skipped <= 0):
            return []
        self._parts.clear()
        return [self._gap_record(skipped, "they were rotated away before they were read")]

    def _gap_record(self, skipped: int | None, reason: str) -> Record:
        count = "lines" if skipped is None else f"{skipped} lines"
        text = f"corral: {count} skipped: {reason}"
        shown = {"level": "warning", "text": text, "skipped_lines": skipped}
        return self._record(self._at, "corral", shown)

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
                records.append(self._record(self._at, name, decode_message(text)))
        if self.line is not None:
            self.line += ended
        return records

    def _join(
        self, kind: bytes, stream: bytes, last: bool, text: bytes, records: list[Record]
    ) -> bytes | None:
        """Joins the parts of a line; returns the whole line if this part ends it, else None."""
        if kind == OWN:
            # The rest of these lines was lost: they are not continued.
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


def _line_ends(writer: WriterState | None) -> dict[int, int]:
    """Returns the number of lines that the writer had written at the end of each of its files, by inode."""
    if writer is None or not writer.files:
        return {}
    firsts = [file.first_line for file in writer.files[1:]]
    return {
        file.inode: end for file, end in zip(writer.files, [*firsts, writer.lines], strict=True)
    }


async def merged(
    cursors: list[Cursor], wanted: LogFilter, n: int | None, turn: asyncio.Lock
) -> AsyncGenerator[list[Record], None]:
    """Yields the records of all cursors up to their ends, by time, in batches; the last `n` lines if given.

    Each cursor was rewound by `n`, unless matching lines have to be searched for. Memory does not grow with `n`.
    `turn` is held while there is something to do.
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
    merging = heapq.merge(*runs, key=time_of)
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
    cursor: Cursor, wanted: LogFilter, n: int, limits: tuple[int, int], turn: asyncio.Lock
) -> tuple[int, list[Record] | None]:
    """Finds the last `n` matching lines of one worker; returns how many were found, and their records.

    The records are None where they are too long to be held: then the cursor is where they begin, else at its end.
    The limits are the bytes read at a time, and the bytes that may be held.
    """
    block_bytes, kept_bytes = limits
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
                restore()
            return count, found
        lines *= SEARCH_FACTOR


def _text_bytes(record: Record) -> int:
    """Estimates the bytes of a record in a message, with one byte for each character."""
    size = len(str(record["text"])) + len(str(record.get("bytes", "")))
    fields = record.get("fields")
    return size if fields is None else size + len(json_line(cast("Record", fields)))


async def _stepwise(search: Search[T], turn: asyncio.Lock) -> T:
    """Runs a search to its end, and lets other readers run between its blocks."""
    while True:
        async with turn:
            try:
                next(search)
            except StopIteration as found:
                return cast("T", found.value)  # a generator's result is untyped
            await asyncio.sleep(0)


def in_batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Returns the records in lists of bounded number and size."""
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
    """Returns the bytes that each of so many cursors may read at a time."""
    return max(4096, min(BLOCK_BYTES, BLOCKS_BYTES // max(cursors, 1)))
