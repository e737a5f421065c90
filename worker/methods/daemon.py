"""Defines the methods about the daemon itself."""

from ..contract.records import Statistics, Status
from ..control.params import LogLevelParams, NoParams, ReloadParams, SchemaParams, StatisticsParams, StatusParams
from ..control.results import Diagnosis, Done, EmergencyStopped, LogLevelSet, QuotaList, Reloaded, Stopping
from ..control.runtime_results import Templates
from .faces import faces
from .method import Signature, access, method, open_result
from .rules import ALL_NAMES, OPEN

OPENRPC = open_result("OpenRpc", "An OpenRPC document (https://spec.open-rpc.org)")

SCHEMA = open_result("Schema", "A JSON Schema (draft 2020-12)")

DAEMON_PING = method(
    Signature("daemon.ping", NoParams, Done),
    access("read", OPEN),
    faces("GET /ping", python="ping"),
    "Answers at once, so that a client knows that the daemon is up.",
)

DAEMON_EMERGENCY_STOP = method(
    Signature("daemon.emergency_stop", NoParams, EmergencyStopped),
    access("operate", recorded="always", recorded_keys=("workers", "tasks")),
    faces("POST /emergency-stop", python="emergency_stop", command="emergency-stop"),
    "Kills every worker and server at once, cancels every task, and refuses work until `agent.start`.",
)

DAEMON_STOP = method(
    Signature("daemon.stop", NoParams, Stopping),
    access("admin", recorded="always"),
    faces("POST /stop", python="stop_daemon", command="daemon stop"),
    "Stops the daemon, as SIGTERM does: workers end in order, each within its grace period. Answers before that.",
)

DAEMON_RELOAD = method(
    Signature("daemon.reload", ReloadParams, Reloaded),
    access(
        "admin",
        recorded="or-refused",
        recorded_keys=("added", "removed", "changed", "live", "pending", "teams", "workflows"),
    ),
    faces("POST /reload", python="reload", command="reload"),
    "Reads the configuration again, applies the changes and returns them; an invalid file changes nothing.",
    example={"dry_run": True},
)

DAEMON_SCHEMA = method(
    Signature("daemon.schema", SchemaParams, SCHEMA),
    access("read", OPEN),
    faces("GET /schema/{document}", "GET /schema", python="get_schema", command="schema"),
    "Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event.",
    example={"document": "agent"},
)

TEMPLATE_LIST = method(
    Signature("template.list", NoParams, Templates),
    access("read"),
    faces("GET /templates", python="list_templates", command="templates"),
    "Returns the templates of the configuration, with their parameters and the agents and servers that use them.",
)

DAEMON_LOG_LEVEL = method(
    Signature("daemon.log_level", LogLevelParams, LogLevelSet),
    access("operate", recorded="always"),
    faces("PUT /log-level", python="set_log_level", command="log-level"),
    "Sets the log level of the daemon, until a reload or its end; `daemon.status` shows it.",
    example={"level": "debug"},
)

RPC_DISCOVER = method(
    Signature("rpc.discover", NoParams, OPENRPC),
    access("read", OPEN),
    faces("GET /openrpc", python="discover"),
    "Returns this table as an OpenRPC document (https://spec.open-rpc.org).",
)

DAEMON_STATUS = method(
    Signature("daemon.status", StatusParams, Status),
    access("read", ALL_NAMES),
    faces("GET /status", python="status", command="status"),
    "Returns the status of the daemon, of agents, MCP servers, teams and workflows, and task counts.",
    example={"names": ["crawl*"]},
)

DAEMON_FOLLOW = method(
    Signature("daemon.follow", NoParams, Done),
    access("read", OPEN),
    faces("GET /status", python="follow_status", command="call", streams=True, only_streams=True),
    "Sends the status as a `status` notification {status}, then what changes in it and all events as `status.change` {change}.",
)

DAEMON_DOCTOR = method(
    Signature("daemon.doctor", NoParams, Diagnosis),
    access("read"),
    faces("GET /doctor", python="doctor", command="doctor"),
    "Checks the machine and the daemon: the features of the kernel, those in force, and the guarantees that hold.",
)

STATISTICS_SHOW = method(
    Signature("statistics.show", StatisticsParams, Statistics),
    access("read", ALL_NAMES),
    faces("GET /statistics", python="get_statistics", command="stats"),
    "Returns counts of processes, tasks and tool calls since the daemon started: in total, and of all names or of `names`.",
    example={"names": ["crawler"]},
)

QUOTA_LIST = method(
    Signature("quota.list", StatisticsParams, QuotaList),
    access("read", ALL_NAMES),
    faces("GET /quotas", python="list_quotas", command="quota"),
    "Lists the limits that the daemon enforces, the usage of each, and how often it has refused something.",
    example={"names": ["crawl*"]},
)
