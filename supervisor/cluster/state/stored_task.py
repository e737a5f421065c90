"""Defines an accepted task and its end as they are on the engine, with their names there."""

import hashlib
import secrets
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from corral.supervisor.tasks.run.submission import ON_ENGINE
from corral.worker.contract.records import Task, TaskParams

MARK = ON_ENGINE
"""The first character of the ids of these tasks; those of a daemon alone have none but hexadecimal digits."""

RESULTS = "results"
"""The prefix of the ends of tasks."""

RESULT_S = 7 * 86_400
"""Seconds that the end of a task is kept on the engine."""


class StoredTask(Struct, frozen=True, kw_only=True):
    """Represents an accepted task on the engine. `origin` is the node that waits for its end.

    With `whole_end` that node takes the whole end as a message; one of an older version takes the id, and reads the end.
    """

    id: str
    params: TaskParams
    created_at: str
    origin: str
    whole_end: bool = False


class StoredEnd(Struct, frozen=True, kw_only=True):
    """Represents the end of a task: its record, the node that wrote it, and the fencing token under which it did."""

    task: Task
    node: str
    token: int


def queue_of(agent: str, priority: int | None = None) -> str:
    """Returns the queue of the tasks of an agent that have a priority, None for its default one."""
    return f"tasks/{agent}" if priority is None else f"tasks/{agent}/{priority}"


def result_key(task_id: str) -> str:
    """Returns the key of the end of a task."""
    return f"{RESULTS}/{task_id}"


def id_of(params: TaskParams) -> str:
    """Returns a new id; that of its key where it has one, the same on every node."""
    if params.idempotency_key is None:
        return f"{MARK}{secrets.token_hex(8)}"
    words = f"{params.agent}\0{params.idempotency_key}".encode()
    return f"{MARK}{hashlib.sha256(words).hexdigest()[:16]}"


def queued_record(stored: StoredTask, default_priority: int = 5) -> Task:
    """Returns the record of a task that no node has begun."""
    params = stored.params
    assert params.agent is not None, "its tasks are those of an agent"
    return Task(
        id=stored.id,
        agent=params.agent,
        priority=params.priority or default_priority,
        objective=params.objective,
        input=params.input,
        context=params.context,
        boundaries=params.boundaries,
        output_format=params.output_format,
        idempotency_key=params.idempotency_key,
        session=params.session,
        created_at=stored.created_at,
        traceparent=params.traceparent,
    )


def encoded_task(stored: StoredTask) -> bytes:
    """Returns a task as JSON, without the params that are as they are by themselves: an older version reads those that it knows."""
    plain = msgspec.to_builtins(stored)
    given = {key: value for key, value in plain["params"].items() if _USUAL.get(key) != value}
    return msgspec.json.encode({**plain, "params": {"objective": "", **given}})


def now() -> str:
    """Returns the present time as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_USUAL: dict[str, object] = msgspec.to_builtins(TaskParams(objective=""))
