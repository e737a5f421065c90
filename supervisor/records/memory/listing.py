"""Lists sessions, and adds up what agents and pools have; leaves out sessions and keys whose time is over."""

import time
from collections.abc import Callable, Iterable

from corral.worker.contract.names import tenant_of

from ..events.bus import rfc3339
from ..store.store import Row, Store, moment_of, names_in, number_of, one_of
from .sessions import Memory

LIST_MAX = 10_000
"""Number of sessions, or of agents, that a list has at most."""

USAGES_MAX = 1_000_000
"""Number of agents that are added up."""

Knows = Callable[[str], bool]

_IS_THERE = "(expires_at IS NULL OR expires_at > ?)"

_USAGES = (
    "SELECT agent, keys - COALESCE(gone, 0), size_bytes - COALESCE(gone_bytes, 0),"
    " sessions - COALESCE(ended, 0), session_bytes - COALESCE(ended_bytes, 0) FROM memory_usage"
    " LEFT JOIN (SELECT agent AS whose, COUNT(*) AS gone,"
    " SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value)) AS gone_bytes"
    " FROM memory WHERE expires_at <= ? GROUP BY agent) ON whose = agent"
    " LEFT JOIN (SELECT agent AS holder, COUNT(*) AS ended, SUM(size_bytes) AS ended_bytes"
    " FROM session WHERE expires_at <= ? GROUP BY agent) ON holder = agent"
)
"""Selects the counts of agents, without those of what has expired; takes the time twice."""


class Listing:
    """Reads what there is of the sessions and keys of all agents."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store = store
        self._memory = memory

    async def sessions(self, agent: str | None, limit: int, knows: Knows | None = None) -> list[dict[str, object]]:
        """Lists sessions of an agent, or of all that pass `knows`, the most recently used first."""
        chosen = await self._chosen("session", agent, knows)
        rows = await self._store.read(
            "SELECT agent, session, turns, messages, size_bytes, COALESCE(LENGTH(value), 0) +"
            " (SELECT COALESCE(SUM(LENGTH(value)), 0) FROM session_turn WHERE session_id = session.id),"
            f" created_at, accessed_at, expires_at FROM session WHERE {_IS_THERE}"
            f" AND {'TRUE' if chosen is None else one_of('agent', chosen)}"
            " ORDER BY accessed_at DESC LIMIT ?",
            (time.time(), *(chosen or ()), min(limit, LIST_MAX)),
        )
        return [self._listed(row) for row in rows]

    def _listed(self, row: Row) -> dict[str, object]:
        keys = ("agent", "session", "turns", "messages", "size_bytes", "stored_bytes")
        listed: dict[str, object] = dict(zip(keys, row, strict=False))
        created_at, accessed_at = map(moment_of, row[6:8])
        expires_at = None if row[8] is None else moment_of(row[8])
        listed["created_at"] = rfc3339(created_at)
        listed["accessed_at"] = rfc3339(accessed_at)
        listed["expires_at"] = rfc3339(self._memory.ends_at(str(row[0]), accessed_at, expires_at))
        return listed

    async def _chosen(self, table: str, agent: str | None, knows: Knows | None) -> list[str] | None:
        if agent is not None:
            return [agent]
        return None if knows is None else await names_in(self._store, table, knows)

    async def stats(self, agent: str | None, knows: Knows | None = None) -> dict[str, object]:
        """Returns the number and size of sessions and keys, by agent and by pool, and the state of the cache.

        They are of one agent, or of all that pass `knows`; of very many, of the first in the order of names.
        """
        now = time.time()
        chosen = await self._chosen("memory_usage", agent, knows)
        is_chosen = "TRUE" if chosen is None else one_of("agent", chosen)
        usages = await self._store.read(
            f"SELECT * FROM ({_USAGES}) AS usage WHERE {is_chosen} ORDER BY agent LIMIT ?",
            (now, now, *(chosen or ()), LIST_MAX),
        )
        rows = await self._store.read(
            "SELECT agent, SUM(turns), SUM(messages) FROM session"
            f" WHERE {_IS_THERE} AND {is_chosen} GROUP BY agent ORDER BY agent LIMIT ?",
            (now, *(chosen or ()), LIST_MAX),
        )
        membership = self._memory.membership
        talks = {str(name): counts for name, *counts in rows}
        agents: list[dict[str, object]] = []
        for row in usages:
            name, (keys, keys_bytes, sessions, size_bytes) = str(row[0]), map(number_of, row[1:])
            if keys > 0 or sessions > 0:
                pool = membership.of(name)
                turns, messages = talks.get(name, [0, 0])
                agents.append(
                    {
                        "agent": name,
                        "pool": None if pool is None else pool.name,
                        "sessions": sessions,
                        "turns": turns,
                        "messages": messages,
                        "size_bytes": size_bytes,
                        "keys": keys,
                        "keys_bytes": keys_bytes,
                    }
                )
        return {"pool": self._memory.cache_state(), "agents": agents}

    async def pools(self, running: Iterable[str], knows: Knows | None = None) -> list[dict[str, object]]:
        """Returns the memory pools with their sums, and the names of their agents that pass `knows`."""
        now = time.time()
        membership = self._memory.membership
        found: dict[str, dict[str, object]] = {}
        sums: dict[str, list[int]] = {}
        agents: dict[str, set[str]] = {}
        for name, pool in membership.config.pools.items():
            found[name] = {
                "name": name,
                "max_bytes": pool.max_bytes,
                "overflow": pool.overflow,
                "retention_s": pool.retention or None,
                "cleanup_interval_s": pool.cleanup_interval or membership.config.defaults.memory.cleanup_interval,
            }
            sums[name], agents[name] = [0, 0, 0, 0], set()
        for agent in running:
            of_agent = membership.of(agent)
            if of_agent is not None:
                agents[of_agent.name].add(agent)
        for row in await self._store.read(f"{_USAGES} LIMIT ?", (now, now, USAGES_MAX)):
            of_agent = membership.of(str(row[0]))
            counts = [number_of(each) for each in row[1:]]
            if of_agent is not None and any(counts):
                sums[of_agent.name] = [a + b for a, b in zip(sums[of_agent.name], counts, strict=True)]
                agents[of_agent.name].add(str(row[0]))
        for name, facts in found.items():
            keys, keys_bytes, sessions, size_bytes = sums[name]
            facts |= {
                "used_bytes": keys_bytes + size_bytes,
                "sessions": sessions,
                "size_bytes": size_bytes,
                "keys": keys,
                "keys_bytes": keys_bytes,
                "agents": sorted(each for each in agents[name] if knows is None or knows(each)),
                "tenants": _tenants_of(name, agents[name], knows),
            }
        return [each for each in found.values() if knows is None or each["agents"]]


def _tenants_of(pool: str, agents: Iterable[str], knows: Knows | None) -> list[str]:
    """Returns the tenants that have agents in a pool, and the tenant that the pool is of."""
    known = [each for each in agents if knows is None or knows(each)]
    return sorted({tenant_of(name) for name in [*known, pool]} - {""})
