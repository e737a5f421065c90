"""Composes the rooms of the daemon: makes each, and connects it with those that it needs.

Nothing is decided here, and nothing runs: `daemon` serves, and takes the rooms down.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..mcp.pool.pool import Pool
from ..worker.contract.errors import CorralError
from ..worker.contract.names import tenant_of
from .access.tokens import Tokens
from .activation.activation import SocketActivation
from .agents.agent import Agent
from .agents.agents import Agents
from .api.quotas import Quotas
from .api.status import DaemonFacts, StatusReport
from .api.status_cache import StatusCache
from .api.status_feed import StatusFeed
from .api.table import Control
from .approvals.approvals import Approvals
from .audit.log import Audit, now
from .autoscaling.autoscaler import Autoscaler
from .backup.backups import Backups
from .config.spec import Config, Recovery, Spec, kind_of_group
from .deployment.compose import make_deployments
from .egress.proxy import EgressProxy
from .events.bus import Bus
from .events.history import EventHistory
from .exports import Exports
from .hibernation.hibernation import Hibernation
from .installation import (
    HAS_ORCHESTRATION,
    Paths,
    boot_id,
    built_in,
    make_host,
    read_config,
    zygote_pool,
)
from .interactive.execs import Execs
from .isolation.levels import Sandbox
from .jobs.runner import JobRunner
from .jobs.successes import Successes
from .lifecycle.state_machine import UP
from .logins.logins import Logins
from .logins.steps import Steps
from .logs.daemon_log import DaemonLog
from .logs.forwarder import Forwarding
from .logs.store import LogStore
from .methods.all import METHODS
from .metrics.collector import Collector
from .metrics.statistics import Statistics
from .metrics.view import MetricsView
from .model_rooms import ModelRooms
from .model_use.access import Access
from .model_use.under_way import CallsUnderWay
from .oauth.token_store import TokenStore
from .packages.store import Packages
from .process.command import Commands
from .process.launcher_client import Exit, Launcher
from .quotas.turns import CallTurns
from .reports.costs import CostSums
from .rollout.rollouts import Rollouts
from .rollout.smoke import smoke_of
from .services.services import AgentServices
from .sessions.expiry import Expiry
from .sessions.listing import Listing
from .sessions.sessions import Memory
from .store.gathered import Gathered
from .store.incarnations import Incarnations
from .store.store import Store
from .stores.declared import DeclaredStore
from .stores.stores import Stores, User
from .supervision.alerts import Alerts, Counts
from .supervision.checkpoints import Checkpoints
from .supervision.cold_starts import ColdStarts
from .supervision.limit_enforcer import LimitEnforcer
from .supervision.probes import Probes
from .supervision.shared import Shared, StallClock
from .supervision.task_failures import TaskFailures
from .supervision.worker_supervisor import WorkerSupervisor
from .tasks.backlog import Backlog
from .tasks.tasks import Tasks
from .telemetry.tracing import Tracer
from .tenancy.slices import limits_in_kernel
from .tenant_removal.removal import take_up
from .tenant_rooms import TenantRooms
from .worker_api.call_history import CallHistory
from .worker_api.call_rate import CallRates
from .worker_api.pubsub import WorkerPubsub
from .worker_api.requests import WorkerApi
from .worker_api.tool_calls import ToolCalls

if HAS_ORCHESTRATION:
    from .orchestration.schedules import Schedules
    from .orchestration.workflow_engine import WorkflowEngine

if TYPE_CHECKING:
    from .cluster_node.node import ClusterNode
    from .services.services import Listen
    from .zygote.pool import ZygotePool

logger = logging.getLogger(__name__)


class Rooms:
    """Holds the rooms of a running daemon."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        shared: Shared,
        daemon_log: DaemonLog,
        forwarding: Forwarding,
        audit: Audit,
        zygotes: "ZygotePool | None",
        tracer: Tracer | None,
        exports: Exports,
        logins: Logins,
    ) -> None:
        self.config = config
        self.exports = exports
        self._zygotes = zygotes
        self.daemon_log = daemon_log
        self.forwarding = forwarding
        self.audit = audit
        self.logins = logins
        self.paths = paths
        self.shared = shared
        self.execs = Execs(shared.launcher, shared.host, shared.generation)
        self.egress = EgressProxy(
            shared.launcher, shared.host, shared.generation, self._note_refused_host
        )
        self.pubsub = WorkerPubsub(shared.bus, lambda: self.agents.config.events)
        self.turns = CallTurns(asyncio.get_running_loop())
        self.limits = LimitEnforcer(shared.launcher, shared.bus)
        rooms = TenantRooms(shared, paths.state_dir, lambda: self.agents.config, self.limits)
        self.tenant_rooms, self.tenants = rooms, rooms.tenants
        self.service = WorkerApi(shared.checkpoints, self.pubsub, self.turns, rooms.disk_use)
        self.pool = Pool(on_refused=self._note_refused)
        self.agents = Agents(shared, config, self.service, self.pool, rooms.tenants, rooms.gate)
        self.cluster = _cluster(config, shared, self.agents)
        self.memory = Memory(
            shared.store,
            shared.bus,
            lambda: self.agents.config,
            self._spec_of,
            lambda: self.tenants.all(),
        )
        self.memory_expiry = Expiry(shared.store, self.memory)
        backlog = Backlog()
        self.hibernation = Hibernation(self.agents, shared.checkpoints, backlog.queued)
        self.activation = SocketActivation(self.agents, shared)
        self.tokens = Tokens(
            shared.store, is_tenant=lambda name: self.tenants.find(name) is not None
        )
        self.packages = Packages(
            shared.store, paths.state_dir / "packages", lambda: self.agents.config.packages
        )
        self.successes = Successes(shared.store, self.agents, boot_id())
        call_rates = CallRates()
        self.statistics = Statistics(
            shared,
            self.agents,
            self.limits,
            self._composite,
            call_rates,
            lambda name: self.tasks.budgets.used(name),
        )
        task_failures = TaskFailures(shared.bus, lambda: self.agents.config, self._spec_of)
        self.gathered = Gathered(shared.store)
        self.costs = CostSums(shared.store, gathered=self.gathered)
        self.measured = CallsUnderWay()
        self.approvals = Approvals(shared.store, shared.bus)
        self.tasks = Tasks(
            shared,
            self.agents,
            backlog,
            self.hibernation,
            self.memory,
            observers=[
                self.statistics,
                task_failures,
                self.costs,
                self.approvals,
                *([] if tracer is None else [tracer]),
            ],
            on_waiting=lambda name: self.autoscaler.check_soon(name),
            success_rate=self.statistics.recent_success_rate,
            limits=self.limits,
            on_usage=self.statistics.used,
            tracing=tracer,
            tenants=rooms.task_limits,
            turns=self.turns,
            measured=self.measured,
            gathered=self.gathered,
        )
        self.models = ModelRooms(
            shared,
            self.agents,
            self.tasks,
            backlog,
            self.measured,
            self._untasked,
            paths.state_dir,
            self.gathered,
            tracer,
        )
        self.limits.subscribe(self.tasks.note_sample)
        if self.cluster is not None:
            self.cluster.tasks.bind(self.tasks)
            self.cluster.carried.bind(self.cluster.tasks.is_placed, self.memory, shared.checkpoints)
            shared.checkpoints.bind(self.cluster.carried)
            self.memory.key_values.bind(self.cluster.carried)
            self.tasks.bind_placed(self.cluster.runner)
            self.tasks.budgets.bind(self.cluster.budgets)
            self.cluster.budgets.bind(self.tasks.budgets)
        self.tasks.bind_jobs(lambda writer, executor: JobRunner(writer, self.agents, executor))
        self.collector = Collector(
            self.statistics, self.limits, self.agents, self.tasks, shared.store, paths.state_dir
        )
        self.metrics = MetricsView(self.collector, self.statistics, self.agents)
        self.stores = self._make_stores()
        self.quotas = Quotas(
            self.agents,
            self.tasks,
            backlog,
            call_rates,
            self.pool,
            rooms.tenants,
            rooms.task_limits,
            rooms.measured,
        )
        self.schedules = self._make_schedules() if HAS_ORCHESTRATION else None
        self.tool_calls = ToolCalls(
            shared.bus,
            self.agents,
            self.tasks,
            self.pool,
            audit,
            self.statistics.called,
            call_rates,
            CallHistory(shared.store),
            self.approvals,
            tracer,
        )
        self.service.bind(
            self.tasks, self.tool_calls, self.memory, self.hibernation, self.approvals
        )
        self.autoscaler = Autoscaler(self.agents, self.tasks.dispatcher)
        attempt = smoke_of(self.tasks)
        self.rollouts = Rollouts(self.agents, attempt)
        self.deployments = make_deployments(
            shared, self.agents, self.packages, self.rollouts, attempt, paths.state_dir
        )
        self.packages.users = self.deployments.users_of
        self.agents.changes.bind(self.rollouts)
        self._subscribe()
        self.alerts = self._make_alerts()
        self.agents.reload.subscribe(self.autoscaler.reloaded)
        self.agents.reload.subscribe(lambda _: self.collector.reloaded())
        self.agents.reload.subscribe(lambda _: self.models.gateway.refresh())
        rooms.bind(self.agents, self.tasks)

    def _make_stores(self) -> Stores:
        return Stores(
            lambda: self.agents.config.stores,
            lambda: map(_user, self.agents.agents.values()),
            self._expanded,
            self.shared.bus.publish,
        )

    def _make_alerts(self) -> Alerts:
        shared, config = self.shared, self.paths.config
        return Alerts(
            shared.bus,
            shared.probes.commands,
            shared.alert_counts,
            lambda: self.agents.config,
            self._spec_of,
            "/" if config is None else str(config.resolve().parent),
        )

    def _make_schedules(self) -> "Schedules":
        """Connects the optional room of workflows and schedules."""
        shared = self.shared
        self.tasks.bind(WorkflowEngine(shared, self.agents, self.tasks))
        cluster = None if self.cluster is None else self.cluster.runner
        schedules = Schedules(
            shared.store,
            shared.bus,
            self.agents,
            self.tasks,
            cluster=cluster,
            shared=None if self.cluster is None else self.cluster.schedules,
        )
        self.agents.reload.subscribe(schedules.follow)
        return schedules

    def _subscribe(self) -> None:
        """Subscribes the rooms to the changes that each acts on; those of workers are called in this order."""
        self.agents.replicas.subscribe(self.autoscaler.resized)
        self.agents.replicas.subscribe(lambda agent: self.tasks.dispatcher.look_soon(agent.name))
        changes = self.service.changes
        changes.subscribe(self.statistics.changed)  # before the limits forget what it used
        changes.subscribe(self.limits.changed)
        self.tenant_rooms.subscribe(changes)
        changes.subscribe(self.agents.servers.changed)
        changes.subscribe(self.autoscaler.changed, load=True)
        if self._zygotes is not None:
            from .zygote.rolling_restart import RollingRestart  # noqa: PLC0415  # an optional room

            changes.subscribe(RollingRestart(self.agents, self._zygotes).changed, load=True)
        changes.subscribe(self.pubsub.changed)
        changes.subscribe(self._of_places(self.hibernation.changed))
        changes.subscribe(self.activation.changed)
        changes.subscribe(self._of_places(self.successes.changed))
        changes.subscribe(lambda _: self.agents.startup.fill_room())
        changes.subscribe(self.tasks.dispatcher.worker_changed)
        changes.subscribe(self.rollouts.changed, load=True)

    def _of_places(
        self, listener: Callable[[WorkerSupervisor], None]
    ) -> Callable[[WorkerSupervisor], None]:
        """Returns a listener for workers that have their places, since it keeps facts by worker id."""
        registry = self.agents.registry

        def changed(supervisor: WorkerSupervisor) -> None:
            if registry.supervisor(supervisor.id) is supervisor:
                listener(supervisor)

        return changed

    @classmethod
    async def compose(
        cls,
        config: Config,
        paths: Paths,
        daemon_log: DaemonLog,
        store: Store,
        stack: contextlib.AsyncExitStack,
    ) -> "Rooms":
        """Makes the rooms, starts the launcher, and loads what the store has; `stack` takes them down."""
        event_history = await EventHistory.open(store)
        logs = LogStore(
            paths.state_dir / "logs",
            unclean=not event_history.was_clean,
            read_pause_s=lambda agent, size: this.turns.read_pause_s(tenant_of(agent), size),
        )
        stack.callback(logs.close)
        bus = Bus(event_history.first_seq, event_history.keep, reserve=event_history.reserve)
        audit = await Audit.open(store, lambda: this.agents.config.audit)
        await _note_head(audit)
        stack.push_async_callback(_note_clean_end, event_history, bus, audit)
        forwarding = await _forwarding(config, logs, bus, stack)
        tier = config.daemon.containment

        def exited(report: Exit) -> None:
            this.exited(report)

        def emptied(unit: str) -> None:
            this.emptied(unit)

        def access(spec: Spec, unit: str, *, own_network: bool) -> Access:
            return this.models.access.of(spec, unit, own_network=own_network)

        launcher = Launcher(
            on_exit=exited,
            on_empty=emptied,
            on_lost=lambda: _note_loss(bus),
            on_network=lambda unit, sandbox, fds: this.opened(unit, sandbox, fds),
            sole_parent=True,
            state_dir=paths.state_dir,
            tier="auto" if tier == "pidns" else tier,
            pid_namespace=tier == "pidns",
        )
        ordinary_user = os.getuid() != 0 and "INVOCATION_ID" not in os.environ
        host = make_host(
            config,
            paths,
            launcher,
            lambda spec: this.tenant_rooms.accounts.floor(spec),
            lambda name: limits_in_kernel(this.tenants.find(name)),
            access,
        )
        zygotes = zygote_pool(
            launcher, host, bus, logs, store.generation, on_exit=exited, on_empty=emptied
        )
        commands = Commands(launcher, host, store.generation)
        logins = Logins(
            TokenStore(paths.state_dir, host.environ.get("CREDENTIALS_DIRECTORY")),
            Steps(commands, host),
            bus.publish,
        )
        shared = Shared(
            launcher=launcher,
            zygotes=ColdStarts(launcher, bus) if zygotes is None else zygotes,
            bus=bus,
            event_history=event_history,
            store=store,
            incarnations=Incarnations(store),
            checkpoints=Checkpoints(store, bus, lambda name: this.recovery_of(name)),
            logs=logs,
            generation=store.generation,
            host=host,
            stall_clock=StallClock(),
            alert_counts=Counts(),
            probes=Probes(commands),
            tokens=logins,
            starting=asyncio.Semaphore(config.process.start_concurrency),
        )
        exports = Exports(config.telemetry, store.generation, bus)
        await exports.follow(logs, stack)
        tracer = exports.tracer(stack)
        this = cls(
            config, paths, shared, daemon_log, forwarding, audit, zygotes, tracer, exports, logins
        )
        stack.push_async_callback(this.gathered.end)
        stack.callback(this.activation.close)
        stack.push_async_callback(this.tenant_rooms.trees.close)
        await launcher.start()
        stack.push_async_callback(launcher.close)
        stack.push_async_callback(this.egress.end)
        stack.push_async_callback(this.models.end)
        if zygotes is not None:
            stack.push_async_callback(zygotes.close)
        await this.tenants.load()
        await take_up(store, this.tenants, paths.state_dir)
        await this.tenant_rooms.accounts.prepare()
        await this.agents.load(built_in(config, paths, ordinary_user, host.default_user))
        await this.hibernation.load()
        await this.successes.load()
        await this.tokens.load()
        await this.deployments.load()
        await this.packages.load()
        await this.approvals.load()
        stack.callback(this.approvals.close)
        await this.models.ledger.load()
        await this.tasks.load(this._recover_usage)
        if this.schedules is not None:
            await this.schedules.load(config)
        return this

    def control(
        self, started: float, http_address: Callable[[], str | None], http_note: Callable[[], str]
    ) -> tuple[Control, AgentServices]:
        """Makes the method table, and the services over HTTP that it has.

        Args:
            started: when the daemon began, on the monotonic clock.
            http_address: returns where HTTP is served, None if nowhere.
            http_note: returns what is to be said of that.
        """
        config_path = None if self.paths.config is None else str(self.paths.config)
        services = AgentServices(
            self.agents,
            self.shared,
            lambda: self._service_opener(control),
            self.config.daemon.http_token_file or str(self.paths.state_dir / "http.token"),
        )
        daemon = DaemonFacts(
            started,
            str(self.paths.socket),
            str(self.paths.state_dir),
            config_path,
            lambda: read_config(self.paths.config),
            self.daemon_log,
            self.forwarding,
            http_address,
            http_note,
            services,
            self.activation,
            self.cluster,
        )
        status = StatusReport(
            self.shared,
            self.agents,
            self.tasks,
            self.pool,
            self.limits,
            self.audit,
            self.statistics,
            daemon,
        )
        status_cache = StatusCache(status, self.agents, self.tasks, self.shared.logs)
        self.service.changes.subscribe(status_cache.note, load=True)
        status_feed = StatusFeed(status, self.agents, self.shared.bus)
        self.service.changes.subscribe(status_feed.note, load=True)

        def sampled(supervisor: WorkerSupervisor) -> None:
            status_cache.note(supervisor)
            status_feed.note(supervisor)

        self.limits.subscribe(sampled)
        control = Control(
            shared=self.shared,
            agents=self.agents,
            hibernation=self.hibernation,
            tasks=self.tasks,
            optional_schedules=self.schedules,
            memory=self.memory,
            memory_expiry=self.memory_expiry,
            memory_listing=Listing(self.shared.store, self.memory),
            pool=self.pool,
            tool_calls=self.tool_calls,
            pubsub=self.pubsub,
            audit=self.audit,
            packages=self.packages,
            disk_use=self.tenant_rooms.disk_use,
            costs=self.costs,
            approvals=self.approvals,
            logins=self.logins,
            tokens=self.tokens,
            tenants=self.tenants,
            accounts=self.tenant_rooms.accounts,
            statistics=self.statistics,
            metrics=self.metrics,
            quotas=self.quotas,
            turns=self.turns,
            stores=self.stores,
            models=self.models.listing,
            daemon=daemon,
            status=status,
            status_cache=status_cache,
            status_feed=status_feed,
            backups=Backups(self.paths.state_dir),
            services=services,
            deployments=self.deployments,
            execs=self.execs,
            methods=METHODS,
            optional_cluster=self.cluster,
        )
        if self.cluster is not None:
            self.cluster.forwarding.bind(control)
        return control, services

    def _service_opener(self, control: Control) -> "Listen":
        from .web import service_opener  # noqa: PLC0415  # aiohttp costs 16 MB: only who wants HTTP pays

        return service_opener(control, self.config.daemon, self.paths.state_dir)

    def _composite(self, name: str) -> str | None:
        """Returns the kind of a team or workflow, "team" or "workflow"; None for other names."""
        found = self.agents.groups.by_name.get(name)
        return None if found is None else kind_of_group(found)

    def recovery_of(self, name: str) -> Recovery:
        """Returns the `[recovery]` of an agent; the common one where it is no more."""
        spec = self._spec_of(name)
        return self.agents.config.defaults.recovery if spec is None else spec.recovery

    def _spec_of(self, name: str) -> Spec | None:
        agent = self.agents.agents.get(name)
        return None if agent is None else agent.spec

    def _expanded(self, store: DeclaredStore, agent: str) -> str:
        """Returns the address of a store with the secrets that an agent gets."""
        return self.shared.host.secrets.expand({store.name: store.url}, agent, "store")[store.name]

    def exited(self, report: Exit) -> None:
        """Handles the death of a leader: a zygote's, a worker's, or a command's."""
        if self._zygotes is not None and self._zygotes.exited(report):
            return
        self.shared.probes.commands.exited(report)
        self.execs.exited(report)
        self.agents.exited(report)

    def emptied(self, unit: str) -> None:
        """Handles the end of a unit's last process."""
        if self._zygotes is not None and self._zygotes.emptied(unit):
            return
        self.shared.probes.commands.emptied(unit)
        self.execs.emptied(unit)
        self.egress.close(unit)
        self.models.gateway.close(unit)
        self.agents.emptied(unit)
        self.activation.ended(unit)

    def opened(self, unit: str, sandbox: Sandbox, fds: Sequence[int]) -> None:
        """Handles the listening sockets in the network of a worker."""
        for fd in self.models.opened(unit, sandbox, fds).values():
            self.egress.open(unit, sandbox, fd)

    async def _recover_usage(self, uncounted: Collection[str]) -> None:
        for task in await self.models.desk.recover(uncounted, self.tasks.records.find):
            self.costs.ended(task)

    def _untasked(self, agent: str, tokens: int, cost_cents: float) -> None:
        self.statistics.used(agent, tokens, cost_cents)
        self.costs.used(agent, tokens, cost_cents)

    def _note_refused_host(self, facts: Mapping[str, object]) -> None:
        agent = str(facts["agent"])
        who = {"agent": agent}
        record = {"at": now(), "action": "network.connect", "who": who, "names": [agent], **facts}
        self.audit.add({**record, "result": "AccessDenied"})

    def _note_refused(self, server: str, limit: int, wait_s: float) -> None:
        reason = f"max_calls_per_minute = {limit} is used up"
        self.shared.bus.publish(
            "limit.calls", agent=server, limit=limit, wait_s=round(wait_s, 3), reason=reason
        )


