"""Counts what happened within the last minute, and decides whether one more is within a number: no clock, no I/O.

It counts in slots of a second; a slot counts until its last moment is a minute ago, so that at most 61 are held.
"""

from collections import deque

MINUTE_S = 60.0

SLOT_S = 1.0


class Minute:
    """Holds the number of events of the last minute; `now` is in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._slots: deque[tuple[float, int]] = deque()

    def count(self, now: float) -> int:
        """Returns the number of events within the last minute."""
        while self._slots and _gone_at(self._slots[0][0]) <= now:
            self._slots.popleft()
        return sum(count for _, count in self._slots)

    def take(self, limit: int, now: float) -> float:
        """Counts an event and returns 0; returns the seconds to wait, and counts nothing, where it exceeds the limit.

        `limit` is the number of events within a minute; 0 is none.
        """
        count = self.count(now)
        if limit and count >= limit:
            return self._wait_s(count, limit, now)
        begin = now - now % SLOT_S
        if self._slots and self._slots[-1][0] == begin:
            self._slots[-1] = (begin, self._slots[-1][1] + 1)
        else:
            self._slots.append((begin, 1))
        return 0.0

    def _wait_s(self, left: int, limit: int, now: float) -> float:
        """Returns the seconds until so many of the counted events are past that one more is within the limit."""
        for begin, count in self._slots:
            left -= count
            if left < limit:
                return max(_gone_at(begin) - now, 0.001)
        raise AssertionError("without any event the limit is not reached")


def _gone_at(begin: float) -> float:
    return begin + SLOT_S + MINUTE_S
