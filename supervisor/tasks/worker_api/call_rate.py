"""Counts the tool calls of each agent within the last minute, and decides whether one more is within its limit."""

from collections import Counter, defaultdict

from corral.supervisor.tenants.quotas.minute import Minute


class CallRates:
    """Holds the numbers of tool calls by agent; `now` is in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._minutes = defaultdict[str, Minute](Minute)
        self.refused = Counter[str]()
        """Number of calls that exceeded the limit, by agent."""

    def take(self, agent: str, limit: int, now: float) -> float:
        """Counts a call and returns 0; returns the seconds to wait, and counts nothing, where it exceeds a limit.

        `limit` is the number of calls within a minute; 0 is none.
        """
        wait_s = self._minutes[agent].take(limit, now)
        if wait_s:
            self.refused[agent] += 1
        return wait_s

    def last_minute(self, agent: str, now: float) -> int:
        """Returns the number of calls of an agent within the last minute."""
        return self._minutes[agent].count(now) if agent in self._minutes else 0

    def total(self, now: float) -> int:
        """Returns the number of calls of all agents within the last minute."""
        return sum(each.count(now) for each in self._minutes.values())
