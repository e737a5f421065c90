"""Composes the rooms that all others use: events, logs, the audit, the launcher, and the facts of the machine.

They are made first; what they ask of agents and tenants are the tables of these, which need nothing.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from corral.supervisor.agents.external.logins import Logins
from corral.supervisor.agents.external.steps import Steps
from corral.supervisor.agents.external.token_store import TokenStore
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.events.history import EventHistory
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.supervisor.records.logs.forwarder import Forwarding
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.records.store.incarnations import Incarnations
from corral.supervisor.records.store.store import Store
from corral.supervisor.records.telemetry.tracing import Tracer
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.process.command import Commands
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.supervision.alerts import Counts
from corral.supervisor.workers.supervision.checkpoints import Checkpoints
from corral.supervisor.workers.supervision.probes import Probes
from corral.supervisor.workers.supervision.shared import Shared, StallClock
from corral.supervisor.workers.zygote.pool import ZygotePool
from corral.worker.contract.errors import CorralError
from corral.worker.contract.names import tenant_of

from ..host.installation import Paths, default_user, make_host
from .exports import Exports

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedRooms:
    """Holds the rooms that all others use, and what the daemon was started with."""

    config: Config
    in_force: InForce
    registry: Registry
    turns: CallTurns
    tenants: Tenants
    accounts: Accounts
    paths: Paths
    daemon_log: DaemonLog
    shared: Shared
    audit: Audit
    forwarding: Forwarding
    logins: Logins
    exports: Exports
    tracer: Tracer | None


async def make_shared_rooms(
    config: Config, paths: Paths, daemon_log: DaemonLog, store: Store, stack: contextlib.AsyncExitStack
) -> SharedRooms:
    """Makes them; `stack` takes them down."""
    in_force = InForce(config)
    registry, turns = Registry(in_force), CallTurns(asyncio.get_running_loop())
    tenants, user = Tenants(store, in_force), default_user()
    accounts = Accounts(tenants, paths.state_dir, user)
    event_history = await EventHistory.open(store, in_force)
    logs = LogStore(
        paths.state_dir / "logs",
        unclean=not event_history.was_clean,
        read_pause_s=lambda agent, size: turns.read_pause_s(tenant_of(agent), size),
    )
    stack.callback(logs.close)
    bus = Bus(event_history.first_seq, event_history.keep, reserve=event_history.reserve)
    audit = await Audit.open(store, in_force)
    await _note_head(audit)
    stack.push_async_callback(_note_clean_end, event_history, bus, audit)
    forwarding = await _forwarding(config, logs, bus, stack)
    launcher = _launcher(config, paths, bus)

    host = make_host(config, paths, launcher, user)
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
        checkpoints=Checkpoints(store, bus, registry.recovery_of),
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
    return SharedRooms(
        config,
        in_force,
        registry,
        turns,
        tenants,
        accounts,
        paths,
        daemon_log,
        shared,
        audit,
        forwarding,
        logins,
        exports,
        tracer,
    )


def _launcher(config: Config, paths: Paths, bus: Bus) -> Launcher:
    tier = config.daemon.containment
    return Launcher(
        on_lost=lambda: _note_loss(bus),
        sole_parent=True,
        state_dir=paths.state_dir,
        tier="auto" if tier == "pidns" else tier,
        pid_namespace=tier == "pidns",
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
