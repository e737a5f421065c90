"""Serves the methods `agent.*` of the table: shows, starts, stops and changes agents and servers."""

import asyncio
import signal as signals
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.kept.record import Cause
from corral.supervisor.agents.membership.additions import Addition
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.startup import can_pause
from corral.supervisor.config.decoding.values import quoted
from corral.supervisor.config.secrets.secrets import MASK, masked, masked_address
from corral.supervisor.config.spec.labels import is_glob
from corral.supervisor.config.spec.loader import expanded_table, group_table, to_table
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, Timeout
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import AgentStatus, TeamStatus
from corral.worker.control import params as shapes
from corral.worker.control import results
from corral.worker.control.runtime_results import TemplateUse
from corral.worker.methods import agent as methods

from ..metrics.statistics import Statistics
from ..table.handlers import Caller, error_records, made_by, serve
from ..table.status import Services, StatusReport, exit_record

STDERR_LINES = 20


class _Selection:
    """Resolves the names, globs and labels of a call once, so that it reports on exactly the workers that it acts on."""

    def __init__(
        self,
        agents: Agents,
        status: StatusReport,
        params: shapes.NamesParams | shapes.SelectionParams | shapes.HibernateParams,
    ) -> None:
        everything = not isinstance(params, shapes.HibernateParams) and params.all
        if everything and params.selector is None:
            self.names, self.all = list(params.names), True
        else:
            self.names = agents.registry.chosen(params.names, params.selector)
            self.all = False
        self._given = set[str]() if params.selector else {n for n in params.names if not is_glob(n)}
        self._agents = agents
        self._status = status
        self.supervisors = agents.selected(self.names, self.all)

    def pass_over(self, is_concerned: Callable[[WorkerSupervisor], bool]) -> None:
        """Leaves out the names that a glob or a selector chose and none of whose workers is concerned, unless none is."""
        supervisors = self._agents.supervisors
        kept = [n for n in self.names if n in self._given or any(map(is_concerned, supervisors(n)))]
        if kept and not self.all:
            self.names = kept
            self.supervisors = self._agents.selected(kept, everything=False)

    def leave_out_suspended(self, tenants: Tenants) -> None:
        """Leaves out agents of suspended tenants that were not named themselves."""
        self.supervisors = [
            k
            for k in self.supervisors
            if not tenants.is_suspended(tenant_of(k.spec.name)) or not self._given.isdisjoint((k.spec.name, k.id))
        ]

    def leave_out_jobs(self, is_kept: Callable[[WorkerSupervisor], bool]) -> None:
        """Leaves out the jobs that were not named themselves, but for those that `is_kept` returns True for."""
        self.supervisors = [
            k
            for k in self.supervisors
            if k.spec.type == "service" or is_kept(k) or not self._given.isdisjoint((k.spec.name, k.id))
        ]

    async def bounded(self, timeout_s: float | None, work: Awaitable[None]) -> results.AgentsChanged:
        """Awaits work and returns the status of the selection."""
        try:
            async with asyncio.timeout(timeout_s):
                await work
        except TimeoutError:
            raise Timeout(f"cannot wait longer than {timeout_s:g} s: it goes on", names=self.names) from None
        return self.statuses()

    def statuses(self) -> results.AgentsChanged:
        """Returns the status of its agents, and the names and worker ids that were chosen."""
        agents = dict.fromkeys(supervisor.spec.name for supervisor in self.supervisors)
        present = [self._agents.agents.get(name) for name in agents]
        statuses = [self._status.agent_status(each) for each in present if each is not None]
        return results.AgentsChanged(agents=statuses, names=list(agents) if self.all else self.names)


