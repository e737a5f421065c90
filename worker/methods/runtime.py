"""Defines the methods about lists, settings and figures of what runs."""

from ..control import metrics
from ..control.params import AgentSetParams, NoParams, StatusParams
from ..control.runtime_results import Agents, AgentSet, Models, RuntimeStatistics, Stores
from .faces import faces
from .method import Signature, access, method
from .rules import AGENT, ALL_NAMES, OPEN, TABLE

AGENT_LIST = method(
    Signature("agent.list", StatusParams, Agents),
    access("read", ALL_NAMES),
    faces("GET /agents", python="list_agents", command="status"),
    "Lists the status of agents and MCP servers: of all, or of those that the params choose.",
    example={"names": ["crawl*"]},
)

AGENT_SET = method(
    Signature("agent.set", AgentSetParams, AgentSet),
    access("admin", tenant=TABLE, recorded="or-refused", recorded_keys=("changed",)),
    faces("PATCH /agents/{name}", python="set_agent", command="set"),
    "Changes keys of an agent, server, team or workflow; each change is a revision.",
    example={"name": "crawler", "spec": {"title": "The crawler", "labels": {"team": "red"}}},
)

RUNTIME_STATS = method(
    Signature("runtime.stats", NoParams, RuntimeStatistics),
    access("read", OPEN),
    faces("GET /runtime-stats", python="get_runtime_stats"),
    "Returns the number and the names of agents, teams, workflows, and databases: the declared stores that agents use.",
)

STORE_LIST = method(
    Signature("store.list", NoParams, Stores),
    access("read", OPEN),
    faces("GET /stores", python="list_stores", command="stores"),
    "Probes the declared stores that agents use, and lists all, each with its state and its agents.",
)

MODELS_LIST = method(
    Signature("models.list", NoParams, Models),
    access("read", OPEN),
    faces("GET /models", python="list_models", command="models"),
    "Lists the declared models: state, agents, and today's usage; probes those whose state is not known.",
)

METRICS_HISTORY = method(
    Signature("metrics.history", metrics.MetricsHistoryParams, metrics.MetricsHistory),
    access("read", AGENT),
    faces("GET /metrics/history", python="get_metrics_history", command="metrics"),
    "Returns what an agent, a server or the daemon did and used over time, in steps.",
    example={"agent": "crawler", "step_s": 60.0},
)

METRICS_TOP = method(
    Signature("metrics.top", metrics.MetricsTopParams, metrics.MetricsTop),
    access("read", ALL_NAMES),
    faces("GET /metrics/top", python="get_metrics_top", command="metrics"),
    "Ranks agents and servers by success, duration and cost, and names those that are a problem.",
    example={"limit": 5},
)

METRICS_LATEST = method(
    Signature("metrics.latest", metrics.MetricsLatestParams, metrics.MetricsLatest),
    access("read", ALL_NAMES),
    faces("GET /metrics/latest", python="get_latest_metrics", command="metrics"),
    "Returns the present figures: those since the daemon's start, and those of the last minute.",
    example={"names": ["crawl*"]},
)
