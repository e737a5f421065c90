"""Defines the methods about lists, settings and figures of what runs."""

from ..control.metrics import (
    MetricsHistory,
    MetricsHistoryParams,
    MetricsLatest,
    MetricsLatestParams,
    MetricsTop,
    MetricsTopParams,
)
from ..control.params import AgentSetParams, NoParams, StatusParams
from ..control.runtime_results import Agents, AgentSet, Models, RuntimeStatistics, Stores
from .faces import faces
from .method import method
from .rules import AGENT, ALL_NAMES, OPEN, TABLE

AGENT_LIST = method(
    "agent.list",
    "read",
    StatusParams,
    Agents,
    scope=ALL_NAMES,
    faces=faces("GET /agents", python="list_agents", command="status"),
    doc="Lists the status of agents and MCP servers: of all, or of those that the params choose.",
    example={"names": ["crawl*"]},
)

AGENT_SET = method(
    "agent.set",
    "admin",
    AgentSetParams,
    AgentSet,
    recorded="or-refused",
    recorded_keys=("changed",),
    tenant=TABLE,
    faces=faces("PATCH /agents/{name}", python="set_agent", command="set"),
    doc="Changes keys of an agent, server, team or workflow; each change is a revision.",
    example={"name": "crawler", "spec": {"title": "The crawler", "labels": {"team": "red"}}},
)

RUNTIME_STATS = method(
    "runtime.stats",
    "read",
    NoParams,
    RuntimeStatistics,
    scope=OPEN,
    faces=faces("GET /runtime-stats", python="get_runtime_stats"),
    doc="Returns the number and the names of agents, teams, workflows, and databases: the declared stores that agents use.",
)

STORE_LIST = method(
    "store.list",
    "read",
    NoParams,
    Stores,
    scope=OPEN,
    faces=faces("GET /stores", python="list_stores", command="stores"),
    doc="Probes the declared stores that agents use, and lists all, each with its state and its users.",
)

MODELS_LIST = method(
    "models.list",
    "read",
    NoParams,
    Models,
    scope=OPEN,
    faces=faces("GET /models", python="list_models", command="models"),
    doc="Lists the declared models: state, users, and what was measured of them today; connects to those of which nothing is known.",
)

METRICS_HISTORY = method(
    "metrics.history",
    "read",
    MetricsHistoryParams,
    MetricsHistory,
    scope=AGENT,
    faces=faces("GET /metrics/history", python="get_metrics_history", command="metrics"),
    doc="Returns what an agent, a server or the daemon did and used over time, in steps.",
    example={"agent": "crawler", "step_s": 60.0},
)

METRICS_TOP = method(
    "metrics.top",
    "read",
    MetricsTopParams,
    MetricsTop,
    scope=ALL_NAMES,
    faces=faces("GET /metrics/top", python="get_metrics_top", command="metrics"),
    doc="Ranks agents and servers by success, duration and cost, and names those that are a problem.",
    example={"limit": 5},
)

METRICS_LATEST = method(
    "metrics.latest",
    "read",
    MetricsLatestParams,
    MetricsLatest,
    scope=ALL_NAMES,
    faces=faces("GET /metrics/latest", python="get_latest_metrics", command="metrics"),
    doc="Returns the present figures: those since the daemon's start, and those of the last minute.",
    example={"names": ["crawl*"]},
)
