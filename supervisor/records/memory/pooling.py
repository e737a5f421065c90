"""Finds the memory pool of an agent, and makes room in it for a write: removes rows, and holds the counts of each agent equal to them.

A pool has no sum of its own: it is added up from the counts of its agents, in the transaction of the write, so that it
is right after any crash. Whether an agent belongs to a pool is known at that time, too.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from corral.supervisor.config.declared.pools import DeclaredPool, Overflow
from corral.supervisor.config.declared.tenant import Tenant
from corral.supervisor.config.spec.spec import Config, Spec
from corral.worker.contract.errors import ResourceLimitExceeded
from corral.worker.contract.names import tenant_of

from ..store.store import number_of

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


OF_AGENTS = "agent IN (SELECT value FROM json_each(?))"
"""The condition on a column of agents; its value is a JSON list."""


class Usage(NamedTuple):
    """Holds the counts of one agent."""

    keys: int
    key_bytes: int
    session_bytes: int

    @property
    def size_bytes(self) -> int:
        """Returns the bytes of its sessions and keys."""
        return self.key_bytes + self.session_bytes


def usage_of(connection: sqlite3.Connection, agent: str) -> Usage:
    """Returns the counts of an agent."""
    found = _usages(connection, "agent = ?", (agent,))
    return found[0][1] if found else Usage(0, 0, 0)


def usages(connection: sqlite3.Connection, is_chosen: Callable[[str], bool]) -> list[tuple[str, Usage]]:
    """Returns the counts of the agents that are chosen, by name."""
    return [each for each in _usages(connection, "TRUE", ()) if is_chosen(each[0])]


def _usages(connection: sqlite3.Connection, condition: str, values: tuple[object, ...]) -> list[tuple[str, Usage]]:
    rows = connection.execute(
        f"SELECT agent, keys, size_bytes, session_bytes FROM memory_usage WHERE {condition}", values
    ).fetchall()
    found: list[tuple[str, Usage]] = []
    for name, *counts in rows:
        usage = Usage(*map(number_of, counts))
        # Below 0 they are damaged, and counted again.
        found.append((str(name), usage if min(usage) >= 0 else _counted(connection, str(name))))
    return found


def count_keys(connection: sqlite3.Connection, agent: str, keys: int, size_bytes: int) -> None:
    """Adds to the counts of an agent."""
    connection.execute(
        "INSERT INTO memory_usage (agent, keys, size_bytes) VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
        " SET keys = keys + excluded.keys, size_bytes = size_bytes + excluded.size_bytes",
        (agent, keys, size_bytes),
    )


def remove_keys(connection: sqlite3.Connection, condition: str, values: Iterable[object]) -> dict[str, int]:
    """Deletes keys; returns how many, by agent. `condition` is text of this package."""
    gone: dict[str, list[int]] = {}
    rows = connection.execute(
        f"DELETE FROM memory WHERE {condition} RETURNING agent, LENGTH(CAST(key AS BLOB)) + LENGTH(value)",
        tuple(values),
    )
    for agent, size in rows:
        gone.setdefault(agent, []).append(size)
    for agent, sizes in gone.items():
        count_keys(connection, agent, -len(sizes), -sum(sizes))
    return {agent: len(sizes) for agent, sizes in gone.items()}


def remove_session(connection: sqlite3.Connection, agent: str, session: str) -> bool:
    """Deletes a session with its turns; returns whether it was there."""
    found = connection.execute(
        "DELETE FROM session WHERE agent = ? AND session = ? RETURNING id", (agent, session)
    ).fetchone()
    if found is None:
        return False
    connection.execute("DELETE FROM session_turn WHERE session_id = ?", found)
    return True


def names(agents: Iterable[str]) -> str:
    """Returns the value of `OF_AGENTS`."""
    return json.dumps([*agents])


def _counted(connection: sqlite3.Connection, agent: str) -> Usage:
    """Counts an agent's sessions, keys and bytes anew, and stores the counts."""
    keys, key_bytes = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value)), 0) FROM memory WHERE agent = ?",
        (agent,),
    ).fetchone()
    sessions, session_bytes = connection.execute(
        "SELECT COUNT(*), CAST(COALESCE(SUM(MAX(size_bytes, 0)), 0) AS INTEGER) FROM session WHERE agent = ?", (agent,)
    ).fetchone()
    connection.execute(
        "UPDATE memory_usage SET keys = ?, size_bytes = ?, sessions = ?, session_bytes = ? WHERE agent = ?",
        (keys, key_bytes, sessions, session_bytes, agent),
    )
    return Usage(keys, key_bytes, session_bytes)


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
