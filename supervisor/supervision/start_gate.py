"""Lets so many begin at a time, in their order. Who waits costs a place in a queue, and no task of its own."""

from collections import OrderedDict
from collections.abc import Callable, Hashable


class StartGate:
    """So many places; for each that is taken a `leave` is due."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()

    def enter(self, who: Hashable, begin: Callable[[], None]) -> None:
        """Calls `begin`, now or when a place is free; `who` enters once."""
        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting[who] = begin

    def withdraw(self, who: Hashable) -> None:
        """Who still waits is not called any more; nothing happens when it does not."""
        self._waiting.pop(who, None)

    def leave(self, _: object = None) -> None:
        """A place is free; it may be told to a task as what is to be done at its end."""
        if self._waiting:
            _, begin = self._waiting.popitem(last=False)
            if not self._waiting:
                self._waiting.clear()  # else the place of thousands is kept
            begin()
        else:
            self._free += 1
