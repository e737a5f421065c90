"""Makes what is written down: events, the audit, logs and what is exported of them, upon the open store."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corral.supervisor.config.spec.in_force import InForce
from corral.worker.contract.errors import CorralError

from .audit.log import Audit
from .events.bus import Bus
from .events.history import EventHistory
from .logs.forwarder import Forwarding
from .logs.store import LogStore
from .store.gathered import Gathered
from .store.store import Store
from .telemetry.exports import Exports
from .telemetry.tracing import Tracing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordsGroup:
    """Holds what other groups use of the records of one daemon."""

    in_force: InForce
    state_dir: Path
    store: Store
    bus: Bus
    history: EventHistory
    audit: Audit
    logs: LogStore
    forwarding: Forwarding
    gathered: Gathered
    exports: Exports
    tracing: Tracing


async def make_records(
    in_force: InForce,
    state_dir: Path,
    store: Store,
    stack: contextlib.AsyncExitStack,
    last_event: Callable[[], str] = lambda: "daemon.stopped",
) -> RecordsGroup:
    """Makes them for the state folder of the store; `stack` ends them, with an event of the type `last_event`."""
    config = in_force.config
    history = await EventHistory.open(store, in_force)
    logs = LogStore(state_dir / "logs", unclean=not history.was_clean)
    stack.callback(logs.close)
    bus = Bus(history.first_seq, history.keep, reserve=history.reserve)
    audit = await Audit.open(store, in_force)
    await _log_head(audit)
    stack.push_async_callback(_end_cleanly, history, bus, audit, last_event)
    forwarding = Forwarding(logs, bus)
    stack.push_async_callback(forwarding.close)  # after the last worker has ended
    forwarding.want(config.daemon.journal)
    await forwarding.placed()
    in_force.subscribe(lambda config: forwarding.want(config.daemon.journal))
    exports = Exports(config.telemetry, store.generation, bus)
    await exports.follow(logs, stack)
    tracing = exports.tracing(stack)
    gathered = Gathered(store)
    stack.push_async_callback(gathered.end)
    return RecordsGroup(in_force, state_dir, store, bus, history, audit, logs, forwarding, gathered, exports, tracing)


async def _log_head(audit: Audit) -> None:
    """Logs the audit's head: kept apart from the store, it shows later whether the store was changed."""
    with contextlib.suppress(CorralError):  # an unreadable record is reported when it is verified
        head = (await audit.chain()).head
        logger.info("audit head", extra={"fields": {"audit_head": str(head)}})


async def _end_cleanly(history: EventHistory, bus: Bus, audit: Audit, last_event: Callable[[], str]) -> None:
    await audit.close()
    await _log_head(audit)
    await history.end(bus.publish(last_event()).seq)
