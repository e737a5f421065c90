"""Calls a function of a program with each event of a daemon, also after the daemon was restarted.

Guarantees that the function runs once at a time, and gets each event once and in order. Unread events wait in the
daemon's store, so that nothing grows here.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable

from ..contract.errors import CorralError, ShuttingDown, Unreachable
from .events import DaemonEvent, EventStream

RETRY_FIRST_S, RETRY_LAST_S = 0.1, 2.0
"""Seconds between two attempts to reach a daemon that is away."""

Handler = Callable[[DaemonEvent], Awaitable[object]] | Callable[[DaemonEvent], object]

logger = logging.getLogger(__name__)


class Subscription:
    """Holds one subscription; `close` ends it."""

    def __init__(self, stream: EventStream, handler: Handler) -> None:
        self._stream = stream
        self._handler = handler
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribes, and calls the handler from then on.

        Raises:
            CorralError: the daemon refuses it, or cannot be reached.
        """
        await self._stream.open()
        self._task = asyncio.create_task(self._run())

    @property
    def is_closed(self) -> bool:
        """Returns True once it has ended, by `close` or since the daemon refuses it."""
        return self._is_closed or (self._task is not None and self._task.done())

    async def close(self) -> None:
        """Ends the subscription; an `async def` handler that runs is cancelled, unless it is the caller."""
        self._is_closed = True
        task = self._task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._stream.close()

    async def _run(self) -> None:
        pause_s = RETRY_FIRST_S
        while not self._is_closed:
            try:
                async for event in self._stream:
                    pause_s = RETRY_FIRST_S
                    await self._handle(event)
                    if self._is_closed:
                        return
            except (Unreachable, ShuttingDown):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_LAST_S)
            except CorralError:
                logger.exception("cannot continue a subscription")
                return

    async def _handle(self, event: DaemonEvent) -> None:
        try:
            if inspect.iscoroutinefunction(self._handler):
                await self._handler(event)
                return
            found = await asyncio.to_thread(self._handler, event)  # it may block
            if inspect.isawaitable(found):
                await found
        except Exception:
            logger.exception('cannot handle event %d "%s": the handler failed', event.seq, event.type)
