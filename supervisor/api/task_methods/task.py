"""Serves the methods `task.*` and `approval.*` of the table: tasks, and their questions, which persons answer."""

import asyncio
import contextlib
from itertools import islice

import msgspec
from msgspec.structs import replace

from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.tasks.attention.inbox import Inbox
from corral.supervisor.tasks.attention.inbox import needs as needed
from corral.supervisor.tasks.run.backlog import Origin
from corral.supervisor.tasks.run.buffer import PartSender
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api.approvals import Approvals as ApprovalDesk
from corral.supervisor.tasks.worker_api.tool_calls import ToolCalls
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract.approvals import Approval
from corral.worker.contract.errors import Conflict, CorralError, Corrupted, InvalidParams, NotFound, Timeout
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import ENDED, Error, Task, TaskParams, copied
from corral.worker.control import params as shapes
from corral.worker.control import reports, results
from corral.worker.control.reports import ApprovalAnswerParams, ApprovalListParams, ApprovalParams, Approvals
from corral.worker.methods import task as methods

from ..table.handlers import GOES_ON_AS, Caller, made_by, serve

FOLLOWED = ("task.queued", "task.started", "task.progress", "task.retried", "task.ended")
"""Event types of a task, and of those below it, that `task.follow` sends."""

STANDING = {"queued": "task.queued", "running": "task.started"}
"""The event that brings a task to each state that is no end."""

RETRIED = (
    "objective agent input context priority boundaries required_capabilities output_format sticky_key session durable"
    " retry when_down queue_timeout_s"
)
"""Fields of a task that another one in its place has, too."""

SHORT_CHARS = 300
"""Characters of an objective, and of an error's message, in a tree."""

QUIET_S = 0.005
"""Seconds that a task runs before its progress is sent: of one that ends sooner only the end is."""

MOST_NAMED = 100
"""Number of steps that an error names."""

MOST_FOLLOWED = 10_000
"""Number of tasks below one that `task.follow` covers."""


