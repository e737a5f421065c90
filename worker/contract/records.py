"""Defines the records that the daemon keeps and returns: tasks, schedules, checkpoints, status, statistics.

Guarantees their JSON form: keys may be added to a shape, never changed or removed. Times are RFC 3339 in UTC,
durations are seconds. `TaskParams` is here because the record of a schedule contains one. Knows no method.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .errors import CorralError, from_wire
from .trace_context import PATTERN

Priority = Annotated[int, Meta(ge=1, le=10)]

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]

Count = Annotated[int, Meta(ge=1, le=100_000)]

Moment = Annotated[float, Meta(ge=-62_135_596_800, le=253_402_300_799)]
"""Seconds of the Unix epoch, in the years 1 to 9999: later times do not compare as text, earlier ones have none."""

Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""The number of an event, as SQLite has it."""

Key = Annotated[str, Meta(min_length=1, max_length=200)]
"""A name that a caller chooses: an idempotency key, a session, a sticky key."""

TaskKind = Literal["task", "team", "workflow", "job", "placed"]
"""The executor: a worker that speaks corral; the daemon itself, which delegates the parts to others; or a command."""

TaskState = Literal["queued", "running", "succeeded", "failed", "cancelled", "timeout"]

ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "timeout"})
"""States of a task that never change again."""


def copied(source: object, names: str) -> dict[str, Any]:  # Any: each value has the type of its field
    """Returns the values that `source` has under these names, which are words of one text, for a record with the same fields."""
    return {name: getattr(source, name) for name in names.split()}


class Error(Struct, frozen=True):
    """Represents an error in a record; the codes are those of `errors`."""

    code: int
    name: str
    message: str
    data: dict[str, object] = {}

    @classmethod
    def of(cls, error: CorralError) -> "Error":
        """Makes the record of an error."""
        return cls(error.code, error.name, error.message, error.data)

    def as_error(self, message: str | None = None, **more: object) -> CorralError:
        """Returns the error of a record, which keeps its class; with other words and more data, where they are given."""
        words = self.message if message is None else message
        return from_wire({"code": self.code, "message": words, "data": {**self.data, **more}})


