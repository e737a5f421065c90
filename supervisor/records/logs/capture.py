"""Captures the output of one worker: bytes in as they were printed, whole lines with a prefix out to its files.

Because the prefix is the same for all lines of a chunk, capture costs one `bytes.replace` per chunk and no work per line;
the text is the worker's bytes, untouched. A line that is longer than a part is written in parts, and so is one that its worker
has left unfinished for UNFINISHED_S, such as a prompt; one of which a part is lost is lost to its end, and counted.

Nothing here waits: not for a reader, and not for a disk that refuses. Lost lines are counted, and a line reports them as soon
as writing works again. Memory is bounded by `max_buffer_bytes` a worker. Everything is on the loop's thread. How files are
named, rotated and repaired is the business of `rotating_file`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct

from .file_format import (
    CAPTURED,
    FIRST,
    NOTIFIED,
    OWN,
    PREFIX_BYTES,
    File,
    Gap,
    json_line,
    messages_of,
    rfc3339_seconds,
)
from .rotating_file import LogLimits, RotatingFile, is_marked_alive, mark_alive, sizes_of, unmark_alive

StreamName: TypeAlias = Literal["stdout", "stderr", "log"]
Fields: TypeAlias = Mapping[str, object] | None

VERIFY_NS = 1_000_000_000
"""Nanoseconds after which a write looks first whether the file is still in its place."""

UNFINISHED_S = 0.5
"""Seconds after which the beginning of a line is written: a prompt is seen within a second, and most lines stay in one piece."""

STEP_BACK_TICKS = 1_000_000
"""Number of ticks, of 10 ns: a clock that is set back by less stands still."""

REASONS_MAX = 4
"""Number of reasons that one line about lost lines names."""

logger = logging.getLogger(__name__)


class StreamHandover(Struct, frozen=True):
    """Holds what the next program goes on from: the beginning of a line, and whether a part of that line was lost."""

    rest: bytes = b""
    is_cut: bool = False


class LogHandover(Struct, frozen=True, kw_only=True):
    """Holds what the next program has to know of a worker's log beside its files; `lost` are lines and bytes."""

    incarnation: int
    printed: int
    lines: int
    lost: tuple[int, int]
    tails: Mapping[str, bytes]
    unended: tuple[bytes, ...]
    gap: tuple[int, int, tuple[str, ...]] | None


