"""Stores values of any shape by agent, session and key, for a time or for good.

The number of an agent's keys and their bytes are counted in the same transaction as every change, so that the limits
hold exactly. A value carries a checksum, so that a damaged one is noticed.
"""

import sqlite3
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from corral.supervisor.config.spec import spec
from corral.worker.contract import codec
from corral.worker.contract.errors import Corrupted, InvalidParams, ResourceLimitExceeded

from ..store.store import Row, Step, Store
from .pooling import OF_AGENTS, Claim, Entry, count_keys, names, remove_keys, usage_of

MAX_VALUE_BYTES = 1024 * 1024
"""Bytes of the largest value, as JSON."""

FOUND_BYTES = 8 * 1024 * 1024
"""Bytes of the values that a search returns at most: half a message."""


class Carrier(Protocol):
    """Holds the values of the agents that a cluster places."""

    async def value(self, agent: str, session: str, key: str, text: bytes | None, ttl_s: float | None) -> None:
        """Stores a value for the node that runs the agent next, None for its end; does nothing for an agent of this daemon alone."""
        ...

    async def end_session(self, agent: str, session: str, ends_at: float | None) -> None:
        """Gives an end to a session for the node that runs the agent next."""
        ...

    async def clear(self, agent: str, session: str | None) -> int:
        """Ends a session with its values for all nodes, or all of an agent; returns the number of sessions."""
        ...


class NotCarried:
    """Carries nothing: all agents are of this daemon alone."""

    async def value(self, agent: str, session: str, key: str, text: bytes | None, ttl_s: float | None) -> None:
        """Stores nothing."""

    async def end_session(self, agent: str, session: str, ends_at: float | None) -> None:
        """Ends nothing."""

    async def clear(self, agent: str, session: str | None) -> int:
        """Clears nothing."""
        return 0


class KeyValues:
    """Stores the keys of all agents of one daemon."""

    def __init__(
        self,
        store: Store,
        rules: Callable[[str], spec.Memory],
        claim: Callable[[str], Claim | None],
        on_written: Callable[[Claim], None],
    ) -> None:
        self._store = store
        self._rules = rules
        self._claim = claim
        self._on_written = on_written
        self.carrier: Carrier = NotCarried()

    def carry_by(self, carrier: Carrier) -> None:
        """Gives each change to a cluster, which has a value of an agent that it places before it is kept here."""
        self.carrier = carrier

    async def put(
        self, agent: str, session: str, key: str, value: object, *, ttl_s: float | None, is_taken: bool = False
    ) -> None:
        """Stores a value under a key, for `ttl_s` seconds or for good; it is durable when this returns.

        One that is `taken` comes from another node of the cluster.
        """
        blob = codec.encode(value)
        if len(blob) > MAX_VALUE_BYTES:
            raise InvalidParams(
                f'cannot store "{key}": {len(blob)} bytes are more than {MAX_VALUE_BYTES}',
                key="value",
                limit=MAX_VALUE_BYTES,
            )
        if not is_taken:
            await self.carrier.value(agent, session, key, blob, ttl_s)
        rules, claim = self._rules(agent), self._claim(agent)
        await self._store.write(_Put(agent, session, key, blob, ttl_s, rules, claim))
        if claim is not None:
            self._on_written(claim)

    async def get(self, agent: str, session: str, key: str) -> object:
        """Returns the value of a key, None where there is none."""
        rows = await self._store.read(
            "SELECT value, crc FROM memory WHERE agent = ? AND session = ? AND key = ?"
            " AND (expires_at IS NULL OR expires_at > ?)",
            (agent, session, key, time.time()),
        )
        return _value(rows[0], agent, session, key) if rows else None

    async def delete(self, agent: str, session: str, key: str) -> int:
        """Removes a key; returns the number of removed keys, 0 or 1."""
        await self.carrier.value(agent, session, key, None, None)
        return await self.drop(agent, session, key)

    async def drop(self, agent: str, session: str, key: str) -> int:
        """Removes a key of this node alone; returns the number of removed keys, 0 or 1."""
        step = RemoveKeys("agent = ? AND session = ? AND key = ?", (agent, session, key))
        return (await self._store.write(step))[0]

    async def search(self, agent: str, session: str | None, query: str, limit: int) -> list[dict[str, object]]:
        """Finds keys with the text in key or value, the newest first; a damaged value is marked `corrupted`."""
        escaped = query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        like = f"%{escaped}%"
        rows = await self._store.read(
            "SELECT session, key, value, crc FROM memory WHERE agent = ?"
            " AND (? IS NULL OR session = ?) AND (expires_at IS NULL OR expires_at > ?)"
            " AND (key LIKE ? ESCAPE '\\' OR CAST(value AS TEXT) LIKE ? ESCAPE '\\')"
            " ORDER BY updated_at DESC LIMIT ?",
            (agent, session, session, time.time(), like, like, limit),
        )
        items: list[dict[str, object]] = []
        room = FOUND_BYTES
        for where, key, *cells in rows:
            room -= len(cells[0]) if isinstance(cells[0], bytes) else 0
            if room < 0 and items:
                break
            item: dict[str, object] = {"session": where, "key": key, "value": None}
            try:
                item["value"] = _value(tuple(cells), agent, str(where), str(key))
            except Corrupted:
                item["corrupted"] = True
            items.append(item)
        return items

    async def expire(self, now: float, agents: Sequence[str] | None) -> dict[str, int]:
        """Removes keys whose time is over, of all agents or of some; returns how many, by agent."""
        if agents is None:
            step = RemoveKeys("expires_at <= ?", (now,))
        else:
            step = RemoveKeys(f"expires_at <= ? AND {OF_AGENTS}", (now, names(agents)))
        await self._store.write(step)
        return step.gone


