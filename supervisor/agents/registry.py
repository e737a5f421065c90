"""What the store keeps of the running set: agents that were added at run time, and the brake.

Each change is one transaction, and durable when its call returns. What a table means is not known here.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from ...worker.contract import codec
from ..store.store import Statement, Store

BRAKE = "emergency_stop"
"""The key in `meta` under which the brake is kept."""


Kind = Literal["agent", "mcp", "team", "workflow"]
KINDS: Mapping[str, Kind] = {"mcp": "mcp", "team": "team", "workflow": "workflow"}
"""As they are stored; every other word is an agent."""


class Entry(msgspec.Struct, frozen=True):
    """What was added at run time, and its table as in the configuration."""

    name: str
    kind: Kind
    table: Mapping[str, object]


class EmergencyStop(msgspec.Struct, frozen=True):
    """An emergency stop is in force: since when, and who asked for it."""

    at: str
    by: str


class Registry:
    """The table `agent`, and the brake.

    Every method that writes raises Overloaded when the store takes nothing now; nothing is changed then.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def entries(self) -> list[Entry]:
        """What was added at run time, in that order."""
        rows = await self._store.read(
            "SELECT name, kind, table_json FROM agent ORDER BY created_at"
        )
        return [
            Entry(str(name), KINDS.get(str(kind), "agent"), _table(text))
            for name, kind, text in rows
        ]

    async def add(self, entries: Iterable[Entry]) -> None:
        """Keeps all of them, or none."""
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
        """Keeps another table for what is there."""
        await self._store.write(
            ("UPDATE agent SET table_json = ? WHERE name = ?", (_text(table), name))
        )

    async def remove(self, names: Iterable[str]) -> None:
        """Keeps none of them any more."""
        statements: list[Statement] = [("DELETE FROM agent WHERE name = ?", (n,)) for n in names]
        if statements:
            await self._store.write(*statements)

    async def emergency_stop(self) -> EmergencyStop | None:
        """The brake, if it is in force."""
        rows = await self._store.read("SELECT value FROM meta WHERE key = ?", (BRAKE,))
        return msgspec.json.decode(str(rows[0][0]), type=EmergencyStop) if rows else None

    async def pull(self, emergency_stop: EmergencyStop) -> None:
        """Keeps the brake, so that no later daemon releases it."""
        text = msgspec.json.encode(emergency_stop).decode()
        await self._store.write(
            ("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (BRAKE, text))
        )

    async def release(self) -> None:
        """The brake is no longer in force."""
        await self._store.write(("DELETE FROM meta WHERE key = ?", (BRAKE,)))


def _text(table: Mapping[str, object]) -> str:
    return codec.encode(dict(table)).decode()


def _table(text: object) -> dict[str, object]:
    table = codec.as_object(codec.decode(str(text).encode()))
    assert table is not None, "the store holds tables that this program wrote"
    return dict(table)
