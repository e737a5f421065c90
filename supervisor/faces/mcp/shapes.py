"""Defines the arguments and the results of corral's own tools; their JSON Schemas are made from these Structs."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from corral.worker.contract.records import Priority, Seconds, TaskState, WhenDown

WAIT_S = 600.0
"""Seconds that `corral__run` waits by default; a client that set no limit of its own is not left without an answer."""


# -- arguments

Name = Annotated[str, Meta(description="Name of an agent or MCP server, or id of a worker")]


class ListArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__list`."""

    kind: Annotated[Literal["all", "agents", "servers"], Meta(description="The kind of entries to list")] = "all"


class ShowArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__show`."""

    name: Name


class OperationArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of start, stop and restart."""

    name: Name
    timeout_s: Annotated[Seconds, Meta(description="Wait that many seconds at most")] = 60.0


class RunArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__run`."""

    objective: Annotated[str, Meta(description="The work to do, in plain words")]
    agent: Annotated[str | None, Meta(description="The agent that runs it; else give a capability")] = None
    capability: Annotated[str | None, Meta(description="Any agent that has it may run the task")] = None
    input: Annotated[object, Meta(description="Any JSON value for the agent")] = None
    timeout_s: Annotated[Seconds | None, Meta(description="Give up after so many seconds of running")] = None
    deadline_s: Annotated[Seconds | None, Meta(description="Give up after so many seconds, waiting included")] = None
    wait_s: Annotated[Seconds, Meta(description="Answer after so many seconds at the latest; the task goes on")] = (
        WAIT_S
    )
    when_down: Annotated[WhenDown | None, Meta(description="queue: wait for an agent that is stopped or gave up")] = (
        None
    )
    priority: Annotated[Priority | None, Meta(description="10 is the most urgent")] = None
    detach: Annotated[bool, Meta(description="Return at once; corral__task shows the task's progress")] = False


class ApprovalsArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__approvals`."""

    agent: Annotated[str | None, Meta(description="Those of this agent alone")] = None
    task: Annotated[str | None, Meta(description="Those of this task alone")] = None


class LogsArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__logs`."""

    name: Annotated[str | None, Meta(description="Agent, MCP server or worker; all when absent")] = None
    task: Annotated[str | None, Meta(description="A task: the lines of all its attempts, in place of a name")] = None
    lines: Annotated[int, Meta(ge=1, le=2000, description="How many of the last lines")] = 100
    stream: Literal["stdout", "stderr", "log"] | None = None
    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"] | None, Meta(description="The least severe")
    ] = None
    grep: Annotated[
        Annotated[str, Meta(max_length=1000)] | None, Meta(description="A regular expression that a line contains")
    ] = None
    previous: Annotated[bool, Meta(description="Of the life before the present one")] = False


class TasksArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__tasks`."""

    agent: Annotated[str | None, Meta(description="Of one agent; of all when absent")] = None
    state: TaskState | None = None
    limit: Annotated[int, Meta(ge=1, le=500, description="How many, the newest first")] = 20


class TaskArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__task`."""

    task: Annotated[str, Meta(description="Its id")]
    wait_s: Annotated[float, Meta(ge=0, le=3600, description="Wait so many seconds at most for its end")] = 0.0


class CancelArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__cancel`."""

    task: Annotated[str, Meta(description="Its id")]


class MethodsArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__methods`."""

    prefix: Annotated[str, Meta(description="The beginning of their names, such as schedule; all when absent")] = ""


class CallArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the arguments of `corral__call`."""

    method: Annotated[str, Meta(description="Name of a method, as corral__methods lists them")]
    params: Annotated[dict[str, object], Meta(description="Its params")] = {}


# -- results


class Entry(Struct, frozen=True, kw_only=True):
    """Summarizes an agent or MCP server."""

    name: str
    kind: str
    state: str
    wanted: bool
    degraded: bool
    workers: int
    workers_up: int
    tasks: list[str]
    queued: int
    reason: str


class Listed(Struct, frozen=True):
    """Lists agents and MCP servers."""

    entries: list[Entry]


class Shown(Struct, frozen=True):
    """Shows an agent or MCP server in full."""

    agent: dict[str, object]
    spec: dict[str, object]
    source: str
    exits: list[dict[str, object]]
    stderr: dict[str, list[str]]


class Logged(Struct, frozen=True):
    """Holds lines of logs, merged by time."""

    records: list[dict[str, object]]


class Summary(Struct, frozen=True, kw_only=True):
    """Summarizes a task."""

    id: str
    agent: str
    state: str
    objective: str
    priority: int
    attempt: int
    created_at: str
    finished_at: str | None
    duration_s: float | None
    progress: float | None
    error: str | None


class Tasks(Struct, frozen=True):
    """Lists tasks, the newest first."""

    tasks: list[Summary]


class MethodEntry(Struct, frozen=True, kw_only=True):
    """Describes a method; a param with a question mark may be left out."""

    name: str
    summary: str
    needs: str
    params: list[str]
    example: dict[str, object]


class Methods(Struct, frozen=True):
    """Lists methods, by name."""

    methods: list[MethodEntry]


class Called(Struct, frozen=True):
    """Holds the result of a method."""

    result: object
