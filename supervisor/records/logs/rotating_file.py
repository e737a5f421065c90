"""Appends whole lines to the log file of one worker, and rotates it by size.

A worker's files are DIRECTORY/AGENT/WORKER.log and, once rotated, WORKER.log.1 and on; a file ends where a line ends.
The leavings of an earlier daemon are repaired when a file is opened: a torn line is cut off, and blocks that a power cut
left empty are ended with a newline. Lines, streams and the accounts of lost lines are none of its business: it reports
an error of the disk, and a file that was deleted or truncated, and goes on.
"""

import errno
import functools
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

from corral.supervisor.config.spec.spec import Monitoring
from corral.worker.contract.names import local_name

from . import bgzf
from .file_format import LINE_LIMIT_BYTES, File, duplicates, inodes, last_line, names

READ_BYTES = 64 * 1024
"""Bytes that a pipe holds."""

FLOOD_BYTES = 128 * 1024
"""Bytes that a pipe holds once it was made larger, because it was always full."""

TAIL_BYTES = 4 * 1024
"""Bytes of the end of each stream that are kept in memory."""

OVERSHOOT_BYTES = 2 * 1024 * 1024
"""Bytes by which a file may exceed its limit, so that all parts of a long line are in one file."""

ALIVE = ".alive"
"""The folder, beside those of the agents, of empty files named after the workers that live or have lost lines to report."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Holds the limits of one worker's log; `max_files` counts the present file, too.

    Without `keeps` only the tail of the output is kept, in memory.
    """

    max_file_bytes: int
    max_files: int
    max_buffer_bytes: int = 1024 * 1024
    keeps: bool = True

    @classmethod
    def of(cls, monitoring: Monitoring) -> Self:
        """Returns the limits that `[monitoring]` sets."""
        return cls(
            max_file_bytes=monitoring.max_log_file_bytes,
            max_files=monitoring.max_log_files,
            max_buffer_bytes=monitoring.max_log_buffer_size,
            keeps=monitoring.enable_log_aggregation,
        )


class Sizes(NamedTuple):
    """Holds the sizes that follow from the limits of a log."""

    limits: LogLimits
    keeps: bool
    read_bytes: int
    flood_bytes: int
    part_bytes: int
    tail_bytes: int
    body_bytes: int


