"""Composes the method table and what serves its methods, from the rooms."""

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
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.methods.table import METHODS

from ..host.installation import read_config
from .rooms import Rooms


@dataclass(frozen=True, slots=True)
class ApiGroup:
    """Holds what faces use of the method table of one daemon."""

    control: Control
    status: StatusReport
    web: WebPlace


def make_api(rooms: Rooms, started: float, services: Services) -> ApiGroup:
    """Makes the method table, and what serves its methods."""
    joined, web = JoinedCluster(), WebPlace()
    daemon = DaemonFacts(
        started,
        str(rooms.paths.socket),
        str(rooms.paths.state_dir),
        None if rooms.paths.config is None else str(rooms.paths.config),
        partial(read_config, rooms.paths.config),
        rooms.daemon_log,
        rooms.forwarding,
        rooms.audit,
        web,
        services,
        rooms.activation,
        joined,
    )
    registry, shared, audit = rooms.agents.registry, rooms.shared, rooms.audit
    status = StatusReport(shared, rooms.agents, rooms.tasks, rooms.pool, rooms.limits, rooms.statistics, daemon)
    inventory = Inventory(
        registry, rooms.tasks, shared.checkpoints, rooms.schedules, rooms.approvals, rooms.deployments
    )
    methods = [*_of_agents(rooms, status, daemon), *_of_tasks(rooms), *_of_daemon(rooms, status, daemon)]
    control = Control(
        METHODS,
        handlers_of(methods),
        Admission(rooms.in_force, rooms.tenants, rooms.tenant_rooms.accounts, registry, shared.logs, inventory, audit),
        CallAudit(audit, rooms.tool_calls, registry),
        rooms.turns,
        rooms.statistics,
        joined,
    )
    if rooms.cluster is not None:
        joined.join(rooms.cluster)
        rooms.cluster.forwarding.answer_with(control, inventory)
    return ApiGroup(control, status, web)


def _of_agents(rooms: Rooms, status: StatusReport, daemon: DaemonFacts) -> list[object]:
    """Returns what serves the methods about agents and servers."""
    agents, bus, disk_use = rooms.agents, rooms.shared.bus, rooms.tenant_rooms.disk_use
    return [
        AgentMethods(agents, status, rooms.statistics, rooms.hibernation, daemon.services, rooms.tenants, bus),
        DeploymentMethods(rooms.deployments, disk_use, bus),
        ExecMethods(agents, rooms.execs, rooms.audit),
        GroupMethods(agents, status),
        LoginMethods(agents, rooms.logins),
        McpMethods(agents, status, rooms.pool, rooms.tool_calls),
        PackageMethods(rooms.packages, disk_use),
        RevisionMethods(agents),
        RuntimeMethods(agents, status, rooms.stores, rooms.models.listing, rooms.metrics),
        SecretMethods(agents, rooms.tenants, rooms.shared.host.secrets),
    ]


def _of_tasks(rooms: Rooms) -> list[object]:
    """Returns what serves the methods about tasks and what agents remember."""
    agents, shared, tasks, tool_calls = rooms.agents, rooms.shared, rooms.tasks, rooms.tool_calls
    bus, history, logs = shared.bus, shared.event_history, shared.logs
    lines = TaskLines(bus, history, logs, shared.task_moments)
    return [
        ApprovalMethods(rooms.approvals),
        CheckpointMethods(agents, rooms.hibernation, shared.checkpoints),
        LogMethods(agents, tasks, logs, lines),
        MemoryMethods(agents, rooms.memory, rooms.memory_expiry, Listing(shared.store, rooms.memory)),
        ReportMethods(tasks, rooms.costs, tool_calls, lines, bus, history, logs),
        ScheduleMethods(rooms.schedules, agents),
        TaskMethods(tasks, tool_calls, bus),
    ]


def _of_daemon(rooms: Rooms, status: StatusReport, daemon: DaemonFacts) -> list[object]:
    """Returns what serves the methods about the daemon, its tenants and its state."""
    agents, shared, tenants, joined = rooms.agents, rooms.shared, rooms.tenants, daemon.joined
    store, bus, statistics = shared.store, shared.bus, rooms.statistics
    running = RunningSet(agents, rooms.hibernation, rooms.tasks, rooms.schedules, rooms.memory)
    forgetting: list[Forget] = [
        rooms.deployments.forget,
        rooms.packages.forget,
        running.forget,
        partial(forget_tokens, rooms.tokens),
        partial(forget_secrets, shared.host.secrets.store),
        rooms.costs.forget,
        shared.incarnations.forget,
        rooms.metrics.forget,
        rooms.models.ledger.forget,
    ]
    cache, feed = _follow_status(rooms, status)
    return [
        AccessMethods(rooms.tokens, tenants, joined),
        AuditMethods(rooms.audit),
        BackupMethods(Backups(rooms.paths.state_dir), daemon, agents, store, bus),
        DaemonMethods(agents, rooms.tasks, daemon, METHODS),
        DoctorMethods(agents, status, daemon, rooms.models.listing, tenants, rooms.tenant_rooms.accounts, shared),
        EventMethods(bus, shared.event_history, rooms.pubsub),
        NodeMethods(joined),
        RemovalMethods(tenants, agents, store, bus, rooms.paths.state_dir, forgetting),
        StatusMethods(agents, status, cache, feed, statistics, rooms.quotas),
        TenantMethods(agents, tenants, rooms.tenant_rooms.accounts, rooms.hibernation, shared.launcher, bus),
        TransferMethods(agents, rooms.schedules),
    ]


def _follow_status(rooms: Rooms, status: StatusReport) -> tuple[StatusCache, StatusFeed]:
    """Makes the cache and the feed of the status, which follow the changes and the samples of workers."""
    cache = StatusCache(status, rooms.agents, rooms.tasks, rooms.shared.logs)
    feed = StatusFeed(status, rooms.agents, rooms.shared.bus)

    def sampled(supervisor: WorkerSupervisor) -> None:
        cache.note(supervisor)
        feed.note(supervisor)

    rooms.workers.changes.subscribe(sampled, load=True)
    rooms.limits.subscribe(sampled)
    return cache, feed
