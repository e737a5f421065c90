"""Stores values of any shape by agent, session and key, for a time or for good.

The number of an agent's keys and their bytes are counted in the same transaction as every change, so that the limits
hold exactly. A value carries a checksum, so that a damaged one is noticed.
"""

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable

from ...worker.contract import codec
from ...worker.contract.errors import Corrupted, InvalidParams, ResourceLimitExceeded
from ..config import spec
from ..store.names import one_of
from ..store.store import Row, Store, number_of

MAX_VALUE_BYTES = 1024 * 1024
"""Bytes of the largest value, as JSON."""

FOUND_BYTES = 8 * 1024 * 1024
"""Bytes of the values that a search returns at most: half a message."""

USAGE_MAX = 10_000
"""Number of agents in a report."""


class KeyValues:
    """Stores the keys of all agents of one daemon.

    Args:
        store: the daemon's store.
        rules: returns the limits of an agent.
    """

    def __init__(self, store: Store, rules: Callable[[str], spec.Memory]) -> None:
        self._store = store
        self._rules = rules

    async def put(
        self, agent: str, session: str, key: str, value: object, *, ttl_s: float | None
    ) -> None:
        """Stores a value under a key, for `ttl_s` seconds or for good; it is durable when this returns.

        Raises:
            InvalidParams: the value is too large.
            ResourceLimitExceeded: the agent has as many keys or bytes as it may.
        """
        blob = codec.encode(value)
        if len(blob) > MAX_VALUE_BYTES:
            raise InvalidParams(
                f'cannot store "{key}": {len(blob)} bytes are more than {MAX_VALUE_BYTES}',
                key="value",
                limit=MAX_VALUE_BYTES,
            )
        rules = self._rules(agent)
        await self._store.write(_Put(agent, session, key, blob, ttl_s, rules))

    async def get(self, agent: str, session: str, key: str) -> object:
        """Returns the value of a key, None where there is none.

        Raises:
            Corrupted: the value was changed since it was stored.
        """
        rows = await self._store.read(
            "SELECT value, crc FROM memory WHERE agent = ? AND session = ? AND key = ?"
            " AND (expires_at IS NULL OR expires_at > ?)",
            (agent, session, key, time.time()),
        )
        return _value(rows[0], agent, session, key) if rows else None

    async def delete(self, agent: str, session: str, key: str) -> int:
        """Removes a key; returns the number of removed keys, 0 or 1."""
        return (await self._store.write(_Delete(agent, session, key)))[0]

    async def search(
        self, agent: str, session: str | None, query: str, limit: int
    ) -> list[dict[str, object]]:
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

    async def usage(self, agents: list[str] | None) -> list[tuple[str, int, int]]:
        """Returns keys and bytes of each agent that has any, or of some agents, without those whose time is over."""
        rows = await self._store.read(
            "SELECT agent, keys - COALESCE(gone, 0), size_bytes - COALESCE(gone_bytes, 0) FROM memory_usage"
            " LEFT JOIN (SELECT agent AS whose, COUNT(*) AS gone,"
            " SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value)) AS gone_bytes"
            " FROM memory WHERE expires_at <= ? GROUP BY agent) ON whose = agent"
            f" WHERE keys > COALESCE(gone, 0) AND {'TRUE' if agents is None else one_of('agent', agents)}"
            " ORDER BY agent LIMIT ?",
            (time.time(), *(agents or ()), USAGE_MAX),
        )
        return [(str(name), number_of(keys), number_of(size)) for name, keys, size in rows]

    def clear_keys(self, agent: str, session: str | None) -> "ClearKeys":
        """Returns a step that removes the keys of a session, or all of an agent, as part of a larger change."""
        return ClearKeys(agent, session)

    async def expire(self, now: float, agent: str | None) -> dict[str, int]:
        """Removes keys whose time is over, of all agents or of one; returns how many, by agent.

        Raises:
            Overloaded: the store takes nothing now.
        """
        step = _Expire(now, agent)
        await self._store.write(step)
        return step.gone


class _Change:
    """Defines a change of the table of keys."""

    count = 1

    @property
    def size_bytes(self) -> int:
        """Returns the bytes that it takes of the memory for waiting writes."""
        return 0

    def seal(self) -> None:
        """Ends nothing: this step does not grow."""