class Boundaries(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits a task. `timeout_s` and `max_tool_calls` can only tighten the agent's own limits.

    `timeout` is another way to write `timeout_s`: seconds, or "30s". A record has `timeout_s` alone.
    """

    timeout_s: Seconds | None = None
    max_tool_calls: Annotated[int, Meta(ge=0)] | None = None
    allowed_tools: list[str] | None = None
    constraints: list[str] = []
    scope: str = ""
    timeout: Seconds | str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_cost_cents: Annotated[float, Meta(gt=0)] | None = None


Traceparent = Annotated[str, Meta(pattern=PATTERN)]
"""A trace context of W3C."""


class OutputFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies the output: in words for the agent, and as a JSON Schema that the daemon enforces."""

    description: str = ""
    schema: dict[str, object] | bool | None = None


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """Overrides the retry policy in `[tasks]` of the agent: the number of attempts, and the errors to retry on.

    `retry_on` as in the configuration: "worker-death", "any", "never", or names of errors. `retry_backoff_base`, as there,
    is another way to write `retry_backoff_base_s`: seconds, or "1s". A record has `retry_backoff_base_s` alone.
    """

    max_attempts: Annotated[int, Meta(ge=1, le=1000)] | None = None
    retry_on: list[str] | str | None = None
    retry_backoff_base_s: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None
    retry_backoff_base: float | str | UnsetType = UNSET


WhenDown = Literal["refuse", "queue"]
"""The handling of a task whose agent runs none until it is started."""


class TaskCall(Struct, frozen=True, kw_only=True):
    """Represents a tool call of a task, in the beginning `delivery` of it.

    `outcome` is ok, error (the tool's own), cancelled, or the name of an error. `size_bytes` is that of the result;
    `result` is there with `record_tool_calls = "results"`, masked, and of a long one the beginning of its text.
    """

    tool: str
    ok: bool
    outcome: str
    at: str
    duration_s: float
    size_bytes: int = 0
    delivery: int = 0
    result: object = None


StepState = Literal["running", "done", "failed"]


class TaskStep(Struct, frozen=True, kw_only=True):
    """Represents a step of a task: work that is done once, however often the task begins.

    `number` is its place, from 1, `name` unique in the task. `state` is done (its `result` is kept), failed (it runs again at
    the next beginning), or running: a tool was called, and nobody knows whether it ended. `kind` is step, tool,
    delegate or ask; `tries` the number of times that it has failed.
    """

    number: int
    name: str
    state: StepState
    kind: str
    at: str
    duration_s: float | None
    delivery: int
    tries: int = 0
    size_bytes: int = 0
    error: str | None = None
    result: object = None


class Task(Struct, frozen=True, kw_only=True):
    """Represents one task of an agent, from its acknowledgement to its end.

    `attempt` counts from 1 once it has been dispatched, and only goes up after a failure; `delivery` counts every
    beginning of its handler, whatever ended the one before. `parent` is the task that delegated it, `depth` the
    number of its ancestors, `step` its part in the task of a team or workflow.
    `progress` is the last report of the worker, of `progress_total` (1 where it gave none).
    `after` are tasks that have to succeed first, `scheduled_at` is its earliest start, `schedule` the schedule that made it.
    A `durable` task is stored before it is acknowledged; another one never outlives the daemon.
    `retry_of` is the ended task that it replaces, `retried_by` the task that replaces it. `when_down` and
    `queue_timeout_s` are the task's own, null where `[tasks]` decides; at `deadline_at` it ends as timeout. `calls` are its tool calls,
    and `steps` its steps, where they are asked for. A retry has the `retried_from`: the first step that it does not keep. `peak_memory_bytes` and `cpu_ms` are what its workers have used while it ran, null where that was not measured.
    `traceparent` names the span above it, of the caller or of the task that delegated it.
    """

    id: str
    agent: str
    worker: str | None = None
    state: TaskState = "queued"
    priority: int = 5
    attempt: int = 0
    delivery: int = 0
    objective: str = ""
    input: object = None
    context: object = None
    boundaries: Boundaries = Boundaries()
    output: object = None
    error: Error | None = None
    progress: float | None = None
    progress_total: float | None = None
    progress_message: str = ""
    created_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    duration_s: float | None = None
    tool_calls: int = 0
    tokens_used: int = 0
    cost_cents: float = 0.0
    parent: str | None = None
    children: list[str] = []
    reason: str = ""
    kind: TaskKind = "task"
    depth: int = 0
    step: str = ""
    required_capabilities: list[str] = []
    output_format: OutputFormat | None = None
    idempotency_key: str | None = None
    after: list[str] = []
    scheduled_at: str | None = None
    schedule: str | None = None
    sticky_key: str | None = None
    session: str | None = None
    durable: bool = True
    retry: Retry | None = None
    retry_of: str | None = None
    retried_by: str | None = None
    when_down: WhenDown | None = None
    queue_timeout_s: float | None = None
    deadline_at: str | None = None
    calls: list[TaskCall] | None = None
    peak_memory_bytes: int | None = None
    cpu_ms: float | None = None
    traceparent: str | None = None
    tokens_estimated: int = 0
    steps: list[TaskStep] | None = None
    retried_from: str | None = None


class TaskParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a new task: for an agent, team or workflow by name, or for any agent with a capability.

    Its agent must have all `required_capabilities`; `allowed_tools` is the same key of `boundaries`.
    With an `idempotency_key` the same task is queued once, however often it is sent. It starts after the tasks in
    `after` have succeeded, and not before `at`. Tasks with the same `sticky_key` go to the same worker; those of one
    `session` share its memory and run one after the other. Without `durable` it is faster, and lost with the daemon.
    `timeout_s` bounds each run of its handler, `queue_timeout_s` its wait for the first, `deadline_s` the whole, from when it came (or
    from `at`). `when_down` says whether it waits for an agent that is down, instead of `[tasks]`. `traceparent` is the trace context
    of the caller (W3C).
    """

    objective: str
    agent: str | None = None
    capability: str | None = None
    input: object = None
    context: object = None
    priority: Priority | None = None
    timeout_s: Seconds | None = None
    boundaries: Boundaries = Boundaries()
    required_capabilities: Annotated[list[str], Meta(max_length=100)] = []
    allowed_tools: list[str] | None = None
    output_format: OutputFormat | None = None
    idempotency_key: Key | None = None
    after: Annotated[list[str], Meta(max_length=1000)] = []
    at: Moment | None = None
    sticky_key: Key | None = None
    session: Key | None = None
    durable: bool = True
    retry: Retry | None = None
    when_down: WhenDown | None = None
    queue_timeout_s: Seconds | None = None
    deadline_s: Seconds | None = None
    traceparent: Traceparent | None = None


Overlap = Literal["skip", "queue", "replace"]
"""The handling of a run that is due while the last one has not ended; replace cancels that."""


class Run(Struct, frozen=True, kw_only=True):
    """Represents a run of a schedule that has ended: its task, and how a command has exited.

    `incarnation` is the life of the worker in which it ran, as the logs number them; null for a task of a handler.
    """

    task: str
    state: str
    started_at: str | None = None
    finished_at: str | None = None
    duration_s: float | None = None
    code: int | None = None
    signal: str | None = None
    incarnation: int | None = None
    error: str | None = None


class ScheduleRecord(Struct, frozen=True, kw_only=True):
    """Represents a schedule and the results of its runs.

    `next_at` is the time of the next run, null if there is none. `runs` counts tasks that were made, `skipped` runs
    that were due while the last one had not ended or that were missed without `catch_up`, `refused` runs whose task was
    refused, the last one because of `last_error`. `last_due_at` is the due time of the last run, `last_task` its task,
    `last_run` the last one that has ended. `source` is "store" for a schedule that was added at run time, "cluster" for
    one that all nodes of the cluster have, else the configuration file. `command` is that of the job of its name, null for tasks of others.
    """

    name: str
    task: TaskParams
    every_s: float | None = None
    cron: str | None = None
    timezone: str | None = None
    catch_up: bool = True
    overlap: Overlap = "skip"
    start_at: str | None = None
    paused: bool = False
    created_at: str = ""
    next_at: str | None = None
    last_due_at: str | None = None
    last_task: str | None = None
    last_error: Error | None = None
    runs: int = 0
    skipped: int = 0
    refused: int = 0
    at: str | None = None
    source: str = "store"
    command: list[str] | None = None
    last_run: Run | None = None


class CheckpointRecord(Struct, frozen=True, kw_only=True):
    """Represents a checkpoint without its data; `size_bytes` is the size of the data as JSON. `task` is null for a worker's."""

    id: int
    agent: str
    worker: str | None
    task: str | None
    reason: str
    at: str
    size_bytes: int


class ExitRecord(Struct, frozen=True, kw_only=True):
    """Represents the end of an incarnation."""

    result: str
    code: int | None
    signal: str | None
    forced: bool
    at: str
    message: str


class HealthRecord(Struct, frozen=True, kw_only=True):
    """Represents a health check of a worker; `healthy` is null until it has passed or failed."""

    name: str
    healthy: bool | None
    degraded: bool
    failures: int
    at: str | None
    message: str


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """Represents a worker in `status`.

    `wanted` is true if it is to be up, which may hold for some workers of an agent only. `throttled` is true while
    cpu_limit_percent stops it; `throttled_s` is the sum of these times in this incarnation. `done` is true for a job
    from its success to the beginning of its next run. `restarts` counts starts after failures alone, `renewals` those
    after an end that was asked for: `restart`, `reload`, a rolling restart on changed sources. `task_reason` is what its
    task waits for, such as a person's answer; empty while it waits for nothing.
    """

    id: str
    pid: int | None
    state: str
    incarnation: int
    restarts: int
    uptime_s: float
    rss_bytes: int
    paused: bool
    cpu_percent: float
    open_files: int
    task: str | None
    next_start_in_s: float | None
    last_exit: ExitRecord | None
    reason: str
    wanted: bool = False
    log_lost_lines: int = 0
    log_lost_bytes: int = 0
    log_trouble: str | None = None
    throttled: bool = False
    throttled_s: float = 0.0
    health: list[HealthRecord] = []
    hibernated: bool = False
    done: bool = False
    renewals: int = 0
    task_reason: str = ""


class RollingStatus(Struct, frozen=True, kw_only=True, rename={"before": "from", "after": "to"}):
    """Represents a change of workers that is under way.

    `from` and `to` are the numbers of the revisions, null where they are not numbered. `ready` counts the new workers that
    have their places, `left` the others to be replaced; `reason` says what is waited for.
    """

    before: int | None = None
    after: int | None = None
    ready: int
    left: int
    reason: str


class TakenBack(Struct, frozen=True, kw_only=True):
    """Represents the last change of workers where it was taken back: its revision, null where it has no number, and why."""

    revision: int | None = None
    reason: str
    at: str


class ServerStatus(Struct, frozen=True, kw_only=True):
    """Represents the part of an MCP server in `status` that agents do not have.

    `era` and `version` are those of the last negotiated protocol, null if there was none. `listed_at` is the time of
    its last listing, also by an earlier daemon. `calls`, `failures` and `retries` count since it was added or
    the daemon started. `warning` names a risk of its configuration, `stderr` has its last lines after it gave up.
    `changed` are the tools, at most 100, that are not as they were accepted; with `held` they cannot be called.
    """

    era: str | None
    version: str | None
    listed_at: str | None
    prompts: int
    resources: int
    templates: int
    calls: int
    failures: int
    retries: int
    in_flight: int
    waiting: int
    warning: str | None = None
    stderr: list[str] = []
    changed: list[str] = []
    held: bool = False


class InstancesStatus(Struct, frozen=True):
    """Represents the range of the number of workers of an agent."""

    min: int
    max: int


JobState = Literal["idle", "waiting", "running", "succeeded", "failed", "stopped"]
"""The state of a job: idle before its first run, waiting also for its next attempt."""


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """Represents an agent, team or workflow as an HTTP service; without a `url` it cannot listen, for `reason`.

    `exposed` is true where `corral expose` gave the address, not the configuration.
    """

    address: str
    auth: Literal["token", "none"]
    state: Literal["open", "degraded"]
    url: str | None
    reason: str = ""
    exposed: bool = False


class ListenStatus(Struct, frozen=True, kw_only=True):
    """Represents an address at which the daemon listens for an agent, as `listen` says.

    In the state "on-demand" the next connection starts it; in "closed" connections are refused, where `reason` is not
    empty because the address could not be had. `bound` has the port that the kernel chose for port 0.
    """

    address: str
    name: str
    state: Literal["open", "on-demand", "closed"]
    bound: str | None = None
    reason: str = ""


class AgentStatus(Struct, frozen=True, kw_only=True):
    """Represents an agent or MCP server in `status`; `tools` and `mcp` are for servers, `instances` for a range.

    `job` is the state of an agent of `type = "oneshot"`, and null for a service. `rolling` is there while a change replaces
    its workers, `taken_back` after one that did not come up, until the next one; `beside` has the workers without a place: new ones that come, and former ones that finish. `overridden` is the
    number of the revision whose table is in force instead of the file's. `health_score` is from 0 to 100, by failed tasks,
    restarts, failed checks, met limits and hangs of the last minutes.
    """

    name: str
    kind: Literal["agent", "mcp"]
    state: str
    wanted: bool
    degraded: bool
    protocol: str
    workers: list[WorkerStatus]
    queued: int = 0
    health_score: int = 100
    type: Literal["service", "oneshot", "http", "sse"] = "service"
    job: JobState | None = None
    title: str = ""
    description: str = ""
    labels: dict[str, str] = {}
    instances: InstancesStatus | UnsetType = UNSET
    service: ServiceStatus | UnsetType = UNSET
    listen: list[ListenStatus] | UnsetType = UNSET
    warm: dict[str, object] | UnsetType | None = UNSET
    tools: list[str] | UnsetType = UNSET
    mcp: ServerStatus | UnsetType = UNSET
    rolling: RollingStatus | UnsetType = UNSET
    taken_back: TakenBack | UnsetType = UNSET
    beside: list[WorkerStatus] | UnsetType = UNSET
    overridden: int | UnsetType = UNSET


class AlertCounts(Struct, frozen=True, kw_only=True):
    """Counts the alerts since the daemon's start; suppressed ones exceeded the rate."""

    sent: int = 0
    failed: int = 0
    suppressed: int = 0


class DaemonStatus(Struct, frozen=True, kw_only=True):
    """Represents the daemon itself in `status`.

    `log_lost` counts entries of its own log, `journal_lost` lines of workers that are in the files and not
    in the system's journal. `http` is the address where MCP is served over HTTP. `upgrades` counts how often another
    program took the place of the one before, without an end. `cluster_problem` says why "cluster" is `degraded`: what the engine
    does not do, or which other daemon has the name of this node, since when and where. `needs_you` counts what waits for a person in the inbox.
    """

    pid: int
    version: str
    uptime_s: float
    socket: str
    state_dir: str
    containment: str
    draining: bool
    degraded: list[str]
    config: str | None
    launcher_pid: int | None
    alerts: AlertCounts = AlertCounts()
    log_level: str = "info"
    log_lost: int = 0
    journal: bool = False
    journal_lost: int = 0
    http: str | None = None
    upgrades: int = 0
    cluster_problem: str = ""
    needs_you: int = 0


class TaskCounts(Struct, frozen=True, kw_only=True):
    """Counts tasks by state; ended ones since the daemon started."""

    queued: int
    running: int
    succeeded: int
    failed: int


class TeamStatus(Struct, frozen=True, kw_only=True):
    """Represents a team in `status`; `running` counts its tasks that have not ended. `lead` is null without a lead."""

    name: str
    kind: Literal["team"] = "team"
    mode: str
    lead: str | None
    members: list[str]
    running: int
    title: str = ""
    description: str = ""
    labels: dict[str, str] = {}
    capabilities: list[str] = []
    service: ServiceStatus | UnsetType = UNSET
    overridden: int | UnsetType = UNSET


class WorkflowStatus(Struct, frozen=True, kw_only=True):
    """Represents a workflow in `status`; `steps` are names, `running` counts its tasks that have not ended."""

    name: str
    kind: Literal["workflow"] = "workflow"
    steps: list[str]
    running: int
    title: str = ""
    description: str = ""
    labels: dict[str, str] = {}
    capabilities: list[str] = []
    service: ServiceStatus | UnsetType = UNSET
    overridden: int | UnsetType = UNSET


class Status(Struct, frozen=True, kw_only=True):
    """Represents the result of `daemon.status`."""

    daemon: DaemonStatus
    agents: list[AgentStatus]
    mcp_servers: list[AgentStatus]
    tasks: TaskCounts
    teams: list[TeamStatus] = []
    workflows: list[WorkflowStatus] = []


class RuntimeFigures(Struct, frozen=True, kw_only=True):
    """Counts incarnations that were started, workers that are up, and tasks that have ended (of a server: calls).

    `failed` are those that failed or timed out; `success_rate` is the share that succeeded of what was not cancelled.
    `restarts` counts starts after failures alone. `health_score` is from 0 to 100, null where there is no process.
    """

    spawned: int
    active: int
    executed: int
    failed: int
    success_rate: float | None
    restarts: int = 0
    health_score: int | None = None


class ProcessFigures(Struct, frozen=True, kw_only=True):
    """Counts workers with a process, the memory of their trees, and the processor time of all incarnations."""

    active: int
    memory_bytes: int
    cpu_ms: float


class ExecutorFigures(Struct, frozen=True, kw_only=True):
    """Counts ended tasks, or calls of a server, with durations from the start of the last attempt to the end.

    `tool_calls` counts the calls that a server received, in a task or not; `tool_calls_last_minute` those that workers
    of an agent made, as `max_tool_calls_per_minute` counts them. `tokens` and `cost_cents` are what its tasks reported;
    `tokens_last_minute` and `cost_cents_today` (the last 24 hours) count as the limits do.
    """

    total: int
    ok: int
    failed: int
    cancelled: int
    tool_calls: int
    tool_calls_last_minute: int = 0
    average_ms: float | None
    p50_ms: float | None
    p99_ms: float | None
    tokens: int = 0
    cost_cents: float = 0.0
    tokens_last_minute: int = 0
    cost_cents_today: float = 0.0


class MethodFigures(Struct, frozen=True, kw_only=True):
    """Counts the calls of a method, with the time that each waited for what it asked for; percentiles are within 4.5 %."""

    count: int
    average_ms: float
    p50_ms: float
    p99_ms: float


class Figures(Struct, frozen=True, kw_only=True):
    """Represents the statistics of one agent, server, team or workflow."""

    runtime: RuntimeFigures
    process: ProcessFigures
    executor: ExecutorFigures


class Statistics(Struct, frozen=True, kw_only=True):
    """Represents the result of `statistics.show`: counts since `since`, percentiles over the last `window` durations.

    `process` counts all agents and servers and corral's own processes; `overhead` has these alone, as `daemon`, `launcher`
    and `zygotes`. Memory is the resident memory (RSS), in which pages that processes share count for each. `methods` are
    those of the method table that were called.
    """

    since: str
    uptime_s: float
    window: int
    runtime: RuntimeFigures
    process: ProcessFigures
    executor: ExecutorFigures
    agents: dict[str, Figures]
    mcp_servers: dict[str, Figures]
    teams: dict[str, Figures]
    workflows: dict[str, Figures]
    overhead: dict[str, ProcessFigures] = {}
    methods: dict[str, MethodFigures] = {}
