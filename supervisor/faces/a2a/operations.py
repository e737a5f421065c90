"""Performs the operations of A2A as calls of the method table, and follows tasks as streams of events.

A client that hangs up leaves the task running. It must not know how a request is read, nor how an answer is encoded.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from corral.supervisor.api.table.table import Control
from corral.supervisor.tasks.worker_api.approvals import Approvals as ApprovalDesk
from corral.worker.contract import codec
from corral.worker.contract.approvals import Approval
from corral.worker.contract.errors import CorralError, NotFound, PermissionDenied
from corral.worker.contract.records import ENDED, Task
from corral.worker.control.reports import Approvals
from corral.worker.control.results import TaskPage

from ..http.event_sender import Outbox, send_call
from ..http.face import HttpClient, OneAnswer
from .bindings import Binding
from .messages import STATES, VERSION, A2aError, artifact_update, context_of, error_of, status_update, task_of, wanted
from .push import Pushes

MAX_PAGE = 100
"""Number of tasks of one page of a list."""

MAX_TURNS = 100
"""Number of questions of a task that its history has, the last ones."""

MAX_CONTEXT = 200
"""Characters of the id of a context."""

Json = Any  # a value of the protocol, checked where it is used


class A2aCaller(OneAnswer):
    """Represents the client of one request; `on_notification` receives what the call tells meanwhile."""

    def __init__(self, client: HttpClient) -> None:
        super().__init__(client)
        self.name = f"a2a {client.name}"
        self.outbox = Outbox()
        self.on_notification: Callable[[str, Mapping[str, object]], None] = lambda _m, _p: None

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Passes on progress, and parts of the output."""
        self.on_notification(method, params)

    async def drain(self) -> None:
        """Waits while the client reads too slowly."""
        await self.outbox.drain()


