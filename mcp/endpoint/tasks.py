"""Serves the tasks of MCP to a client of either era: calls that begin one, and the requests about them.

A legacy client of 2025-11-25 asks for a task with its call, and is notified of the tasks that it has begun or asked about. A
modern client declares the extension with each request; then every call that can be a task is one.
"""

from collections.abc import Callable, Mapping

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import CorralError, InvalidParams, MethodNotFound, from_wire
from corral.worker.contract.mcp_info import TASKS_EXTENSION

from ..protocol.caller import Caller
from ..protocol.messages import CALL
from ..protocol.tasks import (
    CANCEL_TASK,
    FINAL,
    GET_TASK,
    LIST_TASKS,
    RELATED_TASK,
    STATUS_CHANGED,
    TASK_RESULT,
    UPDATE_TASK,
    McpTask,
    legacy_task,
    modern_task,
    speaks_tasks,
)
from .provider import TaskFeed, TaskSource
from .request import MISSING_CAPABILITY, ProtocolError, ServedRequest, failed, refusal

MAX_WATCHED = 200
"""Number of tasks about which one client is notified at a time."""

LEGACY = frozenset({GET_TASK, TASK_RESULT, LIST_TASKS, CANCEL_TASK})
MODERN = frozenset({GET_TASK, UPDATE_TASK, CANCEL_TASK})

Notify = Callable[[str, Mapping[str, object]], None]


class TaskRequests:
    """Serves the requests about tasks of one client."""

    def __init__(self, source: TaskSource, notify: Notify) -> None:
        self._source = source
        self._notify = notify
        self._watched: set[str] = set()
        self._feed: TaskFeed | None = None

    def close(self) -> None:
        """Ends the notifications."""
        if self._feed is not None:
            self._feed.close()

    @staticmethod
    def serves(method: str, *, is_modern: bool) -> bool:
        """Returns True if the method is one of tasks in the era."""
        return method in (MODERN if is_modern else LEGACY)

    async def begin_legacy(
        self, request: ServedRequest, params: Mapping[str, object], base: Caller
    ) -> dict[str, object]:
        """Returns the task of a call that asks for one."""
        asked, name = as_object(params["task"]), params.get("name")
        if asked is None:
            raise InvalidParams(f'cannot call "{name}": "task" is no object', key="task")
        caller = request.caller(base)
        given = {key: value for key, value in params.items() if key != "task"}
        try:
            task = await self._source.begin(given, caller)
        except CorralError as error:
            raise refusal(error, CALL, name, is_modern=False) from error
        if task is None:
            raise MethodNotFound(f'cannot call "{name}" as a task: its calls are no tasks', method=CALL, tool=name)
        self._watch(task, caller)
        return {"task": legacy_task(task)}

    def check_plain(self, name: object) -> None:
        """Checks that a legacy client may call a tool without a task."""
        if self._source.requires(name):
            text = f'cannot call "{name}" without a task: its "taskSupport" is "required"'
            raise MethodNotFound(text, method=CALL, tool=name)

    async def begin_modern(
        self, request: ServedRequest, params: Mapping[str, object], base: Caller
    ) -> dict[str, object] | None:
        """Returns the task of a call, or its refusal as a result; None if the call is none."""
        if self._source.requires(params.get("name")):
            check_speaks_tasks(request.capabilities)
        if not speaks_tasks(request.capabilities):
            return None
        try:
            task = await self._source.begin(params, request.caller(base))
        except CorralError as error:
            return {**failed(error), "structuredContent": {"error": error.to_record()}}
        return None if task is None else {"resultType": "task", **modern_task(task, is_new=True)}

    async def serve(
        self, request: ServedRequest, method: str, params: Mapping[str, object], base: Caller
    ) -> dict[str, object]:
        """Returns the result of a request about tasks."""
        if request.is_modern:
            check_speaks_tasks(request.capabilities)
        caller = request.caller(base)
        try:
            if method == LIST_TASKS:
                return await self._list(params.get("cursor"), caller)
            task_id = params.get("taskId")
            if not isinstance(task_id, str):
                raise InvalidParams(f'cannot call "{method}": "taskId" is no string', key="taskId")
            serve = self._modern if request.is_modern else self._legacy
            return await serve(method, task_id, params, caller)
        except CorralError as error:
            raise refusal(error, method, None, is_modern=request.is_modern) from error
        finally:
            request.is_over = True

    async def _modern(
        self, method: str, task_id: str, params: Mapping[str, object], caller: Caller
    ) -> dict[str, object]:
        if method == GET_TASK:
            return modern_task(await self._source.task(task_id, caller))
        if method == CANCEL_TASK:
            await self._source.cancel(task_id, caller)
            return {}
        responses = as_object(params.get("inputResponses"))
        if responses is None:
            raise InvalidParams(f'cannot call "{method}": "inputResponses" is no object', key="inputResponses")
        await self._source.answer(task_id, responses, caller)
        return {}

    async def _legacy(
        self, method: str, task_id: str, _params: Mapping[str, object], caller: Caller
    ) -> dict[str, object]:
        if method == TASK_RESULT:
            return _result_of(await self._source.ended(task_id, caller))
        if method == CANCEL_TASK:
            task = await self._source.task(task_id, caller)
            if task.status not in FINAL:
                task = await self._source.cancel(task_id, caller)
                if task.status == "cancelled":
                    return legacy_task(task)
            text = f'cannot cancel task "{task_id}": it has ended as {task.status}'
            raise InvalidParams(text, key="taskId", task=task_id, state=task.status)
        task = await self._source.task(task_id, caller)
        self._watch(task, caller)
        return legacy_task(task)

    async def _list(self, cursor: object, caller: Caller) -> dict[str, object]:
        if cursor is not None and not isinstance(cursor, str):
            raise InvalidParams('cannot list tasks: "cursor" is no string', key="cursor")
        tasks, more = await self._source.page(cursor, caller)
        result: dict[str, object] = {"tasks": [legacy_task(task) for task in tasks]}
        if more is not None:
            result["nextCursor"] = more
        return result

    def _watch(self, task: McpTask, caller: Caller) -> None:
        """Notifies the client of a task from now on; notifications are optional, so those beyond the limit are left out."""
        if task.status in FINAL or task.id in self._watched or len(self._watched) >= MAX_WATCHED:
            return
        if self._feed is None:
            self._feed = self._source.feed(caller, self._notify_status)
        self._watched.add(task.id)
        self._feed.add(task.id, task.status)

    def _notify_status(self, task: McpTask) -> None:
        if task.status in FINAL:
            self._watched.discard(task.id)
        self._notify(STATUS_CHANGED, legacy_task(task))


def check_speaks_tasks(capabilities: Mapping[str, object]) -> None:
    """Checks that a modern client declares the extension."""
    if not speaks_tasks(capabilities):
        text = f'cannot serve tasks: the client does not declare "{TASKS_EXTENSION}"'
        needed: dict[str, object] = {"extensions": {TASKS_EXTENSION: {}}}
        raise ProtocolError(MISSING_CAPABILITY, text, requiredCapabilities=needed)


def _result_of(task: McpTask) -> dict[str, object]:
    """Returns the result of the call of a legacy client."""
    if task.result is None:
        raise from_wire(task.error)
    meta = {**(as_object(task.result.get("_meta")) or {}), RELATED_TASK: {"taskId": task.id}}
    return {**task.result, "_meta": meta}
