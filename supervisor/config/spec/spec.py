"""Defines the values of a configuration: one frozen Struct for each section, and a Spec for each agent or MCP server.

The field names of the Structs are the TOML keys. A value that may be written in several ways is decoded
once: `Seconds` are float seconds ("500ms", "5m", 300), `Bytes` are int bytes ("64MiB", 1024), paths
are absolute, lists are tuples, `instances` is a Scale. Agents and MCP servers are one kind of thing,
a Spec, in one namespace.

The annotation of a field is also its rule (see `decoder`). To add a key, add a field here and a row to docs/reference/configuration.md.

This module must not know how a file is read (`loader` does), nor the machine: whether a program,
a user or a folder exists is found out where it is used, because it can change after the configuration
was read.
"""

from typing import Annotated, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from ..declared.cluster import ClusterSettings, Placement, placement_table
from ..declared.models import DeclaredModel, a_model
from ..declared.oauth import Oauth, oauth_table
from ..declared.pools import DeclaredPool, a_pool
from ..declared.stores import DeclaredStore
from ..declared.tenant import Limits, Tenant
from ..declared.uids import uid_range
from ..decoding.decoder import Field, fields_of
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
    at_least,
    between,
    boolean,
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

    socket: Path | None = None
    state_dir: Path | None = None
    group: Account | None = None
    readers: Account | None = None
    max_changes_per_minute: Annotated[int, whole(0, 1_000_000)] = 0
    log_level: Level = "info"
    log_format: Literal["text", "json"] = "text"
    journal: bool = False
    http: HttpAddress | None = None
    http_token_file: Path | None = None
    http_tls_cert: Path | None = None
    http_tls_key: Path | None = None
    http_behind_proxy: bool = False
    http_hosts: Annotated[
        tuple[str, ...],
        each(matching(r"[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,64}\]", "a name without a port"), "names"),
    ] = ()
    a2a_push: Annotated[tuple[str, ...], each(push_address, "addresses")] = ()
    secrets_file: Path | None = None
    tenant_uids: Annotated[str, uid_range] | None = None
    on_daemon_loss: Literal["kill"] = "kill"
    containment: Literal["auto", "launcher", "cgroup", "pidns"] = "auto"


ALLOWED_HOST = (
    r"(?:(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[1-9][0-9]{0,4})?"
)
"""A name, a wildcard for all below a name, or an address, and a port: 443 and 80 unless it is written."""


class Process(Struct, frozen=True, kw_only=True):
    """`[process]`: how a process is started, contained and stopped.

    `enable_isolation` is always the same as `isolation != "none"`. In a Spec, `working_directory` is
    set, and `environment` is empty: the merged whole is `Spec.environment`.
    """

    max_concurrent_processes: Annotated[int, whole(1, 100_000)] = 100
    spawn_timeout: PositiveSeconds = 30.0
    shutdown_grace_period: Seconds = 10.0
    drain_timeout: Seconds = 60.0
    enable_isolation: bool = True
    isolation: Literal["none", "basic", "strict", "container"] = "basic"
    read_paths: Paths | None = None
    write_paths: Paths | None = None
    connect_ports: Annotated[tuple[int, ...], each(whole(1, 65_535), "ports")] | None = None
    network: Literal["host", "none", "proxy"] = "host"
    allowed_hosts: Annotated[
        tuple[str, ...],
        each(matching(ALLOWED_HOST, 'a host such as "api.example.com:443" or "*.example.org"'), "hosts"),
    ] = ()
    image: (
        Annotated[
            str,
            matching(
                r"[A-Za-z0-9/][A-Za-z0-9_./:@+-]{0,511}", "the name of an image, a folder, or docker-archive:PATH"
            ),
        ]
        | None
    ) = None
    runtime: Literal["auto", "podman", "docker", "runc"] = "auto"
    working_directory: Path = ""
    environment: Annotated[dict[str, str], variables] = {}
    inherit_environment: VariableNames = INHERITED
    environment_file: Path | None = None
    umask: Annotated[str, matching("0?[0-7]{1,3}", 'an octal number as a string: "077"')] = "077"
    nice: Annotated[int, whole(-20, 19)] = 0
    stop_signal: Annotated[str, signal_name] = "SIGTERM"
    user: Account | None = None
    group: Account | None = None
    start_concurrency: Annotated[int, whole(1, 10_000)] = 64


