"""The shapes that cross the control socket and the worker's pipes, as msgspec Structs.

What travels is JSON; these Structs are how the daemon checks what it is told and how it writes what it
says. Keys may be added to a shape, never changed. Times are RFC 3339 in UTC, durations seconds.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

PROTOCOL_VERSION = "1"
"""The worker protocol that `initialize` asks for."""

Priority = Annotated[int, Meta(ge=1, le=10)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=1, le=100_000)]
Moment = Annotated[float, Meta(ge=-1e11, le=253_402_300_799)]
"""Seconds of the Unix epoch, up to the end of the year 9999: what compares as text beyond that is wrong."""
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""The number of an event, as SQLite has it."""

Key = Annotated[str, Meta(min_length=1, max_length=200)]
"""What a caller calls something by: an idempotency key, a session, what makes tasks stick to one worker."""

TaskKind = Literal["task", "team", "workflow"]
"""Who does the work: a worker, or the daemon itself, which hands the parts of it to others."""

TaskState = Literal["queued", "running", "succeeded", "failed", "cancelled", "timeout"]

ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "timeout"})
"""States of a task that never change again."""


class Error(Struct, frozen=True):
    """An error as records show it; the codes are those of `errors`."""

    code: int
    name: str
    message: str
    data: dict[str, object] = {}


class Boundaries(Struct, frozen=True, forbid_unknown_fields=True):
    """What a task may do. `timeout_s` and `max_tool_calls` only tighten the agent's own limits.

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


class OutputFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """What the output has to look like: in words for the agent, and as a JSON Schema that the daemon holds it to."""

    description: str = ""
    schema: dict[str, object] | bool | None = None


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """How often and after what a task is tried again, in place of what `[tasks]` of its agent says.

    `retry_on` as in the configuration: "worker-death", "any", "never", or names of errors.
    """

    max_attempts: Annotated[int, Meta(ge=1, le=1000)] | None = None
    retry_on: list[str] | str | None = None
    retry_backoff_base_s: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None


class Task(Struct, frozen=True, kw_only=True):
    """One delegation to an agent, from its acknowledgement to its end.

    `attempt` counts from 1 once it has been dispatched; `parent` is the task that delegated it, `depth` how many
    tasks stand above it, `step` which part of a team's or workflow's task it is.
    `progress` is what the worker said last, of `progress_total` (1 where it said none).
    `after` are tasks that have to succeed first, `scheduled_at` is when it may begin, `schedule` the name of what made it.
    Who is `durable` is in the store before it is acknowledged; another never outlives the daemon.
    `retry_of` is the ended task in whose place it was queued again, `retried_by` the one in place of this.
    """

    id: str
    agent: str
    worker: str | None = None
    state: TaskState = "queued"
    priority: int = 5
    attempt: int = 0
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


# -- status


class ExitRecord(Struct, frozen=True, kw_only=True):
    """How an incarnation ended."""

    result: str
    code: int | None
    signal: str | None
    forced: bool
    at: str
    message: str


class HealthRecord(Struct, frozen=True, kw_only=True):
    """One health check of a worker; `healthy` is null until it has passed or failed."""

    name: str
    healthy: bool | None
    degraded: bool
    failures: int
    at: str | None
    message: str


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """One worker in `status`.

    `wanted`: somebody wants it up, which may be true of some workers of an agent only. `throttled`: cpu_limit_percent holds it back; `throttled_s`: for how long so far, in this incarnation.
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


class ServerStatus(Struct, frozen=True, kw_only=True):
    """What is particular to an MCP server in `status`.

    `era` and `version` are those of the protocol that it spoke last, null where it never did. `listed_at` is when it
    said last what it offers, also to an earlier daemon. `calls`, `failures` and `retries` count since it was added or
    the daemon started. `warning` names a risk of its configuration, `stderr` has its last words when it gave up.
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


class InstancesStatus(Struct, frozen=True):
    """Between how many workers an agent has."""

    min: int
    max: int


class AgentStatus(Struct, frozen=True, kw_only=True):
    """One agent or MCP server in `status`; `tools` and `mcp` only where it is a server, `instances` where it has a range."""

    name: str
    kind: Literal["agent", "mcp"]
    state: str
    wanted: bool
    degraded: bool
    protocol: str
    workers: list[WorkerStatus]
    queued: int = 0
    instances: InstancesStatus | UnsetType = UNSET
    warm: dict[str, object] | UnsetType | None = UNSET
    tools: list[str] | UnsetType = UNSET
    mcp: ServerStatus | UnsetType = UNSET


class AlertCounts(Struct, frozen=True, kw_only=True):
    """What became of the alerts since the daemon's start; the suppressed ones were too many."""

    sent: int = 0
    failed: int = 0
    suppressed: int = 0


