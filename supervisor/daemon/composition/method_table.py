"""Composes the method table and what serves its methods, from the groups."""

from dataclasses import dataclass
from functools import partial

from corral.supervisor.api.agent_methods.agent import AgentMethods
from corral.supervisor.api.agent_methods.deployment import DeploymentMethods
from corral.supervisor.api.agent_methods.exec import ExecMethods
from corral.supervisor.api.agent_methods.group import GroupMethods
from corral.supervisor.api.agent_methods.login import LoginMethods
from corral.supervisor.api.agent_methods.mcp import McpMethods
from corral.supervisor.api.agent_methods.package import PackageMethods
from corral.supervisor.api.agent_methods.revision import RevisionMethods
from corral.supervisor.api.daemon_methods.access import AccessMethods
from corral.supervisor.api.daemon_methods.audit import AuditMethods
from corral.supervisor.api.daemon_methods.backup import BackupMethods
from corral.supervisor.api.daemon_methods.daemon import DaemonMethods
from corral.supervisor.api.daemon_methods.doctor import DoctorMethods
from corral.supervisor.api.daemon_methods.event import EventMethods
from corral.supervisor.api.daemon_methods.log import LogMethods
from corral.supervisor.api.daemon_methods.node import NodeMethods
from corral.supervisor.api.daemon_methods.removal import (
    Forget,
    RemovalMethods,
    RunningSet,
    forget_secrets,
    forget_tokens,
)
from corral.supervisor.api.daemon_methods.runtime import RuntimeMethods
from corral.supervisor.api.daemon_methods.secret import SecretMethods
from corral.supervisor.api.daemon_methods.status import StatusMethods
from corral.supervisor.api.daemon_methods.tenant import TenantMethods
from corral.supervisor.api.daemon_methods.transfer import TransferMethods
from corral.supervisor.api.reports.task_lines import TaskLines
from corral.supervisor.api.table.admission import Admission
from corral.supervisor.api.table.call_record import CallAudit
from corral.supervisor.api.table.cluster import JoinedCluster
from corral.supervisor.api.table.handlers import handlers_of
from corral.supervisor.api.table.inventory import Inventory
from corral.supervisor.api.table.status import DaemonFacts, Services, StatusReport, WebPlace
from corral.supervisor.api.table.status_cache import StatusCache
from corral.supervisor.api.table.status_feed import StatusFeed
from corral.supervisor.api.table.table import Control
from corral.supervisor.api.task_methods.approval import ApprovalMethods
from corral.supervisor.api.task_methods.checkpoint import CheckpointMethods
from corral.supervisor.api.task_methods.memory import MemoryMethods
from corral.supervisor.api.task_methods.report import ReportMethods
from corral.supervisor.api.task_methods.schedule import ScheduleMethods
from corral.supervisor.api.task_methods.task import TaskMethods
from corral.supervisor.records.backup.backups import Backups
from corral.supervisor.records.memory.listing import Listing
from corral.worker.methods.table import METHODS

from ..host.installation import read_config
from .groups import Groups


@dataclass(frozen=True, slots=True)
class ApiGroup:
    """Holds what faces use of the method table of one daemon."""

    control: Control
    status: StatusReport
    web: WebPlace


def make_api(groups: Groups, started: float, services: Services) -> ApiGroup:
    """Makes the method table, and what serves its methods."""
    joined, web = JoinedCluster(), WebPlace()
    daemon = DaemonFacts(
        started,
        str(groups.paths.socket),
        str(groups.paths.state_dir),
        None if groups.paths.config is None else str(groups.paths.config),
        partial(read_config, groups.paths.config),
        groups.daemon_log,
        groups.records.forwarding,
        groups.records.audit,
        web,
        services,
        groups.agents.activation,
        joined,
    )
    registry, audit = groups.agents.agents.registry, groups.records.audit
    status = StatusReport(
        groups.records,
        groups.workers,
        groups.agents.agents,
        groups.tasks.tasks,
        groups.agents.pool,
        groups.figures.statistics,
        daemon,
    )
    inventory = Inventory(
        registry,
        groups.tasks.tasks,
        groups.workers.checkpoints,
        groups.tasks.schedules,
        groups.tasks.approvals,
        groups.agents.deployments,
    )
    methods = [*_of_agents(groups, status, daemon), *_of_tasks(groups), *_of_daemon(groups, status, daemon)]
    control = Control(
        METHODS,
        handlers_of(methods),
        Admission(
            groups.records.in_force,
            groups.tenants.tenants,
            groups.tenants.accounts,
            registry,
            groups.records.logs,
            inventory,
            audit,
        ),
        CallAudit(audit, groups.tasks.tool_calls, registry),
        groups.tenants.turns,
        groups.figures.statistics,
        joined,
    )
    if groups.cluster is not None:
        joined.join(groups.cluster)
        groups.cluster.forwarding.answer_with(control, inventory)
    return ApiGroup(control, status, web)


def _of_agents(groups: Groups, status: StatusReport, daemon: DaemonFacts) -> list[object]:
    """Returns what serves the methods about agents and servers."""
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


def _of_tasks(groups: Groups) -> list[object]:
    """Returns what serves the methods about tasks and what agents remember."""
    agents, tasks, tool_calls = groups.agents.agents, groups.tasks.tasks, groups.tasks.tool_calls
    bus, history, logs = groups.records.bus, groups.records.history, groups.records.logs
    lines = TaskLines(bus, history, logs, groups.workers.shared.task_moments)
    return [
        ApprovalMethods(groups.tasks.approvals),
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


def _of_daemon(groups: Groups, status: StatusReport, daemon: DaemonFacts) -> list[object]:
    """Returns what serves the methods about the daemon, its tenants and its state."""
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
    ]
    cache, feed = _follow_status(groups, status)
    return [
        AccessMethods(groups.tenants.tokens, tenants, joined),
        AuditMethods(groups.records.audit),
        BackupMethods(Backups(groups.paths.state_dir), daemon, agents, store, bus),
        DaemonMethods(agents, groups.tasks.tasks, daemon, METHODS),
        DoctorMethods(agents, status, daemon, groups.models.listing, groups.tenants, store, groups.workers),
        EventMethods(bus, groups.records.history, groups.tasks.pubsub),
        NodeMethods(joined),
        RemovalMethods(tenants, agents, store, bus, groups.paths.state_dir, forgetting),
        StatusMethods(agents, status, cache, feed, statistics, groups.figures.quotas),
        TenantMethods(
            agents, tenants, groups.tenants.accounts, groups.agents.hibernation, groups.workers.launcher, bus
        ),
        TransferMethods(agents, groups.tasks.schedules),
    ]


def _follow_status(groups: Groups, status: StatusReport) -> tuple[StatusCache, StatusFeed]:
    """Makes the cache and the feed of the status, which follow the changes and the samples of workers."""
    cache = StatusCache(status, groups.agents.agents, groups.tasks.tasks, groups.records.logs)
    feed = StatusFeed(status, groups.agents.agents, groups.records.bus)
    for note in (cache.note, feed.note):
        groups.workers.changes.subscribe(note, load=True)
        groups.workers.limits.subscribe(note)
    return cache, feed
