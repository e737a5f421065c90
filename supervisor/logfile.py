"""The files of one worker's log: their format, and a position in them that survives rotation.

A line has the format that Kubernetes' container runtimes write (CRI, `logs.go` of the kubelet):

    2026-01-01T00:00:00.123456780Z stderr F text

`F` ends a line, `P` is a part of one that is longer than 16 KiB. The prefix has 40 bytes on every line, so that
reading is one slice per field. The last digit of the nanoseconds says who wrote the line: 0 the worker; 1 a `log`
notification, whose text is `{"level":…,"text":…,"fields":…}`; 2 corral itself (lines were lost), in the same shape.
Shippers take 1 and 2 for JSON on stderr, which they can parse; nothing that a worker prints is mistaken for either.

A position is (inode, offset): it holds no descriptor, so that a slow reader keeps no deleted file on the disk.
Nothing here writes.
"""

import asyncio
import base64
import heapq
import itertools
import json
import os
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

Record: TypeAlias = dict[str, object]

PREFIX_BYTES = 40
CAPTURED, NOTIFIED, OWN = b"0", b"1", b"2"
LINE_LIMIT_BYTES = 16 * 1024  # longer lines are stored in parts
JOIN_LIMIT_BYTES = 4 * 1024 * 1024  # longer lines are shown in pieces, marked `partial`
BLOCK_BYTES = 64 * 1024
BLOCKS_BYTES = 4 * 1024 * 1024  # of all the cursors of one reader together
BATCH_RECORDS = 256
BATCH_BYTES = 1024 * 1024
LOOKBACK_LINES = 1_000


@dataclass(frozen=True, slots=True)
class File:
    """A file that this process wrote to, and how many lines it had written before."""

    inode: int
    first_line: int


class Written(Protocol):
    """What a writer knows of its own files."""

    files: list[File]
    lines: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records somebody asked for."""

    names: frozenset[str]
    since: float | None
    until: float | None
    stream: str | None

    def passes(self, record: Record) -> bool:
        """Whether the record is one of them."""
        at = at_of(record)
        return (
            (self.stream is None or record["stream"] in (self.stream, "corral"))
            and (self.since is None or at >= _instant(self.since))
            and (self.until is None or at <= _instant(self.until))
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A file of a worker as it was found in the folder."""

    path: Path
    inode: int
    size: int


