"""Removes sessions that were not used for long, and sessions and keys whose own time is over, at each pool's interval."""

import time
from collections.abc import Callable
from functools import partial

from corral.supervisor.config.declared.pools import DeclaredPool

from ..store.store import Store
from .sessions import Memory
from .table import Remove

ALL_MAX = 1_000_000
"""Number of agents that one run looks at."""


class Expiry:
    """Removes what has expired, of the agents of one daemon."""

    def __init__(self, store: Store, memory: Memory, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._memory = memory
        self._clock = clock
        self._done_at: dict[str | None, float] = {}

    def _intervals(self) -> dict[str | None, float]:
        """Returns the seconds between two runs, by pool; None for the agents without one."""
        config = self._memory.membership.config
        usual = config.defaults.memory.cleanup_interval
        return {None: usual, **{pool.name: pool.cleanup_interval or usual for pool in config.pools.values()}}

    @property
    def due_in_s(self) -> float:
        """Returns the seconds until the next run of any pool."""
        now = self._clock()
        ages = {pool: now - at for pool, at in self._done_at.items()}
        return max(0.0, min(each - ages.get(pool, each) for pool, each in self._intervals().items()))

    async def expire_due(self, now: float, *, every: bool = False) -> None:
        """Removes what has expired in each pool whose interval is over, or in every one, and of agents without a pool."""
        at = self._clock()
        intervals = self._intervals()
        due = {
            pool
            for pool, each in intervals.items()
            if every or pool not in self._done_at or at - self._done_at[pool] >= each
        }
        if due:
            await self._expire(now, partial(self._is_due, due), is_all=due == intervals.keys())
            self._done_at = {p: at if p in due else self._done_at[p] for p in intervals}

    def _is_due(self, due: set[str | None], agent: str) -> bool:
        pool: DeclaredPool | None = self._memory.membership.of(agent)
        return (None if pool is None else pool.name) in due

    async def expire(self, now: float, only: str | None = None) -> dict[str, int]:
        """Removes what has expired, of all agents or of one.

        Returns:
            The numbers of removed `sessions` and `keys`.
        """
        return await self._expire(now, lambda agent: only in (None, agent), is_all=only is None)

    async def _expire(self, now: float, is_chosen: Callable[[str], bool], *, is_all: bool) -> dict[str, int]:
        memory = self._memory
        rows = await self._store.read("SELECT agent FROM memory_usage LIMIT ?", (ALL_MAX,))
        agents = sorted(name for name in {str(each) for (each,) in rows} if is_chosen(name))
        rows = await self._store.read("SELECT DISTINCT agent FROM session LIMIT ?", (ALL_MAX,))
        with_sessions = {str(each) for (each,) in rows}
        sessions: dict[str, int] = {}
        for agent in sorted(name for name in with_sessions if is_chosen(name)):
            step = Remove.expired(agent, now, now - memory.retention_s(agent), memory.spared(agent))
            await self._store.write(step)
            memory.forget(agent, step.removed)
            if step.removed:
                sessions[agent] = len(step.removed)
        keys = await memory.key_values.expire(now, None if is_all else agents)
        memory.publish_expired(sessions, keys)
        return {"sessions": sum(sessions.values()), "keys": sum(keys.values())}
