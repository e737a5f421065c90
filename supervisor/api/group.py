"""Makes what counts (statistics, costs, the figures kept over time), and the method table with what serves its methods."""

from dataclasses import dataclass
from functools import partial

from corral.supervisor.agents.group import AgentsGroup
from corral.supervisor.config.spec.spec import kind_of_group
from corral.supervisor.models.group import ModelsGroup
from corral.supervisor.records.backup.backups import Backups
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.records.memory.listing import Listing
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.workers.group import WorkersGroup
from corral.worker.methods.table import METHODS

from .agent_methods.agent import AgentMethods
from .agent_methods.exec import ExecMethods
from .agent_methods.group import GroupMethods
from .agent_methods.mcp import LoginMethods, McpMethods
from .agent_methods.package import DeploymentMethods, PackageMethods
from .agent_methods.revision import RevisionMethods
from .daemon_methods.access import AccessMethods, AuditMethods, SecretMethods
from .daemon_methods.backup import BackupMethods, TransferMethods
from .daemon_methods.daemon import DaemonMethods, DoctorMethods, NodeMethods, StatusMethods
from .daemon_methods.event import EventMethods, LogMethods
from .daemon_methods.runtime import RuntimeMethods
from .daemon_methods.tenant import Forget, RemovalMethods, RunningSet, TenantMethods, forget_secrets, forget_tokens
from .metrics.collector import Collector
from .metrics.statistics import Statistics
from .metrics.view import MetricsView
from .reports.costs import CostSums
from .reports.timeline import TaskLines
from .table.handlers import handlers_of
from .table.inventory import Inventory
from .table.quotas import Quotas
from .table.status import DaemonFacts, StatusReport
from .table.status_feed import StatusCache, StatusFeed
from .table.table import Admission, CallAudit, Control
from .task_methods.report import ReportMethods
from .task_methods.schedule import ScheduleMethods
from .task_methods.state import CheckpointMethods, MemoryMethods
from .task_methods.task import ApprovalMethods, InboxMethods, TaskMethods


@dataclass(frozen=True, slots=True)
class FiguresGroup:
    """Holds what other groups use of the figures of one daemon."""

    statistics: Statistics
    costs: CostSums
    collector: Collector
    metrics: MetricsView
    quotas: Quotas


def make_figures(
    records: RecordsGroup,
    workers: WorkersGroup,
    tenants: TenantsGroup,
    agents: AgentsGroup,
    tasks: TasksGroup,
    models: ModelsGroup,
) -> FiguresGroup:
    """Makes them; they count from now on."""
    running, store = agents.agents, records.store

    def kind_of(name: str) -> str | None:
        found = running.groups.by_name.get(name)
        return None if found is None else kind_of_group(found)

    statistics = Statistics(workers.shared, running, workers.limits, kind_of, tasks.call_rates, tasks.budgets.used)
    costs = CostSums(store, gathered=records.gathered)
    tasks.routing.rate_by(statistics.recent_success_rate)
    tasks.accounting.subscribe(statistics.used)
    tasks.call_records.subscribe(statistics.called)
    tasks.writer.subscribe(statistics)
    tasks.writer.subscribe(costs)
    models.desk.subscribe(statistics.used)
    models.desk.subscribe(costs.used)
    models.measured.subscribe(costs.ended)
    collector = Collector(statistics, workers.limits, running, tasks.tasks, store, records.state_dir)
    records.in_force.subscribe(lambda _: collector.reloaded())
    quotas = Quotas(running, tasks, agents.pool, tenants.tenants, tenants.task_limits, tenants.measured)
    return FiguresGroup(statistics, costs, collector, MetricsView(collector, statistics, running), quotas)


@dataclass(frozen=True, slots=True)
class Served:
    """Holds the groups that the methods of the table are about."""

    records: RecordsGroup
    workers: WorkersGroup
    tenants: TenantsGroup
    agents: AgentsGroup
    tasks: TasksGroup
    models: ModelsGroup
    figures: FiguresGroup


@dataclass(frozen=True, slots=True)
class ApiGroup:
    """Holds what faces, and other nodes of a cluster, use of the method table of one daemon."""

    control: Control
    status: StatusReport
    inventory: Inventory


def make_api(groups: Served, daemon: DaemonFacts) -> ApiGroup:
    """Makes the method table, and what serves its methods."""
    records, tenants, tasks, figures = groups.records, groups.tenants, groups.tasks, groups.figures
    agents, registry, audit = groups.agents.agents, groups.agents.agents.registry, records.audit
    status = StatusReport(records, groups.workers, agents, tasks, groups.agents.pool, figures.statistics, daemon)
    inventory = Inventory(
        registry, tasks.tasks, groups.workers.checkpoints, tasks.schedules, tasks.approvals, groups.agents.deployments
    )
    methods = [*_of_agents(groups, status, daemon), *_of_tasks(groups), *_of_daemon(groups, status, daemon)]
    control = Control(
        METHODS,
        handlers_of(methods),
        Admission(records.in_force, tenants.tenants, tenants.accounts, registry, records.logs, inventory, audit),
        CallAudit(audit, tasks.tool_calls, registry),
        tenants.turns,
        figures.statistics,
        daemon.joined,
    )
    return ApiGroup(control, status, inventory)