class Resources(Struct, frozen=True, kw_only=True):
    """`[resources]`: hard limits, per worker. 0 switches a limit off where the rule lets it be 0."""

    max_memory_bytes: Bytes = 2 * GIB
    cpu_limit_percent: Annotated[int, whole(0, 1_000_000)] = 0
    max_cpu_seconds: Annotated[int, duration, whole_seconds] = 0
    max_file_descriptors: Annotated[int, whole(8, 1 << 30)] = 1024
    max_processes: Annotated[int, whole(0, 1 << 22)] = 0
    max_file_size_bytes: Bytes = 0
    max_address_space_bytes: Bytes = 0
    max_task_duration: PositiveSeconds = 300.0
    max_tool_calls_per_task: Annotated[int, whole(1, 1_000_000)] = 50
    max_output_size_bytes: Annotated[Bytes, at_least(1)] = 10 * MIB
    max_concurrent_requests: Annotated[int, whole(1, 10_000)] = 1
    max_tokens_per_minute: Annotated[int, whole(0, SIZE_MAX_BYTES)] = 0
    max_tool_calls_per_minute: Annotated[int, whole(0, 1_000_000_000)] = 0
    enable_resource_tracking: bool = True


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


class Mcp(Struct, frozen=True, kw_only=True):
    """`[mcp]`: the protocol, timeouts and retries of MCP servers. The table `servers` beside these keys holds the servers."""

    cortex_binary_path: Path | None = None
    cortex_args: Annotated[tuple[str, ...], each(argument, "strings")] = ("mcp", "stdio")
    protocol_version: Annotated[str, protocol_revision] = "auto"
    probe_timeout: PositiveSeconds = 5.0
    request_timeout: PositiveSeconds = 30.0
    max_request_timeout: PositiveSeconds = 600.0
    max_retries: Annotated[int, whole(0, 100)] = 3
    enable_mcp_logging: bool = True


class Monitoring(Struct, frozen=True, kw_only=True):
    """`[monitoring]`: heartbeats, metrics and logs."""

    health_check_interval: PositiveSeconds = 10.0
    heartbeat_interval: PositiveSeconds = 5.0
    heartbeat_timeout: PositiveSeconds = 30.0
    stall_timeout: Seconds = 0.0
    enable_metrics: bool = True
    metrics_interval: PositiveSeconds = 5.0
    enable_log_aggregation: bool = True
    agent_log_level: Level = "info"
    max_log_buffer_size: Annotated[Bytes, at_least(4 * KIB)] = MIB
    max_log_file_bytes: Annotated[Bytes, at_least(4 * KIB)] = 10 * MIB
    max_log_files: Annotated[int, whole(1, 1000)] = 5
    alert: Annotated[tuple[str, ...], argv] | None = None
    alert_url: Annotated[str, http_url] | None = None
    alert_task_failures: Annotated[int, whole(0, 10_000)] = 3
    alert_task_failures_window: PositiveSeconds = 3600.0


class Tasks(Struct, frozen=True, kw_only=True):
    """`[tasks]`: the queue of an agent, and the retries of a task whose worker dies."""

    max_attempts: Annotated[int, whole(1, 1000)] = 3
    retry_on: Annotated[str | tuple[str, ...], retry_reasons] = "worker-death"
    retry_backoff_base: Seconds = 1.0
    retry_backoff_max: Seconds = 60.0
    default_priority: Annotated[int, whole(1, 10)] = 5
    routing: Literal["least-load", "round-robin"] = "least-load"
    capability_routing: Literal["least-load", "best"] = "least-load"
    best_min_success_percent: Annotated[int, whole(0, 100)] = 80
    best_max_load_percent: Annotated[int, whole(0, 1_000_000)] = 100
    max_queue_size: Annotated[int, whole(1, 10_000_000)] = 10_000
    max_total_queue_size: Annotated[int, whole(1, 10_000_000)] = 100_000
    max_total_queue_bytes: Annotated[Bytes, at_least(MIB)] = 256 * MIB
    cancel_grace: Seconds = 5.0
    queue_timeout: Seconds = 0.0
    when_down: Literal["refuse", "queue"] = "refuse"
    result_retention: Seconds = 7 * DAY_S
    dead_letter_retention: Seconds = 30 * DAY_S
    max_delegation_depth: Annotated[int, whole(1, 100)] = 8
    max_children: Annotated[int, whole(1, 100_000)] = 1000
    max_cost_cents_per_day: Annotated[int, whole(0, SIZE_MAX_BYTES)] = 0
    record_tool_calls: Literal["none", "summary", "results"] = "summary"
    scale_up_after: Seconds = 1.0
    scale_down_after: Seconds = 60.0


