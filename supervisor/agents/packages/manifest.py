"""Defines the manifest of a package: its files with size and SHA-256, and which paths a package may have. Pure."""

import hashlib
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

import msgspec
from msgspec import Struct

from corral.worker.contract.errors import Corrupted, InvalidParams, ResourceLimitExceeded

FORMAT = 1
"""Version of the format that this version of corral reads and writes."""

FILES_MAX = 20_000
"""Number of files of one package."""

DEPTH_MAX = 32
"""Number of folders above a file."""

MANIFEST_MAX_BYTES = 8 * 1024 * 1024
CONTENT_MAX_BYTES = 1024 * 1024 * 1024
"""Bytes of all files of one package together."""

NAME_MAX_BYTES = 100
PREFIX_MAX_BYTES = 155
"""Bytes of the two fields of a tar header that hold a path."""

FILES = "files"
"""Folder of the archive that has the files, beside the manifest and the signature."""

PACKAGE_TOML = "package.toml"
LOCKS = ("package.lock", "requirements.lock")
"""Files that are the lock of the Python dependencies, the first that is there."""


class FileEntry(Struct, frozen=True):
    """Describes one file: `path` is relative with "/", `sha256` in hexadecimal."""

    path: str
    size: int
    sha256: str
    executable: bool = False


class Manifest(Struct, frozen=True):
    """Describes the content of a package. Its encoding is canonical: the digest of a package is that of these bytes."""

    format: int
    name: str
    version: str
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        """Returns the bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def encode(self) -> bytes:
        """Returns the canonical bytes: JSON without spaces, keys in the order of the Struct, files sorted by path."""
        return msgspec.json.encode(self)

    def find(self, path: str) -> FileEntry | None:
        """Returns the file of a path."""
        return next((entry for entry in self.files if entry.path == path), None)


def digest_of(manifest: bytes) -> str:
    """Returns the digest of a package, in hexadecimal: the SHA-256 of its manifest's bytes."""
    return hashlib.sha256(manifest).hexdigest()


def refused(reason: str, **data: object) -> InvalidParams:
    """Makes the error about an archive that is no package."""
    return InvalidParams(f"cannot read the package: {reason}", reason=reason, **data)


def damaged(reason: str, **data: object) -> Corrupted:
    """Makes the error about a package with a changed byte."""
    return Corrupted(f"cannot read the package: {reason}", reason=reason, **data)


def too_large(what: str, value: int, limit: int) -> ResourceLimitExceeded:
    """Makes the error about a package beyond a bound."""
    words = f"cannot take the package: {what} of {value} is above the limit of {limit}"
    return ResourceLimitExceeded(words, limit=limit, value=value, what=what)


def decode_manifest(data: bytes) -> Manifest:
    """Decodes and checks a manifest."""
    if len(data) > MANIFEST_MAX_BYTES:
        raise too_large("a manifest", len(data), MANIFEST_MAX_BYTES)
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise refused(f"its manifest is damaged: {error}") from error
    if found.format != FORMAT:
        raise refused(f"its format is {found.format}, this version reads {FORMAT}")
    if found.encode() != data:
        raise refused("its manifest is not written canonically")
    check_files(found.files)
    if found.find(PACKAGE_TOML) is None:
        raise refused(f"it has no {PACKAGE_TOML}")
    return found


def check_files(files: tuple[FileEntry, ...]) -> None:
    """Checks the files of a manifest."""
    if len(files) > FILES_MAX:
        raise too_large("a number of files", len(files), FILES_MAX)
    total = 0
    for entry in files:
        if why := path_problem(entry.path):
            raise refused(f"the path {_shown(entry.path)} {why}", path=entry.path)
        if len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef"):
            raise refused(f"the SHA-256 of {_shown(entry.path)} is none", path=entry.path)
        if entry.size < 0:
            raise refused(f"the size of {_shown(entry.path)} is negative", path=entry.path)
        total += entry.size
        if total > CONTENT_MAX_BYTES:
            raise too_large("a content", total, CONTENT_MAX_BYTES)
    paths = [entry.path for entry in files]
    if any(a >= b for a, b in pairwise(paths)):
        raise refused("its files are not sorted by path, or one is there twice")
    if why := collision(paths):
        raise refused(why)


def collision(paths: Iterable[str]) -> str:
    """Returns why paths cannot all exist in one folder of any file system, such as names that differ in case alone; "" if they can."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folders.setdefault(folder.casefold(), folder) != folder:
                other = folders[folder.casefold()]
                return f"the folders {_shown(other)} and {_shown(folder)} differ in case alone"
        if files.setdefault(path.casefold(), path) != path:
            return f"the paths {_shown(files[path.casefold()])} and {_shown(path)} differ in case alone"
    both = next((files[key] for key in files.keys() & folders.keys()), None)
    return "" if both is None else f"{_shown(both)} is a file and a folder"


def path_problem(path: str) -> str:
    """Returns why a path cannot be one of a package, "" if it can."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    parts = path.split("/")
    if not path or path.startswith("/"):
        return "is empty or absolute"
    if any(part in ("", ".", "..") for part in parts):
        return 'has a part that is empty, "." or ".."'
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in path):
        return "has a control character or an invisible one"
    if "\\" in path:
        return "has a backslash"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode normalization form C"
    if len(parts) - 1 > DEPTH_MAX:
        return f"is deeper than {DEPTH_MAX} folders"
    if split_path(f"{FILES}/{path}") is None:
        return (
            f"is too long ({len(encoded)} bytes): a part has at most {NAME_MAX_BYTES} bytes, and all at most about 250"
        )
    return ""


def split_path(path: str) -> tuple[bytes, bytes] | None:
    """Returns the two fields of a tar header for a path, prefix and name; None where it does not fit."""
    encoded = path.encode()
    if len(encoded) <= NAME_MAX_BYTES:
        return b"", encoded
    start = max(0, len(encoded) - NAME_MAX_BYTES - 1)
    at = encoded.find(b"/", start)  # the shortest prefix after which the rest fits
    if at <= 0 or at > PREFIX_MAX_BYTES:
        return None
    return encoded[:at], encoded[at + 1 :]


def _shown(path: str) -> str:
    return ascii(path if len(path) <= 120 else f"{path[:116]} ...")
