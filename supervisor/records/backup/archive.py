"""Defines the archive of a backup: a tar of plain files in zstd, whose first member is the manifest of all others.

Decides what a manifest and a member may be; an archive is from anywhere, and hostile until it is checked. Members are
regular files in the order of the manifest, with exactly its sizes and hashes; links, devices, other names and anything
more are refused by name. Memory and output are bounded by the manifest, whose own size is bounded here. It must not
write to the state folder.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from corral.worker.contract.errors import Corrupted

if TYPE_CHECKING:
    from tarfile import TarFile

FORMAT = 1
"""Number of the format of archives that this version writes, and the newest that it reads."""

MANIFEST = "manifest.json"

PIECE_BYTES = 1024 * 1024
"""Bytes that are read, hashed and compressed at once."""

LEVEL = 3
"""Number from 1 to 22 for zstd: its default."""

MOST_MANIFEST_BYTES = 64 * 1024 * 1024
"""Bytes of a manifest: about 300,000 files."""

MOST_PATH = 4096
"""Characters of a path."""

_MOST_HEADER_BYTES = 64 * 1024
_WINDOW_BYTES = 128 * 1024 * 1024  # of zstd: the memory that a reader gives it
_BLOCK = 512
_ROOTS = ("state", "config", "elsewhere")


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Represents one file of an archive.

    `path` begins with `state/`, `config/` (of the folder of the configuration file) or `elsewhere/` (named by the
    configuration, and in another folder: `origin`). `owner` is its user's name where that is not the daemon's.
    """

    path: str
    size: int
    sha256: str
    mode: int = 0o600
    owner: str | None = None
    is_database: bool = False
    origin: str | None = None


class Left(Struct, frozen=True, kw_only=True):
    """Represents an entry of the state folder that is not in the archive, and the reason."""

    path: str
    reason: str


class Manifest(Struct, frozen=True, kw_only=True):
    """Represents the first member of an archive."""

    format: int
    version: str
    """Of corral."""
    store_version: int
    generation: int
    created_at: str
    created: float
    """Seconds of the Unix epoch."""
    state_dir: str
    config: str | None = None
    """Path of the configuration file in the archive."""
    files: list[File] = []
    left: list[Left] = []
    has_logs: bool = False
    has_secrets: bool = True

    @property
    def size(self) -> int:
        """Returns the bytes of all files."""
        return sum(each.size for each in self.files)


class Changed(Exception):
    """Raised about a file that is not what the manifest says any more; `args[0]` is its path."""


# --- writing --------------------------------------------------------------------------------------


