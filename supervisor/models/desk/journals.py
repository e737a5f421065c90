"""Keeps the journals of calls: files in which the gateway notes what each call uses, before it tells the daemon.

How far a file is counted is written in the transaction that has the figures. Lines behind that are counted when the daemon or the
gateway has died, once, whatever dies in between. A file stays for a minute after its last line, for limits of a minute.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Statement, Store
from corral.worker.contract.errors import ResourceLimitExceeded

from ..gateway.call_journal import Contents, contents

FILE_BYTES = 1024 * 1024
"""Bytes of a file, from which on calls begin in a new one."""
READ_BYTES = 64 * 1024 * 1024
"""Bytes of a file that are read: lines of calls that have begun before FILE_BYTES may follow."""
KEPT_S = 120.0
"""Seconds after its last line for which a counted file is kept."""
COUNTED = -1
"""Number that stands for all of a file, calls without an end too."""

SAVE = (
    "INSERT INTO model_journal (name, counted) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET counted = excluded.counted"
)

logger = logging.getLogger(__name__)


class Opened(NamedTuple):
    """Represents a new journal: its name, and its file, which the receiver closes."""

    name: str
    fd: int


class Journals:
    """Keeps the journals of one daemon; belongs to the loop's thread."""

    def __init__(self, folder: Path, store: Store, gathered: Gathered, generation: int) -> None:
        self._folder = folder
        self._store = store
        self._gathered = gathered
        gathered.add(self._taken)
        self._generation = generation
        self._number = 0
        self._counted: dict[str, int] = {}
        self._unsaved: set[str] = set()
        self._last = ""

    async def load(self) -> None:
        """Loads how far the files of earlier daemons are counted."""
        for name, counted in await self._store.read("SELECT name, counted FROM model_journal"):
            self._counted[str(name)] = counted if isinstance(counted, int) else COUNTED
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                self._counted.setdefault(path.name, 0)
        self._sweep()

    def open(self) -> Opened:
        """Returns a new journal, in which calls begin from now on."""
        self._sweep()
        self._number += 1
        name = f"{self._generation}.{self._number}"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(self._folder / name, flags, 0o600)
        except OSError as error:
            reason = f"cannot make a journal of calls in {self._folder}: {error.strerror}"
            raise ResourceLimitExceeded(reason, file=str(self._folder / name)) from error
        self._counted[name] = 0
        self._last = name
        return Opened(name, fd)

    def unfinished(self) -> list[str]:
        """Returns the files that may have calls which are not counted, the oldest first."""
        return sorted([name for name, counted in self._counted.items() if counted != COUNTED], key=_place)

    def all(self) -> list[str]:
        """Returns all files, the oldest first."""
        return sorted(self._counted, key=_place)

    def read(self, name: str) -> Contents:
        """Returns what a file says; nothing where it is gone."""
        try:
            with (self._folder / name).open("rb") as file:
                data = file.read(READ_BYTES)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                logger.error("cannot read the journal of calls %s: %s", name, error.strerror)
            return Contents([], 0)
        found = contents(data)
        if found.damaged:
            logger.error("the journal of calls %s has %d damaged lines", name, found.damaged)
        return found

    def counted(self, name: str) -> int:
        """Returns the position in a file up to which ended calls are counted."""
        return self._counted.get(name, COUNTED)

    def count(self, name: str, position: int) -> bool:
        """Notes that a file is counted up to a position; returns whether calls are to begin in a new file."""
        if self._counted.get(name, COUNTED) == COUNTED:
            return False
        self._counted[name] = position
        self._save_soon(name)
        return name == self._last and position > FILE_BYTES

    def finish(self, name: str) -> None:
        """Notes that all of a file is counted, and that nothing is added to it."""
        if self.counted(name) != COUNTED:
            self._counted[name] = COUNTED
            self._save_soon(name)

    def _save_soon(self, name: str) -> None:
        self._unsaved.add(name)
        self._gathered.soon()

    def _taken(self) -> Iterator[Statement]:
        unsaved, self._unsaved = self._unsaved, set()
        for name in unsaved:
            if name in self._counted:
                yield SAVE, (name, self._counted[name])

    def _sweep(self) -> None:
        """Removes counted files whose lines are too old for any limit."""
        oldest = time.time() - KEPT_S
        for name in [each for each, counted in self._counted.items() if counted == COUNTED]:
            path = self._folder / name
            try:
                if name in self._unsaved or path.stat().st_mtime > oldest:
                    continue
                path.unlink()
            except FileNotFoundError:
                pass
            except OSError:
                continue
            del self._counted[name]
            self._store.post(("DELETE FROM model_journal WHERE name = ?", (name,)))


def _place(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in name.split("."))
