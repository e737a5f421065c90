"""Decides what happens to a write that leaves its pool too full, and which sessions and keys give way. Pure."""

from collections.abc import Container, Iterable
from enum import Enum
from typing import NamedTuple

from corral.supervisor.config.declared.pools import DeclaredPool, Overflow

SLACK = 16
"""An eviction frees one part of so many of a pool: a full pool does not evict at every write."""


class Entry(NamedTuple):
    """Represents a session of an agent, or with a `key` a value of it; `size_bytes` counts in its pool."""

    agent: str
    session: str
    key: str | None = None
    size_bytes: int = 0

    @property
    def name(self) -> tuple[str, str, str | None]:
        """Returns the names without the size."""
        return self.agent, self.session, self.key


class Verdict(Enum):
    """Lists the answers to a write that has made its pool larger."""

    FITS = "fits"
    EVICT = "evict"
    TRIM = "trim"
    REFUSE = "refuse"


_VERDICTS: dict[Overflow, Verdict] = {"evict": Verdict.EVICT, "trim": Verdict.TRIM, "refuse": Verdict.REFUSE}


def decide(pool: DeclaredPool, used_bytes: int, *, has_history: bool) -> Verdict:
    """Returns the answer to a write, with the bytes that the pool has after it; only a session has a history to trim."""
    if used_bytes <= pool.max_bytes:
        return Verdict.FITS
    found = _VERDICTS[pool.overflow]
    return Verdict.REFUSE if found is Verdict.TRIM and not has_history else found


def victims(
    pool: DeclaredPool, used_bytes: int, oldest_first: Iterable[Entry], spared: Container[tuple[str, str, str | None]]
) -> list[Entry] | None:
    """Returns the entries to evict, the oldest ones; None where the pool would be too full without all of them."""
    goal_bytes = pool.max_bytes - pool.max_bytes // SLACK
    chosen: list[Entry] = []
    for entry in oldest_first:
        if used_bytes <= goal_bytes:
            break
        if entry.size_bytes > 0 and entry.name not in spared:
            chosen.append(entry)
            used_bytes -= entry.size_bytes
    return chosen if used_bytes <= pool.max_bytes else None
