"""Checks names: the keys of a table, and those by which agents, servers, teams and workflows refer to one another.

A table alone cannot tell whether a name exists. A name whose own table is refused counts as one that exists: its
mistake is told where it is. A key that nothing would read is refused by name: a setting that is accepted has its effect.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from msgspec.structs import replace

from corral.worker.contract.errors import Conflict, InvalidParams
from corral.worker.contract.names import tenant_of

from ..declared.pools import own_name, own_names
from ..decoding.decoder import Document, KeyPath
from ..decoding.keys import fields_of
from ..decoding.values import Refused, did_you_mean, dotted, is_loopback, is_table, place_of
from .job import Schedule
from .spec import SECTIONS, Config, Daemon, Group, Spec, kind_of_group
from .team import Team, circle
from .workflow import Workflow

OWNED = ("agents", "teams", "workflows", "schedules", "stores", "pools")
"""Tables whose names may be a tenant's, beside `mcp.servers`."""

_WORKER_ID = re.compile(r"(.+)-(0|[1-9][0-9]{0,8})")


def workers_max(name: str, names: Iterable[str]) -> int | None:
    """Returns how many workers an agent may have until the id of one is among `names`; None without a bound."""
    found = (_WORKER_ID.fullmatch(each) for each in names)
    return min((int(match[2]) for match in found if match and match[1] == name), default=None)


