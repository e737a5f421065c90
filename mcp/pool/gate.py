"""Admits calls to one process of an MCP server: several shared ones or one exclusive one, in order of arrival.

No call overtakes another: a waiting exclusive call blocks later shared ones. Waiting is bounded in number here, and
in time by the caller. A free gate is entered without an await.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from corral.worker.contract.errors import Overloaded

MAX_WAITING = 1_000
"""Number of calls that wait at one process."""


class _Turn(NamedTuple):
    ready: asyncio.Future[None]
    shared: bool


class Gate:
    """Represents the readers-writer lock of one process of the server `name`."""

    def __init__(self, name: str, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._queue: deque[_Turn] = deque()
        self._sharing = 0
        self._is_exclusive = False

    @property
    def waiting(self) -> int:
        """Returns the number of waiting calls."""
        return len(self._queue)

    def is_free(self, shared: bool) -> bool:
        """Returns True if a call would be admitted at once."""
        return not (self._queue or self._is_exclusive) and (shared or self._sharing == 0)

    def enter(self, shared: bool) -> bool:
        """Enters if that is possible at once; returns False if not. `leave` is due after True."""
        if not self.is_free(shared):
            return False
        self._take(shared)
        return True

    async def wait(self, shared: bool) -> None:
        """Waits until the call is admitted; `leave` is due afterwards, unless the wait was cancelled."""
        if len(self._queue) >= self._max_waiting:
            text = f'cannot queue a call of MCP server "{self._name}": {self._max_waiting} wait already'
            raise Overloaded(text, server=self._name, limit="queue", value=self._max_waiting, retry_after_s=1)
        turn = _Turn(asyncio.get_running_loop().create_future(), shared)
        self._queue.append(turn)
        self._admit()
        try:
            await turn.ready
        except asyncio.CancelledError:
            if turn.ready.done() and not turn.ready.cancelled():
                self.leave(shared)  # it was admitted in the same instant
            else:
                with suppress(ValueError):  # it may have been removed already
                    self._queue.remove(turn)
                self._admit()  # later shared calls may join those inside
            raise

    def leave(self, shared: bool) -> None:
        """Leaves after `enter` or `wait`, and admits waiting calls."""
        if shared:
            self._sharing -= 1
        else:
            self._is_exclusive = False
        if self._queue:
            self._admit()

    def _take(self, shared: bool) -> None:
        if shared:
            self._sharing += 1
        else:
            self._is_exclusive = True

    def _admit(self) -> None:
        while self._queue:
            shared = self._queue[0].shared
            if self._is_exclusive or not (shared or self._sharing == 0):
                return
            turn = self._queue.popleft()
            if not turn.ready.done():
                self._take(shared)
                turn.ready.set_result(None)
