"""The methods `task.*` of the table."""

import asyncio
from collections.abc import Callable

import msgspec

from ..worker.errors import Timeout
from ..worker.schema import Task, TaskIdParams, TaskListParams, TaskParams, TaskWaitParams
from .control import Caller, Control, method


def _listener(caller: Caller) -> Callable[[Task], None]:
    def tell(task: Task) -> None:
        caller.notify(
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

    return tell


@method("task.run", "operate", TaskParams)
async def _run(control: Control, params: TaskParams, caller: Caller) -> object:
    """Runs a task and answers when it has ended; a caller that hangs up leaves it running."""
    task = await control.tasks.submit(params)
    return msgspec.to_builtins(await control.tasks.wait(task.id, listener=_listener(caller)))


@method("task.submit", "operate", TaskParams)
async def _submit(control: Control, params: TaskParams, _caller: Caller) -> object:
    """Queues a task and answers with its record at once; it is durable by then."""
    return msgspec.to_builtins(await control.tasks.submit(params))


@method("task.wait", "read", TaskWaitParams)
async def _wait(control: Control, params: TaskWaitParams, caller: Caller) -> object:
    """Answers with the record of a task when it has ended."""
    try:
        async with asyncio.timeout(params.timeout_s):
            task = await control.tasks.wait(params.task, listener=_listener(caller))
    except TimeoutError:
        raise Timeout(
            f'cannot wait longer than {params.timeout_s:g} s for task "{params.task}": it goes on',
            task=params.task,
        ) from None
    return msgspec.to_builtins(task)


@method("task.show", "read", TaskIdParams)
async def _show_task(control: Control, params: TaskIdParams, _caller: Caller) -> object:
    """The record of a task."""
    return msgspec.to_builtins(await control.tasks.show(params.task))


@method("task.list", "read", TaskListParams)
async def _list_tasks(control: Control, params: TaskListParams, _caller: Caller) -> object:
    """Records of tasks, newest first."""
    tasks = await control.tasks.list(params.agent, params.state, params.limit)
    return {"tasks": msgspec.to_builtins(tasks)}


@method("task.cancel", "operate", TaskIdParams)
async def _cancel(control: Control, params: TaskIdParams, _caller: Caller) -> object:
    """Cancels a task and what it delegated."""
    return msgspec.to_builtins(await control.tasks.cancel(params.task))
