"""What one worker prints, kept whole and in order in files that log shippers read as they are.

A worker's files are DIRECTORY/AGENT/WORKER.log and, rotated by size at the end of a line, WORKER.log.1 and on. Because
the prefix is the same for all lines of a chunk, capture costs one `bytes.replace` per chunk and no work per line; the
text is the worker's bytes, untouched.

Nothing here waits: not for a reader, and not for a disk that refuses. What is lost is counted, and a line says so as
soon as writing works again. What is held in memory is bounded by `max_buffer_bytes` a worker. Everything is on the
loop's thread.
"""

import asyncio
import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from ..config.spec import Monitoring
from . import bgzf
from .capture_stream import LogStream, StreamName
from .file_format import (
    CAPTURED,
    FIRST,
    LINE_LIMIT_BYTES,
    OWN,
    PREFIX_BYTES,
    File,
    json_line,
    last_line,
    names,
    superfluous,
)

READ_BYTES = 64 * 1024  # the size of a pipe
FLOOD_BYTES = 128 * 1024  # the size of a pipe that is always full
TAIL_BYTES = 4 * 1024
OVERSHOOT_BYTES = 2 * 1024 * 1024
ALIVE = ".alive"
"""The folder, beside those of the agents, of empty files named after the workers that live or have lines to be told lost."""

VERIFY_NS = 1_000_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogLimits:
    """What the configuration says of one worker's log; `max_files` counts the present file, too.

    Without `keeps` only the tail of what it prints is kept, in memory.
    """

    max_file_bytes: int
    max_files: int
    max_buffer_bytes: int = 1024 * 1024
    keeps: bool = True

    @classmethod
    def of(cls, monitoring: Monitoring) -> Self:
        """What `[monitoring]` says."""
        return cls(
            max_file_bytes=monitoring.max_log_file_bytes,
            max_files=monitoring.max_log_files,
            max_buffer_bytes=monitoring.max_log_buffer_size,
            keeps=monitoring.enable_log_aggregation,
        )


class Shelf(Protocol):
    """Where writers put their files."""

    directory: Path
    clock: Callable[[], int]
    unclean: bool

    def stamp(self, kind: bytes) -> bytes:
        """The time of now, 30 bytes, with the kind as its last digit."""
        ...

    def wake(self, writer: "LogWriter") -> None:
        """Tells the followers that there is something new."""
        ...

    def rotated(self, writer: "LogWriter") -> None:
        """A writer has begun a new file."""
        ...

    def attend(self, writer: "LogWriter") -> None:
        """Has a writer looked after from now on, until there is no need (`LogWriter.is_to_be_checked`)."""
        ...

    def note_loss(self, writer: "LogWriter") -> None:
        """Lines of a writer are lost, or are not lost any more."""
        ...


@dataclass(slots=True)
class _Gap:
    """What was lost since the last line that is in the file."""

    lines: int = 0
    size_bytes: int = 0
    reasons: list[str] = field(default_factory=lambda: [])


def _touch(mark: str) -> None:
    """Makes an empty file, in a folder that may not be there yet."""
    try:
        fd = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(mark), 0o700, exist_ok=True)
        fd = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    os.close(fd)


NO_NAMES: frozenset[bytes] = frozenset()
"""One for all who have none: an empty set of its own costs each of thousands of writers 216 bytes."""

NO_STREAMS: frozenset[LogStream] = frozenset()
NO_TAILS: Mapping[str, bytes] = {}
NOT_UNSURE = _Gap()
"""Of a file that was seen in its place since it was written: never changed, but replaced."""


class _Sizes(NamedTuple):
    """What follows from the limits of a log."""

    keeps: bool
    max_files: int
    max_file_bytes: int
    read_bytes: int
    flood_bytes: int
    part_bytes: int
    tail_bytes: int
    body_bytes: int


