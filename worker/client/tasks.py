"""Runs tasks for a program: their options, execution with cancellation, progress, and the error of a failed one.

It guarantees that cancelling an execution cancels its task, also when its id is not known yet. It must not know how
the daemon is reached.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import NamedTuple, TypedDict

import msgspec

from ..contract.codec import as_object
from ..contract.errors import CorralError, InternalError, Unreachable, from_wire
from ..contract.jsonrpc import Notification
from ..contract.records import Boundaries, OutputFormat, Retry, Task, TaskParams, WhenDown
from .async_ import Reconnecting, decode_answer

CANCEL_S = 5.0
"""Seconds that a `task.cancel` sent for a cancelled caller may take."""


class Progress(NamedTuple):
    """Represents the progress of a task: `progress` of `total`; or, in `message`, the reason why it waits."""

    task: str
    state: str = ""
    attempt: int = 0
    worker: str | None = None
    progress: float | None = None
    total: float | None = None
    message: str = ""


_ProgressParams = msgspec.defstruct(
    "_ProgressParams",
    [
        (name, type_, Progress._field_defaults.get(name, msgspec.NODEFAULT))
        for name, type_ in Progress.__annotations__.items()
    ],
)
"""The params of `task.progress`: the fields of `Progress` as an object."""


class TaskOptions(TypedDict, total=False):
    """Lists the optional keys of `records.TaskParams` as keyword arguments."""

    capability: str
    input: object
    context: object
    priority: int
    timeout_s: float
    boundaries: Boundaries | Mapping[str, object]
    required_capabilities: Sequence[str]
    allowed_tools: Sequence[str]
    output_format: OutputFormat | Mapping[str, object]
    idempotency_key: str
    after: Sequence[str]
    at: float | datetime
    sticky_key: str
    session: str
    durable: bool
    retry: Retry | Mapping[str, object]
    when_down: WhenDown
    queue_timeout_s: float
    deadline_s: float
    traceparent: str


OnProgress = Callable[[Progress], None]


class ProgressListeners:
    """Passes the progress of a task to the callers that wait for it."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[OnProgress]] = {}

    @contextmanager
    def listening(self, task: str, on_progress: OnProgress) -> Generator[None, None, None]:
        """Calls `on_progress` with each progress of `task` inside the block."""
        self._listeners.setdefault(task, []).append(on_progress)
        try:
            yield
        finally:
            self._listeners[task].remove(on_progress)
            if not self._listeners[task]:
                del self._listeners[task]

    def notify(self, notification: Notification) -> None:
        """Takes a notification; all but `task.progress` are dropped.

        Raises:
            InternalError: its params have another shape.
        """
        if notification.method != "task.progress":
            return
        listeners = self._listeners.get(str(notification.params.get("task")))
        if listeners:
            params = decode_answer(_ProgressParams, notification.params, "task.progress")
            progress = Progress(*msgspec.structs.astuple(params))
            for listener in tuple(listeners):
                listener(progress)


class TaskRunner:
    """Executes tasks over a connection, and cancels those of callers that are cancelled."""

    def __init__(self, connection: Reconnecting, listeners: ProgressListeners) -> None:
        self._connection = connection
        self._listeners = listeners
        self._late: set[asyncio.Task[object]] = set()

    async def wait(self, task: str, *, timeout_s: float | None = None, on_progress: OnProgress | None = None) -> Task:
        """Returns the record of a task when it has ended; see `AgentRuntime.wait_task`."""
        params: dict[str, object] = {"task": task, "timeout_s": timeout_s}
        if on_progress is None:
            return await self._connection.ask(Task, "task.wait", params)
        with self._listeners.listening(task, on_progress):
            return await self._connection.ask(Task, "task.wait", params)

    async def execute(self, params: Mapping[str, object], on_progress: OnProgress | None = None) -> Task:
        """Submits a task and returns its record when it has ended; see `AgentRuntime.execute_task`."""
        task = await self.submit(params)
        try:
            return await self.wait(task.id, on_progress=on_progress)
        except asyncio.CancelledError:
            self.cancel_later(task.id)
            raise
        except Unreachable as error:
            raise Unreachable(error.message, **{**error.data, "task": task.id}) from error

    async def submit(self, params: Mapping[str, object]) -> Task:
        """Submits a task and returns its record; a caller that is cancelled meanwhile cancels the task."""
        submitting = asyncio.ensure_future(self._connection.ask(Task, "task.submit", params))
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            self._finish_later(self._cancel_submitted(submitting))
            raise

    def cancel_later(self, task: str) -> None:
        """Cancels a task in the background; `settle` waits for it."""
        self._finish_later(self._cancel(task))

    async def execute_all(self, tasks: Iterable[Mapping[str, object]], max_parallel: int) -> list[Task | CorralError]:
        """Executes tasks, `max_parallel` at a time; returns the record or the error of each, in their order."""
        waiting = deque(enumerate(tasks))
        results: dict[int, Task | CorralError] = {}

        async def work() -> None:
            while waiting:
                number, params = waiting.popleft()
                try:
                    results[number] = await self.execute(params)
                except CorralError as error:
                    results[number] = error

        async with asyncio.TaskGroup() as group:
            for _ in range(min(max_parallel, len(waiting))):
                group.create_task(work())
        return [results[number] for number in sorted(results)]

    async def settle(self) -> None:
        """Waits until the cancellations of cancelled callers are sent and answered, at most CANCEL_S."""
        if self._late:
            await asyncio.wait(self._late, timeout=CANCEL_S)

    async def _cancel_submitted(self, submitting: asyncio.Future[Task]) -> None:
        with suppress(CorralError):
            await self._cancel((await submitting).id)

    async def _cancel(self, task: str) -> None:
        with suppress(CorralError):
            await self._connection.call("task.cancel", {"task": task}, timeout_s=CANCEL_S)

    def _finish_later(self, work: Coroutine[None, None, None]) -> None:
        """Finishes work of a cancelled caller in the background; `settle` waits for it."""
        task: asyncio.Task[object] = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def failure(task: Task) -> CorralError | None:
    """Returns the error of a task that has ended unsuccessfully, of the class that its record names; else None."""
    if task.state == "succeeded":
        return None
    if task.error is None:
        return InternalError(f'cannot use task "{task.id}": it is {task.state}', task=task.id)
    facts = {"task": task.id, **task.error.data}
    return from_wire({"code": task.error.code, "message": task.error.message, "data": facts})


def submit_params(agent: str | None, objective: str, options: TaskOptions) -> dict[str, object]:
    """Returns the params of `task.submit`, as JSON, from separate arguments."""
    named = {} if agent is None else {"agent": agent}
    return task_params({**options, **named, "objective": objective})


def task_params(task: TaskParams | Mapping[str, object]) -> dict[str, object]:
    """Returns the params of `task.submit`, as JSON, from one record."""
    if isinstance(task, TaskParams):
        found = as_object(msgspec.to_builtins(task))
        assert found is not None, "a Struct becomes an object"
        return found
    params: dict[str, object] = {"objective": "", **task}
    if isinstance(when := params.get("at"), datetime):
        params["at"] = when.timestamp()
    for key in ("boundaries", "output_format", "retry"):
        if isinstance(value := params.get(key), msgspec.Struct):
            params[key] = msgspec.to_builtins(value)
    for key in ("required_capabilities", "allowed_tools", "after"):
        if isinstance(value := params.get(key), tuple | set | frozenset):
            params[key] = [*value]  # pyright: ignore[reportUnknownVariableType]  the daemon checks them
    return params
