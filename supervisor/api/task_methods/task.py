"""Serves the methods `task.*` of the table."""

import asyncio
import contextlib
from itertools import islice

import msgspec
from msgspec.structs import replace

from corral.supervisor.records.events.bus import Event
from corral.supervisor.tasks.run.sender import PartSender
from corral.supervisor.tenants.tokens.scope import NEW_TASK, TASK, Rule, knows
from corral.worker.contract.errors import Conflict, CorralError, Corrupted, InvalidParams, NotFound, Timeout
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import ENDED, Error, Task, TaskParams
from corral.worker.control.params import (
    TaskFollowParams,
    TaskIdParams,
    TaskListParams,
    TaskRunParams,
    TaskShowParams,
    TasksParams,
    TaskTreeParams,
    TaskWaitParams,
)
from corral.worker.control.results import (
    Retried,
    RetryFailed,
    TaskInShort,
    TaskNode,
    TaskPage,
    TasksDiscarded,
    TasksRetried,
)

from ..table.faces import faces
from ..table.results import error_record
from ..table.table import Caller, Control, method

FOLLOWED = ("task.queued", "task.started", "task.progress", "task.retried", "task.ended")
"""Event types of a task, and of those below it, that `task.follow` sends."""

STANDING = {"queued": "task.queued", "running": "task.started"}
"""The event that brings a task to each state that is no end."""

SHORT_CHARS = 300
"""Characters of an objective, and of an error's message, in a tree."""

QUIET_S = 0.005
"""Seconds that a task runs before its progress is sent: of one that ends sooner only the end is."""

MOST_FOLLOWED = 10_000
"""Number of tasks below one that `task.follow` covers."""


class ProgressSender:
    """Sends a caller the progress of a task that runs for longer than QUIET_S.

    Of a task that has ended by then only the end is sent, together with the answer.
    """

    def __init__(self, control: Control, caller: Caller) -> None:
        self._loop = control.loop
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


@method(
    "task.run",
    "operate",
    TaskRunParams,
    Task,
    scope=NEW_TASK,
    faces=faces(
        "POST /agents/{agent}/run",
        "POST /teams/{agent}/run",
        "POST /workflows/{agent}/run",
        "POST /run",
        python="execute_task",
        command="run",
        streams=True,
        parts=True,
    ),
)
async def _run(control: Control, params: TaskRunParams, caller: Caller) -> Task:
    """Runs a task and answers when it has ended; a caller that hangs up leaves it running."""
    task = await control.tasks.submit(params, tenant=caller.tenant)
    return await _ended(control, task.id, caller, params.stream)


@method(
    "task.submit",
    "operate",
    TaskParams,
    Task,
    scope=NEW_TASK,
    faces=faces("POST /tasks", python="submit_task", command="run"),
)
async def _submit(control: Control, params: TaskParams, caller: Caller) -> Task:
    """Queues a task and answers with its record at once; it is durable by then."""
    return await control.tasks.submit(params, tenant=caller.tenant)


@method(
    "task.wait",
    "read",
    TaskWaitParams,
    Task,
    scope=TASK,
    faces=faces("GET /tasks/{task}/wait", python="wait_task", command="task wait", streams=True, parts=True),
)
async def _wait(control: Control, params: TaskWaitParams, caller: Caller) -> Task:
    """Answers with the record of a task when it has ended."""
    try:
        async with asyncio.timeout(params.timeout_s):
            return await _ended(control, params.task, caller, params.stream)
    except TimeoutError:
        raise _late(params) from None


async def _ended(control: Control, task_id: str, caller: Caller, stream: bool) -> Task:
    """Returns the record of a task when it has ended; meanwhile sends its progress, and what it streams, to the caller."""
    listener = ProgressSender(control, caller)
    buffer = control.tasks.parts(task_id) if stream else None
    sender = None if buffer is None else PartSender(buffer, caller)
    try:
        task = await control.tasks.wait(task_id, listener=listener)
        if sender is not None:
            await sender.finish()
        return task
    finally:
        listener.close()
        if sender is not None:
            await sender.close()


def _late(params: TaskWaitParams | TaskFollowParams) -> Timeout:
    return Timeout(
        f'cannot wait longer than {params.timeout_s:g} s for task "{params.task}": it goes on', task=params.task
    )


