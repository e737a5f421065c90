"""Finds positions in the files of a log: the last lines before one, the first line from a time on.

Searches that may take long are generators, so that their callers can let other tasks run in between. Nothing here
holds more than a block of a file.
"""

import re
from collections.abc import Iterator
from typing import TypeAlias

from .file_format import (
    BLOCK_BYTES,
    CAPTURED,
    FIRST,
    HEAD_BYTES,
    LINE_LIMIT_BYTES,
    LOOKBACK_LINES,
    NOTIFIED,
    OWN,
    FoundFile,
    LogSource,
    OpenFile,
    Search,
)

Position: TypeAlias = tuple[int, int]
"""An index in a list of files, and an offset in that file: always where a line begins, or the end."""


def find_last(
    files: list[FoundFile],
    source: LogSource,
    end: Position,
    n: int,
    *,
    stream: str | None = None,
    floor: Position = (0, 0),
) -> Search[tuple[Position, int]]:
    """Returns where the `n` lines before `end` begin, but not before `floor`, and how many there are.

    All parts of a line that is open there are behind that place, too, and so the whole lines between them count. With
    `stream` only its lines do, and those of corral itself.
    """
    whole: set[bytes] = set()  # streams of which the line before the place has ended
    idle = count = between = 0
    found = end
    for position, block in _blocks_backwards(files, source, end):
        yield
        if count < n and position >= floor and not _has(block, stream):
            found = position
            continue
        offset = position[1] + len(block)
        for line in reversed(block.split(b"\n")[:-1]):
            offset -= len(line) + 1
            at = (position[0], offset)
            is_part = line[38:40] == b"P "
            counts = not is_part and (stream is None or _counts(line, stream))
            if count < n and at >= floor:
                found = at
                count += counts
                continue
            n = 0
            if is_part and line[31:37] not in whole:
                found, count = at, count + between
                idle = between = 0
                continue
            between += counts
            if line[31:37] in whole:
                idle += 1
            whole.add(line[31:37])
            if len(whole) == 2 or idle > LOOKBACK_LINES:
                return found, count
    return found, count


_KINDS = {
    "stdout": (CAPTURED, FIRST[CAPTURED]),
    "stderr": (CAPTURED, FIRST[CAPTURED]),
    "log": (NOTIFIED, FIRST[NOTIFIED]),
}

_SIGNS = {
    name: tuple(
        kind + (b"Z std" if kind == OWN or name == "log" else b"Z %s " % name.encode()) for kind in (*kinds, OWN)
    )
    for name, kinds in _KINDS.items()
}
"""Bytes that each line of a stream, or of corral itself, contains: a block without them has no such line."""


def _has(block: bytes, stream: str | None) -> bool:
    return stream is None or any(sign in block for sign in _SIGNS[stream])


def lines_after(entry: FoundFile, source: LogSource, offset: int) -> Search[int]:
    """Returns the number of lines that end between an offset in a file and its end when it was found."""
    count = 0
    size = entry.size
    with entry.opened(source) as file:
        while file is not None and offset < size:
            yield
            block = file.pread(min(BLOCK_BYTES, size - offset), offset)
            end = block.rfind(b"\n") + 1
            if not end:
                break  # not our file
            offset += end
            count += block.count(b"\n")
            if b" P " in block:
                count -= sum(line[38:40] == b"P " for line in block[:end].split(b"\n"))
    return count


def lines_without(block: bytes, stream: str | None) -> int | None:
    """Returns the number of lines in a block if none of them can be of the stream; None if one may be."""
    if _has(block, stream) or b" P " in block:
        return None
    return block.count(b"\n")


def _counts(line: bytes, stream: str) -> bool:
    kind = line[28:29]
    is_of = kind in _KINDS[stream] and (stream == "log" or line[31:37] == stream.encode())
    return is_of or kind == OWN


def first_from(files: list[FoundFile], source: LogSource, key: bytes) -> Position:
    """Returns where the first line with a time of at least `key` begins; the end if there is none."""
    for index in range(len(files) - 1, -1, -1):
        entry = files[index]
        with entry.opened(source) as file:
            if file is None or (index and file.head >= key):
                continue
            low, high = 0, entry.size
            while high - low > BLOCK_BYTES:
                middle = (low + high) // 2
                block = file.pread(2 * LINE_LIMIT_BYTES, middle)
                line = block.find(b"\n") + 1
                if line and line + HEAD_BYTES <= len(block) and block[line:][:HEAD_BYTES] < key:
                    low = middle + line
                else:
                    high = middle
            return index, _first_after(file, low, entry.size, key)
    return 0, 0


def _first_after(file: OpenFile, offset: int, end: int, key: bytes) -> int:
    while offset < end:
        block = file.pread(min(BLOCK_BYTES, end - offset), offset)
        lines = block[: block.rfind(b"\n") + 1].split(b"\n")[:-1]
        if not lines:
            return offset  # not our file
        for line in lines:
            if line[:HEAD_BYTES] >= key:
                return offset
            offset += len(line) + 1
    return end


_MARKED = re.compile(rb"\n[^\n]{28}[34]Z std")


def previous_span(files: list[FoundFile], source: LogSource, *, is_current: bool) -> Search[tuple[Position, Position]]:
    """Finds the range in which the last incarnation printed; with `is_current` the one before it."""
    end = (len(files) - 1, files[-1].size)
    starts: list[Position] = []
    for start in _starts(files, source, end):
        yield
        if start is not None:
            starts.append(start)
            if len(starts) == 1 + is_current:
                break
    starts += [(0, 0)] * (1 + is_current - len(starts))
    return (starts[1], starts[0]) if is_current else (starts[0], end)


def _starts(files: list[FoundFile], source: LogSource, end: Position) -> Iterator[Position | None]:
    """Yields where incarnations begin, newest first: of lines that were written at once each is marked.

    None after each block, found or not.
    """
    found: Position | None = None
    stamp = b""
    for position, block in _blocks_backwards(files, source, end):
        if b"3Z std" in block or b"4Z std" in block:
            for match in reversed(list(_MARKED.finditer(b"\n" + block))):
                at = match[0][1:29]
                if found is not None and at != stamp:
                    yield found
                stamp = at
                found = (position[0], position[1] + match.start())
        yield None
    if found is not None:
        yield found


def _blocks_backwards(files: list[FoundFile], source: LogSource, end: Position) -> Iterator[tuple[Position, bytes]]:
    """Yields all before a position, in blocks of whole lines, last first."""
    for i in range(end[0], -1, -1):
        entry = files[i]
        with entry.opened(source) as file:
            if file is None:
                continue
            position = end[1] if i == end[0] else entry.size
            rest = b""
            while position > 0:
                start = max(0, position - BLOCK_BYTES)
                block = file.pread(position - start, start)
                block += rest if len(block) == position - start else b""  # else it is broken there
                first = block.find(b"\n") + 1 if start else 0  # 0: no line of ours is so long
                last = block.rfind(b"\n") + 1  # what is behind was cut off
                if last > first:
                    yield (i, start + first), block[first:last]
                rest = block[:first]
                position = start
