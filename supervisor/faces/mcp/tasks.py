"""Shows corral's tasks to an MCP client as tasks of MCP, one to one and under the same ids.

`corral__run` and the tools of agents can be called as tasks. The name of the tool is in the idempotency key of the task, so that its
result has the form of that tool's also under the next daemon. A client sees the tasks that `corral__task` would show it, and
those that were begun with a tool that it is offered.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import msgspec

from corral.mcp.pool.short_list import target_of
from corral.mcp.protocol.messages import Caller
from corral.mcp.protocol.tasks import FINAL, McpTask, TaskStatus
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.api.table.table import Control
from corral.supervisor.records.events.bus import Event
from corral.supervisor.tasks.worker_api import exposed
from corral.supervisor.tasks.worker_api.requests import convert
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    CorralError,
    InternalError,
    InvalidParams,
    NotFound,
    PermissionDenied,
    SpawnFailed,
    WorkerFailed,
)
from corral.worker.contract.mcp_info import CALL_TOOL
from corral.worker.contract.records import ENDED, Task
from corral.worker.contract.trace_context import KEY, valid

from .elicitation import Questions, completed, form_of, has_response, input_requests
from .offer import Offer
from .shapes import RunArguments
from .tool_caller import ToolCaller
from .tools import OWN_TOOLS, PREFIX, call_method, introduce, run_params, run_result

RUN = f"{PREFIX}run"

MARK = "mcp-task:"
"""Beginning of the idempotency key of a task that was begun over MCP; the name of the tool follows."""

POLL_MS = 1000
"""Milliseconds that a client is advised to let pass between two questions about a task."""

PAGE = 100
"""Number of tasks in one answer to `tasks/list`."""

WITHOUT_RESULT = frozenset(each.__name__ for each in (InternalError, SpawnFailed, WorkerFailed))
"""Errors of a task that never came to an answer of its agent."""

STATUSES: Mapping[str, TaskStatus] = {
    "queued": "working",
    "running": "working",
    "succeeded": "completed",
    "failed": "completed",
    "timeout": "completed",
    "cancelled": "cancelled",
}
"""The status for each state; a result with an error completes a task."""

CHANGES = ("task.started", "task.ended", "approval.*")
"""Types of the events after which a status may be another."""

logger = logging.getLogger(__name__)


class ClientTasks:
    """Shows and begins the tasks of one client."""

    def __init__(self, control: Control, agents: Agents, questions: Questions, offer: Offer) -> None:
        self._control = control
        self._agents = agents
        self._questions = questions
        self._offer = offer

    async def begin(self, params: Mapping[str, object], caller: Caller) -> McpTask | None:
        """Begins a call of a tool as a task; returns None, without any effect, for a tool whose calls are no tasks."""
        if params.get("name") == CALL_TOOL:
            params = {**params, **target_of(codec.as_object(params.get("arguments")) or {})._asdict()}
        name = str(params.get("name"))
        if "requestState" in params or not (name == RUN or name.startswith(exposed.PREFIX)):
            return None  # the first is a call that goes on, and so was no task
        arguments: Mapping[str, object] | None = codec.as_object(params.get("arguments", {}))
        if arguments is None:
            raise InvalidParams(f'cannot call "{name}": its arguments are no object', key="arguments")
        if name == RUN:
            self._offer.check_own(OWN_TOOLS[RUN])
            asked = convert(arguments, RunArguments, name)
            if asked.detach:
                return None
        else:
            if self._offer.is_inside:
                return None  # a delegation of the task that calls
            receiver = self._offer.receiver(name)
            if self._offer.person(caller, {}) is not None:
                asks = caller.ask is None and not has_response(params)
                if asks and form_of(receiver, arguments) is not None:
                    return None  # the person is asked first
                arguments = completed(receiver, arguments, params)
            order = exposed.order_of(receiver, arguments)
            asked = RunArguments(order.objective, agent=receiver.name, input=order.input)
        traceparent = valid((codec.as_object(params.get("_meta")) or {}).get(KEY))
        key = f"{MARK}{name}:{secrets.token_hex(8)}"
        given = {**run_params(asked), "idempotency_key": key}
        tool_caller = self._offer.tool_caller(caller, traceparent)
        return self._shown(await self._called("task.submit", given, tool_caller), caller, with_result=False)

    def requires(self, name: object) -> bool:
        """Returns whether a tool can be called as a task alone."""
        if self._offer.is_inside or not str(name).startswith(exposed.PREFIX):
            return False
        try:
            return exposed.requires_task(self._offer.receiver(str(name)))
        except NotFound:
            return False

    async def task(self, task_id: str, caller: Caller) -> McpTask:
        """Returns a task."""
        return self._shown(await self._record(task_id, caller), caller)

    async def ended(self, task_id: str, caller: Caller) -> McpTask:
        """Returns a task when its status is final; meanwhile the person at the client is asked its questions."""
        record = await self._record(task_id, caller)
        if record.state not in ENDED:
            person = self._offer.person(caller, {}, related=task_id)
            tool_caller = self._offer.tool_caller(caller, None, person)
            waiting = self._called("task.wait", {"task": task_id}, tool_caller)
            if person is not None:
                await introduce(self._control, person, tool_caller)
                waiting = person.beside(task_id, waiting)
            record = await waiting
        return self._shown(record, caller)

    async def page(self, cursor: str | None, caller: Caller) -> tuple[list[McpTask], str | None]:
        """Returns tasks without results, the newest first, and the cursor of the next ones."""
        params: dict[str, object] = {"limit": PAGE}
        if cursor is not None:
            params["before"] = cursor
        found = await call_method(self._control, "task.list", params, self._offer.tool_caller(caller, None))
        records = [msgspec.convert(each, Task) for each in codec.as_array(found.get("tasks")) or []]
        shown = [self._shown(record, caller, with_result=False) for record in records if self._is_seen(record)]
        more = found.get("more")
        return shown, more if isinstance(more, str) else None

    async def cancel(self, task_id: str, caller: Caller) -> McpTask:
        """Cancels a task and returns it when it has ended; one that had ended before stays as it is."""
        record = await self._record(task_id, caller)
        if not (self._offer.may_use(OWN_TOOLS[f"{PREFIX}cancel"]) or self._is_begun_with(record)):
            raise PermissionDenied(f'cannot cancel task "{task_id}": it is not allowed', task=task_id)
        tool_caller = self._offer.tool_caller(caller, None)
        return self._shown(await self._called("task.cancel", {"task": task_id}, tool_caller), caller)

    async def answer(self, task_id: str, responses: Mapping[str, object], caller: Caller) -> None:
        """Takes the client's answers to the questions of a task; those to other questions are ignored."""
        await self._record(task_id, caller)
        state = {"asked": [each.id for each in self._questions.below(task_id)]}
        given = {"inputResponses": responses, "requestState": codec.encode(state).decode()}
        person = self._offer.person(caller, given)
        if person is not None:
            await introduce(self._control, person, self._offer.tool_caller(caller, None, person))

    def feed(self, caller: Caller, on_status: Callable[[McpTask], None]) -> "TaskStatusFeed":
        """Returns a feed, without any task, that reports to `on_status`."""
        return TaskStatusFeed(self._questions, lambda task: self.task(task, caller), on_status)

    # -- rights

    async def _record(self, task_id: str, caller: Caller) -> Task:
        tool_caller = self._offer.tool_caller(caller, None)
        record = await self._called("task.show", {"task": task_id}, tool_caller)
        if not self._is_seen(record):
            raise NotFound(f'cannot find task "{task_id}"', task=task_id)
        return record

    def _is_seen(self, record: Task) -> bool:
        return self._offer.may_use(OWN_TOOLS[f"{PREFIX}task"]) or self._is_begun_with(record)

    def _is_begun_with(self, record: Task) -> bool:
        """Returns whether the task was begun with a tool that the client is offered now."""
        name = _tool_of(record)
        if name == RUN:
            return self._offer.may_use(OWN_TOOLS[RUN])
        return name is not None and not self._offer.is_inside and self._offer.offers(name)

    async def _called(self, method: str, params: Mapping[str, object], tool_caller: ToolCaller) -> Task:
        return msgspec.convert(await call_method(self._control, method, params, tool_caller), Task)

    # -- shapes

    def _shown(self, record: Task, caller: Caller, *, with_result: bool = True) -> McpTask:
        status = STATUSES[record.state]
        questions = [] if status in FINAL else self._questions.below(record.id)
        message = record.reason or record.progress_message
        if questions:
            message = f"waits for an answer: {questions[0].question}"
            if self._offer.person(caller, {}) is not None:
                status = "input_required"
        error = None
        if record.error is not None:
            message = record.error.message
            if record.error.name in WITHOUT_RESULT:
                status = "failed"
                error = msgspec.to_builtins(record.error)
                error = {key: error[key] for key in ("code", "message", "data")}
        times = [record.created_at, record.started_at, record.finished_at]
        times += [each.asked_at for each in questions]
        return McpTask(
            id=record.id,
            status=status,
            message=message,
            created_at=record.created_at,
            updated_at=max(filter(None, times)),
            ttl_ms=self._ttl_ms(record),
            poll_ms=POLL_MS,
            result=_result_of(record) if with_result and status in FINAL else None,
            is_error=record.state != "succeeded",
            error=error,
            inputs=input_requests(questions),
        )

    def _ttl_ms(self, record: Task) -> int:
        """Returns for how long a task is kept at least, counted from its creation; one that has not ended yet is kept longer."""
        agent = self._agents.registry.agents.get(record.agent)
        tasks = (self._agents.config.defaults if agent is None else agent.spec).tasks
        end = time.time() if record.finished_at is None else _seconds(record.finished_at)
        return max(1, int((max(0.0, end - _seconds(record.created_at)) + tasks.result_retention) * 1000))