@method(
    "task.follow",
    "read",
    TaskFollowParams,
    Task,
    scope=TASK,
    faces=faces("GET /tasks/{task}/follow", python="follow_task", command="task follow", streams=True),
)
async def _follow(control: Control, params: TaskFollowParams, caller: Caller) -> Task:
    """Returns as `task.wait`; meanwhile sends the events of the task and those below it as `task.event` notifications {event}."""
    followed = {params.task}

    def is_below(event: Event) -> bool:
        task, parent = event.fields.get("task"), event.fields.get("parent")
        if parent in followed and isinstance(task, str) and len(followed) < MOST_FOLLOWED:
            followed.add(task)
        return task in followed

    with control.shared.bus.subscribe(FOLLOWED, where=is_below) as subscription:
        await _send_standing(control, await control.tasks.show(params.task), followed, caller)

        async def notify() -> None:
            async for event in subscription:
                caller.notify("task.event", {"event": event.record()})
                await caller.drain()

        sending = asyncio.ensure_future(notify())
        try:
            async with asyncio.timeout(params.timeout_s):
                ended = await control.tasks.wait(params.task)
                subscription.close()
                await sending  # events before the end are sent before the end
        except TimeoutError:
            raise _late(params) from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return ended


async def _send_standing(control: Control, root: Task, followed: set[str], caller: Caller) -> None:
    """Sends the states of a task and of those below it that have not ended, and adds them to `followed`."""
    level = [root]
    while level:
        below: list[Task] = []
        for task in level:
            caller.notify("task.event", {"event": _standing(task)})
            for child in await children_of(control, task, MOST_FOLLOWED - len(followed)):
                if child.state not in ENDED and child.id not in followed:
                    followed.add(child.id)
                    below.append(child)
        await caller.drain()
        level = below


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


@method(
    "task.show",
    "read",
    TaskShowParams,
    Task,
    scope=TASK,
    faces=faces("GET /tasks/{task}", python="show_task", command="task show"),
)
async def _show_task(control: Control, params: TaskShowParams, _caller: Caller) -> Task:
    """Returns the record of a task, with its tool calls where they are asked for."""
    task = await control.tasks.show(params.task)
    if params.calls:
        task = replace(task, calls=await control.tool_calls.history.of(task.id))
    return task


@method(
    "task.tree",
    "read",
    TaskTreeParams,
    TaskNode,
    scope=TASK,
    faces=faces("GET /tasks/{task}/tree", python="task_tree", command="task show"),
)
async def _tree(control: Control, params: TaskTreeParams, _caller: Caller) -> TaskNode:
    """Returns a short record of a task with those it delegated: {task, children: [the same], more: number of children left out}."""
    top = await control.tasks.show(params.task)
    root = TaskNode(task=_in_short(top), children=[], more=0)
    level = [(root, top)]
    left, depth = params.limit - 1, 0
    while level:
        below: list[tuple[TaskNode, Task]] = []
        for node, task in level:
            found = await children_of(control, task, max(left, 0) + 1)
            shown = found[: max(left, 0)] if depth < params.depth else []
            nodes = [TaskNode(task=_in_short(each), children=[], more=0) for each in shown]
            node.children, node.more = nodes, len(found) - len(shown)
            left -= len(shown)
            below += zip(nodes, shown, strict=True)
        level, depth = below, depth + 1
    return root


def _in_short(task: Task) -> TaskInShort:
    """Returns a record without the fields that may be long."""
    short = replace(
        task, objective=task.objective[:SHORT_CHARS], error=None if task.error is None else _error_in_short(task.error)
    )
    return msgspec.convert(short, TaskInShort, from_attributes=True)


def _error_in_short(error: Error) -> Error:
    return Error(error.code, error.name, error.message[:SHORT_CHARS])


async def children_of(control: Control, task: Task, limit: int) -> list[Task]:
    """Returns the tasks that a task delegated, in that order, without those that have expired or cannot be read."""
    stored = {each.id: each for each in await control.tasks.records.children(task.id, limit)}
    found: list[Task] = []
    for child_id in islice(dict.fromkeys([*task.children, *stored]), limit):
        child = control.tasks.find(child_id) or stored.get(child_id)
        if child is None:
            with contextlib.suppress(NotFound, Corrupted):
                child = await control.tasks.show(child_id)
        if child is not None:
            found.append(child)
    return found