class Cursor:
    """A position in the files of one worker, and the parts of lines that have been read up to it."""

    def __init__(
        self,
        directory: Path,
        find_writer: Callable[[str, str], Written | None],
        agent: str,
        worker: str,
    ) -> None:
        self.agent = agent
        self.worker = worker
        self.until: tuple[int, int] | None = None
        """Where to stop: an inode and an offset in it; None is the end of what there is."""
        self.line: int | None = 0
        """How many lines the writer had written up to here, if that is known."""
        self._find_writer = find_writer
        self._directory = directory / agent
        self._line_until = 0
        self._inode = 0  # none: before the first file
        self._head = b""  # the time of the first line: numbers of deleted files are used again
        self._offset: int = 0
        self._path: Path | None = None
        self._at = "1970-01-01T00:00:00.000000000Z"
        self._parts: dict[tuple[bytes, bytes], list[bytes]] = {}

    def rewind(self, files: list[Place], wanted: Wanted, n: int | None) -> None:
        """Go to where the last `n` wanted lines begin, or at least as far back as `since`."""
        self.until = (files[-1].inode, files[-1].size)
        writer = self._find_writer(self.agent, self.worker)
        self._line_until = writer.lines if writer else 0
        since = None if wanted.since is None else _instant(wanted.since).encode()
        index, offset, left = 0, 0, n
        if n is not None:
            index, offset = len(files) - 1, files[-1].size
        elif since is not None:
            index, offset = _bisect(files, since)
            left = 0
        if left is not None:
            index, offset = _back(files, index, offset, left, wanted.stream, since)
        self._inode, self._offset = files[index].inode, offset
        self.line = None
        self._block(0)

    def records(self, block_bytes: int) -> Iterator[Record]:
        """All records up to where the cursor is to stop."""
        while batch := self.pull(block_bytes):
            yield from batch

    def pull(self, block_bytes: int) -> list[Record]:
        """The next records, about one block of them; [] at the end of what there is."""
        while True:
            size = block_bytes
            if self.until is not None and self.until[0] == self._inode:
                size = min(size, self.until[1] - self._offset)
                if size <= 0:
                    self.line = self._line_until
                    return []
            data = self._block(size)
            if data is None:
                gap = self._skip_ahead()
                if gap is None:
                    return []
                if gap:
                    return [gap]
                continue
            end = data.rfind(b"\n") + 1
            if not end and len(data) == size and size == block_bytes:
                if block_bytes < BATCH_BYTES:
                    block_bytes *= 2  # a line that is longer than a block
                    continue
                end = len(data)  # not our file: take it in pieces
            if end:
                self._offset += end
                records = self._parse(data[: end - 1].split(b"\n"))
                if records:
                    return records
            elif not self._advance():
                return []

    def _block(self, size: int) -> bytes | None:
        """Bytes at the position, b"" at the end of the file, None if the file is gone."""
        for path in (self._path, None):
            path = path or _find(self._directory, self._inode)
            if path is None:
                return None
            fd = _open_inode(path, self._inode)
            if fd is not None:
                try:
                    return self._pread(fd, path, size)
                finally:
                    os.close(fd)
            self._path = None
        return None

    def _pread(self, fd: int, path: Path, size: int) -> bytes | None:
        self._path = path
        head = os.pread(fd, 30, 0)
        self._head = self._head or head
        if head != self._head or os.fstat(fd).st_size < self._offset:
            writer = self._find_writer(self.agent, self.worker)
            written = writer.files if writer else []
            ours = [file for file in written if file.inode == self._inode]
            if not ours or self.line is None or ours[0].first_line > self.line:
                self._inode = 0  # a new file got the number of ours
                return None
            self._head, self._offset = head, 0  # ours, truncated from outside
        return os.pread(fd, size, self._offset)

    def _advance(self) -> bool:
        """From the end of this file go to the next newer one, if there is one."""
        writer = self._find_writer(self.agent, self.worker)
        written = writer.files if writer else []
        numbers = [file.inode for file in written]
        if writer is not None and self._inode in numbers:
            newer = written[numbers.index(self._inode) + 1 :]
            if newer:
                self._go(newer[0].inode, newer[0].first_line)
            else:
                self.line = writer.lines
            return bool(newer)
        # A file of an earlier daemon: the names tell the order.
        places = _places(chain(self._directory, self.worker))
        inodes = [place.inode for place in places]
        position = inodes.index(self._inode) + 1 if self._inode in inodes else len(inodes)
        if position == len(inodes):
            return False
        first_lines = {file.inode: file.first_line for file in written}
        self._go(inodes[position], first_lines.get(inodes[position]))
        return True

    def _skip_ahead(self) -> Record | None:
        """From a file that is gone go to the oldest newer one, and tell what was missed.

        {} if that was nothing; None if there is nothing newer yet.
        """
        writer = self._find_writer(self.agent, self.worker)
        written = writer.files if writer else []
        numbers = [file.inode for file in written]
        if self._inode in numbers:
            newer = written[numbers.index(self._inode) + 1 :]
        else:
            first_lines = {file.inode: file.first_line for file in written}
            newer = [
                File(place.inode, first_lines.get(place.inode, -1))
                for place in _places(chain(self._directory, self.worker))
            ]
        if not newer:
            return None
        target = newer[0]
        # Not known of files of an earlier daemon, nor if the worker has got a new writer.
        known = self.line is not None and target.first_line >= self.line
        skipped = target.first_line - (self.line or 0) if known else None
        self._parts.clear()
        self._go(target.inode, target.first_line if target.first_line >= 0 else None)
        if skipped == 0:
            return {}
        count = "lines" if skipped is None else f"{skipped} lines"
        text = f"corral: {count} skipped: they were rotated away before they were read"
        shown = {"level": "warning", "text": text, "skipped_lines": skipped}
        return self._record(self._at, "corral", shown)

    def _go(self, inode: int, line: int | None) -> None:
        self._inode = inode
        self._head = b""
        self._offset = 0
        self._path = None
        self.line = line

    def _parse(self, lines: list[bytes]) -> list[Record]:
        records: list[Record] = []
        ended = 0
        for line in lines:
            kind, stream, tag = line[28:29], line[31:37], line[38:40]
            text = line[PREFIX_BYTES:]
            if line[29:31] != b"Z " or tag not in (b"F ", b"P "):
                records.append(self._record(self._at, "stderr", text_fields(line)))  # not our line
                continue
            self._at = line[:30].decode("ascii", "replace")
            if tag == b"P " or self._parts:
                joined = self._join(kind, stream, tag == b"F ", text, records)
                if joined is None:
                    continue
                text = joined
            ended += tag == b"F "
            if kind == CAPTURED:
                records.append(
                    self._record(self._at, stream.decode("ascii", "replace"), text_fields(text))
                )
            else:
                name = "log" if kind == NOTIFIED else "corral"
                records.append(self._record(self._at, name, _shown(text)))
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
                shown = {**text_fields(b"".join(parts)), "partial": True}
                records.append(self._record(self._at, name.decode("ascii", "replace"), shown))
            self._parts.clear()
            return text
        parts = self._parts.setdefault((kind, stream), [])
        parts.append(text)
        if last:
            del self._parts[kind, stream]
            return b"".join(parts)
        if kind == CAPTURED and len(parts) * LINE_LIMIT_BYTES >= JOIN_LIMIT_BYTES:
            shown = {**text_fields(b"".join(parts)), "partial": True}
            records.append(self._record(self._at, stream.decode("ascii", "replace"), shown))
            parts.clear()
        return None

    def _record(self, at: str, stream: str, shown: Mapping[str, object]) -> Record:
        record: Record = {"at": at, "agent": self.agent, "worker": self.worker, "stream": stream}
        return {**record, "level": None, **shown}