class TaskStatusFeed:
    """Reports changed statuses of tasks, from the events of the daemon."""

    def __init__(
        self, questions: Questions, show: Callable[[str], Awaitable[McpTask]], on_status: Callable[[McpTask], None]
    ) -> None:
        self._questions = questions
        self._show = show
        self._on_status = on_status
        self._known: dict[str, str | None] = {}
        self._changed: set[str] = set()
        self._noticed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def add(self, task_id: str, status: str | None) -> None:
        """Reports each status of a task that differs from the one before, the first from `status`; a final one is the last."""
        self._known[task_id] = status
        self._changed.add(task_id)  # it may be another by now
        self._noticed.set()
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Ends the reports."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        changes = self._questions.bus.subscribe(CHANGES, where=self._note)
        try:
            while self._known:
                self._noticed.clear()
                changed, self._changed = self._changed, set()
                for task_id in changed:
                    await self._look_at(task_id)
                if self._known:
                    await self._noticed.wait()
        except Exception:
            logger.exception("cannot report the statuses of tasks any more")
        finally:
            changes.close()
            self._running = None

    async def _look_at(self, task_id: str) -> None:
        try:
            task = await self._show(task_id)
        except CorralError as error:
            logger.info('cannot report the status of task "%s": %s', task_id, error.message)
            self._known.pop(task_id, None)
            return
        if task.status != self._known.get(task_id):
            self._known[task_id] = task.status
            self._on_status(task)
        if task.status in FINAL:
            self._known.pop(task_id, None)

    def _note(self, event: Event) -> bool:
        """Notes the tasks that an event concerns: its own, and for a question those that have delegated it."""
        task_id = str(event.fields.get("task"))
        concerned = {task_id} & self._known.keys()
        if event.type.startswith("approval."):
            concerned |= {root for root in self._known if self._questions.is_below(task_id, root)}
        if concerned:
            self._changed |= concerned
            self._noticed.set()
        return False  # nothing is queued


def _tool_of(record: Task) -> str | None:
    """Returns the tool with which a task was begun; None for one that was begun in another way."""
    key = record.idempotency_key or ""
    return key.removeprefix(MARK).rpartition(":")[0] if key.startswith(MARK) else None


def _result_of(record: Task) -> dict[str, object]:
    """Returns the result that the call of its tool would have had."""
    shown = codec.as_object(msgspec.to_builtins(record)) or {}
    is_of_agent = (_tool_of(record) or "").startswith(exposed.PREFIX)
    return exposed.result_of(shown) if is_of_agent else run_result(shown)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
