"""Serves the methods that show all that runs and what it uses, and `agent.set`."""

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import UNSET

from corral.supervisor.agents.external.stores import Stores as StoreWatch
from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.models.desk.ledger import Sums
from corral.supervisor.models.desk.listing import ModelListing
from corral.supervisor.tenants.tokens.scope import is_in_scope, knows
from corral.worker.control import metrics as shapes
from corral.worker.control.params import AgentSetParams, NoParams, StatusParams
from corral.worker.control.runtime_results import Agents as AgentsListed
from corral.worker.control.runtime_results import (
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
from corral.worker.methods import daemon as methods
from corral.worker.methods.agent import AGENT_LIST, AGENT_SET

from ..metrics.view import MetricsView
from ..table.handlers import Caller, made_by, serve
from ..table.status import StatusReport


@dataclass(frozen=True, eq=False)
class RuntimeMethods:
    """Serves the methods that show all that runs, and what it uses."""

    _agents: Agents
    _status: StatusReport
    _stores: StoreWatch
    _models: ModelListing
    _metrics: MetricsView

    @serve(AGENT_LIST)
    async def _agent_list(self, params: StatusParams, _caller: Caller) -> AgentsListed:
        names = None
        if params.names is not None or params.selector is not None:
            names = self._agents.registry.chosen(params.names or [], params.selector, groups=True)
        status = self._status.status(names, failed=params.failed)
        return AgentsListed(agents=[*status.agents, *status.mcp_servers])

    @serve(AGENT_SET)
    async def _set(self, params: AgentSetParams, caller: Caller) -> AgentSet:
        tables = self._agents.tables
        cause = Cause("set", made_by(caller), params.why)
        changed = await tables.change(params.name, params.spec, cause, expected=params.expected, dry_run=params.dry_run)
        revisions = self._agents.revisions
        number = revisions.head(params.name).last
        if params.wait and not params.dry_run:
            await revisions.until_settled({params.name: number}, params.timeout_s)
        agent = self._agents.agents.get(params.name)
        return AgentSet(
            agent=UNSET if agent is None else self._status.agent_status(agent),
            changed=changed,
            etag=tables.etag(params.name),
            revision=number,
            rolling=revisions.head(params.name).rolling == number,
        )

    @serve(methods.RUNTIME_STATS)
    async def _stats(self, _params: NoParams, caller: Caller) -> RuntimeStatistics:
        def counted(names: Iterable[str]) -> Counted:
            known = [name for name in names if is_in_scope(name, caller.agents)]
            return Counted(count=len(known), ids=known)

        agents, groups = self._agents.agents.values(), self._agents.groups
        used = [
            store
            for store, users in self._stores.used_by().items()
            if any(is_in_scope(name, caller.agents) for name in users)
        ]
        return RuntimeStatistics(
            agents=counted(each.name for each in agents if each.spec.kind == "agent"),
            teams=counted(each.name for each in groups.all("team")),
            workflows=counted(each.name for each in groups.all("workflow")),
            databases=Counted(count=len(used), ids=used),
        )

    @serve(methods.STORE_LIST)
    async def _store_list(self, _params: NoParams, caller: Caller) -> Stores:
        found: list[Store] = []
        for each in await self._stores.listed():
            users = [name for name in each.used_by if is_in_scope(name, caller.agents)]
            if users or caller.agents is None:
                store = Store(
                    name=each.name, kind=each.kind, url=each.url, state=each.state, reason=each.reason, used_by=users
                )
                found.append(store)
        return Stores(stores=found)

    @serve(methods.MODELS_LIST)
    async def _models_list(self, _params: NoParams, caller: Caller) -> Models:
        found: list[Model] = []
        for each in await self._models.listed():
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
        pid, in_flight, restarts = self._models.process if caller.agents is None else (None, 0, 0)
        return Models(models=found, gateway=ModelsGateway(pid=pid, in_flight=in_flight, restarts=restarts))

    @serve(methods.METRICS_HISTORY)
    async def _history(self, params: shapes.MetricsHistoryParams, caller: Caller) -> shapes.MetricsHistory:
        span = params.since, params.until, params.step_s
        return await self._metrics.history(params.agent, *span, knows=knows(caller.agents))

    @serve(methods.METRICS_TOP)
    async def _top(self, params: shapes.MetricsTopParams, _caller: Caller) -> shapes.MetricsTop:
        return await self._metrics.top(self._names(params.names, params.selector), params.since, params.limit)

    @serve(methods.METRICS_LATEST)
    async def _latest(self, params: shapes.MetricsLatestParams, _caller: Caller) -> shapes.MetricsLatest:
        return await self._metrics.latest(self._names(params.names, params.selector))

    def _names(self, names: list[str] | None, selector: str | None) -> list[str] | None:
        """Returns the agents and servers that the params choose, without teams and workflows; None for all."""
        if names is None and selector is None:
            return None
        chosen = self._agents.registry.chosen(names or [], selector, groups=True)
        return [name for name in chosen if name in self._agents.agents]
