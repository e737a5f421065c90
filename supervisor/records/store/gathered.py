"""Writes what several rooms gather in memory, such as sums, together in one transaction.

So rooms whose figures have to agree after a `kill -9` agree. One group is written at a time; a group that the store refuses
is written again before the next one is taken, so that nothing is lost while the disk is full.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from corral.worker.contract.errors import CorralError, Overloaded, ShuttingDown

from .store import Statement, Store

GATHER_S = 0.1
"""Seconds for which figures are gathered."""

AGAIN_S = 1.0
"""Seconds until a refused group is written again."""

Source = Callable[[], Iterable[Statement]]
"""Returns what writes the figures of a room that are not written yet, and counts them as written."""

logger = logging.getLogger(__name__)


class Gathered:
    """Writes the figures of all rooms of one daemon; belongs to the loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._sources: list[Source] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[list[int]] | None = None
        self._refused: list[Statement] = []
        self._error: CorralError | None = None
        self._is_over = False

    def add(self, source: Source) -> None:
        """Adds a room."""
        self._sources.append(source)

    def soon(self, within_s: float = GATHER_S) -> None:
        """Writes within this time."""
        if self._is_over:
            return
        at = self._loop.time() + within_s
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self.flush)

    def flush(self) -> None:
        """Begins to write all that is gathered; later figures follow when a group that is being written is durable."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            self.soon()
            return
        group = self._refused or [each for source in self._sources for each in source()]
        if not group:
            return
        self._refused = []
        try:
            self._writing = self._store.begin(*group, wait_s=GATHER_S)
        except CorralError as error:
            self._keep(group, error)
        else:
            self._writing.add_done_callback(lambda done: self._written(group, done))

    async def settle(self) -> None:
        """Writes all that is gathered, and returns when it is durable."""
        for _ in range(3):  # the group under way, one that was refused, and what is gathered by now
            if self._writing is None:
                self.flush()
            writing = self._writing
            if writing is None:
                break
            self._store.hasten()
            await asyncio.wait([writing])
        if self._refused and self._error is not None:
            raise self._error

    async def end(self) -> None:
        """Writes all that is gathered, and takes nothing more."""
        try:
            await self.settle()
        except CorralError as error:
            logger.error("cannot store the last figures: %s", error.message)
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _written(self, group: list[Statement], done: asyncio.Future[list[int]]) -> None:
        self._writing = None
        error = None if done.cancelled() else done.exception()
        if error is None:
            self._error = None
        elif isinstance(error, Overloaded | ShuttingDown):
            self._keep(group, error)
        else:  # the store never takes it
            logger.error("cannot store %d figures: %s", len(group), error)

    def _keep(self, group: list[Statement], error: CorralError) -> None:
        if self._error is None:  # once, not every second
            logger.warning("cannot store %d figures yet: %s", len(group), error.message)
        self._refused, self._error = group, error
        self.soon(AGAIN_S)