@functools.lru_cache(maxsize=64)
def _sizes(limits: LogLimits) -> _Sizes:
    """One for all workers with the same limits."""
    most = limits.max_buffer_bytes
    return _Sizes(
        keeps=limits.keeps,
        max_files=limits.max_files,
        max_file_bytes=limits.max_file_bytes,
        # Beside these there are, for a moment, a copy of what was read and what is written of it.
        read_bytes=min(READ_BYTES, most // 8),
        flood_bytes=min(FLOOD_BYTES, most // 8),
        part_bytes=min(LINE_LIMIT_BYTES, most // 8),
        tail_bytes=min(TAIL_BYTES, most // 16),
        # What is written at once has one time, and at most one file may begin with it: readers know files by that.
        body_bytes=min(most // 4, limits.max_file_bytes),
    )


class LogWriter:
    """The files of one worker, through all its incarnations."""

    # There may be thousands, most of which never write a line.
    __slots__ = (
        "__weakref__",
        "_fd",
        "_gap",
        "_held",
        "_is_due",
        "_opened",
        "_printed",
        "_refusal",
        "_released",
        "_shelf",
        "_size",
        "_sizes",
        "_tails",
        "_to_flush",
        "_unended",
        "_unsure",
        "_verified_ns",
        "_was_alive",
        "agent",
        "files",
        "incarnation",
        "lines",
        "lost_bytes",
        "lost_lines",
        "users",
        "worker",
    )

    def __init__(
        self,
        shelf: Shelf,
        agent: str,
        worker: str,
        limits: LogLimits,
        earlier: "LogWriter | None" = None,
    ) -> None:
        """`earlier` wrote these files before, and its lines are counted on: somebody may still read them."""
        self.agent = agent
        self.worker = worker
        self.users = 0
        self.incarnation = 0
        """How many incarnations have begun since this writer exists."""
        self.lost_lines = 0
        self.lost_bytes = 0
        self.lines: int = earlier.lines if earlier else 0
        """Lines written since this writer exists, or since an earlier one did."""
        self.files: Sequence[File] = (*earlier.files,) if earlier else ()
        """The files that this writer wrote to and that should exist, oldest first."""
        self._shelf = shelf
        self._is_due = False  # an incarnation has begun, and its first pipe is to come
        self._held = 0  # pipes of the incarnations that live
        self._was_alive = shelf.unclean and earlier is None and os.path.exists(self._mark)
        """Whether its pipes may have held lines when the last daemon was killed; until that is told."""
        self._fd = -1
        self._size = 0
        self._verified_ns = 0
        self._unsure = NOT_UNSURE  # written since the file was last seen in its place
        self._gap: _Gap | None = None
        self._opened = False
        self._released = False
        self._printed = 0  # the newest incarnation of which something is in the files
        self._refusal: str | None = None  # of the present write
        self._to_flush = NO_STREAMS
        self._unended = NO_NAMES  # streams of which the last line in the files is a part
        self._tails = NO_TAILS
        self.configure(limits)
        if self._was_alive:
            shelf.attend(self)

    def configure(self, limits: LogLimits) -> None:
        """Take new limits."""
        self._sizes = _sizes(limits)

    @property
    def keeps(self) -> bool:
        """Whether what is printed goes into files."""
        return self._sizes.keeps

    @property
    def max_files(self) -> int:
        """How many files there are at most, the present one included."""
        return self._sizes.max_files

    @property
    def max_file_bytes(self) -> int:
        """The size at which a file is rotated."""
        return self._sizes.max_file_bytes

    @property
    def read_bytes(self) -> int:
        """How much to read from a pipe at a time."""
        return self._sizes.read_bytes

    @property
    def flood_bytes(self) -> int:
        """How much to read at a time from a pipe that is always full."""
        return self._sizes.flood_bytes

    @property
    def part_bytes(self) -> int:
        """The longest part of a line that is kept or written at once."""
        return self._sizes.part_bytes

    @property
    def _directory(self) -> Path:
        return self._shelf.directory / self.agent

    @property
    def _path(self) -> Path:
        return self._shelf.directory / self.agent / f"{self.worker}.log"

    @property
    def _mark(self) -> str:
        return f"{self._shelf.directory}/{ALIVE}/{self.worker}"

    @property
    def trouble(self) -> str | None:
        """Why lines are being lost at present, None if all is well."""
        return "; ".join(self._gap.reasons) or "unknown" if self._gap else None

    @property
    def is_fresh(self) -> bool:
        """Whether the present incarnation has printed nothing yet."""
        return self.incarnation > self._printed

    def begin(self) -> None:
        """A new incarnation starts."""
        self.expect()
        self.note_life()

    def expect(self) -> None:
        """A new incarnation is to start: what its streams print first is marked."""
        self._flush()
        self.incarnation += 1
        self._is_due = True

    def note_life(self) -> None:
        """Its process is about to start: the next daemon, should we be killed, has to know that there was one."""
        if self.keeps:
            try:
                _touch(self._mark)
            except OSError as error:
                logger.debug("cannot note that %s lives: %s", self.worker, error)

    def hold(self) -> None:
        """One more pipe of a living process leads here."""
        self._is_due = False
        self._held += 1

    def let_go(self) -> None:
        """One pipe fewer; with the last of them nothing that was printed is anywhere but here."""
        self._held -= 1
        self._flush()
        self._unmark()

    def _unmark(self) -> None:
        """Once nothing could be lost unseen: the next daemon, if we are killed, has nothing to tell."""
        if not (self._is_due or self._held or self._was_alive or self._gap):
            with suppress(OSError):
                os.unlink(self._mark)

    def stream(self, name: StreamName) -> LogStream:
        """A new stream: one for each pipe of each incarnation."""
        return LogStream(self, name)

    def tail(self, stream: StreamName = "stderr", lines: int = 20) -> list[str]:
        """The last lines of a stream, from at most 4 KiB that are kept in memory."""
        self._flush()
        kept = self._tails.get(stream, b"")
        first = kept.find(b"\n") + 1 if len(kept) == self._sizes.tail_bytes else 0
        shown = kept[first:].removesuffix(b"\n").split(b"\n")[-lines:] if kept else []
        return [line.decode("utf-8", "replace") for line in shown]

    @property
    def is_to_be_checked(self) -> bool:
        """Whether `check` may have something to do; else it has until something is written or lost."""
        return bool(self._unsure.size_bytes or self._gap or (self._was_alive and not self._opened))

    def check(self) -> None:
        """Find a file that was moved or deleted, and tell of a gap once writing works again."""
        if self._unsure.size_bytes:  # else the next write looks, and nothing can be lost until then
            self._verify()
        if self._was_alive and not self._opened:
            self._open()  # tells itself that a gap is possible
        if self._gap is not None:
            self._put(b"", 0, 0)

    def replace(self, inode: int, by: int) -> None:
        """One of the files was compressed."""
        self.files = tuple(
            File(by, file.first_line) if file.inode == inode else file for file in self.files
        )

    def close(self) -> None:
        """Close the file. The streams are to be closed before; a later write opens it again."""
        self._flush()
        if self._gap is not None:
            self._put(b"", 0, 0)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def release(self) -> None:
        """Close the file for good."""
        self.close()
        self._released = True
        self._is_due = False
        self._unmark()

    # For the streams:

    def will_flush(self, stream: LogStream) -> bool:
        """Whether the stream's lines will be asked for: not where no loop runs."""
        if not self._to_flush:
            try:
                asyncio.get_running_loop().call_soon(self._flush)
            except RuntimeError:
                return False
        self._to_flush |= {stream}
        return True

    def _flush(self) -> None:
        streams, self._to_flush = self._to_flush, NO_STREAMS
        for stream in streams:
            stream.flush()

    def remember(self, stream: StreamName, chunk: bytes) -> None:
        """Keep the end of what a stream printed, for `tail`."""
        if len(chunk) < self._sizes.tail_bytes:
            chunk = self._tails.get(stream, b"") + chunk
        self._tails = {**self._tails, stream: chunk[-self._sizes.tail_bytes :]}

    def append(
        self,
        data: bytes | memoryview,
        stream: bytes,
        kind: bytes,
        *,
        part: bool = False,
        incarnation: int = 0,
    ) -> bool:
        """Write whole lines, or one part of a line; say whether all of it is in the file."""
        is_first = incarnation > self._printed
        stamp = self._shelf.stamp(FIRST[kind] if is_first else kind)
        prefix = b"%s %s %s " % (stamp, stream, b"P" if part else b"F")
        before = self.lines
        if part:
            body = b"%s%s\n" % (prefix, data)
            is_whole = self._put(body, 0, len(body))
            if is_whole:
                self._unended |= {stream}
        else:
            most = max(2, (self._sizes.body_bytes - len(data)) // PREFIX_BYTES)
            # Its last newline gets a prefix, too, which is not written: cheaper than to copy all but that newline.
            body = b"".join((prefix, data)).replace(b"\n", b"\n" + prefix, most)
            count = (len(body) - len(data)) // PREFIX_BYTES - 1
            if count == most:
                del body
                return self._append_halves(bytes(data), stream, kind, incarnation)
            is_whole = self._put(body, count, len(body) - PREFIX_BYTES)
            if self._unended and kind == CAPTURED:
                self._end_line(stream)
        if is_first and (is_whole or self.lines > before):
            self._printed = incarnation
        return is_whole

    def _append_halves(self, data: bytes, stream: bytes, kind: bytes, incarnation: int) -> bool:
        """Lines so short that they are much longer with their prefixes: not all of them at once."""
        middle = data.rfind(b"\n", 0, len(data) // 2) + 1 or data.find(b"\n") + 1
        first = self.append(data[:middle], stream, kind, incarnation=incarnation)
        return self.append(data[middle:], stream, kind, incarnation=incarnation) and first

    def append_json(self, shown: Mapping[str, object], kind: bytes) -> None:
        """Write one line of corral's own shape, behind those that came before it."""
        self._flush()
        text = json_line(shown)
        number = self.incarnation
        # Shippers join the parts of each stream, and know nothing of kinds: not into the middle of a line.
        stream = b"stdout" if self._unended == {b"stderr"} else b"stderr"
        while len(text) > self.part_bytes:
            part = text[: self.part_bytes]
            if not self.append(part, stream, kind, part=True, incarnation=number):
                self.lose(1, len(text) - len(part) + 1)
                return
            text = text[self.part_bytes :]
        self.append(text + b"\n", stream, kind, incarnation=number)
        self._end_line(stream)

    def _end_line(self, stream: bytes) -> None:
        self._unended = self._unended - {stream} or NO_NAMES

    def lose(self, lines: int, size_bytes: int, reason: str | None = None) -> None:
        """Count what will not be in the file."""
        self.lost_lines += lines
        self.lost_bytes += size_bytes
        gap = self._gap = self._gap or _Gap()
        gap.lines += lines
        gap.size_bytes += size_bytes
        if reason and reason not in gap.reasons and len(gap.reasons) < 4:
            gap.reasons.append(reason)
        self._shelf.note_loss(self)

    def _put(self, body: bytes, lines: int, size_bytes: int) -> bool:
        """Append a body of whole lines, its first `size_bytes`, of which `lines` end with it (a part ends none)."""
        if abs(self._shelf.clock() - self._verified_ns) >= VERIFY_NS:
            self._verify()
        self._refusal = None
        note = b""
        kept = 0
        if not self._released and (self._fd >= 0 or self._open()):
            note = self._gap_note()
            kept = self._write(note + body if note else body, len(note) + size_bytes)
        if note and kept >= len(note):
            self._gap = None
            self._unmark()
            self._shelf.note_loss(self)
            self.lines += 1
            self._end_line(self._note_stream)
        kept_body = max(kept - len(note), 0)
        lost = 0
        if kept_body < size_bytes:
            lost = body.count(b"\n", kept_body) if lines else 0
            prefixes = PREFIX_BYTES * lost if lines else PREFIX_BYTES + 1
            self.lose(lost, size_bytes - kept_body - prefixes, self._refusal)
        elif self._refusal and self._gap:
            self.lose(0, 0, self._refusal)
        self.lines += lines - lost
        if kept_body:
            prefixes = PREFIX_BYTES * (lines - lost) if lines else PREFIX_BYTES + 1
            if not self._unsure.size_bytes:
                self._unsure = _Gap()
                self._shelf.attend(self)
            self._unsure.lines += lines - lost
            self._unsure.size_bytes += kept_body - prefixes
        if kept:
            self._shelf.wake(self)
        return kept_body == size_bytes

    def _gap_note(self) -> bytes:
        gap = self._gap
        if gap is None:
            return b""
        counts = f"{gap.lines} lines, {gap.size_bytes} bytes lost"
        text = f"corral: {counts}: {'; '.join(gap.reasons) or 'unknown'}"
        facts = {"level": "warning", "text": text, "lost_lines": gap.lines}
        note = json_line({**facts, "lost_bytes": gap.size_bytes})
        return b"%s %s F %s\n" % (self._shelf.stamp(OWN), self._note_stream, note)

    @property
    def _note_stream(self) -> bytes:
        """Where a line is left unended, that stream: for shippers this ends it."""
        return min(self._unended, default=b"stderr")

    def _write(self, body: bytes, size_bytes: int) -> int:
        """Append the first `size_bytes` and rotate; return how many, always whole lines, are in the files."""
        view = memoryview(body)
        kept = done = 0
        try:
            while kept < size_bytes:
                end = size_bytes
                room = self.max_file_bytes - self._size
                if self._unended:  # a line is to be in one file, within reason
                    room += min(self.max_file_bytes, OVERSHOOT_BYTES)
                if end - kept > room:
                    end = body.rfind(b"\n", kept, kept + max(room, 0)) + 1
                    if not end and self._size:
                        self._rotate(body.count(b"\n", 0, kept))
                        continue
                    end = end or body.index(b"\n", kept) + 1
                while done < end:
                    done += os.write(self._fd, view[done:end])
                self._size += end - kept
                kept = end
        except OSError as error:
            self._refused(error)
            whole = body.rfind(b"\n", 0, done) + 1
            if done > whole:  # a torn line must not stay: the next one would be glued to it
                try:
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - (done - whole))
                except OSError:  # whoever opens it again tries that again
                    os.close(self._fd)
                    self._fd = -1
            self._size += whole - kept
            kept = whole
        return kept

    def _refused(self, error: OSError) -> None:
        self._refusal = (error.strerror or type(error).__name__).lower()
        if self._gap is None:
            logger.warning("cannot write the log of %s: %s", self.worker, error)

    def _open(self, ahead: int = 0) -> bool:
        """Open the present file and append to it; say whether that worked.

        `ahead` lines are in the file before it, and not counted yet.
        """
        fd = -1
        try:
            for folder in (self._directory.parent, self._directory):  # what is above is not ours
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A FIFO with our name would hold up whoever opens or writes it.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(self._path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            torn_bytes, prefix = last_line(fd, status.st_size)
            if torn_bytes:
                os.ftruncate(fd, status.st_size - torn_bytes)
            elif status.st_size and not prefix:
                os.write(
                    fd, b"\n"
                )  # not ours, or blocks that a power cut left empty: our line is not to be glued to it
                status = os.fstat(fd)
        except OSError as error:
            self._refused(error)
            if fd >= 0:
                os.close(fd)
            return False
        self._fd = fd
        self._size = status.st_size - torn_bytes
        self._verified_ns = self._shelf.clock()
        self._unsure = NOT_UNSURE
        known = [file for file in self.files if file.inode == status.st_ino]
        # The number of a deleted file may be that of a new one.
        first_line = known[0].first_line if known and self._size else self.lines + ahead
        others = (file for file in self.files if file.inode != status.st_ino)
        self.files = (*others, File(status.st_ino, first_line))[-self.max_files :]
        if not self._opened:
            self._opened = True
            self._note_earlier(torn_bytes, prefix)
        return True

    def _note_earlier(self, torn_bytes: int, prefix: bytes) -> None:
        """What an earlier daemon left undone."""
        with suppress(OSError):
            for path in superfluous(self._directory, self.worker):
                path.unlink()
        is_told = prefix[28:29] == OWN and not torn_bytes
        in_part = prefix[38:40] == b"P "
        if in_part:
            self._unended |= {prefix[31:37]}
        if torn_bytes or in_part or (self._was_alive and not is_told):
            reason = "the daemon ended while this worker lived, lines may be missing here"
            self.lose(1 if torn_bytes else 0, torn_bytes, reason)
        self._was_alive = False
        self._unmark()

    def _verify(self) -> None:
        """Let go of a file that is no longer in its place; the next write opens a new one."""
        self._verified_ns = self._shelf.clock()
        if self._fd < 0:
            return
        here = os.fstat(self._fd)
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        if there is not None and (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev):
            if here.st_size < self._size and self._unsure.size_bytes:
                # When that was is not known: at worst, all since it was last seen is gone.
                reason = "the file was truncated, at most this was lost"
                self.lose(self._unsure.lines, self._unsure.size_bytes, reason)
            self._size = here.st_size
            self._unsure = NOT_UNSURE
            return
        if not here.st_nlink and self._unsure.size_bytes:
            reason = "the file was deleted, at most this was lost"
            self.lose(self._unsure.lines, self._unsure.size_bytes, reason)
        os.close(self._fd)
        self._fd = -1

    def _rotate(self, ahead: int) -> None:
        self._verify()
        if self._fd >= 0:
            self._shift()
            os.close(self._fd)
            self._fd = -1
        if not self._open(ahead):
            raise OSError(0, self._refusal)
        self._shelf.rotated(self)

    def _shift(self) -> None:
        """Every file becomes older by one, up to the first number that is free: that of one that a kill left out."""
        found = names(self._directory, self.worker)
        numbers = {name.number for name in found}
        free = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        for name in found:  # the oldest first, so that a kill loses and repeats nothing
            number = name.number + 1 if name.number < free else name.number
            if number >= self.max_files:
                name.path.unlink(missing_ok=True)
            elif number != name.number:
                target = Path(f"{self._path}.{number}{bgzf.SUFFIX if name.is_packed else ''}")
                try:
                    name.path.rename(target)
                except IsADirectoryError:  # somebody's
                    target.rename(f"{target}-aside-{target.lstat().st_ino}")
                    name.path.rename(target)
