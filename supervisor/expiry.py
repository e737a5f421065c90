"""What has an end: what is older or more than the configuration keeps goes from the store and the log folder."""

import asyncio
import logging
import time
from collections.abc import Callable

from ..worker.errors import CorralError
from .logs import LogStore
from .spec import Config
from .store import Store

EXPIRY_S = 3600.0
"""How often what has expired is removed."""

JUMP_S = 600.0
"""The wall clock is off by more than this from the monotonic one: somebody has set it, or we were suspended."""

logger = logging.getLogger(__name__)


async def expire(store: Store, logs: LogStore, config: Callable[[], Config]) -> None:
    """Removes what has expired, at once and then every hour, by the configuration that is in force then."""
    offset_s = time.time() - time.monotonic()
    while True:
        now = time.time()
        jumped_s = now - time.monotonic() - offset_s
        if abs(jumped_s) > JUMP_S:  # a wrong date for an hour must not cost the records
            logger.warning("the wall clock jumped by %.0f s: nothing expires yet", jumped_s)
            offset_s += jumped_s
            await asyncio.sleep(EXPIRY_S)
            continue
        kept = config()
        past = time.gmtime(now - kept.events.retention)
        events_before = time.strftime("%Y-%m-%dT%H:%M:%S", past)
        tasks_before = now - kept.defaults.tasks.result_retention
        await logs.expire(now - kept.events.retention)
        try:
            await store.write(
                ("DELETE FROM event WHERE at < ?", (events_before,)),
                ("DELETE FROM tool_call WHERE at < ?", (events_before,)),
                ("DELETE FROM task WHERE finished_at < ?", (tasks_before,)),
                ("DELETE FROM checkpoint WHERE at < ?", (tasks_before,)),
                ("DELETE FROM memory WHERE expires_at < ?", (now,)),
            )
        except CorralError as error:
            logger.warning("%s", error)
        await asyncio.sleep(EXPIRY_S)