def write(manifest: Manifest, open_file: Callable[[File], BinaryIO], take: Callable[[bytes], object]) -> None:
    """Writes an archive: hands its bytes to `take`, one piece after the other."""
    import tarfile  # noqa: PLC0415 - start-up time: only a backup needs it

    import zstandard  # noqa: PLC0415 - likewise

    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    with (
        compressor.stream_writer(_Open(take), closefd=False) as packed,  # type: ignore[arg-type]  # it writes alone
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        text = msgspec.json.encode(manifest)
        _add(tar, MANIFEST, len(text), io.BytesIO(text), 0o600, int(manifest.created))
        for each in manifest.files:
            with open_file(each) as file:
                hashed = _Hashed(file, each.size)
                try:
                    _add(tar, each.path, each.size, hashed, each.mode, int(manifest.created))
                except OSError as error:
                    if hashed.is_short:
                        raise Changed(each.path) from error
                    raise
            if hashed.sha256.hexdigest() != each.sha256:
                raise Changed(each.path)


def _add(tar: "TarFile", name: str, size: int, file: object, mode: int, at: int) -> None:
    member = tar.tarinfo(name)
    member.size, member.mode, member.mtime = size, mode & 0o777, at
    tar.addfile(member, file)  # type: ignore[arg-type]  # it is read alone


class _Open:
    """Passes bytes on, and stays open; what takes them is flushed by its owner."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take

    def write(self, data: bytes) -> int:
        self._take(data)
        return len(data)

    def flush(self) -> None:
        return


class _Hashed:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.is_short = False
        self.sha256 = hashlib.sha256()
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        wanted = min(size, self._left)
        data = self._file.read(wanted)
        self.is_short = self.is_short or len(data) < wanted
        self._left -= len(data)
        self.sha256.update(data)
        return data


# --- reading --------------------------------------------------------------------------------------


class Member(NamedTuple):
    """Represents a file of an archive that is being read: its entry, and its bytes, which are read before the next."""

    file: File
    pieces: Iterator[bytes]


class Reader:
    """Reads an archive from its beginning to its end, and refuses each deviation from the manifest."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        import tarfile  # noqa: PLC0415 - as above

        import zstandard  # noqa: PLC0415 - as above

        self._name = name
        self._errors = (tarfile.HeaderError, UnicodeError), zstandard.ZstdError
        self._parse = tarfile.TarInfo.frombuf
        unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        self._stream = unpacker.stream_reader(stream, read_across_frames=False)
        self.manifest = self._read_manifest()

    def members(self) -> Iterator[Member]:
        """Yields every file; the bytes of each have been checked when they have been read to their end."""
        for file in self.manifest.files:
            name, size = self._header()
            if name != file.path or size != file.size:
                words = f'it is "{name}" of {size} bytes where the manifest has "{file.path}" of {file.size}'
                raise self._refused("manifest", words, member=name)
            pieces = self._pieces(file)
            yield Member(file, pieces)
            for _ in pieces:  # what the caller has left
                pass
        if self._read_end() is not None:
            raise self._refused("manifest", "it has more than its manifest says")

    def _read_manifest(self) -> Manifest:
        name, size = self._header()
        if name != MANIFEST or size > MOST_MANIFEST_BYTES:
            raise self._refused("manifest", f'its first member is "{name}" of {size} bytes, and no manifest')
        data = self._exactly(size)
        self._exactly(-size % _BLOCK)
        try:
            version = msgspec.json.decode(data, type=_Format).format
        except msgspec.DecodeError as error:
            raise self._refused("manifest", f"its manifest is damaged: {error}") from error
        if version > FORMAT:
            words = f"its format {version} is newer than {FORMAT}, which this corral knows"
            raise self._refused("newer-version", words)
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.DecodeError as error:
            raise self._refused("manifest", f"its manifest is damaged: {error}") from error
        seen = set[str]()
        for file in manifest.files:
            if (reason := path_problem(file.path)) or file.path in seen:
                reason = reason or "it is there twice"
                raise self._refused("name", f'cannot take "{file.path}": {reason}', member=file.path)
            if file.size < 0:
                raise self._refused("manifest", f'"{file.path}" has {file.size} bytes')
            seen.add(file.path)
        for file in manifest.files:
            folders = file.path.split("/")
            above = ("/".join(folders[:n]) for n in range(1, len(folders)))
            if (inside := next((each for each in above if each in seen), None)) is not None:
                raise self._refused("name", f'"{inside}" is a file and a folder', member=file.path)
        if manifest.config is not None and manifest.config not in seen:
            raise self._refused("manifest", f'"{manifest.config}" is not in it')
        return manifest

    def _pieces(self, file: File) -> Iterator[bytes]:
        left, sha256 = file.size, hashlib.sha256()
        while left:
            piece = self._exactly(min(left, PIECE_BYTES))
            left -= len(piece)
            sha256.update(piece)
            yield piece
        self._exactly(-file.size % _BLOCK)
        if sha256.hexdigest() != file.sha256:
            raise self._refused("hash", f'"{file.path}" is not what was written', member=file.path)

    def _header(self) -> tuple[str, int]:
        extended: dict[str, str] = {}
        while True:
            block = self._exactly(_BLOCK)
            if not any(block):
                raise self._refused("truncated", "it ends before its manifest does")
            kind, name, size = self._parsed(block)
            if kind == "x":
                if size > _MOST_HEADER_BYTES:
                    raise self._refused("header", f"it has a header of {size} bytes", member=name)
                extended = self._records(self._exactly(size))
                self._exactly(-size % _BLOCK)
                continue
            name = extended.get("path", name)
            if kind not in ("0", "\0"):
                words = f'"{name}" is {KINDS.get(kind, "of an unknown kind")}, and no file'
                raise self._refused("kind", words, member=name)
            text = extended.get("size", str(size))
            if not text.isdecimal() or len(text) > 18:
                raise self._refused("header", f'"{name}" has the size "{text}"', member=name)
            return name, int(text)

    def _parsed(self, block: bytes) -> tuple[str, str, int]:
        try:
            found = self._parse(block, "utf-8", "strict")
        except self._errors[0] as error:
            raise self._refused("header", f"its headers are damaged: {error}") from error
        if found.size < 0:
            raise self._refused("header", f'"{found.name}" has {found.size} bytes')
        return found.type.decode("latin-1"), found.name, found.size

    def _records(self, data: bytes) -> dict[str, str]:
        """Returns the records `LENGTH KEY=VALUE` of an extended header."""
        found: dict[str, str] = {}
        while data:
            head, _, _ = data.partition(b" ")
            if not head.isdigit() or len(head) > 6 or not 5 <= int(head) <= len(data):
                raise self._refused("header", "its headers are damaged")
            record, data = data[len(head) + 1 : int(head) - 1], data[int(head) :]
            key, _, value = record.partition(b"=")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        return found

    def _read_end(self) -> bytes | None:
        """Reads the rest, which is zeros; returns the first block that is not."""
        for _ in range(64):
            block = self._some(_BLOCK)
            if not block:
                return None
            if any(block):
                return block
        return b""

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            piece = self._some(size)
            if not piece:
                raise self._refused("truncated", "it is cut off")
            parts.append(piece)
            size -= len(piece)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except self._errors[1] as error:
            raise self._refused("compression", f"it is damaged, or no backup: {error}") from error

    def _refused(self, reason: str, words: str, **data: object) -> Corrupted:
        return Corrupted(f'cannot read backup "{self._name}": {words}', file=self._name, reason=reason, **data)


class _Format(Struct):
    format: int


KINDS = {
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a character device",
    "4": "a block device",
    "5": "a folder",
    "6": "a FIFO",
}
"""Kinds of members of a tar, which are refused."""


def path_problem(path: str) -> str:
    """Returns why a member may not have a path; empty if it may."""
    parts = path.split("/")
    if len(path) > MOST_PATH:
        return f"it has more than {MOST_PATH} characters"
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "it leads out of the archive"
    if not path.isprintable():
        return "it has characters that are not printable"
    if len(parts) < 2 or parts[0] not in _ROOTS:
        return f"it is in none of {', '.join(_ROOTS)}"
    if parts[0] == "state" and parts[1] in ("restore", "backup"):
        return "this folder is no part of a backup"
    return ""
