"""Defines the methods about the daemon itself."""

from ..contract.records import Statistics, Status
from ..control.params import LogLevelParams, NoParams, ReloadParams, SchemaParams, StatisticsParams, StatusParams
from ..control.results import Diagnosis, Done, EmergencyStopped, LogLevelSet, QuotaList, Reloaded, Stopping
from ..control.runtime_results import Templates
from .faces import faces
from .method import Open, method
from .rules import ALL_NAMES, OPEN

OPENRPC = Open("OpenRpc", "An OpenRPC document (https://spec.open-rpc.org)")

SCHEMA = Open("Schema", "A JSON Schema (draft 2020-12)")

DAEMON_PING = method(
    "daemon.ping",
    "read",
    NoParams,
    Done,
    scope=OPEN,
    faces=faces("GET /ping", python="ping"),
    doc="Answers at once, so that a client knows that the daemon is up.",
)

DAEMON_EMERGENCY_STOP = method(
    "daemon.emergency_stop",
    "operate",
    NoParams,
    EmergencyStopped,
    recorded="always",
    recorded_keys=("workers", "tasks"),
    faces=faces("POST /emergency-stop", python="emergency_stop", command="emergency-stop"),
    doc="Kills every worker and server at once, cancels every task, and refuses work until `agent.start`.",
)

DAEMON_STOP = method(
    "daemon.stop",
    "admin",
    NoParams,
    Stopping,
    recorded="always",
    faces=faces("POST /stop", python="stop_daemon", command="daemon stop"),
    doc="Stops the daemon, as SIGTERM does: workers end in order, each within its grace period. Answers before that.",
)

DAEMON_RELOAD = method(
    "daemon.reload",
    "admin",
    ReloadParams,
    Reloaded,
    recorded="or-refused",
    recorded_keys=("added", "removed", "changed", "live", "pending", "teams", "workflows"),
    faces=faces("POST /reload", python="reload", command="reload"),
    doc="Reads the configuration again, applies the changes and returns them; an invalid file changes nothing.",
    example={"dry_run": True},
)

DAEMON_SCHEMA = method(
    "daemon.schema",
    "read",
    SchemaParams,
    SCHEMA,
    scope=OPEN,
    faces=faces("GET /schema/{document}", "GET /schema", python="get_schema", command="schema"),
    doc="Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event.",
    example={"document": "agent"},
)

TEMPLATE_LIST = method(
    "template.list",
    "read",
    NoParams,
    Templates,
    faces=faces("GET /templates", python="list_templates", command="templates"),
    doc="Returns the templates of the configuration, with their parameters and the agents and servers that have them.",
)

DAEMON_LOG_LEVEL = method(
    "daemon.log_level",
    "operate",
    LogLevelParams,
    LogLevelSet,
    recorded="always",
    faces=faces("PUT /log-level", python="set_log_level", command="log-level"),
    doc="Sets the log level of the daemon, until a reload or its end; `daemon.status` shows it.",
    example={"level": "debug"},
)

RPC_DISCOVER = method(
    "rpc.discover",
    "read",
    NoParams,
    OPENRPC,
    scope=OPEN,
    faces=faces("GET /openrpc", python="discover"),
    doc="Returns this table as an OpenRPC document (https://spec.open-rpc.org).",
)

DAEMON_STATUS = method(
    "daemon.status",
    "read",
    StatusParams,
    Status,
    scope=ALL_NAMES,
    faces=faces("GET /status", python="status", command="status"),
    doc="Returns the status of the daemon, of agents, MCP servers, teams and workflows, and task counts.",
    example={"names": ["crawl*"]},
)

DAEMON_FOLLOW = method(
    "daemon.follow",
    "read",
    NoParams,
    Done,
    scope=OPEN,
    faces=faces("GET /status", python="follow_status", command="call", streams=True, only_streams=True),
    doc="Sends the status as a `status` notification {status}, then what changes in it and all events as `status.change` {change}.",
)

DAEMON_DOCTOR = method(
    "daemon.doctor",
    "read",
    NoParams,
    Diagnosis,
    faces=faces("GET /doctor", python="doctor", command="doctor"),
    doc="Checks the machine and the daemon: the features of the kernel, those in force, and the guarantees that hold.",
)

STATISTICS_SHOW = method(
    "statistics.show",
    "read",
    StatisticsParams,
    Statistics,
    scope=ALL_NAMES,
    faces=faces("GET /statistics", python="get_statistics", command="stats"),
    doc="Returns counts of processes, tasks and tool calls since the daemon started: in total, and of all names or of `names`.",
    example={"names": ["crawler"]},
)

QUOTA_LIST = method(
    "quota.list",
    "read",
    StatisticsParams,
    QuotaList,
    scope=ALL_NAMES,
    faces=faces("GET /quotas", python="list_quotas", command="quota"),
    doc="Lists the limits that the daemon holds, what is used of each, and how often it has refused something.",
    example={"names": ["crawl*"]},
)
