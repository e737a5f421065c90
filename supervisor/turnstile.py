"""Lets so many begin at a time, in their order. Who waits costs a place in a queue, and no task of its own."""

from collections import deque
from collections.abc import Callable


class Turnstile:
    """So many places; for each that is taken a `leave` is due."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, begin: Callable[[], None]) -> None:
        """Calls `begin`, now or when a place is free."""
        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting.append(begin)

    def leave(self, _: object = None) -> None:
        """A place is free; it may be told to a task as what is to be done at its end."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1
