"""Serves `subscriptions/listen` of modern clients: changed lists, changed resources, and changed tasks.

Must not know the other requests of an endpoint. Each listen ends when its client cancels it, or with the endpoint.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import CorralError, InvalidParams

from ..protocol.caller import Caller
from ..protocol.catalog import Kind
from ..protocol.messages import ACKNOWLEDGED, SUBSCRIPTION_ID, UPDATED
from ..protocol.tasks import TASK_CHANGED, McpTask, modern_task
from .provider import Provider, TaskSource
from .request import ServedRequest, too_many
from .tasks import MAX_WATCHED, check_speaks_tasks

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
        """Returns those of the tasks that the client may see."""
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