class DaemonStatus(Struct, frozen=True, kw_only=True):
    """The daemon itself in `status`.

    `log_lost` counts entries of its own log, `journal_lost` lines of workers that are in the files and not
    in the system's journal. `http` is where MCP is served over HTTP.
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


class TaskCounts(Struct, frozen=True, kw_only=True):
    """How many tasks there are; ended ones since the daemon started."""

    queued: int
    running: int
    succeeded: int
    failed: int


class TeamStatus(Struct, frozen=True, kw_only=True):
    """One team in `status`; `running` are tasks of it that have not ended. `lead` is null where nobody leads."""

    name: str
    kind: Literal["team"] = "team"
    mode: str
    lead: str | None
    members: list[str]
    running: int


class WorkflowStatus(Struct, frozen=True, kw_only=True):
    """One workflow in `status`; `steps` are their names, `running` tasks of it that have not ended."""

    name: str
    kind: Literal["workflow"] = "workflow"
    steps: list[str]
    running: int


class Status(Struct, frozen=True, kw_only=True):
    """The answer to `daemon.status`."""

    daemon: DaemonStatus
    agents: list[AgentStatus]
    mcp_servers: list[AgentStatus]
    tasks: TaskCounts
    teams: list[TeamStatus] = []
    workflows: list[WorkflowStatus] = []


# -- statistics


class RuntimeFigures(Struct, frozen=True, kw_only=True):
    """Lives and tasks: incarnations that were started, workers that are up, tasks that have ended (of a server: calls).

    `failed` are those that failed or timed out; `success_rate` is the share that succeeded of what was not cancelled.
    """

    spawned: int
    active: int
    executed: int
    failed: int
    success_rate: float | None


class ProcessFigures(Struct, frozen=True, kw_only=True):
    """Workers that have a process, what their trees take now, and the processor time of all lives so far."""

    active: int
    memory_bytes: int
    cpu_ms: float


class ExecutorFigures(Struct, frozen=True, kw_only=True):
    """Tasks that have ended, or calls of a server, with their durations: from the start of the last attempt to the end.

    `tool_calls` are those that a server has seen, in a task or not.
    """

    total: int
    ok: int
    failed: int
    cancelled: int
    tool_calls: int
    average_ms: float | None
    p50_ms: float | None
    p99_ms: float | None


class Figures(Struct, frozen=True, kw_only=True):
    """The statistics of one agent, server, team or workflow."""

    runtime: RuntimeFigures
    process: ProcessFigures
    executor: ExecutorFigures


class Statistics(Struct, frozen=True, kw_only=True):
    """The answer to `statistics.show`: all of it since `since`; percentiles over the last `window` durations."""

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


# -- params of the control methods


class NoParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A method without parameters."""


class ReloadParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to tell only what would change."""

    dry_run: bool = False


class LogLevelParams(Struct, frozen=True, forbid_unknown_fields=True):
    """The least severe of what the daemon says of itself."""

    level: Literal["debug", "info", "warning", "error"]


class StatusParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to tell about; all when `names` is absent."""

    names: list[str] | None = None


class NameParams(Struct, frozen=True, forbid_unknown_fields=True):
    """One agent, MCP server or worker."""

    name: str


class NamesParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Agents, MCP servers or workers; `wait` until it is so, for `timeout_s` at most."""

    names: list[str] = []
    all: bool = False
    wait: bool = True
    timeout_s: Seconds | None = None


class AddParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A new agent or server; `spec` has the shape of its table in the configuration file."""

    name: str
    spec: dict[str, object]
    kind: Literal["agent", "mcp"] = "agent"
    start: bool = True
    wait: bool = True
    directory: str | None = None


class Addition(Struct, frozen=True, forbid_unknown_fields=True):
    """One of several new agents or servers; as in AddParams."""

    name: str
    spec: dict[str, object]
    kind: Literal["agent", "mcp"] = "agent"
    directory: str | None = None


class AddAllParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Several new agents and servers, which may require each other: all are added, or none.

    `present` says what becomes of a name that is taken: it is refused; `keep` lets pass what has the same table; with
    `replace` another table takes the place of one that was added at run time. A dry run only tells.
    """

    agents: Annotated[list[Addition], Meta(min_length=1, max_length=10_000)]
    start: bool = True
    wait: bool = True
    present: Literal["refuse", "keep", "replace"] = "refuse"
    dry_run: bool = False


class RemoveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to remove, by `name` or `names`; with `cascade` also what requires them."""

    name: str | None = None
    names: list[str] = []
    cascade: bool = False


class EnsembleAddParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A new team or workflow, `spec` as its table in the configuration file; or several by name in `specs`, all or none."""

    name: str | None = None
    spec: dict[str, object] | None = None
    specs: dict[str, dict[str, object]] = {}


class EnsembleRemoveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A team or workflow; with `cascade` also those that name it."""

    name: str
    cascade: bool = False


class WhomParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Agents, MCP servers or workers."""

    names: list[str] = []
    all: bool = False


class HibernateParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to hibernate: agents or workers.

    A running task is waited for as long as `timeout_s`, or the shutdown_grace_period, says. With `force` also what
    saves nothing is ended: it begins anew when it is woken.
    """

    names: Annotated[list[str], Meta(min_length=1)]
    timeout_s: Seconds | None = None
    force: bool = False


class CheckpointRecord(Struct, frozen=True, kw_only=True):
    """One checkpoint, without its data; `size_bytes` is that of the data as JSON. `task` is null where it is a worker's."""

    id: int
    agent: str
    worker: str | None
    task: str | None
    reason: str
    at: str
    size_bytes: int


Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class CheckpointSaveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """An agent, with all its workers that are up, or a worker; each has `timeout_s` to answer."""

    name: str
    timeout_s: Seconds | None = None


class CheckpointRestoreParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint, or `data`, and the worker (or agent of one worker) that is to go on with it.

    Without `name` it is the worker that saved it. A running task is waited for as with HibernateParams.
    """

    checkpoint: Number | None = None
    name: str | None = None
    data: object | UnsetType = UNSET
    timeout_s: Seconds | None = None


class CheckpointListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Which checkpoints, newest first: those of an agent, a worker or a task, or all."""

    name: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class CheckpointIdParams(Struct, frozen=True, forbid_unknown_fields=True):
    """One checkpoint."""

    checkpoint: Number


class CheckpointRemoveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Checkpoints; with `force` also what a hibernated worker is to begin with."""

    checkpoints: Annotated[list[Number], Meta(min_length=1, max_length=1000)]
    force: bool = False


class ScaleParams(Struct, frozen=True, forbid_unknown_fields=True):
    """How many workers an agent is to have."""

    name: str
    instances: Annotated[int, Meta(ge=0, le=1000)]
    wait: bool = True


class SignalParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A signal, by name, for the leader of each worker."""

    name: str
    signal: str


class TaskParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A new task: for an agent, team or workflow by name, or for any agent that has a capability.

    `required_capabilities` must all be offered by who takes it; `allowed_tools` is the same key of `boundaries`.
    With an `idempotency_key` the same task is queued once, however often it is sent. It begins when those in `after`
    have succeeded, and not before `at`. Tasks with one `sticky_key` go to one worker; those of one `session` share
    its memory, one after the other. Without `durable` it is faster, and gone with the daemon.
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


class TaskIdParams(Struct, frozen=True, forbid_unknown_fields=True):
    """One task."""

    task: str


class TasksParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Ended tasks: one, several, or with `dead` the dead letters (of an agent), the oldest first and at most `limit`.

    Of the dead letters those that came before `until`, in seconds of the Unix epoch, and those after the `more` of an earlier answer.
    """

    task: str | None = None
    tasks: Annotated[list[str], Meta(max_length=1000)] = []
    dead: bool = False
    agent: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000
    until: Moment | None = None
    after: Annotated[str, Meta(max_length=50)] | None = None


class TaskTreeParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A task with what it delegated, `depth` steps down and `limit` tasks in all at most."""

    task: str
    depth: Annotated[int, Meta(ge=1, le=100)] = 16
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class TaskWaitParams(Struct, frozen=True, forbid_unknown_fields=True):
    """One task, and how long to wait for its end; without a limit when absent."""

    task: str
    timeout_s: Seconds | None = None


class TaskListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tasks, newest first; all conditions have to hold. `since` and `until` say when they came, in seconds of the Unix epoch.

    `agents` and `states` name several; `roots` leaves out what other tasks delegated, `dead` is for dead letters only;
    `text` occurs in the objective. `before` is the `more` of the page before.
    """

    agent: str | None = None
    state: TaskState | None = None
    limit: Count = 100
    agents: Annotated[list[str], Meta(max_length=100)] = []
    states: Annotated[list[TaskState], Meta(max_length=6)] = []
    since: Moment | None = None
    until: Moment | None = None
    parent: str | None = None
    roots: bool = False
    dead: bool = False
    schedule: str | None = None
    session: str | None = None
    text: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    before: Annotated[str, Meta(max_length=50)] | None = None


AgentName = Annotated[str, Meta(min_length=1, max_length=100)]


class MemoryListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose sessions: of all agents when absent."""

    agent: AgentName | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000


class MemoryShowParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A session of an agent; of its history the `last` messages, all when absent."""

    agent: AgentName
    session: Key
    last: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None


class MemoryKeyParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent remembers under a key; `session` where it was remembered with one."""

    agent: AgentName
    key: Annotated[str, Meta(min_length=1, max_length=1024)]
    session: Annotated[str, Meta(max_length=200)] = ""


class MemoryPutParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A value for an agent to remember under a key: any JSON, for `ttl_s` seconds or for good."""

    agent: AgentName
    key: Annotated[str, Meta(min_length=1, max_length=1024)]
    value: object
    ttl_s: Seconds | None = None
    session: Annotated[str, Meta(max_length=200)] = ""


class MemoryFindParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What of the keys and values of an agent contains a text; everything does contain the empty one."""

    agent: AgentName
    query: Annotated[str, Meta(max_length=1024)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    session: Annotated[str, Meta(max_length=200)] | None = None


class MemoryClearParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent has to forget: a session with its keys, or everything."""

    agent: AgentName
    session: Key | None = None


class MemoryStatsParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose memory: that of all agents when absent."""

    agent: AgentName | None = None


ScheduleName = Annotated[str, Meta(pattern="^[A-Za-z][A-Za-z0-9_-]{0,47}$")]

Overlap = Literal["skip", "queue"]
"""What becomes of a run that is due while the last one still goes on."""


class ScheduleParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A task that is made again and again: `every_s` seconds from `start_at` on, or as `cron` says in `timezone`.

    `cron` has five fields (minute, hour, day of the month, month, day of the week), or six with seconds before them;
    `timezone` is a name such as Europe/Berlin, and UTC without one. What was due while the daemon was down is made up for
    once, unless `catch_up` is false. Without a `name` it is given one.
    """

    task: TaskParams
    name: ScheduleName | None = None
    every_s: Annotated[float, Meta(ge=1, le=31_536_000)] | None = None
    cron: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    catch_up: bool = True
    overlap: Overlap = "skip"
    start_at: Moment | None = None


class ScheduleNameParams(Struct, frozen=True, forbid_unknown_fields=True):
    """One schedule."""

    name: str


class ScheduleRecord(Struct, frozen=True, kw_only=True):
    """A schedule, and what became of its runs.

    `next_at` is when it runs next, null where it never does again. `runs` counts tasks that were made, `skipped` runs
    that were due while the last one went on or that came too late without `catch_up`, `refused` those that were not accepted, the
    last one because of `last_error`. `last_due_at` is for when the last run was, `last_task` what it made.
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


class LogParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose log lines: of all when `names` is absent. `since` and `until` in seconds of the Unix epoch.

    `level` is the least severe (lines without one are left out), `grep` a regular expression that a line
    contains, `previous` means the incarnation before the present one. `follow` is for `log.follow`.
    """

    names: list[str] | None = None
    n: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    since: Moment | None = None
    stream: Literal["stdout", "stderr", "log"] | None = None
    until: Moment | None = None
    level: Literal["debug", "info", "warning", "error", "critical"] | None = None
    grep: Annotated[str, Meta(max_length=1_000)] | None = None
    previous: bool = False
    follow: bool = True


class EventParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events: after the sequence number `since`, not older than a time of the Unix epoch, the last `n`.

    `types` are globs; `until` is the last number of a list, which a follower ignores.
    """

    since: Sequence | None = None
    since_time: Moment | None = None
    n: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    types: list[str] | None = None
    agent: str | None = None
    worker: str | None = None
    task: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    until: Sequence | None = None


class EventPublishParams(Struct, frozen=True, forbid_unknown_fields=True):
    """An event of somebody outside; the type is the publisher's to choose."""

    type: str  # what a type is, the broker says
    data: object = None


class AuditParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Which audit records: those after the number `since`, else the newest (`before` a number); all conditions have to hold.

    `actions` are globs of methods (`agent.*`, `mcp.call`), `name` an agent or a worker, times in seconds of the Unix epoch.
    """

    since: Sequence | None = None
    before: Sequence | None = None
    since_time: Moment | None = None
    until_time: Moment | None = None
    n: Count | None = None
    actions: Annotated[list[str], Meta(max_length=100)] | None = None
    name: str | None = None


class VerifyParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A head that was noted earlier, as `NUMBER:HASH`: the chain has to contain it."""

    head: str | None = None


class ToolsParams(Struct, frozen=True, forbid_unknown_fields=True):
    """The tools of one server, or of all."""

    server: str | None = None


class CallParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call, by the exposed name `SERVER__TOOL` or a short name that only one server has."""

    name: str
    arguments: dict[str, object] = {}
    timeout_s: Seconds | None = None


class ReadParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A resource of an MCP server, by its own URI or `SERVER__URI`."""

    uri: str
    timeout_s: Seconds | None = None


class AttachParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What of the pool and of corral an MCP client is offered, beside what it has the right to.

    `only` and `deny` are globs of the names of tools, prompts and resources; `profile` is `[mcp.profiles.NAME]`.
    """

    only: Annotated[list[str], Meta(max_length=1000)] | None = None
    deny: Annotated[list[str], Meta(max_length=1000)] = []
    read_only: bool = False
    profile: str | None = None


# -- what workers ask for


class WorkerToolsParams(Struct, frozen=True):
    """`tools/list` of a worker; with `task`, only what that task may call."""

    task: str | None = None


class WorkerCallParams(Struct, frozen=True):
    """`tools/call` of a worker."""

    name: str
    arguments: dict[str, object] = {}
    task: str | None = None


class DelegateParams(TaskParams, frozen=True, forbid_unknown_fields=True):
    """`task/delegate` of a worker for its `task`; answered with the child's record when that has ended."""

    task: str | None = None


class DelegateAllParams(Struct, frozen=True, forbid_unknown_fields=True):
    """`task/delegate_all` of a worker for its `task`: several at once, of which at most `max_parallel` are in work.

    Answered with `{"results": […]}` when all have ended: in the order of `tasks` the record of each, or
    `{"error": …}` where none was accepted.
    """

    tasks: Annotated[list[TaskParams], Meta(min_length=1, max_length=100_000)]
    max_parallel: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    task: str | None = None


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
    """What a task has changed of the variables or the data of its session."""

    set: dict[str, object] = {}
    delete: list[str] = []


class MemoryDelta(Struct, frozen=True):
    """What a task has changed of its session: the `memory` in the answer to `task/run`.

    `append` are new messages; `history` is the whole history before them, where earlier messages were changed.
    """

    append: list[dict[str, object]] = []
    history: list[dict[str, object]] | None = None
    variables: MemoryChanges = MemoryChanges()
    data: MemoryChanges = MemoryChanges()


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
    """`log` of a worker."""

    message: str
    level: str = "info"
    fields: dict[str, object] = {}


class TaskResult(Struct, frozen=True):
    """What a worker answers to `task/run`; `memory` is what its session is to remember of this turn."""

    output: object = None
    tokens_used: Annotated[int, Meta(ge=0)] = 0
    cost_cents: Annotated[float, Meta(ge=0)] = 0.0
    memory: object = None


class Hello(Struct, frozen=True):
    """What a worker answers to `initialize`."""

    protocolVersion: str
    name: str = ""
    version: str = ""
    capabilities: list[str] = []
