"""Defines the results of the methods of the control socket that are not records by themselves: one Struct each.

A result that is a record (a task, an agent's status, the statistics) is that Struct of `records`. Keys may be added to a
result, never changed or removed. A key that a result may lack is UNSET; where any JSON object may stand, since another
program or a user decides its keys, the type is `dict[str, object]`. Knows no method.
"""

from typing import Annotated, Literal, NotRequired, TypeAlias, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from ..contract.records import (
    AgentStatus,
    Error,
    ExitRecord,
    Retry,
    Run,
    ScheduleRecord,
    ServiceStatus,
    Task,
    TaskCall,
    TaskKind,
    TaskState,
    TeamStatus,
    WhenDown,
    WorkflowStatus,
)
from .runtime_results import TemplateUse

Table: TypeAlias = Annotated[dict[str, object], Meta(description="A table of the configuration, as the file has it")]

Event: TypeAlias = Annotated[
    dict[str, object], Meta(description="seq, at, type, agent, worker, incarnation, and the fields of its type")
]

AuditRecord: TypeAlias = Annotated[
    dict[str, object], Meta(description="id, at, action, who, result, hash, and what the action tells")
]


class Done(Struct, frozen=True):
    """Represents a result without any content, for a call whose end is all there is to tell."""


# -- the daemon


class EmergencyStopped(Struct, frozen=True, kw_only=True):
    """Represents the result of `daemon.emergency_stop`: the numbers of killed workers and cancelled tasks."""

    workers: int
    tasks: int


class Stopping(Struct, frozen=True, kw_only=True):
    """Represents the result of `daemon.stop`: the process that ends."""

    pid: int


class Upgraded(Struct, frozen=True, kw_only=True):
    """Represents the result of `daemon.upgrade`: the program that goes on, or would with `check`, and the one before.

    `upgrades` counts them since the daemon started; `gap_s` is the time in which nothing was answered.
    """

    pid: int
    python: str
    version: str
    before: str
    upgrades: int
    gap_s: float


class Reloaded(Struct, frozen=True, kw_only=True):
    """Represents the result of `daemon.reload`: the changes that were made, or of a dry run those that would be.

    `changed` has the effect on each agent and server, `keys` those that differ; `rolling` are those whose workers are replaced
    by new ones, and whose former tables are in force until then. Of the daemon-wide keys, `live` take
    effect now, `pending` at the next start. `renewed` are agents with the same configuration and changed sources. `overrides_ended`
    are names that `agent.set` had changed, and whose table in the file has changed now.
    """

    added: list[str]
    removed: list[str]
    changed: dict[str, Literal["restart", "live"]]
    pending: list[str]
    live: list[str]
    keys: dict[str, list[str]]
    teams: dict[str, str]
    workflows: dict[str, str]
    schedules: dict[str, str]
    renewed: list[str]
    overrides_ended: list[str] = []
    rolling: list[str] = []


class LogLevelSet(Struct, frozen=True, kw_only=True):
    """Represents the result of `daemon.log_level`."""

    level: str


class DaemonFound(Struct, frozen=True, kw_only=True):
    """Represents the daemon in `daemon.doctor`; `rights` are those of the caller."""

    running: bool
    pid: int
    version: str
    rights: Literal["read", "operate", "admin"]


class Finding(Struct, frozen=True, kw_only=True):
    """Represents one finding of `daemon.doctor`, and the remedy that would improve it."""

    topic: str
    verdict: Literal["ok", "warning", "broken"]
    found: str
    remedy: str


class Promise(Struct, frozen=True, kw_only=True):
    """Represents a guarantee in `daemon.doctor`; `why` names the exception, or what it rests on."""

    name: str
    holds: Literal["yes", "except", "no"]
    why: str


class Diagnosis(Struct, frozen=True, kw_only=True):
    """Represents the result of `daemon.doctor`."""

    daemon: DaemonFound
    findings: list[Finding]
    promises: list[Promise]


class Quota(Struct, frozen=True, kw_only=True):
    """Represents a limit that the daemon holds, and what is used of it.

    `name` is of an agent or server, null for a limit of all together or of all that a tenant has. `window_s` is the time in seconds that usage counts,
    null where it counts for as long as it lasts. `refused` counts what was refused, or the times that a budget was used up,
    since the start of the daemon.
    """

    name: str | None
    key: str
    limit: float
    used: float
    window_s: float | None = None
    refused: int = 0
    tenant: str | None = None
    """The tenant that the limit is of; null for a limit of an agent, or of all together."""


class QuotaList(Struct, frozen=True, kw_only=True):
    """Represents the result of `quota.list`."""

    quotas: list[Quota]


# -- agents, teams, workflows


class Names(Struct, frozen=True, kw_only=True):
    """Represents a result that is a list of names."""

    names: list[str]


class AgentsChanged(Struct, frozen=True, kw_only=True):
    """Represents the agents and servers that a call was about, as they are after it.

    `names` are the names and ids of workers that the params chose.
    """

    agents: list[AgentStatus]
    names: list[str]


