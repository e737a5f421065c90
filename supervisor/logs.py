"""What workers print, kept whole and in order in files that log shippers read as they are.

A worker's files are DIRECTORY/AGENT/WORKER.log and, rotated by size at the end of a line, WORKER.log.1 and on. Because
the prefix is the same for all lines of a chunk, capture costs one `bytes.replace` per chunk and no work per line; the
text is the worker's bytes, untouched. The format and its reading are the business of `logfile`.

Nothing here waits: not for a reader, and not for a disk that refuses. What is lost is counted, and a line says so as
soon as writing works again. A reader is a position in the files: it costs no memory however slow it is, and is
skipped ahead, with a count, only when its file was rotated away. Everything is on the loop's thread.
"""

import asyncio
import heapq
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from .logfile import (
    CAPTURED,
    LINE_LIMIT_BYTES,
    NOTIFIED,
    OWN,
    PREFIX_BYTES,
    Cursor,
    File,
    Record,
    Wanted,
    at_of,
    block_size,
    chain,
    json_line,
    merged,
    rfc3339_seconds,
    text_fields,
    torn_end,
    workers,
)

StreamName: TypeAlias = Literal["stdout", "stderr", "log"]

READ_BYTES = 64 * 1024  # the size of a pipe
DRAIN_READS = 64  # what is read at most after the time of a drain is over
TAIL_BYTES = 4 * 1024
VERIFY_NS = 1_000_000_000

logger = logging.getLogger(__name__)


class LogStream:
    """One stream of one incarnation: bytes in, whole lines out to the writer's file."""

    def __init__(self, writer: "LogWriter", name: StreamName) -> None:
        self._writer = writer
        self.name: StreamName = name
        self._tag = b"stdout" if name == "stdout" else b"stderr"  # CRI knows no third
        self._rest = b""  # the beginning of a line, at most LINE_LIMIT_BYTES
        self._cut = False  # a part of the present line was lost: so is what follows of it
        self._closed = False

    def write(self, chunk: bytes) -> None:
        """Take bytes as they were printed. Never raises for the disk; after `close` it does nothing."""
        if self._closed or not chunk:
            return
        self._writer.remember(self.name, chunk)
        self._rest = self._lines(self._rest + chunk if self._rest else chunk)

    def line(
        self, text: bytes, level: str | None = None, fields: Mapping[str, object] | None = None
    ) -> None:
        """Take one line: without `level` as if it had been printed, with it as a `log` notification."""
        if level is None:
            self.write(text + b"\n")
        elif not self._closed:
            self._writer.remember(self.name, text + b"\n")
            shown = {"level": level, **text_fields(text), **({"fields": fields} if fields else {})}
            self._writer.append_json(shown, NOTIFIED)

    def close(self) -> None:
        """Keep a last line that has no newline, then take no more."""
        if self._closed:
            return
        if self._cut:
            self._writer.lose(1, 0)
        elif self._rest:
            self._writer.append(self._rest + b"\n", self._tag, CAPTURED)
        self._rest = b""
        self._closed = True

    def _lines(self, data: bytes) -> bytes:
        """Write all that can be written; return the beginning of a line that is left."""
        start = position = 0
        while True:
            if self._cut:
                end = data.find(b"\n", position) + 1
                self._writer.lose(1 if end else 0, (end or len(data)) - position)
                if not end:
                    return b""
                self._cut = False
                start = position = end
            # The last newline that a line of legal length can reach: no work per line.
            newline = data.rfind(b"\n", position, position + LINE_LIMIT_BYTES + 1)
            if newline >= 0:
                position = newline + 1
                continue
            if len(data) - position <= LINE_LIMIT_BYTES:
                break
            if position > start:
                self._writer.append(data[start:position], self._tag, CAPTURED)
            start = position + LINE_LIMIT_BYTES
            part = data[position:start]
            self._cut = not self._writer.append(part, self._tag, CAPTURED, part=True)
            position = start
        if position > start:
            self._writer.append(data[start:position], self._tag, CAPTURED)
        return data[position:]