class Events(Struct, frozen=True, kw_only=True):
    """`[events]`: how many events are kept, whichever bound is met first."""

    retention: PositiveSeconds = 7 * DAY_S
    max_bytes: Annotated[Bytes, at_least(64 * KIB)] = GIB
    max_publish_per_second: Annotated[int, whole(0, 1_000_000)] = 1000


class Audit(Struct, frozen=True, kw_only=True):
    """`[audit]`: how long records of changes and tool calls are kept, whichever bound is met first."""

    retention: PositiveSeconds = 90 * DAY_S
    max_bytes: Annotated[Bytes, at_least(64 * KIB)] = 256 * MIB
    arguments: Literal["hash", "keep"] = "hash"


class Retention(Struct, frozen=True):
    """Holds how long rows of the history are kept, in seconds: those of each sample, of each minute, and of each hour."""

    raw: float = DAY_S
    minute: float = 7 * DAY_S
    hour: float = 90 * DAY_S


def retention_table(raw: object) -> Retention:
    """Decodes the retention of the history; keys that are left out are as by default."""
    if not is_table(raw) or set(raw) - set(Retention.__struct_fields__):
        raise Refused('write a table such as { raw = "1d", minute = "7d", hour = "90d" }')
    return Retention(**{key: duration(value) for key, value in raw.items()})


class Metrics(Struct, frozen=True, kw_only=True):
    """`[metrics]`: how long the history of metrics is kept, and which agents are problems."""

    retention: Annotated[Retention, retention_table] = Retention()
    health_window: PositiveSeconds = 900.0
    problem_error_percent: Annotated[int, whole(0, 100)] = 15
    problem_error_tasks: Annotated[int, whole(1, 1_000_000)] = 5
    problem_average: PositiveSeconds = 10.0
    problem_average_tasks: Annotated[int, whole(1, 1_000_000)] = 3


class Packages(Struct, frozen=True, kw_only=True):
    """`[packages]`: which packages are taken."""

    require_signature: bool = False
    trusted_keys: Annotated[
        tuple[str, ...], each(matching(r"ed25519:[A-Za-z0-9+/]{43}=", '"ed25519:..."'), "public keys")
    ] = ()
    max_bytes: Annotated[Bytes, between(KIB, GIB)] = 256 * MIB


class Telemetry(Struct, frozen=True, kw_only=True):
    """`[telemetry]`: the collector of traces, figures and log lines."""

    otlp: Annotated[str, http_url] | None = None
    traces: bool = True
    metrics: bool = False
    metrics_interval: PositiveSeconds = 60.0
    logs: bool = False
    max_traces_per_second: Annotated[int, whole(0, 100_000)] = 20


class Recovery(Struct, frozen=True, kw_only=True):
    """`[recovery]`: whether and when a worker that ended is started again."""

    enable_auto_restart: bool = True
    restart: Literal["always", "on-failure", "never"] = "on-failure"
    max_restart_attempts: Annotated[int, whole(0, 1000)] = 3
    restart_window: PositiveSeconds = 60.0
    restart_backoff_base: Seconds = 1.0
    restart_backoff_max: Seconds = 30.0
    healthy_after: Seconds = 60.0
    failure_threshold: Annotated[int, whole(1, 1000)] = 3
    enable_graceful_degradation: bool = True
    actions: Actions = {}
    enable_checkpointing: bool = False
    checkpoint_interval: PositiveSeconds = 60.0
    max_checkpoint_bytes: Annotated[Bytes, between(KIB, 12 * MIB)] = 8 * MIB  # it travels whole
    max_checkpoints: Annotated[int, whole(1, 1000)] = 5
    checkpoint_retention: PositiveSeconds = 30 * DAY_S


