"""Serves the requests and notifications of workers: tools, delegation, memory, checkpoints, events, progress, logs.

A worker is not trusted: it speaks only for its own tasks, sees only its own agent's memory, uses only
the tools that its agent and its task are allowed, and cannot invent events of the daemon.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.tenants.quotas.disk_use import DiskUse
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.workers.supervision.checkpoints import Checkpoints, Reason
from corral.supervisor.workers.supervision.worker_changes import WorkerChanges
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.approvals import AskParams
from corral.worker.contract.errors import CorralError, InvalidParams, MethodNotFound
from corral.worker.contract.jsonrpc import Notification, Request
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.names import tenant_of
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

Handler = Callable[[WorkerSupervisor, Mapping[str, object]], Awaitable[object]]


def convert(params: Mapping[str, object], type_: type[T], method: str) -> T:
    """Converts the params of a call to their Struct."""
    try:
        return msgspec.convert(params, type_)
    except msgspec.ValidationError as error:
        found = misfit_of(error, params, type_)
        text = f'cannot call "{method}": {found.words}'
        facts = {"key": found.key, "value": found.shown, "reason": found.rule}
        raise InvalidParams(text, method=method, **facts) from error


KEPT = frozenset({"memory/put", "checkpoint/put"})
"""Requests that keep something: refused while the tenant of the worker keeps too much."""


class WorkerApi:
    """Serves every worker of one daemon."""

    _tasks: Tasks
    _tool_calls: ToolCalls
    _memory: Memory
    _hibernation: Hibernation
    _approvals: Approvals

    def __init__(
        self,
        checkpoints: Checkpoints,
        pubsub: WorkerPubsub,
        turns: CallTurns | None = None,
        disk: DiskUse | None = None,
    ) -> None:
        self._turns = turns
        self._disk = disk
        self.changes = WorkerChanges[WorkerSupervisor]()
        self._checkpoints = checkpoints
        self._pubsub = pubsub
        self._methods: dict[str, Handler] = {
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "task/delegate": self._delegate,
            "task/delegate_all": self._delegate_all,
            "task/parts": self._parts,
            "task/ask": self._ask,
            "task/cancel": self._cancel_child,
            "memory/put": self._put,
            "memory/get": self._get,
            "memory/delete": self._delete,
            "memory/search": self._search,
            "checkpoint/put": self._checkpoint,
            "event/publish": self._publish,
            "event/subscribe": self._subscribe,
        }

    def bind(
        self, tasks: Tasks, tool_calls: ToolCalls, memory: Memory, hibernation: Hibernation, approvals: Approvals
    ) -> None:
        """Completes the circle before the first worker starts: agents and tasks are made with this object as an argument."""
        self._tasks = tasks
        self._tool_calls = tool_calls
        self._memory = memory
        self._hibernation = hibernation
        self._approvals = approvals

    # -- the supervisors' side

    def serve(self, supervisor: WorkerSupervisor, request: Request) -> Awaitable[object]:
        """Returns the answer to a request of a worker."""
        method = self._methods.get(request.method)
        if method is None:
            raise MethodNotFound(f'cannot call "{request.method}": workers have no such method')
        tenant = tenant_of(supervisor.spec.name)
        if tenant and request.method in KEPT and self._disk is not None:
            self._disk.check(tenant, supervisor.spec.name, f"serve {request.method} of")
        if self._turns is None or self._turns.is_next(tenant):
            return method(supervisor, request.params)
        return self._in_turn(self._turns, tenant, method, supervisor, request.params)

    async def _in_turn(
        self, turns: CallTurns, tenant: str, method: Handler, supervisor: WorkerSupervisor, params: Mapping[str, object]
    ) -> object:
        await turns.wait(tenant, supervisor.id)
        return await method(supervisor, params)

    def handle_notification(self, supervisor: WorkerSupervisor, notification: Notification) -> None:
        """Takes a notification of a worker; one that is malformed goes to its log."""
        try:
            if notification.method == "stream":
                self._stream(supervisor, notification.params)
            elif notification.method == "progress":
                self._progress(supervisor, notification.params)
            elif notification.method == "log":
                self._log(supervisor, notification.params)
            elif notification.method == "usage":
                self._usage(supervisor, notification.params)
            elif notification.method == "heartbeat" and "task" in notification.params:
                self._beat(supervisor, notification.params)
            # Any other heartbeat carries no params; an unknown notification is from a newer worker.
        except CorralError as error:
            supervisor.note("warning", f'refused "{notification.method}": {error.message}')

    async def checkpoint_of(self, supervisor: WorkerSupervisor) -> dict[str, object]:
        """Returns the checkpoint that the next incarnation of a worker begins with."""
        return await self._hibernation.checkpoint_of(supervisor)

    def removed(self, agent: str) -> None:
        """Handles the removal of an agent: its hibernation ends, and its queued tasks are abandoned."""
        self._tool_calls.forget_processes()
        self._hibernation.removed(agent)
        self._tasks.abandon(agent)

    # -- tools

    async def _list_tools(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, WorkerToolsParams, "tools/list")
        return {"tools": await self._tool_calls.tools_for(supervisor, asked.task)}

    async def _call_tool(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, WorkerCallParams, "tools/call")
        return await self._tool_calls.call_for(supervisor, asked)

    # -- delegation

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
        reason = "the worker that delegated it no longer waits"
        return msgspec.to_builtins(await self._tasks.cancel(child.id, reason))

    async def _ask(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, AskParams, "task/ask")
        entry = self._tasks.accounting.task_of(supervisor, asked.task)
        if entry is None or entry.attempt is None:
            text = f'cannot ask for worker "{supervisor.id}": the request names no task that it runs'
            raise InvalidParams(text, key="task")
        with self._tasks.dispatcher.question(entry, entry.attempt, asked.question):
            found = await self._approvals.ask(entry.task, supervisor.id, asked)
        return msgspec.to_builtins(found)

    # -- memory and checkpoints

    async def _put(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/put")
        await self._memory.key_values.put(
            supervisor.spec.name, asked.session, asked.key, asked.value, ttl_s=asked.ttl_s
        )
        return {}

    async def _get(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/get")
        found = await self._memory.key_values.get(supervisor.spec.name, asked.session, asked.key)
        return {"value": found}

    async def _delete(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/delete")
        await self._memory.key_values.delete(supervisor.spec.name, asked.session, asked.key)
        return {}

    async def _search(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemorySearchParams, "memory/search")
        return {
            "items": await self._memory.key_values.search(supervisor.spec.name, asked.session, asked.query, asked.limit)
        }

    async def _checkpoint(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, CheckpointParams, "checkpoint/put")
        entry = self._tasks.accounting.task_of(supervisor, asked.task) if asked.task is not None else None
        task = None if entry is None else entry.task.id
        reason: Reason = "worker" if task is None else "task"
        number = await self._checkpoints.put(supervisor.spec.name, supervisor.id, task, asked.data, reason)
        return {"id": number}

    # -- events

    async def _publish(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, PublishParams, "event/publish")
        return {"seq": self._pubsub.publish(supervisor, asked.type, asked.data)}

    async def _subscribe(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        self._pubsub.subscribe(supervisor, convert(params, SubscribeParams, "event/subscribe").types)
        return {}

    # -- notifications

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

    async def close(self) -> None:
        """Ends the subscriptions of workers."""
        await self._pubsub.close()
