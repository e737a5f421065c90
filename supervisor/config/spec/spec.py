"""Defines the values of a configuration: one frozen Struct for each section, and a Spec for each agent or MCP server.

The field names of the Structs are the TOML keys. A value that may be written in several ways is decoded
once: `Seconds` are float seconds ("500ms", "5m", 300), `Bytes` are int bytes ("64MiB", 1024), paths
are absolute, lists are tuples, `instances` is a Scale. Agents and MCP servers are one kind of thing,
a Spec, in one namespace.

To add a key, add a field here: `keys` says what is written on it. A rule that the key needs anew is decorated, see `shapes`.

This module must not know how a file is read (`loader` does), nor the machine: whether a program,
a user or a folder exists is found out where it is used, because it can change after the configuration
was read.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from ..declared.cluster import ClusterSettings, Placement, placement_table
from ..declared.models import DeclaredModel, a_model
from ..declared.oauth import Oauth, oauth_table
from ..declared.pools import DeclaredPool, a_pool
from ..declared.stores import DeclaredStore
from ..declared.tenant import Limits, Tenant, uid_range
from ..decoding.decoder import decode_inline
from ..decoding.keys import COMPUTED, Change, Key, fields_of, schema_of
from ..decoding.shapes import Schema, accepts, closed_object, shape_of
from ..decoding.values import (
    DAY_S,
    GIB,
    KIB,
    MIB,
    SIZE_MAX_BYTES,
    Account,
    Bytes,
    HttpAddress,
    HttpAuth,
    Level,
    Path,
    Paths,
    PositiveSeconds,
    Refused,
    Seconds,
    VariableNames,
    argument,
    argv,
    between,
    duration,
    each,
    free_table,
    http_headers,
    is_table,
    json_schema,
    matching,
    module_and_name,
    one_of,
    protocol_revision,
    push_address,
    retry_reasons,
    rules_of_actions,
    signal_name,
    signing_key,
    variables,
    web_url,
    whole,
    whole_seconds,
)
from .job import Schedule
from .labels import description_text, label_table, title_text
from .listen import ListenAddress, listen_addresses
from .probe_spec import TIMEOUT_S, Actions, Check, Checks, Ready, SmokeOf, http_url
from .team import Team, a_name
from .template_spec import BUILT_IN_TEMPLATES, Template
from .workflow import Workflow

# --- the sections ---------------------------------------------------------------------------------


INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG")


class Scale(Struct, frozen=True):
    """Holds the number of workers: `instances = 2` is Scale(2, 2), `{ min = 1, max = 8 }` is Scale(1, 8)."""

    min: int
    max: int

    @property
    def minimum(self) -> int:
        """Returns the number of workers that are always kept."""
        return self.min

    @property
    def maximum(self) -> int:
        """Returns the number of workers that is never exceeded."""
        return self.max


_count = whole(1, 1000)


def _scale_schema() -> Schema:
    count = shape_of((_count,)).schema
    return {"anyOf": [count, closed_object({"min": count, "max": count}, "min", "max")]}


@accepts("1 to 1000, or `{ min = 1, max = 8 }`", _scale_schema)
def scale(raw: object) -> Scale:
    """Decodes a number of workers: one number, or both ends of a range."""
    if not is_table(raw):
        count = _count(raw)
        return Scale(count, count)
    if set(raw) != {"min", "max"}:
        raise Refused("write a number, or both ends: { min = 1, max = 8 }")
    found = Scale(_count(raw["min"]), _count(raw["max"]))
    if found.min > found.max:
        raise Refused("min is above max")
    return found


class Daemon(Struct, frozen=True, kw_only=True):
    """`[daemon]`: the daemon itself. None: the place that the platform's convention gives."""

    changes: ClassVar[Change] = "daemon"

    socket: Path | None = None
    """The control socket; by default `/run/corral/corral.sock`, or `$XDG_RUNTIME_DIR/corral/corral.sock`."""
    state_dir: Path | None = None
    """Store and logs; by default `/var/lib/corral`, or `$XDG_STATE_HOME/corral`."""
    group: Account | None = None
    """Its members may operate agents over the socket, which is then 0660."""
    readers: Account | None = None
    """Its members may read over the socket: status, logs, events, tasks
    ([rights](../explanation/security.md#rights-on-the-control-socket))."""
    max_changes_per_minute: Annotated[int, whole(0, 1_000_000), Key("daemon, live")] = 0
    """The number of changes that one caller (a user, an agent, a [token](../how-to/tokens.md)) may make within a
    minute; further ones are refused as Overloaded (429 over HTTP) with the seconds to wait; 0 is no limit."""
    log_level: Annotated[Level, Key("daemon, live")] = "info"
    """The lowest level in [the daemon's own log](operations.md#the-daemons-own-log); `corral log-level` sets another
    one until the next reload."""
    log_format: Literal["text", "json"] = "text"
    """The format of that log, where it does not go to the journal."""
    journal: Annotated[bool, Key("daemon, live")] = False
    """Copies the output of workers to the [system's journal](operations.md#logs-in-the-journal), beside the log files."""
    http: HttpAddress | None = None
    """Where [HTTP](http.md) is served; off unless given; a host that is not of the loopback needs TLS or a proxy."""
    http_token_file: Path | None = None
    """A file of mode 0600 with the bearer token that HTTP clients have to send; by default `http.token` in `state_dir`,
    made at the first start."""
    http_tls_cert: Path | None = None
    """A PEM file with the certificate chain of [HTTPS](http.md#tls), read again at a reload."""
    http_tls_key: Path | None = None
    """The PEM file of its private key, not encrypted, which other users may not read."""
    http_behind_proxy: bool = False
    """HTTP is reached by a [proxy](http.md#behind-a-proxy) alone, which has TLS: any host may be given in `http`, and
    clients may name any `Host`."""
    http_hosts: Annotated[
        tuple[str, ...],
        each(matching(r"[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,64}\]", "a name without a port"), "names"),
    ] = ()
    """The only names, beside those of the loopback, that clients may give as `Host`, without port; empty: any, where
    others reach the address."""
    a2a_push: Annotated[tuple[str, ...], each(push_address, "addresses")] = ()
    """Beginnings of the addresses to which [A2A clients](../how-to/a2a.md#push-notifications) may have notifications
    sent, such as `"https://hooks.example.com/a2a"`; `*` in place of the port is any; none: no notifications."""
    secrets_file: Path | None = None
    """A file of mode 0600 with a `NAME=VALUE` on each line, for [`${secret:NAME}`](#secrets); the service manager's
    credentials (`$CREDENTIALS_DIRECTORY`) are there without it."""
    tenant_uids: Annotated[str, uid_range] | None = None
    """Uids that no account has, one for each [tenant](../how-to/tenants.md) that has no `user`; only where the daemon
    is root."""
    on_daemon_loss: Literal["kill"] = "kill"
    """The fate of the workers when the daemon dies."""
    containment: Literal["auto", "launcher", "cgroup", "pidns"] = "auto"
    """The tier of [containment](../explanation/containment.md): `auto` takes control groups where the daemon may use
    them; `launcher` never does; `cgroup` and `pidns` (a PID namespace around all workers) are errors at start where
    they are not available."""


