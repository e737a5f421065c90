"""The folder of all logs: writers for the living, reading for everybody, compression and an end for what is old.

How lines get into the files is the business of `capture`, how they are read that of `cursor`. A reader is a position
in the files: it costs no memory however slow it is, and is skipped ahead, with a count, only when its file was
rotated away. Everything but the compression is on the loop's thread.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from .capture import Capture, LogLimits, LogStream, LogWriter, StreamName
from .cursor import Cursor, block_size, in_batches, merged
from .logfile import Record, Wanted, at_of, known, rfc3339_seconds, workers
from .packing import PACK_AFTER_S, Packer

__all__ = ["Capture", "LogLimits", "LogStore", "LogStream", "LogWriter", "StreamName", "Wanted"]

logger = logging.getLogger(__name__)


class LogStore:
    """The folder of all logs."""

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], int] = time.time_ns,
        *,
        unclean: bool = False,
        pack_after_s: float = PACK_AFTER_S,
    ) -> None:
        """`clock` gives wall time in ns; `unclean`: the last daemon was killed, so logs may have a gap."""
        self.directory = directory
        self.clock = clock
        self.unclean = unclean
        self._writers: dict[tuple[str, str], LogWriter] = {}
        self._followers: set[_Follower] = set()
        self._packer = Packer(directory, pack_after_s)
        self._second = (-1, "")

    @property
    def packed(self) -> Mapping[int, int]:
        """Inodes of files that were compressed and are gone -> those of the compressed ones."""
        return self._packer.packed

    def writer(self, agent: str, worker: str, limits: LogLimits) -> LogWriter:
        """The writer of a worker, the same one for all its incarnations; for each call a `release` is due."""
        writer = self._writers.get((agent, worker))
        if writer is None:
            writer = self._writers[agent, worker] = LogWriter(self, agent, worker, limits)
        writer.users += 1
        writer.configure(limits)
        return writer

    def release(self, writer: LogWriter) -> None:
        """One who asked for the writer needs it no more; the last one closes it. Its files stay."""
        writer.users -= 1
        if writer.users <= 0 and self._writers.get((writer.agent, writer.worker)) is writer:
            del self._writers[writer.agent, writer.worker]
            writer.release()

    def check(self) -> None:
        """About once a second: find moved and deleted files, end gaps of silent workers, compress what is old."""
        for writer in self._writers.values():
            writer.check()
        self._packer.step(self._replace)

    async def expire(self, before_s: float) -> None:
        """Remove the logs of workers that are no more and of which nothing is younger than that unix time."""
        for agent, worker, files in workers(self.directory, frozenset()):
            if (agent, worker) not in self._writers:
                with suppress(OSError):
                    if all(file.path.lstat().st_mtime < before_s for file in files):
                        for file in files:
                            file.path.unlink(missing_ok=True)
                        (self.directory / agent).rmdir()  # the last of them; else that is refused
            await asyncio.sleep(0)

    def names(self) -> set[str]:
        """The agents and workers that have files."""
        return known(self.directory)

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        self._packer.close()

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
        wanted = Wanted(frozenset(names), since, until, stream)
        return [record async for batch in self.history(wanted, n) for record in batch]

    async def history(
        self, wanted: Wanted, n: int | None = None
    ) -> AsyncGenerator[list[Record], None]:
        """What is in the files now, merged by time, in batches; the last `n` records if given.

        Names are agents or workers, running or not; none means all. The last `n` cost no more in a long
        log than in a short one, unless they have to be looked for.

        Raises:
            ResourceLimitExceeded: the pattern takes too long.
        """
        cursors = await self._cursors(wanted, n)
        async for batch in merged(cursors, wanted, n):
            yield batch

    async def follow(
        self, wanted: Wanted, n: int | None = 10
    ) -> AsyncGenerator[list[Record], None]:
        """`history`, then all that is written from then on, without gap or repeat, without end.

        Workers that appear later are followed too. Who takes the batches so slowly that a file is
        rotated away before it was read gets a record of the stream `corral` with `skipped_lines`.
        Close it with `contextlib.aclosing`.

        Raises:
            ResourceLimitExceeded: the pattern takes too long.
        """
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
                        by_worker[key] = Cursor(self, *key)
                    records = by_worker[key].pull(block_bytes)
                    if not records:
                        behind.discard(key)
                    fresh.append(wanted.select(records))
                for batch in in_batches(heapq.merge(*fresh, key=at_of)):
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

    def rotated(self, writer: LogWriter) -> None:
        """A writer has begun a new file."""
        self._packer.rotated(writer.agent, writer.worker)

    def find_writer(self, agent: str, worker: str) -> LogWriter | None:
        """The writer of a worker, if it has one at present."""
        return self._writers.get((agent, worker))

    def _replace(self, agent: str, worker: str, inode: int, by: int) -> None:
        writer = self._writers.get((agent, worker))
        if writer is not None:
            writer.replace(inode, by)

    async def _cursors(self, wanted: Wanted, n: int | None) -> list[Cursor]:
        """A cursor at the right place of every worker that has files."""
        cursors: list[Cursor] = []
        for agent, worker, files in workers(self.directory, wanted.names):
            cursor = Cursor(self, agent, worker)
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
