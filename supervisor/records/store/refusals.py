"""Decides whether the disk refuses what is to be stored: from a refusal until writing has worked, and nothing was refused, for a while.

A full disk takes a small write now and then. Judged by each write alone, the store would fail and recover every second.
"""

from dataclasses import dataclass, replace

QUIET_S = 5.0
"""Seconds without a refusal after which a store that has written something is sound again."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Holds what the last writes came to; times are those of the monotonic clock."""

    reason: str | None = None
    """Why something was refused, until the store is sound again."""
    refused_at_s: float = 0.0
    is_written: bool = False
    """Whether something was written since."""

    def refused(self, now_s: float, reason: str) -> "Refusals":
        """Returns the state after a refusal."""
        return Refusals(reason, now_s)

    def written(self) -> "Refusals":
        """Returns the state after a write that is on disk."""
        return self if self.reason is None or self.is_written else replace(self, is_written=True)

    def at(self, now_s: float) -> "Refusals":
        """Returns the state at that time."""
        is_over = self.is_written and now_s - self.refused_at_s >= QUIET_S
        return Refusals() if is_over else self