ALLOWED_HOST = (
    r"(?:(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[1-9][0-9]{0,4})?"
)
"""A name, a wildcard for all below a name, or an address, and a port: 443 and 80 unless it is written."""


IMAGE = r"[A-Za-z0-9/][A-Za-z0-9_./:@+-]{0,511}"


class Process(Struct, frozen=True, kw_only=True):
    """`[process]`: how a process is started, contained and stopped.

    `enable_isolation` is always the same as `isolation != "none"`. In a Spec, `working_directory` is
    set, and `environment` is empty: the merged whole is `Spec.environment`.
    """

    changes: ClassVar[Change] = "restart"

    max_concurrent_processes: Annotated[int, whole(1, 100_000), Key("daemon, live")] = 100
    """Workers and MCP servers of the whole daemon."""
    spawn_timeout: Annotated[PositiveSeconds, Key("live", tenant=True)] = 30.0
    """From the start of the process until it is Ready."""
    shutdown_grace_period: Annotated[Seconds, Key("live", tenant=True)] = 10.0
    """From the request to stop until the kill; the stop signal comes at half of it."""
    drain_timeout: Annotated[Seconds, Key("live", tenant=True)] = 60.0
    """For agents with `listen`: how long a worker that is replaced may go on serving the connections that it has
    accepted; the rest of the grace period follows. A stop does not wait."""
    enable_isolation: bool = True
    """`false` is the same as `isolation = "none"`."""
    isolation: Annotated[Literal["none", "basic", "strict", "container"], Key(tenant=True)] = "basic"
    """`basic`: the [isolation](#isolation) below, and the three lists. `strict`: a [sandbox](#strict) by bubblewrap.
    `container`: an [image](#container), by podman, docker or runc."""
    read_paths: Annotated[Paths, Key(tenant=True)] | None = None
    """Paths that may be [read and executed](#read_paths-write_paths-connect_ports); not set: everything."""
    write_paths: Annotated[Paths, Key(tenant=True)] | None = None
    """Paths that may be [written](#read_paths-write_paths-connect_ports), and read; not set: everything."""
    connect_ports: Annotated[tuple[int, ...], each(whole(1, 65_535), "ports")] | None = None
    """TCP ports that may be [connected to](#read_paths-write_paths-connect_ports); not set: all, `[]`: none; the port
    of a `url` is always among them."""
    network: Annotated[Literal["host", "none", "proxy"], Key(tenant=True)] = "host"
    """With `strict` or `container`: `none` is a network of its own with a loopback and nothing else, `proxy` one from
    which `allowed_hosts` alone are reached."""
    allowed_hosts: Annotated[
        tuple[str, ...],
        each(matching(ALLOWED_HOST, 'a host such as "api.example.com:443" or "*.example.org"'), "hosts"),
    ] = ()
    """With `network = "proxy"`: names, `"*.example.org"` for all below a name, or addresses, each with a port or
    without one (80 and 443)."""
    image: Annotated[str, matching(IMAGE, "the name of an image, a folder, or docker-archive:PATH")] | None = None
    """With `container`: the name of an image of podman or docker that is there already, a folder with a root file
    system, or `docker-archive:PATH`; nothing is fetched."""
    runtime: Literal["auto", "podman", "docker", "runc"] = "auto"
    """With `container`: the engine; `auto` takes runc, then podman for a folder, else podman, then docker."""
    working_directory: Annotated[Path, Key(tenant=True, default="`-`")] = ""
    """By default the folder of the configuration file; for `corral add`, where it was typed."""
    environment: Annotated[dict[str, str], variables, Key(tenant=True)] = {}
    """Variables; merged with those in the agent's own table, which win."""
    inherit_environment: VariableNames = INHERITED
    """Variables that are taken over from the daemon."""
    environment_file: Path | None = None
    """A file with more variables, a `NAME=VALUE` on each line, 1 MiB at most."""
    umask: Annotated[str, matching("0?[0-7]{1,3}", 'an octal number as a string: "077"'), Key(tenant=True)] = "077"
    """The file mode creation mask, see umask(2)."""
    nice: Annotated[int, whole(-20, 19), Key(tenant=True)] = 0
    """How much nicer than the daemon itself; see nice(2). Where the kernel makes a group of each session (sched(7),
    autogroup), that of the worker gets it, too; for an ordinary user's daemon the kernel allows that once in 0.1 s."""
    stop_signal: Annotated[str, signal_name, Key("live", tenant=True)] = "SIGTERM"
    """The signal that asks the program to end."""
    user: Account | None = None
    """The user of the process."""
    group: Account | None = None
    """Its group."""
    start_concurrency: Annotated[int, whole(1, 10_000), Key("daemon")] = 64
    """Processes that are being started at the same time, in the whole daemon."""


