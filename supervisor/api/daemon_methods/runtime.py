"""Serves the methods `agent.list`, `agent.set`, `runtime.stats`, `store.list`, `models.list` and `metrics.*`: shows all that runs, and changes the table of one agent."""

from collections.abc import Iterable

from msgspec import UNSET

from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.models.desk.ledger import Sums
from corral.supervisor.tenants.tokens.scope import is_in_scope
from corral.worker.control.metrics import (
    MetricsHistory,
    MetricsHistoryParams,
    MetricsLatest,
    MetricsLatestParams,
    MetricsTop,
    MetricsTopParams,
)
from corral.worker.control.params import AgentSetParams, NoParams, StatusParams
from corral.worker.control.runtime_results import (
    Agents,
    AgentSet,
    Counted,
    Model,
    ModelLimits,
    Models,
    ModelsGateway,
    RuntimeStatistics,
    Store,
    Stores,
)
from corral.worker.methods.runtime import (
    AGENT_LIST,
    AGENT_SET,
    METRICS_HISTORY,
    METRICS_LATEST,
    METRICS_TOP,
    MODELS_LIST,
    RUNTIME_STATS,
    STORE_LIST,
)

from ..table.caller import made_by
from ..table.table import Caller, Control, serve


@serve(AGENT_LIST)
async def _list(control: Control, params: StatusParams, _caller: Caller) -> Agents:
    names = None
    if params.names is not None or params.selector is not None:
        names = control.agents.registry.chosen(params.names or [], params.selector, groups=True)
    status = control.status.status(names, failed=params.failed)
    return Agents(agents=[*status.agents, *status.mcp_servers])


@serve(AGENT_SET)
async def _set(control: Control, params: AgentSetParams, caller: Caller) -> AgentSet:
    tables = control.agents.tables
    cause = Cause("set", made_by(caller), params.why)
    changed = await tables.change(params.name, params.spec, cause, expected=params.expected, dry_run=params.dry_run)
    revisions = control.agents.revisions
    number = revisions.head(params.name).last
    if params.wait and not params.dry_run:
        await revisions.until_settled({params.name: number}, params.timeout_s)
    agent = control.agents.agents.get(params.name)
    return AgentSet(
        agent=UNSET if agent is None else control.status.agent_status(agent),
        changed=changed,
        etag=tables.etag(params.name),
        revision=number,
        rolling=revisions.head(params.name).rolling == number,
    )


@serve(RUNTIME_STATS)
async def _stats(control: Control, _params: NoParams, caller: Caller) -> RuntimeStatistics:
    def counted(names: Iterable[str]) -> Counted:
        known = [name for name in names if is_in_scope(name, caller.agents)]
        return Counted(count=len(known), ids=known)

    agents, groups = control.agents.agents.values(), control.agents.groups
    used = [
        store
        for store, users in control.stores.used_by().items()
        if any(is_in_scope(name, caller.agents) for name in users)
    ]
    return RuntimeStatistics(
        agents=counted(each.name for each in agents if each.spec.kind == "agent"),
        teams=counted(each.name for each in groups.all("team")),
        workflows=counted(each.name for each in groups.all("workflow")),
        databases=Counted(count=len(used), ids=used),
    )


@serve(STORE_LIST)
async def _stores(control: Control, _params: NoParams, caller: Caller) -> Stores:
    found: list[Store] = []
    for each in await control.stores.listed():
        users = [name for name in each.used_by if is_in_scope(name, caller.agents)]
        if users or caller.agents is None:
            store = Store(
                name=each.name, kind=each.kind, url=each.url, state=each.state, reason=each.reason, used_by=users
            )
            found.append(store)
    return Stores(stores=found)


@serve(MODELS_LIST)
async def _models(control: Control, _params: NoParams, caller: Caller) -> Models:
    found: list[Model] = []
    for each in await control.models.listed():
        users = [name for name in each.used_by if is_in_scope(name, caller.agents)]
        if not users and caller.agents is not None:
            continue
        model, today = each.model, Sums()
        for agent, sums in each.today.items():
            if is_in_scope(agent, caller.agents):
                today.add(sums)
        is_owner = caller.agents is None
        limits = ModelLimits(
            max_tokens_per_minute=model.max_tokens_per_minute,
            tokens_last_minute=each.tokens_last_minute,
            max_cost_cents_per_day=model.max_cost_cents_per_day,
        )
        entry = Model(
            name=model.name,
            kind=model.kind,
            url=model.address if is_owner else "",
            model=model.model,
            state=each.state,
            reason=each.reason if is_owner else "",
            used_by=users,
            fallback=list(model.fallback),
            calls_today=today.calls,
            calls_failed_today=today.failed,
            calls_estimated_today=today.estimated,
            tokens_today=today.tokens,
            cost_cents_today=round(today.cost_cents, 6),
            limits=limits if is_owner else ModelLimits(),
        )
        found.append(entry)
    pid, in_flight, restarts = control.models.process if caller.agents is None else (None, 0, 0)
    return Models(models=found, gateway=ModelsGateway(pid=pid, in_flight=in_flight, restarts=restarts))


@serve(METRICS_HISTORY)
async def _history(control: Control, params: MetricsHistoryParams, _caller: Caller) -> MetricsHistory:
    return await control.metrics.history(params.agent, params.since, params.until, params.step_s)


@serve(METRICS_TOP)
async def _top(control: Control, params: MetricsTopParams, _caller: Caller) -> MetricsTop:
    names = _names(control, params.names, params.selector)
    return await control.metrics.top(names, params.since, params.limit)


@serve(METRICS_LATEST)
async def _latest(control: Control, params: MetricsLatestParams, _caller: Caller) -> MetricsLatest:
    return await control.metrics.latest(_names(control, params.names, params.selector))


def _names(control: Control, names: list[str] | None, selector: str | None) -> list[str] | None:
    """Returns the agents and servers that the params choose, without teams and workflows; None for all."""
    if names is None and selector is None:
        return None
    chosen = control.agents.registry.chosen(names or [], selector, groups=True)
    return [name for name in chosen if name in control.agents.agents]
