"""Serves the requests and notifications of workers: tools, delegation, memory, checkpoints, events, progress, logs.

A worker is not trusted: it speaks only for its own tasks, sees only its own agent's memory, uses only
the tools that its agent and its task are allowed, and cannot invent events of the daemon.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from corral.mcp.pool.short_list import target_of
from corral.supervisor.records.memory.key_value import KeyValues
from corral.supervisor.workers.supervision.checkpoints import Checkpoints, Reason
from corral.supervisor.workers.supervision.requests import Requests
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import worker_messages as messages
from corral.worker.contract.approvals import AskParams
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, PermissionDenied, ResourceLimitExceeded
from corral.worker.contract.mcp_info import CALL_TOOL
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.parts import size_of

from ..run.backlog import Entry
from ..run.tasks import Tasks
from . import exposed
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


_Served = tuple[type[Any], Callable[[WorkerSupervisor, Any], Any]]  # Any: each has params and an answer of its own


def _converting(method: str, type_: type[Any], serve: Callable[[WorkerSupervisor, Any], Any]) -> Callable[..., Any]:
    """Returns what serves a method with its params as they come."""

    def served(supervisor: WorkerSupervisor, params: Mapping[str, object]) -> Any:  # Any: an awaitable, or nothing
        return serve(supervisor, convert(params, type_, method))

    return served


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
        handlers: dict[str, _Served] = {
            "tools/list": (messages.WorkerToolsParams, self._list_tools),
            "tools/call": (messages.WorkerCallParams, self._call_tool),
            "task/delegate": (messages.DelegateParams, self._delegate),
            "task/delegate_all": (messages.DelegateAllParams, self._delegate_all),
            "task/parts": (messages.PartsParams, self._parts),
            "task/ask": (AskParams, self._ask),
            "task/cancel": (messages.ChildParams, self._cancel_child),
            "step/put": (messages.StepParams, self._put_step),
            "step/list": (messages.StepsParams, self._list_steps),
            "memory/put": (messages.MemoryParams, self._put),
            "memory/get": (messages.MemoryParams, self._get),
            "memory/delete": (messages.MemoryParams, self._delete),
            "memory/search": (messages.MemorySearchParams, self._search),
            "checkpoint/put": (messages.CheckpointParams, self._checkpoint),
            "event/publish": (messages.PublishParams, self._publish),
            "event/subscribe": (messages.SubscribeParams, self._subscribe),
        }
        for method, (type_, handler) in handlers.items():
            requests.serve(method, _converting(method, type_, handler))
        hearers: dict[str, _Served] = {
            "stream": (messages.StreamParams, self._stream),
            "progress": (messages.ProgressParams, self._progress),
            "log": (messages.WorkerLogParams, self._log),
            "usage": (messages.UsageParams, self._usage),
        }
        for notification, (type_, hearer) in hearers.items():
            requests.hear(notification, _converting(notification, type_, hearer))
        requests.hear("heartbeat", self._beat)

    async def _list_tools(self, supervisor: WorkerSupervisor, asked: messages.WorkerToolsParams) -> object:
        return {"tools": await self._tool_calls.tools_for(supervisor, asked.task, short=not asked.all)}

    async def _call_tool(self, supervisor: WorkerSupervisor, asked: messages.WorkerCallParams) -> object:
        if asked.name != CALL_TOOL:
            return await self._call_meant(supervisor, asked)
        try:
            asked = replace(asked, **target_of(asked.arguments)._asdict())
            return await self._call_meant(supervisor, asked)
        except (
            InvalidParams,
            NotFound,
            PermissionDenied,
            Conflict,
        ) as error:  # a model reads what is wrong with its call
            return exposed.failed(await self._tool_calls.told(supervisor, asked, error))

    async def _call_meant(self, supervisor: WorkerSupervisor, asked: messages.WorkerCallParams) -> object:
        if asked.step is None:
            return await self._tool_calls.call_for(supervisor, asked)
        entry = self._entry_of(supervisor, asked.task, asked.step.number)
        return await self._tool_calls.call_in_step(supervisor, entry, asked, asked.step)

    async def _put_step(self, supervisor: WorkerSupervisor, asked: messages.StepParams) -> object:
        entry = self._entry_of(supervisor, asked.task, asked.number)
        await self._tasks.steps.put(entry.task, asked, supervisor.spec.tasks.max_step_bytes)
        return {}

    async def _list_steps(self, supervisor: WorkerSupervisor, asked: messages.StepsParams) -> object:
        return await self._tasks.steps.page(self._entry_of(supervisor, asked.task).task, asked.after)

    def _entry_of(self, supervisor: WorkerSupervisor, task: str | None, number: int = 0) -> Entry:
        """Returns the running task whose step is meant, if it may have so many."""
        entry = self._tasks.accounting.task_of(supervisor, task)
        if entry is None:
            text = f'cannot keep a step for worker "{supervisor.id}": the request names no task that it runs'
            raise InvalidParams(text, key="task")
        if number and supervisor.spec.memo:
            text = f'cannot keep step {number} of task "{entry.task.id}": its agent has a memo, which is for agents without steps'
            raise InvalidParams(text, key="memo", task=entry.task.id)
        limit = supervisor.spec.tasks.max_steps
        if number > limit:
            text = f'cannot keep step {number} of task "{entry.task.id}": {limit} are permitted (max_steps)'
            raise ResourceLimitExceeded(text, limit="max_steps", value=limit, task=entry.task.id)
        return entry

    async def _delegate(self, supervisor: WorkerSupervisor, asked: messages.DelegateParams) -> object:
        return await Delegation(self._tasks, supervisor, asked.task).one(asked)

    async def _delegate_all(self, supervisor: WorkerSupervisor, asked: messages.DelegateAllParams) -> object:
        return await Delegation(self._tasks, supervisor, asked.task).all(asked)

    async def _parts(self, supervisor: WorkerSupervisor, asked: messages.PartsParams) -> object:
        return await parts_of(self._tasks, supervisor, asked)

    async def _cancel_child(self, supervisor: WorkerSupervisor, asked: messages.ChildParams) -> object:
        child = await child_of(self._tasks, supervisor, asked.task)
        return msgspec.to_builtins(await self._tasks.cancel(child.id, "the worker that delegated it no longer waits"))

    async def _ask(self, supervisor: WorkerSupervisor, asked: AskParams) -> object:
        entry = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is None or entry.attempt is None:
            text = f'cannot ask for worker "{supervisor.id}": the request names no task that it runs'
            raise InvalidParams(text, key="task")
        with self._tasks.dispatcher.question(entry, entry.attempt, asked.question):
            found = await self._approvals.ask(entry.task, supervisor.id, asked)
        return msgspec.to_builtins(found)

    async def _put(self, supervisor: WorkerSupervisor, asked: messages.MemoryParams) -> object:
        await self._values.put(supervisor.spec.name, asked.session, asked.key, asked.value, ttl_s=asked.ttl_s)
        return {}

    async def _get(self, supervisor: WorkerSupervisor, asked: messages.MemoryParams) -> object:
        return {"value": await self._values.get(supervisor.spec.name, asked.session, asked.key)}

    async def _delete(self, supervisor: WorkerSupervisor, asked: messages.MemoryParams) -> object:
        await self._values.delete(supervisor.spec.name, asked.session, asked.key)
        return {}

    async def _search(self, supervisor: WorkerSupervisor, asked: messages.MemorySearchParams) -> object:
        items = await self._values.search(supervisor.spec.name, asked.session, asked.query, asked.limit)
        return {"items": items}

    async def _checkpoint(self, supervisor: WorkerSupervisor, asked: messages.CheckpointParams) -> object:
        entry = self._tasks.accounting.task_of(supervisor, asked.task) if asked.task is not None else None
        task = None if entry is None else entry.task.id
        reason: Reason = "worker" if task is None else "task"
        number = await self._checkpoints.put(supervisor.spec.name, supervisor.id, task, asked.data, reason)
        return {"id": number}

    async def _publish(self, supervisor: WorkerSupervisor, asked: messages.PublishParams) -> object:
        return {"seq": self._pubsub.publish(supervisor, asked.type, asked.data)}

    async def _subscribe(self, supervisor: WorkerSupervisor, asked: messages.SubscribeParams) -> object:
        self._pubsub.subscribe(supervisor, asked.types)
        return {}

    def _progress(self, supervisor: WorkerSupervisor, asked: messages.ProgressParams) -> None:
        entry = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is not None:
            self._tasks.accounting.record_progress(entry, asked.progress, asked.total, asked.message)

    def _stream(self, supervisor: WorkerSupervisor, asked: messages.StreamParams) -> None:
        if asked.task is not None and asked.task not in supervisor.running:
            return  # of a task that has just ended: many may be under way
        entry = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is not None:
            self._tasks.accounting.record_part(entry, asked.part, size_of(asked.part))

    def _beat(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        if "task" not in params:
            return  # a sign of life of the worker itself, which carries nothing
        entry = self._tasks.accounting.task_of(supervisor, convert(params, messages.BeatParams, "heartbeat").task)
        if entry is not None:
            self._tasks.accounting.record_heartbeat(entry)

    def _usage(self, supervisor: WorkerSupervisor, asked: messages.UsageParams) -> None:
        entry: Entry | None = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is not None:
            self._tasks.accounting.record_usage(entry, asked.tokens, asked.cost_cents)

    def _log(self, supervisor: WorkerSupervisor, asked: messages.WorkerLogParams) -> None:
        level = asked.level if asked.level in LEVELS else "info"
        threshold = supervisor.spec.monitoring.agent_log_level
        if threshold not in LEVELS or LEVELS.index(level) >= LEVELS.index(threshold):
            # A message of a task that has just ended is no error: it is one of the worker then.
            running = supervisor.running
            only = next(iter(running)) if len(running) == 1 else None
            task = only if asked.task is None else asked.task if asked.task in running else None
            supervisor.note(level, asked.message, asked.fields, task)