class AgentExit(ExitRecord, frozen=True, kw_only=True):
    """Represents the end of one incarnation of a worker."""

    worker: str
    incarnation: int


class ToolCallRate(Struct, frozen=True, kw_only=True):
    """Counts the tool calls of an agent within the last minute; `limit` is 0 where there is none."""

    last_minute: int
    limit: int


class AgentShown(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.show`; of a team or workflow its spec alone. `etag` stands for its whole table."""

    agent: AgentStatus | UnsetType = UNSET
    team: TeamStatus | UnsetType = UNSET
    workflow: WorkflowStatus | UnsetType = UNSET
    spec: Table
    source: str
    etag: str | UnsetType = UNSET
    template: TemplateUse | UnsetType = UNSET
    exits: list[AgentExit] | UnsetType = UNSET
    tool_calls: ToolCallRate | UnsetType = UNSET
    stderr: dict[str, list[str]] | UnsetType = UNSET


class AgentsAdded(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.add_all`; `failures` has the agents that did not start, `changed` the keys that differ."""

    agents: list[AgentStatus]
    failures: dict[str, Error]
    added: list[str]
    changed: dict[str, list[str]]
    unchanged: list[str]


class Exposed(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.expose`: the service, null without one, and the file with a token for it."""

    name: str
    service: ServiceStatus | None
    token_file: str


class ExecStarted(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.exec`: the command, by which input is sent to it, the worker that it runs in, its pid.

    Its output follows as `exec.output` notifications {exec, stream, data}, `data` in base64; last comes `exec.end` {exec,
    worker, code, signal, reason}.
    """

    exec: str
    worker: str
    pid: int


class CommandRun(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.run_command`: the worker that it ran in, its exit code or signal, and its output.

    `reason` says why it was killed. `stdout` and `stderr` are their first part as text; `stdout_bytes` and `stderr_bytes` are
    the lengths of the whole. Bytes that are no UTF-8 are replaced by U+FFFD.
    """

    exec: str
    worker: str
    code: int | None
    signal: str | None
    reason: str
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int


class ExecInput(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.exec_input`: the number of bytes that were written."""

    written: int


class Removed(Struct, frozen=True, kw_only=True):
    """Represents a result that names what was removed."""

    removed: list[str]


class Teams(Struct, frozen=True, kw_only=True):
    """Lists teams."""

    teams: list[TeamStatus]


class TeamShown(Struct, frozen=True, kw_only=True):
    """Represents a team with its spec; `source` is "store" if it was added at run time, else the configuration file."""

    team: TeamStatus
    spec: Table
    source: str


class Workflows(Struct, frozen=True, kw_only=True):
    """Lists workflows."""

    workflows: list[WorkflowStatus]


class WorkflowShown(Struct, frozen=True, kw_only=True):
    """Represents a workflow with its spec; `source` is as that of a team."""

    workflow: WorkflowStatus
    spec: Table
    source: str


# -- tasks


class TaskPage(Struct, frozen=True, kw_only=True):
    """Lists tasks, the newest first; `more` is the `before` of the next page, `skipped` the number that cannot be read."""

    tasks: list[Task]
    more: str | None
    skipped: int


class TaskInShort(Struct, frozen=True, kw_only=True):
    """Represents a task without the fields that may be long; see Task."""

    id: str
    agent: str
    worker: str | None
    state: TaskState
    priority: int
    attempt: int
    delivery: int
    objective: str
    error: Error | None
    progress: float | None
    progress_total: float | None
    progress_message: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    tool_calls: int
    tokens_used: int
    cost_cents: float
    parent: str | None
    reason: str
    kind: TaskKind
    depth: int
    step: str
    required_capabilities: list[str]
    idempotency_key: str | None
    scheduled_at: str | None
    schedule: str | None
    sticky_key: str | None
    session: str | None
    durable: bool
    retry: Retry | None
    retry_of: str | None
    retried_by: str | None
    when_down: WhenDown | None
    queue_timeout_s: float | None
    deadline_at: str | None
    calls: list[TaskCall] | None
    peak_memory_bytes: int | None
    cpu_ms: float | None
    traceparent: str | None
    tokens_estimated: int
    retried_from: str | None


class TaskNode(Struct, kw_only=True):
    """Represents a task with the tasks that it delegated; `more` is the number of those that were left out."""

    task: TaskInShort
    children: list["TaskNode"]
    more: int


class Retried(Struct, frozen=True, kw_only=True):
    """Names an ended task, and the new one in its place."""

    task: str
    by: str


class RetryFailed(Struct, frozen=True, kw_only=True):
    """Represents a task that was not tried again, and why."""

    task: str
    error: Error


class TasksRetried(Struct, frozen=True, kw_only=True):
    """Represents the result of `task.retry`; `more` is the `after` for more dead letters."""

    retried: list[Retried]
    failed: list[RetryFailed]
    more: str | None


class TasksDiscarded(Struct, frozen=True, kw_only=True):
    """Represents the result of `task.discard`: the number of tasks that are dead letters no longer."""

    discarded: int
    more: str | None


# -- schedules


class Schedules(Struct, frozen=True, kw_only=True):
    """Lists schedules."""

    schedules: list[ScheduleRecord]


class ScheduleShown(ScheduleRecord, frozen=True, kw_only=True):
    """Represents a schedule with its next times and its last runs, the newest first."""

    upcoming: list[str]
    recent: list[Run]


# -- secrets


class SecretUse(Struct, frozen=True, kw_only=True):
    """Names a secret, and the agents and servers that refer to it."""

    name: str
    used_by: list[str]


class SecretRotated(Struct, frozen=True, kw_only=True):
    """Represents the result of `secret.rotate`; `restarted` are ids of workers."""

    name: str
    used_by: list[str]
    restarted: list[str]


class Secret(Struct, frozen=True, kw_only=True):
    """Represents a secret without its value; `source` is null for one that is named and found nowhere.

    `agents` are globs of those that may have it, all where there is none; `problem` is why it cannot be read. Those in
    a file of secrets have none of these keys.
    """

    name: str
    source: Literal["kept", "secrets_file", "credentials"] | None
    agents: list[str] | UnsetType = UNSET
    changed_at: str | UnsetType = UNSET
    problem: str | UnsetType = UNSET
    used_by: list[str]


class Secrets(Struct, frozen=True, kw_only=True):
    """Lists secrets."""

    secrets: list[Secret]


# -- MCP servers


class Servers(Struct, frozen=True, kw_only=True):
    """Lists MCP servers."""

    servers: list[AgentStatus]


class Tool(Struct, frozen=True, kw_only=True):
    """Represents a tool of an MCP server: `name` is the exposed one, `tool` its own; schemas are the server's."""

    name: str
    server: str
    tool: str
    description: str
    input_schema: dict[str, object]
    annotations: dict[str, object]
    output_schema: dict[str, object] | UnsetType = UNSET


class Tools(Struct, frozen=True, kw_only=True):
    """Lists tools; `failures` has the servers that could not be asked."""

    tools: list[Tool]
    failures: dict[str, Error]


class Prompts(Struct, frozen=True, kw_only=True):
    """Lists MCP's objects of prompts, with their exposed names; `failures` has the servers that could not be asked."""

    prompts: list[dict[str, object]]
    failures: dict[str, Error]


class Resources(Struct, frozen=True, kw_only=True):
    """Lists MCP's objects of resources and of templates; `failures` has the servers that could not be asked."""

    resources: list[dict[str, object]]
    templates: list[dict[str, object]]
    failures: dict[str, Error]


# -- events, audit, logs


class Events(Struct, frozen=True, kw_only=True):
    """Lists events, the oldest first; `next` is the `since` for more of them, `newest` the last number of all.

    Of all nodes of a cluster, both are texts NODE:NUMBER,NODE:NUMBER…
    """

    events: list[Event]
    next: int | str | None
    newest: int | str


class Position(Struct, frozen=True, kw_only=True):
    """Represents the result of `event.follow`: the number of the event after which it begins; of all nodes NODE:NUMBER,NODE:NUMBER."""

    position: int | str


class Published(Struct, frozen=True, kw_only=True):
    """Represents the result of `event.publish`: the number of the event."""

    seq: int


class AuditPage(Struct, frozen=True, kw_only=True):
    """Lists audit records, the oldest first; `next` is the next `before`, or the next `since`."""

    records: list[AuditRecord]
    next: int | None


class WrongRecord(Struct, frozen=True, kw_only=True):
    """Names an audit record that is not as it was written."""

    id: int
    what: str


class AuditVerdict(Struct, frozen=True, kw_only=True):
    """Represents the result of `audit.verify`: the extent of the chain, and the first record that is wrong.

    `anchor` and `head` are positions, NUMBER:HASH.
    """

    ok: bool
    records: int
    first: int | None
    last: int | None
    anchor: str
    head: str
    wrong: WrongRecord | None


class LogLine(TypedDict):
    """Represents a line of a log, or a message; `bytes` is its base64 where it is not UTF-8.

    `stream` is stdout, stderr, log (messages of an agent's SDK) or corral (lines were lost). A piece of a line that is
    too long for one record, or that its worker has left unfinished, has `partial`.
    """

    at: str
    agent: str
    worker: str
    stream: str
    level: str | None
    text: str
    bytes: NotRequired[str]
    task: NotRequired[str]
    fields: NotRequired[dict[str, object]]
    partial: NotRequired[bool]
    node: NotRequired[str]


class LogLines(Struct, frozen=True, kw_only=True):
    """Represents the result of `log.read`: lines in the order of their times.

    `position` is the `after` for what is written later; null of lines that are no end (`until`, `previous`).
    """

    records: list[LogLine]
    position: str | None = None


class LogPlace(Struct, frozen=True, kw_only=True):
    """Represents the result of `log.follow`: `position` is the `after` of a reader that was given no line yet."""

    position: str | None = None
