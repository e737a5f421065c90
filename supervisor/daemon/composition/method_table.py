"""Composes the method table, and what it alone needs: status, its cache and feed, and services over HTTP."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from corral.supervisor.api.daemon_methods.all import HANDLERS
from corral.supervisor.api.table.status import DaemonFacts, StatusReport
from corral.supervisor.api.table.status_cache import StatusCache
from corral.supervisor.api.table.status_feed import StatusFeed
from corral.supervisor.api.table.table import Control
from corral.supervisor.faces.services.services import AgentServices
from corral.supervisor.records.backup.backups import Backups
from corral.supervisor.records.memory.listing import Listing
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.methods.table import METHODS

from ..host.installation import read_config
from .rooms import Rooms

if TYPE_CHECKING:
    from corral.supervisor.faces.services.services import Listen


def make_control(
    rooms: Rooms, started: float, http_address: Callable[[], str | None], http_note: Callable[[], str]
) -> tuple[Control, AgentServices]:
    """Makes the method table, and the services over HTTP that it has."""
    config_path = None if rooms.paths.config is None else str(rooms.paths.config)
    services = AgentServices(
        rooms.agents,
        rooms.shared,
        lambda: _service_opener(rooms, control),
        rooms.config.daemon.http_token_file or str(rooms.paths.state_dir / "http.token"),
    )
    daemon = DaemonFacts(
        started,
        str(rooms.paths.socket),
        str(rooms.paths.state_dir),
        config_path,
        lambda: read_config(rooms.paths.config),
        rooms.daemon_log,
        rooms.forwarding,
        http_address,
        http_note,
        services,
        rooms.activation,
        rooms.cluster,
    )
    status, status_cache, status_feed = _make_status(rooms, daemon)
    control = Control(
        shared=rooms.shared,
        agents=rooms.agents,
        hibernation=rooms.hibernation,
        tasks=rooms.tasks,
        schedules=rooms.schedules,
        memory=rooms.memory,
        memory_expiry=rooms.memory_expiry,
        memory_listing=Listing(rooms.shared.store, rooms.memory),
        pool=rooms.pool,
        tool_calls=rooms.tool_calls,
        pubsub=rooms.pubsub,
        audit=rooms.audit,
        packages=rooms.packages,
        disk_use=rooms.tenant_rooms.disk_use,
        costs=rooms.costs,
        approvals=rooms.approvals,
        logins=rooms.logins,
        tokens=rooms.tokens,
        tenants=rooms.tenants,
        accounts=rooms.tenant_rooms.accounts,
        statistics=rooms.statistics,
        metrics=rooms.metrics,
        quotas=rooms.quotas,
        turns=rooms.turns,
        stores=rooms.stores,
        models=rooms.models.listing,
        daemon=daemon,
        status=status,
        status_cache=status_cache,
        status_feed=status_feed,
        backups=Backups(rooms.paths.state_dir),
        services=services,
        deployments=rooms.deployments,
        execs=rooms.execs,
        methods=METHODS,
        handlers=HANDLERS,
        optional_cluster=rooms.cluster,
    )
    if rooms.cluster is not None:
        rooms.cluster.forwarding.bind(control)
    return control, services


def _make_status(rooms: Rooms, daemon: DaemonFacts) -> tuple[StatusReport, StatusCache, StatusFeed]:
    """Makes the status, its cache and its feed, which follow the changes and the samples of workers."""
    status = StatusReport(
        rooms.shared, rooms.agents, rooms.tasks, rooms.pool, rooms.limits, rooms.audit, rooms.statistics, daemon
    )
    status_cache = StatusCache(status, rooms.agents, rooms.tasks, rooms.shared.logs)
    rooms.workers.changes.subscribe(status_cache.note, load=True)
    status_feed = StatusFeed(status, rooms.agents, rooms.shared.bus)
    rooms.workers.changes.subscribe(status_feed.note, load=True)

    def sampled(supervisor: WorkerSupervisor) -> None:
        status_cache.note(supervisor)
        status_feed.note(supervisor)

    rooms.limits.subscribe(sampled)
    return status, status_cache, status_feed


def _service_opener(rooms: Rooms, control: Control) -> "Listen":
    from .web import service_opener  # noqa: PLC0415  # aiohttp costs 16 MB: only who wants HTTP pays

    return service_opener(control, rooms.config.daemon, rooms.paths.state_dir)
