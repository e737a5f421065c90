"""Decodes a configuration file or one table into the values of `spec`, and encodes a Spec as a table.

Every error names file, key, value and reason. Names, requirements and memberships are checked here over the
whole set, since one table cannot tell.

This module must not know the machine: whether a program, a user or a folder exists is found out
where it is used, because it can change after the configuration was read.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from .decoder import Document, KeyPath, written_keys
from .job import Schedule, commands_of, decode_job, decode_schedule, job_task
from .probe_spec import NO_ACTIONS, SIGNAL, Check, Readiness, check_table, readiness_table
from .references import (
    address_mistakes,
    check_exposed,
    check_webhook,
    group_mistakes,
    requires_mistakes,
    schedule_mistakes,
    why_unknown,
    why_unknown_in_spec,
)
from .sources import NO_VARIABLES, Variables, expanded, merged
from .spec import (
    DAEMON_WIDE,
    FIELDS,
    SECTIONS,
    Audit,
    Config,
    Daemon,
    Defaults,
    Events,
    Group,
    Kind,
    Monitoring,
    Process,
    Profile,
    Recovery,
    Scale,
    Spec,
)
from .team import Team, decode_team, team_table
from .values import (
    dotted,
    free_table,
    is_list,
    is_table,
)
from .workflow import decode_workflow, workflow_table

CONFINING = ("read_paths", "write_paths", "connect_ports")
"""Keys that confine a process, which has to be isolated for that."""
PROGRAM_KEYS = frozenset({"command", "entrypoint", "url"})
ONLY_OF_AGENTS = frozenset(
    (
        *("entrypoint", "python", "capabilities", "tools", "config", "hibernate_after"),
        *("http", "http_auth", "type", "remain", "timeout", "warm", "preload"),
        *("min_spare", "method", "webhook_secret", "expose", "input_schema"),
        *("output_schema"),
    )
)
_S = TypeVar("_S", bound=Struct)
_T = TypeVar("_T")
ONLY_OF_SERVERS = frozenset(
    {"idle_timeout", "concurrency", "share", "spares", "max_calls_per_minute"}
) | {"relays", "disabled"}


def decode(
    text: str, *, source: str, directory: str, variables: Variables = NO_VARIABLES
) -> Config:
    """Decodes a whole file, and those that it includes. Relative paths in it are relative to `directory`, an absolute path.

    Raises:
        InvalidParams: with `file` (`source`), `key`, `value`, `reason`, and `line` where it is known.
    """
    document = Document(source, text, directory)
    config = _decode(document, merged(document, variables))
    document.check()
    return config


def _decode(document: Document, top: Mapping[str, object]) -> Config:
    known = [*SECTIONS, "daemon", "events", "audit", "agents", *GROUPS, "schedules"]
    for key, value in top.items():
        if key not in known:
            document.note(document.error((key,), value, why_unknown(key, known)))
    mcp = dict(_table_in(document, ("mcp",), top))
    servers = _table_in(document, ("mcp", "servers"), mcp)
    profiles = _table_in(document, ("mcp", "profiles"), mcp)
    rest = {key: value for key, value in mcp.items() if key not in ("servers", "profiles")}

    def section(path: KeyPath, base: _S, tables: Mapping[str, object]) -> _S:
        return _section(document, path, _table_in(document, path, tables), base)

    sections = {**top, "mcp": rest}
    resolved = {name: section((name,), base(), sections) for name, base in SECTIONS.items()}
    defaults = replace(Defaults(), **resolved)
    agents, broken = _agents(document, top, servers, defaults)
    groups = _groups(document, top, agents, broken)
    schedules = _schedules(document, top, agents, groups, broken)
    daemon = section(("daemon",), Daemon(), top)
    for mistake in address_mistakes(document, [*agents.values(), *groups.values()], daemon):
        document.note(mistake)
    return Config(
        daemon=daemon,
        events=section(("events",), Events(), top),
        audit=section(("audit",), Audit(), top),
        process=defaults.process,
        agents=agents,
        defaults=defaults,
        profiles={
            name: section(("mcp", "profiles", name), Profile(), profiles) for name in profiles
        },
        groups=groups,
        schedules=schedules,
    )


def _agents(
    document: Document,
    top: Mapping[str, object],
    servers: Mapping[str, object],
    defaults: Defaults,
) -> tuple[dict[str, Spec], set[str]]:
    """Returns the agents and servers, and the names of those whose tables are refused."""
    tables = _table_in(document, ("agents",), top)
    agents: dict[str, Spec] = {}
    for name, table in tables.items():
        with document.collecting():
            agents[name] = _agent(document, name, table, "agent", defaults)
    for name, table in servers.items():
        with document.collecting():
            if name in tables:
                path = ("mcp", "servers", name)
                reason = f"agents.{name} has this name: both share one namespace"
                raise document.error(path, name, reason)
            agents[name] = _agent(document, name, table, "mcp", defaults)
    commands = commands_of(_table_in(document, ("schedules",), top))
    for name, table in commands.items():
        with document.collecting():
            here = ("schedules", name)
            if name in tables or name in servers:
                reason = "an agent or MCP server has this name, which the command needs for itself"
                raise document.error(here, name, reason)
            agents[name] = _agent(document, name, table, "agent", defaults, here)
    broken = {*tables, *servers, *commands} - agents.keys()
    for mistake in requires_mistakes(document, agents, broken):
        document.note(mistake)
    return agents, broken


def decode_agent(
    name: str,
    table: Mapping[str, object],
    *,
    kind: Kind,
    defaults: Defaults,
    source: str,
    directory: str,
    variables: Variables | None = None,
) -> Spec:
    """Decodes one agent or server from a table of the same shape as `[agents.NAME]` or `[mcp.servers.NAME]`.

    With `variables` the Spec has what they are now; without them nothing is expanded. The names in `requires` are checked by `check_requires`, for the whole set.

    Raises:
        InvalidParams: as `decode`, without `line`.
    """
    document = Document(source, "", directory)
    path = ("agents", name) if kind == "agent" else ("mcp", "servers", name)
    raw = table if variables is None else expanded(document, path, table, variables)
    spec = _alone(document, lambda: _agent(document, name, raw, kind, defaults))
    return replace(spec, written={})  # it is kept as it became


def decode_group(name: str, table: Mapping[str, object], *, kind: str, source: str) -> Group:
    """Decodes one team or workflow (`kind`) from a table of the same shape as `[teams.NAME]` or `[workflows.NAME]`.

    The names of members are checked by `check_groups`, for the whole set.

    Raises:
        InvalidParams: as `decode`, without `line`.
    """
    document = Document(source, "")
    return _alone(document, lambda: _group(document, f"{kind}s", name, table))


def _alone(document: Document, read: Callable[[], _T]) -> _T:
    """Returns the one table that `read` decodes, or raises all of its mistakes."""
    found: _T | None = None
    with document.collecting():
        found = read()
    document.check()
    assert found is not None, "a table that is not decoded has a mistake"
    return found


def group_table(group: Group) -> dict[str, object]:
    """Returns the smallest table from which `decode_group` makes an equal group."""
    return team_table(group) if isinstance(group, Team) else workflow_table(group)


def to_table(spec: Spec, defaults: Defaults | None = None) -> dict[str, object]:
    """Returns the smallest table from which `decode_agent` with the same `defaults` makes an equal Spec.

    A value that had variables is there as it was written; environments alone are what they became. It holds only values that TOML and JSON have. It does not depend on the folder that it is read in.
    """
    base = defaults or Defaults()
    blank = Spec(name=spec.name, kind=spec.kind, source=spec.source)
    if spec.kind == "mcp":
        blank = replace(blank, protocol="mcp", autostart=False)
    if spec.type == "oneshot":
        blank = replace(blank, protocol="none")
    table = _differences(spec, blank, skip=frozenset({"environment"}))
    inherited = base.process.environment
    own = {k: v for k, v in spec.environment.items() if inherited.get(k) != v}
    if own:
        table["environment"] = own
    for name in SECTIONS:
        skip = DAEMON_WIDE.get(name, frozenset()) | {"environment"}
        if section := _differences(getattr(spec, name), getattr(base, name), skip=skip):
            table[name] = section
    for path, value in spec.written.items():
        *above, key = path
        place = table if not above else table.get(above[0], {})
        if isinstance(place, dict) and key in place:
            place[key] = value
    return table


# --- reading tables -------------------------------------------------------------------------------


def _table(document: Document, path: KeyPath, raw: object) -> Mapping[str, object]:
    if not is_table(raw):
        name = ".NAME" if path[-1] in ("agents", "servers", *GROUPS) else ""
        if path[-1] == "memory":  # elsewhere the word is the limit
            raise document.error(
                path, raw, "write a table, or resources.max_memory_bytes for the limit"
            )
        raise document.error(path, raw, f"write a table: [{dotted(path)}{name}]")
    return raw


def _table_in(
    document: Document, path: KeyPath, tables: Mapping[str, object]
) -> Mapping[str, object]:
    """Returns the table that `path` ends with; an empty one if there is none, or it is refused."""
    with document.collecting():
        return _table(document, path, tables.get(path[-1], {}))
    return {}


def _section(document: Document, path: KeyPath, raw: object, base: _S) -> _S:
    """Returns `base` with the keys of `raw` over it; the keys that are refused are noted, and left out."""
    table = _table(document, path, raw)
    if not table:
        return base
    before = document.failures
    changes = document.decode_keys(path, table, FIELDS[type(base)], unknown=why_unknown)
    if isinstance(base, Process):
        with document.collecting():
            changes |= _isolation(document, path, changes, base)
        if "environment" in changes:
            changes["environment"] = base.environment | changes["environment"]
    if isinstance(base, Recovery) and "actions" in changes:
        changes["actions"] = base.actions | changes["actions"]
    section = replace(base, **changes)
    if document.failures > before:
        return section
    with document.collecting():
        return _ordered(document, path, table, section)
    return section


def _isolation(
    document: Document, path: KeyPath, table: Mapping[str, object], base: Process
) -> dict[str, Any]:
    """Returns both keys of one choice, from either; `enable_isolation` is a switch, `isolation` the level."""
    level = table.get("isolation")
    switch = table.get("enable_isolation")
    if level is None and switch is None:
        return {}
    if level is None:
        usual = base.isolation if base.isolation != "none" else "basic"
        return {"isolation": usual if switch else "none"}
    inherited_off = switch is None and not base.enable_isolation and level != "none"
    if inherited_off or (switch is not None and switch != (level != "none")):
        switched = "false" if inherited_off or not switch else "true"
        reason = f"it contradicts enable_isolation = {switched}"
        raise document.error((*path, "isolation"), level, reason)
    return {"enable_isolation": level != "none"}


def _ordered(document: Document, path: KeyPath, table: Mapping[str, object], section: _S) -> _S:
    """Adapts keys that bound one another: the written one counts, two that contradict are refused."""
    if isinstance(section, Process) and section.isolation == "none":
        for key in CONFINING:
            if getattr(section, key) is not None:
                switch = "isolation" if "isolation" in table else "enable_isolation"
                guilty, other = (key, switch) if key in table else (switch, key)
                raise document.error((*path, guilty), table[guilty], f"it contradicts {other}")
    if isinstance(section, Recovery):
        base, most = section.restart_backoff_base, section.restart_backoff_max
        if base <= most:
            return section
        if "restart_backoff_max" not in table:
            return replace(section, restart_backoff_max=base)
        if "restart_backoff_base" not in table:
            return replace(section, restart_backoff_base=most)
        reason = f"it contradicts restart_backoff_base: write at least {base:g} s"
        raise document.error((*path, "restart_backoff_max"), table["restart_backoff_max"], reason)
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
        raise document.error((*path, key), table[key], f"write a duration {words}")
    return section


def _agent(
    document: Document,
    name: str,
    raw: object,
    kind: Kind,
    defaults: Defaults,
    path: KeyPath = (),
) -> Spec:
    path = path or (("agents", name) if kind == "agent" else ("mcp", "servers", name))
    _check_name(document, path, name)
    table = _table(document, path, raw)
    if kind == "mcp":
        _check_pasted(document, path, table)
    before = document.failures
    own, sections = _own_keys(document, path, table, kind, defaults)
    if kind == "mcp" and own.setdefault("protocol", "mcp") != "mcp":
        raise document.error((*path, "protocol"), table["protocol"], 'an MCP server speaks "mcp"')
    if kind == "mcp":
        own.setdefault("autostart", False)  # its first call starts it
    with document.collecting():
        decode_job(document, path, table, own)
    if document.failures == before or not any(map(_hides_program, table)):
        with document.collecting():
            _check_program(document, path, own)
    process: Process = sections.get("process", defaults.process)
    own["environment"] = process.environment | own.get("environment", {})
    folder = process.working_directory or document.part_of(path).directory
    sections["process"] = replace(process, working_directory=folder, environment={})
    for key in SECTIONS:
        sections.setdefault(key, getattr(defaults, key))
    if document.failures == before:
        _check_health(document, path, own, sections["recovery"])
    document.stop_after(before)
    blank = Spec(name=name, kind=kind, source=document.part_of(path).source)
    return replace(blank, **own, **sections, written=written_keys(table))


def _own_keys(
    document: Document,
    path: KeyPath,
    table: Mapping[str, object],
    kind: Kind,
    defaults: Defaults,
) -> tuple[dict[str, Any], dict[str, Any]]:  # Any: the values of a Spec's fields
    """Returns the keys and the sections of one agent or server; those that are refused are noted."""
    own: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    foreign = ONLY_OF_SERVERS if kind == "agent" else ONLY_OF_AGENTS
    for key, value in table.items():
        here = (*path, key)
        with document.collecting():
            if key in SECTIONS:
                _check_daemon_wide(document, here, value)
                sections[key] = _section(document, here, value, getattr(defaults, key))
                continue
            if key in foreign:
                if kind == "mcp" and key == "type":
                    raise document.error(here, value, why_unknown_in_spec(key, ()))
                whom = "MCP servers" if kind == "agent" else "agents"
                raise document.error(here, value, f"this is a key of {whom} only")
            own[key] = document.decode_key(here, value, FIELDS[Spec], unknown=why_unknown_in_spec)
    return own, sections


def _hides_program(key: str) -> bool:
    """Returns whether a key says, or may be meant to say, which program it is: its mistake explains that there is none."""
    return key in PROGRAM_KEYS or (key not in SECTIONS and key not in FIELDS[Spec])


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")


def _check_name(document: Document, path: KeyPath, name: str) -> None:
    reason = ""
    if "/" in name:
        reason = '"/" is reserved for tenants'
    elif not _NAME.fullmatch(name):
        reason = "a name has 1 to 48 letters, digits, _ and -, and starts with a letter"
    elif "__" in name:
        reason = '"__" stands between a server and its tool'
    elif path[:2] == ("mcp", "servers") and name in ("corral", "agent"):
        reason = "corral's own tools and those of exposed agents begin with these names"
    elif re.search(r"-[0-9]+$", name):
        reason = "a name that ends in - and digits is that of a worker"
    if reason:
        raise document.error(path, name, reason)


def _check_program(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Requires exactly one of command, entrypoint and url, and refuses keys that go with another of them."""
    command, entrypoint = own.get("command"), own.get("entrypoint")
    if path[:2] != ("mcp", "servers"):
        check_webhook(document, path, own)
    if "url" in own:
        if command:
            raise document.error(
                (*path, "url"), own["url"], "it contradicts command: write one of the two"
            )
        return
    if own.get("headers"):
        raise document.error((*path, "headers"), None, "they go with url only")
    if command and entrypoint:
        reason = "it contradicts command: write one of the two"
        raise document.error((*path, "entrypoint"), entrypoint, reason)
    if not command and not entrypoint:
        is_cortex = path == ("mcp", "servers", "cortex")
        if is_cortex and own.get("disabled") is True:
            return
        reason = (
            'it is missing: write entrypoint = "MODULE:NAME" for an agent of the Python SDK,'
            ' or a list, such as command = ["python", "agent.py"]'
        )
        if path[:2] == ("mcp", "servers"):
            reason = (
                'it is missing: write a list, such as command = ["npx", "-y", "PACKAGE"], or a url'
            )
        if is_cortex:
            reason += ", or disabled = true to go without the built-in server"
        raise document.error((*path, "command"), None, reason)
    if not entrypoint and "python" in own:
        raise document.error((*path, "python"), own["python"], "it goes with entrypoint only")
    _check_warm(document, path, own)
    if entrypoint and own.get("protocol", "corral") != "corral":
        reason = 'it contradicts entrypoint: such an agent speaks "corral"'
        raise document.error((*path, "protocol"), own["protocol"], reason)


