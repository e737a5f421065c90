"""Applies retention: deletes rows and log files past their age or size limit."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.records.memory.expiry import Expiry
from corral.worker.contract.errors import CorralError

from .composition.life import Room

EXPIRY_S = 3600.0
"""Seconds between two runs."""

RETRY_S = 1.0
"""Seconds after which a run that the store refused is tried again, at the earliest."""

JUMP_S = 600.0
"""Seconds between the wall clock and the monotonic one that mean a jump: it was set, or the machine was suspended."""

logger = logging.getLogger(__name__)


async def expire(rooms: Sequence[Room], memory: Expiry, in_force: InForce) -> None:
    """Removes what has expired, at once, every hour, and when the configuration was reloaded; memory at the interval of each pool."""
    reloaded = asyncio.Event()
    in_force.subscribe(lambda _: reloaded.set())
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
        try:
            await memory.expire_due(now, every=is_changed)
            if not is_due:
                await _until(reloaded, min(due_at - time.monotonic(), memory.due_in_s))
                continue
            due_at = time.monotonic() + EXPIRY_S
            for room in rooms:
                await room.expire(now)
        except CorralError as error:
            logger.warning("%s", error)
        except Exception:
            logger.exception("cannot remove what has expired; tried again in an hour")
        await _until(reloaded, min(EXPIRY_S, max(memory.due_in_s, RETRY_S)))


async def _until(reloaded: asyncio.Event, bound_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, bound_s)):
            await reloaded.wait()