class Resources(Struct, frozen=True, kw_only=True):
    """`[resources]`: hard limits, per worker. 0 switches a limit off where the rule lets it be 0."""

    max_memory_bytes: Bytes = 2 * GIB
    """Memory of the whole process tree; pages that are shared count in shares. A worker that uses more than a new limit
    is ended; 0 is off."""
    cpu_limit_percent: Annotated[int, whole(0, 1_000_000)] = 0
    """80 is 0.8 of one core, 200 is two; whole process tree. It is slowed down, not ended, and `corral status` says
    `throttled`; 0 is off."""
    max_cpu_seconds: Annotated[int, duration, whole_seconds, Key("restart")] = 0
    """Processor time of each process (RLIMIT_CPU), and of the whole process tree; 0 is off."""
    max_file_descriptors: Annotated[int, whole(8, 1 << 30), Key("restart")] = 1024
    """Of each process (RLIMIT_NOFILE)."""
    max_processes: Annotated[int, whole(0, 1 << 22), Key("restart")] = 0
    """Processes and threads. Where there is no cgroup controller the kernel counts all those of the user
    (RLIMIT_NPROC), and root cannot have it; 0 is off."""
    max_file_size_bytes: Annotated[Bytes, Key("restart")] = 0
    """The largest file that each process may write (RLIMIT_FSIZE); an agent with an `entrypoint` saves no bytecode
    then, which the limit could cut off; 0 is off."""
    max_address_space_bytes: Annotated[Bytes, Key("restart")] = 0
    """Of each process (RLIMIT_AS); it breaks node and Python with many threads; 0 is off."""
    max_core_dump_bytes: Annotated[Bytes, Key("restart")] = 0
    """The largest core dump that each process may leave (RLIMIT_CORE), see core(5); with 0 none is written."""
    max_task_duration: PositiveSeconds = 300.0
    """The timeout of a task that names none."""
    max_tool_calls_per_task: Annotated[int, whole(1, 1_000_000)] = 50
    """The call after that is refused."""
    max_output_size_bytes: Annotated[Bytes, between(1, None)] = 10 * MIB
    """The largest result of a task."""
    max_concurrent_requests: Annotated[int, whole(1, 10_000)] = 1
    """Tasks that one worker runs at the same time."""
    max_tokens_per_minute: Annotated[int, whole(0, SIZE_MAX_BYTES)] = 0
    """Tokens that an agent, all its workers together, reports within a minute; then it takes no further task until
    fewer count; 0 is off."""
    max_tool_calls_per_minute: Annotated[int, whole(0, 1_000_000_000)] = 0
    """Tool calls of an agent, all its workers together, within any minute; the call after that is refused (Overloaded,
    with `retry_after_s`); 0 is off."""
    enable_resource_tracking: Annotated[bool, Key("restart")] = True
    """Shows memory and processor use in `status`; limits are held without it, too."""


RELAYS = ("elicitation", "roots", "sampling")
Relay = Literal["elicitation", "roots", "sampling"]
"""Requests that a server may make of a client, in MCP until 2025-11-25."""

Patterns = Annotated[
    tuple[str, ...], each(matching(r"[A-Za-z0-9_.*?-]{1,128}", 'a pattern such as "time__*"'), "patterns")
]
"""Names of tools, with wildcards as in a shell."""


class Profile(Struct, frozen=True, kw_only=True):
    """`[mcp.profiles.NAME]`: the tools of the pool, and corral's own, that a client of corral's MCP server sees."""

    tools: Patterns | None = None
    denied_tools: Patterns = ()
    read_only: bool = False
    control: bool = True
    list_limit: Annotated[int, whole(0, 1_000_000)] | None = None
    pinned: Patterns | None = None


class Mcp(Struct, frozen=True, kw_only=True):
    """`[mcp]`: the protocol, timeouts and retries of MCP servers. The table `servers` beside these keys holds the servers."""

    cortex_binary_path: Annotated[Path, Key("daemon")] | None = None
    """A memory server to run in place of the built-in `cortex`."""
    cortex_args: Annotated[tuple[str, ...], each(argument, "strings"), Key("daemon")] = ("mcp", "stdio")
    """Its arguments."""
    protocol_version: Annotated[str, protocol_revision] = "auto"
    """The revision that is spoken; `auto` asks the server. A change restarts what speaks MCP."""
    probe_timeout: PositiveSeconds = 5.0
    """How long a server that is believed to be modern may be silent before it is greeted the legacy way."""
    request_timeout: PositiveSeconds = 30.0
    """How long a server may take to answer."""
    max_request_timeout: PositiveSeconds = 600.0
    """The longest call, however much progress it reports; without a timeout of its own a call may be without progress
    for `request_timeout`."""
    max_retries: Annotated[int, whole(0, 100)] = 3
    """Of calls that are safe to repeat."""
    enable_mcp_logging: bool = True
    """Keeps the log messages that servers send."""
    list_limit: Annotated[int, whole(0, 1_000_000), Key(of="agent", tenant=True)] = 40
    """A list of more tools is replaced by [a short one](mcp.md#long-lists); 0 is never."""
    pinned: Annotated[Patterns, Key(of="agent", tenant=True)] = ()
    """Tools that a short list has as well."""
    on_tool_change: Literal["tell", "hold"] = "tell"
    """What follows when the words of a tool are not those that were [accepted](../how-to/pin-tools.md): they are told, or also
    the tool is held until `corral mcp accept`."""


class Monitoring(Struct, frozen=True, kw_only=True):
    """`[monitoring]`: heartbeats, metrics and logs."""

    health_check_interval: Annotated[PositiveSeconds, Key(tenant=True)] = 10.0
    """Between two health checks of an MCP server."""
    heartbeat_interval: Annotated[PositiveSeconds, Key(tenant=True)] = 5.0
    """Between two heartbeats of an agent; shorter than `heartbeat_timeout`."""
    heartbeat_timeout: Annotated[PositiveSeconds, Key(tenant=True)] = 30.0
    """A worker that was silent for so long is hung, and replaced."""
    stall_timeout: Annotated[Seconds, Key(tenant=True)] = 0.0
    """The same for a handler that neither calls `beat` nor reports progress; 0 is off."""
    enable_metrics: bool = True
    """Keeps the [history of metrics](metrics.md); `false` in `[monitoring]` stops the collector, in an agent's table
    leaves the agent out."""
    metrics_interval: PositiveSeconds = 5.0
    """The longest time between two samples of a worker's processes; young ones and those near a limit are sampled more
    often. In `[monitoring]` also the time between two steps of the history."""
    enable_log_aggregation: Annotated[bool, Key(tenant=True)] = True
    """Keeps the output of workers; without it only the last lines of stderr, in memory."""
    agent_log_level: Annotated[Level, Key(tenant=True)] = "info"
    """The least severe of an agent's messages that is kept."""
    max_log_buffer_size: Annotated[Bytes, between(4 * KIB, None), Key(tenant=True)] = MIB
    """Log in memory, per worker."""
    max_log_file_bytes: Annotated[Bytes, between(4 * KIB, None), Key(tenant=True)] = 10 * MIB
    """When a log file is rotated."""
    max_log_files: Annotated[int, whole(1, 1000), Key(tenant=True)] = 5
    """Files that are kept, the present one included."""
    alert: Annotated[tuple[str, ...], argv] | None = None
    """A command that runs at a failure and at a recovery; see [Health](#health)."""
    alert_url: Annotated[str, http_url] | None = None
    """The same alert is posted there."""
    alert_task_failures: Annotated[int, whole(0, 10_000)] = 3
    """So many failed tasks of an agent within the window alert (`agent.tasks_failing`): once, and again after each
    further window in which it stays so; fewer alert once more (`agent.tasks_recovered`); 0 is off."""
    alert_task_failures_window: PositiveSeconds = 3600.0
    """The window; cancelled tasks do not count, timeouts do."""