class Memory(Struct, frozen=True, kw_only=True):
    """`[memory]`: the sessions and keys that an agent keeps from one task to the next."""

    max_session_bytes: Annotated[Bytes, between(KIB, 8 * MIB)] = MIB  # it travels with each task
    overflow: Literal["trim", "refuse"] = "trim"
    max_sessions: Annotated[int, whole(1, 10_000_000)] = 10_000
    session_overflow: Literal["evict", "refuse"] = "evict"
    retention: PositiveSeconds = 30 * DAY_S
    compression: bool = True
    max_pool_bytes: Bytes = 64 * MIB
    max_keys: Annotated[int, whole(1, 10_000_000)] = 100_000
    max_keys_bytes: Annotated[Bytes, at_least(KIB)] = 256 * MIB
    cleanup_interval: PositiveSeconds = 3600.0
    pool: Annotated[str, a_pool] | None = None


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
    kind: Kind
    source: str
    title: Annotated[str, title_text] = ""
    description: Annotated[str, description_text] = ""
    labels: Annotated[dict[str, str], label_table] = {}
    expose: bool = False
    input_schema: Annotated[dict[str, object], json_schema] | None = None
    output_schema: Annotated[dict[str, object], json_schema] | None = None
    task_support: Literal["optional", "required"] = "optional"
    ask_missing: bool = False
    command: Annotated[tuple[str, ...], argv] = ()
    entrypoint: Annotated[str, module_and_name] | None = None
    python: Path | None = None
    warm: bool = True
    preload: Annotated[
        tuple[str, ...], each(matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", 'a module such as "langgraph.graph"'), "names")
    ] = ()
    min_spare: Annotated[int, whole(0, 100)] = 0
    placement: Annotated[Placement, placement_table] | None = None
    protocol: Literal["corral", "mcp", "none", "webhook", "acp", "a2a"] = "corral"
    type: Literal["service", "oneshot", "http", "sse"] = "service"
    remain: bool = False
    timeout: Seconds = 0.0
    instances: Annotated[Scale, scale] = Scale(1, 1)
    capabilities: Annotated[
        tuple[str, ...], each(matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters"), "strings")
    ] = ()
    tools: Patterns | None = None
    denied_tools: Patterns = ()
    requires: Annotated[tuple[str, ...], each(matching(r"[^\x00-\x1f\x7f]+", "a name"), "names")] = ()
    autostart: bool = True
    rolling: Annotated[bool, boolean] | None = None
    smoke: SmokeOf | None = None
    hibernate_after: Seconds = 0.0
    control: Literal["none", "read", "operate", "admin"] = "none"
    http: HttpAddress | None = None
    http_auth: HttpAuth = "token"
    listen: Annotated[tuple[ListenAddress, ...], listen_addresses] = ()
    config: Annotated[dict[str, object], free_table] = {}
    environment: Annotated[dict[str, str], variables] = {}
    stores: Annotated[tuple[str, ...], each(a_name, "names")] = ()
    models: Annotated[tuple[str, ...], each(a_model, "names")] = ()
    health: Checks | None = None
    ready: Ready | None = None
    url: Annotated[str, web_url] | None = None
    headers: Annotated[dict[str, str], http_headers] = {}
    oauth: Annotated[Oauth, oauth_table] | None = None
    method: Literal["POST", "PUT"] = "POST"
    webhook_secret: Annotated[str, signing_key] = ""
    permissions: Literal["ask", "allow", "deny"] = "ask"
    permission_rules: Annotated[dict[str, str], rules_of_actions] = {}
    permission_timeout: PositiveSeconds | None = None
    auth_method: Annotated[str, matching(r"[^\x00-\x1f\x7f]{1,200}", "the id of a method")] | None = None
    idle_timeout: Seconds = 300.0
    concurrency: Literal["auto", "serial", "parallel"] = "auto"
    share: Literal["all", "tenant", "agent"] = "all"
    spares: Annotated[int, whole(0, 100)] = 0
    max_calls_per_minute: Annotated[int, whole(0, 1_000_000)] = 0
    relays: Annotated[tuple[Relay, ...], each(one_of(RELAYS), "names")] = ()
    disabled: bool = False
    template: Annotated[str, a_name] | None = None
    params: Annotated[dict[str, object], free_table] = {}
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


# Keys of a section that count for the whole daemon: refused in an agent's table, no change of a Spec.
DAEMON_WIDE: dict[str, frozenset[str]] = {
    "process": frozenset({"max_concurrent_processes", "start_concurrency"}),
    "mcp": frozenset({"cortex_binary_path", "cortex_args"}),
    "tasks": frozenset({"max_total_queue_size", "max_total_queue_bytes", "capability_routing"})
    | {"best_min_success_percent", "best_max_load_percent"},
    "memory": frozenset({"max_pool_bytes", "cleanup_interval"}),
}

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


# --- the keys of every Struct ----------------------------------------------


# The sections that an agent may override key by key.
SECTIONS: dict[str, type[Struct]] = {name: type(getattr(Defaults(), name)) for name in Defaults.__struct_fields__}
_STRUCTS: tuple[type[Struct], ...] = (
    *(Daemon, Events, Audit, Packages, Metrics, Telemetry, Profile, Spec),
    *SECTIONS.values(),
)
COMPUTED = ("written", "written_secrets", "own", "store_urls", "model_kinds")
FIELDS: dict[type[Struct], dict[str, Field]] = {
    cls: fields_of(cls, without={"name", "kind", "source", *COMPUTED, *SECTIONS} if cls is Spec else ())
    for cls in _STRUCTS
}