def _of_agents(groups: Served, status: StatusReport, daemon: DaemonFacts) -> list[object]:
    agents, bus, disk_use = groups.agents.agents, groups.records.bus, groups.tenants.disk_use
    return [
        AgentMethods(
            agents,
            status,
            groups.figures.statistics,
            groups.agents.hibernation,
            daemon.services,
            groups.tenants.tenants,
            bus,
        ),
        DeploymentMethods(groups.agents.deployments, disk_use, bus),
        ExecMethods(agents, groups.workers.execs, groups.records.audit),
        GroupMethods(agents, status),
        LoginMethods(agents, groups.agents.logins),
        McpMethods(agents, status, groups.agents.pool, groups.tasks.tool_calls),
        PackageMethods(groups.agents.packages, disk_use),
        RevisionMethods(agents),
        RuntimeMethods(agents, status, groups.agents.stores, groups.models.listing, groups.figures.metrics),
        SecretMethods(agents, groups.tenants.tenants, groups.workers.host.secrets),
    ]


def _of_tasks(groups: Served) -> list[object]:
    agents, tasks, tool_calls = groups.agents.agents, groups.tasks.tasks, groups.tasks.tool_calls
    bus, history, logs = groups.records.bus, groups.records.history, groups.records.logs
    lines = TaskLines(bus, history, logs, groups.workers.shared.task_moments)
    return [
        ApprovalMethods(groups.tasks.approvals),
        InboxMethods(groups.tasks.inbox),
        CheckpointMethods(agents, groups.agents.hibernation, groups.workers.checkpoints),
        LogMethods(agents, tasks, logs, lines),
        MemoryMethods(
            agents,
            groups.agents.memory,
            groups.agents.memory_expiry,
            Listing(groups.records.store, groups.agents.memory),
        ),
        ReportMethods(tasks, groups.figures.costs, tool_calls, lines, bus, history, logs),
        ScheduleMethods(groups.tasks.schedules, agents),
        TaskMethods(tasks, tool_calls, bus),
    ]


def _of_daemon(groups: Served, status: StatusReport, daemon: DaemonFacts) -> list[object]:
    agents, tenants, joined = groups.agents.agents, groups.tenants.tenants, daemon.joined
    store, bus, statistics = groups.records.store, groups.records.bus, groups.figures.statistics
    running = RunningSet(
        agents, groups.agents.hibernation, groups.tasks.tasks, groups.tasks.schedules, groups.agents.memory
    )
    forgetting: list[Forget] = [
        groups.agents.deployments.forget,
        groups.agents.packages.forget,
        running.forget,
        partial(forget_tokens, groups.tenants.tokens),
        partial(forget_secrets, groups.workers.host.secrets.store),
        groups.figures.costs.forget,
        groups.workers.shared.incarnations.forget,
        groups.figures.metrics.forget,
        groups.models.ledger.forget,
        groups.tasks.inbox.forget,
    ]
    cache, feed = _follow_status(groups, status)
    return [
        AccessMethods(groups.tenants.tokens, tenants, joined),
        AuditMethods(groups.records.audit),
        BackupMethods(Backups(groups.records.state_dir), daemon, agents, store, bus),
        DaemonMethods(agents, groups.tasks.tasks, daemon, METHODS),
        DoctorMethods(agents, status, daemon, groups.models.listing, groups.tenants, store, groups.workers),
        EventMethods(bus, groups.records.history, groups.tasks.pubsub),
        NodeMethods(joined),
        RemovalMethods(tenants, agents, store, bus, groups.records.state_dir, forgetting),
        StatusMethods(agents, status, cache, feed, statistics, groups.figures.quotas),
        TenantMethods(
            agents, tenants, groups.tenants.accounts, groups.agents.hibernation, groups.workers.launcher, bus
        ),
        TransferMethods(agents, groups.tasks.schedules),
    ]


def _follow_status(groups: Served, status: StatusReport) -> tuple[StatusCache, StatusFeed]:
    cache = StatusCache(status, groups.agents.agents, groups.tasks.tasks, groups.records.logs)
    feed = StatusFeed(status, groups.agents.agents, groups.records.bus)
    for note in (cache.note, feed.note):
        groups.workers.changes.subscribe(note, load=True)
        groups.workers.limits.subscribe(note)
    return cache, feed
