"""Restores an archive: unpacks it beside the state, checks it whole, and marks it for the next start of the daemon.

Guarantees that nothing is written outside the staging folder, that it has at most what the manifest says and the disk
has room for, and that the mark comes last: a restoration that is killed before has no effect. The state itself is
moved by `adoption`. Configuration files are put in place, in the folder of the configuration file alone; nothing which
differs is overwritten unless that is asked for, and is kept beside then.
"""

import contextlib
import os
import pwd
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import quote

import msgspec

from corral.supervisor.machine.linux.durable import replace_file, sync_folder
from corral.worker.contract.errors import Conflict, Corrupted, NotFound, PermissionDenied

from ..audit.hash_chain import CHAIN, SLICE, Chain, ChainVerifier, Position, integer, to_bytes
from ..store.schema import APPLICATION_ID, MIGRATIONS
from .adoption import MARK, NEW, PLAN, STAGING, Mark
from .archive import Manifest, Member, Reader
from .snapshot import BEFORE, STORE

SPARE_BYTES = 16 * 1024 * 1024
"""Bytes of the disk that stay free beside what is unpacked."""

SLICE_ROWS = 1000


class Checked(NamedTuple):
    """Holds what was found in an archive: its manifest, and the records of its audit."""

    manifest: Manifest
    audit_records: int


def check(file: Path) -> Checked:
    """Reads an archive as a whole, and checks every hash, its databases and its audit; changes nothing."""
    with _opened(file) as stream, tempfile.TemporaryDirectory(prefix="corral-restore-") as folder:
        reader = _reader(stream, file)
        records = 0
        for member in reader.members():
            if not member.file.is_database:
                for _ in member.pieces:
                    pass
                continue
            _check_room(Path(folder), member.file.size, file)
            copy = Path(folder) / "copy.db"
            _write(copy, member, 0o600)
            records += _check_database(copy, member.file.path, file)
            for each in Path(folder).iterdir():
                each.unlink()
        return Checked(reader.manifest, records)


def stage(file: Path, state_dir: Path) -> Checked:
    """Unpacks an archive in the state folder; one that waits there is forgotten. It has no effect before `commit`."""
    staging = state_dir / STAGING
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        forget(state_dir)
        with _opened(file) as stream:
            reader = _reader(stream, file)
            (staging / NEW).mkdir(mode=0o700, parents=True)
            _check_room(staging, reader.manifest.size, file)
            records = 0
            for member in reader.members():
                place = staging / _place(member.file.path)
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write(place, member, member.file.mode & 0o777)
                if member.file.is_database:
                    records += _check_database(place, member.file.path, file)
        if not (staging / NEW / STORE).is_file():
            raise _refused(file, "it has no store", "no-store")
        _give_all(staging, state_dir.stat())
        for each in reader.manifest.files:
            _give(staging / _place(each.path), each.owner)
        _sync_all(staging)
    except OSError as error:
        forget(state_dir)
        raise _unwritable(state_dir, error) from error
    except BaseException:
        forget(state_dir)
        raise
    return Checked(reader.manifest, records)


def commit(state_dir: Path, manifest: Manifest) -> None:
    """Marks what is staged for the next start of the daemon."""
    staging = state_dir / STAGING
    names = sorted(each.name for each in (staging / NEW).iterdir())
    mark = Mark(created=manifest.created, names=names, has_logs=manifest.has_logs)
    try:
        replace_file(staging / MARK, msgspec.json.encode(mark))
        sync_folder(state_dir)
    except OSError as error:
        raise _unwritable(state_dir, error) from error


def _unwritable(state_dir: Path, error: OSError) -> PermissionDenied:
    text = f'cannot restore into "{state_dir}": {(error.strerror or str(error)).lower()}'
    return PermissionDenied(text, path=str(state_dir), reason="disk")


def forget(state_dir: Path) -> None:
    """Removes what waits for the next start; the mark first, so that no part of it is taken."""
    (state_dir / STAGING / MARK).unlink(missing_ok=True)
    shutil.rmtree(state_dir / STAGING, ignore_errors=True)


