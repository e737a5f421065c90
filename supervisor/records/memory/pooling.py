"""Finds the memory pool of an agent, and makes room in it for a write.

A pool has no sum of its own: it is added up from the counts of its agents, in the transaction of the write, so that it
is right after any crash. Whether an agent belongs to a pool is known at that time, too.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from corral.supervisor.config.declared.pools import DeclaredPool
from corral.supervisor.config.declared.tenant import Tenant
from corral.supervisor.config.spec.spec import Config, Spec
from corral.worker.contract.errors import ResourceLimitExceeded
from corral.worker.contract.names import tenant_of

from ..store.store import number_of
from .overflow import Entry, Verdict, decide, victims
from .rows import OF_AGENTS, names, remove_keys, remove_session, usages

Name = tuple[str, str]
"""The names of the agent and of the session, which is unique within the agent."""


class Membership(NamedTuple):
    """Knows the pool of each agent, as of one configuration; may be read on any thread."""

    config: Config
    tenants: Mapping[str, Tenant]
    spec_of: Callable[[str], Spec | None]

    def of(self, agent: str) -> DeclaredPool | None:
        """Returns the pool of an agent, also of one that was removed: its own, else its tenant's, else that of all."""
        spec, tenant = self.spec_of(agent), tenant_of(agent)
        found = None if spec is None else spec.memory.pool
        if found is None and tenant in self.tenants:
            found = self.tenants[tenant].pool
        if found is None:
            found = self.config.defaults.memory.pool
        return None if found is None else self.config.pools.get(found)


COUNTED_S = 1.0
"""Seconds for which a sum that was counted is an upper bound, with the growth since; then it is counted anew."""


class Bounds:
    """Holds an upper bound of the bytes of each pool, so that a pool with room is not counted at every write.

    Every write that grows adds to it, also one that is undone; a removal does not count. A count that
    finds the pool too full is no bound: the next write counts anew. Belongs to the writer's thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[str, tuple[DeclaredPool, Mapping[str, Tenant], float, int]] = {}

    def grown(self, membership: Membership, pool: DeclaredPool, more_bytes: int) -> int | None:
        """Returns the bound after a write; None where there is none in force, and the pool has to be counted."""
        found = self._found.get(pool.name)
        if found is None:
            return None
        counted, tenants, at, used_bytes = found
        is_same = counted is pool and tenants is membership.tenants
        if not is_same or self._clock() - at >= COUNTED_S:
            return None
        self._found[pool.name] = (pool, tenants, at, used_bytes + more_bytes)
        return used_bytes + more_bytes

    def counted(self, membership: Membership, pool: DeclaredPool, used_bytes: int) -> None:
        """Takes the bytes that were counted."""
        self._found[pool.name] = (pool, membership.tenants, self._clock(), used_bytes)


class Claim:
    """Makes room for one write in the pool of its agent; a step of the store settles it in its transaction."""

    def __init__(self, pool: DeclaredPool, membership: Membership, spared: Collection[Name], bounds: Bounds) -> None:
        self.pool = pool
        self.evicted: list[Entry] = []
        """The sessions and keys that gave way to the write, the oldest first."""
        self.expired: list[Entry] = []
        """The sessions whose time was over: they made room, too."""
        self.expired_keys: dict[str, int] = {}
        """The number of keys whose time was over, by agent."""
        self._membership = membership
        self._spared = spared
        self._bounds = bounds

    def settle(
        self, connection: sqlite3.Connection, written: Entry, more_bytes: int, now: float, *, has_history: bool
    ) -> int:
        """Makes room after a write that has made its entry larger; runs on the writer's thread.

        Returns:
            The bytes by which the caller has to trim the session that it has written; 0 where all fits.
        """
        self.evicted, self.expired, self.expired_keys = [], [], {}
        pool = self.pool
        bound_bytes = self._bounds.grown(self._membership, pool, more_bytes)
        if bound_bytes is not None and bound_bytes <= pool.max_bytes:
            return 0
        used_bytes, agents = self._used(connection)
        if decide(pool, used_bytes, has_history=has_history) is Verdict.FITS:
            return 0
        members = names(agents)
        self._expire(connection, written, members, now)
        if self.expired or self.expired_keys:
            used_bytes, _ = self._used(connection)
        verdict = decide(pool, used_bytes, has_history=has_history)
        if verdict is Verdict.TRIM:
            return used_bytes - pool.max_bytes
        if verdict is Verdict.EVICT:
            self._evict(connection, written, used_bytes, members)
        elif verdict is Verdict.REFUSE:
            raise self.refusal(written, used_bytes)
        return 0

    def _used(self, connection: sqlite3.Connection) -> tuple[int, list[str]]:
        """Returns the bytes of the pool, and the agents that have any."""
        found = usages(connection, lambda agent: self._membership.of(agent) is self.pool)
        used_bytes = sum(usage.size_bytes for _, usage in found)
        self._bounds.counted(self._membership, self.pool, used_bytes)
        return used_bytes, [agent for agent, _ in found]

    def _expire(self, connection: sqlite3.Connection, written: Entry, members: str, now: float) -> None:
        condition = f"{OF_AGENTS} AND expires_at <= ?"
        self.expired_keys = remove_keys(connection, condition, (members, now))
        over = connection.execute(
            f"SELECT agent, session, NULL, size_bytes FROM session WHERE {condition}", (members, now)
        ).fetchall()
        for entry in (Entry(agent, session, key, number_of(size)) for agent, session, key, size in over):
            name = (entry.agent, entry.session)
            if name not in self._spared and entry.name != written.name:
                remove_session(connection, *name)
                self.expired.append(entry)

    def _evict(self, connection: sqlite3.Connection, written: Entry, used_bytes: int, members: str) -> None:
        spared = {(agent, session, None) for agent, session in self._spared} | {written.name}
        oldest = connection.execute(
            f"SELECT agent, session, NULL, size_bytes, accessed_at FROM session WHERE {OF_AGENTS}"
            " UNION ALL SELECT agent, session, key, LENGTH(CAST(key AS BLOB)) + LENGTH(value), updated_at"
            f" FROM memory WHERE {OF_AGENTS} ORDER BY 5",
            (members, members),
        )
        entries = (Entry(agent, session, key, number_of(size)) for agent, session, key, size, _ in oldest)
        chosen = victims(self.pool, used_bytes, entries, spared)
        oldest.close()
        if chosen is None:
            raise self.refusal(written, used_bytes)
        for entry in chosen:
            if entry.key is None:
                remove_session(connection, entry.agent, entry.session)
            else:
                remove_keys(connection, "agent = ? AND session = ? AND key = ?", entry.name)
        self.evicted = chosen

    def refusal(self, written: Entry, used_bytes: int) -> ResourceLimitExceeded:
        """Returns the error of a write for which there is no room; `used_bytes` would be used with it."""
        pool = self.pool
        agent, session, key = written.name
        what = f'session "{session}"' if key is None else f'"{key}"'
        text = (
            f'cannot store {what} of agent "{agent}": memory pool "{pool.name}" would have {used_bytes} bytes,'
            f" and has max_bytes = {pool.max_bytes}"
        )
        facts: dict[str, object] = {"agent": agent, "session": session, "pool": pool.name}
        if key is not None:
            facts["key"] = key
        return ResourceLimitExceeded(text, limit="max_bytes", value=pool.max_bytes, used_bytes=used_bytes, **facts)
