"""Reads the log of one worker from a position on, across rotation and compression.

A position is a place in a file, and how many lines the worker's writer had written before it. It holds no
descriptor, so that a slow reader keeps no deleted file on the disk. The next file is the one with the next number that the writer
has given (`file_format.File`), never one with a smaller number: at the end of a file, or where it is gone, the reader goes to the next that is
left, and reports the lines that the count has jumped by as missed. Nothing here writes.
"""

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Self, TypeVar, cast

from corral.worker.contract.log_pieces import WHOLE_PART_BYTES

from .file_format import (
    CAPTURED,
    NOTIFIED,
    File,
    FoundFile,
    LogFilter,
    LogSource,
    OpenFile,
    Record,
    Search,
    WriterState,
    files_at,
    log_paths,
    number_of,
    opened,
    opened_by_head,
    opened_by_inode,
    time_of,
    timestamp,
)
from .record import LineDecoder, Place, ended_lines
from .seek import Position, find_last, first_from, lines_after, lines_without, previous_span

PIECE_BYTES = 256 * 1024
"""Bytes of a line; longer ones come in pieces, marked `partial`, which `PieceJoiner` joins for those that want them whole."""

SHORTEST_PIECE_BYTES = 16 * 1024
"""Bytes of a piece where very many workers are read at a time."""

PIECES_BYTES = 512 * 1024
"""Bytes that all the cursors of one reader hold of long lines, together."""

BLOCK_BYTES = 64 * 1024
"""Bytes that a cursor reads at a time."""

SHORTEST_BLOCK_BYTES = 4 * 1024
"""Bytes that a cursor reads at a time where very many workers are read."""

BLOCKS_BYTES = 4 * 1024 * 1024
"""Bytes that all the cursors of one reader read at a time, together."""

BLOCKS_PER_TURN = 4
"""Number of blocks that a search looks through before others have their turn: a turn costs as much as a block."""

LONGEST_BLOCK_BYTES = 128 * 1024
"""Bytes within which a newline is looked for: a stored line is shorter."""

COUNTED_BYTES = 16 * 1024 * 1024
"""Bytes of a file whose lines are counted where a reader begins, so that it can report missed lines."""

T = TypeVar("T")