def _check_warm(
    document: Document, path: KeyPath, own: Mapping[str, Any]
) -> None:  # Any: see _check_health
    """Refuses keys about importing ahead of a worker without an entrypoint, or with warm = false."""
    for key in ("warm", "preload", "min_spare"):
        if own.get(key) and not own.get("entrypoint"):
            raise document.error((*path, key), own[key], "it goes with entrypoint only")
    for key in ("preload", "min_spare"):
        if own.get(key) and not own.get("warm", True):
            raise document.error((*path, key), own[key], "it contradicts warm = false")


def _check_health(
    document: Document, path: KeyPath, own: Mapping[str, Any], recovery: Recovery
) -> None:  # Any: the values of a Spec's fields
    """Refuses probes that the protocol does not have, and recoveries without an action."""
    protocol = own.get("protocol", "corral")
    if own.get("hibernate_after") and protocol != "corral":
        reason = 'only protocol "corral" has checkpoints'
        raise document.error((*path, "hibernate_after"), own["hibernate_after"], reason)
    check_exposed(document, path, own)
    if own.get("ready") is not None and protocol != "none":
        reason = f'it goes with protocol = "none": protocol "{protocol}" reports when it is ready'
        raise document.error((*path, "ready"), own["ready"].way, reason)
    for check in own.get("health") or ():
        if check.way == "mcp" and protocol != "mcp":
            raise document.error((*path, "health", "mcp"), True, 'it goes with protocol = "mcp"')
        action = check.recovery
        if action in NO_ACTIONS or action.startswith(SIGNAL) or action in recovery.actions:
            continue
        near = get_close_matches(action, [*NO_ACTIONS, *recovery.actions], 1)
        guess = f'; did you mean "{near[0]}"?' if near else ""
        reason = f"no action in [recovery.actions] has this name{guess}"
        raise document.error((*path, "health", "recovery"), action, reason)


