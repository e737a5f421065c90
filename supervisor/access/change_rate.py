"""Decides whether one more change of a caller is within its number for a minute: no clock, no I/O, bounded memory.

Changes are counted in slots of a second; a slot counts until its last moment is a minute ago.
"""

from collections import deque

MINUTE_S = 60.0

SLOT_S = 1.0

MAX_CALLERS = 10_000
"""Number of callers that are counted; beyond, the one that came first is forgotten."""


class ChangeRate:
    """Holds the numbers of changes by caller; `now` is in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._slots: dict[str, deque[tuple[float, int]]] = {}

    def take(self, caller: str, limit: int, now: float) -> float:
        """Counts a change and returns 0; returns the seconds to wait, and counts nothing, where it exceeds the limit.

        `limit` is the number of changes within a minute; 0 is none.
        """
        if not limit:
            self._slots.clear()
            return 0.0
        slots = self._slots.get(caller)
        if slots is None:
            self._make_room(now)
            slots = self._slots[caller] = deque()
        _drop_past(slots, now)
        if sum(count for _, count in slots) >= limit:
            return _wait_s(slots, limit, now)
        begin = now - now % SLOT_S
        if slots and slots[-1][0] == begin:
            slots[-1] = (begin, slots[-1][1] + 1)
        else:
            slots.append((begin, 1))
        return 0.0

    def _make_room(self, now: float) -> None:
        if len(self._slots) < MAX_CALLERS:
            return
        for caller, slots in list(self._slots.items()):
            _drop_past(slots, now)
            if not slots:
                del self._slots[caller]
        if len(self._slots) >= MAX_CALLERS:
            del self._slots[next(iter(self._slots))]


def _drop_past(slots: deque[tuple[float, int]], now: float) -> None:
    while slots and _gone_at(slots[0][0]) <= now:
        slots.popleft()


def _wait_s(slots: deque[tuple[float, int]], limit: int, now: float) -> float:
    """Returns the seconds until so many of the counted changes are past that one more is within the limit."""
    left = sum(count for _, count in slots)
    for begin, count in slots:
        left -= count
        if left < limit:
            return max(_gone_at(begin) - now, 0.001)
    raise AssertionError("without any change the limit is not reached")


def _gone_at(begin: float) -> float:
    return begin + SLOT_S + MINUTE_S