class Room(NamedTuple):
    """Holds the bytes that a cursor may read at a time, and those that it may hold of a line."""

    block_bytes: int
    piece_bytes: int
    holds: bool
    """Whether what has begun of a line is held for its end."""

    @classmethod
    def of(cls, cursors: int, *, holds: bool = True) -> Self:
        """Returns the share of each of so many cursors."""
        count = max(cursors, 1)
        return cls(
            max(SHORTEST_BLOCK_BYTES, min(BLOCK_BYTES, BLOCKS_BYTES // count)),
            max(SHORTEST_PIECE_BYTES, min(PIECE_BYTES, PIECES_BYTES // count)) if holds else WHOLE_PART_BYTES,
            holds,
        )


class Cursor:
    """Represents a position in the files of one worker, with the parts of lines that have been read up to it."""

    def __init__(self, source: LogSource, agent: str, worker: str, passed: tuple[int, int] | None = None) -> None:
        """Begins before the worker's first file, or behind what is `passed`: a number of lines, and of the last file."""
        self.agent = agent
        self.worker = worker
        self.is_bounded = False
        """Whether to stop where the end was at the last rewind."""
        self.count = 0
        """How many of the lines that were asked for are between the place of the last rewind and its end."""
        self.is_at_end = False
        """Whether the last `upto` has read to the end of what there is."""
        self.line: int | None = None if passed is None else passed[0]
        """How many lines the writer had written up to here, if that is known."""
        self._source = source
        self._directory = source.directory / agent
        self._end = (b"", 0)  # the time of the first line of the last file, and an offset in it
        self._line_at_end: int | None = None
        self._last_number: int | None = None  # of the last file at the last rewind
        self._inode = 0
        self._head = b""  # none: before the first file
        # The number that its writer has given the file; None of one that it does not know.
        self._number: int | None = None if passed is None else passed[1]
        self._offset: int = 0
        self._path: Path | None = None
        self._decoder = LineDecoder(agent, worker)
        self._broken = False  # the file has more than can be read
        self._owed: str | None = None  # why lines before this place are gone, until that is reported
        self._kept: Iterator[Record] | None = None  # what was given back

    def forget(self) -> None:
        """Forgets the writer's count of lines, which begins anew."""
        self.line = self._number = self._line_at_end = None

    async def rewind(
        self, files: list[FoundFile], wanted: LogFilter, n: int | None, *, stream: str | None = None
    ) -> bool:
        """Moves to where the last `n` lines begin, or all of them; returns whether no wanted line is before that.

        With `stream` only its lines count, and those of corral itself.
        """
        source = self._source
        writer = self._writer()
        files, ends = self._surveyed(files, writer)
        if not files:
            return True
        end = (len(files) - 1, files[-1].size)
        first, last = (0, 0), end
        if wanted.previous:
            is_running = self.worker in wanted.running
            is_current = is_running and not (writer is not None and writer.is_fresh)
            first, last = await _stepwise(previous_span(files, source, is_current=is_current), source.turn)
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

    async def resume(self, files: list[FoundFile], place: Place | None, key: str) -> None:
        """Moves to a place behind which a reader goes on; without one, to the first line of that time or later.

        The next step reports lines that are gone since.
        """
        source = self._source
        files, ends = self._surveyed(files, self._writer())
        if place is not None or key > source.newest():
            self._owed = "they were rotated away before they were read"
        self._decoder.at = key
        if not files:
            return
        end = (len(files) - 1, files[-1].size)
        position = _place_in(files, source, place) if place else None
        if place is None:
            position = first_from(files, source, key.encode())
            is_first = position == (0, 0) and files[0].head >= key.encode()
            if is_first and files[0].head[28:29] in (CAPTURED, NOTIFIED):
                # It begins in the middle of an incarnation.
                self._owed = "they were rotated away before they were read"
        elif position is not None:
            self._owed = None
        else:
            index = next((i for i, each in enumerate(files) if each.head > place[0]), None)
            position = end if index is None else (index, 0)
        entry = files[position[0]]
        line = ends.get(entry.inode)
        self._end, self._line_at_end = (files[-1].head, end[1]), ends.get(files[-1].inode)
        if line is not None and entry.size - position[1] <= COUNTED_BYTES:
            line -= await _stepwise(lines_after(entry, source, position[1]), source.turn)
        with entry.opened(source):
            self._settle(entry, position[1], line if line is None or line >= 0 else None)
        if place is not None and self._owed is None:
            self._decoder.restore(place)

    def _surveyed(self, files: list[FoundFile], writer: WriterState | None) -> tuple[list[FoundFile], dict[int, int]]:
        """Returns the files as they are now, and the writer's lines at their ends; without files, there is no place."""
        # Only now, before another reader runs, all this belongs together: files, their ends, the writer's count.
        files = self._readable(files)
        for entry in files:
            entry.number = number_of(writer, entry.inode)
        if not files:
            self._settle(None, 0, writer.lines if writer else self.line)
            if writer is not None and writer.files:  # the last may be empty, and is yet to be read
                self._number = writer.files[-1].previous
            self._end, self._line_at_end = (b"", 0), self.line
        else:
            self._last_number = files[-1].number
            with files[-1].opened(self._source):  # from now on it is known by its head
                pass
        return files, _line_ends(writer)

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
        self._number = entry.number if entry else None
        self._offset = offset
        self._decoder.clear()
        self.line = line
        self.is_bounded = True

    def save(self) -> Callable[[], None]:
        """Returns a function that brings the cursor back to its present position, right after a rewind."""
        found = self._inode, self._path, self._head, self._number, self._offset, self.line

        def restore() -> None:
            self._inode, self._path, self._head, self._number, self._offset, self.line = found
            self._decoder.clear()

        return restore

    def records(self, room: Room) -> Iterator[Record]:
        """Yields all records up to the end of the last rewind; reads a block when the one before is used up."""
        while (records := self.step(room)) is not None:
            yield from records

    def unended(self) -> Iterator[Record]:
        """Yields what was read and held of lines that have not ended, and forgets it."""
        return self._decoder.flush()

    def keep(self, records: Iterator[Record]) -> None:
        """Takes back records, for the next step."""
        self._kept = records

    def upto(self, horizon: str, room: Room) -> Iterator[Record]:
        """Yields what was written up to a time, and keeps what is later.

        A line that is later than any can be is from before the clock was set back: it does not wait for its time.
        """
        self.is_at_end = False
        is_timely = True
        while is_timely or self.is_bounded:  # without an end, a block at a time
            records = self.step(room)
            if records is None:
                self.is_at_end = True
                return
            for record in records:
                if time_of(record) > horizon:
                    if time_of(record) <= self._source.newest():
                        self.keep(chain((record,), records))
                        return
                    is_timely = False
                yield record

    def step(self, room: Room, stream: str | None = None) -> Iterator[Record] | None:
        """Reads the next block; returns its records, which may be none, or None at the end of what there is.

        The records are to be taken before the next step. With `stream` a block in which none can be of it is passed over.
        """
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        if self._owed is not None:
            reason, self._owed = self._owed, None
            return iter((self._gap_record(None, reason),))
        block_bytes = room.block_bytes
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
                return iter((self._gap_record(None, "the file cannot be read here"),))
            if not end:
                return self._leave(is_gone=False)
            self._decoder.move(self._head, self._offset)
            self._offset += end
            passed = lines_without(data[:end], stream)
            lines: list[bytes] = []
            if passed is None:
                lines = data[:end].removesuffix(b"\n").split(b"\n")
                passed = ended_lines(lines)
            if self.line is not None:
                self.line += passed
            return self._decoder.records(lines, room.piece_bytes, holds=room.holds)

    def files(self) -> list[FoundFile]:
        """Returns the files of the worker as they are now, oldest first."""
        return files_at(log_paths(self._directory, self.worker))

    def _writer(self) -> WriterState | None:
        return self._source.find_writer(self.agent, self.worker)

    def _block(self, size: int) -> bytes | None:
        """Reads a block at the position; b"" at the end of the file, None if the file is gone."""
        if not self._inode:
            return None
        with self._opened() as file:
            if file is not None:
                return self._read(file, size)
        # Of a file that its writer goes on with the head is another after a truncation.
        if self._number is None or self._number != number_of(self._writer(), self._inode):
            return None
        with opened_by_inode(self._directory, self.worker, self._inode) as file:
            if file is None:
                return None
            self._head, self._offset = file.head, 0
            self._decoder.clear()
            return self._read(file, size)

    @contextmanager
    def _opened(self) -> Generator[OpenFile | None]:
        """Yields the file of the position, wherever it is now; None if it is gone."""
        if not self._head:
            yield None
            return
        entry = self._entry()
        inode = self._inode if entry is None else entry.inode
        with opened(self._directory, inode, self._source, self._path, self._head) as file:
            if file is not None or entry is not None:
                yield file
                return
        # Of an earlier daemon: that its inode is not found says little, since numbers of inodes are used again.
        with opened_by_head(self._directory, self.worker, self._head) as file:
            yield file

    def _entry(self) -> File | None:
        writer = self._writer()
        if writer is None or self._number is None:
            return None
        return next((file for file in writer.files if file.number == self._number), None)

    def _read(self, file: OpenFile, size: int) -> bytes:
        self._path, self._inode = file.path, file.inode
        if self._number is None:  # an earlier daemon's: has a writer gone on with it?
            self._number = number_of(self._writer(), self._inode)
        self._offset = min(self._offset, file.size)  # what is beyond was read, and then cut off
        expected = min(size, file.size - self._offset)
        data = file.pread(size, self._offset)
        self._broken = len(data) < expected and b"\n" not in data
        if self._broken:
            self._offset = file.size
        return data

    def _leave(self, *, is_gone: bool) -> Iterator[Record] | None:
        """Moves from the end of a file, or one that is gone, to the next that is left, and reports the lines missed between.

        None if there is nothing newer yet.
        """
        writer = self._writer()
        later, is_next = self._later(writer.files if writer else (), is_gone=is_gone)
        for file in later:
            if (not self.is_bounded or self._is_before_end(file)) and self._enter(file):
                # A file that was there before its writer has uncounted lines.
                is_known = file.first_line > 0 or (file.first_line == 0 and self.line is not None)
                return self._gap_to(file.first_line if is_known else None, is_next=is_next)
            is_next = False
        is_present = writer is not None and is_next and not later
        if writer is None or not is_present or self._number is None:
            return None
        # At the end of the present file nothing may be missing.
        if self.line == writer.lines:
            return None
        return self._gap_to(writer.lines, is_next=True)

    def _is_before_end(self, file: File) -> bool:
        """Returns whether a file was there at the last rewind."""
        if self._line_at_end is None or file.first_line < self._line_at_end:
            return True
        if self._last_number is not None and 0 < file.number <= self._last_number:
            return True  # in the one before there are only parts of a line
        # An earlier daemon may have written to it, its writer nothing yet, or only parts of a line.
        with opened_by_inode(self._directory, self.worker, file.inode) as found:
            return found is not None and found.head == self._end[0]

    def _later(self, written: Sequence[File], *, is_gone: bool) -> tuple[Sequence[File], bool]:
        """Returns the files behind this one, oldest first, and whether the first of them is the very next.

        The number of lines before one is -1 where it is not known.
        """
        number = self._number
        if number is not None:
            later = [file for file in written if file.number > number]
            is_next = not later or later[0].previous == number
            return later, is_next and not is_gone
        # Of an earlier daemon: the names give the order.
        known = {file.inode: file for file in written}
        entries = [entry for entry in self.files() if entry.is_ours]
        inodes = {self._inode, self._source.compressed.get(self._inode)}
        place = next((i for i, entry in enumerate(entries) if entry.inode in inodes), None)
        is_there = place is not None and not is_gone
        if place is not None and self._head_of(entries[place]) == self._head:
            entries = entries[place + 1 :]
        else:  # it was rotated away, or moved by another program: then what is older is still there
            entries = [p for p in entries if p.inode in known or self._head_of(p) > self._head]
        later = [known.get(entry.inode, File(0, entry.inode, -1)) for entry in entries]
        return later, is_there or not self._head

    def _head_of(self, entry: FoundFile) -> bytes:
        with opened_by_inode(self._directory, self.worker, entry.inode) as file:
            return b"" if file is None else file.head

    def _enter(self, file: File) -> bool:
        with opened_by_inode(self._directory, self.worker, file.inode) as found:
            head = b"" if found is None else found.head
            if found is None or not head:
                return False
            self._inode, self._path, self._head, self._offset = file.inode, found.path, head, 0
            self._number = file.number or None
            return True

    def _gap_to(self, line: int | None, *, is_next: bool) -> Iterator[Record]:
        """Moves the count to `line`; yields the record that reports the lines in between, if any."""
        before, self.line = self.line, line
        skipped = None if before is None or line is None else line - before
        if (is_next and skipped is None) or (skipped is not None and skipped <= 0):
            if is_next or not self._decoder.is_inside:
                return
            skipped = 0  # but parts of the line that has begun
        yield from self._decoder.flush()
        yield self._gap_record(skipped, "they were rotated away before they were read")

    def _gap_record(self, skipped: int | None, reason: str) -> Record:
        count = f"{skipped} lines" if skipped else "parts of a line" if skipped == 0 else "lines"
        text = f"corral: {count} skipped: {reason}"
        self._decoder.move(self._head, self._offset)
        return self._decoder.record("corral", {"level": "warning", "text": text, "skipped_lines": skipped})


def _line_ends(writer: WriterState | None) -> dict[int, int]:
    """Returns the number of lines that the writer had written at the end of each of its files, by inode."""
    if writer is None or not writer.files:
        return {}
    firsts = [file.first_line for file in writer.files[1:]]
    return {file.inode: end for file, end in zip(writer.files, [*firsts, writer.lines], strict=True)}


def _place_in(files: list[FoundFile], source: LogSource, place: Place) -> Position | None:
    """Returns where a place is; None where its file is gone, or is another now."""
    head, offset, _ = place
    for index in range(len(files) - 1, -1, -1):
        with files[index].opened(source) as file:
            if file is not None and file.head == head:
                begins = offset == 0 or file.pread(1, offset - 1) == b"\n"
                return (index, offset) if begins else None
    return None


async def _stepwise(search: Search[T], turn: asyncio.Lock) -> T:
    """Runs a search to its end, and lets other readers run between a few of its blocks."""
    while True:
        async with turn:
            try:
                for _ in range(BLOCKS_PER_TURN):
                    next(search)
            except StopIteration as found:
                return cast("T", found.value)  # a generator's result is untyped
            await asyncio.sleep(0)