@dataclass(slots=True)
class _Gap:
    """What was lost since the last line that is in the file."""

    lines: int = 0
    size_bytes: int = 0
    reasons: list[str] = field(default_factory=lambda: [])


class LogWriter:
    """The files of one worker, through all its incarnations."""

    def __init__(
        self, store: "LogStore", agent: str, worker: str, max_file_bytes: int, max_files: int
    ) -> None:
        self.agent = agent
        self.worker = worker
        self.max_file_bytes = max_file_bytes
        self.max_files = max_files
        self.lost_lines = 0
        self.lost_bytes = 0
        self.lines = 0
        """Lines written since this writer exists."""
        self.files: list[File] = []
        """The files that this writer wrote to and that should exist, oldest first."""
        self._store = store
        self._directory = store.directory / agent
        self._path = self._directory / f"{worker}.log"
        self._fd = -1
        self._size = 0
        self._verified_ns = 0
        self._unsure = _Gap()  # written since the file was last seen in its place
        self._gap: _Gap | None = None
        self._opened = False
        self._refusal: str | None = None  # of the present write
        self._tails: dict[str, bytes] = {}

    @property
    def trouble(self) -> str | None:
        """Why lines are being lost at present, None if all is well."""
        return "; ".join(self._gap.reasons) if self._gap else None

    def stream(self, name: StreamName) -> LogStream:
        """A new stream: one for each pipe of each incarnation."""
        return LogStream(self, name)

    def tail(self, stream: StreamName = "stderr", lines: int = 20) -> list[str]:
        """The last lines of a stream, from at most 4 KiB that are kept in memory."""
        kept = self._tails.get(stream, b"")
        first = kept.find(b"\n") + 1 if len(kept) == TAIL_BYTES else 0
        shown = kept[first:].removesuffix(b"\n").split(b"\n")[-lines:] if kept else []
        return [line.decode("utf-8", "replace") for line in shown]

    def check(self) -> None:
        """Find a file that was moved or deleted, and tell of a gap once writing works again."""
        self._verify()
        if self._gap is not None:
            self._put(b"", 0)

    def close(self) -> None:
        """Close the file. The streams are to be closed before; a later write opens it again."""
        if self._gap is not None:
            self._put(b"", 0)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # For the streams:

    def remember(self, stream: StreamName, chunk: bytes) -> None:
        """Keep the end of what a stream printed, for `tail`."""
        if len(chunk) < TAIL_BYTES:
            chunk = self._tails.get(stream, b"") + chunk
        self._tails[stream] = chunk[-TAIL_BYTES:]

    def append(self, data: bytes, stream: bytes, kind: bytes, *, part: bool = False) -> bool:
        """Write whole lines, or one part of a line; say whether all of it is in the file."""
        prefix = b"%s %s %s " % (self._store.stamp(kind), stream, b"P" if part else b"F")
        if part:
            return self._put(prefix + data + b"\n", 0)
        body = b"".join((prefix, data[:-1].replace(b"\n", b"\n" + prefix), b"\n"))
        return self._put(body, (len(body) - len(data)) // PREFIX_BYTES)

    def append_json(self, shown: Mapping[str, object], kind: bytes) -> None:
        """Write one line of corral's own shape."""
        text = json_line(shown)
        while len(text) > LINE_LIMIT_BYTES:
            if not self.append(text[:LINE_LIMIT_BYTES], b"stderr", kind, part=True):
                self.lose(1, len(text) - LINE_LIMIT_BYTES + 1)
                return
            text = text[LINE_LIMIT_BYTES:]
        self.append(text + b"\n", b"stderr", kind)

    def lose(self, lines: int, size_bytes: int, reason: str | None = None) -> None:
        """Count what will not be in the file."""
        self.lost_lines += lines
        self.lost_bytes += size_bytes
        gap = self._gap = self._gap or _Gap()
        gap.lines += lines
        gap.size_bytes += size_bytes
        if reason and reason not in gap.reasons and len(gap.reasons) < 4:
            gap.reasons.append(reason)

    def _put(self, body: bytes, lines: int) -> bool:
        """Append a body of whole lines, of which `lines` end with it (a part ends none)."""
        if abs(self._store.clock() - self._verified_ns) >= VERIFY_NS:
            self._verify()
        self._refusal = None
        note = b""
        kept = 0
        if self._fd >= 0 or self._open():
            note = self._gap_note()
            kept = self._write(note + body if note else body)
        if note and kept >= len(note):
            self._gap = None
            self.lines += 1
        kept_body = max(kept - len(note), 0)
        lost = 0
        if kept_body < len(body):
            lost = body.count(b"\n", kept_body) if lines else 0
            prefixes = PREFIX_BYTES * lost if lines else PREFIX_BYTES + 1
            self.lose(lost, len(body) - kept_body - prefixes, self._refusal)
        elif self._refusal and self._gap:
            self.lose(0, 0, self._refusal)
        self.lines += lines - lost
        if kept_body:
            prefixes = PREFIX_BYTES * (lines - lost) if lines else PREFIX_BYTES + 1
            self._unsure.lines += lines - lost
            self._unsure.size_bytes += kept_body - prefixes
        if kept:
            self._store.wake(self)
        return kept_body == len(body)

    def _gap_note(self) -> bytes:
        gap = self._gap
        if gap is None:
            return b""
        counts = f"{gap.lines} lines, {gap.size_bytes} bytes lost"
        text = f"corral: {counts}: {'; '.join(gap.reasons) or 'unknown'}"
        facts = {"level": "warning", "text": text, "lost_lines": gap.lines}
        note = json_line({**facts, "lost_bytes": gap.size_bytes})
        return b"%s stderr F %s\n" % (self._store.stamp(OWN), note)

    def _write(self, body: bytes) -> int:
        """Append and rotate; return how many bytes, always whole lines, are in the files."""
        view = memoryview(body)
        kept = done = 0
        try:
            while kept < len(body):
                end = len(body)
                room = self.max_file_bytes - self._size
                if end - kept > room:
                    end = body.rfind(b"\n", kept, kept + max(room, 0)) + 1
                    if not end and self._size:
                        self._rotate()
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
                with suppress(OSError):
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - (done - whole))
            self._size += whole - kept
            kept = whole
        return kept

    def _refused(self, error: OSError) -> None:
        self._refusal = (error.strerror or type(error).__name__).lower()
        if self._gap is None:
            logger.warning("cannot write the log of %s: %s", self.worker, error)

    def _open(self) -> bool:
        """Open the present file and append to it; say whether that worked."""
        fd = -1
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._path, flags, 0o600)
            status = os.fstat(fd)
            torn_bytes, in_part = torn_end(fd, status.st_size)
            if torn_bytes:
                os.ftruncate(fd, status.st_size - torn_bytes)
        except OSError as error:
            self._refused(error)
            if fd >= 0:
                os.close(fd)
            return False
        self._fd = fd
        self._size = status.st_size - torn_bytes
        self._verified_ns = self._store.clock()
        self._unsure = _Gap()
        # The number of a deleted file may be that of a new one.
        self.files = [file for file in self.files if file.inode != status.st_ino]
        self.files.append(File(status.st_ino, self.lines))
        del self.files[: -self.max_files]
        if not self._opened and self._size and (torn_bytes or in_part or self._store.unclean):
            reason = "the daemon ended without closing this file, lines may be missing here"
            self.lose(1 if torn_bytes else 0, torn_bytes, reason)
        self._opened = True
        return True

    def _verify(self) -> None:
        """Let go of a file that is no longer in its place; the next write opens a new one."""
        self._verified_ns = self._store.clock()
        if self._fd < 0:
            return
        here = os.fstat(self._fd)
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        if there is not None and (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev):
            self._size = here.st_size
            self._unsure = _Gap()
            return
        if not here.st_nlink and self._unsure.size_bytes:
            # When it was deleted is not known: at worst, right after it was last seen.
            self.lose(self._unsure.lines, self._unsure.size_bytes, "the file was deleted")
        os.close(self._fd)
        self._fd = -1

    def _rotate(self) -> None:
        self._verify()
        if self._fd >= 0:
            for path in chain(self._directory, self.worker):
                number = int(path.name.rpartition(".log.")[2] or 0) if path != self._path else 0
                if number + 1 >= self.max_files:
                    path.unlink(missing_ok=True)
                else:
                    path.rename(f"{self._path}.{number + 1}")
            os.close(self._fd)
            self._fd = -1
        if not self._open():
            raise OSError(0, self._refusal)


