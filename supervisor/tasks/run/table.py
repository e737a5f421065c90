"""The records of tasks in the store: written whole at each change that matters, read back by id, by filter or by age.

A record is JSON with its checksum beside it: one that is not as it was written is `Corrupted`, by its task's id.
Reads are bounded in bytes and rows, and removals in rows at once, so that a million ended
tasks hold up neither the reader nor the writer.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from corral.supervisor.records.store.store import Row, Statement, Store, names_in
from corral.worker.contract.errors import Corrupted, InvalidParams
from corral.worker.contract.records import ENDED, Boundaries, Task
from corral.worker.control.params import TaskListParams, TasksParams

from .steps import inherited

LIST_BYTES = 8 * 1024 * 1024
"""Bytes of a list of records: half a message, since running tasks may have grown after they were stored."""

LOOK_ROWS = 2_000
"""Number of rows of one read of a filter without an index; other reads come in between."""

MOST_LOOKED = 100_000
"""Number of rows that one list examines before it answers with the matches so far, and a cursor."""

EXPIRE_ROWS = 250
"""Number of records that one transaction removes; other writes come in between."""

REST_S = 1.0
"""Seconds between two such transactions at the most; as a rule as long as the last one took."""

UNREADABLE = "failed"
"""The state of a task that had not ended and whose record cannot be read: it cannot be run."""

PLACED = b'"kind":"placed"'
"""Bytes that the record of a task of a placed agent has; others may have them in their input."""

_READ = "SELECT record, checksum, retried_by, id, created_at, rowid FROM task"

_SAVE = (
    "INSERT INTO task (id, agent, state, priority, attempt, created_at, finished_at, parent,"
    " idempotency_key, dead, record, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET state = excluded.state, attempt = excluded.attempt,"
    " finished_at = excluded.finished_at, dead = excluded.dead, record = excluded.record,"
    # An end stays: an earlier record may be written after it, when the store refused that at first. Another time
    # of creation is another task, which has the id by chance.
    " checksum = excluded.checksum WHERE task.finished_at IS NULL OR task.created_at <> excluded.created_at"
)

logger = logging.getLogger(__name__)


class _Boundaries(Boundaries, frozen=True, omit_defaults=True):
    """Encodes boundaries for the store."""


class _Stored(Task, frozen=True, kw_only=True, omit_defaults=True):
    """Encodes a task for the store, without its defaults: a quarter of the bytes. So a default may never change."""

    boundaries: _Boundaries = _Boundaries()


class Page(NamedTuple):
    """Records of a list; `more` is the `before` of the next page, `skipped` the number that could not be read.

    `places` say where each stands: when it came, in seconds of the Unix epoch, and its row.
    """

    tasks: list[Task]
    more: str | None
    skipped: int
    places: tuple[tuple[float, int], ...] = ()


class Retention(NamedTuple):
    """Holds the seconds that ended tasks of an agent are kept; dead letters apart."""

    results_s: float
    dead_letters_s: float


def is_dead(task: Task) -> bool:
    """Returns True if an ended task is a dead letter: it failed, has no parent, and was not retried."""
    return task.state in ("failed", "timeout") and task.parent is None and task.retried_by is None


class Records:
    """Reads and writes the table of tasks."""

    def __init__(self, store: Store, on_corrupted: Callable[[Corrupted], None] = lambda _: None) -> None:
        self._store = store
        self._on_corrupted = on_corrupted

    async def save(self, task: Task, created: float, *more: Statement) -> None:
        """Writes a record, and `more` with it or not at all; it is durable when this returns.

        `created` is in seconds of the Unix epoch. A task that is another one's retry takes that from the
        dead letters.
        """
        await self._store.write(*self.statements(task, created), *more)

    def statements(self, task: Task, created: float) -> tuple[Statement, ...]:
        """Returns the statements of `save`."""
        record = msgspec.json.encode(msgspec.convert(task, _Stored, from_attributes=True))
        has_ended = task.state in ENDED
        values = (
            task.id,
            task.agent,
            task.state,
            task.priority,
            task.attempt,
            created,
            time.time() if has_ended else None,
            task.parent,
            task.idempotency_key,
            int(has_ended and is_dead(task)),
            record,
            zlib.crc32(record),
        )
        if task.retry_of is None or has_ended:
            return ((_SAVE, values),)
        retried = "UPDATE task SET dead = 0, retried_by = ? WHERE id = ?"
        return ((_SAVE, values), (retried, (task.id, task.retry_of)), inherited(task))

    async def discard(self, task_ids: Iterable[str]) -> int:
        """Takes tasks from the dead letters; returns how many were. Their records stay."""
        sql = "UPDATE task SET dead = 0 WHERE id = ? AND dead = 1"
        statements: list[Statement] = [(sql, (task_id,)) for task_id in task_ids]
        return sum(await self._store.write(*statements)) if statements else 0

    async def dead_letters(self, wanted: TasksParams) -> tuple[list[str], str | None]:
        """Returns the ids of dead letters, the oldest first, and the `after` of the next page."""
        where = _Where(["dead = 1"], [])
        if wanted.agent is not None:
            where.add("+agent = ?", wanted.agent)  # by the index of the dead, which are few
        if wanted.until is not None:
            where.add("created_at < ?", wanted.until)
        if wanted.after is not None:
            where.add("(created_at, rowid) > (?, ?)", *place_of(wanted.after, "after"))
        rows = await self._store.read(
            f"SELECT id, created_at, rowid FROM task WHERE {' AND '.join(where.clauses)}"
            " ORDER BY created_at, rowid LIMIT ?",
            [*where.values, wanted.limit],
        )
        place = None if not rows else (_real(rows[-1][1]), _integer(rows[-1][2]))
        more = cursor_of(place) if len(rows) == wanted.limit else None
        return [str(row[0]) for row in rows], more

    async def counts(self, *, is_in_cluster: bool = False) -> dict[str, int]:
        """Returns the number of records in each end state; in a cluster without those of tasks that another record counts."""
        counted = "SELECT state, COUNT(*) FROM task"
        rows = await self._store.read(f"{counted} GROUP BY state")
        found = {str(state): _integer(n) for state, n in rows if str(state) in ENDED}
        if is_in_cluster:
            where = "WHERE instr(record, ?) AND json_extract(CAST(record AS TEXT), '$.kind') = 'placed'"
            placed = await self._store.read(f"{counted} {where} GROUP BY state", [PLACED])
            for state, n in placed:
                found[str(state)] = found.get(str(state), 0) - _integer(n)
        return {state: n for state, n in found.items() if state in ENDED}

    async def unfinished(self) -> list[tuple[Task, float]]:
        """Returns the tasks that have not ended, oldest first, with their times of creation; unreadable ones are marked as failed."""
        rows = await self._store.read(f"{_READ} WHERE state IN ('queued', 'running') ORDER BY created_at")
        found: list[tuple[Task, float]] = []
        lost: list[Statement] = []
        for row in rows:
            try:
                found.append((_task(row), _real(row[4])))
            except Corrupted as error:
                logger.error("%s", error)
                self._on_corrupted(error)
                sql = "UPDATE task SET state = ?, finished_at = ? WHERE id = ?"
                lost.append((sql, (UNREADABLE, time.time(), str(row[3]))))
        if lost:
            await self._store.write(*lost)
        return found

    async def find(self, task_id: str) -> Task | None:
        """Returns a record by its id."""
        rows = await self._store.read(f"{_READ} WHERE id = ?", (task_id,))
        return _task(rows[0]) if rows else None

    async def find_by_key(self, key: str, agent: str | None, *, since: float | None = None) -> Task | None:
        """Returns the task with an idempotency key, of an agent; or of any agent, if it is not older than `since`."""
        if agent is not None:
            where, values = "agent = ? AND idempotency_key = ?", [agent, key]
            rows = await self._store.read(f"{_READ} WHERE {where}", values)
        else:
            where = "created_at >= ? AND idempotency_key = ? ORDER BY created_at LIMIT 1"
            rows = await self._store.read(f"{_READ} WHERE {where}", [since or 0.0, key])
        return _task(rows[0]) if rows else None

    async def children(self, parent: str, limit: int) -> list[Task]:
        """Returns the tasks that a task delegated, oldest first; unreadable ones are left out."""
        rows = await self._store.read(f"{_READ} WHERE parent = ? ORDER BY created_at, rowid LIMIT ?", (parent, limit))
        return [task for task in map(_readable, rows) if task is not None]

    async def page(self, wanted: TaskListParams) -> Page:
        """Returns records, newest first; fewer than the limit where they would be more than LIST_BYTES."""
        index, scan = _index(wanted), _scan(wanted)
        place = None if wanted.before is None else place_of(wanted.before, "before")
        found: list[Task] = []
        places: list[tuple[float, int]] = []
        skipped, looked, room = 0, 0, LIST_BYTES
        while True:
            limit = LOOK_ROWS if scan.clauses else wanted.limit + 1
            rows = await self._look(index, scan, place, limit)
            for row in rows:
                if row[0] is not None:  # else the filter does not match
                    room -= len(_blob(row[0]))
                    if len(found) == wanted.limit or (room < 0 and found):
                        return Page(found, cursor_of(place), skipped, tuple(places))
                    task = _readable(row)
                    if task is None:
                        skipped += 1
                    elif is_match(task, wanted):
                        found.append(task)
                        places.append((_real(row[4]), _integer(row[5])))
                place = (_real(row[4]), _integer(row[5]))
            looked += len(rows)
            if len(rows) < limit:
                return Page(found, None, skipped, tuple(places))
            if looked >= MOST_LOOKED:
                return Page(found, cursor_of(place), skipped, tuple(places))

    async def _look(self, index: "_Where", scan: "_Where", place: tuple[float, int] | None, limit: int) -> list[Row]:
        """Returns rows after `place`, as `_READ` has them; without the record where `scan` does not match."""
        clauses, values = list(index.clauses), list(index.values)
        if place is not None:
            clauses.append("(created_at, rowid) < (?, ?)")
            values += place
        record = f"iif({' AND '.join(scan.clauses)}, record, NULL)" if scan.clauses else "record"
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        return await self._store.read(
            f"SELECT {record}, checksum, retried_by, id, created_at, rowid FROM task{where}"
            " ORDER BY created_at DESC, rowid DESC LIMIT ?",
            [*scan.values, *values, limit],
        )

    async def expire(self, now: float, retention: Retention, of_agent: Mapping[str, Retention]) -> int:
        """Removes ended tasks that are older than is kept, `retention` for agents not in `of_agent`; returns how many there were."""
        removed = 0
        for agent in await self.agents(lambda _: True):
            kept = of_agent.get(agent, retention)
            removed += await self._remove(agent, now - kept.results_s, is_dead_letter=False)
            removed += await self._remove(agent, now - kept.dead_letters_s, is_dead_letter=True)
        return removed

    async def agents(self, is_wanted: Callable[[str], bool]) -> list[str]:
        """Returns the wanted ones of the agents that have records."""
        return await names_in(self._store, "task", is_wanted)

    async def _remove(self, agent: str, before: float, *, is_dead_letter: bool) -> int:
        """Removes ended tasks of an agent that ended before a time: they began before it, too, which an index knows."""
        removed, place = 0, (-1e12, 0)
        while True:
            rows = await self._store.read(
                "SELECT created_at, rowid FROM task WHERE agent = ? AND created_at < ? AND"
                " (created_at, rowid) > (?, ?) AND finished_at < ? AND dead = ?"
                " ORDER BY created_at, rowid LIMIT ?",
                (agent, before, *place, before, int(is_dead_letter), EXPIRE_ROWS),
            )
            if not rows:
                return removed
            place = (_real(rows[-1][0]), _integer(rows[-1][1]))
            began = time.monotonic()
            # Conditions once more: an ended record never changes, but its mark of a dead letter does.
            marks = ", ".join("?" * len(rows))
            done = await self._store.write(
                (
                    f"DELETE FROM task WHERE rowid IN ({marks}) AND finished_at < ? AND dead = ?",
                    (*(row[1] for row in rows), before, int(is_dead_letter)),
                )
            )
            removed += done[0]
            await asyncio.sleep(min(time.monotonic() - began, REST_S))


class _Where(NamedTuple):
    """Holds the conditions of a WHERE clause, joined by AND, and the values of their marks."""

    clauses: list[str]
    values: list[object]

    def add(self, clause: str, *values: object) -> None:
        """Adds a condition."""
        self.clauses.append(clause)
        self.values.extend(values)

    def add_choice(self, column: str, wanted: Sequence[str]) -> None:
        """Adds the condition that a column has one of several values."""
        self.add(f"{column} IN ({', '.join('?' * len(wanted))})", *wanted)


def _chosen(wanted: TaskListParams) -> tuple[list[str], list[str]]:
    agents = [*wanted.agents, *([wanted.agent] if wanted.agent is not None else [])]
    states = [*wanted.states, *([wanted.state] if wanted.state is not None else [])]
    return list(dict.fromkeys(agents)), list(dict.fromkeys(states))


def _index(wanted: TaskListParams) -> _Where:
    """Returns the conditions that one index answers in order of time: the most selective one, and the times."""
    where = _Where([], [])
    agents, states = _chosen(wanted)
    if wanted.parent is not None:
        where.add("parent = ?", wanted.parent)
    elif wanted.dead:
        where.add("dead = 1")
    elif len(states) == 1 and (len(agents) != 1 or states[0] != "succeeded"):
        where.add("state = ?", states[0])
    elif len(agents) == 1:
        where.add("agent = ?", agents[0])
    if wanted.since is not None:
        where.add("created_at >= ?", wanted.since)
    if wanted.until is not None:
        where.add("created_at < ?", wanted.until)
    return where


def _scan(wanted: TaskListParams) -> _Where:
    """Returns the conditions that are checked in each row of the index; `is_match` checks some of them exactly."""
    where = _Where([], [])
    agents, states = _chosen(wanted)
    found = " ".join(_index(wanted).clauses)
    if agents and "agent = ?" not in found:
        where.add_choice("agent", agents)
    if states and "state = ?" not in found:
        where.add_choice("state", states)
    if wanted.dead and "dead" not in found:
        where.add("dead = 1")
    if wanted.roots:
        where.add("parent IS NULL")
    texts: list[str] = []
    for key, value in (("schedule", wanted.schedule), ("session", wanted.session)):
        if value is not None:
            texts.append(f'"{key}":{_as_json(value)}')
    if wanted.text is not None:
        texts.append(_as_json(wanted.text)[1:-1])
    for text in texts:
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        where.add("CAST(record AS TEXT) LIKE ? ESCAPE '\\'", f"%{escaped}%")
    return where


def _as_json(text: str) -> str:
    return msgspec.json.encode(text).decode()


def is_match(task: Task, wanted: TaskListParams) -> bool:
    """Returns True if a filter matches a record, but for its time and its being a dead letter."""
    agents, states = _chosen(wanted)
    return (
        (not agents or task.agent in agents)
        and (not states or task.state in states)
        and (wanted.parent is None or task.parent == wanted.parent)
        and not (wanted.roots and task.parent is not None)
        and (wanted.schedule is None or task.schedule == wanted.schedule)
        and (wanted.session is None or task.session == wanted.session)
        and (wanted.text is None or wanted.text.lower() in task.objective.lower())
    )


def cursor_of(place: tuple[float, int] | None) -> str | None:
    """Returns the `before` of the records after a place."""
    return None if place is None else f"{place[0]!r}:{place[1]}"


def place_of(cursor: str, key: str = "before") -> tuple[float, int]:
    """Returns the place that a `before` means."""
    created, _, rowid = cursor.partition(":")
    try:
        return float(created), int(rowid)
    except ValueError:
        words = f'cannot go on {key} "{cursor[:50]}": give the "more" of an earlier answer'
        raise InvalidParams(words, key=key, value=cursor[:50]) from None


def _task(row: Row) -> Task:
    record, checksum, retried_by, task_id = row[:4]
    try:
        blob = _blob(record)
        if checksum is not None and zlib.crc32(blob) != checksum:
            raise ValueError("its checksum is another")
        task = msgspec.json.decode(blob, type=Task)
    except (ValueError, TypeError) as error:  # msgspec's are both kinds of ValueError
        words = f'cannot read task "{task_id}": its record in the store is damaged'
        raise Corrupted(words, record=f"task {task_id}", task=task_id, reason=str(error)[:200]) from error
    if task.delivery == 0 and task.started_at is not None:
        # An earlier version did not count: its handler may have begun, which a handler that pays has to know.
        task = replace(task, delivery=max(task.attempt, 1))
    return task if retried_by is None else replace(task, retried_by=str(retried_by))


def _readable(row: Row) -> Task | None:
    try:
        return _task(row)
    except Corrupted:
        return None


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a record is a blob")
    return value


def _real(value: object) -> float:
    assert isinstance(value, int | float), "times are numbers"
    return float(value)


def _integer(value: object) -> int:
    assert isinstance(value, int), "counts are whole numbers"
    return value
