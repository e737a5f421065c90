"""Tells what a task did: its log lines, and its steps in order of time: attempts, progress, tool calls, delegated tasks, its end.

A message of the SDK has the id of its task. Printed lines have none: they belong to the tasks that their worker runs at that
time, to each of them where there are several. When an attempt began and ended is known exactly for the last tasks of this
daemon, and for earlier ones to the millisecond, from events and records. Every entry says how long after the task came it was.
Of a task whose events have expired, or were never stored, the record still says when it came, began last, and ended.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.events.history import EventFilter, EventHistory
from corral.supervisor.records.logs.file_format import LogFilter, Record, rfc3339_seconds
from corral.supervisor.records.logs.merging import LogPosition
from corral.supervisor.records.logs.store import Follower, LogStore
from corral.supervisor.workers.supervision.task_moments import Moments, TaskMoments
from corral.worker.contract.records import ENDED, Task, TaskCall, copied
from corral.worker.control.reports import TaskLogEntry, TaskStep

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
        first = _line_stamp(self._exact[0].begin_ns) if self._exact else None
        return any(
            each.worker == worker
            and _line_stamp(each.begin_ns) <= at
            and (each.end_ns is None or at[:STAMP_CHARS] <= _line_stamp(each.end_ns))
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
def _line_stamp(at_ns: int) -> str:
    """Returns a time as lines have it, without the last digit."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return f"{rfc3339_seconds(seconds)}.{ns // 10:08d}"


def _after(at: str) -> str:
    later = datetime.fromisoformat(at) + _STEP
    return later.isoformat(timespec="milliseconds")[: len("2026-01-01T00:00:00.000")]


TEXT_CHARS = 1_000
"""Number of characters of a line or a message in an entry."""

EVENT_STEPS: Mapping[str, TaskStep] = {
    "task.started": "started",
    "task.progress": "progress",
    "task.retried": "retried",
}
"""The step that an event of the task itself tells; its beginning and its end are in its record."""

ORDER: Sequence[TaskStep] = (*("queued", "started", "progress", "log", "call", "delegated", "retried", "ended"),)
"""Order of steps at the same time."""


class Timeline:
    """Makes entries of one task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._created = _moment(task.created_at)

    def history(
        self,
        events: Iterable[Mapping[str, object]],
        calls: Iterable[TaskCall],
        children: Iterable[Task],
        lines: Iterable[Mapping[str, object]],
    ) -> list[TaskLogEntry]:
        """Returns all entries, in order of time."""
        task = self._task
        found = [self._entry(task.created_at, "queued", text=task.objective)]
        published = [entry for event in events if (entry := self.of_event(event)) is not None]
        if task.started_at is not None and not any(each.step == "started" for each in published):
            found.append(self._entry(task.started_at, "started", attempt=task.attempt, worker=task.worker))
        found += published
        found += [self._of_call(call) for call in calls]
        found += [self.of_line(line) for line in lines]
        for child in children:
            found += self.of_child(child)
        if task.state in ENDED and task.finished_at is not None:
            found.append(self.end())
        return sorted(found, key=_place)

    def of_event(self, event: Mapping[str, object]) -> TaskLogEntry | None:
        """Returns the entry of a stored event of the task; None where its record tells the same."""
        step = EVENT_STEPS.get(str(event.get("type")))
        if step is None or event.get("task") != self._task.id:
            return None
        return self._entry(
            str(event["at"]),
            step,
            text=_text(event),
            attempt=_integer(event.get("attempt")),
            worker=_optional(event.get("worker")),
            memory_bytes=_integer(event.get("memory_bytes")),
        )

    def of_live_event(self, event: Mapping[str, object]) -> TaskLogEntry | None:
        """Returns the entry of an event as it is published: also of tool calls and delegated tasks."""
        kind, at = str(event.get("type")), str(event["at"])
        if kind == "mcp.call":
            took_s = _number(event.get("duration_s")) or 0.0
            return self._entry(
                _stamp(_moment(at) - timedelta(seconds=took_s)),
                "call",
                name=str(event.get("tool")),
                outcome=_optional(event.get("outcome")),
                duration_s=took_s,
                worker=_optional(event.get("worker")),
            )
        if event.get("task") == self._task.id:
            return self.of_event(event)
        if kind not in ("task.queued", "task.ended"):
            return None
        return self._entry(
            at,
            "delegated",
            name=_optional(event.get("agent")),
            task=_optional(event.get("task")),
            text=_text(event),
            outcome=_optional(event.get("state")),
            duration_s=_number(event.get("duration_s")),
        )

    def of_line(self, line: Mapping[str, object]) -> TaskLogEntry:
        """Returns the entry of a log line."""
        return self._entry(
            str(line["at"]),
            "log",
            text=str(line.get("text", "")),
            worker=_optional(line.get("worker")),
            level=_optional(line.get("level")) or _optional(line.get("stream")),
        )

    def of_child(self, child: Task) -> list[TaskLogEntry]:
        """Returns the entries of a delegated task: when it was, and when it ended."""
        begin = self._entry(child.created_at, "delegated", name=child.agent, task=child.id, text=child.objective)
        if child.state not in ENDED or child.finished_at is None:
            return [begin]
        end = self._entry(
            child.finished_at,
            "delegated",
            name=child.agent,
            task=child.id,
            text="" if child.error is None else child.error.message,
            outcome=child.state,
            duration_s=child.duration_s,
            memory_bytes=child.peak_memory_bytes,
        )
        return [begin, end]

    def end(self, ended: Task | None = None) -> TaskLogEntry:
        """Returns the entry of its end; `ended` is its record by then."""
        task = ended or self._task
        return self._entry(
            task.finished_at or task.created_at,
            "ended",
            text="" if task.error is None else task.error.message,
            **copied(task, "attempt worker duration_s cpu_ms tool_calls tokens_used cost_cents"),
            outcome=task.state,
            memory_bytes=task.peak_memory_bytes,
        )

    def _of_call(self, call: TaskCall) -> TaskLogEntry:
        return self._entry(call.at, "call", name=call.tool, outcome=call.outcome, duration_s=call.duration_s)

    def _entry(
        self,
        at: str,
        step: TaskStep,
        *,
        text: str = "",
        attempt: int | None = None,
        worker: str | None = None,
        level: str | None = None,
        name: str | None = None,
        task: str | None = None,
        outcome: str | None = None,
        duration_s: float | None = None,
        memory_bytes: int | None = None,
        cpu_ms: float | None = None,
        tool_calls: int | None = None,
        tokens_used: int | None = None,
        cost_cents: float | None = None,
    ) -> TaskLogEntry:
        return TaskLogEntry(
            at=at,
            step=step,
            after_s=round((_moment(at) - self._created).total_seconds(), 3),
            text=text[:TEXT_CHARS],
            attempt=attempt,
            worker=worker,
            level=level,
            name=name,
            task=task,
            outcome=outcome,
            duration_s=duration_s,
            memory_bytes=memory_bytes,
            cpu_ms=cpu_ms,
            tool_calls=tool_calls,
            tokens_used=tokens_used,
            cost_cents=cost_cents,
        )


def _place(entry: TaskLogEntry) -> tuple[bool, str, int]:
    """Returns the place of an entry; the end is last: its time has milliseconds, that of the last line is exact."""
    return (entry.step == "ended", entry.at.rstrip("Z"), ORDER.index(entry.step))


def _text(event: Mapping[str, object]) -> str:
    done, message = _number(event.get("progress")), event.get("message") or event.get("reason")
    words = str(message or "")
    if done is None:
        return words
    total = _number(event.get("total"))
    share = f"{done:.0%}" if total is None else f"{done:g}/{total:g}"
    return f"{share} {words}".rstrip()


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _optional(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