@dataclass(kw_only=True, eq=False)
class LogFolder:
    """Holds what the writers of one folder share: clock, time stamps, lost lines, and the writers to be checked."""

    directory: Path
    clock: Callable[[], int]
    """Returns wall time in ns."""
    unclean: bool
    """Whether the last daemon was killed, so that logs may have a gap."""
    on_written: Callable[[str, str], None]
    """Called with agent and worker after each write."""
    on_rotated: Callable[[str, str], None]
    """Called with agent and worker after each rotation."""
    read_pause_s: Callable[[str, int], float] = lambda _agent, _bytes: 0.0
    """Returns, for an agent and the bytes of a read, the seconds for which its pipes are not read."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """Numbers for new files, of all writers: none is given twice, so that readers move only forward."""
    losses: int = 0
    """Number of changes of what is lost, of all writers."""
    to_check: "set[LogWriter]" = field(default_factory=lambda: set())
    """Writers that `LogWriter.check` is due for, until there is no need (`LogWriter.is_to_be_checked`)."""
    _second: tuple[int, str] = (-1, "")
    _tick: int = 0

    def stamp(self, kind: bytes) -> bytes:
        """Returns the present time, 30 bytes, with the kind as its last digit.

        No two are the same: it is by them that readers know the files. A clock that is set back is followed.
        """
        tick = self.clock() // 10
        if 0 <= self._tick - tick < STEP_BACK_TICKS:
            tick = self._tick + 1
        self._tick = tick
        seconds, nanoseconds = divmod(tick * 10, 1_000_000_000)
        if seconds != self._second[0]:
            self._second = (seconds, rfc3339_seconds(seconds))
        return b"%s.%08d%sZ" % (self._second[1].encode(), nanoseconds // 10, kind)

    def note_loss(self, writer: "LogWriter") -> None:
        """Counts a change of what is lost."""
        self.losses += 1
        self.to_check.add(writer)


class LogStream:
    """Represents one stream of one incarnation: bytes in, whole lines out to the worker's file."""

    __slots__ = (
        *("_begun", "_closed", "_cut", "_gathered", "_gathered_bytes", "_incarnation"),
        *("_rest", "_rest_since", "_tag", "_tap", "_timer", "name", "writer"),
    )

    def __init__(self, writer: "LogWriter", name: StreamName, tap: Callable[[bytes], None] | None = None) -> None:
        """Creates an empty stream. `tap` is called with all bytes that are written, too."""
        self.writer = writer
        self.name: StreamName = name
        self._tag = b"stdout" if name == "stdout" else b"stderr"  # CRI knows no third
        self._incarnation = writer.incarnation
        self._tap = tap
        self._gathered: list[bytes] | None = None  # lines that came one by one, for one write
        self._gathered_bytes = 0
        self._rest = b""  # what is not written yet of a line, at most as long as one part
        self._rest_since = 0.0
        self._timer: asyncio.TimerHandle | None = None  # while there is a rest
        self._begun = False  # a part of the present line was written
        self._cut = False  # a part of the present line was lost: so is the rest of it
        self._closed = False

    def write(self, chunk: bytes) -> None:
        """Takes bytes as they were printed. Never raises for the disk; after `close` it does nothing."""
        if self._closed or not chunk:
            return
        if self._tap is not None:
            self._tap(chunk)
        self.writer.keep_tail(self.name, chunk)
        if self.writer.sizes.keeps:
            self._rest = self._write_lines(self._rest + chunk if self._rest else chunk)
            if self._rest:
                self._wait(is_new=len(self._rest) <= len(chunk))

    def _wait(self, *, is_new: bool) -> None:
        """Lets the rest be written in time; one timer at most, which a flood of lines neither stops nor renews."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if is_new:
            self._rest_since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(UNFINISHED_S, self._write_unfinished, loop)

    def _write_unfinished(self, loop: asyncio.AbstractEventLoop) -> None:
        """Writes the rest as parts of its line, if its first byte came long enough ago."""
        self._timer = None
        if not self._rest:
            return
        left_s = self._rest_since + UNFINISHED_S - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._write_unfinished, loop)
            return
        rest, self._rest = self._rest, b""
        most = self.writer.sizes.part_bytes // 2  # readers wait for what follows a part of full length
        while rest and not self._cut:
            self._append_part(rest[:most])
            rest = rest[most:]
        if rest:
            self.writer.lose(0, len(rest))

    def line(
        self,
        text: bytes,
        level: str | None = None,
        fields: Fields = None,
        *,
        task: str | None = None,
        ended: bool = True,
        cut_bytes: int = 0,
    ) -> None:
        """Takes one line: with `level` as a `log` notification, else as if it had been printed.

        Printed lines are written together, at the end of this turn of the loop. One may come in pieces, `ended` with
        the last one; `cut_bytes` of it were thrown away before.
        """
        if level is None:
            if self._gathered is None:
                self._gathered = []
            self._gathered.append(text + b"\n" if ended else text)
            self._gathered_bytes += len(text) + 1
            is_full = self._gathered_bytes > self.writer.sizes.read_bytes
            if is_full or cut_bytes or not self.writer.schedule_flush(self):
                self.flush()
            if cut_bytes and self.writer.sizes.keeps and not self._closed:
                self.writer.lose(1, cut_bytes, "a line that began like a message was too long")
        elif not self._closed:
            self.writer.keep_tail(self.name, text + b"\n")
            if self.writer.sizes.keeps:
                for shown in messages_of(text, level, fields, task):
                    self.writer.append_json(shown, NOTIFIED)

    def flush(self) -> None:
        """Writes the lines that came one by one."""
        if self._gathered:
            lines, self._gathered, self._gathered_bytes = self._gathered, None, 0
            self.write(b"".join(lines))

    def close(self) -> None:
        """Writes a last line that has no newline, then takes no more."""
        if self._closed:
            return
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._cut:
            self.writer.lose(1, 0)
        elif self._rest or self._begun:
            self._append_lines(self._rest + b"\n")
        self._rest = b""
        self._closed = True

    def hand_over(self) -> StreamHandover:
        """Returns what the next program goes on from; all that came one by one was flushed."""
        return StreamHandover(self._rest, self._cut)

    def take_up(self, left: StreamHandover) -> None:
        """Goes on from what the program before has left."""
        self._rest, self._cut = left.rest, left.is_cut

    def _write_lines(self, data: bytes) -> bytes:
        """Writes whole lines and whole parts; returns the beginning of a line that is left."""
        limit = self.writer.sizes.part_bytes
        view = memoryview(data)
        start = position = 0
        while True:
            if self._cut:
                end = data.find(b"\n", position) + 1
                self.writer.lose(1 if end else 0, (end or len(data)) - position)
                if not end:
                    return b""
                self._cut = self._begun = False
                start = position = end
            # The last newline that a line of legal length can reach: no work per line.
            newline = data.rfind(b"\n", position, position + limit + 1)
            if newline >= 0:
                position = newline + 1
                continue
            if len(data) - position <= limit:
                break
            if position > start:
                self._append_lines(view[start:position])
            start = position + limit
            self._append_part(view[position:start])
            position = start
        if position > start:
            self._append_lines(view[start:position])
        return data[position:]

    def _append_lines(self, data: bytes | memoryview) -> None:
        self._begun = False
        self.writer.append(data, self._tag, CAPTURED, self._incarnation)

    def _append_part(self, data: bytes | memoryview) -> None:
        self._begun = self.writer.append(data, self._tag, CAPTURED, self._incarnation, part=True)
        self._cut = not self._begun


NO_NAMES: frozenset[bytes] = frozenset()
"""One for all that have none: an empty set of its own costs each of thousands of writers 216 bytes."""

NO_STREAMS: frozenset[LogStream] = frozenset()
NO_TAILS: Mapping[str, bytes] = {}
NO_GAP = Gap()
"""Of a file that was seen in its place since it was written: never changed, but replaced."""


class LogWriter:
    """Writes the output of one worker, through all its incarnations, and accounts for each line that is lost."""

    # There may be thousands, most of which never write a line.
    __slots__ = (
        *("__weakref__", "_file", "_folder", "_gap", "_is_due", "_opened", "_pipes", "_printed", "_released"),
        *("_tails", "_to_flush", "_unended", "_unverified", "_verified_ns", "_was_alive"),
        *("agent", "incarnation", "lines", "lost_bytes", "lost_lines", "sizes", "users", "worker"),
    )

    def __init__(
        self, folder: LogFolder, agent: str, worker: str, limits: LogLimits, earlier: "LogWriter | None" = None
    ) -> None:
        """Creates a writer that opens nothing yet. `earlier` wrote these files before: its count of lines goes on for readers."""
        self.agent = agent
        self.worker = worker
        self.users = 0
        self.incarnation = 0
        """Number of incarnations that have begun since this writer exists."""
        self.lost_lines = 0
        self.lost_bytes = 0
        self.lines: int = earlier.lines if earlier else 0
        """Number of lines written since this writer exists, or since an earlier one did."""
        self.sizes = sizes_of(limits)
        self._folder = folder
        self._file: RotatingFile | None = None  # until the first write
        if earlier and earlier.files:
            self._file = self._new_file(earlier.files)
        self._is_due = False  # an incarnation has begun, and its first pipe is to come
        self._pipes = 0  # of the incarnations that live
        was_cut = folder.unclean and earlier is None
        self._was_alive = was_cut and is_marked_alive(folder.directory, worker)
        """Whether its pipes may have held lines when the last daemon was killed; until that is reported."""
        self._verified_ns = 0
        self._unverified = NO_GAP  # written since the file was last seen in its place
        self._gap: Gap | None = None
        self._opened = False
        self._released = False
        self._printed = 0  # the newest incarnation of which something is in the files
        self._to_flush = NO_STREAMS
        self._unended = NO_NAMES  # streams of which the last line in the files is a part
        self._tails = NO_TAILS
        if self._was_alive:
            folder.to_check.add(self)

    def hand_over(self) -> LogHandover:
        """Returns what the next program has to know beside the files, after it has written what came one by one."""
        self._flush()
        gap = self._gap
        return LogHandover(
            incarnation=self.incarnation,
            printed=self._printed,
            lines=self.lines,
            lost=(self.lost_lines, self.lost_bytes),
            tails=self._tails,
            unended=tuple(self._unended),
            gap=None if gap is None else (gap.lines, gap.size_bytes, tuple(gap.reasons)),
        )

    def take_up(self, left: LogHandover) -> None:
        """Goes on from what the program before has left, before anything is written."""
        self.incarnation, self._printed, self.lines = left.incarnation, left.printed, left.lines
        self.lost_lines, self.lost_bytes = left.lost
        self._tails = left.tails or NO_TAILS
        self._unended = frozenset(left.unended) or NO_NAMES
        self._was_alive = False  # nothing in its pipes was lost
        if left.gap is not None:
            lines, size_bytes, reasons = left.gap
            self._gap = Gap(lines, size_bytes, list(reasons))
            self._folder.note_loss(self)

    def _new_file(self, files: Sequence[File] = ()) -> RotatingFile:
        folder = self._folder
        return RotatingFile(folder.directory, self.agent, self.worker, folder.numbers, files)

    def read_pause_s(self, size_bytes: int) -> float:
        """Returns the seconds for which its pipes are not read, after a read of so many bytes."""
        return self._folder.read_pause_s(self.agent, size_bytes)

    def configure(self, limits: LogLimits) -> None:
        """Takes new limits."""
        self.sizes = sizes_of(limits)

    @property
    def files(self) -> Sequence[File]:
        """Returns the files that this writer wrote to and that should exist, oldest first."""
        return () if self._file is None else self._file.files

    @property
    def trouble(self) -> str | None:
        """Returns why lines are being lost at present, None if all is well."""
        return "; ".join(self._gap.reasons) or "unknown" if self._gap else None

    @property
    def is_fresh(self) -> bool:
        """Returns whether the present incarnation has printed nothing yet."""
        return self.incarnation > self._printed

    def begin(self) -> None:
        """Notes that a new incarnation starts now."""
        self.expect()
        self.note_life()

    def expect(self) -> None:
        """Notes that a new incarnation is to start: the first output of its streams is marked."""
        self._flush()
        self.incarnation += 1
        self._is_due = True

    def note_life(self) -> None:
        """Leaves a mark for the next daemon, should this one be killed, that the process lived."""
        if self.sizes.keeps:
            mark_alive(self._folder.directory, self.worker)

    def add_pipe(self) -> None:
        """Counts a pipe of a living process that leads here."""
        self._is_due = False
        self._pipes += 1

    def remove_pipe(self) -> None:
        """Forgets a pipe; after the last of them all that was printed is here."""
        self._pipes -= 1
        self._flush()
        self._unmark()

    def _unmark(self) -> None:
        """Removes the mark once nothing could be lost unseen."""
        if not (self._is_due or self._pipes or self._was_alive or self._gap):
            unmark_alive(self._folder.directory, self.worker)

    def stream(self, name: StreamName, tap: Callable[[bytes], None] | None = None) -> LogStream:
        """Returns a new stream: one for each pipe of each incarnation. `tap` is called with all its bytes."""
        return LogStream(self, name, tap)

    def tail(self, stream: StreamName = "stderr", lines: int = 20) -> list[str]:
        """Returns the last lines of a stream, from at most 4 KiB that are kept in memory."""
        self._flush()
        kept = self._tails.get(stream, b"")
        first = kept.find(b"\n") + 1 if len(kept) == self.sizes.tail_bytes else 0
        shown = kept[first:].removesuffix(b"\n").split(b"\n")[-lines:] if kept else []
        return [line.decode("utf-8", "replace") for line in shown]

    @property
    def is_to_be_checked(self) -> bool:
        """Returns whether `check` may have something to do; else it has until something is written or lost."""
        return bool(self._unverified.size_bytes or self._gap or (self._was_alive and not self._opened))

    def check(self) -> None:
        """Finds a file that was moved or deleted, and writes about a gap once writing works again."""
        # With no unverified byte, no line can be lost before the next write, which checks the file first.
        if self._unverified.size_bytes:
            self._verify()
        if self._was_alive and not self._opened:
            self._refusal(self._opened_file())  # which reports that a gap is possible
        if self._gap is not None:
            self._put(b"", 0, 0)

    def replace(self, inode: int, by: int) -> None:
        """Notes that one of the files was compressed: its copy has the inode number `by`."""
        if self._file is not None:
            self._file.replace(inode, by)

    def close(self) -> None:
        """Closes the file. The streams are to be closed before; a later write opens it again."""
        self._flush()
        if self._gap is not None:
            self._put(b"", 0, 0)
        if self._file is not None:
            self._file.close()

    def release(self) -> None:
        """Closes the file for good."""
        self.close()
        self._released = True
        self._is_due = False
        self._unmark()

    def schedule_flush(self, stream: LogStream) -> bool:
        """Schedules `stream.flush` for the end of this turn; returns False where no loop runs."""
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

    def keep_tail(self, stream: StreamName, chunk: bytes) -> None:
        """Keeps the end of a stream, for `tail`."""
        if len(chunk) < self.sizes.tail_bytes:
            chunk = self._tails.get(stream, b"") + chunk
        self._tails = {**self._tails, stream: chunk[-self.sizes.tail_bytes :]}

    def append(
        self, data: bytes | memoryview, stream: bytes, kind: bytes, incarnation: int, *, part: bool = False
    ) -> bool:
        """Writes whole lines, or one part of a line; returns whether all of it is in the file."""
        is_first = incarnation > self._printed
        stamp = self._folder.stamp(FIRST[kind] if is_first else kind)
        prefix = b"%s %s %s " % (stamp, stream, b"P" if part else b"F")
        before = self.lines
        if part:
            body = b"%s%s\n" % (prefix, data)
            is_whole = self._put(body, 0, len(body))
            if is_whole:
                self._unended |= {stream}
        else:
            most = max(2, (self.sizes.body_bytes - len(data)) // PREFIX_BYTES)
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
        """Writes lines so short that they are much longer with their prefixes: not all of them at once."""
        middle = data.rfind(b"\n", 0, len(data) // 2) + 1 or data.find(b"\n") + 1
        first = self.append(data[:middle], stream, kind, incarnation)
        return self.append(data[middle:], stream, kind, incarnation) and first

    def append_json(self, shown: Mapping[str, object], kind: bytes) -> None:
        """Writes one line of corral's own shape, after those that came before it."""
        self._flush()
        text = json_line(shown)
        number = self.incarnation
        part_bytes = self.sizes.part_bytes
        # Shippers join the parts of each stream, and know nothing of kinds: not into the middle of a line.
        stream = b"stdout" if self._unended == {b"stderr"} else b"stderr"
        while len(text) > part_bytes:
            part = text[:part_bytes]
            if not self.append(part, stream, kind, number, part=True):
                self.lose(1, len(text) - len(part) + 1)
                return
            text = text[part_bytes:]
        self.append(text + b"\n", stream, kind, number)
        self._end_line(stream)

    def _end_line(self, stream: bytes) -> None:
        self._unended = self._unended - {stream} or NO_NAMES

    def lose(self, lines: int, size_bytes: int, reason: str | None = None) -> None:
        """Counts lines and bytes that will not be in the file."""
        self.lost_lines += lines
        self.lost_bytes += size_bytes
        gap = self._gap = self._gap or Gap()
        gap.lines += lines
        gap.size_bytes += size_bytes
        if reason and reason not in gap.reasons and len(gap.reasons) < REASONS_MAX:
            gap.reasons.append(reason)
        self._folder.note_loss(self)

    def _put(self, body: bytes, lines: int, size_bytes: int) -> bool:
        """Appends the first `size_bytes` of a body, in which `lines` lines end (a part ends none)."""
        if abs(self._folder.clock() - self._verified_ns) >= VERIFY_NS:
            self._verify()
        note = b""
        kept = 0
        file = None if self._released else self._opened_file()
        if file is not None and file.fd >= 0:
            note = self._gap_note()
            whole = note + body if note else body
            size, is_unended = len(note) + size_bytes, bool(self._unended)
            kept = file.append(whole, size, self.lines, self.sizes.limits, is_unended=is_unended)
            del whole
        reason = None if file is None else self._refusal(file)
        if note and kept >= len(note):
            self._gap = None
            self._unmark()
            self._folder.note_loss(self)
            self.lines += 1
            self._end_line(self._note_stream)
        if file is not None and file.is_rotated:
            self._verified_ns = self._folder.clock()
            self._note_verified(file)
            self._folder.on_rotated(self.agent, self.worker)
        kept_body = max(kept - len(note), 0)
        lost = 0
        if kept_body < size_bytes:
            lost = body.count(b"\n", kept_body) if lines else 0
            prefixes = PREFIX_BYTES * lost if lines else PREFIX_BYTES + 1
            self.lose(lost, size_bytes - kept_body - prefixes, reason)
        elif reason and self._gap:
            self.lose(0, 0, reason)
        self.lines += lines - lost
        if kept_body:
            prefixes = PREFIX_BYTES * (lines - lost) if lines else PREFIX_BYTES + 1
            if not self._unverified.size_bytes:
                self._unverified = Gap()
                self._folder.to_check.add(self)
            self._unverified.lines += lines - lost
            self._unverified.size_bytes += kept_body - prefixes
        if kept:
            self._folder.on_written(self.agent, self.worker)
        return kept_body == size_bytes

    def _gap_note(self) -> bytes:
        """Returns the line that reports the gap, if there is one."""
        gap = self._gap
        if gap is None:
            return b""
        return b"%s %s F %s\n" % (self._folder.stamp(OWN), self._note_stream, gap.note())

    @property
    def _note_stream(self) -> bytes:
        """Returns the stream whose line is left unended, if any: for shippers a note ends it."""
        return min(self._unended, default=b"stderr")

    def _refusal(self, file: RotatingFile) -> str | None:
        """Returns why the disk refused the last call, if it did; logs it once a gap."""
        error = file.error
        if error is None:
            return None
        if self._gap is None:
            logger.warning("cannot write the log of %s: %s", self.worker, error)
        return (error.strerror or type(error).__name__).lower()

    def _opened_file(self) -> RotatingFile:
        """Returns the present file, open unless it has an error; the first time, reports what an earlier daemon left undone."""
        if self._file is None:
            self._file = self._new_file()
        file = self._file
        if file.fd >= 0:
            return file
        opened = file.open(self.lines, self.sizes.limits)
        if opened is None:
            return file
        self._verified_ns = self._folder.clock()
        self._unverified = NO_GAP
        if not self._opened:
            self._opened = True
            file.remove_duplicates()
            torn_bytes, prefix = opened
            is_reported = prefix[28:29] == OWN and not torn_bytes
            in_part = prefix[38:40] == b"P " and prefix[31:37] not in self._unended
            if in_part:
                self._unended |= {prefix[31:37]}
            if torn_bytes or in_part or (self._was_alive and not is_reported):
                reason = "the daemon ended while this worker was running, lines may be missing here"
                self.lose(1 if torn_bytes else 0, torn_bytes, reason)
            self._was_alive = False
            self._unmark()
        return file

    def _verify(self) -> None:
        """Verifies that the file is still in its place, and counts the lost lines if it is not."""
        self._verified_ns = self._folder.clock()
        if self._file is not None:
            self._file.verify()
            self._note_verified(self._file)

    def _note_verified(self, file: RotatingFile) -> None:
        lost, self._unverified = self._unverified, NO_GAP
        if file.damage and lost.size_bytes:
            self.lose(lost.lines, lost.size_bytes, file.damage)
