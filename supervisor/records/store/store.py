"""Keeps the daemon's data in SQLite: acknowledged writes are in it, whole, after `kill -9` or a power cut.

One connection writes, on a thread of its own, with group commit: all writes that arrived while the last
commit was under way share the next one, so a sync costs the same for one write as for a thousand.
A second, read-only connection on a second thread answers reads: in WAL mode a reader sees the last
commit without waiting for a big write, and because it can neither write nor checkpoint, the race
of SQLite before 3.51.3 between a commit and another connection's checkpoint cannot arise.

This module knows statements, but nothing of their meaning; `schema` is the file.
"""

import asyncio
import contextlib
import logging
import math
import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from corral.worker.contract.errors import Overloaded, ShuttingDown

from .schema import RETRY_AFTER_S, open_database, primary_code, typed_error

Params: TypeAlias = Sequence[object] | Mapping[str, object]
Row: TypeAlias = tuple[object, ...]


class Step:
    """Represents a part of a group that is more than a statement, or that grows until the writer takes it."""

    size_bytes: int = 0
    """Bytes that it takes of the memory for waiting writes."""
    count: int = 1
    """Number of records that it stores, by which lost ones are counted."""

    def seal(self) -> None:
        """Ends its growth: the writer's thread has taken it. Comes before `run`."""

    def run(self, connection: sqlite3.Connection) -> int:
        """Writes, on the writer's thread and inside a transaction; returns the number of rows. It may be run again."""
        raise NotImplementedError


Statement: TypeAlias = tuple[str, Params] | Step

SHRINK_PAGES = 2_000
"""Number of free pages that one transaction gives back; other writes come in between."""

SPARE_PAGES = 2_000
"""Number of free pages that stay for later writes, at least; in a larger file a quarter of it stays."""

SHRINK_PAUSE_S = 0.02
"""Seconds between two such transactions."""


