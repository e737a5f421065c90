"""Defines an accepted task and its end as they are on the engine, with their names there."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.tasks.run.cluster import ON_ENGINE
from corral.supervisor.tasks.run.record_writer import end_facts
from corral.worker.contract.errors import ResourceLimitExceeded
from corral.worker.contract.records import ENDED, Error, Task, TaskParams

from ..engine.interface import VALUE_BYTES_MAX

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
    """Represents the end of a task: its record, the node that wrote it, and the fencing token under which it did, 0 for one that waited.

    `teller` is the daemon that publishes it, as `NODE INCARNATION`, "" for an older version. `events` are those of the
    task on that node up to its end, which are in the store of that node alone.
    """

    task: Task
    node: str
    token: int
    teller: str = ""
    events: list[dict[str, object]] = []


def queue_of(agent: str, priority: int | None = None) -> str:
    """Returns the queue of the tasks of an agent that have a priority, None for its default one."""
    return f"tasks/{agent}" if priority is None else f"tasks/{agent}/{priority}"


def result_key(task_id: str) -> str:
    """Returns the key of the end of a task."""
    return f"{RESULTS}/{task_id}"


def id_of(params: TaskParams) -> str:
    """Returns a new id; that of its key where it has one, the same on every node."""
    if params.idempotency_key is None:
        return f"{ON_ENGINE}{secrets.token_hex(8)}"
    words = f"{params.agent}\0{params.idempotency_key}".encode()
    return f"{ON_ENGINE}{hashlib.sha256(words).hexdigest()[:16]}"


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
        queue_timeout_s=params.queue_timeout_s,
        deadline_at=None if params.deadline_s is None else rfc3339(accepted_at(stored) + params.deadline_s),
        created_at=stored.created_at,
        traceparent=params.traceparent,
    )


def accepted_at(stored: StoredTask) -> float:
    """Returns when a task was accepted, in seconds of the Unix epoch."""
    return datetime.fromisoformat(stored.created_at).timestamp()


def encoded_end(end: StoredEnd) -> tuple[StoredEnd, bytes]:
    """Returns an end, also as JSON; that of a task whose record is too long for the engine is a failure."""
    value = msgspec.json.encode(end)
    if len(value) <= VALUE_BYTES_MAX:
        return end, value
    text = f"its record has {len(value)} bytes, and the engine takes {VALUE_BYTES_MAX}"
    error = ResourceLimitExceeded(f'cannot keep the output of task "{end.task.id}": {text}')
    short = replace(end.task, state="failed", output=None, input=None, context=None, error=Error.of(error))
    end = replace(end, task=short)
    return end, msgspec.json.encode(end)


def events_of(task: Task, node: str | None, events: Sequence[Mapping[str, object]] = ()) -> list[dict[str, object]]:
    """Returns what the engine knows of the events of a task, in the shape of `event.list`: those of a node, and what its record says.

    An event of the record has no number: `seq` is 0.
    """
    plain: dict[str, object] = {"seq": 0, "agent": task.agent, "task": task.id, "incarnation": None, "node": node}
    queued = {**plain, "at": task.created_at, "type": "task.queued", "worker": None, "attempt": 0}
    found = [{**queued, "priority": task.priority, "parent": task.parent}]
    found += [{**each, "node": node} for each in events]
    if task.state in ENDED:
        ended = {**plain, "at": task.finished_at, "type": "task.ended", "worker": task.worker, "attempt": task.attempt}
        found.append({**ended, **end_facts(task)})
    return found


def encoded_task(stored: StoredTask) -> bytes:
    """Returns a task as JSON, without the params that are as they are by themselves: an older version reads those that it knows."""
    plain = msgspec.to_builtins(stored)
    given = {key: value for key, value in plain["params"].items() if _USUAL.get(key) != value}
    return msgspec.json.encode({**plain, "params": {"objective": "", **given}})


def now() -> str:
    """Returns the present time as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_USUAL: dict[str, object] = msgspec.to_builtins(TaskParams(objective=""))
