"""Decides whether one more change of a caller is within its number for a minute: no clock, no I/O, bounded memory."""

from ..quotas.spending import Minute

MAX_CALLERS = 10_000
"""Number of callers that are counted; beyond, the one that came first is forgotten."""


class ChangeRate:
    """Holds the numbers of changes by caller; `now` is in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._minutes: dict[str, Minute] = {}

    def take(self, caller: str, limit: int, now: float) -> float:
        """Counts a change and returns 0; returns the seconds to wait, and counts nothing, where it exceeds the limit.

        `limit` is the number of changes within a minute; 0 is none.
        """
        if not limit:
            self._minutes.clear()
            return 0.0
        if caller not in self._minutes:
            self._make_room(now)
            self._minutes[caller] = Minute()
        return self._minutes[caller].take(limit, now)

    def _make_room(self, now: float) -> None:
        if len(self._minutes) < MAX_CALLERS:
            return
        self._minutes = {name: each for name, each in self._minutes.items() if each.count(now)}
        if len(self._minutes) >= MAX_CALLERS:
            del self._minutes[next(iter(self._minutes))]
