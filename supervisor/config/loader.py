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
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ...worker.contract.errors import InvalidParams
from .decoder import Document, KeyPath
from .probe_spec import NO_ACTIONS, SIGNAL, Check, Readiness, check_table, readiness_table
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
    kind_of_group,
)
from .team import Team, circle, decode_team, team_table
from .values import (
    dotted,
    free_table,
    is_list,
    is_table,
    quoted,
)
from .workflow import decode_workflow, workflow_table

ISOLATION_AVAILABLE = ("none", "basic")
CONFINING = ("read_paths", "write_paths", "connect_ports")
"""Keys that confine a process, which has to be isolated for that."""
ONLY_OF_AGENTS = frozenset({"entrypoint", "python", "capabilities", "tools", "config"}) | {
    "hibernate_after",
    "warm",
    "preload",
    "min_spare",
}
ONLY_OF_SERVERS = frozenset(
    {"url", "headers", "idle_timeout", "concurrency", "share", "spares", "max_calls_per_minute"}
) | {"relays", "disabled"}


def decode(text: str, *, source: str, directory: str) -> Config:
    """Decodes a whole file. Relative paths in it are relative to `directory`, an absolute path.

    Raises:
        InvalidParams: with `file` (`source`), `key`, `value`, `reason`, and `line` where it is known.
    """
    document = Document(source, text)
    top = document.tables()
    known = [*SECTIONS, "daemon", "events", "audit", "agents", *GROUPS]
    for key, value in top.items():
        if key not in known:
            raise document.error((key,), value, _why_unknown(key, known))
    mcp = dict(_table(document, ("mcp",), top.get("mcp", {})))
    servers = _table(document, ("mcp", "servers"), mcp.pop("servers", {}))
    profiles = _table(document, ("mcp", "profiles"), mcp.pop("profiles", {}))
    sections = {**top, "mcp": mcp}
    resolved = {
        name: _section(document, (name,), sections.get(name, {}), base(), directory)
        for name, base in SECTIONS.items()
    }
    defaults = replace(Defaults(), **resolved)
    tables = _table(document, ("agents",), top.get("agents", {}))
    agents: dict[str, Spec] = {}
    for name, table in tables.items():
        agents[name] = _agent(document, name, table, "agent", defaults, directory)
    for name, table in servers.items():
        if name in tables:
            path = ("mcp", "servers", name)
            raise document.error(
                path, name, f"agents.{name} has this name: both share one namespace"
            )
        agents[name] = _agent(document, name, table, "mcp", defaults, directory)
    _check_requires(document, agents)
    groups = _groups(document, top, agents)
    return Config(
        daemon=_section(document, ("daemon",), top.get("daemon", {}), Daemon(), directory),
        events=_section(document, ("events",), top.get("events", {}), Events(), directory),
        audit=_section(document, ("audit",), top.get("audit", {}), Audit(), directory),
        process=defaults.process,
        agents=agents,
        defaults=defaults,
        profiles={
            name: _section(document, ("mcp", "profiles", name), table, Profile(), directory)
            for name, table in profiles.items()
        },
        groups=groups,
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
    """Decodes one agent or server from a table of the same shape as `[agents.NAME]` or `[mcp.servers.NAME]`.

    The names in `requires` are checked by `check_requires`, for the whole set.

    Raises:
        InvalidParams: as `decode`, without `line`.
    """
    return _agent(Document(source, ""), name, table, kind, defaults, directory)


def decode_group(name: str, table: Mapping[str, object], *, kind: str, source: str) -> Group:
    """Decodes one team or workflow (`kind`) from a table of the same shape as `[teams.NAME]` or `[workflows.NAME]`.

    The names of members are checked by `check_groups`, for the whole set.

    Raises:
        InvalidParams: as `decode`, without `line`.
    """
    return _group(Document(source, ""), f"{kind}s", name, table)


def group_table(group: Group) -> dict[str, object]:
    """Returns the smallest table from which `decode_group` makes an equal group."""
    return team_table(group) if isinstance(group, Team) else workflow_table(group)


def check_groups(groups: Mapping[str, Group], agents: Mapping[str, Spec]) -> None:
    """Refuses teams and workflows with a member that does not exist or takes no tasks, or that close a circle.

    Raises:
        InvalidParams: as `decode`, without `line`; a circle is also in `cycle`, first name repeated last.
    """
    _check_groups(None, groups, agents)


def check_requires(agents: Mapping[str, Spec]) -> None:
    """Refuses a `requires` with an unknown name or a disabled server, or that closes a circle.

    Raises:
        InvalidParams: as `decode`, without `line`; a circle is also in `cycle`, first name repeated last.
    """
    _check_requires(None, agents)


def to_table(spec: Spec, defaults: Defaults | None = None) -> dict[str, object]:
    """Returns the smallest table from which `decode_agent` with the same `defaults` makes an equal Spec.

    It holds only values that TOML and JSON have. It does not depend on the folder that it is read in.
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
    for name in SECTIONS:
        skip = DAEMON_WIDE.get(name, frozenset()) | {"environment"}
        if section := _differences(getattr(spec, name), getattr(base, name), skip=skip):
            table[name] = section
    return table


# --- reading tables -------------------------------------------------------------------------------

_S = TypeVar("_S", bound=Struct)


def _table(document: Document, path: KeyPath, raw: object) -> Mapping[str, object]:
    if not is_table(raw):
        name = ".NAME" if path[-1] in ("agents", "servers", *GROUPS) else ""
        if path[-1] == "memory":  # elsewhere the word is the limit
            raise document.error(
                path, raw, "write a table, or resources.max_memory_bytes for the limit"
            )
        raise document.error(path, raw, f"write a table: [{dotted(path)}{name}]")
    return raw


def _section(document: Document, path: KeyPath, raw: object, base: _S, directory: str) -> _S:
    """Returns `base` with the keys of `raw` over it."""
    table = _table(document, path, raw)
    if not table:
        return base
    fields = FIELDS[type(base)]
    changes = {
        key: document.decode_key(
            (*path, key), value, fields, directory=directory, unknown=_why_unknown
        )
        for key, value in table.items()
    }
    if isinstance(base, Process):
        changes |= _isolation(document, path, table, base)
        if "environment" in changes:
            changes["environment"] = base.environment | changes["environment"]
    if isinstance(base, Recovery) and "actions" in changes:
        changes["actions"] = base.actions | changes["actions"]
    return _ordered(document, path, table, replace(base, **changes))


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
    if level not in ISOLATION_AVAILABLE:
        reason = f"this level is not available in this version: write one of {quoted(ISOLATION_AVAILABLE)}"
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
    document: Document, name: str, raw: object, kind: Kind, defaults: Defaults, directory: str
) -> Spec:
    path = ("agents", name) if kind == "agent" else ("mcp", "servers", name)
    _check_name(document, path, name)
    table = _table(document, path, raw)
    if kind == "mcp":
        _check_pasted(document, path, table)
    own: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    for key, value in table.items():
        here = (*path, key)
        if key in SECTIONS:
            _check_daemon_wide(document, here, value)
            sections[key] = _section(document, here, value, getattr(defaults, key), directory)
            continue
        if key in (ONLY_OF_SERVERS if kind == "agent" else ONLY_OF_AGENTS):
            whom = "MCP servers" if kind == "agent" else "agents"
            raise document.error(here, value, f"this is a key of {whom} only")
        own[key] = document.decode_key(
            here, value, FIELDS[Spec], directory=directory, unknown=_why_unknown_in_spec
        )
    if kind == "mcp" and own.setdefault("protocol", "mcp") != "mcp":
        raise document.error((*path, "protocol"), table["protocol"], 'an MCP server speaks "mcp"')
    if kind == "mcp":
        own.setdefault("autostart", False)  # its first call starts it
    _check_program(document, path, own)
    process: Process = sections.get("process", defaults.process)
    own["environment"] = process.environment | own.get("environment", {})
    folder = process.working_directory or directory
    sections["process"] = replace(process, working_directory=folder, environment={})
    for key in SECTIONS:
        sections.setdefault(key, getattr(defaults, key))
    _check_health(document, path, own, sections["recovery"])
    return replace(Spec(name=name, kind=kind, source=document.source), **own, **sections)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")


def _check_name(document: Document, path: KeyPath, name: str) -> None:
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
        raise document.error(path, name, reason)


def _check_program(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Requires exactly one of command, entrypoint and url, and refuses keys that go with another of them."""
    command, entrypoint = own.get("command"), own.get("entrypoint")
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
        reason = 'it is missing: write a list, such as command = ["python", "agent.py"]'
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


def _check_requires(document: Document | None, agents: Mapping[str, Spec]) -> None:
    def error(name: str, value: object, reason: str, **data: object) -> InvalidParams:
        spec = agents[name]
        path = ("agents", name) if spec.kind == "agent" else ("mcp", "servers", name)
        on = document or Document(spec.source, "")
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


GROUPS: Mapping[str, Callable[[Document, str, object], Group]] = {
    "teams": decode_team,
    "workflows": decode_workflow,
}


def _groups(
    document: Document, top: Mapping[str, object], agents: Mapping[str, Spec]
) -> dict[str, Group]:
    found: dict[str, Group] = {}
    for section in GROUPS:
        for name, table in _table(document, (section,), top.get(section, {})).items():
            if name in agents or name in found:
                other = "an agent or MCP server" if name in agents else "a team"
                reason = f"{other} has this name: all share one namespace"
                raise document.error((section, name), name, reason)
            found[name] = _group(document, section, name, table)
    _check_groups(document, found, agents)
    return found


def _group(document: Document, section: str, name: str, table: object) -> Group:
    _check_name(document, (section, name), name)
    if name == "cortex":
        raise document.error((section, name), name, "the built-in memory server has this name")
    return GROUPS[section](document, name, table)


def _check_groups(
    document: Document | None, groups: Mapping[str, Group], agents: Mapping[str, Spec]
) -> None:
    for name, group in groups.items():
        path: KeyPath = (f"{kind_of_group(group)}s", name)
        on = document or Document(group.source, "")
        if isinstance(group, Team):
            named: list[tuple[KeyPath, str]] = [(("members",), each) for each in group.members]
            if group.lead is not None:
                named.append((("lead",), group.lead))
                if group.lead in groups:
                    reason = "the lead is an agent: it delegates to the members"
                    raise on.error((*path, "lead"), group.lead, reason)
        else:
            named = [
                (("steps", step.name, "agent"), step.agent)
                for step in group.steps
                if step.agent is not None
            ]
        for key, other in named:
            why_not = _why_no_member(other, groups, agents)
            if why_not is not None:
                raise on.error((*path, *key), other, why_not)
    if found := circle({name: group.needs for name, group in groups.items()}):
        first = groups[found[0]]
        on = document or Document(first.source, "")
        reason = f"it closes a circle: {' needs '.join(found)}"
        raise on.error((f"{kind_of_group(first)}s", found[0]), found[1], reason, cycle=found)


def _why_no_member(
    name: str, groups: Mapping[str, Group], agents: Mapping[str, Spec]
) -> str | None:
    """Returns the reason why no task can be given to that name; None where one can."""
    if name in groups:
        return None
    if name not in agents:
        near = get_close_matches(name, [*agents, *groups], 1)
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


def _why_unknown(key: str, known: Collection[str]) -> str:
    elsewhere = {key: name for name, section in SECTIONS.items() for key in FIELDS[section]}
    if key in _HINTS:
        return f"unknown key; {_HINTS[key]}"
    if near := [] if key in elsewhere else get_close_matches(key, known, 1):
        return f'unknown key; did you mean "{near[0]}"?'
    if near := get_close_matches(key, elsewhere, 1, 0.75):
        return f'unknown key here; "{near[0]}" is a key of the section {elsewhere[near[0]]}'
    return "unknown key"


def _why_unknown_in_spec(key: str, known: Collection[str]) -> str:
    return _why_unknown(key, [*known, *SECTIONS])


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
