"""Counts amounts within a window of time: the tokens and tasks of a minute, the cents of a day."""

from msgspec import Struct
from msgspec.structs import replace

MINUTE_S = 60.0
"""Seconds that a task or a token counts against a limit per minute."""

DAY_S = 86_400.0
"""Seconds that cost counts against `max_cost_cents_per_day`."""


class Spending(Struct, frozen=True):
    """Holds the amounts used within a window of time, the oldest first, in steps.

    Each entry counts until its step has left the window, so that none is forgotten too early. `now` may go
    back: an amount added then counts to the newest entry.
    """

    window_s: float
    step_s: float
    entries: tuple[tuple[float, float], ...] = ()

    def plus(self, amount: float, now: float) -> "Spending":
        """Returns it with this amount, and without the entries that count no more."""
        kept = [(at, count) for at, count in self.entries if self._counts(at, now)]
        if kept and kept[-1][0] > now - self.step_s:
            at, count = kept.pop()
            return replace(self, entries=(*kept, (at, count + amount)))
        return replace(self, entries=(*kept, (now, amount)))

    def with_others(self, others: "Spending", ahead_s: float) -> "Spending":
        """Returns it with the amounts of another one, whose clock is ahead by `ahead_s`; its times are those of that clock."""
        own = ((at + ahead_s, count) for at, count in self.entries)
        return replace(self, entries=tuple(sorted((*own, *others.entries))))

    def used(self, now: float) -> float:
        """Returns the amount used within the window."""
        return sum(count for at, count in self.entries if self._counts(at, now))

    def wait_s(self, limit: float, now: float) -> float:
        """Returns the seconds until less than `limit` is counted; 0 when that is so now."""
        left = self.used(now)
        for at, count in self.entries:
            if left < limit:
                break
            if self._counts(at, now):
                left -= count
                if left < limit:
                    return at + self.step_s + self.window_s - now
        return 0.0

    def _counts(self, at: float, now: float) -> bool:
        return at + self.step_s + self.window_s > now


NO_TOKENS = Spending(MINUTE_S, 1.0)
"""The tokens of a minute, by the monotonic clock."""

NO_COST = Spending(DAY_S, 300.0)
"""The cents of a day, by the wall clock: they count in the next daemon too."""

NO_TASKS = Spending(MINUTE_S, 1.0)
"""The tasks of a minute, by the monotonic clock."""


class Minute:
    """Counts what happened within the last minute; `now` is in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._spent = NO_TASKS

    def count(self, now: float) -> int:
        """Returns the number of events within the last minute."""
        return int(self._spent.used(now))

    def take(self, limit: int, now: float) -> float:
        """Counts an event and returns 0; returns the seconds to wait, and counts nothing, where it exceeds the limit.

        `limit` is the number of events within a minute; 0 is none.
        """
        if limit and (wait_s := self._spent.wait_s(limit, now)) > 0:
            return wait_s
        self._spent = self._spent.plus(1, now)
        return 0.0
