"""Counts the tool calls of each agent within the last minute, and decides whether one more is within its limit."""

from collections import Counter, deque

MINUTE_S = 60.0

SLOT_S = 1.0
"""Seconds of the calls that are counted together: a slot counts until its last moment is a minute ago."""


class CallRates:
    """Holds the numbers of tool calls by agent; `now` is in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._slots: dict[str, deque[tuple[float, int]]] = {}
        self.refused = Counter[str]()
        """Number of calls that exceeded the limit, by agent."""

    def take(self, agent: str, limit: int, now: float) -> float:
        """Counts a call and returns 0; returns the seconds to wait, and counts nothing, where it exceeds a limit.

        `limit` is the number of calls within a minute; 0 is none.
        """
        slots = self._current(agent, now)
        if limit and sum(count for _, count in slots) >= limit:
            self.refused[agent] += 1
            return self._wait_s(slots, limit, now)
        begin = now - now % SLOT_S
        if slots and slots[-1][0] == begin:
            slots[-1] = (begin, slots[-1][1] + 1)
        else:
            slots.append((begin, 1))
        return 0.0

    def last_minute(self, agent: str, now: float) -> int:
        """Returns the number of calls of an agent within the last minute."""
        return sum(count for _, count in self._current(agent, now)) if agent in self._slots else 0

    def total(self, now: float) -> int:
        """Returns the number of calls of all agents within the last minute."""
        return sum(self.last_minute(agent, now) for agent in list(self._slots))

    def _current(self, agent: str, now: float) -> deque[tuple[float, int]]:
        slots = self._slots.setdefault(agent, deque())
        while slots and _gone_at(slots[0][0]) <= now:
            slots.popleft()
        return slots

    @staticmethod
    def _wait_s(slots: deque[tuple[float, int]], limit: int, now: float) -> float:
        """Returns the seconds until so many of the counted calls are past that one more is within the limit."""
        left = sum(count for _, count in slots)
        for begin, count in slots:
            left -= count
            if left < limit:
                return max(_gone_at(begin) - now, 0.001)
        raise AssertionError("without any call the limit is not reached")


def _gone_at(begin: float) -> float:
    return begin + SLOT_S + MINUTE_S
