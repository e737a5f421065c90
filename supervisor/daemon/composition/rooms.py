"""Composes the rooms of the daemon: makes each, and connects it with those that it needs.

Nothing is decided here, and nothing runs: `daemon` serves, and takes the rooms down.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.demand.activation import SocketActivation
from corral.supervisor.agents.demand.autoscaler import Autoscaler
from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.deployment.compose import make_deployments
from corral.supervisor.agents.deployment.folders import MarkedFolders
from corral.supervisor.agents.deployment.installer import INSTALLED
from corral.supervisor.agents.deployment.integrity import Integrity
from corral.supervisor.agents.external.stores import Stores, User
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.packages.store import Packages
from corral.supervisor.agents.rollout.rolling_restart import RollingRestart
from corral.supervisor.agents.rollout.rollouts import Rollouts
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.agents.running.running_agents import make_running
from corral.supervisor.api.metrics.collector import Collector
from corral.supervisor.api.metrics.statistics import Statistics
from corral.supervisor.api.metrics.view import MetricsView
from corral.supervisor.api.reports.costs import CostSums
from corral.supervisor.api.table.quotas import Quotas
from corral.supervisor.config.declared.stores import DeclaredStore
from corral.supervisor.config.spec.spec import Config, kind_of_group
from corral.supervisor.machine.isolation.levels import PROXY_PORT
from corral.supervisor.models.group import make_models
from corral.supervisor.records.audit.log import now
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.supervisor.records.memory.expiry import Expiry
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Store
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.tasks.group import TasksGroup, make_tasks
from corral.supervisor.tasks.run.backlog import Backlog
from corral.supervisor.tasks.run.record_writer import TaskObserver
from corral.supervisor.tasks.worker_api.pubsub import WorkerPubsub
from corral.supervisor.tasks.worker_api.requests import WorkerApi
from corral.supervisor.tasks.workflows.successes import Successes
from corral.supervisor.tenants.quotas.request_gate import RequestGate
from corral.supervisor.tenants.tokens.tokens import Tokens
from corral.supervisor.workers.egress.proxy import EgressProxy
from corral.supervisor.workers.exec.execs import Execs
from corral.supervisor.workers.group import make_workers
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.alerts import Alerts
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.task_failures import TaskFailures
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor

from ..host.installation import Paths, boot_id, built_in
from .shared_rooms import SharedRooms, make_shared_rooms
from .smoke import smoke_of
from .tenant_rooms import TenantRooms

if TYPE_CHECKING:
    from corral.supervisor.cluster.placed.node import ClusterNode

logger = logging.getLogger(__name__)


class Rooms:
    """Holds the rooms of a running daemon."""

    def __init__(self, basis: SharedRooms) -> None:
        shared, paths = basis.shared, basis.paths
        config, tracer = basis.config, basis.tracer
        self.config = config
        self.in_force = in_force = basis.in_force
        self.built_in = [built_in(config, paths, _is_ordinary_user(), shared.host.default_user)]
        self.paths = paths
        self.shared = shared
        self.workers = make_workers(shared)
        self.audit = basis.audit
        self.exports = basis.exports
        self.daemon_log = basis.daemon_log
        self.forwarding = basis.forwarding
        self.logins = basis.logins
        shared.host.before_launch(basis.accounts.given)
        shared.host.before_launch(Integrity(MarkedFolders(paths.state_dir / INSTALLED)).checked)
        self.execs = Execs(shared.launcher, shared.host, shared.generation)
        self.egress = EgressProxy(shared.launcher, shared.host, shared.generation, self._note_refused_host)
        shared.launcher.serve(PROXY_PORT, self.egress)
        self.pubsub = WorkerPubsub(shared.bus, in_force)
        self.turns = basis.turns
        self.limits = LimitEnforcer(shared.launcher, shared.bus)
        rooms = TenantRooms(shared, paths.state_dir, basis.tenants, basis.accounts, self.limits)
        self.tenant_rooms, self.tenants = rooms, rooms.tenants
        self.workers.requests.admit_by(RequestGate(self.turns, rooms.disk_use))
        self.pool = Pool(on_refused=self._note_refused)
        running = make_running(self.workers, basis.registry, self.pool, rooms.tenants, rooms.gate)
        self.rollouts, self.rolling_restart = Rollouts(running), RollingRestart(running)
        self.agents = Agents(running, self.rollouts, self.logins)
        spec_of = self.agents.registry.spec_of
        self.memory = Memory(shared.store, shared.bus, in_force, spec_of, self.tenants.all)
        self.memory_expiry = Expiry(shared.store, self.memory)
        backlog = Backlog()
        self.hibernation = Hibernation(self.agents, shared.checkpoints, backlog.queued)
        self.activation = SocketActivation(self.agents, shared)
        self.tokens = Tokens(shared.store, is_tenant=lambda name: self.tenants.find(name) is not None)
        self.packages = Packages(shared.store, paths.state_dir / "packages", in_force)
        self.successes = Successes(shared.store, self.agents, boot_id())
        self.gathered = Gathered(shared.store)
        self.costs = CostSums(shared.store, gathered=self.gathered)
        tasks = self.tasks_group = make_tasks(
            shared,
            self.memory,
            self.gathered,
            tracer or Tracing(),
            self.audit,
            self.limits,
            rooms.task_limits,
            self.turns,
            backlog,
            self.agents,
            self.hibernation,
            self.pool,
        )
        self.tasks, self.schedules, self.approvals = tasks.tasks, tasks.schedules, tasks.approvals
        self.tool_calls = tasks.tool_calls
        self.statistics = Statistics(
            shared, self.agents, self.limits, self._composite, tasks.call_rates, tasks.budgets.used
        )
        tasks.routing.rate_by(self.statistics.recent_success_rate)
        tasks.accounting.subscribe(self.statistics.used)
        tasks.call_records.subscribe(self.statistics.called)
        task_failures = TaskFailures(shared.bus, in_force, self.agents.registry.spec_of)
        observers: list[TaskObserver] = [self.statistics, task_failures, self.costs]
        for observer in observers if tracer is None else [*observers, tracer]:
            tasks.writer.subscribe(observer)
        self.models = make_models(shared, self.gathered, tracer or Tracing(), self.agents, tasks, paths.state_dir)
        self.models.desk.subscribe(self.statistics.used)
        self.models.desk.subscribe(self.costs.used)
        self.models.measured.subscribe(self.costs.ended)
        self.limits.subscribe(tasks.meters.note_sample)
        self.cluster = _cluster(config, self.agents, tasks, self.memory)
        self.collector = Collector(self.statistics, self.limits, self.agents, self.tasks, shared.store, paths.state_dir)
        self.metrics = MetricsView(self.collector, self.statistics, self.agents)
        self.stores = self._make_stores()
        self.quotas = self._make_quotas()
        WorkerApi(
            self.workers.requests,
            self.tasks,
            self.tool_calls,
            self.memory.key_values,
            shared.checkpoints,
            self.approvals,
            self.pubsub,
        )
        self.workers.requests.begin_by(self.hibernation.checkpoint_of)
        for forget in (self.tool_calls.removed, self.hibernation.removed, tasks.dispatcher.abandon):
            self.agents.membership.subscribe(forget)
        self.autoscaler = Autoscaler(self.agents, tasks.dispatcher)
        tasks.dispatcher.subscribe(self.autoscaler.check_soon)
        self.rollouts.try_by(smoke_of(self.tasks))
        self.deployments = make_deployments(shared, self.agents, self.packages, self.rollouts, basis.accounts)
        self.packages.keep_for(self.deployments.users_of)
        self._subscribe()
        self.alerts = self._make_alerts()
        rooms.follow(self.agents, self.tasks)
        self._follow_reloads()

    def _follow_reloads(self) -> None:
        """Subscribes what takes up a configuration that was read again."""
        in_force = self.in_force
        in_force.subscribe(lambda config: self.daemon_log.set_level(config.daemon.log_level))
        in_force.subscribe(lambda config: self.forwarding.want(config.daemon.journal))
        in_force.subscribe(self.autoscaler.reloaded)
        in_force.subscribe(lambda _: self.collector.reloaded())
        in_force.subscribe(lambda _: self.models.gateway.refresh())
        in_force.subscribe(self.schedules.follow)
        in_force.subscribe(self._look_again)

    def _look_again(self, _: Config) -> None:
        """Looks at the budgets again, after the agents, which follow the configuration after its listeners."""
        asyncio.get_running_loop().call_soon(self.tasks.budgets.look_again)

    def _make_quotas(self) -> Quotas:
        rooms = self.tenant_rooms
        return Quotas(self.agents, self.tasks_group, self.pool, rooms.tenants, rooms.task_limits, rooms.measured)

    def _make_stores(self) -> Stores:
        return Stores(
            self.in_force, lambda: map(_user, self.agents.agents.values()), self._expanded, self.shared.bus.publish
        )

    def _make_alerts(self) -> Alerts:
        shared, config = self.shared, self.paths.config
        return Alerts(
            shared.bus,
            shared.probes.commands,
            shared.alert_counts,
            self.in_force,
            self.agents.registry.spec_of,
            "/" if config is None else str(config.resolve().parent),
        )

    def _subscribe(self) -> None:
        """Subscribes the rooms to the changes that each acts on; those of workers are called in this order."""
        self.agents.replicas.subscribe(self.autoscaler.resized)
        self.agents.replicas.subscribe(lambda agent: self.tasks.dispatcher.look_soon(agent.name))
        changes = self.workers.changes
        changes.subscribe(self.statistics.changed)  # before the limits forget what it used
        changes.subscribe(self.limits.changed)
        self.tenant_rooms.subscribe(changes)
        changes.subscribe(self.agents.servers.changed)
        changes.subscribe(self.autoscaler.changed, load=True)
        changes.subscribe(self.rolling_restart.changed, load=True)
        changes.subscribe(self.execs.changed)
        changes.subscribe(self.pubsub.changed)
        changes.subscribe(self._of_places(self.hibernation.changed))
        changes.subscribe(self.activation.changed)
        changes.subscribe(self._of_places(self.successes.changed))
        changes.subscribe(lambda _: self.agents.startup.fill_room())
        changes.subscribe(self.tasks_group.jobs.worker_changed)
        changes.subscribe(self.tasks.dispatcher.worker_changed)
        changes.subscribe(self.rollouts.changed, load=True)

    def _of_places(self, listener: Callable[[WorkerSupervisor], None]) -> Callable[[WorkerSupervisor], None]:
        """Returns a listener for workers that have their places, since it keeps facts by worker id."""
        registry = self.agents.registry

        def changed(supervisor: WorkerSupervisor) -> None:
            if registry.supervisor(supervisor.id) is supervisor:
                listener(supervisor)

        return changed

    @classmethod
    async def compose(
        cls, config: Config, paths: Paths, daemon_log: DaemonLog, store: Store, stack: contextlib.AsyncExitStack
    ) -> "Rooms":
        """Makes the rooms and starts the launcher; `stack` takes them down."""
        basis = await make_shared_rooms(config, paths, daemon_log, store, stack)
        this = cls(basis)
        stack.push_async_callback(this.gathered.end)
        stack.callback(this.activation.close)
        stack.push_async_callback(this.tenant_rooms.trees.close)
        await this.shared.launcher.start()
        stack.push_async_callback(this.shared.launcher.close)
        stack.push_async_callback(this.egress.end)
        stack.push_async_callback(this.models.gateway.end)
        stack.push_async_callback(this.shared.zygotes.close)
        stack.callback(this.approvals.close)
        return this

    def _composite(self, name: str) -> str | None:
        """Returns the kind of a team or workflow, "team" or "workflow"; None for other names."""
        found = self.agents.groups.by_name.get(name)
        return None if found is None else kind_of_group(found)

    def _expanded(self, store: DeclaredStore, agent: str) -> str:
        """Returns the address of a store with the secrets that an agent gets."""
        return self.shared.host.secrets.expand({store.name: store.url}, agent, "store")[store.name]

    def _note_refused_host(self, facts: Mapping[str, object]) -> None:
        agent = str(facts["agent"])
        who = {"agent": agent}
        record = {"at": now(), "action": "network.connect", "who": who, "names": [agent], **facts}
        self.audit.add({**record, "result": "AccessDenied"})

    def _note_refused(self, server: str, limit: int, wait_s: float) -> None:
        reason = f"max_calls_per_minute = {limit} is used up"
        self.shared.bus.publish("limit.calls", agent=server, limit=limit, wait_s=round(wait_s, 3), reason=reason)


def _is_ordinary_user() -> bool:
    return os.getuid() != 0 and "INVOCATION_ID" not in os.environ


def _cluster(config: Config, agents: Agents, tasks: TasksGroup, memory: Memory) -> "ClusterNode | None":
    """Makes this daemon's part of its cluster, if it is to join one."""
    if config.cluster is None:
        return None
    from corral.supervisor.cluster.group import make_cluster  # noqa: PLC0415  # only who wants a cluster pays

    return make_cluster(config.cluster, agents, tasks, memory)


def _user(agent: Agent) -> User:
    runs = any(supervisor.worker.state in UP for supervisor in agent.supervisors)
    return User(agent.name, agent.spec.stores, runs)