def _cluster(config: Config, shared: Shared, agents: Agents) -> "ClusterNode | None":
    """Makes this daemon's part of its cluster, if it is to join one.

    Raises:
        InvalidParams: the client of the engine is not installed, or the host's name cannot be that of a node.
    """
    if config.cluster is None:
        return None
    from .cluster_node.compose import make_node  # noqa: PLC0415  # only who wants a cluster pays

    return make_node(config.cluster, shared, agents)


def _user(agent: Agent) -> User:
    runs = any(supervisor.worker.state in UP for supervisor in agent.supervisors)
    return User(agent.name, agent.spec.stores, runs)


async def _note_clean_end(event_history: EventHistory, bus: Bus, audit: Audit) -> None:
    await audit.close()
    await _note_head(audit)
    await event_history.end(bus.publish("daemon.stopped").seq)


async def _forwarding(
    config: Config, logs: LogStore, bus: Bus, stack: contextlib.AsyncExitStack
) -> Forwarding:
    """Returns the copying of output to the journal, which ends when the last worker has ended."""
    forwarding = Forwarding(logs, bus)
    stack.push_async_callback(forwarding.close)
    forwarding.want(config.daemon.journal)
    await forwarding.placed()
    return forwarding


async def _note_head(audit: Audit) -> None:
    """Logs the audit's head: kept apart from the store, it shows later whether the store was changed."""
    with contextlib.suppress(CorralError):  # an unreadable record is reported when it is verified
        head = (await audit.chain()).head
        logger.info("audit head", extra={"fields": {"audit_head": str(head)}})


def _note_loss(bus: Bus) -> None:
    bus.publish("daemon.launcher_lost")
