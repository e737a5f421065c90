"""Decodes a configuration file or one table into the values of `spec`, and encodes a Spec as a table.

Every error names file, key, value and reason. Names, requirements and memberships are checked here over the
whole set, since one table cannot tell.

This module must not know the machine: whether a program, a user or a folder exists is found out
where it is used, because it can change after the configuration was read.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace

from corral.worker.contract.names import local_name, tenant_of

from ..declared.cluster import ClusterSettings, Placement, decode_cluster
from ..declared.models import DeclaredModel, check_models, decode_models
from ..declared.oauth import Oauth, oauth_as_table
from ..declared.pools import DeclaredPool, check_pool, decode_pools, why_no_name
from ..declared.stores import DeclaredStore, decode_stores, urls_of
from ..declared.tenant import Tenant, decode_tenants, decode_tiers
from ..decoding.decoder import Document, KeyPath, written_keys, written_secrets
from ..decoding.keys import differing, fields_of
from ..decoding.values import Refused, free_table, is_list, is_table
from . import references
from .diff import NAMED_TABLES
from .job import Schedule, commands_of, decode_job, decode_schedule, job_task
from .listen import ListenAddress
from .probe_spec import Check, Readiness, SmokeTask, written
from .sections import (
    check_daemon_wide,
    check_health,
    check_pasted,
    check_program,
    check_type,
    decode_section,
    hides_program,
    table_at,
    table_in,
)
from .sources import NO_VARIABLES, Variables, expanded, merged
from .spec import (
    DAEMON_TABLES,
    DAEMON_WIDE,
    SECTIONS,
    Config,
    Defaults,
    Group,
    Kind,
    Process,
    Profile,
    Scale,
    Spec,
    kind_of_group,
    of_others,
)
from .team import Team, decode_team, team_table
from .template_spec import BUILT_IN_TEMPLATES, Templates
from .templates import decode_templates, derived
from .workflow import decode_workflow, workflow_table

LEVELS_MAX = 100
"""Number of levels of a table that is decoded; sections and free tables allow fewer."""

_S = TypeVar("_S", bound=Struct)
_T = TypeVar("_T")


def decode(text: str, *, source: str, directory: str, variables: Variables = NO_VARIABLES) -> Config:
    """Decodes a whole file, and those that it includes. Relative paths in it are relative to `directory`, an absolute path."""
    document = Document(source, text, directory)
    config = _decode(document, merged(document, variables), variables)
    document.check()
    return config


def _decode(document: Document, top: Mapping[str, object], variables: Variables) -> Config:
    for key, value in top.items():
        if key not in TABLES:
            words = references.why_unknown(key, TABLES)
            words = words.replace("unknown key", "unknown table", 1) if isinstance(value, Mapping) else words
            document.note(document.error((key,), value, words))
    mcp = dict(table_in(document, ("mcp",), top))
    servers = table_in(document, ("mcp", "servers"), mcp)
    profiles = table_in(document, ("mcp", "profiles"), mcp)
    rest = {key: value for key, value in mcp.items() if key not in ("servers", "profiles")}

    def section(path: KeyPath, base: _S, tables: Mapping[str, object]) -> _S:
        return decode_section(document, path, table_in(document, path, tables), base)

    sections = {**top, "mcp": rest}
    resolved = {name: section((name,), base(), sections) for name, base in SECTIONS.items()}
    defaults = replace(Defaults(), **resolved)
    templates = decode_templates(document, top, variables)
    tier_tables = table_in(document, ("tiers",), top)
    tiers = decode_tiers(document, tier_tables)
    tenant_tables = table_in(document, ("tenants",), top)
    tenants = decode_tenants(document, tenant_tables, tiers, tier_tables)
    references.check_tenants(document, top, mcp, tenant_tables)
    agents, broken = _agents(document, top, servers, defaults, templates)
    stores, refused = decode_stores(document, table_in(document, ("stores",), top))
    models, unfit = decode_models(document, table_in(document, ("models",), top), tenant_tables)
    for name, spec in agents.items():
        with document.collecting():
            agents[name] = _with_stores(document, spec, stores, refused)
            agents[name] = _with_models(document, agents[name], models, unfit)
    pools = _pools(document, top, defaults, agents, tenants)
    groups = _groups(document, top, agents, broken)
    schedules = _schedules(document, top, agents, groups, broken)
    _check_worker_ids(document, agents, groups)
    placed = _placed(document, agents, groups, "cluster" in top)
    daemon_tables: dict[str, Any] = {  # each of its own type
        name: section((name,), table(), top) for name, table in DAEMON_TABLES.items()
    }
    for mistake in references.address_mistakes(document, [*agents.values(), *groups.values()], daemon_tables["daemon"]):
        document.note(mistake)
    return Config(
        **daemon_tables,
        cluster=_cluster(document, top),
        process=defaults.process,
        agents=agents,
        placed=placed,
        defaults=defaults,
        profiles={name: section(("mcp", "profiles", name), Profile(), profiles) for name in profiles},
        groups=groups,
        schedules=schedules,
        stores=stores,
        models=models,
        pools=pools,
        templates=templates,
        tenants=tenants,
        tiers=tiers,
        values={**variables.dotenv, **variables.environ},
    )


def _cluster(document: Document, top: Mapping[str, object]) -> ClusterSettings | None:
    if "cluster" not in top:
        return None
    with document.collecting():
        return decode_cluster(document, table_at(document, ("cluster",), top["cluster"]))
    return None


def why_not_placed(spec: Spec) -> str:
    """Returns why a cluster cannot place an agent, "" where it can."""
    if tenant_of(spec.name):
        return "a tenant's agent is not placed"
    if spec.type == "oneshot":
        return "a job is not placed"
    return "a placed agent may be on another node than those that it requires" if spec.requires else ""


def _placed(
    document: Document, agents: dict[str, Spec], groups: Mapping[str, Group], is_clustered: bool
) -> dict[str, Spec]:
    """Takes the placed agents out of the others; notes those that stand where they cannot."""
    placed = {name: agents.pop(name) for name in [*agents] if agents[name].placement is not None}
    for name, spec in placed.items():
        reason = why_not_placed(spec) or ("" if is_clustered else "there is no [cluster] whose nodes could run it")
        if reason:
            document.note(document.error(("agents", name, "placement"), None, reason))
    for spec in agents.values():
        if found := [name for name in spec.requires if name in placed]:
            reason = f"{found[0]} has a placement: it may be on another node"
            document.note(document.error((*references.path_of(spec), "requires"), [*spec.requires], reason))
    for group in groups.values():
        if isinstance(group, Team) and group.lead in placed:
            reason = f"{group.lead} has a placement: a lead is of the daemon of its team"
            document.note(document.error(("teams", group.name, "lead"), group.lead, reason))
    return placed


def _agents(
    document: Document,
    top: Mapping[str, object],
    servers: Mapping[str, object],
    defaults: Defaults,
    templates: Templates,
) -> tuple[dict[str, Spec], set[str]]:
    """Returns the agents and servers, and the names of those whose tables are refused."""
    tables = table_in(document, ("agents",), top)
    agents: dict[str, Spec] = {}
    for name, table in tables.items():
        with document.collecting():
            agents[name] = _agent(document, name, table, "agent", defaults, templates)
    for name, table in servers.items():
        with document.collecting():
            if name in tables:
                path = ("mcp", "servers", name)
                raise document.error(path, name, f"agents.{name} has this name: both share one namespace")
            agents[name] = _agent(document, name, table, "mcp", defaults, templates)
    commands = commands_of(table_in(document, ("schedules",), top))
    for name, table in commands.items():
        with document.collecting():
            here = ("schedules", name)
            if name in tables or name in servers:
                reason = "an agent or MCP server has this name, which the command needs for itself"
                raise document.error(here, name, reason)
            agents[name] = _agent(document, name, table, "agent", defaults, templates, here)
    broken = {*tables, *servers, *commands} - agents.keys()
    for mistake in references.requires_mistakes(document, agents, broken):
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
    templates: Templates = BUILT_IN_TEMPLATES,
    stores: Mapping[str, DeclaredStore] | None = None,
    pools: Collection[str] | None = None,
    models: Mapping[str, DeclaredModel] | None = None,
    keeps_written: bool = False,
) -> Spec:
    """Decodes one agent or server from a table of the same shape as `[agents.NAME]` or `[mcp.servers.NAME]`.

    With `variables` the Spec has what they are now; without them nothing is expanded. With `keeps_written` it knows how
    values were written, too. Without `stores`, `pools` and `models` their names are not checked, and the Spec has no addresses of stores. The
    names in `requires` are checked by `check_requires`, for the whole set.
    """
    document = Document(source, "", directory)
    path = ("agents", name) if kind == "agent" else ("mcp", "servers", name)
    if _is_too_deep(table):
        raise document.error(path, None, f"it is nested too deeply: write at most {LEVELS_MAX} levels")
    raw = table if variables is None else expanded(document, path, table, variables)
    spec = _alone(document, lambda: _agent(document, name, raw, kind, defaults, templates))
    if stores is not None:
        spec = _with_stores(document, spec, stores)
    if models is not None:
        spec = _with_models(document, spec, models)
    if pools is not None:
        key = (*references.path_of(spec), "memory", "pool")
        check_pool(document, key, spec.memory.pool, pools, tenant_of(spec.name))
    return spec if keeps_written else replace(spec, written={}, written_secrets={})  # as it became


def decode_group(name: str, table: Mapping[str, object], *, kind: str, source: str) -> Group:
    """Decodes one team or workflow (`kind`) from its table; `check_groups` checks the names of members, for the whole set."""
    document = Document(source, "")
    return _alone(document, lambda: _group(document, f"{kind}s", name, table))


def _is_too_deep(value: object) -> bool:
    """Returns whether a value has more levels than any accepted one; it needs no stack for them."""
    level: list[object] = [value]
    for _ in range(LEVELS_MAX):
        inner: list[object] = []
        for each in level:
            inner += each.values() if is_table(each) else each if is_list(each) else ()
        level = inner
        if not level:
            return False
    return True


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

    Of one with a template it has the template, the params and its own keys. A value that had variables is there as it was written; environments alone are what they became. It holds only values that TOML and JSON have. It does not depend on the folder that it is read in.
    """
    if spec.template is not None:
        given: dict[str, object] = {"params": spec.params} if spec.params else {}
        return {"template": spec.template, **given, **spec.own}
    base = defaults or Defaults()
    blank = Spec(name=spec.name, kind=spec.kind, source=spec.source)
    if spec.kind == "mcp":
        blank = replace(blank, protocol="mcp", autostart=False)
    if spec.type == "oneshot":
        blank = replace(blank, protocol="none")
    table = {key: _plain(each) for key, each in differing(spec, blank).items() if key != "environment"}
    inherited = base.process.environment
    if own := {k: v for k, v in spec.environment.items() if inherited.get(k) != v}:
        table["environment"] = own
    for name in SECTIONS:
        skip = DAEMON_WIDE.get(name, frozenset()) | {"environment"}
        section = differing(getattr(spec, name), getattr(base, name))
        if plain := {k: _plain(each) for k, each in section.items() if each is not None and k not in skip}:
            table[name] = plain
    for path, value in spec.written.items():
        *above, key = path
        place = table if not above else table.get(above[0], {})
        if isinstance(place, dict) and key in place:
            place[key] = value
    return table