async def merged(
    cursors: list[Cursor], wanted: Wanted, n: int | None
) -> AsyncGenerator[list[Record], None]:
    """What the cursors give up to their ends, by time, in batches; the last `n` if given."""
    block_bytes = block_size(len(cursors))
    last: deque[Record] = deque(maxlen=n)
    batch: list[Record] = []
    size_bytes = 0
    runs: list[Iterator[Record]] = []
    for cursor in cursors:
        first = cursor.pull(
            block_bytes
        )  # here, because the merge would begin with all of them at once
        runs.append(itertools.chain(first, cursor.records(block_bytes)))
        await asyncio.sleep(0)
    for number, record in enumerate(heapq.merge(*runs, key=at_of)):
        if number % BATCH_RECORDS == 0:
            await asyncio.sleep(0)
        if not wanted.passes(record):
            continue
        if n is not None:
            last.append(record)
            continue
        batch.append(record)
        size_bytes += len(str(record["text"]))
        if len(batch) == BATCH_RECORDS or size_bytes > BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    while last:
        yield [last.popleft() for _ in range(min(BATCH_RECORDS, len(last)))]
    if batch:
        yield batch


_NAME = re.compile(r"(.+)\.log(?:\.([1-9][0-9]*))?", re.DOTALL)


def workers(directory: Path, names: frozenset[str]) -> Iterator[tuple[str, str, list[Place]]]:
    """The wanted agents and workers that have files, and those, oldest first.

    A caller's name is only compared, it never becomes a path.
    """
    for agent in sorted(_listed(directory)):
        found: dict[str, list[tuple[int, Path]]] = {}
        for name in _listed(directory / agent):
            match = _NAME.fullmatch(name)
            if match and (not names or agent in names or match[1] in names):
                found.setdefault(match[1], []).append(
                    (int(match[2] or 0), directory / agent / name)
                )
        for worker, paths in sorted(found.items()):
            places = _places([path for _, path in sorted(paths, reverse=True)])
            if places:
                yield agent, worker, places


def chain(directory: Path, worker: str) -> list[Path]:
    """The paths of a worker's log, oldest first."""
    names = [name for name in _listed(directory) if name.startswith(f"{worker}.log")]
    matches = [match for name in names if (match := _NAME.fullmatch(name)) and match[1] == worker]
    matches.sort(key=lambda match: int(match[2] or 0), reverse=True)
    return [directory / match[0] for match in matches]


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _places(paths: list[Path]) -> list[Place]:
    places: list[Place] = []
    for path in paths:
        with suppress(OSError):
            status = path.lstat()
            places.append(Place(path, status.st_ino, status.st_size))
    return places


@contextmanager
def _opened(place: Place) -> Generator[int | None, None, None]:
    """The file of a place, wherever it was renamed to; None if it is gone."""
    fd = _open_inode(place.path, place.inode)
    if fd is None:
        renamed = _find(place.path.parent, place.inode)
        fd = _open_inode(renamed, place.inode) if renamed else None
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _open_inode(path: Path, inode: int) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if os.fstat(fd).st_ino == inode:
        return fd
    os.close(fd)
    return None


