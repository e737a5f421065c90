"""Owns the folder of all logs: makes writers for living workers, reads, compresses, and removes old files.

How lines get into the files is the business of `capture`, how they are read that of `reader`. A reader is a position
in the files: it costs no memory however slow it is, and is skipped ahead, with a count, only when its file was
rotated away. Everything but the compression is on the loop's thread.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from weakref import WeakSet

from corral.worker.contract.log_pieces import PieceJoiner
from corral.worker.contract.names import tenant_of

from .capture import LogFolder, LogWriter
from .compression import COMPRESS_AFTER_S, Compressor
from .file_format import LogFilter, Record, known_names, workers
from .merging import LogPosition, batches_of, holds, merged
from .reader import Cursor, Room
from .record import Place
from .rotating_file import LogLimits

_NEVER = "~"
"""Later than any time of a record."""

RELEASED_KEPT = 256
"""Number of writers of ended workers that are remembered while there are readers."""

logger = logging.getLogger(__name__)


class LogStore:
    """Owns the folder of all logs: its writers, its readers and its compression."""

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], int] = time.time_ns,
        *,
        unclean: bool = False,
        compress_after_s: float = COMPRESS_AFTER_S,
    ) -> None:
        """Opens nothing yet. `clock` gives wall time in ns; `unclean`: the last daemon was killed, so logs may have a gap."""
        self.directory = directory
        self._writers: dict[tuple[str, str], LogWriter] = {}
        self.turn = asyncio.Lock()
        """Held by the one reader that works in this turn of the loop: however many they are, others wait for one."""
        self.answering = asyncio.Lock()
        """Held by the one caller that gathers an answer as a whole: others wait, and only one is held."""
        self._followers: set[Follower] = set()
        self._readers = 0
        self._cursors_held: WeakSet[Cursor] = WeakSet()
        self._released: OrderedDict[tuple[str, str], LogWriter] = OrderedDict()
        self._compressor = Compressor(directory, compress_after_s)
        self._folder = LogFolder(
            directory=directory,
            clock=clock,
            unclean=unclean,
            on_written=self._wake,
            on_rotated=self._compressor.rotated,
        )

    def pause_by(self, read_pause_s: Callable[[str, int], float]) -> None:
        """Asks for an agent and the bytes of a read for how many seconds its pipes are not read."""
        self._folder.read_pause_s = read_pause_s

    @property
    def losses(self) -> int:
        """Returns the number of changes of what is lost, of all writers."""
        return self._folder.losses

    @property
    def compressed(self) -> Mapping[int, int]:
        """Returns inodes of files that were compressed and are gone -> those of the compressed ones."""
        return self._compressor.compressed

    def writer(self, agent: str, worker: str, limits: LogLimits) -> LogWriter:
        """Returns the writer of a worker, the same one for all its incarnations; for each call a `release` is due."""
        writer = self._writers.get((agent, worker))
        if writer is None:
            earlier = self._released.pop((agent, worker), None)
            writer = LogWriter(self._folder, agent, worker, limits, earlier)
            self._writers[agent, worker] = writer
        else:
            writer.configure(limits)
        writer.users += 1
        return writer

    def release(self, writer: LogWriter) -> None:
        """Gives a writer back; the last call closes it. Its files stay."""
        writer.users -= 1
        if writer.users <= 0 and self._writers.get((writer.agent, writer.worker)) is writer:
            del self._writers[writer.agent, writer.worker]
            writer.release()
            # A reader that has not read it to its end needs its counts to report the true gap, or none.
            if self._readers:
                self._released[writer.agent, writer.worker] = writer
                if len(self._released) > RELEASED_KEPT:
                    forgotten, _ = self._released.popitem(last=False)
                    for cursor in self._cursors_held:
                        if (cursor.agent, cursor.worker) == forgotten:
                            cursor.forget()

    def check(self) -> None:
        """Finds moved and deleted files, ends gaps of silent workers, compresses old files; due about once a second."""
        for writer in [*self._folder.to_check]:  # of thousands most have written nothing
            if self._writers.get((writer.agent, writer.worker)) is writer:
                writer.check()
                if writer.is_to_be_checked:
                    continue
            self._folder.to_check.discard(writer)
        self._compressor.step(self._replace)

    async def expire(self, before_s: float) -> None:
        """Removes the logs of workers without a writer whose files are all older than that unix time."""
        for agent, worker, files in workers(self.directory, frozenset()):
            if (agent, worker) not in self._writers:
                with suppress(OSError):
                    if all(file.path.lstat().st_mtime < before_s for file in files):
                        for file in files:
                            file.path.unlink(missing_ok=True)
                        (self.directory / agent).rmdir()  # the last of them; else that is refused
                        if tenant := tenant_of(agent):
                            (self.directory / tenant).rmdir()
            await asyncio.sleep(0)

    def names(self) -> set[str]:
        """Returns the agents and workers that have files."""
        return known_names(self.directory)

    def close(self) -> None:
        """Closes all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        self._compressor.close()

    async def read(
        self,
        names: Collection[str] = (),
        *,
        n: int | None = None,
        since: float | None = None,
        until: float | None = None,
        stream: str | None = None,
    ) -> list[Record]:
        """Returns the records of `history` in one list, long lines joined: for callers that know that it is short."""
        wanted = LogFilter(frozenset(names), since, until, stream)
        joiner = PieceJoiner()
        return [r async for batch in self.history(wanted, n) for r in joiner.join(batch)] + joiner.flush()

    async def history(
        self, wanted: LogFilter, n: int | None = None, position: LogPosition | None = None
    ) -> AsyncGenerator[list[Record], None]:
        """Yields the present contents of the files, merged by time, in batches; the last `n` records if given.

        Names are agents or workers, running or not; none means all. The last `n` cost no more in a long
        log than in a short one, unless they have to be looked for. `position` is where a reader goes on, if it was
        given, and is moved with each batch, which may be empty.
        """
        with self._reading():
            horizon = self._begin_round(position) if position else _NEVER
            cursors = await self._cursors(wanted, n, position)
            async for batch in merged(cursors, wanted, n, self.turn, horizon=horizon, position=position):
                yield batch
            if holds(wanted, position):
                begun = [record for cursor in cursors for record in cursor.unended()]
                if found := await wanted.selected(begun):
                    if position is not None:
                        position.note(begun)
                    yield found
            if position is not None:
                position.end_round()

    async def follow(
        self,
        wanted: LogFilter,
        n: int | None = 10,
        follower: "Follower | None" = None,
        position: LogPosition | None = None,
    ) -> AsyncGenerator[list[Record], None]:
        """Yields `history`, then all that is written from then on, without gap or repeat, without end.

        Workers that appear later are followed too. A caller that takes the batches so slowly that a file is
        rotated away before it was read gets a record of the stream `corral` with `skipped_lines`.
        Close it with `contextlib.aclosing`; a `follower` of the caller's own shows more, and can end it. `position` is as
        in `history`. Lines are in the order of their times: none comes before an earlier one of another worker.
        """
        follower = follower or Follower(wanted)
        # Of a worker whose files were removed the writer does not begin at 0.
        passed = {key: _passed(writer) for key, writer in (self._released | self._writers).items()}
        with self._reading(follower):
            horizon = self._begin_round(position)
            cursors = await self._cursors(wanted, n, position)
            async for batch in merged(cursors, wanted, n, self.turn, horizon=horizon, position=position):
                yield batch
            by_worker = {(cursor.agent, cursor.worker): cursor for cursor in cursors}
            for cursor in cursors:
                cursor.is_bounded = False
            behind: set[tuple[str, str]] = set(by_worker)
            follower.placed.set()
            while not (follower.is_to_end and not behind):
                if position is not None:
                    position.end_round()
                behind |= await follower.changed(wait=not behind)
                horizon = self._begin_round(position)  # all that was written until now is noted
                room = Room.of(len(behind), holds=holds(wanted, position))
                fresh: list[Iterator[Record]] = []
                for key in sorted(behind):
                    if key not in by_worker:  # no file when this began: start before its first
                        by_worker[key] = self._cursor(*key, passed.get(key, (0, 0)))
                    async with self.turn:
                        records = by_worker[key].upto(horizon, room)
                        first = next(records, None)
                        if first is not None:
                            fresh.append(chain((first,), records))
                        elif by_worker[key].is_at_end:
                            behind.discard(key)
                        await asyncio.sleep(0)
                # One round: the followed ones go on when the reader has taken all of it.
                async for batch in batches_of(fresh, wanted, self.turn, position):
                    yield batch

    def newest(self) -> str:
        """Returns the present time as records have it: not before that of any line that is written."""
        return self._folder.stamp(b"9").decode()  # no kind of line is above it

    def _begin_round(self, position: LogPosition | None) -> str:
        horizon = self.newest()
        if position is not None:
            position.begin_round(horizon)
        return horizon

    @contextmanager
    def _reading(self, follower: "Follower | None" = None) -> Generator[None, None, None]:
        self._readers += 1
        if follower is not None:
            self._followers.add(follower)
        try:
            yield
        finally:
            if follower is not None:
                self._followers.discard(follower)
            self._readers -= 1
            if not self._readers:
                self._released.clear()

    def _wake(self, agent: str, worker: str) -> None:
        for follower in self._followers:
            follower.note_written(agent, worker)

    @property
    def is_losing(self) -> bool:
        """Returns whether lines of any writer are being lost at present."""
        return any(
            writer.trouble is not None and self._writers.get((writer.agent, writer.worker)) is writer
            for writer in self._folder.to_check
        )

    def find_writer(self, agent: str, worker: str) -> LogWriter | None:
        """Returns the writer of a worker, or the released one while readers may need its counts."""
        return self._writers.get((agent, worker)) or self._released.get((agent, worker))

    def _replace(self, agent: str, worker: str, inode: int, by: int) -> None:
        writer = self.find_writer(agent, worker)
        if writer is not None:
            writer.replace(inode, by)

    def _cursor(self, agent: str, worker: str, passed: tuple[int, int] | None = None) -> Cursor:
        cursor = Cursor(self, agent, worker, passed)
        self._cursors_held.add(cursor)
        return cursor

    async def _cursors(self, wanted: LogFilter, n: int | None, position: LogPosition | None) -> list[Cursor]:
        """Returns a cursor at the right place of every worker that has files."""
        cursors: list[Cursor] = []
        left: dict[tuple[str, str], Place] = {}
        if position is not None and position.is_given:
            left = {key: place for key, place in position.places.items() if wanted.is_of(*key)}
            position.places = OrderedDict(left)
        for agent, worker, files in workers(self.directory, wanted.names):
            cursor = self._cursor(agent, worker)
            if position is not None and position.is_given:
                await cursor.resume(files, left.pop((agent, worker), None), position.at)
            elif n is None or not wanted.is_rare:
                await cursor.rewind(files, wanted, n)
            cursors.append(cursor)
            await asyncio.sleep(0)
        for (agent, worker), place in left.items():  # their files are gone
            cursors.append(self._cursor(agent, worker))
            await cursors[-1].resume([], place, position.at if position else "")
        return cursors


def _passed(writer: LogWriter) -> tuple[int, int]:
    return writer.lines, writer.files[-1].number if writer.files else 0


class Follower:
    """Collects the followed workers that have written since the last look."""

    def __init__(self, wanted: LogFilter) -> None:
        self.placed = asyncio.Event()
        """Set when nothing that is written from then on is missed."""
        self._is_ending = False
        self._wanted = wanted
        self._changed: set[tuple[str, str]] = set()
        self._ready = asyncio.Event()

    @property
    def is_to_end(self) -> bool:
        """Returns whether there is nothing to wait for any more."""
        return self._is_ending and not self._changed

    def end(self) -> None:
        """Ends the following once all that was written until now has been read."""
        self._is_ending = True
        self._ready.set()

    def note_written(self, agent: str, worker: str) -> None:
        """Notes that a worker's log has grown."""
        if self._wanted.is_of(agent, worker):
            self._changed.add((agent, worker))
            self._ready.set()

    async def changed(self, *, wait: bool) -> set[tuple[str, str]]:
        """Returns the workers whose logs have grown since the last call, with `wait` not before there is one."""
        if wait:
            await self._ready.wait()
        changed, self._changed = self._changed, set()
        if not self._is_ending:
            self._ready.clear()
        return changed
