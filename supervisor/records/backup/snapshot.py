"""Collects what a backup has: consistent copies of databases, and the other files of the state folder as they are.

A database is any file with the header of SQLite; it is copied by SQLite's online backup within one read transaction, so
that the copy has each commit from before, and none in part, while others write. It runs on a thread of its own, and
must not use the daemon's connections.
"""

import contextlib
import hashlib
import os
import pwd
import sqlite3
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from corral.worker.contract.errors import Cancelled

from .archive import FORMAT, PIECE_BYTES, File, Left, Manifest

STORE = "corral.db"

OMITTED = {
    "backup": "archives that are being made",
    "cache": "downloads, which are fetched again",
    "environments": "made again by corral deploy",
    "restore": "a restoration that waits for a start",
    "sdk": "made at each start",
    "tmp": "temporary folders of workers",
    "tokens.d": "tokens of remote MCP servers: a copy that renews them would end those of this daemon",
    "tokens.key": "the key of these tokens",
}
"""Entries of the state folder that no backup has, each with the reason."""

LOGS = ("logs", "corrald.log")
"""Entries of the state folder that a backup has only if it is asked for."""

SECRETS = ("secrets.d", "http.token")
"""Entries of the state folder that hold secrets in plain text."""

BEFORE = "before-"
"""Begin of the name of the folder in which a restoration has kept an earlier state."""

PAGES = 256
"""Number of pages that are copied at once, 1 MiB: the interpreter and the disk are given to others in between."""

PAUSE_S = 0.0005
"""Seconds between two of these."""

_HEADER = b"SQLite format 3\0"
_SIBLINGS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Source:
    """Describes what is backed up: the state folder, the configuration file and those that belong to it."""

    state_dir: Path
    config: Path | None
    others: Sequence[Path]
    """Files beside the configuration file: included ones, `.env`, the file of secrets."""
    version: str
    store_version: int
    generation: int
    logs: bool
    secrets: bool


@dataclass
class Snapshot:
    """Holds the manifest of what was found, and where each file is read from."""

    manifest: Manifest
    places: dict[str, Path] = field(default_factory=dict[str, Path])

    def open(self, file: File) -> BinaryIO:
        """Opens a file of the manifest."""
        return open(_open_regular(self.places[file.path]), "rb")


def take(source: Source, folder: Path, is_over: threading.Event) -> Snapshot:
    """Copies the databases to `folder`, and hashes all files."""
    taking = _Taking(source, folder, is_over)
    taking.run()
    now = time.time()
    manifest = Manifest(
        format=FORMAT,
        version=source.version,
        store_version=source.store_version,
        generation=source.generation,
        created_at=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        created=now,
        state_dir=str(source.state_dir),
        config=taking.config,
        files=taking.files,
        left=taking.left,
        has_logs=source.logs,
        has_secrets=source.secrets,
    )
    return Snapshot(manifest, taking.places)