class _Shrink(Step):
    """Gives back free pages; the result is their number."""

    def run(self, connection: sqlite3.Connection) -> int:
        """Moves the last pages of the file into free ones, one by one: the module steps a statement without columns once."""
        pages, free = (int(connection.execute(f"PRAGMA {of}").fetchone()[0]) for of in ("page_count", "freelist_count"))
        for _ in range(min(SHRINK_PAGES, free - max(SPARE_PAGES, pages // 4))):
            connection.execute("PRAGMA incremental_vacuum(1)")
        return pages - int(connection.execute("PRAGMA page_count").fetchone()[0])


POST_DELAY_S = 0.1
"""Seconds that a posted group may wait for the commit of another."""

WAKE_S = POST_DELAY_S / 5
"""Seconds until a post wakes the writer, at most: the poster is often in the midst of urgent work, and would share the interpreter with it."""

STALL_S = 5.0
"""Seconds that the oldest write may wait before the store counts as stalled and takes no more."""

PROBE_BYTES = 64 * 1024
"""Bytes of what is written to find out whether the disk has room again."""

QUEUE_LIMIT = 20_000
"""Number of groups that wait."""

QUEUE_LIMIT_BYTES = 128 * 1024 * 1024
"""Bytes of the parameters of groups that wait."""

READS_LIMIT = 1_000
"""Number of reads that wait."""

ROWS_AT_ONCE = (64, 8, 1)
"""Numbers of rows that one statement inserts: few forms, which SQLite prepares once."""

LAST_MOMENT = 253_402_300_799.0
"""Seconds since 1970: no calendar of ours has a later one."""

logger = logging.getLogger(__name__)


def number_of(value: object) -> int:
    """Returns the number in a row; -1 where a damaged byte has made it none, or negative: no count is."""
    return value if isinstance(value, int) and value >= 0 else -1


def moment_of(value: object) -> float:
    """Returns the time in a row, in seconds since 1970; 0 where a damaged byte has made it none."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= LAST_MOMENT else 0.0


def insert(connection: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> int:
    """Inserts rows by an `INSERT … VALUES (…)`, with any clauses after it, with few statements; returns their number.

    With each the thread lets go of the interpreter, and waits for it while the loop is busy.
    """
    done = 0
    for size in ROWS_AT_ONCE:
        while len(rows) - done >= size:
            connection.execute(_of_many(sql, size), [cell for row in rows[done : done + size] for cell in row])
            done += size
    return done


@lru_cache(64)
def _of_many(sql: str, rows: int) -> str:
    before, values, after = sql.partition(" VALUES ")
    marks, closing, rest = after.partition(")")
    return f"{before}{values}{', '.join([marks + closing] * rows)}{rest}"


QUIET_S = 5.0
"""Seconds without a refusal after which a store that has written something is sound again."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Decides whether the disk refuses what is to be stored: from a refusal until writing has worked, and nothing was refused, for a while.

    A full disk takes a small write now and then: judged by each write alone, the store would fail and recover every second. Times
    are those of the monotonic clock.
    """

    reason: str | None = None
    """Why something was refused, until the store is sound again."""
    refused_at_s: float = 0.0
    is_written: bool = False
    """Whether something was written since."""

    def refused(self, now_s: float, reason: str) -> "Refusals":
        """Returns the state after a refusal."""
        return Refusals(reason, now_s)

    def written(self) -> "Refusals":
        """Returns the state after a write that is on disk."""
        return self if self.reason is None or self.is_written else replace(self, is_written=True)

    def at(self, now_s: float) -> "Refusals":
        """Returns the state at that time."""
        is_over = self.is_written and now_s - self.refused_at_s >= QUIET_S
        return Refusals() if is_over else self


@dataclass(slots=True)
class _Group:
    """Holds statements that happen together or not at all, and the future of their caller (None, if posted)."""

    statements: tuple[Statement, ...]
    answer: asyncio.Future[list[int]] | None
    queued_at_s: float
    size_bytes: int
    results: list[int] = field(default_factory=lambda: [])
    error: Exception | None = None

    @property
    def count(self) -> int:
        """Returns the number of posts that it counts as."""
        only = self.statements[0] if len(self.statements) == 1 else None
        return 1 if only is None or isinstance(only, tuple) else only.count


class Store:
    """Writes to and reads from the open store. All methods belong to the loop's thread; `open` blocks and comes before the loop."""

    generation: int
    """The number of this opening: larger than every earlier one, and on disk before `open` returns."""

    def __init__(
        self,
        path: Path,
        lock_fd: int,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        generation: int,
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self.generation = generation
        self.lost_posts = 0
        """Posted groups that could not be stored: the store was full, stalled, closed or the disk failed."""
        self._lock_fd = lock_fd
        self._writer = writer
        self._reader = reader
        self._clock = clock
        # Not a Condition: its notifier keeps the interpreter, and the woken thread waits for that, and then for the lock.
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wake_poll = select.poll()
        self._wake_poll.register(self._wake_fd, select.POLLIN)
        self._lock = threading.Lock()
        # Under the lock:
        self._is_resting = False  # the writer waits for `_wake_fd`
        self._queue: list[_Group] = []
        self._due_at_s = math.inf  # of the group of the queue that is due first
        self._committing: list[_Group] = []
        self._size_bytes = 0
        self._refusals = Refusals()
        self._closing = False
        # Of the loop's thread alone:
        self._closed: asyncio.Future[None] | None = None
        self._reads = 0
        self._probe: asyncio.Future[list[int]] | None = None
        self._reads_pool = ThreadPoolExecutor(1, "corral-store-reader")
        # A daemon thread: a disk that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="corral-store-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], float] = time.monotonic) -> "Store":
        """Opens or creates the store at `path` (folder 0700, file 0600) and counts its generation up."""
        found = open_database(path)
        return cls(path, found.lock_fd, found.writer, found.reader, found.generation, clock)

    @property
    def stalled_s(self) -> float:
        """Returns the seconds for which the oldest write that is not on disk yet has been waiting."""
        with self._lock:
            oldest = self._committing or self._queue
            return self._clock() - oldest[0].queued_at_s if oldest else 0.0

    @property
    def refusal(self) -> str | None:
        """Returns why writes are refused, such as `disk-full`: from the first until writing has worked for a while."""
        with self._lock:
            self._refusals = self._refusals.at(self._clock())
            return self._refusals.reason

    @property
    def is_degraded(self) -> bool:
        """Returns whether the store takes nothing now, or has refused something a moment ago."""
        return self.stalled_s > STALL_S or self.refusal is not None

    def probe(self) -> bool:
        """Returns whether the store is degraded; while it is, tries to write as much as events are, once at a time."""
        if not self.is_degraded:
            if self._probe is not None and self.post(("DELETE FROM meta WHERE key = 'probe'", ())):
                self._probe = None
            return False
        if self._probe is None or self._probe.done():
            sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', zeroblob(?))"
            with contextlib.suppress(Overloaded, ShuttingDown):
                self._probe = self.begin((sql, (PROBE_BYTES,)))
                self._probe.add_done_callback(lambda probe: probe.cancelled() or probe.exception())
        return True

    async def write(self, *statements: Statement) -> list[int]:
        """Runs the statements as one atomic group; returns, once they are on disk, a number for each.

        The number is the rowid of a plain INSERT or REPLACE, else the count of changed rows (also of
        `INSERT OR IGNORE` and upserts). A caller that is cancelled does not cancel the write.
        """
        return await self.begin(*statements)

    def begin(self, *statements: Statement, wait_s: float = 0.0) -> asyncio.Future[list[int]]:
        """Begins a `write`, and returns its future; writes begun in one turn of the loop share one commit.

        It may wait for the commit of another for `wait_s`, so that a later write finds the disk free.
        """
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._enqueue(statements, answer, wait_s)
        return answer

    def hasten(self) -> None:
        """Commits at once what waits for the commit of another."""
        with self._lock:
            if not self._queue:
                return
            self._due_at_s = -math.inf
            is_waking, self._is_resting = self._is_resting, False
        if is_waking:
            asyncio.get_running_loop().call_soon(self._wake)

    def post(self, *statements: Statement) -> bool:
        """Stores the statements as one atomic group with the next commit, at most 100 ms later.

        Never raises for the state of the store: a group that cannot be stored is counted in `lost_posts`. Returns
        whether it was taken.
        """
        try:
            self._enqueue(statements, None, POST_DELAY_S)
        except (Overloaded, ShuttingDown) as error:
            with self._lock:
                self.lost_posts += 1
                if isinstance(error, Overloaded):
                    self._refusals = self._refusals.refused(self._clock(), str(error.data.get("reason")))
            return False
        return True

    async def read(self, sql: str, params: Params = ()) -> list[Row]:
        """Returns the rows of a query over committed data; never waits for a write. The caller sets a LIMIT."""
        if self._closed is not None:
            raise ShuttingDown("cannot read the store: it is closing", file=str(self.path))
        if self._reads >= READS_LIMIT:
            raise self._overloaded("reads-waiting", waiting=self._reads)
        self._reads += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reads_pool, self._fetch, sql, params)
        finally:
            self._reads -= 1

    async def shrink(self) -> None:
        """Gives what was removed back to the file system, all but a spare part of the file."""
        while (await self.write(_Shrink()))[0] > 0:
            await asyncio.sleep(SHRINK_PAUSE_S)

    async def close(self) -> None:
        """Commits accepted writes, then closes the file. Later writes and reads are refused.

        Lasts as long as the disk does: a caller with a deadline puts it around this.
        """
        loop = asyncio.get_running_loop()
        if self._closed is None:
            self._closed = loop.create_future()  # from here on nothing more is taken
            self._reader.interrupt()
            await loop.run_in_executor(self._reads_pool, self._reader.close)
            self._reads_pool.shutdown(wait=False)
            with self._lock:
                self._closing = True
            self._wake()
        await asyncio.shield(self._closed)

    def _enqueue(
        self, statements: tuple[Statement, ...], answer: asyncio.Future[list[int]] | None, wait_s: float
    ) -> None:
        now_s = self._clock()
        size_bytes = sum(_size_bytes(each[1]) if isinstance(each, tuple) else each.size_bytes for each in statements)
        with self._lock:
            if self._closed is not None:
                raise ShuttingDown("cannot write to the store: it is closing", file=str(self.path))
            if len(self._queue) >= QUEUE_LIMIT or self._size_bytes + size_bytes > QUEUE_LIMIT_BYTES:
                raise self._overloaded("writes-waiting", waiting=len(self._queue))
            oldest = self._committing or self._queue
            if oldest and now_s - oldest[0].queued_at_s > STALL_S:
                raise self._overloaded("stalled", waiting=len(self._queue))
            due_at_s = now_s + wait_s
            self._queue.append(_Group(statements, answer, now_s, size_bytes))
            self._size_bytes += size_bytes
            is_waking = self._is_resting and (not wait_s or due_at_s < self._due_at_s)
            self._due_at_s = min(self._due_at_s, due_at_s)
            if is_waking and not wait_s:
                self._is_resting = False
        if not is_waking:
            return
        loop = asyncio.get_running_loop()
        if wait_s:
            loop.call_later(min(wait_s, WAKE_S), self._wake_resting)
        else:  # after all that is begun before the loop goes on
            loop.call_soon(self._wake)

    def _wake_resting(self) -> None:
        with self._lock:
            is_resting, self._is_resting = self._is_resting, False
        if is_resting:
            self._wake()

    def _wake(self) -> None:
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def _overloaded(self, reason: str, **data: object) -> Overloaded:
        facts = {"file": str(self.path), "reason": reason, "retry_after_s": RETRY_AFTER_S, **data}
        return Overloaded(f'cannot use the store "{self.path}" now: {reason}', **facts)

    def _fetch(self, sql: str, params: Params) -> list[Row]:
        try:
            return self._reader.execute(sql, params).fetchall()
        except sqlite3.Error as error:
            if self._closed is not None:
                raise ShuttingDown("cannot read the store: it is closing") from error
            raise typed_error(self.path, error) from error

    # From here on: the writer's thread.

    def _run(self) -> None:
        while batch := self._next_batch():
            began_s = self._clock()
            for group in batch:
                for each in group.statements:
                    if not isinstance(each, tuple):
                        each.seal()
            self._commit(batch)
            if logger.isEnabledFor(logging.DEBUG):
                facts: dict[str, object] = {
                    "groups": len(batch),
                    "statements": sum(len(group.statements) for group in batch),
                    "failed": sum(group.error is not None for group in batch),
                    "ms": round((self._clock() - began_s) * 1000, 3),
                }
                logger.debug("commit", extra={"fields": facts})
            self._answer(batch)
        self._writer.close()
        os.close(self._lock_fd)
        assert self._closed is not None, "only close() ends the writer"
        _on_loop(self._closed.get_loop(), self._gone)

    def _next_batch(self) -> list[_Group]:
        """Returns all waiting groups, as soon as one of them is due; [] at the end."""
        while True:
            with self._lock:
                due_in_s = self._due_at_s - self._clock()
                if self._closing or due_in_s <= 0:
                    batch, self._queue = self._queue, []
                    self._due_at_s = math.inf
                    self._committing = batch
                    return batch
                self._is_resting = True
            self._wake_poll.poll(None if due_in_s == math.inf else math.ceil(due_in_s * 1000))
            with contextlib.suppress(BlockingIOError):  # else it rests again at once
                os.eventfd_read(self._wake_fd)

    def _commit(self, batch: list[_Group]) -> None:
        failure = self._attempt(batch)
        if failure is None:
            return
        if len(batch) == 1 or primary_code(failure) == sqlite3.SQLITE_BUSY:
            for group in batch:
                group.error = failure
            return
        # The transaction as a whole failed, perhaps for one huge group on a disk that is nearly
        # full: each group by itself, until the disk has refused three in a row.
        refused = 0
        for group in batch:
            group.error = failure if refused == 3 else self._attempt([group]) or group.error
            if refused < 3:
                refused = refused + 1 if isinstance(group.error, sqlite3.OperationalError) else 0

    def _attempt(self, groups: list[_Group]) -> sqlite3.Error | None:
        """Runs one transaction over the groups, and returns its error; a group's own failure stays in the group."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for group in groups:
                self._apply(group)
                if not self._writer.in_transaction:  # SQLite gave up the whole of it
                    error = group.error
                    return error if isinstance(error, sqlite3.Error) else sqlite3.DatabaseError()
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            try:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            except sqlite3.Error:
                logger.exception('cannot roll back in the store "%s"', self.path)
            return error
        return None

    def _apply(self, group: _Group) -> None:
        group.error = None
        group.results = []
        # A single statement is atomic by itself; a step may be several.
        steps = any(not isinstance(each, tuple) for each in group.statements)
        savepoint = steps or len(group.statements) > 1
        if savepoint:
            self._writer.execute("SAVEPOINT one_group")
        try:
            for statement in group.statements:
                if not isinstance(statement, tuple):
                    group.results.append(statement.run(self._writer))
                    continue
                sql, params = statement
                cursor = self._writer.execute(sql, params)
                rowid = cursor.lastrowid if _is_insert(sql) else None
                group.results.append(cursor.rowcount if rowid is None else rowid)
        except Exception as error:  # any error of the group is its caller's to handle
            group.error = error
            if savepoint and self._writer.in_transaction:
                self._writer.execute("ROLLBACK TO one_group")
        if savepoint and self._writer.in_transaction:
            self._writer.execute("RELEASE one_group")

    def _answer(self, batch: list[_Group]) -> None:
        """Resolves the futures of callers, with one wake-up of the loop for all of them."""
        awaited = [group for group in batch if group.answer is not None]
        failed_posts = [group for group in batch if group.answer is None and group.error]
        with self._lock:
            self._committing = []
            self._size_bytes -= sum(group.size_bytes for group in batch)
            self.lost_posts += sum(group.count for group in failed_posts)
            was_refusing = self._refusals.reason is not None
            self._refusals = self._judged(batch)
        if failed_posts and not was_refusing:  # once, not every second
            logger.error("cannot store %d posted groups: %s", len(failed_posts), failed_posts[0].error)
        if awaited:
            assert awaited[0].answer is not None
            _on_loop(awaited[0].answer.get_loop(), self._resolve, awaited)

    def _judged(self, batch: list[_Group]) -> Refusals:
        refusals = self._refusals
        for group in batch:
            if group.error is None:
                refusals = refusals.written() if group.statements else refusals
        for group in batch:
            error = None if group.error is None else typed_error(self.path, group.error)
            if isinstance(error, Overloaded):
                return refusals.refused(self._clock(), str(error.data.get("reason")))
        return refusals

    def _gone(self) -> None:
        """Closes the descriptor on the loop's thread, which alone writes to it."""
        assert self._closed is not None, "only close() ends the writer"
        os.close(self._wake_fd)
        self._wake_fd = -1
        self._closed.set_result(None)

    def _resolve(self, groups: list[_Group]) -> None:
        for group in groups:
            answer = group.answer
            if answer is None or answer.done():  # the caller was cancelled
                continue
            if group.error is None:
                answer.set_result(group.results)
            else:
                answer.set_exception(typed_error(self.path, group.error))


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:  # the loop is closed: no caller waits any more
        logger.debug("an answer of the store came after the end of the loop")


@lru_cache(1024)
def _is_insert(sql: str) -> bool:
    words = sql.upper().split()
    plain = words[:2] == ["INSERT", "INTO"] or words[:1] == ["REPLACE"]
    return plain and "CONFLICT" not in words


def _size_bytes(params: Params) -> int:
    values = params.values() if isinstance(params, Mapping) else params
    size_bytes = 0
    for value in values:  # for every record that is written: no generator, no isinstance
        kind = type(value)
        size_bytes += len(value) if kind is bytes or kind is str else 8  # type: ignore[arg-type]  # its type is known
    return size_bytes


async def names_in(store: Store, table: str, is_wanted: Callable[[str], bool]) -> list[str]:
    """Returns the wanted ones of the agents that a table has rows of, in order; an index of it begins with `agent`."""
    rows = await store.read(
        f"WITH RECURSIVE each(agent) AS (SELECT MIN(agent) FROM {table} UNION ALL"
        f" SELECT (SELECT MIN(agent) FROM {table} WHERE agent > each.agent) FROM each"
        " WHERE each.agent IS NOT NULL) SELECT agent FROM each WHERE agent IS NOT NULL"
    )
    return [str(agent) for (agent,) in rows if is_wanted(str(agent))]


def one_of(column: str, names: list[str]) -> str:
    """Returns the condition that a column has one of these names, each a mark; of no name it is false."""
    return f"{column} IN ({', '.join('?' * len(names))})"
