"""Stores what was added to the running set at run time, and the emergency stop, so that the next daemon has both.

Each change is one transaction, durable when its call returns. The module does not know what a table means.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from ...worker.contract import codec
from ..store.store import Statement, Store

EMERGENCY_STOP_KEY = "emergency_stop"
"""Key of the emergency stop in the table `meta`."""

Kind = Literal["agent", "mcp", "team", "workflow"]
KINDS: Mapping[str, Kind] = {"mcp": "mcp", "team": "team", "workflow": "workflow"}
"""Kinds as the store spells them; every other word is an agent."""


class Entry(msgspec.Struct, frozen=True):
    """Represents an addition at run time: its table is as in the configuration."""

    name: str
    kind: Kind
    table: Mapping[str, object]


class EmergencyStop(msgspec.Struct, frozen=True):
    """Represents an emergency stop in force: its time (RFC 3339, UTC) and the caller that asked for it."""

    at: str
    by: str


class AgentTable:
    """Reads and writes the table `agent`, and the emergency stop in `meta`.

    Every method that writes raises Overloaded when the store takes nothing now; then nothing is changed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def entries(self) -> list[Entry]:
        """Returns what was added at run time, oldest first."""
        rows = await self._store.read(
            "SELECT name, kind, table_json FROM agent ORDER BY created_at"
        )
        return [
            Entry(str(name), KINDS.get(str(kind), "agent"), _table(text))
            for name, kind, text in rows
        ]

    async def add(self, entries: Iterable[Entry]) -> None:
        """Inserts or replaces all entries, or none."""
        now = time.time()
        await self._store.write(
            *(
                (
                    "INSERT OR REPLACE INTO agent (name, kind, table_json, created_at)"
                    " VALUES (?, ?, ?, ?)",
                    (entry.name, entry.kind, _text(entry.table), now),
                )
                for entry in entries
            )
        )

    async def change(self, name: str, table: Mapping[str, object]) -> None:
        """Replaces the table of an entry that is there."""
        await self._store.write(
            ("UPDATE agent SET table_json = ? WHERE name = ?", (_text(table), name))
        )

    async def remove(self, names: Iterable[str]) -> None:
        """Deletes the entries of these names, all or none."""
        statements: list[Statement] = [("DELETE FROM agent WHERE name = ?", (n,)) for n in names]
        if statements:
            await self._store.write(*statements)

    async def emergency_stop(self) -> EmergencyStop | None:
        """Returns the emergency stop, if one is in force."""
        sql = "SELECT value FROM meta WHERE key = ?"
        rows = await self._store.read(sql, (EMERGENCY_STOP_KEY,))
        return msgspec.json.decode(str(rows[0][0]), type=EmergencyStop) if rows else None

    async def set_emergency_stop(self, emergency_stop: EmergencyStop) -> None:
        """Stores the emergency stop, so that it is in force in later daemons too."""
        text = msgspec.json.encode(emergency_stop).decode()
        sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
        await self._store.write((sql, (EMERGENCY_STOP_KEY, text)))

    async def clear_emergency_stop(self) -> None:
        """Deletes the emergency stop."""
        await self._store.write(("DELETE FROM meta WHERE key = ?", (EMERGENCY_STOP_KEY,)))


def _text(table: Mapping[str, object]) -> str:
    return codec.encode(dict(table)).decode()


def _table(text: object) -> dict[str, object]:
    table = codec.as_object(codec.decode(str(text).encode()))
    assert table is not None, "the store holds tables that this program wrote"
    return dict(table)
