"""Defines params and results of the methods `metrics.*`."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from ..contract.records import Moment
from .params import Selector


class MetricsHistoryParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects a part of the history: of an agent or MCP server, or without one of the whole daemon.

    For a caller of a tenant, and for one whose token names agents, the whole is the sum of those that there are.

    `since` and `until` are seconds of the Unix epoch, by default the last hour. Without `step_s` the points are as close
    together as the history has them, and at most 720.
    """

    agent: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    step_s: Annotated[float, Meta(gt=0, le=31_622_400)] | None = None


class MetricsTopParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents and MCP servers, and the time that they are judged by: from `since` on, by default the last hour."""

    names: list[str] | None = None
    selector: Selector | None = None
    since: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 5


class MetricsLatestParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects agents and MCP servers by names or globs and by labels; all, and the daemon, when both are absent."""

    names: list[str] | None = None
    selector: Selector | None = None


class MetricPoint(Struct, frozen=True, kw_only=True):
    """Represents what happened to an agent, a server or the daemon in one step, which began at `at`.

    `span_s` is the time in it for which figures were collected. Counters (`executed`, `tokens`, `restarts` …) are of this
    step alone; `up`, `processes`, `memory_bytes`, `open_files`, `queued` and `running` are those of its end. Durations are
    at most 4.5 % from the exact ones. `error_rate` is the share that failed of what was not cancelled. `storage` has the
    bytes on disk by part, of the daemon alone.
    """

    at: str
    span_s: float
    up: int
    processes: int
    memory_bytes: int
    memory_peak_bytes: int
    cpu_percent: float
    cpu_ms: float
    open_files: int
    queued: int
    queued_peak: int
    running: int
    restarts: int
    executed: int
    ok: int
    failed: int
    cancelled: int
    executions_per_minute: float
    error_rate: float | None
    average_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    tool_calls: int
    tokens: int
    cost_cents: float
    failed_checks: int
    limit_hits: int
    hung: int
    storage: dict[str, int] | UnsetType = UNSET


class MetricsHistory(Struct, frozen=True, kw_only=True):
    """Represents a part of the history: one point for each step in which figures were collected, oldest first.

    `agent` is null for the daemon and for a sum. A step without a point is a gap: the daemon did not run, metrics were off, or the
    subject was not there. `resolution_s` is the time between two rows of the store that the points are made of.
    """

    agent: str | None
    since: str
    until: str
    step_s: float
    resolution_s: float
    points: list[MetricPoint]


class SubjectMetrics(Struct, frozen=True, kw_only=True):
    """Represents the present figures of an agent, a server or the daemon.

    `total` counts since the daemon's start, or since the agent was added; `last_minute` the steps of the last minute.
    """

    name: str | None
    kind: str
    health_score: int | None
    total: MetricPoint
    last_minute: MetricPoint


class MetricsLatest(Struct, frozen=True, kw_only=True):
    """Represents the figures of the last step, which ended at `at`, null before the first one; without `enabled` there are none."""

    enabled: bool
    at: str | None
    step_s: float
    daemon: SubjectMetrics | None
    agents: list[SubjectMetrics]
    mcp_servers: list[SubjectMetrics]


class Ranked(Struct, frozen=True, kw_only=True):
    """Represents an agent or server in a ranking; `total` is of the whole time, which began at its `at`."""

    name: str
    kind: str
    health_score: int
    total: MetricPoint


class Problem(Struct, frozen=True, kw_only=True):
    """Represents an agent or server that is a problem, with the reasons as text."""

    name: str
    kind: str
    health_score: int
    reasons: list[str]
    total: MetricPoint


class TenantMetrics(Struct, frozen=True, kw_only=True):
    """Represents the sum of the agents and servers of a tenant, or with null of the owner; peaks are sums of peaks."""

    name: str | None
    agents: int
    total: MetricPoint


class MetricsTop(Struct, frozen=True, kw_only=True):
    """Ranks agents and servers by what they did since `since`.

    `best` and `worst` are by the share of tasks that succeeded, `slowest` by the average duration, `expensive` by cost and
    then tokens; each has only those to which it applies. `problems` are as `[metrics] problem_…` says. `tenants` has the sums by tenant, the
    most expensive first, and is empty where no agent has a tenant.
    """

    since: str
    until: str
    best: list[Ranked]
    worst: list[Ranked]
    slowest: list[Ranked]
    expensive: list[Ranked]
    problems: list[Problem]
    tenants: list[TenantMetrics]