class Capture:
    """Reads one pipe of a worker into a stream, as fast as it comes, until its end."""

    def __init__(self, fd: int, stream: LogStream) -> None:
        """Own the descriptor from now on; needs the running loop."""
        self._fd = fd
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    @property
    def closed(self) -> bool:
        """True once the pipe has ended, or was given up."""
        return self._ended.is_set()

    async def drain(self, timeout_s: float) -> bool:
        """After the exit of the worker: read to the end, for `timeout_s` at most, and close.

        False if somebody else still held the pipe open; what he writes from now on is lost to him (EPIPE).
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            pass
        ended = self.closed
        self.close()
        return ended

    def close(self) -> None:
        """Read what is there, bounded, then close the pipe and the stream."""
        for _ in range(DRAIN_READS):
            if self.closed or not self._read():
                break
        self._end()

    def _read(self) -> bool:
        """One read per wake-up: the pipe holds no more, and a flood must not starve the others."""
        try:
            chunk = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the other side of a terminal is gone
            chunk = b""
        if chunk:
            self._stream.write(chunk)
        else:
            self._end()
        return bool(chunk)

    def _end(self) -> None:
        if not self.closed:
            self._ended.set()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._stream.close()


class LogStore:
    """The folder of all logs: writers for the living, reading for everybody."""

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], int] = time.time_ns,
        *,
        unclean: bool = False,
    ) -> None:
        """`clock` gives wall time in ns; `unclean`: the last daemon was killed, so logs may have a gap."""
        self.directory = directory
        self.clock = clock
        self.unclean = unclean
        self._writers: dict[tuple[str, str], LogWriter] = {}
        self._followers: set[_Follower] = set()
        self._second = (-1, "")

    def writer(self, agent: str, worker: str, *, max_file_bytes: int, max_files: int) -> LogWriter:
        """The writer of a worker, the same one for all its incarnations; new limits take effect.

        `max_files` counts the present file too.
        """
        writer = self._writers.get((agent, worker))
        if writer is None:
            writer = LogWriter(self, agent, worker, max_file_bytes, max_files)
            self._writers[agent, worker] = writer
        writer.max_file_bytes = max_file_bytes
        writer.max_files = max_files
        return writer

    def release(self, agent: str, worker: str) -> None:
        """Close the writer of a worker that is no more. Its files stay."""
        writer = self._writers.pop((agent, worker), None)
        if writer is not None:
            writer.close()

    def check(self) -> None:
        """About once a second: find moved and deleted files, and end gaps of silent workers."""
        for writer in self._writers.values():
            writer.check()

    def close(self) -> None:
        """Close all files."""
        for key in list(self._writers):
            self.release(*key)

    async def read(
        self,
        names: Collection[str] = (),
        *,
        n: int | None = None,
        since: float | None = None,
        until: float | None = None,
        stream: str | None = None,
    ) -> list[Record]:
        """The records of `history` in one list: give `n`, or know that it is not too long."""
        batches = self.history(names, n=n, since=since, until=until, stream=stream)
        return [record async for batch in batches for record in batch]

    async def history(
        self,
        names: Collection[str] = (),
        *,
        n: int | None = None,
        since: float | None = None,
        until: float | None = None,
        stream: str | None = None,
    ) -> AsyncGenerator[list[Record], None]:
        """What is in the files now, merged by time, in batches; the last `n` records if given.

        `names` are agents or workers, running or not; none means all. `since` and `until` are unix
        seconds. `stream` is stdout, stderr or log; records of the stream `corral`, which tell of lost
        lines, always pass. The last `n` cost no more in a long log than in a short one.
        """
        wanted = Wanted(frozenset(names), since, until, stream)
        cursors = await self._cursors(wanted, n)
        async for batch in merged(cursors, wanted, n):
            yield batch

    async def follow(
        self,
        names: Collection[str] = (),
        *,
        n: int | None = 10,
        since: float | None = None,
        stream: str | None = None,
    ) -> AsyncGenerator[list[Record], None]:
        """`history`, then all that is written from then on, without gap or repeat, without end.

        Workers that appear later are followed too. Who takes the batches so slowly that a file is
        rotated away before it was read gets a record of the stream `corral` with `skipped_lines`.
        Close it with `contextlib.aclosing`.
        """
        wanted = Wanted(frozenset(names), since, None, stream)
        follower = _Follower(wanted)
        self._followers.add(follower)
        try:
            cursors = await self._cursors(wanted, n)
            async for batch in merged(cursors, wanted, n):
                yield batch
            by_worker = {(cursor.agent, cursor.worker): cursor for cursor in cursors}
            for cursor in cursors:
                cursor.until = None
            behind: set[tuple[str, str]] = set(by_worker)
            while True:
                behind |= await follower.changed(wait=not behind)
                block_bytes = block_size(len(behind))
                fresh: list[list[Record]] = []
                for key in sorted(behind):
                    if key not in by_worker:  # no file when this began: start before its first
                        by_worker[key] = Cursor(self.directory, self.find_writer, *key)
                    records = by_worker[key].pull(block_bytes)
                    if not records:
                        behind.discard(key)
                    fresh.append([record for record in records if wanted.passes(record)])
                batch = list(heapq.merge(*fresh, key=at_of))
                if batch:
                    yield batch
                await asyncio.sleep(0)
        finally:
            self._followers.discard(follower)

    # For the writers and cursors:

    def stamp(self, kind: bytes) -> bytes:
        """The time of now, 30 bytes, with the kind as its last digit."""
        seconds, nanoseconds = divmod(self.clock(), 1_000_000_000)
        if seconds != self._second[0]:
            self._second = (seconds, rfc3339_seconds(seconds))
        return b"%s.%08d%sZ" % (self._second[1].encode(), nanoseconds // 10, kind)

    def wake(self, writer: LogWriter) -> None:
        """Tell the followers that there is something new."""
        for follower in self._followers:
            follower.touch(writer.agent, writer.worker)

    def find_writer(self, agent: str, worker: str) -> LogWriter | None:
        """The writer of a worker, if it has one at present."""
        return self._writers.get((agent, worker))

    async def _cursors(self, wanted: "Wanted", n: int | None) -> list["Cursor"]:
        """A cursor at the right place of every worker that has files."""
        cursors: list[Cursor] = []
        for agent, worker, files in workers(self.directory, wanted.names):
            cursor = Cursor(self.directory, self.find_writer, agent, worker)
            cursor.rewind(files, wanted, n)
            cursors.append(cursor)
            await asyncio.sleep(0)
        return cursors


class _Follower:
    """Which of the workers that somebody follows have written since he last looked."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._changed: set[tuple[str, str]] = set()
        self._ready = asyncio.Event()

    def touch(self, agent: str, worker: str) -> None:
        if not self._wanted.names or not self._wanted.names.isdisjoint((agent, worker)):
            self._changed.add((agent, worker))
            self._ready.set()

    async def changed(self, *, wait: bool) -> set[tuple[str, str]]:
        if wait:
            await self._ready.wait()
        changed, self._changed = self._changed, set()
        self._ready.clear()
        return changed