class _Put(_Change):
    def __init__(
        self,
        agent: str,
        session: str,
        key: str,
        blob: bytes,
        ttl_s: float | None,
        rules: spec.Memory,
    ) -> None:
        self._agent = agent
        self._where = (agent, session, key)
        self._blob = blob
        self._at = time.time()
        self._expires_at = None if ttl_s is None else self._at + ttl_s
        self._rules = rules

    @property
    def size_bytes(self) -> int:
        """Returns the bytes that it takes of the memory for waiting writes."""
        return len(self._blob)

    def run(self, connection: sqlite3.Connection) -> int:
        """Stores the value.

        Raises:
            ResourceLimitExceeded: the agent has as many keys or bytes as it may.
        """
        found = connection.execute(
            "SELECT LENGTH(CAST(key AS BLOB)) + LENGTH(value) FROM memory"
            " WHERE agent = ? AND session = ? AND key = ?",
            self._where,
        ).fetchone()
        size = len(self._where[2].encode()) + len(self._blob)
        more_keys, more_bytes = int(found is None), size - (0 if found is None else found[0])
        if self._exceeded(connection, more_keys, more_bytes) is not None:
            # Keys whose time is over make room at once.
            _remove(connection, "agent = ? AND expires_at < ?", (self._agent, self._at))
            if limit := self._exceeded(connection, more_keys, more_bytes):
                raise self._refusal(*limit)
        connection.execute(
            "INSERT INTO memory (agent, session, key, value, updated_at, expires_at, crc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value,"
            " updated_at = excluded.updated_at, expires_at = excluded.expires_at, crc = excluded.crc",
            (*self._where, self._blob, self._at, self._expires_at, zlib.crc32(self._blob)),
        )
        _count(connection, self._agent, more_keys, more_bytes)
        return 1

    def _exceeded(
        self, connection: sqlite3.Connection, more_keys: int, more_bytes: int
    ) -> tuple[str, int] | None:
        """Returns the limit that would be exceeded, and its value; a smaller value than before exceeds none."""
        found = connection.execute(
            "SELECT keys, size_bytes FROM memory_usage WHERE agent = ?", (self._agent,)
        ).fetchone()
        keys, size = map(number_of, found or (0, 0))
        if min(keys, size) < 0:  # damaged: they are counted again
            keys, size = _counted(connection, self._agent)
        if more_keys > 0 and keys + more_keys > self._rules.max_keys:
            return "max_keys", self._rules.max_keys
        if more_bytes > 0 and size + more_bytes > self._rules.max_keys_bytes:
            return "max_keys_bytes", self._rules.max_keys_bytes
        return None

    def _refusal(self, limit: str, value: int) -> ResourceLimitExceeded:
        agent, _, key = self._where
        text = f'cannot store "{key}" of agent "{agent}": {limit} = {value} is used up'
        return ResourceLimitExceeded(text, limit=limit, value=value, agent=agent, key=key)


class _Delete(_Change):
    def __init__(self, agent: str, session: str, key: str) -> None:
        self._where = (agent, session, key)

    def run(self, connection: sqlite3.Connection) -> int:
        """Removes the key."""
        condition = "agent = ? AND session = ? AND key = ?"
        return sum(_remove(connection, condition, self._where).values())


class ClearKeys(_Change):
    """Removes the keys of a session, or all of an agent; `removed` is their number."""

    def __init__(self, agent: str, session: str | None) -> None:
        self.removed = 0
        self._where = (agent, session, session)

    def run(self, connection: sqlite3.Connection) -> int:
        """Removes the keys."""
        condition = "agent = ? AND (? IS NULL OR session = ?)"
        self.removed = sum(_remove(connection, condition, self._where).values())
        return self.removed


class _Expire(_Change):
    def __init__(self, now: float, agent: str | None) -> None:
        self._where = (now, agent, agent)
        self.gone: dict[str, int] = {}

    def run(self, connection: sqlite3.Connection) -> int:
        """Removes the keys."""
        condition = "expires_at <= ? AND (? IS NULL OR agent = ?)"
        self.gone = _remove(connection, condition, self._where)
        return sum(self.gone.values())


def _remove(
    connection: sqlite3.Connection, condition: str, values: Iterable[object]
) -> dict[str, int]:
    """Deletes keys and updates the counts; returns how many, by agent. `condition` is one of those above."""
    gone: dict[str, list[int]] = {}
    rows = connection.execute(
        f"DELETE FROM memory WHERE {condition}"
        " RETURNING agent, LENGTH(CAST(key AS BLOB)) + LENGTH(value)",
        tuple(values),
    )
    for agent, size in rows:
        gone.setdefault(agent, []).append(size)
    for agent, sizes in gone.items():
        _count(connection, agent, -len(sizes), -sum(sizes))
    return {agent: len(sizes) for agent, sizes in gone.items()}


def _count(connection: sqlite3.Connection, agent: str, keys: int, size_bytes: int) -> None:
    connection.execute(
        "INSERT INTO memory_usage (agent, keys, size_bytes) VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
        " SET keys = keys + excluded.keys, size_bytes = size_bytes + excluded.size_bytes",
        (agent, keys, size_bytes),
    )


def _counted(connection: sqlite3.Connection, agent: str) -> tuple[int, int]:
    """Counts an agent's keys and their bytes anew, and stores the counts."""
    keys, size = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value)), 0) FROM memory"
        " WHERE agent = ?",
        (agent,),
    ).fetchone()
    connection.execute(
        "UPDATE memory_usage SET keys = ?, size_bytes = ? WHERE agent = ?", (keys, size, agent)
    )
    return keys, size


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