def expanded_table(spec: Spec, defaults: Defaults | None = None) -> dict[str, object]:
    """Returns the table that `to_table` returns, with the keys of its template in place of the template."""
    return to_table(replace(spec, template=None, params={}, own={}), defaults)


def _pools(
    document: Document,
    top: Mapping[str, object],
    defaults: Defaults,
    agents: Mapping[str, Spec],
    tenants: Mapping[str, Tenant],
) -> dict[str, DeclaredPool]:
    """Returns the memory pools; names of pools that there are not, or that another has, are noted."""
    found, broken = decode_pools(document, table_in(document, ("pools",), top))
    known = {*found, *broken}
    with document.collecting():
        check_pool(document, ("memory", "pool"), defaults.memory.pool, known)
    for name, tenant in tenants.items():
        with document.collecting():
            check_pool(document, ("tenants", name, "pool"), tenant.pool, known, name)
    for spec in agents.values():
        if spec.memory.pool != defaults.memory.pool:
            with document.collecting():
                path = (*references.path_of(spec), "memory", "pool")
                check_pool(document, path, spec.memory.pool, known, tenant_of(spec.name))
    return found


def _with_stores(
    document: Document, spec: Spec, stores: Mapping[str, DeclaredStore], broken: Collection[str] = ()
) -> Spec:
    """Returns a Spec with the addresses of the stores that it names; `broken` are names whose tables were refused."""
    if not spec.stores:
        return spec
    try:
        return replace(spec, store_urls=urls_of(spec.stores, stores, broken))
    except Refused as refused:
        raise document.error((*references.path_of(spec), "stores"), refused.item, refused.reason) from None


