"""Serves the methods `daemon.*`, `node.*`, `statistics.show`, `quota.list`, `template.list` and `rpc.discover`."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from corral import __version__
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.secrets.secrets import is_reference
from corral.supervisor.models.desk.listing import ModelListing
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.tenants.tokens.scope import is_in_scope
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.lifecycle.state_machine import GIVEN_UP, UP, State
from corral.supervisor.workers.process.launch import secret_problems
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import Statistics, Status
from corral.worker.control import params as shapes
from corral.worker.control import results
from corral.worker.control.nodes import Node, NodeParams, Nodes
from corral.worker.control.runtime_results import Template, TemplateParam, Templates
from corral.worker.methods import daemon as definitions
from corral.worker.methods.method import AnyMethod

from ..metrics.statistics import Statistics as Counts
from ..schema.documents import openrpc
from ..table.cluster import JoinedCluster
from ..table.handlers import Caller, as_result, made_by, serve
from ..table.quotas import Quotas
from ..table.status import DaemonFacts, StatusReport
from ..table.status_feed import StatusCache, StatusFeed
from ..table.tenant_view import own_statistics

if TYPE_CHECKING:
    from corral.supervisor.workers.process.host_facts import Services


class DaemonMethods:
    """Serves the methods that steer the daemon, and say what it has."""

    def __init__(self, agents: Agents, tasks: Tasks, daemon: DaemonFacts, methods: Mapping[str, AnyMethod]) -> None:
        self._agents = agents
        self._tasks = tasks
        self._daemon = daemon
        self._methods = methods

    @serve(definitions.DAEMON_PING)
    async def _ping(self, _params: shapes.NoParams, _caller: Caller) -> results.Done:
        return results.Done()

    @serve(definitions.DAEMON_EMERGENCY_STOP)
    async def _emergency_stop(self, _params: shapes.NoParams, caller: Caller) -> results.EmergencyStopped:
        halted: list[str] = []
        killed = await self._agents.operations.halt(caller.name, lambda: halted.extend(self._tasks.halt()))
        await self._tasks.halted(halted)
        return results.EmergencyStopped(workers=killed, tasks=len(halted))

    @serve(definitions.DAEMON_STOP)
    async def _stop(self, _params: shapes.NoParams, _caller: Caller) -> results.Stopping:
        pid = os.getpid()
        os.kill(pid, signal.SIGTERM)  # the handler of the daemon is the one way to its end
        return results.Stopping(pid=pid)

    @serve(definitions.DAEMON_RELOAD)
    async def _reload(self, params: shapes.ReloadParams, caller: Caller) -> results.Reloaded:
        config = self._daemon.read_config()
        plan = await self._agents.reload.adopt(config, dry_run=params.dry_run, by=made_by(caller))
        if params.wait and not params.dry_run:
            await self._agents.revisions.until_settled(plan.revisions, params.timeout_s)
        return msgspec.convert(plan, results.Reloaded, from_attributes=True)

    @serve(definitions.DAEMON_UPGRADE)
    async def _upgrade(self, params: shapes.UpgradeParams, _caller: Caller) -> results.Upgraded:
        return await self._daemon.upgrades.perform(params)

    @serve(definitions.DAEMON_SCHEMA)
    async def _schema(self, params: shapes.SchemaParams, _caller: Caller) -> dict[str, object]:
        from ..schema.documents import schema_of  # noqa: PLC0415 - start-up time: few ask

        return schema_of(params.document)

    @serve(definitions.TEMPLATE_LIST)
    async def _list(self, _params: shapes.NoParams, _caller: Caller) -> Templates:
        users: dict[str, list[str]] = {}
        for agent in self._agents.agents.values():
            if agent.spec.template is not None:
                users.setdefault(agent.spec.template, []).append(agent.name)
        return Templates(
            templates=[
                Template(
                    name=each.name,
                    source=each.source,
                    base=each.base,
                    description=each.description,
                    params=[
                        TemplateParam(name=name, schema=schema, required="default" not in schema)
                        for name, schema in each.params.items()
                    ],
                    used_by=sorted(users.get(each.name, [])),
                )
                for each in self._agents.config.templates.values()
            ]
        )

    @serve(definitions.DAEMON_LOG_LEVEL)
    async def _log_level(self, params: shapes.LogLevelParams, _caller: Caller) -> results.LogLevelSet:
        self._daemon.daemon_log.set_level(params.level)
        return results.LogLevelSet(level=params.level)

    @serve(definitions.RPC_DISCOVER)
    async def _discover(self, _params: shapes.NoParams, _caller: Caller) -> msgspec.Raw:
        # Making it takes tens of milliseconds, in which the loop would serve no other client.
        return msgspec.Raw(await asyncio.to_thread(_encoded, tuple(self._methods.values())))


@lru_cache(1)
def _encoded(entries: tuple[AnyMethod, ...]) -> bytes:
    return codec.encode(openrpc({entry.name: entry for entry in entries}))


@dataclass(frozen=True, eq=False)
class StatusMethods:
    """Serves status, statistics and quotas."""

    _agents: Agents
    _status: StatusReport
    _status_cache: StatusCache
    _status_feed: StatusFeed
    _statistics: Counts
    _quotas: Quotas

    @serve(definitions.DAEMON_STATUS)
    async def _daemon_status(self, params: shapes.StatusParams, caller: Caller) -> Status | msgspec.Raw:
        if params == shapes.StatusParams():
            return self._status_cache.status()
        names = self._chosen(params)
        if caller.tenant:
            return self._status.own(names or [], failed=params.failed)
        return self._status.status(names, failed=params.failed)

    @serve(definitions.DAEMON_FOLLOW)
    async def _daemon_follow(self, _params: shapes.NoParams, caller: Caller) -> results.Done:
        def whole() -> Status | msgspec.Raw:
            if caller.agents is None:
                return self._status_cache.status()
            known = [*self._agents.agents, *self._agents.groups.by_name]
            own = [each for each in known if is_in_scope(each, caller.agents)]
            return self._status.own(own) if caller.tenant else self._status.status(own)

        caller.follow(self._status_feed.run(caller, whole))
        return results.Done()

    def _chosen(self, params: shapes.StatusParams | shapes.StatisticsParams) -> list[str] | None:
        if params.names is None and params.selector is None:
            return None
        return self._agents.registry.chosen(params.names or [], params.selector, groups=True)

    @serve(definitions.STATISTICS_SHOW)
    async def _statistics_show(self, params: shapes.StatisticsParams, caller: Caller) -> Statistics:
        shown = as_result(await self._statistics.shown(self._chosen(params)), Statistics)
        return own_statistics(shown) if caller.tenant else shown

    @serve(definitions.QUOTA_LIST)
    async def _quota_list(self, params: shapes.StatisticsParams, _caller: Caller) -> results.QuotaList:
        return results.QuotaList(quotas=self._quotas.shown(self._chosen(params), time.monotonic()))


class DoctorMethods:
    """Serves `daemon.doctor`."""

    def __init__(
        self,
        agents: Agents,
        status: StatusReport,
        daemon: DaemonFacts,
        models: ModelListing,
        tenants: TenantsGroup,
        store: Store,
        workers: WorkersGroup,
    ) -> None:
        self._agents = agents
        self._status = status
        self._daemon = daemon
        self._models = models
        self._tenants = tenants.tenants
        self._accounts = tenants.accounts
        self._store = store
        self._workers = workers

    @serve(definitions.DAEMON_DOCTOR)
    async def _doctor(self, _params: shapes.NoParams, caller: Caller) -> results.Diagnosis:
        from corral.supervisor.workers.process import host_check, host_facts  # noqa: PLC0415 - start-up time: few ask

        problem = ""
        try:
            self._daemon.read_config()
        except CorralError as error:
            problem = error.message
        held = self._workers.launcher.containment
        daemon_log, forwarding = self._daemon.daemon_log, self._daemon.forwarding
        places = "files and the journal" if forwarding.is_wanted else "files"
        log = f"the daemon's own to {daemon_log.where}, from {daemon_log.level} on; workers' lines to {places}"
        stuck = "the journal takes no lines of workers" if forwarding.is_degraded else ""
        parts = ("tier", "kill", "freeze", "memory", "cpu", "processes", "branded", "reason")
        facts = await asyncio.to_thread(  # a file system that hangs must not hang us
            host_facts.look,
            socket=self._daemon.socket,
            state_dir=self._daemon.state_dir,
            isolation=self._agents.config.defaults.process.isolation,
            containment=host_facts.Containment(**{part: getattr(held, part) for part in parts}),
            store_stalled_s=self._store.stalled_s,
            config_problem=problem,
            log=log,
            journal_problem=stuck,
            unplanned=self._workers.launcher.unplanned,
            version=__version__,
            services=await self._services(),
            environ=os.environ,
        )
        daemon = results.DaemonFound(running=True, pid=os.getpid(), version=__version__, rights=caller.permission)
        found = host_check.report(facts)
        return results.Diagnosis(
            daemon=daemon,
            findings=as_result(found["findings"], list[results.Finding]),
            promises=as_result(found["promises"], list[results.Promise]),
        )

    async def _services(self) -> "Services":
        from corral.supervisor.workers.process.host_facts import Services  # noqa: PLC0415 - start-up time: few ask

        agents = self._agents.agents.values()
        specs = [agent.spec for agent in agents]
        values = [value for spec in specs for value in spec.expandable]
        servers = [agent for agent in agents if agent.spec.kind == "mcp" and not agent.spec.disabled]
        ends = [
            (supervisor.id, supervisor.worker.last_exit)
            for server in servers
            for supervisor in server.supervisors
            if supervisor.worker.state is State.TERMINATED
        ]
        warmths = [(spec.name, self._status.warmth(spec)) for spec in specs if spec.kind == "agent"]
        models = await self._models.listed()
        problems = await asyncio.to_thread(secret_problems, specs, self._workers.host.secrets)
        engine = await self._daemon.joined.cluster.found()
        return Services(
            cluster=engine.name,
            cluster_problem=engine.problem,
            cluster_weaknesses=tuple(engine.weaknesses),
            secrets=sum(map(is_reference, values)),
            secret_problems=tuple(problems),
            servers=len(servers),
            up=sum(server.state in UP for server in servers),
            failed=tuple(f"{name}: {last.message}" for name, last in ends if last and last.result in GIVEN_UP),
            cold=tuple(
                f"{name} starts cold: {each['reason']}"
                for name, each in warmths
                if each is not None and each["state"] == "cold"
            ),
            http=self._daemon.web.note,
            degraded=tuple(
                f"{name}: {service.reason}"
                for name in self._daemon.services.degraded
                if (service := self._daemon.services.status(name)) is not None
            ),
            tenants=len(self._tenants.all()),
            sharing=self._sharing(),
            models=len(models),
            model_problems=tuple(
                f"{each.model.name}: {each.reason}" for each in models if each.state == "down" and each.used_by
            ),
        )

    def _sharing(self) -> tuple[str, ...]:
        """Returns why the processes of tenants have a user that they share, with the tenants of each reason."""
        by_reason: dict[str, list[str]] = {}
        for name in self._tenants.all():
            if reason := self._accounts.why_shared(name):
                by_reason.setdefault(reason, []).append(name)
        return tuple(
            f"{len(names)} tenants share a user, {names[0]} among them: {reason}" for reason, names in by_reason.items()
        )


class NodeMethods:
    """Serves the methods `node.*`."""

    def __init__(self, joined: JoinedCluster) -> None:
        self._joined = joined

    @serve(definitions.NODE_LIST)
    async def _list(self, _params: shapes.NoParams, _caller: Caller) -> Nodes:
        return Nodes(nodes=await self._joined.cluster.nodes())

    @serve(definitions.NODE_DRAIN)
    async def _drain(self, params: NodeParams, caller: Caller) -> Node:
        return await self._joined.cluster.drain(params.name, made_by(caller))

    @serve(definitions.NODE_RESUME)
    async def _resume(self, params: NodeParams, _caller: Caller) -> Node:
        return await self._joined.cluster.resume(params.name)
