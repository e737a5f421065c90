"""Counts the tool calls of each agent within the last minute, and refuses one more than its limit."""

from collections import Counter, defaultdict

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.tenants.quotas.minute import Minute
from corral.worker.contract.errors import Overloaded


class CallRates:
    """Holds the numbers of tool calls by agent; `now` is in seconds of a clock that never goes back."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._limited: set[str] = set()
        """Agents whose last call was refused."""
        self._minutes = defaultdict[str, Minute](Minute)
        self.refused = Counter[str]()
        """Number of calls that exceeded the limit, by agent."""

    def charge(self, spec: Spec, now: float) -> None:
        """Counts a call of an agent; raises Overloaded, with the seconds to wait, where it exceeds its limit."""
        name, limit = spec.name, spec.resources.max_tool_calls_per_minute
        wait_s = self.take(name, limit, now)
        if not wait_s:
            self._limited.discard(name)
            return
        wait_s, reason = round(wait_s, 3), f"max_tool_calls_per_minute = {limit} is used up"
        if name not in self._limited:
            self._limited.add(name)
            self._bus.publish("limit.tool_calls", agent=name, limit=limit, wait_s=wait_s, reason=reason)
        raise Overloaded(
            f'cannot call a tool for "{name}": {reason}; next in {wait_s:.1f} s',
            agent=name,
            limit="max_tool_calls_per_minute",
            value=limit,
            retry_after_s=wait_s,
        )

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
