"""Serves the methods `agent.list`, `agent.set` and `runtime.stats`: shows all that runs, and changes the table of one agent."""

from collections.abc import Iterable

from ...worker.contract.control_params import AgentSetParams, NoParams, StatusParams
from ...worker.contract.runtime_results import Agents, AgentSet, Counted, RuntimeStatistics
from ..access.scope import ALL_NAMES, OPEN, is_in_scope
from ..api.faces import faces
from ..api.table import Caller, Control, method


@method(
    "agent.list",
    "read",
    StatusParams,
    Agents,
    scope=ALL_NAMES,
    faces=faces("GET /agents", python="list_agents", command="status"),
)
async def _list(control: Control, params: StatusParams, _caller: Caller) -> Agents:
    """Lists the status of agents and MCP servers: of all, or of those that the params choose."""
    names = None
    if params.names is not None or params.selector is not None:
        names = control.agents.registry.chosen(params.names or [], params.selector, groups=True)
    status = control.status.status(names, failed=params.failed)
    return Agents(agents=[*status.agents, *status.mcp_servers])


@method(
    "agent.set",
    "admin",
    AgentSetParams,
    AgentSet,
    recorded="or-refused",
    recorded_keys=("changed",),
    faces=faces("PATCH /agents/{name}", python="set_agent"),
)
async def _set(control: Control, params: AgentSetParams, _caller: Caller) -> AgentSet:
    """Changes keys of an agent or server that was added at run time; workers that need it restart one after another."""
    membership = control.agents.membership
    changed = await membership.change(params.name, params.spec, expected=params.expected)
    agent = control.agents.of(params.name)
    return AgentSet(
        agent=control.status.agent_status(agent),
        changed=changed,
        etag=membership.etag(params.name),
    )


@method(
    "runtime.stats",
    "read",
    NoParams,
    RuntimeStatistics,
    scope=OPEN,
    faces=faces("GET /runtime-stats", python="get_runtime_stats"),
)
async def _stats(control: Control, _params: NoParams, caller: Caller) -> RuntimeStatistics:
    """Returns the number and the names of agents, teams, workflows and databases; no store can be declared yet."""

    def counted(names: Iterable[str]) -> Counted:
        known = [name for name in names if is_in_scope(name, caller.agents)]
        return Counted(count=len(known), ids=known)

    agents, groups = control.agents.agents.values(), control.agents.groups
    return RuntimeStatistics(
        agents=counted(each.name for each in agents if each.spec.kind == "agent"),
        teams=counted(each.name for each in groups.all("team")),
        workflows=counted(each.name for each in groups.all("workflow")),
        databases=counted(()),
    )