@functools.lru_cache(maxsize=64)
def sizes_of(limits: LogLimits) -> Sizes:
    """Returns the sizes that follow from the limits: one object for all workers with the same limits."""
    most = limits.max_buffer_bytes
    return Sizes(
        limits=limits,
        keeps=limits.keeps,
        # Beside a chunk there are, for a moment, a copy of it and the body that is written.
        read_bytes=min(READ_BYTES, most // 8),
        flood_bytes=min(FLOOD_BYTES, most // 8),
        part_bytes=min(LINE_LIMIT_BYTES, most // 8),
        tail_bytes=min(TAIL_BYTES, most // 16),
        # All lines of one write have one time, and at most one file may begin with it: readers know files by that.
        body_bytes=min(most // 4, limits.max_file_bytes),
    )


def _mark(directory: Path, worker: str) -> str:
    return f"{directory}/{ALIVE}/{worker}"


def is_marked_alive(directory: Path, worker: str) -> bool:
    """Returns whether a worker lived, or had lost lines to report, when the last daemon ended."""
    return os.path.exists(_mark(directory, worker))


def mark_alive(directory: Path, worker: str) -> None:
    """Makes the empty file that says so, and its folder where that is missing."""
    mark = _mark(directory, worker)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            fd = os.open(mark, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(mark), 0o700, exist_ok=True)
            fd = os.open(mark, flags, 0o600)
        os.close(fd)
    except OSError as error:
        logger.debug("cannot note that %s lives: %s", worker, error)


def unmark_alive(directory: Path, worker: str) -> None:
    """Removes that file, if it is there."""
    with suppress(OSError):
        os.unlink(_mark(directory, worker))


class RotatingFile:
    """Represents the files of one worker: the present one, open for appending, and those rotated before it."""

    # One for each of thousands of workers, most of which never write a line.
    __slots__ = ("_agent", "_directory", "_numbers", "_size", "_worker", "damage", "error", "fd", "files", "is_rotated")

    def __init__(
        self, directory: Path, agent: str, worker: str, numbers: Iterator[int], files: Sequence[File] = ()
    ) -> None:
        """Opens nothing yet. `numbers` are for new files; `files` are those of an earlier writer of this daemon."""
        self.files: Sequence[File] = files
        """The files that this daemon wrote to and that should exist, oldest first."""
        self.error: OSError | None = None
        """The error of the last `open` or `append`."""
        self.damage: str | None = None
        """Why the lines written since the last `verify` may be lost; set by `verify`, also during `append`."""
        self.is_rotated = False
        """Whether the last `append` has begun a new file."""
        self._directory = directory
        self._agent = agent
        self._worker = worker
        self._numbers = numbers
        self.fd = -1
        """The descriptor of the present file; -1 while it is closed."""
        self._size = 0

    @property
    def _path(self) -> Path:
        return self._directory / self._agent / f"{local_name(self._worker)}.log"

    def open(self, lines: int, limits: LogLimits) -> tuple[int, bytes] | None:
        """Opens the present file, after `lines` lines were written, and cuts off a torn line at its end.

        Returns the number of bytes cut off, and the prefix of the last whole line; None if it failed with `error`.
        """
        self.error = None
        fd = -1
        path = self._path
        try:
            for folder in (self._directory, path.parent.parent, path.parent):  # above: the user's
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # open(2) or write(2) would block on a FIFO of this name.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            torn_bytes, prefix = last_line(fd, status.st_size)
            if torn_bytes:
                os.ftruncate(fd, status.st_size - torn_bytes)
            elif status.st_size and not prefix:
                # A foreign file, or blocks that a power cut left empty: the next line must not be glued to it.
                os.write(fd, b"\n")
                status = os.fstat(fd)
        except OSError as error:
            self.error = error.with_traceback(None)  # its frames would live on with it
            if fd >= 0:
                os.close(fd)
            return None
        self.fd = fd
        self._size = status.st_size - torn_bytes
        known = [file for file in self.files if file.inode == status.st_ino]
        # A new file may have got the inode number of a deleted one.
        if not known or not self._size:
            previous = self.files[-1].number if self.files else 0
            known = [File(next(self._numbers), status.st_ino, lines, previous)]
        others = [file for file in self.files if file.inode != status.st_ino]
        if len(others) >= limits.max_files:  # those that another program has removed do not count
            there = inodes(path.parent, self._worker)
            others = [file for file in others if file.inode in there]
        self.files = (*others, known[0])[-limits.max_files :]
        return torn_bytes, prefix

    def remove_duplicates(self) -> None:
        """Removes compressed copies beside their originals: a daemon was killed while it compressed them."""
        with suppress(OSError):
            for path in duplicates(self._directory / self._agent, self._worker):
                path.unlink()

    def append(self, body: bytes, size_bytes: int, lines: int, limits: LogLimits, *, is_unended: bool) -> int:
        """Appends the first `size_bytes` of whole lines, after `lines` lines, and rotates where the limit is reached.

        With `is_unended` the last line in the file is a part, and its rest is to be in the same file, within reason.
        Returns the number of bytes that are in the files now, always whole lines: fewer than asked for after `error`.
        """
        self.error = self.damage = None
        self.is_rotated = False
        view = memoryview(body)
        kept = done = 0
        try:
            while kept < size_bytes:
                end = size_bytes
                room = limits.max_file_bytes - self._size
                if is_unended:
                    room += min(limits.max_file_bytes, OVERSHOOT_BYTES)
                if end - kept > room:
                    end = body.rfind(b"\n", kept, kept + max(room, 0)) + 1
                    if not end and self._size:
                        self._rotate(lines + body.count(b"\n", 0, kept), limits)
                        continue
                    end = end or body.index(b"\n", kept) + 1
                while done < end:
                    done += os.write(self.fd, view[done:end])
                self._size += end - kept
                kept = end
        except OSError as error:
            self.error = error.with_traceback(None)  # its frames would live on, with `body`
            whole = body.rfind(b"\n", 0, done) + 1
            if done > whole:  # a torn line must not stay: the next one would be glued to it
                try:
                    os.ftruncate(self.fd, os.fstat(self.fd).st_size - (done - whole))
                except OSError:  # the next `open` tries that again
                    self.close()
            self._size += whole - kept
            kept = whole
        return kept

    def verify(self) -> str | None:
        """Closes a file that is no longer in its place, so that the next write opens a new one.

        Returns why the lines written since the last call may be lost; None if they are in a file.
        """
        self.damage = None
        if self.fd < 0:
            return None
        here = os.fstat(self.fd)
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        if there is not None and (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev):
            if here.st_size < self._size:
                # The time is not known: at worst, all since the last look is gone.
                self.damage = "the file was truncated, at most this was lost"
            self._size = here.st_size
            return self.damage
        if not here.st_nlink:
            self.damage = "the file was deleted, at most this was lost"
        self.close()
        return self.damage

    def replace(self, inode: int, by: int) -> None:
        """Notes that a file was compressed: its copy has the inode number `by`."""
        # A deleted file had that number, if it is known here.
        files = (file for file in self.files if file.inode != by)
        self.files = tuple(replace(file, inode=by) if file.inode == inode else file for file in files)

    def close(self) -> None:
        """Closes the present file; the next `open` opens it again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _rotate(self, lines: int, limits: LogLimits) -> None:
        self.is_rotated = True
        self.verify()
        if self.fd >= 0:
            self._shift(limits.max_files)
            self.close()
        if self.open(lines, limits) is None:
            assert self.error is not None, "an open that fails has an error"
            raise self.error

    def _shift(self, max_files: int) -> None:
        """Renames every file to the next number, up to the first that is free: a kill may have left a hole."""
        found = names(self._directory / self._agent, self._worker)
        numbers = {name.number for name in found}
        free = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        for name in found:  # the oldest first, so that a kill loses and repeats nothing
            number = name.number + 1 if name.number < free else name.number
            if number >= max_files:
                name.path.unlink(missing_ok=True)
            elif number != name.number:
                target = Path(f"{self._path}.{number}{bgzf.SUFFIX if name.is_compressed else ''}")
                try:
                    name.path.rename(target)
                except IsADirectoryError:  # a foreign folder of that name
                    target.rename(f"{target}-aside-{target.lstat().st_ino}")
                    name.path.rename(target)