class Tasks(Struct, frozen=True, kw_only=True):
    """`[tasks]`: the queue of an agent, and the retries of a task whose worker dies."""

    max_attempts: Annotated[int, whole(1, 1000)] = 3
    """How often a task is started at most."""
    retry_on: Annotated[str | tuple[str, ...], retry_reasons] = "worker-death"
    """Failures after which a task is tried again; `any` includes errors that the agent returned, `["worker-death",
    "ToolFailed"]` only such errors; the timeout of a task only where `Timeout` is named."""
    retry_backoff_base: Seconds = 1.0
    """The wait before the second attempt, doubled each time, ±20 %."""
    retry_backoff_max: Seconds = 60.0
    """The longest such wait."""
    default_priority: Annotated[int, whole(1, 10)] = 5
    """10 is the most urgent."""
    routing: Literal["least-load", "round-robin"] = "least-load"
    """Which free worker takes the next task; tasks with one `sticky_key` go to the same worker."""
    capability_routing: Annotated[Literal["least-load", "best"], Key("daemon, live")] = "least-load"
    """Which agent gets a task that names a capability alone."""
    best_min_success_percent: Annotated[int, whole(0, 100), Key("daemon, live")] = 80
    """Share of its last tasks in which an agent has to have succeeded, for the routing `best`."""
    best_max_load_percent: Annotated[int, whole(0, 1_000_000), Key("daemon, live")] = 100
    """Running and waiting tasks per place up to which an agent counts as free, for the routing `best`."""
    max_queue_size: Annotated[int, whole(1, 10_000_000)] = 10_000
    """Tasks that wait for one agent; the next is refused."""
    max_total_queue_size: Annotated[int, whole(1, 10_000_000), Key("daemon, live")] = 100_000
    """Tasks that wait, of all agents together; those of teams and workflows also while they run."""
    max_total_queue_bytes: Annotated[Bytes, between(MIB, None), Key("daemon, live")] = 256 * MIB
    """Memory of the waiting tasks: objectives, inputs and contexts."""
    cancel_grace: Seconds = 5.0
    """Time for a worker to end a cancelled task before it is replaced."""
    queue_timeout: Seconds = 0.0
    """How long a task may wait to be started; `queue_timeout_s` of the task itself goes first; 0 is off."""
    when_down: Literal["refuse", "queue"] = "refuse"
    """The handling of a task for an agent that runs none by itself: see [an agent that is
    down](tasks.md#an-agent-that-is-down)."""
    result_retention: Seconds = 7 * DAY_S
    """How long the record of an ended task is kept."""
    dead_letter_retention: Seconds = 30 * DAY_S
    """The same for a failed task that was not queued again."""
    max_delegation_depth: Annotated[int, whole(1, 100)] = 8
    """How many ancestors a delegated task may have."""
    max_children: Annotated[int, whole(1, 100_000)] = 1000
    """How many tasks one task may delegate."""
    max_cost_cents_per_day: Annotated[int, whole(0, SIZE_MAX_BYTES)] = 0
    """Cost of an agent within 24 hours, as it reports itself; beyond it, it takes no further task; 0 is off."""
    record_tool_calls: Literal["none", "summary", "results"] = "summary"
    """The tool calls that are kept with the record of a task, 1,000 at most: tool, outcome, duration and size; with
    `results` also each result, masked, up to 4 KiB: `corral task show ID --calls`."""
    step_order: Literal["strict", "free"] = "strict"
    """`strict`: a task that begins again has to ask for its [steps](tasks.md#steps) in the order of before; `free`: they are
    found by their names alone."""
    max_steps: Annotated[int, whole(1, 1_000_000)] = 10_000
    """How many steps one task may take."""
    max_step_bytes: Annotated[Bytes, between(KIB, 8 * MIB)] = MIB
    """How long the result of one step may be, as JSON."""
    scale_up_after: Seconds = 1.0
    """With `instances = { min, max }`: tasks that wait for so long without a free worker add
    [workers](agents.md#scaling)."""
    scale_down_after: Seconds = 60.0
    """Likewise: workers beyond `min` that were not needed for so long are ended; 0 is off."""


class Events(Struct, frozen=True, kw_only=True):
    """`[events]`: how many events are kept, whichever bound is met first."""

    changes: ClassVar[Change] = "daemon, live"

    retention: PositiveSeconds = 7 * DAY_S
    """How long events are kept, and logs of agents that were removed."""
    max_bytes: Annotated[Bytes, between(64 * KIB, None)] = GIB
    """How much of the store events may take, those of agents at most half of it; the oldest go first, down to 90 %; the
    file does not shrink, its space is used again."""
    max_publish_per_second: Annotated[int, whole(0, 1_000_000)] = 1000
    """How many events one worker may publish in a second, and all on the control socket together; more is refused as
    Overloaded; 0 is off."""


class Audit(Struct, frozen=True, kw_only=True):
    """`[audit]`: how long records of changes and tool calls are kept, whichever bound is met first."""

    changes: ClassVar[Change] = "daemon, live"

    retention: PositiveSeconds = 90 * DAY_S
    """How long [audit](audit.md) records are kept."""
    max_bytes: Annotated[Bytes, between(64 * KIB, None)] = 256 * MIB
    """How much of the store they may take; the oldest go first; less than 64 KiB counts as 64 KiB."""
    arguments: Literal["hash", "keep"] = "hash"
    """`hash` keeps a SHA-256 of the arguments of tool calls; `keep` the arguments themselves, if they are short and
    contain nothing that looks like a secret."""


class Retention(Struct, frozen=True):
    """Holds how long rows of the history are kept, in seconds: those of each sample, of each minute, and of each hour."""

    raw: Seconds = DAY_S
    minute: Seconds = 7 * DAY_S
    hour: Seconds = 90 * DAY_S


_RETENTION_KEYS = fields_of(Retention)


@accepts("table of durations", lambda: schema_of(Retention))
def retention_table(raw: object) -> Retention:
    """Decodes the retention of the history; keys that are left out are as by default."""
    return Retention(**decode_inline(raw, _RETENTION_KEYS, '{ raw = "1d", minute = "7d", hour = "90d" }'))