@dataclass(frozen=True, eq=False)
class AgentMethods:
    """Serves the methods `agent.*` that show, start, stop and change agents and servers."""

    _agents: Agents
    _status: StatusReport
    _statistics: Statistics
    _hibernation: Hibernation
    _services: Services
    _tenants: Tenants
    _bus: Bus

    def _chosen(self, params: shapes.NamesParams | shapes.SelectionParams | shapes.HibernateParams) -> _Selection:
        return _Selection(self._agents, self._status, params)

    @serve(methods.AGENT_SHOW)
    async def _show(self, params: shapes.NameParams, _caller: Caller) -> results.AgentShown:
        if (group := self._agents.groups.by_name.get(params.name)) is not None:
            status = self._status.group_status(group)
            if isinstance(status, TeamStatus):
                return results.AgentShown(team=status, spec=group_table(group), source=group.source)
            return results.AgentShown(workflow=status, spec=group_table(group), source=group.source)
        supervisors = self._agents.supervisors(params.name)
        name = params.name if params.name in self._agents.agents else supervisors[0].spec.name
        agent = self._agents.of(name)
        spec = masked_table(to_table(agent.intended, self._agents.config.defaults))
        exits = [
            results.AgentExit(worker=supervisor.id, incarnation=number, **asdict(exit_record(last)))
            for supervisor in supervisors
            for number, last in supervisor.exits
        ]
        exits.sort(key=lambda each: each.at, reverse=True)
        return results.AgentShown(
            agent=self._status.agent_status(agent),
            spec=spec,
            source=agent.intended.source,
            etag=self._agents.tables.etag(name),
            template=self._template_use(agent.intended),
            exits=exits,
            tool_calls=results.ToolCallRate(
                last_minute=self._statistics.calls_last_minute(agent.name),
                limit=agent.spec.resources.max_tool_calls_per_minute,
            ),
            stderr={supervisor.id: supervisor.log.tail("stderr", STDERR_LINES) for supervisor in supervisors},
        )

    def _template_use(self, spec: Spec) -> TemplateUse | UnsetType:
        if spec.template is None:
            return UNSET
        config = self._agents.config
        template = config.templates.get(spec.template)
        params = spec.params if template is None else template.values(spec.params)
        return TemplateUse(
            name=spec.template,
            source=None if template is None else template.source,
            params=codec.as_object(masked(params)) or {},
            spec=masked_table(expanded_table(spec, config.defaults)),
        )

    @serve(methods.AGENT_SELECT)
    async def _select(self, params: shapes.SelectionParams, _caller: Caller) -> results.Names:
        if params.all and params.names:
            raise InvalidParams("cannot select: give names, or all", key="names", value=params.names)
        if params.all and params.selector is None:
            return results.Names(names=[*self._agents.agents, *self._agents.groups.by_name])
        return results.Names(names=self._agents.registry.chosen(params.names, params.selector, groups=True))

    @serve(methods.AGENT_START)
    async def _start(self, params: shapes.NamesParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        chosen.leave_out_suspended(self._tenants)
        chosen.leave_out_jobs(_is_missing)
        operations = self._agents.operations
        operations.unhold(chosen.names, chosen.all)
        return await chosen.bounded(params.timeout_s, operations.start(chosen.supervisors, wait=params.wait))

    @serve(methods.AGENT_STOP)
    async def _stop(self, params: shapes.NamesParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        self._hibernation.stopped(chosen.supervisors)
        stopping = self._agents.operations.stop(chosen.supervisors, wait=params.wait)
        return await chosen.bounded(params.timeout_s, stopping)

    @serve(methods.AGENT_RESTART)
    async def _restart(self, params: shapes.NamesParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        chosen.leave_out_suspended(self._tenants)
        chosen.leave_out_jobs(lambda supervisor: supervisor.worker.tree)
        restarting = self._agents.operations.restart(chosen.supervisors, wait=params.wait)
        return await chosen.bounded(params.timeout_s, restarting)

    @serve(methods.AGENT_RESET)
    async def _reset(self, params: shapes.NamesParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        self._agents.operations.reset(chosen.supervisors)
        return chosen.statuses()

    @serve(methods.AGENT_PAUSE)
    async def _pause(self, params: shapes.SelectionParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        chosen.pass_over(lambda supervisor: can_pause(supervisor.worker))
        await self._agents.operations.pause(chosen.names, chosen.all)
        return chosen.statuses()

    @serve(methods.AGENT_RESUME)
    async def _resume(self, params: shapes.SelectionParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        self._agents.operations.resume(chosen.supervisors)
        return chosen.statuses()

    @serve(methods.AGENT_HIBERNATE)
    async def _hibernate(self, params: shapes.HibernateParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        chosen.pass_over(lambda supervisor: supervisor.spec.speaks == "corral" and supervisor.worker.state in UP)
        await self._hibernation.hibernate(chosen.names, timeout_s=params.timeout_s, force=params.force)
        return chosen.statuses()

    @serve(methods.AGENT_WAKE)
    async def _wake(self, params: shapes.NamesParams, _caller: Caller) -> results.AgentsChanged:
        chosen = self._chosen(params)
        if params.all:
            chosen.supervisors = [
                supervisor for supervisor in chosen.supervisors if supervisor.is_cordoned(Unschedulable.HIBERNATED)
            ]
        waking = self._hibernation.wake(chosen.supervisors, wait=params.wait)
        return await chosen.bounded(params.timeout_s, waking)

    @serve(methods.AGENT_ADD)
    async def _add(self, params: shapes.AddParams, caller: Caller) -> AgentStatus:
        addition = Addition(params.name, params.kind, params.spec, params.directory or "/")
        cause = Cause("add", made_by(caller))
        failures = await self._agents.membership.add([addition], start=params.start, wait=params.wait, cause=cause)
        for error in failures.values():
            raise error
        return self._status.agent_status(self._agents.of(params.name))

    @serve(methods.AGENT_ADD_ALL)
    async def _add_all(self, params: shapes.AddAllParams, caller: Caller) -> results.AgentsAdded:
        agents = self._agents
        additions = [
            Addition(each.name, each.kind, each.spec, each.directory or "/", each.environment) for each in params.agents
        ]
        there = {} if params.present == "refuse" else agents.membership.compared(additions)
        changed = {name: list(keys) for name, keys in there.items() if keys}
        if changed and params.present == "keep" and not params.dry_run:
            name, keys = next(iter(changed.items()))
            words = f'cannot add "{name}": it is there and differs in {", ".join(keys)}'
            raise Conflict(words, name=name, keys=keys, changed=changed)
        fresh = [each for each in additions if each.name not in there or each.name in changed]
        failures: dict[str, CorralError] = {}
        if params.dry_run:
            agents.membership.check(fresh, replacing=changed)
        elif fresh:
            cause = Cause("add", made_by(caller))
            failures = await agents.membership.add(
                fresh, start=params.start, wait=params.wait, cause=cause, replacing=changed
            )
        present = [agents.agents.get(each.name) for each in params.agents]
        return results.AgentsAdded(
            agents=[self._status.agent_status(agent) for agent in present if agent is not None],
            failures=error_records(failures),
            added=[each.name for each in fresh if each.name not in changed],
            changed=changed,
            unchanged=[name for name, keys in there.items() if not keys],
        )

    @serve(methods.AGENT_RM)
    async def _rm(self, params: shapes.RemoveParams, _caller: Caller) -> results.Removed:
        names = params.names if params.name is None else [params.name, *params.names]
        if not names and params.selector is None:
            raise InvalidParams("cannot remove: give a name", key="names", value=[])
        names = self._agents.registry.chosen(names, params.selector, groups=True)
        if params.expected is not None:
            if len(names) != 1:
                words = f"cannot remove {len(names)} agents by one etag: name one"
                raise InvalidParams(words, key="expected", value=params.expected)
            self._agents.tables.check_etag(names[0], params.expected)
        return results.Removed(removed=await self._agents.membership.remove(names, cascade=params.cascade))

    @serve(methods.AGENT_EXPOSE)
    async def _expose(self, params: shapes.ExposeParams, _caller: Caller) -> results.Exposed:
        service = await self._services.expose(params.name, params.address, params.auth)
        return results.Exposed(name=params.name, service=service, token_file=self._services.token_file)

    @serve(methods.AGENT_SCALE)
    async def _scale(self, params: shapes.ScaleParams, caller: Caller) -> AgentStatus:
        cause = Cause("set", made_by(caller), "scaled")
        agent = await self._agents.replicas.scale(params.name, params.instances, wait=params.wait, cause=cause)
        return self._status.agent_status(agent)

    @serve(methods.AGENT_SIGNAL)
    async def _signal(self, params: shapes.SignalParams, _caller: Caller) -> results.Names:
        name = params.signal.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name not in signals.Signals.__members__:
            words = f'cannot send signal "{params.signal}": it is unknown'
            raise InvalidParams(words, key="signal", value=params.signal)
        given = params.names if params.name is None else [params.name, *params.names]
        chosen = self._chosen(shapes.SelectionParams(names=given, selector=params.selector))
        paused = [k.id for k in chosen.supervisors if k.worker.paused_at is not None]
        if paused and name != "SIGKILL":  # it would wait, or let the program run
            text = f'cannot signal "{paused[0]}": it is paused; corral resume {paused[0]}'
            raise Conflict(text, name=paused[0], reason="paused")
        running = [k for k in chosen.supervisors if k.worker.pid is not None]
        if not running:
            raise Conflict(f"cannot signal {quoted(chosen.names)}: it has no process", name=chosen.names[0])
        for supervisor in running:
            supervisor.signal(name, tree=False)
            self._bus.publish(
                "agent.signalled",
                agent=supervisor.spec.name,
                worker=supervisor.id,
                incarnation=supervisor.worker.incarnation,
                signal=name,
            )
        return results.Names(names=[supervisor.id for supervisor in running])


def masked_table(table: Mapping[str, object]) -> dict[str, object]:
    """Returns the table of an agent without the values of environments, headers and keys."""
    found = dict(table)
    for key, value in table.items():
        if key in ("environment", "headers"):
            found[key] = dict.fromkeys(codec.as_object(value) or {}, MASK)
        elif key == "process":
            found[key] = masked_table(codec.as_object(value) or {})
        elif key == "params":
            found[key] = masked(value)
        elif key == "webhook_secret":
            found[key] = MASK
        elif key == "url":
            found[key] = masked_address(str(value))
    return found


def _is_missing(supervisor: WorkerSupervisor) -> bool:
    return supervisor.spec.autostart and not supervisor.worker.done
