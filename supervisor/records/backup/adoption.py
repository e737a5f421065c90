"""Puts a restored state in the place of the present one when the daemon starts, before anything is opened.

Guarantees that a kill at any moment leaves the old or the new state whole: a plan is on disk before the first move, each
move is a rename, and a later start continues where the plan stands. The former state is kept beside, in
`before-TIME`. Numbers that must not repeat on a machine go on beyond all that it can have given meanwhile.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from corral.supervisor.machine.linux.durable import replace_file, sync_folder
from corral.worker.contract.errors import Conflict, PermissionDenied

from .snapshot import BEFORE, LOGS, STORE

STAGING = "restore"
"""Name of the folder in the state folder in which a restoration waits."""

NEW = "new"
MARK = "ready.json"
PLAN = "moving.json"

KEPT = frozenset({STAGING, "backup", "cache", "environments", "sdk", "tmp"})
"""Entries that stay where they are: none is part of a backup."""

RATE = 10
"""Number of starts, of the daemon or of one worker, that a second can have at most."""

MARGIN = 1000
"""Number that is left out beside, for clocks that differ."""

_S = TypeVar("_S", bound=Struct)

logger = logging.getLogger(__name__)


class Mark(Struct, frozen=True, kw_only=True):
    """Represents a staged state that is whole: when it was backed up, and its entries."""

    created: float
    names: list[str]
    has_logs: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """Represents the moves of one adoption: `old` go to the folder `before`, `new` come from the staging folder."""

    old: list[str]
    new: list[str]
    before: str


def adopt(root: Path, now: float | None = None) -> Path | None:
    """Adopts the state that waits in a state folder; returns where the one before is, None if nothing waits."""
    staging = root / STAGING
    try:
        if not (staging / MARK).exists() and not (staging / PLAN).exists():
            return None
    except PermissionError:
        return None  # it is another user's folder: the check before the start says so
    try:
        with _locked(root):
            plan = _decoded(staging / PLAN, Plan)
            if plan is None:
                mark = _decoded(staging / MARK, Mark)
                if mark is None:
                    return None
                _renumber(root, mark, time.time() if now is None else now)
                plan = _planned(root, mark)
                replace_file(staging / PLAN, msgspec.json.encode(plan))
            _move(root, plan)
            before = root / plan.before
            with contextlib.suppress(OSError):  # it has something, as a rule
                before.rmdir()
            for entry in staging.iterdir():  # the plan last: while it is there, this is done again
                if entry.is_dir():
                    shutil.rmtree(entry)
            (staging / MARK).unlink(missing_ok=True)
            (staging / PLAN).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a part of a file that was being written is harmless
                staging.rmdir()
            sync_folder(root)
    except OSError as error:
        text = f'cannot adopt the restored state in "{root}": {(error.strerror or str(error)).lower()}'
        raise PermissionDenied(text, path=str(error.filename or root), reason="disk") from error
    logger.warning('adopted the restored state; the one before is in "%s"', before)
    return before


def _planned(root: Path, mark: Mark) -> Plan:
    stays = KEPT if mark.has_logs else KEPT | frozenset(LOGS)
    old = [
        each.name
        for each in root.iterdir()
        if each.name not in stays
        and not each.name.startswith(BEFORE)
        and not each.is_socket()
        and not each.name.endswith(".lock")  # of a socket that is in this folder
    ]
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    before, n = f"{BEFORE}{stamp}", 1
    while (root / before).exists():
        n += 1
        before = f"{BEFORE}{stamp}-{n}"
    return Plan(old=sorted(old), new=mark.names, before=before)


def _move(root: Path, plan: Plan) -> None:
    """Makes the moves that are not made yet.

    An entry of both is moved away only while its new one waits: afterwards the one in place is the new one.
    """
    before, staged = root / plan.before, root / STAGING / NEW
    before.mkdir(mode=0o700, exist_ok=True)
    for name in plan.old:
        is_replaced = name in plan.new and not os.path.lexists(staged / name)
        if not is_replaced and os.path.lexists(root / name) and not os.path.lexists(before / name):
            (root / name).rename(before / name)
    sync_folder(before)
    sync_folder(root)
    for name in plan.new:
        if os.path.lexists(staged / name):
            (staged / name).rename(root / name)
    sync_folder(root)
    if staged.exists():  # not where an earlier start has got farther
        sync_folder(staged)


@contextlib.contextmanager
def _locked(root: Path) -> Generator[None]:
    """Holds the state folder, and the store in it if there is one, against other daemons."""
    fds: list[int] = []
    try:
        fds.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        with contextlib.suppress(FileNotFoundError):
            fds.append(os.open(root / STORE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        for fd in fds:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        text = f'cannot adopt the restored state in "{root}": another daemon has it'
        raise Conflict(text, path=str(root), reason="in-use") from error
    finally:
        for fd in fds:
            os.close(fd)


# --- numbers --------------------------------------------------------------------------------------


def jump(seconds: float) -> int:
    """Returns the number that numbers go on beyond, for a backup that is `seconds` old."""
    return MARGIN + int(max(0.0, seconds) * RATE)


def _renumber(root: Path, mark: Mark, now: float) -> None:
    """Raises generation and incarnations of the new store above all that were given here; again is harmless."""
    new = root / STAGING / NEW / STORE
    generation, events, incarnations = _given(root / STORE)
    more = jump(now - mark.created)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(new))}?mode=rw", uri=True)) as store:
            with store:
                sql = "UPDATE meta SET value = max(value + ?, ?) WHERE key = 'generation'"
                store.execute(sql, (more, generation + MARGIN))
                store.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'events_reserved'", (events,))
                store.execute("UPDATE incarnation SET value = value + ?", (more,))
                store.executemany(
                    "INSERT INTO incarnation (worker, value) VALUES (?, ?)"
                    " ON CONFLICT (worker) DO UPDATE SET value = max(value, excluded.value)",
                    [(worker, value + MARGIN) for worker, value in incarnations],
                )
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        text = f'cannot adopt the restored state in "{root}": its store is damaged: {error}'
        raise Conflict(text, path=str(new), reason="corrupt") from error


def _given(store: Path) -> tuple[int, int, list[tuple[str, int]]]:
    """Returns the generation, the last event and the incarnations of the store that is replaced; zeros where it cannot tell."""
    if not store.exists():
        return 0, 0, []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(store))}?mode=ro", uri=True)) as old:
            meta = dict(old.execute("SELECT key, value FROM meta").fetchall())
            rows = old.execute("SELECT worker, value FROM incarnation").fetchall()
    except sqlite3.Error as error:
        logger.warning('cannot read the replaced store "%s": %s', store, error)
        return 0, 0, []
    numbers = [
        int(value) if isinstance(value := meta.get(key), int) else 0 for key in ("generation", "events_reserved")
    ]
    found = [(str(worker), int(value)) for worker, value in rows if isinstance(value, int)]
    return numbers[0], numbers[1], found


# --- files ----------------------------------------------------------------------------------------


def _decoded(path: Path, kind: type[_S]) -> _S | None:
    """Returns what a file of ours holds; None if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        text = f'cannot adopt the restored state: "{path}" is damaged; restore again'
        raise Conflict(text, path=str(path), reason="corrupt") from error
