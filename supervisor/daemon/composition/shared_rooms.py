"""Composes the rooms that all others use: events, logs, the audit, the launcher, and the facts of the machine.

They are made first, and ask the others only once those are made, see `Others`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from corral.supervisor.agents.external.logins import Logins
from corral.supervisor.agents.external.steps import Steps
from corral.supervisor.agents.external.token_store import TokenStore
from corral.supervisor.agents.running.agents import Agents
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Config, Recovery, Spec
from corral.supervisor.models.desk.access import Access
from corral.supervisor.models.group import ModelsGroup
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.events.history import EventHistory
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.supervisor.records.logs.forwarder import Forwarding
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.records.store.incarnations import Incarnations
from corral.supervisor.records.store.store import Store
from corral.supervisor.records.telemetry.tracing import Tracer
from corral.supervisor.tenants.limits.slices import limits_in_kernel
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.process.command import Commands
from corral.supervisor.workers.process.launch import Host
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.supervision.alerts import Counts
from corral.supervisor.workers.supervision.checkpoints import Checkpoints
from corral.supervisor.workers.supervision.probes import Probes
from corral.supervisor.workers.supervision.shared import Shared, StallClock
from corral.supervisor.workers.zygote.pool import ZygotePool
from corral.worker.contract.errors import CorralError
from corral.worker.contract.names import tenant_of

from ..host.installation import Paths, make_host
from .exports import Exports
from .tenant_rooms import TenantRooms

logger = logging.getLogger(__name__)


class Others(Protocol):
    """Lists the rooms and the functions that the shared ones use once all are made."""

    @property
    def agents(self) -> Agents:
        """Returns the running set."""
        ...

    @property
    def turns(self) -> CallTurns:
        """Returns the turns of calls."""
        ...

    @property
    def models(self) -> ModelsGroup:
        """Returns the rooms of models."""
        ...

    @property
    def tenants(self) -> Tenants:
        """Returns the table of tenants."""
        ...

    @property
    def tenant_rooms(self) -> TenantRooms:
        """Returns the rooms of tenants."""
        ...

    def recovery_of(self, name: str) -> Recovery:
        """Returns the `[recovery]` of an agent."""
        ...


@dataclass(frozen=True)
class SharedRooms:
    """Holds the rooms that all others use, and what the daemon was started with."""

    config: Config
    in_force: InForce
    paths: Paths
    daemon_log: DaemonLog
    shared: Shared
    audit: Audit
    forwarding: Forwarding
    logins: Logins
    exports: Exports
    tracer: Tracer | None


async def make_shared_rooms(
    config: Config,
    paths: Paths,
    daemon_log: DaemonLog,
    store: Store,
    stack: contextlib.AsyncExitStack,
    others: Callable[[], Others],
) -> SharedRooms:
    """Makes them; `stack` takes them down, and `others` returns the other rooms once they are made."""
    in_force = InForce(config)
    event_history = await EventHistory.open(store, in_force)
    logs = LogStore(
        paths.state_dir / "logs",
        unclean=not event_history.was_clean,
        read_pause_s=lambda agent, size: others().turns.read_pause_s(tenant_of(agent), size),
    )
    stack.callback(logs.close)
    bus = Bus(event_history.first_seq, event_history.keep, reserve=event_history.reserve)
    audit = await Audit.open(store, in_force)
    await _note_head(audit)
    stack.push_async_callback(_note_clean_end, event_history, bus, audit)
    forwarding = await _forwarding(config, logs, bus, stack)
    launcher = _launcher(config, paths, bus)
    host = _host(config, paths, launcher, others)
    zygotes = ZygotePool(launcher, host, bus, logs, store.generation)
    commands = Commands(launcher, host, store.generation)
    tokens = TokenStore(paths.state_dir, host.environ.get("CREDENTIALS_DIRECTORY"))
    logins = Logins(tokens, Steps(commands, host), bus.publish)
    shared = Shared(
        launcher=launcher,
        zygotes=zygotes,
        bus=bus,
        event_history=event_history,
        store=store,
        incarnations=Incarnations(store),
        checkpoints=Checkpoints(store, bus, lambda name: others().recovery_of(name)),
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
    return SharedRooms(config, in_force, paths, daemon_log, shared, audit, forwarding, logins, exports, tracer)


def _launcher(config: Config, paths: Paths, bus: Bus) -> Launcher:
    tier = config.daemon.containment
    return Launcher(
        on_lost=lambda: _note_loss(bus),
        sole_parent=True,
        state_dir=paths.state_dir,
        tier="auto" if tier == "pidns" else tier,
        pid_namespace=tier == "pidns",
    )


def _host(config: Config, paths: Paths, launcher: Launcher, others: Callable[[], Others]) -> Host:
    def access(spec: Spec, unit: str, *, own_network: bool) -> Access:
        return others().models.access.of(spec, unit, own_network=own_network)

    return make_host(
        config,
        paths,
        launcher,
        lambda spec: others().tenant_rooms.accounts.floor(spec),
        lambda name: limits_in_kernel(others().tenants.find(name)),
        access,
    )


async def _note_clean_end(event_history: EventHistory, bus: Bus, audit: Audit) -> None:
    await audit.close()
    await _note_head(audit)
    await event_history.end(bus.publish("daemon.stopped").seq)


async def _forwarding(config: Config, logs: LogStore, bus: Bus, stack: contextlib.AsyncExitStack) -> Forwarding:
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