def shared_ids(workers: Mapping[str, int], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields each of `names` that is also the id of a worker, with the agent of that; `workers` are the numbers of them."""
    for name in names:
        match = _WORKER_ID.fullmatch(name)
        if match and int(match[2]) < workers.get(match[1], 0):
            yield name, match[1]


def check_worker_ids(workers: Mapping[str, int], names: Iterable[str], verb: str) -> None:
    """Refuses names that are also ids of workers, so that each word is one or the other."""
    for name, agent in shared_ids(workers, names):
        number = workers[agent]
        words = (
            f'cannot {verb}: "{name}" would be a name and also the id of a worker of "{agent}", which has'
            f" {number} workers; take another name, or fewer workers"
        )
        raise Conflict(words, name=name, agent=agent, workers=number)


def check_tenants(
    document: Document, top: Mapping[str, object], mcp: Mapping[str, object], tenants: Collection[str]
) -> None:
    """Notes the names of a tenant that the file does not declare."""
    for above, tables in (((), top), (("mcp",), mcp)):
        for section in OWNED if not above else ("servers",):
            table = tables.get(section)
            for name in table if is_table(table) else ():
                tenant = tenant_of(name)
                if tenant and tenant not in tenants:
                    reason = f"no tenant has this name: write [tenants.{tenant}]{did_you_mean(tenant, tenants)}"
                    document.note(document.error((*above, section, name), tenant, reason))


_N = TypeVar("_N", Spec, Team, Workflow, Group, Schedule)


def of_same_tenant(document: Document, path: KeyPath, table: _N) -> _N:
    """Returns what a table became, with the full names of all that it refers to."""
    tenant = tenant_of(table.name)
    key: KeyPath = ()
    try:
        for each, names in _references(table):
            key = each
            own_names(names, tenant)
    except Refused as refused:
        raise document.error((*path, *key), refused.item, refused.reason) from None
    return table if not tenant else _qualified(table, tenant)


def _references(table: Spec | Group | Schedule) -> list[tuple[KeyPath, Collection[str]]]:
    if isinstance(table, Spec):
        pool = [] if table.memory.pool is None else [table.memory.pool]
        return [(("requires",), table.requires), (("stores",), table.stores), (("memory", "pool"), pool)]
    if isinstance(table, Schedule):
        return [(("agent",), [table.task.agent] if table.task.agent else [])]
    return [(key, (name,)) for key, name in _members(table)]


def _qualified(table: _N, tenant: str) -> _N:
    def full(name: str | None) -> str | None:
        return None if name is None else own_name(name, tenant)

    if isinstance(table, Spec):
        return replace(
            table,
            requires=own_names(table.requires, tenant),
            stores=own_names(table.stores, tenant),
            memory=replace(table.memory, pool=full(table.memory.pool)),
        )
    if isinstance(table, Schedule):
        return replace(table, task=replace(table.task, agent=full(table.task.agent)))
    if isinstance(table, Team):
        return replace(table, lead=full(table.lead), members=own_names(table.members, tenant))
    steps = tuple(replace(step, agent=full(step.agent)) for step in table.steps)
    return replace(table, steps=steps)


def check_requires(agents: Mapping[str, Spec]) -> None:
    """Refuses a `requires` with an unknown name or a disabled server, or that closes a circle."""
    for mistake in requires_mistakes(None, agents):
        raise mistake


def check_groups(groups: Mapping[str, Group], agents: Mapping[str, Spec]) -> None:
    """Refuses teams and workflows with a member that does not exist or takes no tasks, or that close a circle."""
    for mistake in group_mistakes(None, groups, agents):
        raise mistake


def path_of(spec: Spec) -> KeyPath:
    """Returns the key of the table of an agent or server."""
    return ("agents", spec.name) if spec.kind == "agent" else ("mcp", "servers", spec.name)


def requires_mistakes(
    document: Document | None, agents: Mapping[str, Spec], broken: Collection[str] = ()
) -> Iterator[InvalidParams]:
    """Yields the mistakes in `requires`; `broken` are names whose tables were refused."""

    def error(name: str, value: object, reason: str, **data: object) -> InvalidParams:
        spec = agents[name]
        on = document or Document(spec.source, "")
        return on.error((*path_of(spec), "requires"), value, reason, part=None, **data)

    for spec in agents.values():
        for name in spec.requires:
            if name not in agents and name not in broken and name != "cortex":  # it is built in
                yield error(spec.name, name, f"no agent or MCP server has this name{did_you_mean(name, agents)}")
            if name in agents and agents[name].disabled:
                yield error(spec.name, name, "this MCP server is disabled")
    try:
        TopologicalSorter({spec.name: spec.requires for spec in agents.values()}).prepare()
    except CycleError as found:
        circle: list[str] = found.args[1][:0:-1]  # last repeats first; each is required by the next
        names = list(agents)
        first = min(range(len(circle)), key=lambda n: names.index(circle[n]))
        circle = [*circle[first:], *circle[:first]]
        circle.append(circle[0])
        reason = f"it closes a circle: {' requires '.join(circle)}"
        yield error(circle[0], circle[1], reason, cycle=circle)


def group_mistakes(
    document: Document | None, groups: Mapping[str, Group], agents: Mapping[str, Spec], broken: Collection[str] = ()
) -> Iterator[InvalidParams]:
    """Yields the mistakes in the members of teams and workflows; `broken` are names whose tables were refused."""
    for name, group in groups.items():
        path: KeyPath = (f"{kind_of_group(group)}s", name)
        on = document or Document(group.source, "")
        for key, other in _members(group):
            why_not = _why_no_member(other, groups, agents)
            if key == ("lead",) and other in groups:
                why_not = "the lead is an agent: it delegates to the members"
            if why_not is not None and other not in broken:
                yield on.error((*path, *key), other, why_not)
    if found := circle({name: group.needs for name, group in groups.items()}):
        first = groups[found[0]]
        on = document or Document(first.source, "")
        reason = f"it closes a circle: {' needs '.join(found)}"
        yield on.error((f"{kind_of_group(first)}s", found[0]), found[1], reason, cycle=found)


def _members(group: Group) -> list[tuple[KeyPath, str]]:
    """Returns the names that a team or workflow gives tasks to, each with its key."""
    if isinstance(group, Team):
        lead: list[tuple[KeyPath, str]] = [] if group.lead is None else [(("lead",), group.lead)]
        return [*lead, *((("members",), each) for each in group.members)]
    return [(("steps", step.name, "agent"), step.agent) for step in group.steps if step.agent is not None]


def _why_no_member(name: str, groups: Mapping[str, Group], agents: Mapping[str, Spec]) -> str | None:
    if name in groups:
        return None
    if name not in agents:
        return f"no agent, team or workflow has this name{did_you_mean(name, [*agents, *groups])}"
    if agents[name].speaks != "corral":
        return f'it takes no tasks (protocol "{agents[name].protocol}")'
    return None


def schedule_mistakes(
    document: Document,
    schedules: Mapping[str, Schedule],
    groups: Mapping[str, Group],
    agents: Mapping[str, Spec],
    broken: Collection[str],
) -> Iterator[InvalidParams]:
    """Yields the mistakes in the receivers of schedules; `broken` are names whose tables were refused."""
    for name, schedule in schedules.items():
        task, path = schedule.task, ("schedules", name)
        spec = agents.get(task.agent or "")
        if spec is not None and spec.type == "oneshot":
            if task.input is not None or task.context is not None:
                key = "context" if task.input is None else "input"
                reason = f'"{spec.name}" is a job, whose command is not given any'
                yield document.error((*path, key), None, reason)
            continue
        if task.agent is not None and task.agent not in broken:
            why_not = _why_no_member(task.agent, groups, agents)
            if why_not is not None:
                key = kind_of_group(groups[task.agent]) if task.agent in groups else "agent"
                yield document.error((*path, key), task.agent, why_not)
        if not task.objective and task.input is None and task.context is None:
            reason = "it is missing: write what the task is, here or as an input"
            yield document.error((*path, "objective"), None, reason)


def check_addresses(served: Iterable[Spec | Group], daemon: Daemon) -> None:
    """Refuses an HTTP address that two have, or that is open to others without a token."""
    for mistake in address_mistakes(None, served, daemon):
        raise mistake


def address_mistakes(
    document: Document | None, served: Iterable[Spec | Group], daemon: Daemon
) -> Iterator[InvalidParams]:
    """Yields the mistakes in the HTTP addresses of agents, teams and workflows; `daemon` has one of its own."""
    taken: dict[tuple[str, int], str] = {}
    if daemon.http is not None:
        taken[place_of(daemon.http)] = "daemon.http"
    for each in served:
        path = path_of(each) if isinstance(each, Spec) else (f"{kind_of_group(each)}s", each.name)
        on = document or Document(each.source, "")
        if isinstance(each, Spec):
            key = dotted((*path, "listen"))
            for listen in each.listen:
                place = listen.place
                is_free = listen.path is None and not place[1]
                if not is_free and (other := taken.setdefault(place, key)) != key:
                    reason = f"{other} has this address: two cannot listen at one"
                    yield on.error((*path, "listen"), listen.address, reason, other=other)
        if each.http is None:
            continue
        if each.http_auth == "none" and (daemon.http_behind_proxy or not is_loopback(each.http)):
            reason = "others could reach it without a token: it goes with a loopback address, and no daemon.http_behind_proxy"
            yield on.error((*path, "http_auth"), each.http_auth, reason, part=None)
        host, port = place_of(each.http)
        key = dotted((*path, "http"))
        other = taken.setdefault((host, port), key) if port else key  # 0 is any free one
        if other != key:
            reason = f"{other} has this address: two cannot listen at one"
            yield on.error((*path, "http"), each.http, reason, part=None, other=other)


def tool_warnings(config: Config) -> list[str]:
    """Returns a line for each pattern of tools that matches no configured server: it may be misspelt, or of one added later."""
    servers = [s.name for s in config.agents.values() if s.kind == "mcp" and not s.disabled]
    servers += ["corral", "agent", *([] if "cortex" in config.agents else ["cortex"])]
    lists: list[tuple[KeyPath, Iterable[str] | None]] = []
    for spec in config.agents.values():
        if spec.kind == "agent":
            keys = ((key, getattr(spec, key)) for key in ("tools", "denied_tools"))
            lists += [((*path_of(spec), key), patterns) for key, patterns in keys]
    for name, profile in config.profiles.items():
        lists += [(("mcp", "profiles", name, "tools"), profile.tools)]
        lists += [(("mcp", "profiles", name, "denied_tools"), profile.denied_tools)]
    found: list[str] = []
    for path, patterns in lists:
        for pattern in patterns or ():
            if reason := _why_no_tool(pattern, servers):
                found.append(f'{dotted(path)}: "{pattern}" {reason}')
    return found


def _why_no_tool(pattern: str, servers: Collection[str]) -> str | None:
    server, separator, tool = pattern.partition("__")
    if "*" in server or any(fnmatchcase(name, server) for name in servers):
        return None
    if not separator:
        return 'matches no tool: a name has its server before it, such as "git__*"'
    near = get_close_matches(server, servers, 1)
    guess = f'; did you mean "{near[0]}__{tool}"?' if near else ""
    return f"matches no configured server{guess}"


WEBHOOK_KEYS = ("url", "headers", "method", "webhook_secret")
"""Keys of an agent that is a webhook; a remote agent of A2A and an MCP server have the first two."""


REMOTE = ("webhook", "a2a")
"""Protocols of agents that are reached by an address."""


def check_webhook(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Requires a url of a webhook or a remote agent, which has no program here, and refuses its keys of any other agent."""
    protocol = own.get("protocol")
    is_remote = protocol in REMOTE
    for key in WEBHOOK_KEYS:
        default = fields_of(Spec)[key].default
        is_known = protocol == "webhook" or (is_remote and key in ("url", "headers"))
        if not is_known and own.get(key, default) != default:
            value = None if key == "webhook_secret" else own[key]
            reason = 'it goes with protocol = "webhook"'
            if key in ("url", "headers"):
                reason += ' or "a2a", or is a key of an MCP server'
            raise document.error((*path, key), value, reason)
    if not is_remote:
        return
    reason = f'it contradicts protocol = "{protocol}": corral itself sends the tasks to url'
    document.refuse(path, own, ["command", "entrypoint", "python", "warm", "preload", "min_spare"], reason)
    document.refuse(path, own, ["listen"], reason, shown=False)
    if "url" not in own:
        reason = 'it is missing: write the address of the service, "https://HOST/PATH"'
        raise document.error((*path, "url"), None, reason)


ACP_KEYS = ("permissions", "permission_rules", "permission_timeout", "auth_method")
"""Keys of an ACP agent."""


def check_acp(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Refuses keys of an ACP agent of any other, and those that one cannot have."""
    if own.get("protocol") != "acp":
        for key in ACP_KEYS:
            default = fields_of(Spec)[key].default
            if own.get(key, default) != default:
                raise document.error((*path, key), own[key], 'it goes with protocol = "acp"')
    else:
        reason = 'it contradicts protocol = "acp": an ACP agent is not handed sockets'
        document.refuse(path, own, ["listen"], reason, shown=False)


def check_exposed(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Refuses keys about the tasks of an agent that takes none."""
    protocol = own.get("protocol", "corral")
    if protocol not in ("corral", "webhook", "acp", "a2a"):
        document.refuse(path, own, ["expose", "input_schema", "output_schema"], f'protocol = "{protocol}" has no tasks')
    if protocol not in ("corral", "acp"):
        document.refuse(path, own, ["memo"], f'with protocol = "{protocol}" no call of a task passes through corral')


def check_call(document: Document, path: KeyPath, own: Mapping[str, object]) -> None:
    """Refuses keys about the calls of an agent's tool where they would have no effect."""
    schema = own.get("input_schema")
    needs = {"task_support": bool(own.get("expose")), "ask_missing": bool(own.get("expose"))}
    if own.get("ask_missing") and not (isinstance(schema, Mapping) and schema.get("required")):
        raise document.error((*path, "ask_missing"), own["ask_missing"], "input_schema requires no property")
    for key, is_met in needs.items():
        if own.get(key) not in (None, False, "optional") and not is_met:
            raise document.error((*path, key), own[key], "it goes with expose = true")


# --- unknown keys ---------------------------------------------------------------------------------

_HINTS = {
    "args": "write the program and its arguments as one list: command",
    "env": "write environment",
    "cwd": "write working_directory in the section process",
    "mcp_servers": "write each server as [mcp.servers.NAME]",
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
    "timeout": "write max_task_duration in the section resources",
    "cron": "write a table of its own: [schedules.NAME]",
    "every": "write a table of its own: [schedules.NAME]",
    "schedule": "write a table of its own: [schedules.NAME]",
    "retry_backoff_base_s": "write retry_backoff_base, a duration",
}
"""Words for the same thing elsewhere: in editors, in Docker, in supervisord."""


def why_unknown(key: str, known: Collection[str]) -> str:
    """Returns the reason for refusing a key, with the nearest key that there is, or the one that means it."""
    elsewhere = {key: name for name, section in SECTIONS.items() for key in fields_of(section)}
    if key in _HINTS and key not in known:
        return f"unknown key; {_HINTS[key]}"
    if near := [] if key in elsewhere else get_close_matches(key, known, 1):
        return f'unknown key; did you mean "{near[0]}"?'
    if near := get_close_matches(key, elsewhere, 1, 0.75):
        return f'unknown key here; "{near[0]}" is a key of the section {elsewhere[near[0]]}'
    return "unknown key"


def why_unknown_in_spec(key: str, known: Collection[str]) -> str:
    """Returns the reason for refusing a key of an agent's or server's table."""
    return why_unknown(key, [*known, *SECTIONS])
