"""The steps of a task in order of time, from its record, its events, its calls, its lines and the tasks that it delegated."""

import pytest

from corral.supervisor.api.reports.timeline import TEXT_CHARS, Timeline
from corral.worker.contract.records import Error, Task, TaskCall

pytestmark = pytest.mark.core

DAY = "2026-01-01T00:00"

TASK = Task(
    id="task-1",
    agent="a",
    worker="a-0",
    state="failed",
    attempt=2,
    objective="write",
    created_at=f"{DAY}:00.000Z",
    started_at=f"{DAY}:02.000Z",
    finished_at=f"{DAY}:09.500Z",
    duration_s=7.5,
    error=Error(-33009, "WorkerFailed", "it died"),
    peak_memory_bytes=1000,
    cpu_ms=5.0,
)


def event(kind: str, second: str, **fields: object) -> dict[str, object]:
    return {"type": kind, "at": f"{DAY}:{second}Z", "task": "task-1", "worker": "a-0", **fields}


def test_all_steps_are_in_order_of_time_whatever_their_source() -> None:
    events = [
        event("task.started", "01.000", attempt=1),
        event("task.progress", "01.300", progress=0.5, total=None, message="half", memory_bytes=7),
        event("task.retried", "01.900", reason="it died"),
        event("task.started", "02.000", attempt=2),
    ]
    calls = [TaskCall(tool="t__x", ok=False, outcome="error", at=f"{DAY}:03.000Z", duration_s=0.25)]
    child = Task(
        id="task-2",
        agent="b",
        state="succeeded",
        objective="read",
        created_at=f"{DAY}:04.000Z",
        finished_at=f"{DAY}:06.000Z",
        duration_s=1.5,
    )
    lines = [{"at": f"{DAY}:01.30000005Z", "worker": "a-0", "stream": "stdout", "text": "x" * 2000}]
    lines.append({"at": f"{DAY}:09.50000007Z", "worker": "a-0", "level": "error", "text": "last"})
    found = Timeline(TASK).history(events, calls, [child], lines)
    assert [(each.step, each.after_s) for each in found] == [
        ("queued", 0.0),
        ("started", 1.0),
        ("progress", 1.3),
        ("log", 1.3),
        ("retried", 1.9),
        ("started", 2.0),
        ("call", 3.0),
        ("delegated", 4.0),
        ("delegated", 6.0),
        ("log", 9.5),
        ("ended", 9.5),
    ]
    progress, line, end = found[2], found[3], found[-1]
    assert (progress.text, progress.memory_bytes) == ("50% half", 7)
    assert (line.level, len(line.text)) == ("stdout", TEXT_CHARS)
    assert (found[6].name, found[6].outcome, found[6].duration_s) == ("t__x", "error", 0.25)
    assert (found[8].name, found[8].task, found[8].outcome) == ("b", "task-2", "succeeded")
    assert (end.outcome, end.text, end.memory_bytes, end.cpu_ms) == ("failed", "it died", 1000, 5.0)


def test_a_task_without_events_has_what_its_record_has() -> None:
    found = Timeline(TASK).history([], [], [], [])
    assert [each.step for each in found] == ["queued", "started", "ended"]
    assert found[1].attempt == 2


def test_live_events_report_the_same_steps() -> None:
    timeline = Timeline(TASK)
    call = timeline.of_live_event(event("mcp.call", "03.250", tool="t__x", outcome="ok", duration_s=0.25))
    assert call is not None
    assert (call.step, call.at, call.name) == ("call", f"{DAY}:03.000Z", "t__x")
    queued = timeline.of_live_event({**event("task.queued", "04.000"), "task": "x", "agent": "b"})
    assert queued is not None
    assert (queued.step, queued.name, queued.task) == ("delegated", "b", "x")
    assert timeline.of_live_event(event("task.ended", "09.500")) is None, "its record tells it"
    started = timeline.of_live_event(event("task.started", "01.000", attempt=1))
    assert started is not None
    assert started.step == "started"