def _with_models(
    document: Document, spec: Spec, models: Mapping[str, DeclaredModel], broken: Collection[str] = ()
) -> Spec:
    """Returns a Spec with the kinds of the models that it names; `broken` are names whose tables were refused."""
    if not spec.models:
        return spec
    try:
        check_models(spec.models, tenant_of(spec.name), models, broken)
        kinds: dict[str, str] = {name: models[name].kind for name in spec.models if name in models}
        return replace(spec, model_kinds=kinds)
    except Refused as refused:
        raise document.error((*references.path_of(spec), "models"), refused.item, refused.reason) from None


# --- reading tables -------------------------------------------------------------------------------


def _agent(
    document: Document, name: str, raw: object, kind: Kind, defaults: Defaults, templates: Templates, path: KeyPath = ()
) -> Spec:
    path = path or (("agents", name) if kind == "agent" else ("mcp", "servers", name))
    _check_name(document, path, name)
    table = table_at(document, path, raw)
    if kind == "mcp":
        check_pasted(document, path, table)
    has = derived(document, path, table, templates, defaults)
    table = table if has is None else has.table
    before = document.failures
    own, sections = _own_keys(document, path, table, kind, defaults)
    if kind == "mcp" and own.setdefault("protocol", "mcp") != "mcp":
        raise document.error((*path, "protocol"), table["protocol"], 'an MCP server speaks "mcp"')
    if kind == "mcp":
        own.setdefault("autostart", False)  # its first call starts it
    with document.collecting():
        decode_job(document, path, table, own)
    if document.failures == before or not any(map(hides_program, table)):
        with document.collecting():
            check_program(document, path, own)
    process: Process = sections.get("process", defaults.process)
    own["environment"] = process.environment | own.get("environment", {})
    folder = process.working_directory
    if not folder and not tenant_of(name):  # that of a tenant is known when it is started
        folder = document.part_of(path).directory
    sections["process"] = replace(process, working_directory=folder, environment={})
    for key in SECTIONS:
        sections.setdefault(key, getattr(defaults, key))
    if tenant_of(name) and "pool" not in table_at(document, (*path, "memory"), table.get("memory", {})):
        sections["memory"] = replace(sections["memory"], pool=None)  # that of its tenant
    if document.failures == before:
        check_health(document, path, own, sections["recovery"])
    document.stop_after(before)
    blank = Spec(name=name, kind=kind, source=document.part_of(path).source)
    if has is not None:
        given = {"template": has.template, "params": has.params, "own": has.own}
        return references.of_same_tenant(document, path, replace(blank, **own, **sections, **given))
    spec = replace(blank, **own, **sections, written=written_keys(table))
    return references.of_same_tenant(document, path, replace(spec, written_secrets=written_secrets(table)))