def _check_daemon_wide(document: Document, path: KeyPath, raw: object) -> None:
    if is_table(raw):
        for key in DAEMON_WIDE.get(path[-1], frozenset()).intersection(raw):
            reason = f"it counts for the whole daemon: write it in [{path[-1]}]"
            raise document.error((*path, key), raw[key], reason)


def _check_pasted(document: Document, path: KeyPath, table: Mapping[str, object]) -> None:
    """Refuses the `mcpServers` spelling of editors (a command string, `args`, `env`), and shows the right one."""
    found = [key for key in ("args", "env") if key in table]
    if not found:
        return
    command, args = table.get("command", "PROGRAM"), table.get("args", [])
    head = list(command) if is_list(command) else [str(command)]
    words = json.dumps([*head, *(args if is_list(args) else [args])], default=str)
    advice = [f"command = {words}"] if "args" in table or isinstance(command, str) else []
    advice += ['environment = { NAME = "value" } in place of env'] if "env" in table else []
    reason = f"this is the spelling of an editor: write {', and '.join(advice)}"
    raise document.error((*path, found[0]), table[found[0]], reason)


GROUPS: Mapping[str, Callable[[Document, str, object], Group]] = {
    "teams": decode_team,
    "workflows": decode_workflow,
}


def _groups(
    document: Document,
    top: Mapping[str, object],
    agents: Mapping[str, Spec],
    broken: Collection[str],
) -> dict[str, Group]:
    found: dict[str, Group] = {}
    names: dict[str, str] = dict.fromkeys((*agents, *broken), "an agent or MCP server")
    for section in GROUPS:
        for name, table in _table_in(document, (section,), top).items():
            with document.collecting():
                if name in names:
                    reason = f"{names[name]} has this name: all share one namespace"
                    raise document.error((section, name), name, reason)
                names[name] = "a team"
                found[name] = _group(document, section, name, table)
    for mistake in group_mistakes(document, found, agents, names.keys() - found - agents.keys()):
        document.note(mistake)
    return found