class Metrics(Struct, frozen=True, kw_only=True):
    """`[metrics]`: how long the history of metrics is kept, and which agents are problems."""

    changes: ClassVar[Change] = "daemon, live"

    retention: Annotated[Retention, retention_table, Key(default='`{ raw = "1d", minute = "7d", hour = "90d" }`')] = (
        Retention()
    )
    """How long the rows of each step, of each minute and of each hour are kept; keys that are left out are as by
    default."""
    health_window: PositiveSeconds = 900.0
    """The time that `health_score` looks back."""
    problem_error_percent: Annotated[int, whole(0, 100)] = 15
    """An agent with a larger share of failed tasks is a problem."""
    problem_error_tasks: Annotated[int, whole(1, 1_000_000)] = 5
    """The number of tasks from which on that is judged."""
    problem_average: PositiveSeconds = 10.0
    """An agent whose tasks take longer on average is a problem."""
    problem_average_tasks: Annotated[int, whole(1, 1_000_000)] = 3
    """The number of tasks from which on that is judged."""


class Packages(Struct, frozen=True, kw_only=True):
    """`[packages]`: which packages are taken."""

    changes: ClassVar[Change] = "daemon, live"

    require_signature: bool = False
    """Take and deploy packages only that a key of `trusted_keys` has signed."""
    trusted_keys: Annotated[
        tuple[str, ...], each(matching(r"ed25519:[A-Za-z0-9+/]{43}=", '"ed25519:..."'), "public keys")
    ] = ()
    """Public keys, as `corral package keygen` prints them."""
    max_bytes: Annotated[Bytes, between(KIB, GIB)] = 256 * MIB
    """The largest package."""


class Telemetry(Struct, frozen=True, kw_only=True):
    """`[telemetry]`: the collector of traces, figures and log lines."""

    changes: ClassVar[Change] = "daemon"

    otlp: Annotated[str, http_url] | None = None
    """The collector of OpenTelemetry, such as `http://127.0.0.1:4318`: each signal is sent to `/v1/traces`,
    `/v1/metrics` and `/v1/logs` below it, by OTLP over HTTP."""
    traces: bool = True
    """Send the spans of tasks and tool calls."""
    metrics: bool = False
    """Send the figures of `/metrics`."""
    metrics_interval: PositiveSeconds = 60.0
    """The time between two sendings of the figures."""
    logs: bool = False
    """Send the lines of workers."""
    max_traces_per_second: Annotated[int, whole(0, 100_000)] = 20
    """How many traces that begin here are recorded in a second, whatever else is done; one that a caller began is
    recorded as that says; 0 is no limit."""


class Recovery(Struct, frozen=True, kw_only=True):
    """`[recovery]`: whether and when a worker that ended is started again."""

    enable_auto_restart: Annotated[bool, Key(tenant=True)] = True
    """`false`: nothing is started again by itself."""
    restart: Annotated[Literal["always", "on-failure", "never"], Key(tenant=True)] = "on-failure"
    """`on-failure`: every end but exit 0 and a stop that was asked for."""
    max_restart_attempts: Annotated[int, whole(0, 1000), Key(tenant=True)] = 3
    """Restarts within `restart_window`; the next failure is final."""
    restart_window: Annotated[PositiveSeconds, Key(tenant=True)] = 60.0
    """Runs over the time that the worker is Ready."""
    restart_backoff_base: Annotated[Seconds, Key(tenant=True)] = 1.0
    """The first wait, doubled each time, ±20 %."""
    restart_backoff_max: Annotated[Seconds, Key(tenant=True)] = 30.0
    """The longest wait."""
    healthy_after: Annotated[Seconds, Key(tenant=True)] = 60.0
    """A worker that was Ready for so long has its failures forgotten."""
    failure_threshold: Annotated[int, whole(1, 1000), Key(tenant=True)] = 3
    """Failures in a row of a health check with which an agent or server counts as degraded."""
    enable_graceful_degradation: Annotated[bool, Key(tenant=True)] = True
    """A worker that fails so often is left running and marked as degraded; `false`: it is replaced as if it were hung."""
    actions: Actions = {}
    """Commands that the `recovery` of a health check may name; merged with those of the defaults."""
    enable_checkpointing: Annotated[bool, Key(tenant=True)] = False
    """Each worker saves [checkpoints](operations.md#checkpoints) by itself, and each of its lives begins with the
    newest."""
    checkpoint_interval: Annotated[PositiveSeconds, Key(tenant=True)] = 60.0
    """Between two of them, ±10 %."""
    # it travels whole
    max_checkpoint_bytes: Annotated[Bytes, between(KIB, 12 * MIB), Key(tenant=True)] = 8 * MIB
    """The largest checkpoint, before it is compressed."""
    max_checkpoints: Annotated[int, whole(1, 1000), Key(tenant=True)] = 5
    """Number kept of each task, and of each worker for each reason."""
    checkpoint_retention: Annotated[PositiveSeconds, Key(tenant=True)] = 30 * DAY_S
    """How long one is kept; longer where a worker is to begin with it, or its task has not ended."""


class Memory(Struct, frozen=True, kw_only=True):
    """`[memory]`: the sessions and keys that an agent keeps from one task to the next."""

    # it travels with each task
    max_session_bytes: Annotated[Bytes, between(KIB, 8 * MIB)] = MIB
    """Size of one session: its history, variables and data as JSON."""
    overflow: Literal["trim", "refuse"] = "trim"
    """For a larger session: the oldest history is removed, or the task fails with ResourceLimitExceeded."""
    max_sessions: Annotated[int, whole(1, 10_000_000)] = 10_000
    """Sessions of one agent."""
    session_overflow: Literal["evict", "refuse"] = "evict"
    """For a new session beyond that: the least recently used one is removed, or the task is refused."""
    retention: PositiveSeconds = 30 * DAY_S
    """A session that was not used for so long is removed."""
    compression: bool = True
    """Keeps sessions compressed in the store."""
    max_pool_bytes: Annotated[Bytes, Key("daemon, live")] = 64 * MIB
    """Sessions that the daemon holds in memory, all agents together; the others are read when they are used; 0 is off."""
    max_keys: Annotated[int, whole(1, 10_000_000)] = 100_000
    """Keys that an agent remembers beside its sessions; more are refused with ResourceLimitExceeded."""
    max_keys_bytes: Annotated[Bytes, between(KIB, None)] = 256 * MIB
    """Size of these keys and their values in all."""
    cleanup_interval: Annotated[PositiveSeconds, Key("daemon, live")] = 3600.0
    """Time between two removals of what has expired: sessions by `retention`, keys by their own time."""
    pool: Annotated[str, a_pool] | None = None
    """The `[pools.NAME]` that its sessions and keys count in; of a tenant's agent without one, that of its tenant."""


