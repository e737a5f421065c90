"""Defines the messages of the worker protocol: params of a worker's requests and notifications, and its results.

Guarantees their types as the daemon reads them. Unknown keys are ignored, so that a newer SDK works with an older
daemon; the two delegations take the params of a control method, and refuse unknown keys as it does.
"""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from .records import Seconds, TaskParams

PROTOCOL_VERSION = "1"
"""Version of the worker protocol that `initialize` requests."""


class WorkerToolsParams(Struct, frozen=True):
    """`tools/list` of a worker; with `task`, only what that task may call, and with `all` also where that is long."""

    task: str | None = None
    all: bool = False


StepNumber = Annotated[int, Meta(ge=1, le=1_000_000)]

StepName = Annotated[str, Meta(min_length=1, max_length=256)]


class CallStep(Struct, frozen=True):
    """Represents the step that a tool call is; `again` if an earlier beginning made the call, and nobody knows its end."""

    number: StepNumber
    name: StepName
    again: bool = False


class WorkerCallParams(Struct, frozen=True):
    """`tools/call` of a worker; one that is a `step` of its `task` is kept by the daemon."""

    name: str
    arguments: dict[str, object] = {}
    task: str | None = None
    step: CallStep | None = None


class StepParams(Struct, frozen=True):
    """`step/put` of a worker: the end of a step of a `task`: its `result`, or with `error` the reason of its failure.

    `at` is its beginning, in seconds of the Unix epoch. Answered with `{}` when it is kept.
    """

    task: str
    number: StepNumber
    name: StepName
    kind: Annotated[str, Meta(min_length=1, max_length=32)] = "step"
    at: float = 0.0
    duration_s: float = 0.0
    result: object = None
    error: Annotated[str, Meta(max_length=4096)] | None = None


class StepsParams(Struct, frozen=True):
    """`step/list` of a worker: the kept steps of a `task` after a number, as `steps` of `task/run` has the first."""

    task: str
    after: Annotated[int, Meta(ge=0)] = 0


class DelegateParams(TaskParams, frozen=True, forbid_unknown_fields=True):
    """`task/delegate` of a worker for its `task`; answered with the child's record when it has ended, or at once without `wait`."""

    task: str | None = None
    wait: bool = True


class DelegateAllParams(Struct, frozen=True, forbid_unknown_fields=True):
    """`task/delegate_all` of a worker for its `task`: several at once; at most `max_parallel` run at a time.

    Answered with `{"results": […]}` when all have ended: in the order of `tasks` the record of each, or
    `{"error": …}` of a task that was refused.
    """

    tasks: Annotated[list[TaskParams], Meta(min_length=1, max_length=100_000)]
    max_parallel: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    task: str | None = None


class PartsParams(Struct, frozen=True):
    """`task/parts` of a worker: the parts that a task which it delegated has streamed after `number` of `delivery`.

    Answered with `{"parts": […], "record": null}` as soon as there is something, else with the record when it has ended.
    """

    task: str
    delivery: Annotated[int, Meta(ge=0)] = 0
    number: Annotated[int, Meta(ge=0)] = 0


class ChildParams(Struct, frozen=True):
    """`task/cancel` of a worker: a task that it delegated."""

    task: str


class MemoryParams(Struct, frozen=True):
    """`memory/put`, `memory/get` and `memory/delete`; `ttl_s` and `value` only for put."""

    key: Annotated[str, Meta(min_length=1, max_length=1024)]
    value: object = None
    ttl_s: Seconds | None = None
    session: Annotated[str, Meta(max_length=1024)] = ""


class MemorySearchParams(Struct, frozen=True):
    """`memory/search`: keys or values that contain the text."""

    query: str
    limit: Annotated[int, Meta(ge=1, le=1000)] = 10
    session: str | None = None


class MemoryChanges(Struct, frozen=True):
    """Represents the changes of a task to the variables or the data of its session."""

    set: dict[str, object] = {}
    delete: list[str] = []


class MemoryDelta(Struct, frozen=True):
    """Represents the changes of a task to its session: the `memory` in the response to `task/run`.

    `append` are new messages; `history` is the whole history before them, where earlier messages were changed. With
    `ttl_s` the session ends so many seconds after this task, and with null only when it is unused for long.
    """

    append: list[dict[str, object]] = []
    history: list[dict[str, object]] | None = None
    variables: MemoryChanges = MemoryChanges()
    data: MemoryChanges = MemoryChanges()
    ttl_s: Seconds | UnsetType | None = UNSET


class CheckpointParams(Struct, frozen=True):
    """`checkpoint/put`."""

    data: object
    task: str | None = None


class PublishParams(Struct, frozen=True):
    """`event/publish`."""

    type: Annotated[str, Meta(min_length=1, max_length=128)]
    data: object = None


class SubscribeParams(Struct, frozen=True):
    """`event/subscribe`: globs of event types."""

    types: Annotated[list[str], Meta(max_length=100)]


class ProgressParams(Struct, frozen=True):
    """`progress` of a worker."""

    progress: float
    task: str | None = None
    total: float | None = None
    message: str = ""


class StreamParams(Struct, frozen=True):
    """`stream` of a worker: a part of the output of a running task, any JSON value; a string is text."""

    part: object
    task: str | None = None


class BeatParams(Struct, frozen=True):
    """`heartbeat` of a worker; with `task`, of the handler that runs it."""

    busy: bool = False
    task: str | None = None


class UsageParams(Struct, frozen=True):
    """`usage` of a worker."""

    tokens: Annotated[int, Meta(ge=0)] = 0
    cost_cents: Annotated[float, Meta(ge=0)] = 0.0
    task: str | None = None


class WorkerLogParams(Struct, frozen=True):
    """`log` of a worker; with `task`, of the handler that runs it."""

    message: str
    level: str = "info"
    fields: dict[str, object] = {}
    task: str | None = None


class TaskResult(Struct, frozen=True):
    """Represents the response to `task/run`; `memory` has the changes of the session."""

    output: object = None
    tokens_used: Annotated[int, Meta(ge=0)] = 0
    cost_cents: Annotated[float, Meta(ge=0)] = 0.0
    memory: object = None


class HealthOffer(Struct, frozen=True):
    """Represents a health check that a worker runs itself; `recovers` if it has a recovery of the same name."""

    name: Annotated[str, Meta(min_length=1, max_length=48)]
    interval_s: Annotated[float, Meta(ge=0.01, le=31_536_000)] = 60.0
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    threshold: Annotated[int, Meta(ge=1, le=1000)] = 1
    recovers: bool = False


class HealthAnswer(Struct, frozen=True):
    """Represents the response to `health/check`."""

    ok: bool
    message: str = ""


class Hello(Struct, frozen=True):
    """Represents the response to `initialize`."""

    protocolVersion: str
    name: str = ""
    version: str = ""
    capabilities: list[str] = []
    health: Annotated[list[HealthOffer], Meta(max_length=20)] = []