def _schedules(
    document: Document,
    top: Mapping[str, object],
    agents: Mapping[str, Spec],
    groups: Mapping[str, Group],
    broken: Collection[str],
) -> dict[str, Schedule]:
    found: dict[str, Schedule] = {}
    for name, raw in _table_in(document, ("schedules",), top).items():
        with document.collecting():
            _check_name(document, ("schedules", name), name)
            schedule = decode_schedule(document, name, _table(document, ("schedules", name), raw))
            receiver = agents.get(schedule.task.agent or "")
            if receiver is not None and receiver.type == "oneshot" and not schedule.task.objective:
                words = job_task(receiver.name, receiver.command).objective
                schedule = replace(schedule, task=replace(schedule.task, objective=words))
            found[name] = schedule
    for mistake in schedule_mistakes(document, found, groups, agents, {*broken}):
        document.note(mistake)
    return found


def _group(document: Document, section: str, name: str, table: object) -> Group:
    _check_name(document, (section, name), name)
    if name == "cortex":
        raise document.error((section, name), name, "the built-in memory server has this name")
    return GROUPS[section](document, name, table)


def _differences(new: Struct, base: Struct, *, skip: frozenset[str]) -> dict[str, object]:
    return {
        key: _plain(getattr(new, key))
        for key in FIELDS[type(new)]
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
