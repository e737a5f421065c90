"""Keeps the steps of tasks in the store: their results are there before a handler goes on, and go with their task.

A step that has ended is never run again at a later beginning of its task. One that failed is; its `tries` are counted,
since a task that it delegated is another one then. Of a tool call the beginning is kept, too: one without an end may have
been made. The steps of a task of a placed agent are on the engine of its cluster. Of the others, one that is not durable keeps none.
"""

import time
import zlib

import msgspec

from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.records.store.batch import Batches
from corral.supervisor.records.store.store import Row, Statement, Store, moment_of, number_of
from corral.worker.contract import codec
from corral.worker.contract.errors import Corrupted, ResourceLimitExceeded
from corral.worker.contract.records import StepState, Task, TaskStep
from corral.worker.contract.worker_messages import CallStep, StepParams

from .cluster import Cluster, is_on_engine

PAGE_BYTES = 1024 * 1024
"""Bytes of the results that one message has; the worker asks for the rest when it comes to it."""

PAGE_ROWS = 1_000

_COLUMNS = "number, step, state, kind, at, duration_s, delivery, tries, error, result, checksum"

_SAVE = (
    f"INSERT INTO task_step (task, {_COLUMNS})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (task, number) DO UPDATE SET step = excluded.step,"
    " state = excluded.state, kind = excluded.kind, at = excluded.at, duration_s = excluded.duration_s,"
    " delivery = excluded.delivery, tries = task_step.tries + excluded.tries, error = excluded.error,"
    " result = excluded.result, checksum = excluded.checksum WHERE task_step.state <> 'done'"
)

_READ = f"SELECT {_COLUMNS} FROM task_step WHERE task = ? AND number > ? ORDER BY number LIMIT ?"

MEMO = "memo"
"""Kind of what an agent without steps was answered; its worker knows nothing of it."""

_OWN = f"SELECT {_COLUMNS} FROM task_step WHERE task = ? AND number > ? AND kind <> '{MEMO}' ORDER BY number LIMIT ?"

_INHERIT = (
    f"INSERT OR IGNORE INTO task_step (task, {_COLUMNS}) SELECT ?, {_COLUMNS} FROM task_step AS old"
    " WHERE old.task = ? AND old.state = 'done' AND old.number < coalesce("
    "(SELECT number FROM task_step WHERE task = old.task AND step = ?), 9223372036854775807)"
)


class Steps:
    """Reads and writes the steps of one daemon's tasks."""

    def __init__(self, store: Store, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster
        self._batches = Batches(store)

    async def put(self, task: Task, ended: StepParams, max_bytes: int) -> None:
        """Keeps the end of a step; it is durable when this returns.

        Raises:
            ResourceLimitExceeded: the result is longer than `max_bytes`.
        """
        state, result = ("done", codec.encode(ended.result)) if ended.error is None else ("failed", None)
        if result is not None and len(result) > max_bytes:
            raise ResourceLimitExceeded(
                f'cannot keep step "{ended.name}" of task "{task.id}": its result has {len(result)} bytes,'
                f" more than {max_bytes} (max_step_bytes)",
                **{"limit": "max_step_bytes", "value": len(result), "task": task.id, "step": ended.name},
            )
        times = (ended.at, ended.duration_s)
        await self._save(task, (ended.number, ended.name, state, ended.kind, *times), ended.error, result)

    async def begin_call(self, task: Task, call: CallStep) -> None:
        """Keeps that a tool is about to be called, before it is."""
        await self._save(task, (call.number, call.name, "running", "tool", time.time(), None), None, None)

    async def _save(self, task: Task, row: Row, error: str | None, result: bytes | None) -> None:
        checksum = None if result is None else zlib.crc32(result)
        row = (*row, task.delivery, int(error is not None), error, result, checksum)
        if is_on_engine(task.id):
            await self._cluster.steps.keep(task, _step(task.id, row))
        elif task.durable:
            await self._batches.write(_SAVE, (task.id, *row))

    async def of(self, task: Task, after: int = 0, count: int = PAGE_ROWS, *, own: bool = False) -> list[TaskStep]:
        """Returns the steps of a task after a number, with their results, as many as fit into one message; `own` ones alone are its worker's.

        Raises:
            Corrupted: a result in the store is not as it was written.
        """
        rows = await self._store.read(_OWN if own else _READ, (task.id, after, count))
        found: list[TaskStep] = []
        room = PAGE_BYTES
        for row in rows:
            room -= _size(row[9])
            if room < 0 and found:
                break
            found.append(_step(task.id, row))
        return found

    async def page(self, task: Task, after: int = 0) -> dict[str, object]:
        """Returns the steps after a number as a worker takes them: `{"kept": […], "more": bool}`."""
        more: object
        if is_on_engine(task.id):
            found, more = await self._cluster.steps.read(task.id, after)
        else:
            found = await self.of(task, after, own=True)
            last = found[-1].number if found else after
            more = await self._store.read(_OWN, (task.id, last, 1))
        kept = [
            {"number": s.number, "name": s.name, "state": s.state, "tries": s.tries, "result": s.result} for s in found
        ]
        return {"kept": kept, "more": bool(more)}

    async def all(self, task: Task) -> list[TaskStep]:
        """Returns the steps of a task, without the results beyond those of one message."""
        if is_on_engine(task.id):
            kept = await self._cluster.steps.read(task.id)
            return [*kept.whole, *kept.rest]
        found = await self.of(task)
        after = found[-1].number if found else 0
        while rows := await self._store.read(_READ, (task.id, after, PAGE_ROWS)):
            found += [_step(task.id, (*row[:9], None, None), size=_size(row[9])) for row in rows]
            after = found[-1].number
        return found


def inherited(task: Task) -> Statement:
    """Returns what gives a retry the ended steps of the task that it replaces, up to the one from which it runs anew."""
    return _INHERIT, (task.id, task.retry_of, task.retried_from)


def _size(result: object) -> int:
    return len(result) if isinstance(result, bytes) else 0


def _step(task: str, row: Row, size: int | None = None) -> TaskStep:
    number, step, state, kind, at, duration_s, delivery, tries, error, result, checksum = row
    value: object = None
    if isinstance(result, bytes):
        if zlib.crc32(result) != checksum:
            text = f'cannot read step "{step}" of task "{task}": its result in the store is damaged'
            raise Corrupted(text, record=f"step {number} of task {task}", task=task, step=str(step))
        value = msgspec.json.decode(result)
    return TaskStep(
        number=number_of(number),
        name=str(step),
        state=msgspec.convert(state, StepState),
        kind=str(kind),
        at=rfc3339(moment_of(at)),
        duration_s=None if duration_s is None else moment_of(duration_s),
        delivery=number_of(delivery),
        tries=number_of(tries),
        size_bytes=_size(result) if size is None else size,
        error=None if error is None else str(error),
        result=value,
    )
