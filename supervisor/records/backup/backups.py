"""Makes backups for callers, one at a time, and hands out the archive piece by piece.

An archive is made in the state folder, and removed when it was read, discarded or forgotten for a while: the caller may
be another user or another machine, and the daemon writes to no path that a caller names. Guarantees bounded memory,
and that the loop goes on: everything slow is on a thread of low priority.
"""

import asyncio
import errno
import hashlib
import os
import secrets
import shutil
import sqlite3
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corral.worker.contract.errors import Conflict, CorralError, NotFound, Overloaded
from corral.worker.control.backup import BackupMade, BackupPiece

from .archive import Changed, write
from .snapshot import OMITTED, Snapshot, Source, take

FOLDER = "backup"
"""Name of the folder of archives in the state folder."""

FORGOTTEN_S = 600.0
"""Seconds after the last call about an archive until it is removed."""

NICENESS = 10
"""Number that is added to the niceness of the thread that copies and compresses."""

ROUNDS = 3
"""Number of times that an archive is begun anew since a file has changed meanwhile."""

PIECE_BYTES = 512 * 1024
"""Bytes of a piece: its base64 is far below the longest message."""

RETRY_AFTER_S = 5.0


class Backups:
    """Makes and keeps the one archive of a daemon."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / FOLDER
        self._made: BackupMade | None = None
        self._file: Path | None = None
        self._is_making = False
        self._timer: asyncio.TimerHandle | None = None
        _remove(self._root)  # of a daemon that was killed

    async def make(self, source: Source, before: Callable[[], None] | None = None) -> BackupMade:
        """Makes an archive; the one before is gone."""
        if self._is_making:
            text = "cannot make a backup: another one is being made"
            raise Conflict(text, reason="in-progress", retry_after_s=RETRY_AFTER_S)
        self._is_making = True
        self._forget()
        is_over = threading.Event()
        name = secrets.token_hex(8)
        folder = self._root / name
        pool = ThreadPoolExecutor(1, "corral-backup")
        work = asyncio.get_running_loop().run_in_executor(pool, _make, source, folder, name, is_over, before)
        try:
            made = await asyncio.shield(work)
        except asyncio.CancelledError:  # the caller has hung up: the thread ends soon
            is_over.set()
            work.add_done_callback(lambda done: self._give_up(done, folder))
            raise
        finally:
            self._is_making = False
            pool.shutdown(wait=False)
        self._made, self._file = made, folder / "archive"
        self._wait()
        return made

    def _give_up(self, done: asyncio.Future[BackupMade], folder: Path) -> None:
        if not done.cancelled():
            done.exception()  # it is of no interest any more
        _remove(folder)

    async def read(self, id_: str, offset: int) -> BackupPiece:
        """Returns the bytes of an archive from `offset` on, at most PIECE_BYTES."""
        made, file = self._made, self._file
        if made is None or file is None or made.id != id_:
            raise NotFound(f'cannot find backup "{id_}": make it again', id=id_)
        self._wait()
        data = await asyncio.to_thread(_piece, file, offset)
        end = offset + len(data)
        return BackupPiece(data=b64encode(data).decode(), offset=offset, last=end >= made.size)

    def discard(self, id_: str) -> None:
        """Removes an archive; one that is not there is gone already."""
        if self._made is not None and self._made.id == id_:
            self._forget()

    def close(self) -> None:
        """Removes what is there."""
        self._forget()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(FORGOTTEN_S, self._forget)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        file, self._made, self._file = self._file, None, None
        if file is not None:
            _remove(file.parent)


def _make(
    source: Source, folder: Path, name: str, is_over: threading.Event, before: Callable[[], None] | None
) -> BackupMade:
    """Makes an archive on the present thread; nothing is left of one that fails."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    began = time.monotonic()
    if before is not None:
        before()
    try:
        folder.mkdir(mode=0o700, parents=True)
        changed = Changed("")
        for _ in range(ROUNDS):
            try:
                snapshot = take(source, folder, is_over)
                digest, size = _write(snapshot, folder / "archive")
            except Changed as error:
                changed = error
                continue
            except FileNotFoundError as error:  # between the look at a file and its copy
                changed = Changed(str(error.filename))
                continue
            for copy in folder.glob("*.db"):
                copy.unlink()
            manifest = snapshot.manifest
            return BackupMade(
                id=name,
                size=size,
                sha256=digest,
                files=len(manifest.files),
                content_bytes=manifest.size,
                created_at=manifest.created_at,
                left={
                    left.path: left.reason for left in manifest.left if left.path.removeprefix("state/") not in OMITTED
                },
                duration_s=round(time.monotonic() - began, 3),
            )
        text = f'cannot make a backup: "{changed.args[0]}" changes all the time'
        raise Conflict(text, path=str(changed.args[0]), reason="changing")
    except (OSError, sqlite3.Error) as error:
        _remove(folder)
        raise _typed(source, error) from error
    except BaseException:
        _remove(folder)
        raise


def _write(snapshot: Snapshot, path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o600)

        def take_piece(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        write(snapshot.manifest, snapshot.open, take_piece)
        size = file.tell()
    return digest.hexdigest(), size


def _piece(file: Path, offset: int) -> bytes:
    with open(file, "rb") as opened:
        opened.seek(offset)
        return opened.read(PIECE_BYTES)


def _typed(source: Source, error: OSError | sqlite3.Error) -> CorralError:
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    is_full = is_full or (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_FULL
    reason = "disk-full" if is_full else "io-error"
    words = f'the disk of "{source.state_dir}" is full' if is_full else str(error).lower()
    text = f"cannot make a backup: {words}; nothing of it is left"
    return Overloaded(text, reason=reason, path=str(source.state_dir), retry_after_s=RETRY_AFTER_S)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
