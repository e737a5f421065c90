"""What the configuration says: TOML text in, frozen values out; every refusal names file, key, value and reason.

The field names of the Structs are the TOML keys. What a person may write in several ways is decoded
once: `Seconds` are float seconds ("500ms", "5m", 300), `Bytes` are int bytes ("64MiB", 1024), paths
are absolute, lists are tuples, `instances` is a Scale. Agents and MCP servers are one kind of thing,
a Spec, in one namespace.

The annotation of a field is also its rule: the functions in `Annotated[...]` are applied in order to
what was written. To add a key, add a field here and a row to docs/CONFIGURATION.md.

This module must not know the machine: whether a program, a user or a folder exists is found out
where it is used, because it can change after the configuration was read.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePosixPath
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from msgspec import Struct
from msgspec.structs import replace

from ..worker.errors import InvalidParams
from .check import (
    NO_ACTIONS,
    SIGNAL,
    TIMEOUT_S,
    Actions,
    Check,
    Checks,
    Readiness,
    Ready,
    check_table,
    http_url,
    readiness_table,
)
from .document import KeyPath, Page
from .team import Team, circle, decode_team, team_table
from .values import (
    DAY_S,
    GIB,
    KIB,
    MIB,
    SIZE_MAX_BYTES,
    Account,
    Bytes,
    Level,
    Path,
    Paths,
    PositiveSeconds,
    Refused,
    RefusedKey,
    Rule,
    Seconds,
    VariableNames,
    argument,
    argv,
    at_least,
    between,
    boolean,
    dotted,
    duration,
    each,
    file_path,
    file_paths,
    free_table,
    http_headers,
    is_list,
    is_table,
    matching,
    one_of,
    port_of,
    protocol_revision,
    quoted,
    retry_reasons,
    signal_name,
    variables,
    web_url,
    whole,
    whole_seconds,
)
from .workflow import Workflow, decode_workflow, workflow_table

# --- the sections ---------------------------------------------------------------------------------


INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG")
ISOLATION_AVAILABLE = ("none", "basic")
CONFINING = ("read_paths", "write_paths", "connect_ports")
"""What only an isolated process can be kept to."""


class Scale(Struct, frozen=True):
    """How many workers: `instances = 2` is Scale(2, 2), `{ min = 1, max = 8 }` is Scale(1, 8)."""

    min: int
    max: int

    @property
    def minimum(self) -> int:
        """The workers that are always kept."""
        return self.min

    @property
    def maximum(self) -> int:
        """The workers that are never exceeded."""
        return self.max


_count = whole(1, 1000)


def _scale(raw: object) -> Scale:
    if not is_table(raw):
        count = _count(raw)
        return Scale(count, count)
    if set(raw) != {"min", "max"}:
        raise Refused("write a number, or both ends: { min = 1, max = 8 }")
    scale = Scale(_count(raw["min"]), _count(raw["max"]))
    if scale.min > scale.max:
        raise Refused("min is above max")
    return scale


class Daemon(Struct, frozen=True, kw_only=True):
    """`[daemon]`: the daemon itself. None: the place that the platform's convention gives."""

    socket: Path | None = None
    state_dir: Path | None = None
    group: Account | None = None
    log_level: Level = "info"
    log_format: Literal["text", "json"] = "text"
    journal: bool = False
    http: (
        Annotated[
            str,
            matching(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", '"HOST:PORT"'),
            port_of,
        ]
        | None
    ) = None
    http_token_file: Path | None = None
    secrets_file: Path | None = None
    on_daemon_loss: Literal["kill"] = "kill"
    containment: Literal["auto", "launcher", "cgroup", "pidns"] = "auto"


class Process(Struct, frozen=True, kw_only=True):
    """`[process]`: how a process is started, contained and stopped.

    `enable_isolation` is always the same as `isolation != "none"`. In a Spec, `working_directory` is
    set, and `environment` is empty: the merged whole is `Spec.environment`.
    """

    max_concurrent_processes: Annotated[int, whole(1, 100_000)] = 100
    spawn_timeout: PositiveSeconds = 30.0
    shutdown_grace_period: Seconds = 10.0
    enable_isolation: bool = True
    isolation: Literal["none", "basic", "strict", "container"] = "basic"
    read_paths: Paths | None = None
    write_paths: Paths | None = None
    connect_ports: Annotated[tuple[int, ...], each(whole(1, 65_535), "ports")] | None = None
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
    enable_resource_tracking: bool = True


RELAYS = ("elicitation", "roots", "sampling")
Relay = Literal["elicitation", "roots", "sampling"]
"""What a server may ask a client for, in MCP until 2025-11-25."""

Patterns = Annotated[
    tuple[str, ...],
    each(matching(r"[A-Za-z0-9_.*?-]{1,128}", 'a pattern such as "time__*"'), "patterns"),
]
"""Names of tools, with wildcards as in a shell."""


class Profile(Struct, frozen=True, kw_only=True):
    """`[mcp.profiles.NAME]`: what a client of corral's own MCP server sees of the pool, and of corral itself."""

    tools: Patterns | None = None
    denied_tools: Patterns = ()
    read_only: bool = False
    control: bool = True


class Mcp(Struct, frozen=True, kw_only=True):
    """`[mcp]`: how MCP servers are spoken to. The table `servers` beside these keys holds the servers."""

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


class Tasks(Struct, frozen=True, kw_only=True):
    """`[tasks]`: the queue of an agent and what becomes of a task whose worker dies."""

    max_attempts: Annotated[int, whole(1, 1000)] = 3
    retry_on: Annotated[str | tuple[str, ...], retry_reasons] = "worker-death"
    retry_backoff_base: Seconds = 1.0
    retry_backoff_max: Seconds = 60.0
    default_priority: Annotated[int, whole(1, 10)] = 5
    routing: Literal["least-load", "round-robin"] = "least-load"
    max_queue_size: Annotated[int, whole(1, 10_000_000)] = 10_000
    max_total_queue_size: Annotated[int, whole(1, 10_000_000)] = 100_000
    max_total_queue_bytes: Annotated[Bytes, at_least(MIB)] = 256 * MIB
    cancel_grace: Seconds = 5.0
    queue_timeout: Seconds = 0.0
    result_retention: Seconds = 7 * DAY_S
    dead_letter_retention: Seconds = 30 * DAY_S
    max_delegation_depth: Annotated[int, whole(1, 100)] = 8
    max_children: Annotated[int, whole(1, 100_000)] = 1000
    max_cost_cents_per_day: Annotated[int, whole(0, SIZE_MAX_BYTES)] = 0


class Events(Struct, frozen=True, kw_only=True):
    """`[events]`: how much of the past is kept, whichever bound is met first."""

    retention: PositiveSeconds = 7 * DAY_S
    max_bytes: Annotated[Bytes, at_least(64 * KIB)] = GIB
    max_publish_per_second: Annotated[int, whole(0, 1_000_000)] = 1000


class Audit(Struct, frozen=True, kw_only=True):
    """`[audit]`: how long it stays known who did what, whichever bound is met first."""

    retention: PositiveSeconds = 90 * DAY_S
    max_bytes: Annotated[Bytes, at_least(64 * KIB)] = 256 * MIB
    arguments: Literal["hash", "keep"] = "hash"


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
    """`[memory]`: what an agent remembers of its sessions from one task to the next."""

    max_session_bytes: Annotated[Bytes, between(KIB, 8 * MIB)] = MIB  # it travels with each task
    overflow: Literal["trim", "refuse"] = "trim"
    max_sessions: Annotated[int, whole(1, 10_000_000)] = 10_000
    session_overflow: Literal["evict", "refuse"] = "evict"
    retention: PositiveSeconds = 30 * DAY_S
    compression: bool = True
    max_pool_bytes: Bytes = 64 * MIB
    max_keys: Annotated[int, whole(1, 10_000_000)] = 100_000
    max_keys_bytes: Annotated[Bytes, at_least(KIB)] = 256 * MIB


class Defaults(Struct, frozen=True, kw_only=True):
    """The sections that an agent or server may override key by key, as the file resolved them.

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
    """One agent or MCP server: `[agents.NAME]` or `[mcp.servers.NAME]`, with every section resolved.

    `command` is empty where `entrypoint` is set, and in a disabled `cortex`. `tools` None allows all.
    `environment` is `[process] environment`, then the agent's own; `source` is where the table came from.
    """

    name: str
    kind: Kind
    source: str
    command: Annotated[tuple[str, ...], argv] = ()
    entrypoint: (
        Annotated[str, matching(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", '"MODULE:NAME"')] | None
    ) = None
    python: Path | None = None
    protocol: Literal["corral", "mcp", "none"] = "corral"
    instances: Annotated[Scale, _scale] = Scale(1, 1)
    capabilities: Annotated[
        tuple[str, ...],
        each(matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters"), "strings"),
    ] = ()
    tools: Patterns | None = None
    denied_tools: Patterns = ()
    requires: Annotated[
        tuple[str, ...], each(matching(r"[^\x00-\x1f\x7f]+", "a name"), "names")
    ] = ()
    autostart: bool = True
    hibernate_after: Seconds = 0.0
    control: Literal["none", "read", "operate", "admin"] = "none"
    config: Annotated[dict[str, object], free_table] = {}
    environment: Annotated[dict[str, str], variables] = {}
    health: Checks | None = None
    ready: Ready | None = None
    url: Annotated[str, web_url] | None = None
    headers: Annotated[dict[str, str], http_headers] = {}
    idle_timeout: Seconds = 300.0
    concurrency: Literal["auto", "serial", "parallel"] = "auto"
    share: Literal["all", "tenant", "agent"] = "all"
    spares: Annotated[int, whole(0, 100)] = 0
    max_calls_per_minute: Annotated[int, whole(0, 1_000_000)] = 0
    relays: Annotated[tuple[Relay, ...], each(one_of(RELAYS), "names")] = ()
    disabled: bool = False
    process: Process = Process()
    resources: Resources = Resources()
    mcp: Mcp = Mcp()
    monitoring: Monitoring = Monitoring()
    tasks: Tasks = Tasks()
    memory: Memory = Memory()
    recovery: Recovery = Recovery()

    @property
    def checks(self) -> tuple[Check, ...]:
        """The health checks in force, nothing left open; what speaks MCP is asked unless `health` is written."""
        usual = (Check(name="mcp", way="mcp"),) if self.protocol == "mcp" else ()
        return tuple(map(self._filled, usual if self.health is None else self.health))

    def _filled(self, check: Check) -> Check:
        monitoring = self.monitoring
        interval_s = check.interval or monitoring.health_check_interval
        timeout_s = check.timeout
        if timeout_s is None:
            timeout_s = monitoring.heartbeat_timeout if check.way == "mcp" else TIMEOUT_S
        delay_s = interval_s if check.start_delay is None else check.start_delay
        return replace(check, interval=interval_s, timeout=timeout_s, start_delay=delay_s)


Ensemble = Team | Workflow
"""Who takes tasks without a process of its own, and has others do them."""


class Config(Struct, frozen=True, kw_only=True):
    """A whole configuration file; `process` is `defaults.process`.

    `agents` holds agents and MCP servers, `ensembles` teams and workflows: all names are of one namespace.
    """

    daemon: Daemon
    events: Events
    audit: Audit
    process: Process
    agents: dict[str, Spec]
    defaults: Defaults
    profiles: dict[str, Profile] = {}
    ensembles: dict[str, Ensemble] = {}


# Keys of a section that count for the whole daemon: refused in an agent's table, no change of a Spec.
DAEMON_WIDE: dict[str, frozenset[str]] = {
    "process": frozenset({"max_concurrent_processes", "start_concurrency"}),
    "mcp": frozenset({"cortex_binary_path", "cortex_args"}),
    "tasks": frozenset({"max_total_queue_size", "max_total_queue_bytes"}),
    "memory": frozenset({"max_pool_bytes"}),
}
# What a running worker was started with, or for whom; every other key of a Spec takes effect at once.
RESTART_KEYS = frozenset(
    ("kind", "command", "entrypoint", "python", "protocol", "config", "environment", "disabled")
) | {"url", "headers", "relays", "share", "process", "resources"}
ONLY_OF_AGENTS = frozenset({"entrypoint", "python", "capabilities", "tools", "config"}) | {
    "hibernate_after"
}
ONLY_OF_SERVERS = frozenset(
    {"url", "headers", "idle_timeout", "concurrency", "share", "spares", "max_calls_per_minute"}
) | {"relays", "disabled"}

# --- public ---------------------------------------------------------------------------------------


def decode(text: str, *, source: str, directory: str) -> Config:
    """The configuration that `text` says. Relative paths in it are relative to `directory`, an absolute path.

    Raises:
        InvalidParams: with `file` (`source`), `key`, `value`, `reason`, and `line` where it is known.
    """
    page = Page(source, text)
    top = page.tables()
    known = [*_SECTIONS, "daemon", "events", "audit", "agents", *ENSEMBLES]
    for key, value in top.items():
        if key not in known:
            raise _unknown(page, (key,), value, known)
    mcp = dict(_table(page, ("mcp",), top.get("mcp", {})))
    servers = _table(page, ("mcp", "servers"), mcp.pop("servers", {}))
    profiles = _table(page, ("mcp", "profiles"), mcp.pop("profiles", {}))
    sections = {**top, "mcp": mcp}
    resolved = {
        name: _section(page, (name,), sections.get(name, {}), base(), directory)
        for name, base in _SECTIONS.items()
    }
    defaults = replace(Defaults(), **resolved)
    tables = _table(page, ("agents",), top.get("agents", {}))
    agents: dict[str, Spec] = {}
    for name, table in tables.items():
        agents[name] = _agent(page, name, table, "agent", defaults, directory)
    for name, table in servers.items():
        if name in tables:
            path = ("mcp", "servers", name)
            raise page.error(path, name, f"agents.{name} has this name: both share one namespace")
        agents[name] = _agent(page, name, table, "mcp", defaults, directory)
    _check_requires(page, agents)
    ensembles = _ensembles(page, top, agents)
    return Config(
        daemon=_section(page, ("daemon",), top.get("daemon", {}), Daemon(), directory),
        events=_section(page, ("events",), top.get("events", {}), Events(), directory),
        audit=_section(page, ("audit",), top.get("audit", {}), Audit(), directory),
        process=defaults.process,
        agents=agents,
        defaults=defaults,
        profiles={
            name: _section(page, ("mcp", "profiles", name), table, Profile(), directory)
            for name, table in profiles.items()
        },
        ensembles=ensembles,
    )


def decode_agent(
    name: str,
    table: Mapping[str, object],
    *,
    kind: Kind,
    defaults: Defaults,
    source: str,
    directory: str,
) -> Spec:
    """One agent or server from a table of the same shape as `[agents.NAME]` or `[mcp.servers.NAME]`.

    Whether the names in `requires` exist is not looked at: `check_requires` does, for the whole set.

    Raises:
        InvalidParams: as `decode`, without `line`.
    """
    return _agent(Page(source, ""), name, table, kind, defaults, directory)


def decode_ensemble(name: str, table: Mapping[str, object], *, kind: str, source: str) -> Ensemble:
    """One team or workflow (`kind`) from a table of the same shape as `[teams.NAME]` or `[workflows.NAME]`.

    Whether those whom it names exist is not looked at: `check_ensembles` does, for the whole set.

    Raises:
        InvalidParams: as `decode`, without `line`.
    """
    return _ensemble(Page(source, ""), f"{kind}s", name, table)


def ensemble_table(ensemble: Ensemble) -> dict[str, object]:
    """The smallest table from which `decode_ensemble` makes an equal one."""
    return team_table(ensemble) if isinstance(ensemble, Team) else workflow_table(ensemble)


def kind_of_ensemble(ensemble: Ensemble) -> Literal["team", "workflow"]:
    """The word for it."""
    return "team" if isinstance(ensemble, Team) else "workflow"


def check_ensembles(ensembles: Mapping[str, Ensemble], agents: Mapping[str, Spec]) -> None:
    """Refuse teams and workflows that name somebody who is not there or takes no tasks, or that close a circle.

    Raises:
        InvalidParams: as `decode`, without `line`; a circle is also in `cycle`, first name repeated last.
    """
    _check_ensembles(None, ensembles, agents)


def check_requires(agents: Mapping[str, Spec]) -> None:
    """Refuse a `requires` that names nobody, a disabled server, or closes a circle.

    Raises:
        InvalidParams: as `decode`, without `line`; a circle is also in `cycle`, first name repeated last.
    """
    _check_requires(None, agents)


def to_table(spec: Spec, defaults: Defaults | None = None) -> dict[str, object]:
    """The smallest table from which `decode_agent` with the same `defaults` makes an equal Spec.

    It holds only what TOML and JSON can say. It does not depend on the folder that it is read in.
    """
    base = defaults or Defaults()
    blank = Spec(name=spec.name, kind=spec.kind, source=spec.source)
    if spec.kind == "mcp":
        blank = replace(blank, protocol="mcp", autostart=False)
    table = _differences(spec, blank, skip=frozenset({"environment"}))
    inherited = base.process.environment
    own = {k: v for k, v in spec.environment.items() if inherited.get(k) != v}
    if own:
        table["environment"] = own
    for name in _SECTIONS:
        skip = DAEMON_WIDE.get(name, frozenset()) | {"environment"}
        if section := _differences(getattr(spec, name), getattr(base, name), skip=skip):
            table[name] = section
    return table


def changed(old: Spec, new: Spec) -> dict[str, Literal["live", "restart"]]:
    """The keys that differ, as `command` or `tasks.max_attempts`: changed while the workers run, or by new ones."""
    kinds: dict[str, Literal["live", "restart"]] = {}
    for key in ("kind", *_FIELDS[Spec]):
        if not _same(getattr(old, key), getattr(new, key)):
            kinds[key] = "restart" if key in RESTART_KEYS else "live"
    for name, section in _SECTIONS.items():
        before, after = getattr(old, name), getattr(new, name)
        for key in _FIELDS[section]:
            if getattr(before, key) == getattr(after, key):
                continue
            if key in DAEMON_WIDE.get(name, frozenset()):
                continue
            # The era of MCP is settled when a server starts.
            settled = new.protocol == "mcp" and key == "protocol_version"
            kinds[f"{name}.{key}"] = "restart" if name in RESTART_KEYS or settled else "live"
    return kinds


# --- reading tables -------------------------------------------------------------------------------

_S = TypeVar("_S", bound=Struct)


class _Field(NamedTuple):
    rules: tuple[Rule, ...]
    is_path: bool


def _table(page: Page, path: KeyPath, raw: object) -> Mapping[str, object]:
    if not is_table(raw):
        name = ".NAME" if path[-1] in ("agents", "servers", *ENSEMBLES) else ""
        if path[-1] == "memory":  # elsewhere the word is the limit
            raise page.error(
                path, raw, "write a table, or resources.max_memory_bytes for the limit"
            )
        raise page.error(path, raw, f"write a table: [{dotted(path)}{name}]")
    return raw


def _section(page: Page, path: KeyPath, raw: object, base: _S, directory: str) -> _S:
    """`base` with the keys of `raw` over it."""
    table = _table(page, path, raw)
    if not table:
        return base
    fields = _FIELDS[type(base)]
    changes = {k: _value(page, (*path, k), v, fields, directory) for k, v in table.items()}
    if isinstance(base, Process):
        changes |= _isolation(page, path, table, base)
        if "environment" in changes:
            changes["environment"] = base.environment | changes["environment"]
    if isinstance(base, Recovery) and "actions" in changes:
        changes["actions"] = base.actions | changes["actions"]
    return _ordered(page, path, table, replace(base, **changes))


# Any: a value of the field that `path` names, which only the field's own rules know.
def _value(
    page: Page, path: KeyPath, raw: object, fields: Mapping[str, _Field], directory: str
) -> Any:
    field = fields.get(path[-1])
    if field is None:
        raise _unknown(page, path, raw, [*fields, *(_SECTIONS if fields is _FIELDS[Spec] else ())])
    value: Any = raw
    try:
        for rule in field.rules:
            value = rule(value)
    except RefusedKey as refused:
        raise page.error((*path, refused.name), refused.item, refused.reason) from refused
    except Refused as refused:
        item = raw if refused.item is ... else refused.item
        raise page.error(path, item, refused.reason) from refused
    if not field.is_path or (path[-1] == "python" and "/" not in value):  # found in PATH
        return value
    if isinstance(value, str):
        return str(PurePosixPath(directory, value))
    return tuple(str(PurePosixPath(directory, item)) for item in value)


def _isolation(
    page: Page, path: KeyPath, table: Mapping[str, object], base: Process
) -> dict[str, Any]:
    """Both keys of one choice, from either; `enable_isolation` is a switch, `isolation` the level."""
    level = table.get("isolation")
    switch = table.get("enable_isolation")
    if level is None and switch is None:
        return {}
    if level is None:
        usual = base.isolation if base.isolation != "none" else "basic"
        return {"isolation": usual if switch else "none"}
    inherited_off = switch is None and not base.enable_isolation and level != "none"
    if inherited_off or (switch is not None and switch != (level != "none")):
        said = "false" if inherited_off or not switch else "true"
        reason = f"it contradicts enable_isolation = {said}"
        raise page.error((*path, "isolation"), level, reason)
    if level not in ISOLATION_AVAILABLE:
        reason = f"this level is not available in this version: write one of {quoted(ISOLATION_AVAILABLE)}"
        raise page.error((*path, "isolation"), level, reason)
    return {"enable_isolation": level != "none"}


def _ordered(page: Page, path: KeyPath, table: Mapping[str, object], section: _S) -> _S:
    """Where keys bound one another: the written one counts, two that contradict are refused."""
    if isinstance(section, Process) and section.isolation == "none":
        for key in CONFINING:
            if getattr(section, key) is not None:
                switch = "isolation" if "isolation" in table else "enable_isolation"
                guilty, other = (key, switch) if key in table else (switch, key)
                raise page.error((*path, guilty), table[guilty], f"it contradicts {other}")
    if isinstance(section, Recovery):
        base, most = section.restart_backoff_base, section.restart_backoff_max
        if base <= most:
            return section
        if "restart_backoff_max" not in table:
            return replace(section, restart_backoff_max=base)
        if "restart_backoff_base" not in table:
            return replace(section, restart_backoff_base=most)
        reason = f"it contradicts restart_backoff_base: write at least {base:g} s"
        raise page.error((*path, "restart_backoff_max"), table["restart_backoff_max"], reason)
    if isinstance(section, Monitoring) and section.heartbeat_interval >= section.heartbeat_timeout:
        if "heartbeat_timeout" in table:
            key, words = (
                "heartbeat_timeout",
                f"above heartbeat_interval, {section.heartbeat_interval:g} s",
            )
        else:
            key, words = (
                "heartbeat_interval",
                f"below heartbeat_timeout, {section.heartbeat_timeout:g} s",
            )
        raise page.error((*path, key), table[key], f"write a duration {words}")
    return section


def _agent(
    page: Page, name: str, raw: object, kind: Kind, defaults: Defaults, directory: str
) -> Spec:
    path = ("agents", name) if kind == "agent" else ("mcp", "servers", name)
    _check_name(page, path, name)
    table = _table(page, path, raw)
    if kind == "mcp":
        _check_pasted(page, path, table)
    own: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    for key, value in table.items():
        here = (*path, key)
        if key in _SECTIONS:
            _check_daemon_wide(page, here, value)
            sections[key] = _section(page, here, value, getattr(defaults, key), directory)
            continue
        if key in (ONLY_OF_SERVERS if kind == "agent" else ONLY_OF_AGENTS):
            whom = "MCP servers" if kind == "agent" else "agents"
            raise page.error(here, value, f"this is a key of {whom} only")
        own[key] = _value(page, here, value, _FIELDS[Spec], directory)
    if kind == "mcp" and own.setdefault("protocol", "mcp") != "mcp":
        raise page.error((*path, "protocol"), table["protocol"], 'an MCP server speaks "mcp"')
    if kind == "mcp":
        own.setdefault("autostart", False)  # its first call starts it
    _check_program(page, path, own)
    process: Process = sections.get("process", defaults.process)
    own["environment"] = process.environment | own.get("environment", {})
    folder = process.working_directory or directory
    sections["process"] = replace(process, working_directory=folder, environment={})
    for key in _SECTIONS:
        sections.setdefault(key, getattr(defaults, key))
    _check_health(page, path, own, sections["recovery"])
    return replace(Spec(name=name, kind=kind, source=page.source), **own, **sections)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")


def _check_name(page: Page, path: KeyPath, name: str) -> None:
    reason = ""
    if "/" in name:
        reason = '"/" is reserved for tenants'
    elif not _NAME.fullmatch(name):
        reason = "a name has 1 to 48 letters, digits, _ and -, and starts with a letter"
    elif "__" in name:
        reason = '"__" stands between a server and its tool'
    elif path[:2] == ("mcp", "servers") and name == "corral":
        reason = "corral's own tools have this name"
    elif re.search(r"-[0-9]+$", name):
        reason = "a name that ends in - and digits is that of a worker"
    if reason:
        raise page.error(path, name, reason)


def _check_program(page: Page, path: KeyPath, own: Mapping[str, object]) -> None:
    """Exactly one of command and entrypoint; the keys that go with one of them only."""
    command, entrypoint = own.get("command"), own.get("entrypoint")
    if "url" in own:
        if command:
            raise page.error(
                (*path, "url"), own["url"], "it contradicts command: write one of the two"
            )
        return
    if own.get("headers"):
        raise page.error((*path, "headers"), None, "they go with url only")
    if command and entrypoint:
        reason = "it contradicts command: write one of the two"
        raise page.error((*path, "entrypoint"), entrypoint, reason)
    if not command and not entrypoint:
        is_cortex = path == ("mcp", "servers", "cortex")
        if is_cortex and own.get("disabled") is True:
            return
        reason = 'it is missing: write a list, such as command = ["python", "agent.py"]'
        if path[:2] == ("mcp", "servers"):
            reason = (
                'it is missing: write a list, such as command = ["npx", "-y", "PACKAGE"], or a url'
            )
        if is_cortex:
            reason += ", or disabled = true to go without the built-in server"
        raise page.error((*path, "command"), None, reason)
    if not entrypoint and "python" in own:
        raise page.error((*path, "python"), own["python"], "it goes with entrypoint only")
    if entrypoint and own.get("protocol", "corral") != "corral":
        reason = 'it contradicts entrypoint: such an agent speaks "corral"'
        raise page.error((*path, "protocol"), own["protocol"], reason)


def _check_health(
    page: Page, path: KeyPath, own: Mapping[str, Any], recovery: Recovery
) -> None:  # Any: the values of a Spec's fields
    """What the ways to ask need of the rest: a protocol that has them, actions that exist."""
    protocol = own.get("protocol", "corral")
    if own.get("hibernate_after") and protocol != "corral":
        reason = 'only what speaks protocol "corral" can save where it stands'
        raise page.error((*path, "hibernate_after"), own["hibernate_after"], reason)
    if own.get("ready") is not None and protocol != "none":
        reason = f'it goes with protocol = "none": "{protocol}" says itself when it is ready'
        raise page.error((*path, "ready"), own["ready"].way, reason)
    for check in own.get("health") or ():
        if check.way == "mcp" and protocol != "mcp":
            raise page.error((*path, "health", "mcp"), True, 'it goes with protocol = "mcp"')
        action = check.recovery
        if action in NO_ACTIONS or action.startswith(SIGNAL) or action in recovery.actions:
            continue
        near = get_close_matches(action, [*NO_ACTIONS, *recovery.actions], 1)
        guess = f'; did you mean "{near[0]}"?' if near else ""
        reason = f"no action in [recovery.actions] has this name{guess}"
        raise page.error((*path, "health", "recovery"), action, reason)


def _check_daemon_wide(page: Page, path: KeyPath, raw: object) -> None:
    if is_table(raw):
        for key in DAEMON_WIDE.get(path[-1], frozenset()).intersection(raw):
            reason = f"it counts for the whole daemon: write it in [{path[-1]}]"
            raise page.error((*path, key), raw[key], reason)


def _check_pasted(page: Page, path: KeyPath, table: Mapping[str, object]) -> None:
    """The `mcpServers` spelling of editors: a command string, `args`, `env`."""
    found = [key for key in ("args", "env") if key in table]
    if not found:
        return
    command, args = table.get("command", "PROGRAM"), table.get("args", [])
    head = list(command) if is_list(command) else [str(command)]
    words = json.dumps([*head, *(args if is_list(args) else [args])], default=str)
    advice = [f"command = {words}"] if "args" in table or isinstance(command, str) else []
    advice += ['environment = { NAME = "value" } in place of env'] if "env" in table else []
    reason = f"this is the spelling of an editor: write {', and '.join(advice)}"
    raise page.error((*path, found[0]), table[found[0]], reason)


def _check_requires(page: Page | None, agents: Mapping[str, Spec]) -> None:
    def error(name: str, value: object, reason: str, **data: object) -> InvalidParams:
        spec = agents[name]
        path = ("agents", name) if spec.kind == "agent" else ("mcp", "servers", name)
        on = page or Page(spec.source, "")
        return on.error((*path, "requires"), value, reason, **data)

    for spec in agents.values():
        for name in spec.requires:
            if name not in agents and name != "cortex":  # the built-in server needs no table
                near = get_close_matches(name, agents, 1)
                guess = f'; did you mean "{near[0]}"?' if near else ""
                raise error(spec.name, name, f"no agent or MCP server has this name{guess}")
            if name in agents and agents[name].disabled:
                raise error(spec.name, name, "this MCP server is disabled")
    try:
        TopologicalSorter({spec.name: spec.requires for spec in agents.values()}).prepare()
    except CycleError as found:
        circle: list[str] = found.args[1][:0:-1]  # last repeats first; each is required by the next
        names = list(agents)
        first = min(range(len(circle)), key=lambda n: names.index(circle[n]))
        circle = [*circle[first:], *circle[:first]]
        circle.append(circle[0])
        reason = f"it closes a circle: {' requires '.join(circle)}"
        raise error(circle[0], circle[1], reason, cycle=circle) from found


ENSEMBLES: Mapping[str, Callable[[Page, str, object], Ensemble]] = {
    "teams": decode_team,
    "workflows": decode_workflow,
}


def _ensembles(
    page: Page, top: Mapping[str, object], agents: Mapping[str, Spec]
) -> dict[str, Ensemble]:
    found: dict[str, Ensemble] = {}
    for section in ENSEMBLES:
        for name, table in _table(page, (section,), top.get(section, {})).items():
            if name in agents or name in found:
                other = "an agent or MCP server" if name in agents else "a team"
                reason = f"{other} has this name: all share one namespace"
                raise page.error((section, name), name, reason)
            found[name] = _ensemble(page, section, name, table)
    _check_ensembles(page, found, agents)
    return found


def _ensemble(page: Page, section: str, name: str, table: object) -> Ensemble:
    _check_name(page, (section, name), name)
    if name == "cortex":
        raise page.error((section, name), name, "the built-in memory server has this name")
    return ENSEMBLES[section](page, name, table)


def _check_ensembles(
    page: Page | None, ensembles: Mapping[str, Ensemble], agents: Mapping[str, Spec]
) -> None:
    for name, ensemble in ensembles.items():
        path: KeyPath = (f"{kind_of_ensemble(ensemble)}s", name)
        on = page or Page(ensemble.source, "")
        if isinstance(ensemble, Team):
            named: list[tuple[KeyPath, str]] = [(("members",), each) for each in ensemble.members]
            if ensemble.lead is not None:
                named.append((("lead",), ensemble.lead))
                if ensemble.lead in ensembles:
                    reason = "the lead is an agent: it delegates to the members"
                    raise on.error((*path, "lead"), ensemble.lead, reason)
        else:
            named = [
                (("steps", step.name, "agent"), step.agent)
                for step in ensemble.steps
                if step.agent is not None
            ]
        for key, other in named:
            why_not = _why_no_member(other, ensembles, agents)
            if why_not is not None:
                raise on.error((*path, *key), other, why_not)
    if found := circle({name: ensemble.needs for name, ensemble in ensembles.items()}):
        first = ensembles[found[0]]
        on = page or Page(first.source, "")
        reason = f"it closes a circle: {' needs '.join(found)}"
        raise on.error((f"{kind_of_ensemble(first)}s", found[0]), found[1], reason, cycle=found)


def _why_no_member(
    name: str, ensembles: Mapping[str, Ensemble], agents: Mapping[str, Spec]
) -> str | None:
    """Why nobody can be given tasks by that name; None where somebody can."""
    if name in ensembles:
        return None
    if name not in agents:
        near = get_close_matches(name, [*agents, *ensembles], 1)
        guess = f'; did you mean "{near[0]}"?' if near else ""
        return f"no agent, team or workflow has this name{guess}"
    if agents[name].protocol != "corral":
        return f'it speaks protocol "{agents[name].protocol}", which has no tasks'
    return None


_HINTS = {
    "args": "write the program and its arguments as one list: command",
    "env": "write environment",
    "cwd": "write working_directory in the section process",
    "url": "only an MCP server has one: [mcp.servers.NAME]",
    "mcp_servers": "write each server as [mcp.servers.NAME]",
    "type": "leave it out: a command is spoken to over its pipes, a url over streamable HTTP",
    "mcpServers": "write each server as [mcp.servers.NAME]",
    "servers": "write each server as [mcp.servers.NAME]",
    "server": "write each server as [mcp.servers.NAME]",
    "memory": "write max_memory_bytes in the section resources",
    "cpu": "write cpu_limit_percent in the section resources",
    "autorestart": "write restart in the section recovery",
    "directory": "write working_directory in the section process",
    "working_dir": "write working_directory in the section process",
    "env_file": "write environment_file in the section process",
    "depends_on": "write requires",
    "healthcheck": "write health",
    "replicas": "write instances",
    "numprocs": "write instances",
}
"""Words for the same thing elsewhere: in editors, in Docker, in supervisord."""


def _unknown(page: Page, path: KeyPath, value: object, known: Iterable[str]) -> InvalidParams:
    key = path[-1]
    own = tuple(known)
    elsewhere = {key: name for name, section in _SECTIONS.items() for key in _FIELDS[section]}
    reason = "unknown key"
    if key in _HINTS:
        reason = f"unknown key; {_HINTS[key]}"
    elif near := [] if key in elsewhere else get_close_matches(key, own, 1):
        reason = f'unknown key; did you mean "{near[0]}"?'
    elif near := get_close_matches(key, elsewhere, 1, 0.75):
        reason = f'unknown key here; "{near[0]}" is a key of the section {elsewhere[near[0]]}'
    return page.error(path, value, reason)


def _same(before: object, after: object) -> bool:
    if is_table(before) and is_table(after):  # 1 and true are equal in Python, not in JSON
        return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    return before == after


def _differences(new: Struct, base: Struct, *, skip: frozenset[str]) -> dict[str, object]:
    return {
        key: _plain(getattr(new, key))
        for key in _FIELDS[type(new)]
        if key not in skip and getattr(new, key) != getattr(base, key)
    }


def _plain(value: object) -> object:
    if isinstance(value, Readiness):
        return readiness_table(value)
    if isinstance(value, Check):
        return check_table(value)
    if isinstance(value, Scale):
        return value.min if value.min == value.max else {"min": value.min, "max": value.max}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if is_list(value):
        return [_plain(item) for item in value]
    return free_table(value) if is_table(value) else value


# --- the rules of every Struct, from its annotations ----------------------------------------------


def _field(hint: object) -> _Field:
    rules: tuple[Rule, ...] = ()
    for part in (hint, *(get_args(hint) if NoneType in get_args(hint) else ())):
        rules = getattr(part, "__metadata__", ()) or rules
    plain = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    if hint is bool:
        rules = (boolean,)
    elif plain:
        rules = (one_of(get_args(plain[0])), *rules)
    assert rules, f"a field without a rule: {hint}"
    return _Field(rules, file_path in rules or file_paths in rules)


_SECTIONS: dict[str, type[Struct]] = {
    name: type(getattr(Defaults(), name)) for name in Defaults.__struct_fields__
}
_STRUCTS: tuple[type[Struct], ...] = (Daemon, Events, Audit, Profile, Spec, *_SECTIONS.values())
_FIELDS: dict[type[Struct], dict[str, _Field]] = {
    cls: {
        key: _field(hint)
        for key, hint in get_type_hints(cls, include_extras=True).items()
        if cls is not Spec or key not in {"name", "kind", "source", *_SECTIONS}
    }
    for cls in _STRUCTS
}
