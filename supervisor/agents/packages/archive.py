"""Writes and reads the archive of a package: a zstd frame around a tar of which the manifest determines every byte.

The tar has `manifest.json`, perhaps `signature.json`, then `files/PATH` for each file in the manifest's order: ustar headers
with mode 0644 or 0755, time, user and group 0, and no names. A reader makes the header that has to come next, and
compares: there is no header to interpret, and so no link, device or extension to fall for.
"""

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

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


class Sink(Protocol):
    """Receives the files of an archive."""

    def begin(self, entry: FileEntry) -> None:
        """Begins a file: its content follows."""
        ...

    def write(self, data: bytes) -> None:
        """Receives the next bytes of the file."""
        ...

    def end(self) -> None:
        """Ends the file: its content was whole, and its SHA-256 right."""
        ...


class Discard:
    """Receives the files, and keeps the contents of those in `wanted` (path to bytes), up to `limit` bytes each."""

    def __init__(self, wanted: Iterable[str] = (), limit: int = MANIFEST_MAX_BYTES) -> None:
        self.kept: dict[str, bytes] = dict.fromkeys(wanted, b"")
        self.found: set[str] = set()
        self._limit = limit
        self._path: str | None = None

    def begin(self, entry: FileEntry) -> None:
        """Notes whether this file is kept."""
        self._path = entry.path if entry.path in self.kept else None
        if self._path is not None:
            if entry.size > self._limit:
                raise too_large(f"the size of {entry.path}", entry.size, self._limit)
            self.found.add(self._path)

    def write(self, data: bytes) -> None:
        """Keeps the bytes of a wanted file."""
        if self._path is not None:
            self.kept[self._path] += data

    def end(self) -> None:
        """Does nothing."""


class Unpacked:
    """Writes the files into a folder, which only the daemon can change meanwhile, by descriptors that follow no link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._entry: FileEntry | None = None

    def begin(self, entry: FileEntry) -> None:
        """Makes the file and the folders above it; nothing of its name is there yet."""
        path = self._folder / entry.path
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")

        self._entry = entry

    def write(self, data: bytes) -> None:
        """Writes the next bytes."""
        assert self._file is not None, "begin came first"
        self._file.write(data)

    def end(self) -> None:
        """Sets the mode and closes the file."""
        assert self._file is not None, "begin came first"
        assert self._entry is not None, "begin came first"
        os.fchmod(self._file.fileno(), mode_of(self._entry))
        self.close()

    def close(self) -> None:
        """Closes what is open, also after a failure."""
        if self._file is not None:
            self._file.close()
            self._file = None


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


# -- writing


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


# -- reading


def read_archive(source: BinaryIO, sink: Sink) -> Archive:
    """Reads an archive from the beginning of a file to its end, and gives its files to `sink`.

    Its files count only once this has returned: a damaged end is found last.
    """
    import zstandard  # noqa: PLC0415  # likewise

    size = _frame_content(source)
    source.seek(0)
    reader = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG).stream_reader(
        source, read_size=CHUNK, closefd=False
    )
    tar = _Tar(reader, size)
    try:
        try:
            return _read(tar, sink)
        except InvalidParams:
            tar.drain()  # a changed byte may look like anything until the checksum at the end tells
            raise
    except zstandard.ZstdError as error:
        raise damaged(f"its compression is damaged: {error}") from error


def read_manifest(source: BinaryIO) -> Archive:
    """Reads the manifest and the signature alone; the files are not checked."""

    class Enough(Exception):
        pass

    class Stop(Discard):
        def begin(self, entry: FileEntry) -> None:
            raise Enough

    found: list[Archive] = []
    with contextlib.suppress(Enough):
        import zstandard  # noqa: PLC0415  # likewise

        size = _frame_content(source)
        source.seek(0)
        limits = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
        tar = _Tar(limits.stream_reader(source, read_size=CHUNK, closefd=False), size)
        try:
            _read(tar, Stop(), found.append)
        except zstandard.ZstdError as error:
            raise damaged(f"its compression is damaged: {error}") from error
    return found[0]


class _Tar:
    """Reads a known number of bytes, exactly."""

    def __init__(self, reader: BinaryIO, size: int) -> None:
        self._reader = reader
        self.left = size

    def take(self, size: int) -> bytes:
        """Returns the next `size` bytes."""
        data = bytearray()
        while len(data) < size and (more := self._reader.read(min(CHUNK, size - len(data)))):
            data += more
        if len(data) < size or len(data) > self.left:
            raise refused("it ends too early")
        self.left -= len(data)
        return bytes(data)

    def expect(self, wanted: bytes, what: str) -> None:
        """Checks that the next bytes are `wanted`."""
        found = self.take(len(wanted))
        if found != wanted:
            raise refused(f"{what} is not that of a package{_difference(found, wanted)}")

    def drain(self) -> None:
        """Reads on to the end, or for DRAINED_BYTES_MAX, so that zstd compares its checksum."""
        for _ in range(0, DRAINED_BYTES_MAX, CHUNK):
            if not self._reader.read(CHUNK):
                return

    def end(self) -> None:
        """Checks that nothing follows; zstd compares its checksum here."""
        if self.left or self._reader.read(1):
            raise refused("it has more after its end")


def _read(tar: _Tar, sink: Sink, on_manifest: Callable[[Archive], None] = lambda _: None) -> Archive:
    encoded, following = _manifest(tar)
    manifest = decode_manifest(encoded)
    signature = b""
    wanted = [(header(f"{FILES}/{e.path}", e.size, mode_of(e)), e) for e in manifest.files]
    size = _size_in(following)
    is_short = size is not None and size <= SIGNATURE_MAX_BYTES
    if size is not None and is_short and following == header(SIGNATURE, size, 0o644):
        signature = tar.take(size)
        tar.expect(_padding(size), "the padding")
        following = tar.take(BLOCK)
    found = Archive(manifest, digest_of(encoded), signature)
    on_manifest(found)
    for head, entry in wanted:
        if following != head:
            what = f"the header of {entry.path!a}"
            raise refused(f"{what} is not that of a package{_difference(following, head)}")
        sink.begin(entry)
        _content(tar, entry, sink)
        sink.end()
        following = tar.take(BLOCK)
    if following != END[:BLOCK]:
        raise refused(f"it has more than its manifest says{_difference(following, END[:BLOCK])}")
    tar.expect(END[BLOCK:], "the end")
    tar.end()
    return found


def _manifest(tar: _Tar) -> tuple[bytes, bytes]:
    """Returns the bytes of the manifest, and the header after it."""
    head = tar.take(BLOCK)
    size = _size_in(head)
    if size is None or head != header(MANIFEST, size, 0o644):
        raise refused(f"its first entry is not {MANIFEST}{_difference(head, None)}")
    if size > MANIFEST_MAX_BYTES:
        raise too_large("a manifest", size, MANIFEST_MAX_BYTES)
    encoded = tar.take(size)
    tar.expect(_padding(size), "the padding")
    return encoded, tar.take(BLOCK)


def _content(tar: _Tar, entry: FileEntry, sink: Sink) -> None:
    left, found = entry.size, hashlib.sha256()
    while left:
        data = tar.take(min(CHUNK, left))
        found.update(data)
        sink.write(data)
        left -= len(data)
    if found.hexdigest() != entry.sha256:
        raise damaged(f"the content of {entry.path!a} is not the one in the manifest", path=entry.path)
    tar.expect(_padding(entry.size), "the padding")


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
