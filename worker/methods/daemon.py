"""Defines the methods about the daemon itself, what runs in it, its backups, and the nodes of its cluster."""

from ..contract.records import Statistics, Status
from ..control import backup, metrics, params, results
from ..control.nodes import Node, NodeParams, Nodes
from ..control.runtime_results import Models, RuntimeStatistics, Stores, Templates
from .faces import faces
from .method import Signature, access, method, open_result
from .rules import AGENT_OR_ALL, ALL_NAMES, OPEN

OPENRPC = open_result("OpenRpc", "An OpenRPC document (https://spec.open-rpc.org)")

SCHEMA = open_result("Schema", "A JSON Schema (draft 2020-12)")

DAEMON_PING = method(
    Signature("daemon.ping", params.NoParams, results.Done),
    access("read", OPEN),
    faces("GET /ping", python="ping"),
    "Answers at once, so that a client knows that the daemon is up.",
)

DAEMON_EMERGENCY_STOP = method(
    Signature("daemon.emergency_stop", params.NoParams, results.EmergencyStopped),
    access("operate", recorded="always", recorded_keys=("workers", "tasks")),
    faces("POST /emergency-stop", python="emergency_stop", command="emergency-stop"),
    "Kills every worker and server at once, cancels every task, and refuses work until `agent.start`.",
)

DAEMON_STOP = method(
    Signature("daemon.stop", params.NoParams, results.Stopping),
    access("admin", recorded="always"),
    faces("POST /stop", python="stop_daemon", command="daemon stop"),
    "Stops the daemon, as SIGTERM does: workers end in order, each within its grace period. Answers before that.",
)

DAEMON_RELOAD = method(
    Signature("daemon.reload", params.ReloadParams, results.Reloaded),
    access(
        "admin",
        recorded="or-refused",
        recorded_keys=("added", "removed", "changed", "live", "pending", "teams", "workflows"),
    ),
    faces("POST /reload", python="reload", command="reload"),
    "Reads the configuration again, applies the changes and returns them; an invalid file changes nothing.",
    example={"dry_run": True},
)

DAEMON_UPGRADE = method(
    Signature("daemon.upgrade", params.UpgradeParams, results.Upgraded),
    access("admin", recorded="always", recorded_keys=("version", "before", "upgrades")),
    faces("POST /upgrade", python="upgrade", command="daemon upgrade"),
    """
    Lets another program take the place of the daemon's own, in the same process: no process of a worker ends.

    A program that cannot go on, and work that cannot be taken along within `timeout_s`, refuse it by name and change nothing.
    """,
    example={"check": True},
)

DAEMON_SCHEMA = method(
    Signature("daemon.schema", params.SchemaParams, SCHEMA),
    access("read", OPEN),
    faces("GET /schema/{document}", "GET /schema", python="get_schema", command="schema"),
    "Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event.",
    example={"document": "agent"},
)

TEMPLATE_LIST = method(
    Signature("template.list", params.NoParams, Templates),
    access("read"),
    faces("GET /templates", python="list_templates", command="templates"),
    "Returns the templates of the configuration, with their parameters and the agents and servers that use them.",
)

DAEMON_LOG_LEVEL = method(
    Signature("daemon.log_level", params.LogLevelParams, results.LogLevelSet),
    access("operate", recorded="always"),
    faces("PUT /log-level", python="set_log_level", command="log-level"),
    "Sets the log level of the daemon, until a reload or its end; `daemon.status` shows it.",
    example={"level": "debug"},
)

RPC_DISCOVER = method(
    Signature("rpc.discover", params.NoParams, OPENRPC),
    access("read", OPEN),
    faces("GET /openrpc", python="discover"),
    "Returns this table as an OpenRPC document (https://spec.open-rpc.org).",
)

DAEMON_STATUS = method(
    Signature("daemon.status", params.StatusParams, Status),
    access("read", ALL_NAMES),
    faces("GET /status", python="status", command="status"),
    "Returns the status of the daemon, of agents, MCP servers, teams and workflows, and task counts.",
    example={"names": ["crawl*"]},
)

DAEMON_FOLLOW = method(
    Signature("daemon.follow", params.NoParams, results.Done),
    access("read", OPEN),
    faces("GET /status", python="follow_status", command="call", streams=True, only_streams=True),
    "Sends the status as a `status` notification {status}, then what changes in it and all events as `status.change` {change}.",
)

DAEMON_DOCTOR = method(
    Signature("daemon.doctor", params.NoParams, results.Diagnosis),
    access("read"),
    faces("GET /doctor", python="doctor", command="doctor"),
    "Checks the machine and the daemon: the features of the kernel, those in force, and the guarantees that hold.",
)

