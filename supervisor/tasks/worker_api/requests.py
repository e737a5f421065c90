"""Serves the requests and notifications of workers: tools, delegation, memory, checkpoints, events, progress, logs.

A worker is not trusted: it speaks only for its own tasks, sees only its own agent's memory, uses only
the tools that its agent and its task are allowed, and cannot invent events of the daemon.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from corral.supervisor.records.memory.key_value import KeyValues
from corral.supervisor.workers.supervision.checkpoints import Checkpoints, Reason
from corral.supervisor.workers.supervision.requests import Handler, Hearer, Requests
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.approvals import AskParams
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.parts import size_of
from corral.worker.contract.worker_messages import (
    BeatParams,
    CheckpointParams,
    ChildParams,
    DelegateAllParams,
    DelegateParams,
    MemoryParams,
    MemorySearchParams,
    PartsParams,
    ProgressParams,
    PublishParams,
    StepParams,
    StepsParams,
    StreamParams,
    SubscribeParams,
    UsageParams,
    WorkerCallParams,
    WorkerLogParams,
    WorkerToolsParams,
)

from ..run.backlog import Entry
from ..run.tasks import Tasks
from .approvals import Approvals
from .delegation import Delegation, child_of, parts_of
from .pubsub import WorkerPubsub
from .tool_calls import ToolCalls

LEVELS = ("debug", "info", "warning", "error", "critical")

T = TypeVar("T")


def convert(params: Mapping[str, object], type_: type[T], method: str) -> T:
    """Converts the params of a call to their Struct."""
    try:
        return msgspec.convert(params, type_)
    except msgspec.ValidationError as error:
        found = misfit_of(error, params, type_)
        text = f'cannot call "{method}": {found.words}'
        facts = {"key": found.key, "value": found.shown, "reason": found.rule}
        raise InvalidParams(text, method=method, **facts) from error


class WorkerApi:
    """Serves every worker of one daemon."""

    def __init__(
        self,
        requests: Requests[WorkerSupervisor],
        tasks: Tasks,
        tool_calls: ToolCalls,
        values: KeyValues,
        checkpoints: Checkpoints,
        approvals: Approvals,
        pubsub: WorkerPubsub,
    ) -> None:
        self._tasks = tasks
        self._tool_calls = tool_calls
        self._values = values
        self._checkpoints = checkpoints
        self._approvals = approvals
        self._pubsub = pubsub
        handlers: dict[str, Handler[WorkerSupervisor]] = {
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "task/delegate": self._delegate,
            "task/delegate_all": self._delegate_all,
            "task/parts": self._parts,
            "task/ask": self._ask,
            "task/cancel": self._cancel_child,
            "step/put": self._put_step,
            "step/list": self._list_steps,
            "memory/put": self._put,
            "memory/get": self._get,
            "memory/delete": self._delete,
            "memory/search": self._search,
            "checkpoint/put": self._checkpoint,
            "event/publish": self._publish,
            "event/subscribe": self._subscribe,
        }
        for method, handler in handlers.items():
            requests.serve(method, handler)
        hearers: dict[str, Hearer[WorkerSupervisor]] = {
            "stream": self._stream,
            "progress": self._progress,
            "log": self._log,
            "usage": self._usage,
            "heartbeat": self._beat,
        }
        for notification, hearer in hearers.items():
            requests.hear(notification, hearer)

    async def _list_tools(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, WorkerToolsParams, "tools/list")
        return {"tools": await self._tool_calls.tools_for(supervisor, asked.task)}

    async def _call_tool(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, WorkerCallParams, "tools/call")
        if asked.step is None:
            return await self._tool_calls.call_for(supervisor, asked)
        entry = self._entry_of(supervisor, asked.task, asked.step.number)
        return await self._tool_calls.call_in_step(supervisor, entry, asked, asked.step)

    # -- steps

    async def _put_step(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, StepParams, "step/put")
        entry = self._entry_of(supervisor, asked.task, asked.number)
        await self._tasks.steps.put(entry.task, asked, supervisor.spec.tasks.max_step_bytes)
        return {}

    async def _list_steps(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, StepsParams, "step/list")
        return await self._tasks.steps.page(self._entry_of(supervisor, asked.task).task, asked.after)

    def _entry_of(self, supervisor: WorkerSupervisor, task: str | None, number: int = 0) -> Entry:
        """Returns the running task whose step is meant, if it may have so many."""
        entry = self._tasks.accounting.task_of(supervisor, task)
        if entry is None:
            text = f'cannot keep a step for worker "{supervisor.id}": the request names no task that it runs'
            raise InvalidParams(text, key="task")
        limit = supervisor.spec.tasks.max_steps
        if number > limit:
            text = f'cannot keep step {number} of task "{entry.task.id}": {limit} are permitted (max_steps)'
            raise ResourceLimitExceeded(text, limit="max_steps", value=limit, task=entry.task.id)
        return entry

    async def _delegate(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, DelegateParams, "task/delegate")
        return await Delegation(self._tasks, supervisor, asked.task).one(asked)

    async def _delegate_all(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, DelegateAllParams, "task/delegate_all")
        return await Delegation(self._tasks, supervisor, asked.task).all(asked)

    async def _parts(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        return await parts_of(self._tasks, supervisor, convert(params, PartsParams, "task/parts"))

    async def _cancel_child(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, ChildParams, "task/cancel")
        child = await child_of(self._tasks, supervisor, asked.task)
        return msgspec.to_builtins(await self._tasks.cancel(child.id, "the worker that delegated it no longer waits"))

    async def _ask(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, AskParams, "task/ask")
        entry = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is None or entry.attempt is None:
            text = f'cannot ask for worker "{supervisor.id}": the request names no task that it runs'
            raise InvalidParams(text, key="task")
        with self._tasks.dispatcher.question(entry, entry.attempt, asked.question):
            found = await self._approvals.ask(entry.task, supervisor.id, asked)
        return msgspec.to_builtins(found)

    async def _put(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/put")
        await self._values.put(supervisor.spec.name, asked.session, asked.key, asked.value, ttl_s=asked.ttl_s)
        return {}

    async def _get(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/get")
        return {"value": await self._values.get(supervisor.spec.name, asked.session, asked.key)}

    async def _delete(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/delete")
        await self._values.delete(supervisor.spec.name, asked.session, asked.key)
        return {}

    async def _search(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemorySearchParams, "memory/search")
        items = await self._values.search(supervisor.spec.name, asked.session, asked.query, asked.limit)
        return {"items": items}

    async def _checkpoint(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, CheckpointParams, "checkpoint/put")
        entry = self._tasks.accounting.task_of(supervisor, asked.task) if asked.task is not None else None
        task = None if entry is None else entry.task.id
        reason: Reason = "worker" if task is None else "task"
        number = await self._checkpoints.put(supervisor.spec.name, supervisor.id, task, asked.data, reason)
        return {"id": number}

    async def _publish(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, PublishParams, "event/publish")
        return {"seq": self._pubsub.publish(supervisor, asked.type, asked.data)}

    async def _subscribe(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        self._pubsub.subscribe(supervisor, convert(params, SubscribeParams, "event/subscribe").types)
        return {}

    def _progress(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        asked = convert(params, ProgressParams, "progress")
        entry = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is not None:
            self._tasks.accounting.record_progress(entry, asked.progress, asked.total, asked.message)

    def _stream(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        asked = convert(params, StreamParams, "stream")
        if asked.task is not None and asked.task not in supervisor.running:
            return  # of a task that has just ended: many may be under way
        entry = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is not None:
            self._tasks.accounting.record_part(entry, asked.part, size_of(asked.part))

    def _beat(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        if "task" not in params:
            return  # a sign of life of the worker itself, which carries nothing
        entry = self._tasks.accounting.task_of(supervisor, convert(params, BeatParams, "heartbeat").task)
        if entry is not None:
            self._tasks.accounting.record_heartbeat(entry)

    def _usage(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        asked = convert(params, UsageParams, "usage")
        entry: Entry | None = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is not None:
            self._tasks.accounting.record_usage(entry, asked.tokens, asked.cost_cents)

    def _log(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        asked = convert(params, WorkerLogParams, "log")
        level = asked.level if asked.level in LEVELS else "info"
        threshold = supervisor.spec.monitoring.agent_log_level
        if threshold not in LEVELS or LEVELS.index(level) >= LEVELS.index(threshold):
            # A message of a task that has just ended is no error: it is one of the worker then.
            running = supervisor.running
            only = next(iter(running)) if len(running) == 1 else None
            task = only if asked.task is None else asked.task if asked.task in running else None
            supervisor.note(level, asked.message, asked.fields, task)
