"""What a program asks of agents, and what it hears of it: the options of a task, how far it is, why it failed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypedDict

import msgspec

from ..contract.codec import as_object
from ..contract.errors import CorralError, InternalError, from_wire
from ..contract.records import Boundaries, OutputFormat, Retry, Task, TaskParams
from .async_ import shaped


class Progress(NamedTuple):
    """How far a task is: `progress` of `total`, as its worker said; or why it waits, in `message`."""

    task: str
    state: str
    attempt: int
    worker: str | None
    progress: float | None
    total: float | None
    message: str


class TaskOptions(TypedDict, total=False):
    """What else a task may be given: the keys of `schema.TaskParams`."""

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


class _Said(msgspec.Struct):
    """The params of `task.progress`."""

    task: str
    state: str = ""
    attempt: int = 0
    worker: str | None = None
    progress: float | None = None
    total: float | None = None
    message: str = ""


def progress_of(params: Mapping[str, object]) -> Progress:
    """What a notification `task.progress` says.

    Raises:
        InternalError: it has another shape.
    """
    said = shaped(_Said, params, "task.progress")
    return Progress(
        said.task,
        said.state,
        said.attempt,
        said.worker,
        said.progress,
        said.total,
        said.message,
    )


def failure(task: Task) -> CorralError | None:
    """Why a task that has ended did not succeed, as the error that its record names; None where it did."""
    if task.state == "succeeded":
        return None
    if task.error is None:
        return InternalError(f'cannot use task "{task.id}": it is {task.state}', task=task.id)
    facts = {"task": task.id, **task.error.data}
    return from_wire({"code": task.error.code, "message": task.error.message, "data": facts})


def order(agent: str | None, objective: str, options: TaskOptions) -> dict[str, object]:
    """The params of `task.submit`, as JSON, from what was given one by one."""
    return given({**options, **({} if agent is None else {"agent": agent}), "objective": objective})


def given(task: TaskParams | Mapping[str, object]) -> dict[str, object]:
    """The params of `task.submit`, as JSON, from one record."""
    if isinstance(task, TaskParams):
        found = as_object(msgspec.to_builtins(task))
        assert found is not None, "a Struct becomes an object"
        return found
    params = dict(task)
    if isinstance(when := params.get("at"), datetime):
        params["at"] = when.timestamp()
    for key in ("boundaries", "output_format", "retry"):
        if isinstance(value := params.get(key), msgspec.Struct):
            params[key] = msgspec.to_builtins(value)
    for key in ("required_capabilities", "allowed_tools", "after"):
        if isinstance(value := params.get(key), tuple | set | frozenset):
            params[key] = [*value]  # pyright: ignore[reportUnknownVariableType]  the daemon checks them
    return params