class ProgressSender:
    """Sends a caller the progress of a task that runs for longer than QUIET_S.

    Of a task that has ended by then only the end is sent, together with the answer.
    """

    def __init__(self, caller: Caller) -> None:
        self._loop = asyncio.get_running_loop()
        self._caller = caller
        self._timer: asyncio.TimerHandle | None = None
        self._latest: Task | None = None
        self._is_late = False

    def __call__(self, task: Task) -> None:
        """Takes a changed record of the task."""
        self._latest = task
        if self._is_late or task.state in ENDED:
            self._notify()
        elif self._timer is None:
            self._timer = self._loop.call_later(QUIET_S, self._notify)

    def _notify(self) -> None:
        self.close()
        self._is_late = True
        task = self._latest
        assert task is not None, "the timer is set when a record comes"
        self._caller.notify(
            "task.progress",
            {
                "task": task.id,
                "worker": task.worker,
                "state": task.state,
                "attempt": task.attempt,
                "progress": task.progress,
                "total": task.progress_total,
                "message": task.progress_message or task.reason,
            },
        )

    def close(self) -> None:
        """Cancels the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class TaskMethods:
    """Serves the methods `task.*`."""

    def __init__(self, tasks: Tasks, tool_calls: ToolCalls, bus: Bus) -> None:
        self._tasks = tasks
        self._tool_calls = tool_calls
        self._bus = bus

    @serve(methods.TASK_RUN)
    async def _run(self, params: shapes.TaskRunParams, caller: Caller) -> Task:
        task = await self._tasks.submit(params, Origin(tenant=caller.tenant))
        GOES_ON_AS.get()(methods.TASK_WAIT.name, {"task": task.id, "stream": params.stream})
        return await self._ended(task.id, caller, params.stream)

    @serve(methods.TASK_SUBMIT)
    async def _submit(self, params: TaskParams, caller: Caller) -> Task:
        return await self._tasks.submit(params, Origin(tenant=caller.tenant))

    @serve(methods.TASK_WAIT)
    async def _wait(self, params: shapes.TaskWaitParams, caller: Caller) -> Task:
        try:
            async with asyncio.timeout(params.timeout_s):
                return await self._ended(params.task, caller, params.stream)
        except TimeoutError:
            raise _late(params) from None

    async def _ended(self, task_id: str, caller: Caller, stream: bool) -> Task:
        """Returns the record of a task when it has ended; meanwhile sends its progress, and what it streams, to the caller."""
        listener = ProgressSender(caller)
        buffer = self._tasks.parts(task_id) if stream else None
        sender = None if buffer is None else PartSender(buffer, caller)
        try:
            task = await self._tasks.wait(task_id, listener=listener)
            if sender is not None:
                await sender.finish()
            return task
        finally:
            listener.close()
            if sender is not None:
                await sender.close()

    @serve(methods.TASK_FOLLOW)
    async def _follow(self, params: shapes.TaskFollowParams, caller: Caller) -> Task:
        followed = {params.task}

        def is_below(event: Event) -> bool:
            task, parent = event.fields.get("task"), event.fields.get("parent")
            if parent in followed and isinstance(task, str) and len(followed) < MOST_FOLLOWED:
                followed.add(task)
            return task in followed

        with self._bus.subscribe(FOLLOWED, where=is_below) as subscription:
            await self._send_standing(await self._tasks.show(params.task), followed, caller)

            async def notify() -> None:
                async for event in subscription:
                    caller.notify("task.event", {"event": event.record()})
                    await caller.drain()

            sending = asyncio.ensure_future(notify())
            try:
                async with asyncio.timeout(params.timeout_s):
                    ended = await self._tasks.wait(params.task)
                    subscription.close()
                    await sending  # events before the end are sent before the end
            except TimeoutError:
                raise _late(params) from None
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return ended

    async def _send_standing(self, root: Task, followed: set[str], caller: Caller) -> None:
        """Sends the states of a task and of those below it that have not ended, and adds them to `followed`."""
        level = [root]
        while level:
            below: list[Task] = []
            for task in level:
                caller.notify("task.event", {"event": _standing(task)})
                for child in await children_of(self._tasks, task, MOST_FOLLOWED - len(followed)):
                    if child.state not in ENDED and child.id not in followed:
                        followed.add(child.id)
                        below.append(child)
            await caller.drain()
            level = below

    @serve(methods.TASK_SHOW)
    async def _show(self, params: shapes.TaskShowParams, _caller: Caller) -> Task:
        task = await self._tasks.show(params.task)
        if params.calls:
            task = replace(task, calls=await self._tool_calls.history.of(task.id))
        if params.steps:
            task = replace(task, steps=await self._tasks.steps.all(task))
        return task

    @serve(methods.TASK_TREE)
    async def _tree(self, params: shapes.TaskTreeParams, _caller: Caller) -> results.TaskNode:
        top = await self._tasks.show(params.task)
        root = results.TaskNode(task=_in_short(top), children=[], more=0)
        level = [(root, top)]
        left, depth = params.limit - 1, 0
        while level:
            below: list[tuple[results.TaskNode, Task]] = []
            for node, task in level:
                found = await children_of(self._tasks, task, max(left, 0) + 1)
                shown = found[: max(left, 0)] if depth < params.depth else []
                nodes = [results.TaskNode(task=_in_short(each), children=[], more=0) for each in shown]
                node.children, node.more = nodes, len(found) - len(shown)
                left -= len(shown)
                below += zip(nodes, shown, strict=True)
            level, depth = below, depth + 1
        return root

    @serve(methods.TASK_LIST)
    async def _list(self, params: shapes.TaskListParams, caller: Caller) -> results.TaskPage:
        page = await self._tasks.list(params, knows(caller.agents))
        return results.TaskPage(tasks=page.tasks, more=page.more, skipped=page.skipped)

    @serve(methods.TASK_CANCEL)
    async def _cancel(self, params: shapes.TaskIdParams, _caller: Caller) -> Task:
        return await self._tasks.cancel(params.task)

    @serve(methods.TASK_RETRY)
    async def _retry(self, params: shapes.TasksRetryParams, _caller: Caller) -> results.TasksRetried:
        ids, more = await self._named(params)
        queued: list[results.Retried] = []
        failed: list[results.RetryFailed] = []
        for task_id in ids:
            try:
                task = await self._retried(task_id, params.step)
                queued.append(results.Retried(task=task_id, by=task.id))
            except CorralError as error:
                failed.append(results.RetryFailed(task=task_id, error=Error.of(error)))
        return results.TasksRetried(retried=queued, failed=failed, more=more)

    @serve(methods.TASK_DISCARD)
    async def _discard(self, params: shapes.TasksParams, _caller: Caller) -> results.TasksDiscarded:
        ids, more = await self._named(params)
        if not params.dead:
            for task_id in ids:
                await self._tasks.show(task_id)
        return results.TasksDiscarded(discarded=await self._tasks.records.discard(ids), more=more)

    async def _named(self, params: shapes.TasksParams) -> tuple[list[str], str | None]:
        """Returns the ids that the params select, and the id after which there are more dead letters."""
        named = [*([params.task] if params.task is not None else []), *params.tasks]
        if bool(named) == params.dead:
            raise InvalidParams("cannot select tasks: give tasks or dead", key="tasks")
        if not params.dead:
            return list(dict.fromkeys(named)), None
        return await self._tasks.records.dead_letters(params)

    async def _retried(self, task_id: str, step: str | None) -> Task:
        """Submits a new task in place of an ended one, which keeps its steps, or those before `step`."""
        old = await self._tasks.show(task_id)
        if step is not None:
            known = [each.name for each in await self._tasks.steps.all(old)]
            if step not in known:
                words = f'cannot retry task "{task_id}" from step "{step}": it has no such step'
                raise NotFound(words, task=task_id, step=step, known=known[:MOST_NAMED])
        if old.state not in ENDED or old.state == "succeeded":
            raise Conflict(f'cannot retry task "{task_id}": it is {old.state}', task=task_id, state=old.state)
        if old.retried_by is not None:
            words = f'cannot retry task "{task_id}": it was retried as task "{old.retried_by}"'
            raise Conflict(words, task=task_id, retried_by=old.retried_by)
        # The key makes one task of two retries at once.
        params = TaskParams(idempotency_key=f"retry:{task_id}", **copied(old, RETRIED))
        origin = Origin(schedule=old.schedule, retry_of=task_id, retried_from=step, tenant=tenant_of(old.agent))
        return await self._tasks.submit(params, origin)


async def children_of(tasks: Tasks, task: Task, limit: int) -> list[Task]:
    """Returns the tasks that a task delegated, in that order, without those that have expired or cannot be read."""
    stored = {each.id: each for each in await tasks.records.children(task.id, limit)}
    found: list[Task] = []
    for child_id in islice(dict.fromkeys([*task.children, *stored]), limit):
        child = tasks.find(child_id) or stored.get(child_id)
        if child is None:
            with contextlib.suppress(NotFound, Corrupted):
                child = await tasks.show(child_id)
        if child is not None:
            found.append(child)
    return found


def _late(params: shapes.TaskWaitParams | shapes.TaskFollowParams) -> Timeout:
    words = f'cannot wait longer than {params.timeout_s:g} s for task "{params.task}": it goes on'
    return Timeout(words, task=params.task)


def _standing(task: Task) -> dict[str, object]:
    """Returns the state of a task at the beginning of a follow, in the shape of an event."""
    return {
        "seq": None,
        "at": task.finished_at or task.started_at or task.created_at,
        "type": STANDING.get(task.state, "task.ended"),
        "state": task.state,
        "agent": task.agent,
        "worker": task.worker,
        "task": task.id,
        "attempt": task.attempt,
        "parent": task.parent,
        "reason": task.reason or None,
    }


def _in_short(task: Task) -> results.TaskInShort:
    short = replace(
        task, objective=task.objective[:SHORT_CHARS], error=None if task.error is None else _error_in_short(task.error)
    )
    return msgspec.convert(short, results.TaskInShort, from_attributes=True)


def _error_in_short(error: Error) -> Error:
    return Error(error.code, error.name, error.message[:SHORT_CHARS])


class ApprovalMethods:
    """Serves the methods `approval.*`."""

    def __init__(self, approvals: ApprovalDesk) -> None:
        self._approvals = approvals

    @serve(methods.APPROVAL_LIST)
    async def _list(self, params: ApprovalListParams, caller: Caller) -> Approvals:
        is_known = knows(caller.agents)
        if params.ended:
            found = await self._approvals.ended_ones(params.agent, params.task, params.limit, is_known)
            return Approvals(approvals=found, more=False)
        found = self._approvals.open(params.agent, params.task)
        if is_known is not None:
            found = [each for each in found if is_known(each.agent)]
        return Approvals(approvals=found[: params.limit], more=len(found) > params.limit)

    @serve(methods.APPROVAL_SHOW)
    async def _show(self, params: ApprovalParams, _caller: Caller) -> Approval:
        return await self._approvals.show(params.approval)

    @serve(methods.APPROVAL_ANSWER)
    async def _answer(self, params: ApprovalAnswerParams, caller: Caller) -> Approval:
        return await self._approvals.answer(params.approval, params.answer, made_by(caller))


class InboxMethods:
    """Serves the methods `inbox.*`."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    @serve(methods.INBOX_LIST)
    async def _list(self, params: reports.InboxListParams, caller: Caller) -> reports.InboxItems:
        items = [each for each in self._inbox.items(knows(caller.agents)) if params.agent in (None, each.agent)]
        more = len(items) > params.limit
        return reports.InboxItems(items=items[: params.limit], needs_you=needed(items), more=more)

    @serve(methods.INBOX_SEEN)
    async def _see(self, params: reports.InboxSeenParams, caller: Caller) -> reports.InboxSeen:
        if params.all == bool(params.items):
            raise InvalidParams(
                'cannot mark anything as seen: give either "items" or "all"', key="items", value=params.items
            )
        items = None if params.all else params.items
        return reports.InboxSeen(seen=await self._inbox.see(items, knows(caller.agents)))
