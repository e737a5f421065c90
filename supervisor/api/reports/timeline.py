"""Puts the steps of one task in order of time: attempts, progress, log lines, tool calls, delegated tasks, and its end.

Pure: records in, entries out. Every entry says how long after the task came it was. Of a task whose events have expired, or
were never stored, the record still says when it came, began last, and ended.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from corral.worker.contract.records import ENDED, Task, TaskCall
from corral.worker.control.reports import TaskLogEntry, TaskStep

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
            attempt=task.attempt,
            worker=task.worker,
            outcome=task.state,
            duration_s=task.duration_s,
            memory_bytes=task.peak_memory_bytes,
            cpu_ms=task.cpu_ms,
            tool_calls=task.tool_calls,
            tokens_used=task.tokens_used,
            cost_cents=task.cost_cents,
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
