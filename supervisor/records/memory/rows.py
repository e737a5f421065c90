"""Removes rows of sessions and keys, and holds the counts of each agent, in `memory_usage`, equal to them.

Keys are counted here, in the transaction of every change; sessions by triggers of the store (see `store.schema`). All
runs on the writer's thread, inside a transaction.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..store.store import number_of

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