def _find(directory: Path, inode: int) -> Path | None:
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.inode() == inode:
                return Path(entry.path)
    return None


def torn_end(fd: int, size: int) -> tuple[int, bool]:
    """How many bytes of a cut line end the file (a killed daemon), and whether a part is its last line."""
    start = max(0, size - 2 * LINE_LIMIT_BYTES)
    data = os.pread(fd, size - start, start)
    end = data.rfind(b"\n") + 1
    if not end and start:
        return 0, False  # not our file
    last = data[data.rfind(b"\n", 0, max(end - 1, 0)) + 1 : end]
    return len(data) - end, last[38:40] == b"P "


def _backwards(files: list[Place], index: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """The lines before a position, last first: index of the file, offset, line."""
    for i in range(index, -1, -1):
        with _opened(files[i]) as fd:
            if fd is None:
                continue
            position = end if i == index else files[i].size
            rest = b""
            while position > 0:
                start = max(0, position - BLOCK_BYTES)
                block = os.pread(fd, position - start, start) + rest
                first = block.find(b"\n") + 1 if start else 0
                offset = start + block.rfind(b"\n") + 1
                for line in reversed(block[first:].split(b"\n")[:-1]):
                    offset -= len(line) + 1
                    yield i, offset, line
                rest = block[:first] if first or not start else block
                position = start


def _back(
    files: list[Place], index: int, offset: int, n: int, stream: str | None, since: bytes | None
) -> tuple[int, int]:
    """Where the `n` lines before a position begin, with all parts of each line that is open there."""
    whole: set[bytes] = set()  # streams of which the line before the place has ended
    idle = 0
    for i, start, line in _backwards(files, index, offset):
        tag = line[38:40]
        if n > 0 and (since is None or line[:30] >= since):
            index, offset = i, start
            n -= tag != b"P " and (stream is None or _stream_name(line) == stream)
            continue
        n = 0
        if line[31:37] in whole:
            idle += 1
        elif tag == b"P ":
            index, offset, idle = i, start, 0
        else:
            whole.add(line[31:37])
        if len(whole) == 2 or idle > LOOKBACK_LINES:
            break
    return index, offset


def _bisect(files: list[Place], since: bytes) -> tuple[int, int]:
    """A place at the beginning of a line, shortly before the first line of that time."""
    for index in range(len(files) - 1, -1, -1):
        with _opened(files[index]) as fd:
            if fd is None or (index and os.pread(fd, 30, 0) >= since):
                continue
            low, high = 0, files[index].size
            while high - low > BLOCK_BYTES:
                middle = (low + high) // 2
                block = os.pread(fd, 2 * LINE_LIMIT_BYTES, middle)
                line = block.find(b"\n") + 1
                if line and line + 30 <= len(block) and block[line : line + 30] < since:
                    low = middle + line
                else:
                    high = middle
            return index, low
    return 0, 0


def _stream_name(line: bytes) -> str:
    kind = line[28:29]
    return "log" if kind == NOTIFIED else line[31:37].decode("ascii", "replace")


def text_fields(text: bytes) -> Record:
    """`text`, and `bytes` (base64) where it is not UTF-8."""
    try:
        return {"text": text.decode()}
    except UnicodeDecodeError:
        return {"text": text.decode("utf-8", "replace"), "bytes": base64.b64encode(text).decode()}


def _shown(text: bytes) -> Record:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text_fields(text)


def json_line(shown: Mapping[str, object]) -> bytes:
    """The text of a line of corral's own shape."""
    # Readers of JSON refuse a lone surrogate, however it is written.
    return json.dumps(shown, ensure_ascii=False, default=str).encode("utf-8", "replace")


def at_of(record: Record) -> str:
    """What records are merged by."""
    return str(record["at"])


def rfc3339_seconds(seconds: int) -> str:
    """Unix seconds as `2026-01-01T00:00:00`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _instant(at_s: float) -> str:
    """The time as it is written in the files: strings of equal length, ordered like the times."""
    seconds = int(at_s // 1)
    return f"{rfc3339_seconds(seconds)}.{int((at_s - seconds) * 1e9):09d}Z"


def block_size(cursors: int) -> int:
    """How much each of so many cursors may read at a time."""
    return max(4096, min(BLOCK_BYTES, BLOCKS_BYTES // max(cursors, 1)))
