"""Compresses files so that any part of them can be read without the parts before it.

The format is BGZF (SAM/BAM format specification, section 4.1; why: docs/decisions/0007): gzip members of at most 64 KiB, each of which
records its length, and an empty one at the end. gzip(1) and zcat(1) read it as any other gzip file. This module
knows nothing of logs; a broken or foreign file is refused.
"""

import os
import struct
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable

SUFFIX = ".gz"

BLOCK_BYTES = 0xFF00
"""Bytes of the original in one member: also data that cannot be compressed fits."""

LEVEL = 1
"""Number from 1 to 9 for zlib: five times as fast as its default, for text that becomes a fifth longer."""

INDEXES_KEPT = 16
"""Number of files whose indexes of members are kept in memory."""

_HEADER = struct.Struct("<4BI2BH2B2H")
_TRAILER = struct.Struct("<2I")
_BEGINNING = (0x1F, 0x8B, 8, 4)
_EXTRA = (6, 0x42, 0x43, 2)  # length of all extra fields, and a field "BC" of two bytes


def compress(source: int, target: int, is_stopped: Callable[[], bool]) -> bool:
    """Writes what the descriptor `source` has to `target`, down to the disk; False if it was stopped.

    Made for a thread: memory is bounded by a member, and zlib works without the interpreter's lock.
    """
    offset = 0
    while block := os.pread(source, BLOCK_BYTES, offset):
        if is_stopped():
            return False
        _write_all(target, _member(block))
        offset += len(block)
    _write_all(target, _member(b""))
    os.fsync(target)
    return True


def _member(block: bytes) -> bytes:
    body = _deflated(block, LEVEL)
    if len(body) > BLOCK_BYTES:
        body = _deflated(block, 0)
    length = _HEADER.size + len(body) + _TRAILER.size
    header = _HEADER.pack(*_BEGINNING, 0, 0, 0xFF, *_EXTRA, length - 1)
    return b"".join((header, body, _TRAILER.pack(zlib.crc32(block), len(block))))


def _deflated(block: bytes, level: int) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(block) + deflate.flush()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Archive:
    """An open compressed file, read as if it were the original. The descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        """Finds out where the members are."""
        self._fd = fd
        self._members, self._offsets = _index(fd)

    @property
    def size(self) -> int:
        """Returns the bytes of the original."""
        return self._offsets[-1]

    def pread(self, size: int, offset: int) -> bytes:
        """Returns `size` bytes of the original from `offset` on; fewer only at its end or where it is broken."""
        found: list[bytes] = []
        number = bisect_right(self._offsets, offset) - 1
        while size > 0 and number < len(self._members) - 1:
            start, end = self._members[number : number + 2]
            raw = os.pread(self._fd, end - start, start)
            try:
                block = zlib.decompress(raw[_HEADER.size : -_TRAILER.size], -zlib.MAX_WBITS)
            except zlib.error:
                break
            if zlib.crc32(block) != _TRAILER.unpack(raw[-_TRAILER.size :])[0]:
                break
            part = block[offset - self._offsets[number] :][:size]
            found.append(part)
            offset += len(part)
            size -= len(part)
            number += 1
        return b"".join(found)


_Index = tuple[list[int], list[int]]

_indexes: OrderedDict[tuple[int, int, int, int], _Index] = OrderedDict()


def _index(fd: int) -> _Index:
    status = os.fstat(fd)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    found = _indexes.get(key)
    if found is None:
        found = _indexes[key] = _walk(fd, status.st_size)
        if len(_indexes) > INDEXES_KEPT:
            _indexes.popitem(last=False)
    _indexes.move_to_end(key)
    return found


def _walk(fd: int, file_bytes: int) -> _Index:
    members, offsets = [0], [0]
    header = os.pread(fd, _HEADER.size, 0)
    while len(header) == _HEADER.size:
        fields = _HEADER.unpack(header)
        if fields[:4] != _BEGINNING or fields[7:11] != _EXTRA:
            raise ValueError("not written by this module")
        end = members[-1] + fields[11] + 1
        tail = os.pread(fd, 4 + _HEADER.size, end - 4)  # a member's last field and the next header
        if len(tail) < 4:
            break
        members.append(end)
        offsets.append(offsets[-1] + int.from_bytes(tail[:4], "little"))
        header = tail[4:]
    if members[-1] != file_bytes or len(members) < 2 or offsets[-1] != offsets[-2]:
        raise ValueError("its end is missing")
    return members, offsets
