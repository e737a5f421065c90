"""Selects what one task has printed and logged, over all its attempts and workers.

A message of the SDK has the id of its task. Printed lines have none: they belong to the tasks that their worker runs at that time, to
each of them where there are several. When an attempt began and ended is known exactly for the last tasks of this daemon, and
for earlier ones to the millisecond, from events and records.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache

from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.events.history import EventFilter, EventHistory
from corral.supervisor.records.logs.file_format import LogFilter, Record, rfc3339_seconds
from corral.supervisor.records.logs.merging import LogPosition
from corral.supervisor.records.logs.store import Follower, LogStore
from corral.supervisor.workers.supervision.task_moments import Moments, TaskMoments
from corral.worker.contract.records import ENDED, Task

TYPES = ("task.started", "task.retried", "task.ended")
"""The types of events with which attempts begin and end."""

LATE_S = 1.0
"""Seconds after its end in which lines of a task are looked for: messages that came late have its id."""

STAMP_CHARS = len("2026-01-01T00:00:00.00000000")
"""Characters of the time of a line, without the digit that is its kind."""

_STEP = timedelta(milliseconds=1)


class TaskLog:
    """Knows on which worker a task has run from when to when, and selects the lines of those times."""

    def __init__(self, task: str, moments: TaskMoments) -> None:
        self.has_ended = False
        """Whether nothing more will be of it."""
        self._task = task
        self._moments = moments
        self._exact: Sequence[Moments] = ()
        self._spans: list[tuple[str, str, str | None]] = []  # worker, begin, end, by events and record
        self._on_end: Callable[[], None] = _ignore

    @property
    def workers(self) -> frozenset[str]:
        """Returns the workers on which it has run."""
        return frozenset(worker for worker, _, _ in self._spans)

    def on_end(self, call: Callable[[], None]) -> None:
        """Calls `call` when the task ends; at once where it has ended."""
        self._on_end = call
        if self.has_ended:
            call()

    def note_end(self, event: Event) -> bool:
        """Takes the end of any task as it is published; returns False, since it is done with it."""
        if event.fields.get("task") == self._task and not self.has_ended:
            self.has_ended = True
            self._on_end()
        return False

    async def load(self, history: EventHistory, newest: int, task: Task) -> None:
        """Takes what events until number `newest` and the record say of attempts."""
        wanted = EventFilter(TYPES, task=task.id, since_s=_seconds(task.created_at) - LATE_S)
        position = await history.begin(wanted, newest=newest, since=None, n=None, until=newest)
        async for page in history.history(position, newest, wanted, reports_expired=False):
            for record in page.records:
                self._note(record["type"], record["worker"], str(record["at"]))
        if task.worker is not None and task.started_at is not None and not self._spans:
            self._note("task.started", task.worker, task.started_at)
        if task.state in ENDED:
            if self._spans and task.finished_at is not None:
                self._spans[-1] = (*self._spans[-1][:2], _after(task.finished_at))
            self.has_ended = True

    def takes(self, record: Record) -> bool:
        """Returns whether a record is of the task."""
        owner = record.get("task")
        if owner is not None:
            return owner == self._task
        worker, at = record["worker"], str(record["at"])
        self._exact = self._moments.of(self._task) or self._exact
        first = _stamp(self._exact[0].begin_ns) if self._exact else None
        return any(
            each.worker == worker
            and _stamp(each.begin_ns) <= at
            and (each.end_ns is None or at[:STAMP_CHARS] <= _stamp(each.end_ns))
            for each in self._exact
        ) or any(
            name == worker and begin <= at and (end is None or at < end)
            for name, begin, end in self._spans
            if first is None or begin < first[: len(begin)]
        )

    def _note(self, event_type: object, worker: object, at: str) -> None:
        if self._spans and self._spans[-1][2] is None:
            self._spans[-1] = (*self._spans[-1][:2], _after(at))
        if event_type == "task.started" and worker is not None:
            self._spans.append((str(worker), at[:-1], None))


class TaskLines:
    """Reads the lines of tasks."""

    def __init__(self, bus: Bus, history: EventHistory, logs: LogStore, moments: TaskMoments) -> None:
        self._bus = bus
        self._history = history
        self._logs = logs
        self._moments = moments

    async def of_task(
        self, task: Task, wanted: LogFilter, n: int | None, position: LogPosition | None, *, follow: bool
    ) -> AsyncGenerator[list[Record]]:
        """Yields the lines of a task that are wanted, in batches; with `follow` until it has ended."""
        log = TaskLog(task.id, self._moments)
        # The end is noted the moment it is published; nothing is queued.
        with self._bus.subscribe(TYPES[-1:], where=log.note_end):
            await log.load(self._history, self._bus.newest, task)
            created_s = _seconds(task.created_at)
            wanted = replace(
                wanted,
                names=log.workers | {task.agent},
                since=created_s if wanted.since is None else max(wanted.since, created_s),
                task=log,
            )
            if follow and not log.has_ended:
                follower = Follower(wanted)
                log.on_end(follower.end)
                batches = self._logs.follow(wanted, n, follower, position)
            else:
                if wanted.until is None and task.finished_at is not None:
                    wanted = replace(wanted, until=_seconds(task.finished_at) + LATE_S)
                batches = self._logs.history(wanted, n, position)
            async with aclosing(batches):
                async for batch in batches:
                    yield batch


def _ignore() -> None:
    return


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


@lru_cache(256)
def _stamp(at_ns: int) -> str:
    """Returns a time as lines have it, without the last digit."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return f"{rfc3339_seconds(seconds)}.{ns // 10:08d}"


def _after(at: str) -> str:
    """Returns the next millisecond, as what all times before it are less than."""
    later = datetime.fromisoformat(at) + _STEP
    return later.isoformat(timespec="milliseconds")[: len("2026-01-01T00:00:00.000")]
