"""Defines the params of the control methods, which a caller sends over the control socket.

Guarantees that an unknown key or a value outside its range is refused before a method sees it. Keys may be added to a
shape, never changed or removed. Times of requests are seconds of the Unix epoch, durations are seconds.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ..contract.names import FULL
from ..contract.records import Count, Key, Moment, Overlap, Seconds, Sequence, TaskParams, TaskState, Traceparent
from .nodes import NodePlaces


class NoParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Takes no parameters."""


class ReloadParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a dry run, which only reports the changes.

    With `wait` the call waits until each change is in force or taken back, at most `timeout_s`.
    """

    dry_run: bool = False
    wait: bool = False
    timeout_s: Seconds | None = None


class UpgradeParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects the Python interpreter of the next program, the present one by default, and the time for what cannot be taken along.

    With `check` the next program only proves that it can go on.
    """

    python: str | None = None
    check: bool = False
    timeout_s: Seconds = 10.0


class LogLevelParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Sets the least severe level of the daemon's own log."""

    level: Literal["debug", "info", "warning", "error"]


Selector = Annotated[str, Meta(min_length=1, max_length=1000)]
"""Requirements on labels, separated by commas: `key`, `!key`, `key=value`, `key!=value`."""


class SchemaParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names the document whose JSON Schema is returned."""

    document: Literal["config", "agent", "server", "template", "team", "workflow", "task", "event"] = "config"


class StatusParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents, MCP servers, teams and workflows by names or globs and by labels; all when both are absent.

    With `failed` only those with a problem: ended by a failure, degraded, or waiting for the next start.
    """

    names: list[str] | None = None
    selector: Selector | None = None
    failed: bool = False


class StatisticsParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents, MCP servers, teams and workflows by names or globs and by labels; all when both are absent."""

    names: list[str] | None = None
    selector: Selector | None = None


class SecretSetParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Sets a secret. The key of its value is one that logs and the audit mask. `agents` are globs; all without any."""

    name: str
    secret: str
    agents: Annotated[list[str], Meta(max_length=1000)] = []
    replace: bool = False


class SecretRotateParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Replaces the value of a secret, and the agents that it is for unless `agents` is absent."""

    name: str
    secret: str
    agents: Annotated[list[str], Meta(max_length=1000)] | None = None
    restart: bool = False


class SecretRemoveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a secret to remove; with `force` also one that agents name."""

    name: str
    force: bool = False


class NameParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names an agent, MCP server or worker."""

    name: str


class ExposeParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Gives the address where an agent, team or workflow is served over HTTP; null: nowhere.

    Without a token (`auth` "none") it is served on a loopback address only.
    """

    name: str
    address: Annotated[str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")] | None
    auth: Literal["token", "none"] = "token"


class TaskShowParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a task; with `calls` its record has its tool calls, with `steps` its steps."""

    task: str
    calls: bool = False
    steps: bool = False


class NamesParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents, MCP servers or workers; with `wait` the call waits for the effect, at most `timeout_s`.

    `names` may be globs, `selector` requires labels.
    """

    names: list[str] = []
    all: bool = False
    selector: Selector | None = None
    wait: bool = True
    timeout_s: Seconds | None = None


Etag = Annotated[str, Meta(min_length=1, max_length=100)]
"""The `etag` of `agent.show`."""


class AgentSetParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies changes to the table of an agent or server: each key of `spec` replaces that key, and null removes it.

    A table within it is changed likewise. With `expected` the change is refused unless the agent has that `etag` still. `why` is
    kept with the revision. `dry_run` returns the keys that would differ, and changes nothing. With `wait` the call waits until the
    change is in force or taken back, at most `timeout_s`.
    """

    name: str
    spec: dict[str, object]
    expected: Etag | None = None
    why: Annotated[str, Meta(max_length=1000)] = ""
    dry_run: bool = False
    wait: bool = False
    timeout_s: Seconds | None = None


class AddParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a new agent or server; `spec` has the shape of its table in the configuration file."""

    name: str
    spec: dict[str, object]
    kind: Literal["agent", "mcp"] = "agent"
    start: bool = True
    wait: bool = True
    directory: str | None = None


class Addition(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies one of several new agents or servers; see AddParams.

    `environment` has the values of `${NAME}` in `spec`; without it nothing is expanded.
    """

    name: str
    spec: dict[str, object]
    kind: Literal["agent", "mcp"] = "agent"
    directory: str | None = None
    environment: dict[str, str] | None = None


class AddAllParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies several new agents and servers, which may require each other: all are added, or none.

    `present` is the handling of a name that is taken: `refuse` refuses it, `keep` accepts it if its table is the same,
    `replace` replaces the table of one that was added at run time. A dry run only reports the changes.
    """

    agents: Annotated[list[Addition], Meta(min_length=1, max_length=10_000)]
    start: bool = True
    wait: bool = True
    present: Literal["refuse", "keep", "replace"] = "refuse"
    dry_run: bool = False


class RemoveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents, servers, teams or workflows to remove; with `cascade` also all that require them.

    `names` may be globs, `selector` requires labels. With `expected` the one that is named has to have that `etag` still.
    """

    name: str | None = None
    names: list[str] = []
    selector: Selector | None = None
    cascade: bool = False
    expected: Etag | None = None


class GroupAddParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a new team or workflow by its table in `spec`; or several by name in `specs`, all or none.

    Without a name one is generated: `team-` or `workflow-` with 6 hexadecimal digits.
    """

    name: str | None = None
    spec: dict[str, object] | None = None
    specs: dict[str, dict[str, object]] = {}


class GroupRemoveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a team or workflow; with `cascade` also all that refer to it."""

    name: str
    cascade: bool = False


class SelectionParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents, MCP servers or workers; `names` may be globs, `selector` requires labels."""

    names: list[str] = []
    all: bool = False
    selector: Selector | None = None


class HibernateParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents or workers to hibernate.

    A running task may continue for `timeout_s`, by default for the shutdown_grace_period. With `force` also a worker
    that saves no state is ended: it starts anew when it is woken. `names` may be globs, `selector` requires labels.
    """

    names: list[str] = []
    selector: Selector | None = None
    timeout_s: Seconds | None = None
    force: bool = False


Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class CheckpointSaveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names an agent, for all its workers that are up, or a worker; each has `timeout_s` to respond."""

    name: str
    timeout_s: Seconds | None = None


class CheckpointRestoreParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a checkpoint, or `data`, and the worker (or agent of one worker) to restore.

    Without `name` it is the worker that saved it. A running task may continue as with HibernateParams. Where there is no
    agent of the name, the checkpoint's own is added under it, with the table that it had then, and started unless `start`
    is false. A worker that is there and stopped is started only where `start` is true; else it begins with it at its next start.
    """

    checkpoint: Number | None = None
    name: str | None = None
    data: object | UnsetType = UNSET
    timeout_s: Seconds | None = None
    start: bool | None = None


class CheckpointListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects checkpoints, newest first: those of an agent, a worker or a task, or all."""

    name: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class CheckpointIdParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a checkpoint."""

    checkpoint: Number


class CheckpointRemoveParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects checkpoints; with `force` also those that hibernated workers need."""

    checkpoints: Annotated[list[Number], Meta(min_length=1, max_length=1000)]
    force: bool = False


class ScaleParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Sets the number of workers of an agent; of one that a cluster places the number of its replicas."""

    name: str
    instances: Annotated[int, Meta(ge=0, le=1000)]
    wait: bool = True


class SignalParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a signal, by name, for the leader of each worker of `name` or `names`.

    `names` may be globs, `selector` requires labels.
    """

    signal: str
    name: str | None = None
    names: list[str] = []
    selector: Selector | None = None


Rows = Annotated[int, Meta(ge=1, le=10_000)]


class ExecParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a command to run in the isolation of a worker: of `name`, a worker's id or an agent's name.

    With `tty` it has a terminal of `rows` and `columns`, without `stdin` no input. `environment` and
    `working_directory` replace what the worker has.
    """

    name: str
    argv: Annotated[list[str], Meta(min_length=1, max_length=10_000)]
    tty: bool = False
    stdin: bool = False
    rows: Rows = 24
    columns: Rows = 80
    environment: dict[str, str] = {}
    working_directory: str | None = None


class RunCommandParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a command to run in the isolation of a worker to its end: of `name`, a worker's id or an agent's name.

    It reads `stdin`, then the end of its input. It is killed after `timeout_s`. `max_output_bytes` of its stdout and of its
    stderr are kept. `environment` and `working_directory` replace what the worker has.
    """

    name: str
    argv: Annotated[list[str], Meta(min_length=1, max_length=10_000)]
    stdin: Annotated[str, Meta(max_length=1_048_576)] = ""
    environment: dict[str, str] = {}
    working_directory: str | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    max_output_bytes: Annotated[int, Meta(ge=0, le=4_194_304)] = 1_048_576


class ExecInputParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Writes `data` (base64, at most 64 KiB of it) to a running command, and with `end` ends its input.

    `signal` is the name of a signal for it, `rows` and `columns` are the new size of its terminal.
    """

    exec: str
    data: Annotated[str, Meta(max_length=65_536)] = ""
    end: bool = False
    signal: str | None = None
    rows: Rows | None = None
    columns: Rows | None = None


class TaskIdParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a task."""

    task: str


class TasksParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects ended tasks: one, several, or with `dead` the dead letters (of an agent), oldest first, at most `limit`.

    Dead letters are restricted to those before `until`, in seconds of the Unix epoch, and after the `more` of an
    earlier result.
    """

    task: str | None = None
    tasks: Annotated[list[str], Meta(max_length=1000)] = []
    dead: bool = False
    agent: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000
    until: Moment | None = None
    after: Annotated[str, Meta(max_length=50)] | None = None


class TasksRetryParams(TasksParams, frozen=True, forbid_unknown_fields=True):
    """Selects ended tasks as TasksParams; a retry keeps the steps that have ended, with `step` only those before it."""

    step: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class TaskTreeParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a task and its descendants, `depth` levels down and `limit` tasks in all at most."""

    task: str
    depth: Annotated[int, Meta(ge=1, le=100)] = 16
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class TaskRunParams(TaskParams, frozen=True, forbid_unknown_fields=True):
    """Specifies a new task; `stream` sends what it streams as `task.part` notifications."""

    stream: bool = False


class TaskWaitParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a task and the limit of the wait for its end; `stream` sends what it streams as `task.part` notifications."""

    task: str
    timeout_s: Seconds | None = None
    stream: bool = False


class TaskFollowParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a task and the limit of the wait for its end; none when absent."""

    task: str
    timeout_s: Seconds | None = None


class TaskListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects tasks, newest first; all conditions have to hold. `since` and `until` bound their creation, in Unix seconds.

    `agents` and `states` name several; `roots` excludes delegated tasks, `dead` is for dead letters only;
    `text` occurs in the objective. `before` is the `more` of the previous page.
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
    """Selects sessions of an agent; of all agents when absent."""

    agent: AgentName | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000


class MemoryShowParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a session of an agent, with the `last` messages of its history, all when absent."""

    agent: AgentName
    session: Key
    last: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None


class MemoryKeyParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a key of an agent's memory; `session` if it was stored with one."""

    agent: AgentName
    key: Annotated[str, Meta(min_length=1, max_length=1024)]
    session: Annotated[str, Meta(max_length=200)] = ""


class MemoryPutParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Stores a value under a key of an agent's memory: any JSON, for `ttl_s` seconds or without limit."""

    agent: AgentName
    key: Annotated[str, Meta(min_length=1, max_length=1024)]
    value: object
    ttl_s: Seconds | None = None
    session: Annotated[str, Meta(max_length=200)] = ""


class MemoryFindParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects keys and values of an agent that contain a text; the empty text selects all."""

    agent: AgentName
    query: Annotated[str, Meta(max_length=1024)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    session: Annotated[str, Meta(max_length=200)] | None = None


class MemoryClearParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects the memory of an agent to delete: a session with its keys, or everything."""

    agent: AgentName
    session: Key | None = None


class MemoryCleanupParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects the memory of an agent; of all agents when absent."""

    agent: AgentName | None = None


class MemoryExpireParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a session of an agent, and sets its end: `ttl_s` seconds from now, or none of its own when absent."""

    agent: AgentName
    session: Key
    ttl_s: Seconds | None = None


class MemoryStatsParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects the memory of an agent; of all agents when absent."""

    agent: AgentName | None = None


ScheduleName = Annotated[str, Meta(pattern=f"^{FULL}$")]
ScheduleEvery = Annotated[float, Meta(ge=1, le=31_536_000)]
Cron = Annotated[str, Meta(min_length=1, max_length=200)]
Timezone = Annotated[str, Meta(min_length=1, max_length=64)]


class ScheduleParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a task at times: every `every_s` seconds from `start_at` on, by `cron` in `timezone`, or once `at` a time.

    `cron` has five fields (minute, hour, day of the month, month, day of the week), or six with seconds before them;
    `timezone` is a name such as Europe/Berlin, and UTC without one. Runs that were missed while the daemon was down are made up
    for once, unless `catch_up` is false. Without a `name` one is generated.
    """

    task: TaskParams
    name: ScheduleName | None = None
    every_s: ScheduleEvery | None = None
    cron: Cron | None = None
    timezone: Timezone | None = None
    catch_up: bool = True
    overlap: Overlap = "skip"
    start_at: Moment | None = None
    at: Moment | None = None


class ScheduleCommandParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a command at times, which are those of `schedule.add`: it becomes a job of the name.

    `spec` has further keys of the job's table, as in the configuration; relative paths are relative to `directory`.
    """

    name: ScheduleName
    command: Annotated[list[str], Meta(min_length=1, max_length=10_000)]
    spec: dict[str, object] = {}
    directory: str | None = None
    every_s: ScheduleEvery | None = None
    cron: Cron | None = None
    timezone: Timezone | None = None
    catch_up: bool = True
    overlap: Overlap = "skip"
    start_at: Moment | None = None
    at: Moment | None = None


class ScheduleNameParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a schedule."""

    name: str


class LogParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects log lines; of all when `names` is absent. `since` and `until` are seconds of the Unix epoch.

    `level` is the least severe (lines without one are excluded), `grep` a regular expression that a line
    contains, `previous` selects the incarnation before the present one. `follow` is for `log.follow`.
    `names` may be globs, `selector` requires labels; both are resolved once, when the call begins. `task` selects
    what a task has printed and logged, in all its attempts; following that ends with the task. `after` is a
    `position` of an earlier answer: all lines behind it, where `n` does not count.
    """

    names: list[str] | None = None
    selector: Selector | None = None
    task: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    n: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    since: Moment | None = None
    stream: Literal["stdout", "stderr", "log"] | None = None
    until: Moment | None = None
    level: Literal["debug", "info", "warning", "error", "critical"] | None = None
    grep: Annotated[str, Meta(max_length=1_000)] | None = None
    previous: bool = False
    follow: bool = True
    after: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None


class EventParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects events: after the sequence number `since`, not older than a time of the Unix epoch, the last `n`.

    `types` are globs; `until` is the last number of a list, which a follower ignores. Of all nodes of a cluster both are
    the text of an answer, NODE:NUMBER,NODE:NUMBER…; a number is of the node that is asked.
    """

    since: Sequence | NodePlaces | None = None
    since_time: Moment | None = None
    n: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    types: list[str] | None = None
    agent: str | None = None
    worker: str | None = None
    task: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    until: Sequence | NodePlaces | None = None


class EventPublishParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Represents an event of an outside publisher, which chooses the type."""

    type: str  # `worker_pubsub` checks it
    data: object = None


class AuditParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects audit records: after the number `since`, else the newest (`before` a number); all conditions have to hold.

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
    """Gives an earlier head, as `NUMBER:HASH`, which the chain has to contain."""

    head: str | None = None


class ToolsParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects the tools of one server, or of all."""

    server: str | None = None


class CallParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a tool call, by the exposed name `SERVER__TOOL` or a short name that only one server has.

    `traceparent` is the trace context of the caller (W3C).
    """

    name: str
    arguments: dict[str, object] = {}
    timeout_s: Seconds | None = None
    traceparent: Traceparent | None = None


class ReadParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a resource of an MCP server, by its own URI or `SERVER__URI`."""

    uri: str
    timeout_s: Seconds | None = None


class AttachParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Restricts the tools of the pool and of corral for an MCP client, within its rights.

    `only` and `deny` are globs of the names of tools, prompts and resources; `profile` is `[mcp.profiles.NAME]`. With `tools`
    "all" the list of tools has them all, also where it is long.
    """

    only: Annotated[list[str], Meta(max_length=1000)] | None = None
    deny: Annotated[list[str], Meta(max_length=1000)] = []
    read_only: bool = False
    profile: str | None = None
    tools: Literal["auto", "all"] = "auto"
