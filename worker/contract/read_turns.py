"""Gives channels their turns, so that the messages of one that floods do not keep the loop from the others.

A peer sends thousands of short messages in one read. About TURN_S of them are served in one turn of the loop, of all
channels that share this object; what is left waits, in order, and the channels go on by turns.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

TURN_S = 0.005
"""Seconds for which the messages of all channels keep one turn of the loop busy."""

SLICE_S = 0.001
"""Seconds of them that one channel has before the next."""


class ReadTurns:
    """Orders the channels that have read more than one turn serves."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._ends_at = 0.0
        self._is_due = False

    def slice_end(self) -> float:
        """Returns until when (`time.perf_counter`) a channel may serve; a time that is over where it has to `wait` first."""
        now = time.perf_counter()
        if not self._is_due and now >= self._ends_at:
            self._ends_at = now + TURN_S
        return min(self._ends_at, now + SLICE_S)

    def wait(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on` when it is the turn of a channel again."""
        self._waiting.append(go_on)
        self._begin_soon()

    def _begin_soon(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Begins a new turn with those that wait; each of them may wait again."""
        self._ends_at = time.perf_counter() + TURN_S
        try:
            while self._waiting and time.perf_counter() < self._ends_at:
                self._waiting.popleft()()
        finally:
            self._is_due = False
            self._begin_soon()
