"""Limits the number of starts at a time, in their order. A waiting start costs a place in a queue, and no task."""

from collections import OrderedDict
from collections.abc import Callable, Hashable


class StartGate:
    """Provides a number of places; each taken one has to be left by `leave`."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()

    def enter(self, start: Hashable, begin: Callable[[], None]) -> None:
        """Calls `begin`, now or when a place is free; each `start` enters once."""
        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting[start] = begin

    def withdraw(self, start: Hashable) -> None:
        """Removes a waiting start; does nothing if it does not wait."""
        self._waiting.pop(start, None)

    def leave(self, _: object = None) -> None:
        """Frees a place; usable as the done callback of a task."""
        if self._waiting:
            _, begin = self._waiting.popitem(last=False)
            if not self._waiting:
                self._waiting.clear()  # else the place of thousands is kept
            begin()
        else:
            self._free += 1
