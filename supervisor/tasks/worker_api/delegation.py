"""Delegates parts of a task to other agents, by a worker's `task/delegate` and `task/delegate_all`.

The request waits for the ends. The queue decides about the depth, the number and circles, and cancels the children
when the parent ends; here the children are cancelled when the request is withdrawn. What was submitted, and the records of
those that have ended, are noted of the request: another program of the daemon submits nothing twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from difflib import get_close_matches
from functools import partial
from typing import cast

import msgspec

from corral.supervisor.workers.supervision.line import UNSETTLED
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.channel import begun
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound, ResourceLimitExceeded
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Task, TaskParams
from corral.worker.contract.steps import is_key
from corral.worker.contract.worker_messages import DelegateAllParams, DelegateParams, PartsParams

from ..run.backlog import Entry, Origin
from ..run.buffer import Cursor
from ..run.tasks import Tasks

ANSWER_BYTES = MAX_MESSAGE_BYTES - 1024 * 1024
"""Bytes of the records of `task/delegate_all` together; for one that finds no room the answer has its id."""

_FIELDS = TaskParams.__struct_fields__


class Children:
    """Holds what a request has submitted, by number: in the note of the request, where another program finds it."""

    def __init__(self, note: dict[str, object]) -> None:
        self._note = note
        self.ids = dict(codec.as_object(note.get("tasks")) or {})
        self.records = dict(codec.as_object(note.get("records")) or {})
        """What is answered for those that have ended."""

    async def submitted(self, number: int, submit: Callable[[], Awaitable[Task]]) -> Task:
        """Returns a task when it is accepted, and notes it."""
        self._settle(+1)
        try:
            task = await submit()
        finally:
            self._settle(-1)
        self.ids[str(number)] = task.id
        self._note["tasks"] = self.ids
        return task

    def note_end(self, number: int, record: object) -> None:
        """Notes what is answered for a task."""
        self.records[str(number)] = record
        self._note["records"] = self.records

    def _settle(self, step: int) -> None:
        count = self._note.get(UNSETTLED)
        self._note[UNSETTLED] = step + (count if isinstance(count, int) else 0)


class Delegation:
    """Runs one request of a worker to delegate."""

    def __init__(self, tasks: Tasks, supervisor: WorkerSupervisor, task: str | None) -> None:
        if task is None and len(supervisor.running) > 1:
            # A child of none of them would be bound by no limits, and cancelled with none.
            raise InvalidParams(
                f'cannot delegate for worker "{supervisor.id}": it runs {len(supervisor.running)} tasks, and the request names none',
                key="task",
            )
        self._tasks = tasks
        self._tenant = tenant_of(supervisor.spec.name)
        self._entry = tasks.accounting.task_of(supervisor, task)
        self._children = Children(begun())
        self._room = ANSWER_BYTES - sum(len(codec.encode(each)) for each in self._children.records.values())

    @property
    def _parent(self) -> Task | None:
        return None if self._entry is None else self._entry.task

    async def one(self, asked: DelegateParams) -> object:
        """Returns the record of the child when it has ended."""
        params = TaskParams(**{name: getattr(asked, name) for name in _FIELDS})
        if not asked.wait:
            return msgspec.to_builtins(await self._child(0, params))
        if (known := self._children.records.get("0")) is not None:
            return known
        record = msgspec.to_builtins(await self._ended(0, params))
        self._children.note_end(0, record)
        return record

    async def all(self, asked: DelegateAllParams) -> dict[str, object]:
        """Returns `{"results": […]}` in the order of the tasks: each the record, or `{"error": …}` where none was accepted."""
        parent, children = self._parent, self._children
        if parent is not None and not children.ids:
            self._tasks.accounting.check_may_delegate(parent, len(asked.tasks))
        results = [children.records.get(str(number)) for number in range(len(asked.tasks))]
        left = iter([(number, task) for number, task in enumerate(asked.tasks) if results[number] is None])
        at_once = min(asked.max_parallel or len(asked.tasks), len(asked.tasks))
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(self._work_off(left, results))
        return {"results": results}

    async def _work_off(self, left: Iterator[tuple[int, TaskParams]], results: list[object]) -> None:
        for index, params in left:
            try:
                task = await self._ended(index, params)
                record = cast("dict[str, object]", msgspec.to_builtins(task))  # a Struct's fields have names
                size = len(codec.encode(record))
                if size > self._room:
                    words = f'cannot answer with the record of task "{task.id}": all together are too long; it is in the store'
                    raise ResourceLimitExceeded(
                        words, limit="message", value=MAX_MESSAGE_BYTES, task=task.id, state=task.state
                    )
                self._room -= size
                results[index] = record
            except CorralError as error:
                results[index] = {"error": error.to_record()}
            self._children.note_end(index, results[index])

    async def _child(self, number: int, params: TaskParams) -> Task:
        """Returns a task that is submitted now, or was by another program of this daemon."""
        known = self._children.ids.get(str(number))
        if known is None:
            return await self._children.submitted(number, partial(self._submitted, params))
        return await self._tasks.show(str(known))

    async def _submitted(self, params: TaskParams) -> Task:
        try:
            child = await self._tasks.submit(params, Origin(self._parent, tenant=self._tenant))
        except NotFound as error:
            known = codec.as_array(error.data.get("known")) or []
            near = get_close_matches(params.agent or "", [str(each) for each in known], 1)
            if not near:
                raise
            raise NotFound(f'{error.message}; did you mean "{near[0]}"?', **{**error.data, "near": near}) from error
        return child

    async def _ended(self, number: int, params: TaskParams) -> Task:
        child = await self._child(number, params)
        entry = self._entry
        if entry is not None and child.parent != entry.task.id:
            return await self._others(child, entry)
        try:
            return await self._tasks.wait(child.id)
        except asyncio.CancelledError as reason:
            # A connection that ends gives no reason: then the next beginning of the task awaits the child of a step again.
            if reason.args or not is_key(params.idempotency_key):
                await self._tasks.cancel(child.id, "the worker that delegated it no longer waits")
            raise

    async def _others(self, child: Task, entry: Entry) -> Task:
        """Returns the ended record of a task that had the idempotency key already: it is waited for, and never cancelled here."""
        # It need not have a place of its own any more; it has to end.
        awaited = Task(id="", agent=child.agent, kind="team", after=[child.id])
        self._tasks.accounting.check_can_run(awaited, entry.task)
        entry.waits.append(child.id)
        try:
            return await self._tasks.wait(child.id)
        finally:
            entry.waits.remove(child.id)


async def child_of(tasks: Tasks, supervisor: WorkerSupervisor, task: str) -> Task:
    """Returns the record of a task that a running task of the worker has delegated."""
    child = await tasks.show(task)
    if child.parent not in supervisor.running:
        raise NotFound(f'cannot find task "{task}" below a task of worker "{supervisor.id}"', task=task)
    return child


async def parts_of(tasks: Tasks, supervisor: WorkerSupervisor, asked: PartsParams) -> dict[str, object]:
    """Returns what a child has streamed, or its record when it has ended and nothing more is to be read."""
    child = await child_of(tasks, supervisor, asked.task)
    buffer = tasks.parts(child.id)
    cursor = Cursor(asked.delivery, asked.number, asked.number > 0)
    while buffer is not None:
        found: list[object] = []
        while (message := buffer.read(cursor)) is not None:
            found.append(message)
        if found:
            return {"parts": found, "record": None}
        if buffer.closed.is_set():
            break
        await buffer.stirred.wait()
    return {"parts": [], "record": msgspec.to_builtins(await tasks.wait(child.id))}