@method(
    "task.list",
    "read",
    TaskListParams,
    TaskPage,
    scope=Rule("agent", lists=(("tasks", "agent"),)),
    faces=faces("GET /tasks", python="list_tasks", command="tasks"),
)
async def _list_tasks(control: Control, params: TaskListParams, caller: Caller) -> TaskPage:
    """Lists records of tasks, newest first; `more`, where it is not null, is the `before` for the rest; `skipped` cannot be read."""
    page = await control.tasks.list(params, knows(caller.agents))
    return TaskPage(tasks=page.tasks, more=page.more, skipped=page.skipped)


@method(
    "task.cancel",
    "operate",
    TaskIdParams,
    Task,
    scope=TASK,
    faces=faces("DELETE /tasks/{task}", "POST /tasks/{task}/cancel", python="cancel_task", command="task cancel"),
)
async def _cancel(control: Control, params: TaskIdParams, _caller: Caller) -> Task:
    """Cancels a task and those that it delegated."""
    return await control.tasks.cancel(params.task)


@method(
    "task.retry",
    "operate",
    TasksParams,
    TasksRetried,
    scope=TASK,
    faces=faces("POST /tasks/{tasks}/retry", "POST /tasks/retry", python="retry_tasks", command="task retry"),
)
async def _retry(control: Control, params: TasksParams, _caller: Caller) -> TasksRetried:
    """Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}."""
    ids, more = await _named(control, params)
    queued: list[Retried] = []
    failed: list[RetryFailed] = []
    for task_id in ids:
        try:
            task = await _retried(control, task_id)
            queued.append(Retried(task=task_id, by=task.id))
        except CorralError as error:
            failed.append(RetryFailed(task=task_id, error=error_record(error)))
    return TasksRetried(retried=queued, failed=failed, more=more)


@method(
    "task.discard",
    "operate",
    TasksParams,
    TasksDiscarded,
    scope=TASK,
    faces=faces("POST /tasks/{tasks}/discard", "POST /tasks/discard", python="discard_tasks", command="task discard"),
)
async def _discard(control: Control, params: TasksParams, _caller: Caller) -> TasksDiscarded:
    """Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}."""
    ids, more = await _named(control, params)
    if not params.dead:
        for task_id in ids:
            await control.tasks.show(task_id)
    return TasksDiscarded(discarded=await control.tasks.records.discard(ids), more=more)


async def _named(control: Control, params: TasksParams) -> tuple[list[str], str | None]:
    """Returns the ids that the params select, and the id after which there are more dead letters."""
    named = [*([params.task] if params.task is not None else []), *params.tasks]
    if bool(named) == params.dead:
        raise InvalidParams("cannot select tasks: give tasks or dead", key="tasks")
    if not params.dead:
        return list(dict.fromkeys(named)), None
    return await control.tasks.records.dead_letters(params)


async def _retried(control: Control, task_id: str) -> Task:
    """Submits a new task in place of an ended one."""
    old = await control.tasks.show(task_id)
    if old.state not in ENDED or old.state == "succeeded":
        words = f'cannot retry task "{task_id}": it is {old.state}'
        raise Conflict(words, task=task_id, state=old.state)
    if old.retried_by is not None:
        words = f'cannot retry task "{task_id}": it was retried as task "{old.retried_by}"'
        raise Conflict(words, task=task_id, retried_by=old.retried_by)
    params = TaskParams(
        objective=old.objective,
        agent=old.agent,
        input=old.input,
        context=old.context,
        priority=old.priority,
        boundaries=old.boundaries,
        required_capabilities=old.required_capabilities,
        output_format=old.output_format,
        idempotency_key=f"retry:{task_id}",  # two retries at once make one task
        sticky_key=old.sticky_key,
        session=old.session,
        durable=old.durable,
        retry=old.retry,
        when_down=old.when_down,
        queue_timeout_s=old.queue_timeout_s,
    )
    return await control.tasks.submit(params, schedule=old.schedule, retry_of=task_id, tenant=tenant_of(old.agent))