def _own_keys(
    document: Document, path: KeyPath, table: Mapping[str, object], kind: Kind, defaults: Defaults
) -> tuple[dict[str, Any], dict[str, Any]]:  # Any: the values of a Spec's fields
    """Returns the keys and the sections of one agent or server; those that are refused are noted."""
    own: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    foreign = of_others(kind)
    for key, value in table.items():
        here = (*path, key)
        with document.collecting():
            if key in SECTIONS:
                check_daemon_wide(document, here, value)
                sections[key] = decode_section(document, here, value, getattr(defaults, key))
                continue
            if key in foreign:
                whom = "MCP servers" if kind == "agent" else "agents"
                raise document.error(here, value, f"this is a key of {whom} only")
            own[key] = document.decode_key(here, value, fields_of(Spec), unknown=references.why_unknown_in_spec)
            if key == "type":
                check_type(document, here, own)
    return own, sections


def _check_name(document: Document, path: KeyPath, name: str) -> None:
    reason = why_no_name(name)
    if not reason and path[:2] == ("mcp", "servers") and local_name(name) in ("corral", "agent"):
        reason = "corral's own tools and those of exposed agents begin with these names"
    if reason:
        raise document.error(path, name, reason)


def _check_worker_ids(document: Document, agents: Mapping[str, Spec], groups: Mapping[str, Group]) -> None:
    workers = {name: each.instances.minimum + each.spares for name, each in agents.items()}
    for name, agent in references.shared_ids(workers, [*agents, *groups]):
        if name in agents:
            path = ("agents", name) if agents[name].kind == "agent" else ("mcp", "servers", name)
        else:
            path = (f"{kind_of_group(groups[name])}s", name)
        reason = f'it is also the id of a worker of "{agent}", which has {workers[agent]} workers'
        document.note(document.error(path, name, reason))


