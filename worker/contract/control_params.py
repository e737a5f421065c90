"""Defines the params of the control methods, which a caller sends over the control socket.

Guarantees that an unknown key or a value outside its range is refused before a method sees it. Keys may be added to a
shape, never changed or removed. Times of requests are seconds of the Unix epoch, durations are seconds.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .records import Count, Key, Moment, Overlap, Seconds, Sequence, TaskParams, TaskState


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