def _place(path: str) -> str:
    """Returns where a member is unpacked: in NEW if it is of the state, else beside it."""
    root, _, rest = path.partition("/")
    return f"{NEW}/{rest}" if root == "state" else path


@contextlib.contextmanager
def _opened(file: Path) -> Generator[BinaryIO]:
    try:
        stream = open(file, "rb")  # noqa: SIM115 - closed below: its errors are another matter
    except FileNotFoundError as error:
        raise NotFound(f'cannot read backup "{file}": it does not exist', file=str(file)) from error
    except OSError as error:
        text = f'cannot read backup "{file}": {(error.strerror or str(error)).lower()}'
        raise PermissionDenied(text, file=str(file)) from error
    with stream:
        yield stream


def _reader(stream: BinaryIO, file: Path) -> Reader:
    reader = Reader(stream, str(file))
    version = reader.manifest.store_version
    if version > len(MIGRATIONS):
        words = (
            f"version {version} of its store is newer than {len(MIGRATIONS)}, which this corral"
            f" knows: restore it with corral {reader.manifest.version}"
        )
        raise _refused(file, words, "newer-version")
    return reader


def _refused(file: Path, words: str, reason: str) -> Conflict:
    return Conflict(f'cannot restore "{file}": {words}', file=str(file), reason=reason)


def _check_room(folder: Path, size: int, file: Path) -> None:
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if size + SPARE_BYTES > free:
        raise _refused(file, f'it needs {size} bytes in "{folder}", which has {free} free', "disk-full")


def _write(place: Path, member: Member, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(place, flags, 0o600), "wb") as target:
        for piece in member.pieces:
            target.write(piece)
        os.fchmod(target.fileno(), mode)


def _give_all(staging: Path, found: os.stat_result) -> None:
    """Gives everything to the owner of the state folder, where root restores the state of another user's daemon."""
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    for above, _, names in os.walk(staging):
        for each in (above, *(f"{above}/{name}" for name in names)):
            os.chown(each, found.st_uid, found.st_gid, follow_symlinks=False)


def _give(place: Path, owner: str | None) -> None:
    """Gives a file to the user that it had; only root can, and only to one that exists."""
    if owner is None or os.geteuid() != 0:
        return
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam(owner)
        os.chown(place, account.pw_uid, account.pw_gid)


# --- databases ------------------------------------------------------------------------------------