class Defaults(Struct, frozen=True, kw_only=True):
    """Holds the sections that an agent or server may override key by key, as the file resolved them.

    `process.working_directory` is "" unless it was written: then an agent takes the folder that its
    own table came from.
    """

    process: Process = Process()
    resources: Resources = Resources()
    mcp: Mcp = Mcp()
    monitoring: Monitoring = Monitoring()
    tasks: Tasks = Tasks()
    memory: Memory = Memory()
    recovery: Recovery = Recovery()


Kind = Literal["agent", "mcp"]


class Spec(Struct, frozen=True, kw_only=True):
    """Represents an agent or MCP server: `[agents.NAME]` or `[mcp.servers.NAME]`, with every section resolved.

    `command` is empty where `entrypoint` is set, and in a disabled `cortex`. `warm`, `preload` and `min_spare`
    mean something only where `entrypoint` is set; `remain` and `timeout` only where `type` is "oneshot"; "http" and "sse" are types of remote servers. `tools` None
    allows all. `method` and `webhook_secret` mean something only where `protocol` is "webhook".
    `environment` is `[process] environment`, then the agent's own; `source` is the file of the table. `written` has
    the values in which variables were expanded, as they are in the file; `written_secrets` those of environment and
    headers, which no command shows. `own` has the keys that the table of an agent with a `template` has itself; its
    `params` are those that it gives. `store_urls` has the addresses of its `stores`, with references to secrets,
    `model_kinds` the kinds of its `models`, which are part of the addresses that it gets.
    """

    name: str
    kind: Annotated[Kind, COMPUTED]
    source: str
    title: Annotated[str, title_text, Key(tenant=True)] = ""
    """A name for people."""
    description: Annotated[str, description_text, Key(tenant=True)] = ""
    """A description for people and models."""
    labels: Annotated[dict[str, str], label_table, Key(tenant=True)] = {}
    """Words to select it by: `corral restart -l team=red`; a value has no comma."""
    expose: Annotated[bool, Key(of="agent")] = False
    """Offers it to MCP clients as the tool `agent__NAME`, see [agents as tools](mcp.md#agents-as-tools)."""
    input_schema: Annotated[dict[str, object], json_schema, Key(of="agent", tenant=True)] | None = None
    """The input of every task has to match it, else the task is refused as InvalidParams; 64 KiB at most, and nothing
    is fetched for it."""
    output_schema: Annotated[dict[str, object], json_schema, Key(of="agent", tenant=True)] | None = None
    """The output of every task has to match it, else the task has failed as TaskFailed."""
    task_support: Annotated[Literal["optional", "required"], Key(of="agent")] = "optional"
    """Whether MCP clients may call its tool without a [task](mcp.md#tasks-of-mcp); workers may."""
    ask_missing: Annotated[bool, Key(of="agent")] = False
    """Asks the person at an MCP client for required properties of `input_schema` that a call of its tool leaves out,
    before the task begins."""
    command: Annotated[tuple[str, ...], argv, Key("restart", tenant=True)] = ()
    """The program and its arguments, run as written, never by a shell."""
    entrypoint: Annotated[str, module_and_name, Key("restart", of="agent", tenant=True)] | None = None
    """In place of `command`: an agent of the Python SDK."""
    python: Annotated[Path, Key("restart", of="agent", tenant=True, unit="path, or a name in PATH")] | None = None
    """The interpreter for `entrypoint`."""
    warm: Annotated[bool, Key(of="agent", tenant=True)] = True
    """With `entrypoint`: its modules are imported once, and workers are forks of that process: [warm
    agents](agents.md#warm-agents). Where that is not safe, workers import by themselves (*start cold*), with a
    warning."""
    preload: Annotated[
        tuple[str, ...],
        each(matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", 'a module such as "langgraph.graph"'), "names"),
        Key(of="agent", tenant=True),
    ] = ()
    """Modules that are imported before the entrypoint's own module."""
    min_spare: Annotated[int, whole(0, 100), Key(of="agent", tenant=True)] = 0
    """Forks that are made ahead, and wait for the next start."""
    placement: Annotated[Placement, placement_table, Key(of="agent")] | None = None
    """The agent is run by nodes of the cluster that have all `labels`: 0 to 10000 `replicas` (1 by default) over all
    nodes, which `spread = "node"` puts on different nodes as far as there are, see [run on many
    machines](../how-to/run-on-many-machines.md#place-agents); needs `[cluster]`."""
    protocol: Annotated[Literal["corral", "mcp", "none", "webhook", "acp", "a2a"], Key("restart", tenant=True)] = (
        "corral"
    )
    """The protocol on stdin and stdout; always `mcp` for MCP servers. `none`: any program, Ready once it has stayed
    up for 1 s; `webhook`: each task is an HTTP request to `url`, see [webhook agents](../how-to/webhook-agents.md); `acp`:
    an agent of the Agent Client Protocol, see [ACP agents](../how-to/run-acp-agents.md); `a2a`: an agent of the A2A
    protocol at `url`, see [A2A](../how-to/a2a.md#run-tasks-of-a-remote-agent)."""
    type: Annotated[Literal["service", "oneshot", "http", "sse"], Key("restart", tenant=True)] = "service"
    """Of an agent, `oneshot`: a [job](jobs.md), a command that runs to its end; exit status 0 is its success, and
    `protocol = "none"` its default. Of a server with `url`, `http`: streamable HTTP, and HTTP with SSE (2024-11-05)
    where the server refuses that, as when it is not set; `sse`: HTTP with SSE at once."""
    remain: Annotated[bool, Key(of="agent", tenant=True)] = False
    """With `type = "oneshot"`: its success stays, so that it does not run again when a dependent or the daemon starts."""
    timeout: Annotated[Seconds, Key(of="agent", tenant=True)] = 0.0
    """With `type = "oneshot"`: how long a run may take; then it is killed, and has failed as `task-timeout`; 0 is off."""
    instances: Annotated[Scale, scale, Key(tenant=True, default="`1`")] = Scale(1, 1)
    """Workers; with a range the queue of an agent [decides](agents.md#scaling) (one that takes no tasks begins with
    `min`), and a server grows for its callers."""
    capabilities: Annotated[
        tuple[str, ...],
        each(matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters"), "strings"),
        Key(of="agent", tenant=True),
    ] = ()
    """Capabilities by which tasks find it."""
    tools: Annotated[Patterns, Key(of="agent", tenant=True)] | None = None
    """Tools that may be called, such as `"time__*"`; not set: all, `[]`: none."""
    denied_tools: Annotated[Patterns, Key(tenant=True)] = ()
    """Never listed nor called, whatever `tools` says: of an agent exposed names such as `fs__write_*`; of a server its
    tools' own names, for all callers."""
    requires: Annotated[tuple[str, ...], each(matching(r"[^\x00-\x1f\x7f]+", "a name"), "names"), Key(tenant=True)] = ()
    """Starts after these are Ready, stops before them; a change frees a worker that waits for a name that is no longer
    there."""
    autostart: Annotated[bool, Key(tenant=True)] = True
    """Starts with the daemon, or at the reload that sets it, unless it was stopped by command; for MCP servers `false`
    is the default: the first call starts them."""
    rolling: Annotated[bool, Key(tenant=True)] | None = None
    """`true`: a change that needs new workers brings them up beside the former ones; `false`: the former one ends
    first, for what owns a port or a file. Not set: `false` where a check asks by `http` or `tcp`, else `true`; see
    [changes](changes.md)."""
    smoke: Annotated[SmokeOf, Key(of="agent", tenant=True)] | None = None
    """A task that one new worker has to finish before a change takes effect: `{ objective, input, timeout = 60 }`, see
    [changes](changes.md)."""
    hibernate_after: Annotated[Seconds, Key(of="agent", tenant=True)] = 0.0
    """Without a task for so long, the agent is [hibernated](cli.md#corral-hibernate): it saves its state and has no
    process until the next task; 0 is off."""
    control: Literal["none", "read", "operate", "admin"] = "none"
    """Rights of its processes on the control socket: [rights](operations.md#rights)."""
    http: Annotated[HttpAddress, Key(of="agent")] | None = None
    """Where it is served [alone, as a service](../how-to/agent-as-a-service.md): `POST /run`, `GET /health`, `GET
    /status`; port 0 takes a free one. A change opens, closes or moves the service, and touches no worker."""
    http_auth: Annotated[HttpAuth, Key(of="agent")] = "token"
    """`token`: `/run` and `/status` there ask for a bearer token, as the daemon's own HTTP does; `none`, on a loopback
    address only: every program of this machine may use it."""
    listen: Annotated[tuple[ListenAddress, ...], listen_addresses, Key("restart", of="agent")] = ()
    """The daemon listens there and hands the sockets to each worker as descriptors 3, 4…, as systemd does
    ([sockets](agents.md#sockets)): `"127.0.0.1:8080"`, `"[::1]:8080"`, `"unix:/run/web.sock"`, or a table `{
    address, name, mode }` with a name for `LISTEN_FDNAMES` and the mode of a unix socket (`"0600"`). Port 0 takes a
    free one; at most 10."""
    config: Annotated[dict[str, object], free_table, Key("restart", of="agent", tenant=True)] = {}
    """Handed to the agent as it is; only values that JSON has."""
    environment: Annotated[dict[str, str], variables, Key("restart", tenant=True)] = {}
    """Variables, over those of `[process]`."""
    stores: Annotated[tuple[str, ...], each(a_name, "names"), Key("restart", of="agent")] = ()
    """The [stores](#storesname) whose addresses it gets as variables; a changed address restarts it, too."""
    models: Annotated[tuple[str, ...], each(a_model, "names"), Key("restart", of="agent", tenant=True)] = ()
    """The [models](#modelsname) that it may call through the gateway, which measures its tokens; the first of each kind
    is the one of the usual variables."""
    memo: Annotated[bool, Key(of="agent", tenant=True)] = False
    """For agents that have no [steps](tasks.md#steps) of their own: calls of models and tools that were answered before
    their worker died are answered from the record when the task begins again, see [agents without
    steps](tasks.md#agents-without-steps)."""
    health: Checks | None = None
    """Health checks, see [Health](#health); not set: MCP servers are asked by MCP, agents send heartbeats."""
    ready: Annotated[Ready, Key(of="agent")] | None = None
    """With `protocol = "none"`: the check that makes it Ready, in place of having stayed up for 1 s."""
    url: Annotated[str, web_url, Key("restart")] | None = None
    """In place of `command`: a remote MCP server, reached over HTTP by a bridge process of its own, with `protocol =
    "webhook"` the service that takes the tasks, or with `"a2a"` the agent or its card."""
    headers: Annotated[dict[str, str], http_headers, Key("restart")] = {}
    """HTTP headers for every request to `url`; `${secret:NAME}` is expanded in values."""
    oauth: Annotated[Oauth, oauth_table, Key("restart", of="mcp")] | None = None
    """How corral logs in to the remote server at `url`, see [OAuth](#oauth); not set: as the server's own answers say."""
    method: Annotated[Literal["POST", "PUT"], Key("restart", of="agent")] = "POST"
    """With `protocol = "webhook"`: the method of a request."""
    webhook_secret: Annotated[str, signing_key, Key("restart", of="agent")] = ""
    """With `protocol = "webhook"`: the key that signs each request; `${secret:NAME}` is expanded."""
    permissions: Annotated[Literal["ask", "allow", "deny"], Key("restart", of="agent")] = "ask"
    """With `protocol = "acp"`: the answer to an action that the agent asks permission for and no rule names; `ask`: a
    person [answers](../how-to/ask-a-person.md)."""
    permission_rules: Annotated[dict[str, str], rules_of_actions, Key("restart", of="agent")] = {}
    """With `protocol = "acp"`: globs of actions, each with what becomes of them: `{ read = "allow", "*rm -rf*" = "deny"
    }`, see [permissions](../how-to/run-acp-agents.md#permissions)."""
    permission_timeout: Annotated[PositiveSeconds, Key("restart", of="agent")] | None = None
    """With `protocol = "acp"`: after which a question about an action is answered by a refusal; not set: 24 hours."""
    auth_method: (
        Annotated[str, matching(r"[^\x00-\x1f\x7f]{1,200}", "the id of a method"), Key("restart", of="agent")] | None
    ) = None
    """With `protocol = "acp"`: the id of the method by which the agent is asked to sign in, at each start; not set: it
    is signed in already."""
    idle_timeout: Annotated[Seconds, Key(of="mcp", tenant=True)] = 300.0
    """Stopped when unused for so long, started by the next call; 0 is off."""
    concurrency: Annotated[Literal["auto", "serial", "parallel"], Key(of="mcp", tenant=True)] = "auto"
    """Whether calls may overlap; `auto`: where the tool is marked as read-only."""
    share: Annotated[Literal["all", "tenant", "agent"], Key("restart", of="mcp", tenant=True)] = "all"
    """Callers that share a process: all; those of one tenant, or of the owner; or one agent, or one outside client,
    alone. A caller without a process gets a new one, up to `instances`; then the least recently used one, restarted.
    It ends when the agent, or the last agent of the tenant, is removed. [Tenants](#tenantsname) use servers of the
    owner only with tenant or agent."""
    spares: Annotated[int, whole(0, 100), Key(of="mcp")] = 0
    """Processes beyond `instances` that are ready from the first call on, and replace one that is down."""
    max_calls_per_minute: Annotated[int, whole(0, 1_000_000), Key(of="mcp", tenant=True)] = 0
    """Calls, reads and prompts beyond it are refused as Overloaded, with the time to wait; after a rest they may come
    at once; 0 is off."""
    relays: Annotated[tuple[Relay, ...], each(one_of(RELAYS), "names"), Key("restart", of="mcp")] = ()
    """Client features that are declared to a legacy server. A request of the server goes to its caller if exactly one
    caller waits for the server, else it is refused; for a task a
    [person](../how-to/ask-a-person.md#forms-of-mcp-servers) answers forms."""
    disabled: Annotated[bool, Key("restart", of="mcp", tenant=True)] = False
    """Not started and not listed."""
    template: Annotated[str, a_name, Key(tenant=True, unit="the name of a template")] | None = None
    """The [template](#templatesname) whose keys it has; its own keys win."""
    params: Annotated[dict[str, object], free_table, Key(tenant=True)] = {}
    """Values for the parameters of its template."""
    process: Process = Process()
    resources: Resources = Resources()
    mcp: Mcp = Mcp()
    monitoring: Monitoring = Monitoring()
    tasks: Tasks = Tasks()
    memory: Memory = Memory()
    recovery: Recovery = Recovery()
    written: dict[tuple[str, ...], object] = {}
    written_secrets: dict[tuple[str, ...], str] = {}
    own: dict[str, object] = {}
    store_urls: dict[str, str] = {}
    model_kinds: dict[str, str] = {}

    @property
    def speaks(self) -> Literal["corral", "mcp", "none"]:
        """Returns the protocol on the pipes of its processes: corral's own for webhooks, ACP and A2A, which its worker translates."""
        if self.protocol == "webhook" or self.protocol == "acp" or self.protocol == "a2a":
            return "corral"
        return self.protocol

    @property
    def expandable(self) -> tuple[str, ...]:
        """Returns the values in which secrets are expanded."""
        tables = (self.environment, self.headers, self.store_urls, self.oauth_secrets)
        return (*(value for table in tables for value in table.values()), self.webhook_secret)

    @property
    def oauth_secrets(self) -> dict[str, str]:
        """Returns the references to secrets in `oauth`, by key."""
        return {} if self.oauth is None else self.oauth.secrets

    @property
    def asks_tokens(self) -> bool:
        """Returns True for a remote MCP server whose headers have no credentials: it may want access tokens."""
        is_remote = self.kind == "mcp" and self.url is not None and not self.command
        return is_remote and not any(name.lower() == "authorization" for name in self.headers)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Returns the health checks in force, with every key filled in; MCP servers are pinged unless `health` is written."""
        usual = (Check(name="mcp", way="mcp"),) if self.protocol == "mcp" else ()
        return tuple(map(self.filled, usual if self.health is None else self.health))

    def filled(self, check: Check) -> Check:
        """Returns a check with every key filled in."""
        monitoring = self.monitoring
        interval_s = check.interval or monitoring.health_check_interval
        timeout_s = check.timeout
        if timeout_s is None:
            timeout_s = monitoring.heartbeat_timeout if check.way == "mcp" else TIMEOUT_S
        delay_s = interval_s if check.start_delay is None else check.start_delay
        return replace(check, interval=interval_s, timeout=timeout_s, start_delay=delay_s)


Group = Team | Workflow
"""A receiver of tasks without a process of its own, which has its members run them."""


class Config(Struct, frozen=True, kw_only=True):
    """Holds a whole configuration file; `process` is `defaults.process`.

    `agents` holds agents and MCP servers, `groups` teams and workflows: all names are of one namespace. The job of a
    schedule with a command is among the agents. `placed` holds the agents that the cluster places, which are in no other table. `values` are the variables with which it was decoded.
    """

    daemon: Daemon
    events: Events
    audit: Audit
    packages: Packages = Packages()
    metrics: Metrics = Metrics()
    telemetry: Telemetry = Telemetry()
    cluster: ClusterSettings | None = None
    process: Process
    agents: dict[str, Spec]
    placed: dict[str, Spec] = {}
    defaults: Defaults
    profiles: dict[str, Profile] = {}
    groups: dict[str, Group] = {}
    schedules: dict[str, Schedule] = {}
    stores: dict[str, DeclaredStore] = {}
    models: dict[str, DeclaredModel] = {}
    pools: dict[str, DeclaredPool] = {}
    tenants: dict[str, Tenant] = {}
    tiers: dict[str, Limits] = {}
    templates: dict[str, Template] = field(default_factory=lambda: dict(BUILT_IN_TEMPLATES))
    values: dict[str, str] = {}


# --- public ---------------------------------------------------------------------------------------


BUILT_IN = "built-in"
"""Source of the specs that are there without configuration."""


def kind_of_group(group: Group) -> Literal["team", "workflow"]:
    """Returns "team" or "workflow"."""
    return "team" if isinstance(group, Team) else "workflow"


def rescaled(spec: Spec, instances: int) -> Spec:
    """Returns a spec with another number of workers, which is a key of its own from then on."""
    own = {} if spec.template is None else {**spec.own, "instances": instances}
    return replace(spec, instances=Scale(instances, instances), own=own)


# --- the tables of a file -------------------------------------------------------------------------

DAEMON_TABLES: dict[str, type[Struct]] = {
    "daemon": Daemon,
    "events": Events,
    "audit": Audit,
    "packages": Packages,
    "metrics": Metrics,
    "telemetry": Telemetry,
}
"""Sections that count for the whole daemon."""

SECTIONS: dict[str, type[Struct]] = {name: type(getattr(Defaults(), name)) for name in Defaults.__struct_fields__}
"""The sections that an agent may override key by key."""

DAEMON_WIDE = {name: frozenset(k for k, f in fields_of(s).items() if f.is_daemon_wide) for name, s in SECTIONS.items()}
"""Keys of these that count for the whole daemon: refused in an agent's table, no change of a Spec."""


def of_others(kind: Kind) -> frozenset[str]:
    """Returns the keys that an agent, or a server, may not have: those of the other kind."""
    return frozenset(key for key, field in fields_of(Spec).items() if field.key.of not in ("", kind))