class _Taking:
    def __init__(self, source: Source, folder: Path, is_over: threading.Event) -> None:
        self.files: list[File] = []
        self.left: list[Left] = []
        self.places: dict[str, Path] = {}
        self.config: str | None = None
        self._source = source
        self._folder = folder
        self._is_over = is_over
        self._databases = 0

    def run(self) -> None:
        root = self._source.state_dir
        self._add(f"state/{STORE}", root / STORE)  # first: it is what was acknowledged until now
        for entry in sorted(os.scandir(root), key=lambda each: each.name):
            name = entry.name
            if name == STORE:
                continue
            reason = OMITTED.get(name, "")
            if name.startswith(BEFORE):
                reason = "the state before a restoration"
            elif name.endswith(".lock"):
                reason = "the lock of a socket"
            elif name in LOGS and not self._source.logs:
                reason = "logs, which --logs includes"
            elif name in SECRETS and not self._source.secrets:
                reason = "secrets, which --no-secrets leaves out"
            if reason:
                self.left.append(Left(path=f"state/{name}", reason=reason))
            elif entry.is_dir():  # also a link to one: a folder may be on another disk
                self._walk(f"state/{name}", Path(entry.path))
            else:
                self._add(f"state/{name}", Path(entry.path))
        self._add_config()

    def _walk(self, path: str, folder: Path) -> None:
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                self._walk(f"{path}/{entry.name}", Path(entry.path))
            else:
                self._add(f"{path}/{entry.name}", Path(entry.path))

    def _add_config(self) -> None:
        config = self._source.config
        if config is None or not config.is_file():  # such as /dev/null, or one that was removed
            return
        folder = config.resolve().parent
        self.config = f"config/{config.name}"
        self._add(self.config, config.resolve())
        for number, path in enumerate(dict.fromkeys(each.resolve() for each in self._source.others)):
            if path == config.resolve():
                continue
            if path.is_relative_to(folder):
                self._add(f"config/{path.relative_to(folder)}", path)
            else:
                self._add(f"elsewhere/{number}-{path.name}", path, origin=str(path))

    def _add(self, path: str, place: Path, origin: str | None = None) -> None:
        if self._is_over.is_set():
            raise Cancelled("cannot go on with the backup: it was given up")
        if place.name.endswith(_SIBLINGS) and _is_database(_without_sibling(place)):
            return  # the copy of the database has what is in it
        try:
            fd = _open_regular(place)
        except OSError as error:
            if not path.startswith("state/") or path == f"state/{STORE}":
                raise
            reason = (error.strerror or str(error)).lower()
            self.left.append(Left(path=path, reason=f"it cannot be read: {reason}"))
            return
        except ValueError as error:
            self.left.append(Left(path=path, reason=str(error)))
            return
        if not path.isprintable():
            os.close(fd)
            self.left.append(Left(path=ascii(path), reason="its name is not printable"))
            return
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            is_database = os.pread(fd, len(_HEADER), 0) == _HEADER
            copy = self._copied(path, place) if is_database else None
            with open(copy, "rb") if copy is not None else contextlib.nullcontext(file) as read:
                size, digest = self._hashed(read, os.fstat(read.fileno()).st_size)
        self.files.append(
            File(
                path=path,
                size=size,
                sha256=digest,
                mode=stat.S_IMODE(found.st_mode) & 0o777,
                owner=_owner(found.st_uid),
                is_database=copy is not None,
                origin=origin,
            )
        )
        self.places[path] = place if copy is None else copy

    def _copied(self, path: str, place: Path) -> Path | None:
        """Returns the copy of a database; None for a file that only begins as one, which is no part of corral."""
        self._databases += 1
        copy = self._folder / f"{self._databases}.db"
        try:
            copy_database(place, copy, self._is_over)
        except sqlite3.DatabaseError as error:
            copy.unlink(missing_ok=True)
            if path == f"state/{STORE}" or isinstance(error, sqlite3.OperationalError):
                raise
            return None
        return copy

    def _hashed(self, file: BinaryIO, size: int) -> tuple[int, str]:
        digest, done = hashlib.sha256(), 0
        while done < size and (piece := file.read(min(PIECE_BYTES, size - done))):
            if self._is_over.is_set():
                raise Cancelled("cannot go on with the backup: it was given up")
            digest.update(piece)
            done += len(piece)
        return done, digest.hexdigest()


def copy_database(source: Path, target: Path, is_over: threading.Event) -> None:
    """Copies a database as it is at this moment, while others write to it."""

    def step(_status: int, _remaining: int, _total: int) -> None:
        if is_over.is_set():
            raise Cancelled("cannot go on with the backup: it was given up")
        time.sleep(PAUSE_S)

    uri = f"file:{quote(str(source.absolute()))}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)) as reader,
        closing(sqlite3.connect(target, isolation_level=None)) as writer,
    ):
        target.chmod(0o600)
        writer.execute("PRAGMA journal_mode = OFF")
        writer.execute("PRAGMA synchronous = OFF")
        # One read transaction around all steps: a commit of another connection would begin the copy anew.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        reader.backup(writer, pages=PAGES, progress=step)


def _is_database(path: Path) -> bool:
    try:
        with open(_open_regular(path), "rb") as file:
            return file.read(len(_HEADER)) == _HEADER
    except (OSError, ValueError):
        return False


def _without_sibling(path: Path) -> Path:
    for each in _SIBLINGS:
        path = path.with_name(path.name.removesuffix(each))
    return path


def _open_regular(path: Path) -> int:
    """Opens a regular file; never a link, and never one that would block."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("it is no regular file")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("it is no regular file")
    return fd


def _owner(uid: int) -> str | None:
    if uid == os.getuid():
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