def _check_database(copy: Path, path: str, file: Path) -> int:
    """Checks the form of a database, and of the store its audit; returns the number of records of that."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(copy))}?mode=rw", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA cell_size_check = ON")
            verdict = database.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != ("ok",):
                raise _damaged(file, path, f"{verdict[0]}")
            if path != f"state/{STORE}":
                return 0
            _check_store(database, file)
            return _check_audit(database, path, file)
    except sqlite3.Error as error:
        raise _damaged(file, path, str(error)) from error


def _damaged(file: Path, path: str, words: str) -> Corrupted:
    text = f'cannot read backup "{file}": "{path}" is damaged: {" ".join(words.split())}'
    return Corrupted(text, file=str(file), reason="database", member=path)


def _check_store(database: sqlite3.Connection, file: Path) -> None:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise _refused(file, "its store is the database of another program", "not-a-store")
    if version > len(MIGRATIONS):
        raise _refused(file, f"version {version} of its store is newer than {len(MIGRATIONS)}", "newer-version")


def _check_audit(database: sqlite3.Connection, path: str, file: Path) -> int:
    row = database.execute(CHAIN).fetchone()
    if row is None:
        raise _damaged(file, path, "its audit has no chain")
    anchor, head = (Position(integer(row[n]), to_bytes(row[n + 1])) for n in (0, 2))
    verifier = ChainVerifier(Chain(anchor, head, integer(row[4])), None)
    verifier.check_start(database.execute("SELECT MIN(id) FROM audit").fetchone()[0])
    while verifier.wrong is None:
        rows = database.execute(SLICE, (verifier.at.number, head.number, SLICE_ROWS)).fetchall()
        if not rows:
            break
        verifier.take(rows)
    verifier.check_end(database.execute("SELECT MIN(id) FROM audit WHERE id > ?", (head.number,)).fetchone()[0])
    if verifier.wrong is not None:
        raise _damaged(file, path, f"audit record {verifier.wrong['id']} {verifier.wrong['what']}")
    return integer(verifier.verdict()["records"])


# --- on disk --------------------------------------------------------------------------------------


def _sync_all(folder: Path) -> None:
    for above, _, names in os.walk(folder):
        for name in names:
            fd = os.open(Path(above) / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_folder(Path(above))


@dataclass
class Restored:
    """Describes what a restoration has done; the state takes effect with the next start of the daemon."""

    manifest: Manifest
    audit_records: int
    config: list[str] = field(default_factory=list[str])
    """Configuration files that were written."""
    kept: list[str] = field(default_factory=list[str])
    """Files that were there, under their new names."""
    elsewhere: list[str] = field(default_factory=list[str])
    """Files of the configuration that were in other folders, and are left in the archive."""


def restore(file: Path, state_dir: Path, config: Path, *, replace: bool) -> Restored:
    """Restores an archive, where the state folder is empty or `replace` is true."""
    _check_own(state_dir)
    if (state_dir / STAGING / PLAN).exists():
        words = "an earlier one has begun to take effect: start corrald, which ends it"
        raise Conflict(f'cannot restore "{file}": {words}', path=str(state_dir), reason="adopting")
    if not replace and (state_dir / STORE).exists():
        words = f'"{state_dir}" has a state; --replace keeps that beside'
        raise Conflict(f'cannot restore "{file}": {words}', path=str(state_dir), reason="has-state")
    checked = stage(file, state_dir)
    restored = Restored(checked.manifest, checked.audit_records)
    try:
        _put_config(restored, state_dir / STAGING, config, file, replace=replace)
        commit(state_dir, checked.manifest)
    except BaseException:
        forget(state_dir)
        raise
    return restored


def is_waiting(state_dir: Path) -> bool:
    """Returns whether a restored state waits for the next start."""
    return (state_dir / STAGING / MARK).exists()


def _check_own(state_dir: Path) -> None:
    if not state_dir.exists():
        return
    owner = state_dir.stat().st_uid
    if os.geteuid() not in (0, owner):
        text = f'cannot restore into "{state_dir}": it belongs to uid {owner}; run this as that user, or as root'
        raise PermissionDenied(text, path=str(state_dir), reason="foreign")


def _put_config(restored: Restored, staging: Path, config: Path, file: Path, *, replace: bool) -> None:
    """Puts the configuration file at `config`, and those of its folder beside it."""
    manifest = restored.manifest
    moves: list[tuple[Path, Path]] = []
    for each in manifest.files:
        root, _, rest = each.path.partition("/")
        if root == "elsewhere":
            restored.elsewhere.append(each.origin or each.path)
        elif root == "config":
            place = config if each.path == manifest.config else config.parent / rest
            moves.append((staging / each.path, place))
    changed = [(new, place) for new, place in moves if not _is_same(new, place)]
    present = [place for _, place in changed if os.path.lexists(place)]
    if present and not replace:
        words = f'"{present[0]}" is there, and differs; --replace keeps it beside'
        raise Conflict(f'cannot restore "{file}": {words}', path=str(present[0]), reason="has-config")
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for new, place in changed:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.restored")
        part.unlink(missing_ok=True)
        shutil.copy2(new, part)
        if os.path.lexists(place):
            kept = place.with_name(f"{place.name}.{BEFORE}{stamp}")
            os.link(place, kept, follow_symlinks=False)
            restored.kept.append(str(kept))
        part.rename(place)
        restored.config.append(str(place))


def _is_same(new: Path, place: Path) -> bool:
    try:
        return place.is_file() and new.read_bytes() == place.read_bytes()
    except OSError:
        return False