class Operations:
    """Performs the operations of A2A about one agent, in any binding."""

    def __init__(
        self, control: Control, approvals: ApprovalDesk, pushes: Pushes, agent: str, caller: A2aCaller, binding: Binding
    ) -> None:
        self._pushes = pushes
        self._control = control
        self._approvals = approvals
        self._agent = agent
        self._caller = caller
        self._binding = binding
        self._operations: Mapping[str, Callable[[Json], Awaitable[object]]] = {
            "SendMessage": self._send,
            "GetTask": self._get,
            "ListTasks": self._list,
            "CancelTask": self._cancel,
            "CreateTaskPushNotificationConfig": self._push_create,
            "GetTaskPushNotificationConfig": self._push_get,
            "ListTaskPushNotificationConfigs": self._push_list,
            "DeleteTaskPushNotificationConfig": self._push_delete,
        }
        self._streams: Mapping[str, Callable[[Json], Awaitable[Task]]] = {
            "SendStreamingMessage": self._submitted,
            "SubscribeToTask": self._subscribed,
        }

    def streams(self, operation: str) -> bool:
        """Returns whether an operation is answered by a stream."""
        return operation in self._streams

    async def run(self, operation: str, params: Json) -> object:
        """Returns the result of an operation."""
        if operation in self._operations:
            return await self._operations[operation](params)
        if operation == "GetExtendedAgentCard":
            raise A2aError(-32007, "cannot show an extended card: there is none")
        raise A2aError(-32601, f'cannot call "{operation}": A2A {VERSION} has no such method')

    async def stream(self, request: web.BaseRequest, operation: str, params: Json) -> web.StreamResponse:
        """Answers with the events of a task."""
        task = await self._streams[operation](params)
        following = self._followed(task, goes_on=operation == "SubscribeToTask")
        return await send_call(request, self._caller.outbox, following, self._last)

    # -- methods

    async def _submitted(self, params: Json) -> Task:
        """Queues a task for a message."""
        message = params.get("message")
        if not isinstance(message, dict):
            raise A2aError(-32602, 'cannot send a message: "message" is missing')
        given: Mapping[str, Json] = message
        if given.get("taskId"):
            return await self._answered_question(given)
        settings = params.get("configuration") or {}
        wish = settings.get("taskPushNotificationConfig") if isinstance(settings, dict) else None
        if wish:
            self._pushes.read("", wish)  # before anything is done
        context = given.get("contextId") or str(uuid.uuid4())
        if not isinstance(context, str) or len(context) > MAX_CONTEXT:
            raise A2aError(-32602, f'cannot use a "contextId" beyond {MAX_CONTEXT} characters')
        task = await self._call("task.submit", wanted(given, self._agent, context))
        if wish:
            await self._pushes.add(self._pushes.read(task.id, wish), task, self._question(task))
        return task

    async def _answered_question(self, message: Mapping[str, Json]) -> Task:
        """Answers the question that a task asks by a message to it, and returns its record."""
        task = await self._task({"id": message["taskId"]})
        if message.get("contextId") not in (None, "", context_of(task)):
            text = f'cannot add a message to task "{task.id}": it is of another "contextId"'
            raise A2aError(-32602, text, taskId=task.id)
        question = self._question(task)
        if question is None:
            text = f'cannot add a message to task "{task.id}": it asks nothing; send it in the context of the task'
            raise A2aError(-32004, text, taskId=task.id)
        params = wanted(message, self._agent, context_of(task))
        words = params["objective"] or codec.encode(params.get("input")).decode()
        await self._control.call("approval.answer", {"approval": question.id, "answer": words}, self._caller)
        return await self._call("task.show", {"task": task.id})

    def _question(self, task: Task) -> Approval | None:
        """Returns the question that a task asks now."""
        return None if task.state in ENDED else self._approvals.question(task.id)

    async def _settled(self, task: Task, *, stream: bool = False, goes_on: bool = False) -> Task:
        """Returns the record of a task that has ended, or asks a question; with `goes_on` it streams that, and waits for the end."""
        asked_for = {"task": task.id, "stream": True} if stream else {"task": task.id}
        waiting = asyncio.ensure_future(self._call("task.wait", asked_for))
        known = self._question(task) if goes_on else None  # the first event has it
        number = 0 if known is None else known.id
        asked = asyncio.ensure_future(self._approvals.asked(task.id, number))
        try:
            while True:
                await asyncio.wait({waiting, asked}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    return waiting.result()
                shown = await self._call("task.show", {"task": task.id})
                if not goes_on:
                    return shown
                question = asked.result()
                number = question.id
                self._put(status_update(shown, question))
                asked = asyncio.ensure_future(self._approvals.asked(task.id, number))
        finally:
            waiting.cancel()
            asked.cancel()
            await asyncio.gather(waiting, asked, return_exceptions=True)

    async def _send(self, params: Json) -> object:
        settings = params.get("configuration")
        settings = settings if isinstance(settings, dict) else {}
        limit = _history(settings)
        task = await self._submitted(params)
        if not settings.get("returnImmediately"):
            task = await self._settled(task)
        return {"task": await self._whole(task, limit)}

    async def _get(self, params: Json) -> object:
        limit = _history(params)
        return await self._whole(await self._task(params), limit)

    async def _whole(self, task: Task, limit: int | None) -> dict[str, object]:
        """Returns a task with its questions and their answers as its history."""
        question = self._question(task)
        if limit == 0:
            return task_of(task, limit, question=question)
        about = {"task": task.id, "ended": True, "limit": MAX_TURNS}
        found: Json = await self._control.call("approval.list", about, self._caller)
        return task_of(task, limit, question=question, turns=msgspec.convert(found, Approvals).approvals[::-1])

    async def _cancel(self, params: Json) -> object:
        task = await self._task(params)
        if task.state in ENDED:
            raise A2aError(-32002, f'cannot cancel task "{task.id}": it is {task.state}', taskId=task.id)
        return task_of(await self._call("task.cancel", {"task": task.id}))

    async def _list(self, params: Json) -> object:
        size = params.get("pageSize") or 50
        if not isinstance(size, int) or not 0 < size <= MAX_PAGE:
            raise A2aError(-32602, f'cannot list {size} tasks: "pageSize" is 1 to {MAX_PAGE}')
        asked: dict[str, object] = {"agent": self._agent, "limit": size}
        for key, own in (("contextId", "session"), ("pageToken", "before")):
            if params.get(key):
                asked[own] = params[key]
        if params.get("status"):
            asked["states"] = [own for own, state in STATES.items() if state == params["status"]]
        found: Json = await self._control.call("task.list", asked, self._caller)
        page = msgspec.convert(found, TaskPage)
        artifacts = params.get("includeArtifacts") is True
        limit = _history(params)
        tasks = [task_of(task, limit, artifacts=artifacts, question=self._question(task)) for task in page.tasks]
        return {"tasks": tasks, "nextPageToken": page.more or "", "pageSize": size, "totalSize": len(tasks)}

    # -- push notifications

    async def _push_create(self, params: Json) -> object:
        task = await self._pushed(params)
        if self._caller.permission == "read":
            raise PermissionDenied("cannot have notifications sent: the token may only read", required="operate")
        target = self._pushes.read(task.id, params)
        await self._pushes.add(target, task, self._question(task))
        return target.to_json()

    async def _push_get(self, params: Json) -> object:
        task, number = await self._pushed(params), params.get("id")
        found = next((each for each in await self._pushes.of(task.id) if each.id == number), None)
        if found is None:
            raise A2aError(-32001, f'cannot find push notifications "{number}" of task "{task.id}"', taskId=task.id)
        return found.to_json()

    async def _push_list(self, params: Json) -> object:
        task = await self._pushed(params)
        return {"configs": [each.to_json() for each in await self._pushes.of(task.id)], "nextPageToken": ""}

    async def _push_delete(self, params: Json) -> object:
        task = await self._pushed(params)
        if self._caller.permission == "read":
            raise PermissionDenied("cannot remove notifications: the token may only read", required="operate")
        await self._pushes.remove(task.id, str(params.get("id")))
        return {}

    async def _pushed(self, params: Json) -> Task:
        """Returns the task that a request about push notifications names."""
        if not self._pushes.is_on:
            raise A2aError(-32003, "cannot send push notifications: the operator allows no address")
        return await self._task({"id": params.get("taskId")})

    async def _subscribed(self, params: Json) -> Task:
        task = await self._task(params)
        if task.state in ENDED:
            raise A2aError(-32004, f'cannot follow task "{task.id}": it is {task.state}', taskId=task.id)
        return task

    async def _task(self, params: Json) -> Task:
        """Returns a task of this agent."""
        task_id = params.get("id")
        if not isinstance(task_id, str) or not task_id:
            raise A2aError(-32602, 'cannot find a task without "id"')
        try:
            task = await self._call("task.show", {"task": task_id})
        except NotFound as error:
            raise A2aError(-32001, error.message, taskId=task_id) from error
        if task.agent != self._agent:
            raise A2aError(-32001, f'cannot find task "{task_id}"', taskId=task_id)
        return task

    async def _call(self, method: str, params: Mapping[str, object]) -> Task:
        found: Json = await self._control.call(method, params, self._caller)
        return msgspec.convert(found, Task)  # plain values, where the call was a tenant's or another node's

    # -- streams

    async def _followed(self, task: Task, *, goes_on: bool) -> Task:
        """Puts the events of a task into the outbox until it has ended, or asks if it does not go on; returns its record."""
        begun = False
        streamed = False

        def send(method: str, params: Mapping[str, object]) -> None:
            nonlocal begun, streamed
            if not begun:
                begun = True
                working = {"status": {"state": STATES["running"]}}
                ids = {"taskId": task.id, "contextId": task.session or task.id}
                self._put({"statusUpdate": {**ids, **working}})
            if method == "task.part" and (part := params.get("part")) is not None:
                if params.get("number") == 0:  # another attempt begins anew
                    streamed = False
                    return
                self._put(artifact_update(task, part, append=streamed))
                streamed = True

        self._put({"task": task_of(task, question=self._question(task))})
        self._caller.on_notification = send
        end = await self._settled(task, stream=True, goes_on=goes_on)
        if end.output is not None:
            self._put(artifact_update(end, end.output, append=False, last=True))
        return end

    def _put(self, result: object) -> None:
        self._caller.outbox.put(_event(self._binding.result(result)))

    def _last(self, call: "asyncio.Future[Task]") -> bytes:
        try:
            task = call.result()
            shown = self._binding.result(status_update(task, self._question(task)))
        except CorralError as error:
            shown = self._binding.error(error_of(error))
        return _event(shown)


def _event(value: object) -> bytes:
    return b"data: %s\n\n" % codec.encode(value)


def _history(params: Json) -> int | None:
    """Returns the limit of messages in a record."""
    limit = params.get("historyLength")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise A2aError(-32602, f'cannot use {limit!r} as "historyLength": it is 0 or more')
    return limit