GROUPS: Mapping[str, Callable[[Document, str, object], Group]] = {"teams": decode_team, "workflows": decode_workflow}

TABLES = (*SECTIONS, *DAEMON_TABLES, *("cluster", "agents", *GROUPS, "schedules", "templates", *NAMED_TABLES))
"""The tables of a file."""


def _groups(
    document: Document, top: Mapping[str, object], agents: Mapping[str, Spec], broken: Collection[str]
) -> dict[str, Group]:
    found: dict[str, Group] = {}
    names: dict[str, str] = dict.fromkeys((*agents, *broken), "an agent or MCP server")
    for section in GROUPS:
        for name, table in table_in(document, (section,), top).items():
            with document.collecting():
                if name in names:
                    raise document.error((section, name), name, f"{names[name]} has this name: all share one namespace")
                names[name] = "a team"
                found[name] = _group(document, section, name, table)
    for mistake in references.group_mistakes(document, found, agents, names.keys() - found - agents.keys()):
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
    for name, raw in table_in(document, ("schedules",), top).items():
        with document.collecting():
            _check_name(document, ("schedules", name), name)
            table = table_at(document, ("schedules", name), raw)
            here = ("schedules", name)
            schedule = references.of_same_tenant(document, here, decode_schedule(document, name, table))
            receiver = agents.get(schedule.task.agent or "")
            if receiver is not None and receiver.type == "oneshot" and not schedule.task.objective:
                words = job_task(receiver.name, receiver.command).objective
                schedule = replace(schedule, task=replace(schedule.task, objective=words))
            found[name] = schedule
    for mistake in references.schedule_mistakes(document, found, groups, agents, {*broken}):
        document.note(mistake)
    return found


def _group(document: Document, section: str, name: str, table: object) -> Group:
    _check_name(document, (section, name), name)
    if local_name(name) == "cortex":
        raise document.error((section, name), name, "the built-in memory server has this name")
    return references.of_same_tenant(document, (section, name), GROUPS[section](document, name, table))


def _plain(value: object) -> object:
    if isinstance(value, Readiness | Check | SmokeTask):
        return written(value)
    if isinstance(value, ListenAddress):
        return value.plain
    if isinstance(value, Placement):
        return {key: _plain(each) for key, each in asdict(value).items() if each}
    if isinstance(value, Oauth):
        return oauth_as_table(value)
    if isinstance(value, Scale):
        return value.min if value.min == value.max else {"min": value.min, "max": value.max}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if is_list(value):
        return [_plain(item) for item in value]
    return free_table(value) if is_table(value) else value
