"""Serves the tasks of MCP to a client of either era, and `subscriptions/listen` to a modern one.

A legacy client of 2025-11-25 asks for a task with its call, and is notified of the tasks that it has begun or asked about. A
modern client declares the extension with each request; then every call that can be a task is one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import CorralError, InvalidParams, MethodNotFound, from_wire
from corral.worker.contract.mcp_info import TASKS_EXTENSION

from ..protocol.catalog import Kind
from ..protocol.messages import ACKNOWLEDGED, CALL, SUBSCRIPTION_ID, UPDATED, Caller
from ..protocol.tasks import (
    CANCEL_TASK,
    FINAL,
    GET_TASK,
    LIST_TASKS,
    RELATED_TASK,
    STATUS_CHANGED,
    TASK_CHANGED,
    TASK_RESULT,
    UPDATE_TASK,
    McpTask,
    legacy_task,
    modern_task,
    speaks_tasks,
)
from .request import (
    MISSING_CAPABILITY,
    ProtocolError,
    Provider,
    ServedRequest,
    TaskFeed,
    TaskSource,
    failed,
    refusal,
    too_many,
)

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
    if task.result is None:
        raise from_wire(task.error)
    meta = {**(as_object(task.result.get("_meta")) or {}), RELATED_TASK: {"taskId": task.id}}
    return {**task.result, "_meta": meta}


MAX_LISTENS = 1000
"""Number of `subscriptions/listen` requests being served at one endpoint."""

MAX_SUBSCRIPTIONS = 1000
"""Number of resources that one client subscribes to."""

CHANGED: dict[Kind, str] = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
    "resources": "notifications/resources/list_changed",
    "resourceTemplates": "notifications/resources/list_changed",
}

WANTED: dict[str, str] = {
    "toolsListChanged": CHANGED["tools"],
    "promptsListChanged": CHANGED["prompts"],
    "resourcesListChanged": CHANGED["resources"],
}
"""The notification for each key of `subscriptions/listen`."""


class Listens:
    """Serves the listens of one endpoint."""

    def __init__(self, provider: Provider, tasks: TaskSource | None) -> None:
        self._provider = provider
        self._tasks = tasks
        self._open: set[asyncio.Future[None]] = set()
        self._is_closed = False

    def close(self) -> None:
        """Completes every listen."""
        self._is_closed = True
        for listen in self._open:
            if not listen.done():
                listen.set_result(None)

    async def serve(self, request: ServedRequest, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
        """Sends the notifications that the filter names until the client cancels or the endpoint is closed."""
        wanted = as_object(params.get("notifications"))
        if wanted is None:
            raise InvalidParams('cannot listen: "notifications" is no object', key="notifications")
        if len(self._open) >= MAX_LISTENS:
            raise too_many("listen", MAX_LISTENS)
        uris, ids = _texts(wanted, "resourceSubscriptions"), _texts(wanted, "taskIds")
        if len(uris) > MAX_SUBSCRIPTIONS:
            raise too_many("listen", MAX_SUBSCRIPTIONS)
        if len(ids) > MAX_WATCHED:
            raise too_many("listen to tasks", MAX_WATCHED)
        if ids and self._tasks is not None:
            check_speaks_tasks(request.capabilities)
        meta: dict[str, object] = {SUBSCRIPTION_ID: request.id}
        flags = {key: True for key in WANTED if wanted.get(key) is True}
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(over)
        with contextlib.ExitStack() as stack:
            stack.callback(self._open.discard, over)
            waiting: list[str] | None = []  # updates before the acknowledgement are sent after it

            def updated(uri: str) -> None:
                if waiting is None:
                    request.notify(UPDATED, {"uri": uri, "_meta": meta})
                elif uri not in waiting:
                    waiting.append(uri)

            def changed(task: McpTask) -> None:
                request.notify(TASK_CHANGED, {**modern_task(task), "_meta": meta})

            honored: list[str] = []
            for uri in dict.fromkeys(uris):
                with contextlib.suppress(CorralError):  # missing resources are left out of the response
                    stack.callback(await self._provider.subscribe(uri, updated))
                    honored.append(uri)
            watched = await self._known_tasks(ids, caller)
            filters: dict[str, object] = dict(flags)
            if honored:
                filters["resourceSubscriptions"] = honored
            if watched:
                filters["taskIds"] = watched
            request.notify(ACKNOWLEDGED, {"notifications": filters, "_meta": meta})
            held, waiting = waiting or [], None
            for uri in held:
                updated(uri)
            methods = frozenset(WANTED[key] for key in flags)
            changes = ListChanges(self._provider, methods, lambda method: request.notify(method, {"_meta": meta}))
            stack.callback(changes.end)
            if watched and self._tasks is not None:
                feed = self._tasks.feed(caller, changed)
                stack.callback(feed.close)
                for task_id in watched:
                    feed.add(task_id, None)  # its status now is sent first: it may be another
            if self._is_closed and not over.done():  # `close` came before the future existed
                over.set_result(None)
            await over
        return {"_meta": meta}

    async def _known_tasks(self, ids: list[str], caller: Caller) -> list[str]:
        known: list[str] = []
        for task_id in dict.fromkeys(ids):
            if self._tasks is not None:
                with contextlib.suppress(CorralError):  # missing ones are left out
                    known.append((await self._tasks.task(task_id, caller)).id)
        return known


def _texts(wanted: Mapping[str, object], key: str) -> list[str]:
    return [each for each in as_array(wanted.get(key)) or [] if isinstance(each, str)]


class ListChanges:
    """Notifies of changed lists, once for all changes of one iteration of the loop."""

    def __init__(self, provider: Provider, methods: frozenset[str], notify: Callable[[str], None]) -> None:
        self._methods = methods
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._pending: set[str] = set()
        self._handle: asyncio.Handle | None = None
        self._unwatch = provider.watch(self._changed) if methods else None

    def _changed(self, kind: Kind) -> None:
        method = CHANGED[kind]
        if method in self._methods:
            self._pending.add(method)
            if self._handle is None:
                self._handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._handle = None
        pending = sorted(self._pending)
        self._pending.clear()
        for method in pending:
            self._notify(method)

    def end(self) -> None:
        """Ends the notifications."""
        if self._handle is not None:
            self._handle.cancel()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
