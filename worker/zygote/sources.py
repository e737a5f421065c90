"""Finds which source files of this process's modules have changed since they were imported.

`changed` compares on request; a watch of the folders (inotify(7)) shows when a comparison is worthwhile. Editors write a
new file and rename it, so folders are watched, not files. A file that was only touched, or written again with the same
content, has not changed: else an agent that writes a module of its own while it is imported would never be up to date.
Corral's own modules are left out: they change with the daemon. Standard library alone.
"""

from __future__ import annotations

import binascii
import contextlib
import ctypes
import itertools
import os
import struct
import sys
import time
from collections.abc import Generator, Iterable, Iterator

from ..sdk.bytecode import imports_as_written, is_installed

FOLDERS = 1000
"""Number of folders that are watched; a change in another one is found on request."""
BURST_S = 0.1
"""Seconds from the first change of a burst until the files are compared."""
EVENTS_BYTES = 65536

IN_CREATE, IN_CLOSE_WRITE, IN_MOVED_TO = 0x100, 0x8, 0x80
IN_DELETE_SELF, IN_MOVE_SELF = 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = 0x4000, 0x8000, 0x1000000
WATCHED = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
EVENT = struct.Struct("=iIII")
"""The struct inotify_event: watch, mask, cookie, and the length of the name that follows."""
TICK_NS = 20_000_000
"""Nanoseconds by which a file's time may lag behind the clock: the kernel reads its clock that rarely for files."""

Stamp = tuple[int, int, int]


class _Source:
    """Holds the state of one file: its `stamp` at the import and, if it is watched, the checksums then and later."""

    __slots__ = ("imported", "is_own", "latest", "stamp")

    def __init__(self, path: str, *, is_own: bool, compiled: int | None, since_ns: int) -> None:
        self.is_own = is_own
        self.stamp = stamp(path)
        self.imported = compiled
        if is_own:
            is_moving = _has_changed_since(path, since_ns)
            now = checksum(path)
            if compiled is None and not is_moving:
                self.imported = now  # its bytecode is older than this import, and of this content
            if is_moving or now != self.imported:
                self.stamp = None  # a stamp would be that of other content
        self.latest = self.imported


class Sources:
    """Tracks the files of the modules that are imported while `importing` is active, until `note` is called.

    The first `skipped` modules are those of the process of which this one is a fork: it tracks them itself, and to look at
    them would copy their pages.
    """

    def __init__(self, skipped: int = 0) -> None:
        self._skipped = skipped
        self.inotify = _inotify()
        self.due_s: float | None = None
        """Seconds of the monotonic clock when `news` should be called; None while nothing has changed."""
        self._started_ns = time.time_ns() - TICK_NS
        self._compiled: dict[str, int] = {}  # path: the checksum of the text that was compiled
        self._sources: dict[str, _Source] = {}
        self._suspects: set[str] = set()
        self._folders: set[str] = set()  # that are watched
        self._names: dict[int, dict[str, str]] = {}  # by watch: names there, and their paths

    def __len__(self) -> int:
        return len(self._sources)

    @contextlib.contextmanager
    def importing(self) -> Generator[None, None, None]:
        """Records the checksum of every source that is compiled meanwhile, so that a later write cannot pass for it."""

        def note(path: str, text: bytes) -> None:
            self._compiled[path] = binascii.crc32(text)

        with imports_as_written(note):
            yield

    def note(self) -> None:
        """Takes the files of all modules imported so far as those to track; to be called once."""
        for path in _files(self._skipped):
            is_own = not is_installed(path)
            if is_own:
                self._watch(path)  # first, so that a write from now on is noticed
            source = _Source(path, is_own=is_own, compiled=self._compiled.get(path), since_ns=self._started_ns)
            self._sources[path] = source
            if is_own and source.stamp is None:
                self._suspect([path])
        self._compiled.clear()

    def changed(self) -> list[str]:
        """Returns the files whose content differs from the imported one, or that are gone."""
        return [path for path, source in self._sources.items() if _has_changed(path, source)]

    def read_events(self) -> None:
        """Reads the kernel's events of the watched folders; sets `due_s` if one concerns a tracked file."""
        try:
            data = os.read(self.inotify, EVENTS_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _cookie, length = EVENT.unpack_from(data, at)
            at += EVENT.size + length
            name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
            names = self._names.get(watch, {})
            if mask & IN_Q_OVERFLOW:
                self._suspect(path for path, source in self._sources.items() if source.is_own)
            elif mask & (IN_DELETE_SELF | IN_MOVE_SELF):
                self._suspect(names.values())
            elif mask & IN_IGNORED:
                self._names.pop(watch, None)
            elif name in names:
                self._suspect([names[name]])

    def news(self) -> list[str]:
        """Returns the watched files whose content has changed since the last call, at the end of a burst."""
        self.due_s = None
        suspects, self._suspects = sorted(self._suspects), set()
        found: list[str] = []
        for path in suspects:
            self._watch(path)  # its folder may be a new one
            source, now = self._sources[path], checksum(path)
            if now is not None and now != source.latest:  # one that is gone may be about to come
                source.latest = now
                found.append(path)
        return found

    def _suspect(self, paths: Iterable[str]) -> None:
        self._suspects.update(paths)
        if self._suspects and self.due_s is None:
            self.due_s = time.monotonic() + BURST_S

    def _watch(self, path: str) -> None:
        """Watches the folder of the path, and the folder that it resolves to."""
        for alias in {path, os.path.realpath(path)}:
            folder, name = os.path.split(alias)
            is_full = len(self._folders) >= FOLDERS and folder not in self._folders
            if self.inotify < 0 or is_full:
                continue
            self._folders.add(folder)
            watch = _libc.inotify_add_watch(self.inotify, os.fsencode(folder), WATCHED)
            if watch >= 0:  # else there are too many of this user, or it is gone: see `changed`
                self._names.setdefault(watch, {})[name] = path


def stamp(path: str) -> Stamp | None:
    """Returns the file's modification time in nanoseconds, its size and its inode; None if it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def checksum(path: str) -> int | None:
    """Returns the CRC-32 of the file's content; None if it is gone."""
    try:
        with open(path, "rb") as file:
            return binascii.crc32(file.read())
    except OSError:
        return None


def _has_changed(path: str, source: _Source) -> bool:
    now = stamp(path)
    if not source.is_own:
        return now != source.stamp
    if source.imported is None:
        return True
    if now is not None and now == source.stamp:
        return False
    return checksum(path) != source.imported


def _has_changed_since(path: str, since_ns: int) -> bool:
    """Returns True if the file was written or replaced since then, or is gone."""
    try:
        # A change time in the future comes from another clock and proves nothing.
        return since_ns <= os.stat(path).st_ctime_ns <= time.time_ns()
    except OSError:
        return True


def _files(skipped: int) -> Iterator[str]:
    """Yields the files of all imported modules but the first ones and corral's own."""
    seen: set[str] = set()
    later = len(sys.modules) - skipped
    for module in [*itertools.islice(reversed(sys.modules.values()), max(0, later))]:
        try:
            spec = module.__spec__
            name, path = (spec.name, spec.origin) if spec and spec.has_location else ("", None)
        except Exception:  # libraries put arbitrary objects into sys.modules
            continue
        if isinstance(path, str) and path not in seen and name.partition(".")[0] != "corral":
            seen.add(path)
            yield path


_libc = ctypes.CDLL(None, use_errno=True)


def _inotify() -> int:
    """Returns an inotify descriptor, or -1 where none is available."""
    try:
        return int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    except AttributeError:  # a C library without it
        return -1
