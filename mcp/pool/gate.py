"""Whose turn it is at one process of an MCP server: several that share, or one alone, in order of arrival.

Nobody overtakes: a writer that waits holds back the readers that came after it. Waiting is bounded in
number here, and in time by whoever waits. A turn that is free is taken without an await.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from ...worker.contract.errors import Overloaded

MAX_WAITING = 1_000
"""Calls that wait for their turn at one process."""


class _Turn(NamedTuple):
    ready: asyncio.Future[None]
    shared: bool


class Gate:
    """The turns at one process of the server `name`."""

    def __init__(self, name: str, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._queue: deque[_Turn] = deque()
        self._sharing = 0
        self._is_exclusive = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    def is_free(self, shared: bool) -> bool:
        """Whether a turn could be had at once."""
        return not (self._queue or self._is_exclusive) and (shared or self._sharing == 0)

    def enter(self, shared: bool) -> bool:
        """Takes a turn if that can be had at once; `leave` gives it back."""
        if not self.is_free(shared):
            return False
        self._take(shared)
        return True

    async def wait(self, shared: bool) -> None:
        """Takes a turn when it comes; `leave` gives it back. Cancelling is giving up.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._queue) >= self._max_waiting:
            text = f'cannot queue a call of MCP server "{self._name}": {self._max_waiting} wait already'
            raise Overloaded(
                text, server=self._name, limit="queue", value=self._max_waiting, retry_after_s=1
            )
        turn = _Turn(asyncio.get_running_loop().create_future(), shared)
        self._queue.append(turn)
        self._admit()
        try:
            await turn.ready
        except asyncio.CancelledError:
            if turn.ready.done() and not turn.ready.cancelled():
                self.leave(shared)  # the turn came in the same instant
            else:
                with suppress(ValueError):  # its turn may have been passed over already
                    self._queue.remove(turn)
                self._admit()  # those behind may share with whoever is in
            raise

    def leave(self, shared: bool) -> None:
        """Gives a turn back."""
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
