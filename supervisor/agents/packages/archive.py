"""Writes and reads the archive of a package: a zstd frame around a tar; the manifest determines every byte of it.

The tar has `manifest.json`, perhaps `signature.json`, then `files/PATH` for each file in the manifest's order: ustar headers
with mode 0644 or 0755, time, user and group 0, and no names. A reader makes the header that has to come next, and
compares: there is no header to interpret, and so no link, device or extension to fall for.
"""

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from corral.worker.contract.errors import InvalidParams

from .manifest import (
    CONTENT_MAX_BYTES,
    FILES,
    MANIFEST_MAX_BYTES,
    FileEntry,
    Manifest,
    damaged,
    decode_manifest,
    digest_of,
    refused,
    split_path,
    too_large,
)

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
SIGNATURE_MAX_BYTES = 4096

BLOCK = 512
CHUNK = 256 * 1024
END = bytes(2 * BLOCK)

LEVEL = 10
"""Number from 1 to 22 for zstd: a result a tenth larger than the best, several times faster."""

WINDOW_LOG = 23
"""Number of bits of an offset in zstd's window, here 8 MiB: it bounds the memory of a reader."""

FRAME_BLOCK_LEAST = 1024
"""Bytes of content of a block of the frame, on average, below which no compressor writes."""

DRAINED_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of content that are read on behind what is refused, to find out whether a byte was changed."""

ARCHIVE_MAX_BYTES = CONTENT_MAX_BYTES + 64 * 1024 * 1024
"""Bytes of a whole archive without compression."""


class Archive(Struct, frozen=True):
    """Describes an archive that was read whole: `signature` is the content of that file, b"" where it has none."""

    manifest: Manifest
    digest: str
    signature: bytes = b""


def mode_of(entry: FileEntry) -> int:
    """Returns the mode of a file of a package."""
    return 0o755 if entry.executable else 0o644


def header(path: str, size: int, mode: int) -> bytes:
    """Returns the only header that a package has for this path, size and mode (POSIX.1-1988, ustar)."""
    fields = split_path(path)
    assert fields is not None, "the manifest has no such path"
    prefix, name = fields
    head = bytearray(BLOCK)
    head[0 : len(name)] = name
    head[100:108] = b"%07o\0" % mode
    head[108:124] = b"0000000\x000000000\0"  # user and group
    head[124:136] = b"%011o\0" % size
    head[136:148] = b"00000000000\0"  # time
    head[148:156] = b" " * 8
    head[156:157] = b"0"
    head[257:265] = b"ustar\x0000"
    head[329:345] = b"0000000\x000000000\0"  # device numbers, as GNU tar writes them
    head[345 : 345 + len(prefix)] = prefix
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def write_archive(
    target: BinaryIO, manifest: Manifest, open_file: Callable[[FileEntry], BinaryIO], signature: bytes = b""
) -> None:
    """Writes an archive: the same bytes for the same manifest, contents and signature, by one version of zstd."""
    import zstandard  # noqa: PLC0415  # only who builds or reads packages pays

    parts = {MANIFEST: manifest.encode()} | ({SIGNATURE: signature} if signature else {})
    total = sum(_space(len(data)) for data in parts.values()) + len(END)
    total += sum(_space(entry.size) for entry in manifest.files)
    parameters = zstandard.ZstdCompressionParameters(
        compression_level=LEVEL, window_log=WINDOW_LOG, write_checksum=1, write_content_size=1
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with compressor.stream_writer(target, size=total, closefd=False) as out:
        for name, data in parts.items():
            out.write(header(name, len(data), 0o644) + data + _padding(len(data)))
        for entry in manifest.files:
            out.write(header(f"{FILES}/{entry.path}", entry.size, mode_of(entry)))
            with open_file(entry) as source:
                _copy(source, out, entry)
            out.write(_padding(entry.size))
        out.write(END)


def _copy(source: BinaryIO, out: BinaryIO, entry: FileEntry) -> None:
    left, found = entry.size, hashlib.sha256()
    while left and (data := source.read(min(CHUNK, left))):
        found.update(data)
        out.write(data)
        left -= len(data)
    if left or found.hexdigest() != entry.sha256 or source.read(1):
        raise refused(f"{entry.path!a} has changed while the package was built", path=entry.path)


def _space(size: int) -> int:
    return BLOCK + size + len(_padding(size))


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


class Reader:
    """Reads an archive from the beginning of a file: its manifest and signature at once, its files by `files`."""

    def __init__(self, source: BinaryIO) -> None:
        import zstandard  # noqa: PLC0415  # likewise

        self._left = _frame_content(source)
        source.seek(0)
        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
        self._stream = unpacker.stream_reader(source, read_size=CHUNK, closefd=False)
        self._damage = zstandard.ZstdError
        with self._told_damaged():
            self.archive = self._read_archive()

    def _read_archive(self) -> Archive:
        head = self._take(BLOCK)
        size = _size_in(head)
        if size is None or head != header(MANIFEST, size, 0o644):
            raise refused(f"its first entry is not {MANIFEST}{_difference(head, None)}")
        if size > MANIFEST_MAX_BYTES:
            raise too_large("a manifest", size, MANIFEST_MAX_BYTES)
        encoded = self._take(size)
        self._expect(_padding(size), "the padding")
        manifest, signature = decode_manifest(encoded), b""
        self._head = self._take(BLOCK)
        size = _size_in(self._head)
        is_short = size is not None and size <= SIGNATURE_MAX_BYTES
        if size is not None and is_short and self._head == header(SIGNATURE, size, 0o644):
            signature = self._take(size)
            self._expect(_padding(size), "the padding")
            self._head = self._take(BLOCK)
        return Archive(manifest, digest_of(encoded), signature)

    @contextlib.contextmanager
    def _told_damaged(self) -> Generator[None]:
        """Reads on after a refusal, so that zstd compares its checksum: a changed byte may look like anything before."""
        try:
            yield
        except InvalidParams:
            for _ in range(0, DRAINED_BYTES_MAX, CHUNK):
                if not self._read(CHUNK):
                    break
            raise

    def files(self) -> Iterator[tuple[FileEntry, Iterator[bytes]]]:
        """Yields each file with its content, which is read before the next one; a damaged end of the archive is found last."""
        with self._told_damaged():
            for entry in self.archive.manifest.files:
                head = header(f"{FILES}/{entry.path}", entry.size, mode_of(entry))
                self._check(self._head, head, f"the header of {entry.path!a}")
                yield entry, (content := self._content(entry))
                for _ in content:  # what the caller has left
                    pass
                self._head = self._take(BLOCK)
            if self._head != END[:BLOCK]:
                raise refused(f"it has more than its manifest says{_difference(self._head, END[:BLOCK])}")
            self._expect(END[BLOCK:], "the end")
            if self._left or self._read(1):  # zstd compares its checksum here
                raise refused("it has more after its end")

    def _content(self, entry: FileEntry) -> Iterator[bytes]:
        left, found = entry.size, hashlib.sha256()
        with self._told_damaged():
            while left:
                data = self._take(min(CHUNK, left))
                found.update(data)
                yield data
                left -= len(data)
            if found.hexdigest() != entry.sha256:
                raise damaged(f"the content of {entry.path!a} is not the one in the manifest", path=entry.path)
            self._expect(_padding(entry.size), "the padding")

    def _take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (more := self._read(min(CHUNK, size - len(data)))):
            data += more
        if len(data) < size or len(data) > self._left:
            raise refused("it ends too early")
        self._left -= len(data)
        return bytes(data)

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except self._damage as error:
            raise damaged(f"its compression is damaged: {error}") from error

    def _expect(self, wanted: bytes, what: str) -> None:
        self._check(self._take(len(wanted)), wanted, what)

    def _check(self, found: bytes, wanted: bytes, what: str) -> None:
        if found != wanted:
            raise refused(f"{what} is not that of a package{_difference(found, wanted)}")


def _size_in(head: bytes) -> int | None:
    """Returns the size that a header gives in the only form that packages have; None for another."""
    digits = head[124:135]
    if head[135:136] != b"\0" or not digits.isdigit() or b"8" in digits or b"9" in digits:
        return None
    return int(digits, 8)


_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"x": "a pax header",
    b"g": "a global pax header",
    b"L": "a GNU long name",
    b"K": "a GNU long link",
    b"S": "a GNU sparse file",
    b"V": "a GNU volume label",
}


def _difference(found: bytes, wanted: bytes | None) -> str:
    """Returns what a foreign header is, for people; "" where nothing can be said."""
    if len(found) != BLOCK or found[257:262] != b"ustar":
        return ""
    kind = _KINDS.get(found[156:157], "")
    name = found[:100].rstrip(b"\0").decode(errors="backslashreplace")
    if kind:
        return f": it is {kind}, {name[:100]!a}"
    if wanted is not None and found[:100] != wanted[:100]:
        return f": it is {name[:100]!a}"
    return ": its mode, size, time or owner differs" if wanted is not None else f": it is {name!a}"


def _frame_content(source: BinaryIO) -> int:
    """Checks that a file is one zstd frame and nothing else; returns the bytes of its content.

    The blocks of the frame are walked by their headers, so that neither a part that is missing nor one that is too much
    is found by accident.
    """
    import zstandard  # noqa: PLC0415  # likewise

    end = source.seek(0, io.SEEK_END)
    source.seek(0)
    head = source.read(18)
    try:
        frame = zstandard.get_frame_parameters(head)
        at = zstandard.frame_header_size(head)
    except zstandard.ZstdError as error:
        raise refused("it is not compressed by zstd") from error
    size = frame.content_size
    if head[:4] != b"\x28\xb5\x2f\xfd" or size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        raise refused("its compression does not say how large it is")
    if size > ARCHIVE_MAX_BYTES:
        raise too_large("a content", size, ARCHIVE_MAX_BYTES)
    if frame.window_size > 1 << WINDOW_LOG:
        raise too_large("a window of zstd", frame.window_size, 1 << WINDOW_LOG)
    if frame.dict_id or not frame.has_checksum:
        raise refused("its compression has a dictionary, or no checksum")
    for _ in range(size // FRAME_BLOCK_LEAST + 16):
        source.seek(at)
        block = int.from_bytes(source.read(3), "little")
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        if at > end:
            raise refused("it ends too early")
        if block & 1:
            if at + 4 != end:
                raise refused("it ends too early" if at + 4 > end else "it has more after its end")
            return size
    raise refused("its compression has more blocks than content")


@contextlib.contextmanager
def opened(path: Path) -> Generator[BinaryIO, None, None]:
    """Opens a regular file to be read; links are not followed, and a FIFO or device is never waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=CHUNK) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise refused(f'"{path}" is no regular file', path=str(path))
        yield file
