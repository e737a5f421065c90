"""Applies retention: deletes rows and log files past their age or size limit."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable

from corral.supervisor.agents.kept.revisions import Revisions
from corral.supervisor.api.metrics.view import MetricsView
from corral.supervisor.api.reports.costs import CostSums
from corral.supervisor.config.spec.spec import Config, Spec, Tasks
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.records.events.history import EventHistory
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.records.memory.expiry import Expiry
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.run.table import Records, Retention
from corral.supervisor.tasks.worker_api.approvals import Approvals
from corral.supervisor.tasks.worker_api.call_history import CallHistory
from corral.supervisor.workers.supervision.checkpoints import Checkpoints
from corral.worker.contract.errors import CorralError

EXPIRY_S = 3600.0
"""Seconds between two runs."""

RETRY_S = 1.0
"""Seconds after which a run that the store refused is tried again, at the earliest."""

JUMP_S = 600.0
"""Seconds between the wall clock and the monotonic one that mean a jump: it was set, or the machine was suspended."""

logger = logging.getLogger(__name__)


async def expire(
    store: Store,
    logs: LogStore,
    event_history: EventHistory,
    audit: Audit,
    memory: Expiry,
    checkpoints: Checkpoints,
    call_history: CallHistory,
    costs: CostSums,
    revisions: Revisions,
    metrics: MetricsView,
    approvals: Approvals,
    config: Callable[[], Config],
    specs: Callable[[], Iterable[Spec]],
    reloaded: asyncio.Event,
) -> None:
    """Removes expired records, at once, every hour, and when the configuration was `reloaded`; memory at the interval of each pool.

    The retention of an agent's tasks is in its spec; for agents that are gone, that of all applies.
    """
    records = Records(store)
    offset_s = time.time() - time.monotonic()
    due_at = 0.0  # of all but memory
    while True:
        now = time.time()
        jumped_s = now - time.monotonic() - offset_s
        if abs(jumped_s) > JUMP_S:  # a wrong date for an hour must not cost the records
            logger.warning("the wall clock jumped by %.0f s: nothing expires yet", jumped_s)
            offset_s += jumped_s
            await asyncio.sleep(EXPIRY_S)
            continue
        is_changed = reloaded.is_set()
        is_due = is_changed or time.monotonic() >= due_at
        reloaded.clear()
        kept = config()
        try:
            await memory.expire_due(now, every=is_changed)
            if not is_due:
                await _until(reloaded, min(due_at - time.monotonic(), memory.due_in_s))
                continue
            due_at = time.monotonic() + EXPIRY_S
            await logs.expire(now - kept.events.retention)
            await audit.prune(now)
            await event_history.expire(now - kept.events.retention)
            of_agent = {spec.name: _retention(spec.tasks) for spec in specs()}
            await records.expire(now, _retention(kept.defaults.tasks), of_agent)
            await checkpoints.expire(now)
            await call_history.expire()
            await costs.expire()
            await revisions.expire(now - kept.defaults.recovery.checkpoint_retention)
            await metrics.expire(now)
            await approvals.expire(now)
        except CorralError as error:
            logger.warning("%s", error)
        except Exception:
            logger.exception("cannot remove what has expired; tried again in an hour")
        await _until(reloaded, min(EXPIRY_S, max(memory.due_in_s, RETRY_S)))


async def _until(reloaded: asyncio.Event, bound_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, bound_s)):
            await reloaded.wait()


def _retention(tasks: Tasks) -> Retention:
    return Retention(tasks.result_retention, tasks.dead_letter_retention)