STATISTICS_SHOW = method(
    Signature("statistics.show", params.StatisticsParams, Statistics),
    access("read", ALL_NAMES),
    faces("GET /statistics", python="get_statistics", command="stats"),
    "Returns counts of processes, tasks and tool calls since the daemon started: in total, and of all names or of `names`.",
    example={"names": ["crawler"]},
)

QUOTA_LIST = method(
    Signature("quota.list", params.StatisticsParams, results.QuotaList),
    access("read", ALL_NAMES),
    faces("GET /quotas", python="list_quotas", command="quota"),
    "Lists the limits that the daemon enforces, the usage of each, and how often it has refused something.",
    example={"names": ["crawl*"]},
)


RUNTIME_STATS = method(
    Signature("runtime.stats", params.NoParams, RuntimeStatistics),
    access("read", OPEN),
    faces("GET /runtime-stats", python="get_runtime_stats"),
    "Returns the number and the names of agents, teams, workflows, and databases: the declared stores that agents use.",
)

STORE_LIST = method(
    Signature("store.list", params.NoParams, Stores),
    access("read", OPEN),
    faces("GET /stores", python="list_stores", command="stores"),
    "Probes the declared stores that agents use, and lists all, each with its state and its agents.",
)

MODELS_LIST = method(
    Signature("models.list", params.NoParams, Models),
    access("read", OPEN),
    faces("GET /models", python="list_models", command="models"),
    "Lists the declared models: state, agents, and today's usage; probes those whose state is not known.",
)

METRICS_HISTORY = method(
    Signature("metrics.history", metrics.MetricsHistoryParams, metrics.MetricsHistory),
    access("read", AGENT_OR_ALL),
    faces("GET /metrics/history", python="get_metrics_history", command="metrics"),
    "Returns what an agent, a server, a tenant or the daemon did and used over time, in steps.",
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


DAEMON_EXPORT = method(
    Signature("daemon.export", backup.ExportParams, backup.Exported),
    access("read", ALL_NAMES),
    faces("GET /export", python="export", command="export"),
    """Returns agents, servers, teams, workflows and schedules as TOML, which `corral add --file` takes.

    Before them stand the stores, templates and profiles of the configuration file, which `corrald` takes with the rest; where names are chosen, those
    stores and templates that they use. Secrets are named. Plain values of environments and headers are in it for a caller with the right admin alone.
    """,
    example={"names": ["crawl*"]},
)

DAEMON_IMPORT = method(
    Signature("daemon.import", backup.ImportParams, backup.Imported),
    access("admin", recorded="or-refused", recorded_keys=("agents", "teams", "workflows", "schedules")),
    faces("POST /import", python="import_tables", command="add"),
    "Adds agents, servers, teams, workflows and schedules, all or none; `failures` has the agents that did not start.",
    example={"agents": [{"name": "crawler", "spec": {"entrypoint": "crawler:agent", "instances": 2}}], "start": False},
)

BACKUP_MAKE = method(
    Signature("backup.make", backup.BackupParams, backup.BackupMade),
    access("admin", recorded="always", recorded_keys=("id", "sha256")),
    faces("POST /backups", python="make_backup", command="backup"),
    """Makes an archive of the state folder and the configuration, with all that was acknowledged before.

    It holds secrets in plain text, unless `secrets` is false. `backup.read` hands it out.
    """,
    example={"logs": False},
)

BACKUP_READ = method(
    Signature("backup.read", backup.BackupReadParams, backup.BackupPiece),
    access("admin"),
    faces("GET /backups/{id}", python="read_backup", command="backup"),
    "Returns a part of an archive, from `offset` on.",
    example={"id": "5f0c2a9b7e1d4c38", "offset": 524288},
)

BACKUP_DISCARD = method(
    Signature("backup.discard", backup.BackupDiscardParams, results.Done),
    access("admin", recorded="always"),
    faces("DELETE /backups/{id}", python="discard_backup", command="backup"),
    "Removes an archive from the state folder.",
    example={"id": "5f0c2a9b7e1d4c38"},
)


NODE_LIST = method(
    Signature("node.list", params.NoParams, Nodes),
    access("read"),
    faces("GET /nodes", python="list_nodes", command="nodes"),
    "Lists the nodes of the cluster that have a lease, without the engine the last known ones; NotFound where the daemon is in no cluster.",
)

NODE_DRAIN = method(
    Signature("node.drain", NodeParams, Node),
    access("admin", recorded="always"),
    faces("POST /nodes/{name}/drain", python="drain_node", command="node drain"),
    "Requests that a node gives its replicas to other nodes, and gets no new ones, until `node.resume`; also over its restarts.",
    example={"name": "berlin-1"},
)

NODE_RESUME = method(
    Signature("node.resume", NodeParams, Node),
    access("admin", recorded="always"),
    faces("POST /nodes/{name}/resume", python="resume_node", command="node resume"),
    "Lets a node that was drained get replicas again.",
    example={"name": "berlin-1"},
)