class _Put(Step):
    def __init__(
        self,
        agent: str,
        session: str,
        key: str,
        blob: bytes,
        ttl_s: float | None,
        rules: spec.Memory,
        claim: Claim | None,
    ) -> None:
        self._agent = agent
        self._where = (agent, session, key)
        self._blob = blob
        self.size_bytes = len(blob)
        self._at = time.time()
        self._expires_at = None if ttl_s is None else self._at + ttl_s
        self._rules = rules
        self._claim = claim

    def run(self, connection: sqlite3.Connection) -> int:
        """Stores the value."""
        found = connection.execute(
            "SELECT LENGTH(CAST(key AS BLOB)) + LENGTH(value) FROM memory WHERE agent = ? AND session = ? AND key = ?",
            self._where,
        ).fetchone()
        size = len(self._where[2].encode()) + len(self._blob)
        more_keys, more_bytes = int(found is None), size - (0 if found is None else found[0])
        if self._exceeded(connection, more_keys, more_bytes) is not None:
            # Keys whose time is over make room at once.
            remove_keys(connection, "agent = ? AND expires_at < ?", (self._agent, self._at))
            if limit := self._exceeded(connection, more_keys, more_bytes):
                raise self._refusal(*limit)
        connection.execute(
            "INSERT INTO memory (agent, session, key, value, updated_at, expires_at, crc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value,"
            " updated_at = excluded.updated_at, expires_at = excluded.expires_at, crc = excluded.crc",
            (*self._where, self._blob, self._at, self._expires_at, zlib.crc32(self._blob)),
        )
        count_keys(connection, self._agent, more_keys, more_bytes)
        if self._claim is not None and more_bytes > 0:
            self._claim.settle(connection, Entry(*self._where, size), more_bytes, self._at, has_history=False)
        return 1

    def _exceeded(self, connection: sqlite3.Connection, more_keys: int, more_bytes: int) -> tuple[str, int] | None:
        keys, size, _ = usage_of(connection, self._agent)
        if more_keys > 0 and keys + more_keys > self._rules.max_keys:
            return "max_keys", self._rules.max_keys
        if more_bytes > 0 and size + more_bytes > self._rules.max_keys_bytes:
            return "max_keys_bytes", self._rules.max_keys_bytes
        return None

    def _refusal(self, limit: str, value: int) -> ResourceLimitExceeded:
        agent, _, key = self._where
        text = f'cannot store "{key}" of agent "{agent}": {limit} = {value} is used up'
        return ResourceLimitExceeded(text, limit=limit, value=value, agent=agent, key=key)


class RemoveKeys(Step):
    """Removes the keys that meet a condition; `gone` are their numbers, by agent."""

    def __init__(self, condition: str, values: Sequence[object]) -> None:
        self.gone: dict[str, int] = {}
        self._condition = condition
        self._values = values

    def run(self, connection: sqlite3.Connection) -> int:
        """Removes the keys."""
        self.gone = remove_keys(connection, self._condition, self._values)
        return sum(self.gone.values())


def _value(row: Row, agent: str, session: str, key: str) -> object:
    blob, crc = row
    record = f'key "{key}" of agent "{agent}"'
    try:
        if isinstance(blob, bytes) and crc in (None, zlib.crc32(blob)):  # older rows have no sum
            return codec.decode(blob)
        reason = "checksum"
    except ValueError:
        reason = "no-value"
    raise Corrupted(
        f"cannot read {record}: it is not what was written",
        record=record,
        reason=reason,
        agent=agent,
        session=session,
        key=key,
    )
