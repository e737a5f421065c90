"""Reads what was added to the running set at run time; reads and stores the emergency stop, for the next daemon.

The room `revisions` writes the tables. The module does not know what one means.
"""

from collections.abc import Mapping

import msgspec

from corral.supervisor.records.store.store import Store
from corral.worker.contract import codec

from .record import Kind

EMERGENCY_STOP_KEY = "emergency_stop"
"""Key of the emergency stop in the table `meta`."""

KINDS: Mapping[str, Kind] = {"mcp": "mcp", "team": "team", "workflow": "workflow"}
"""Kinds as the store spells them; every other word is an agent."""


class Entry(msgspec.Struct, frozen=True):
    """Represents an addition at run time: its table is as in the configuration."""

    name: str
    kind: Kind
    table: Mapping[str, object]
    base: str | None = None
    """Fingerprint of the table of the file that it overrides."""


class EmergencyStop(msgspec.Struct, frozen=True):
    """Represents an emergency stop in force: its time (RFC 3339, UTC) and the caller that asked for it."""

    at: str
    by: str


class AgentTable:
    """Reads the table `agent`; reads and writes the emergency stop in `meta`.

    Every method that writes raises Overloaded when the store takes nothing now; then nothing is changed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def entries(self) -> list[Entry]:
        """Returns what was added at run time, oldest first."""
        rows = await self._store.read("SELECT name, kind, table_json, base FROM agent ORDER BY created_at")
        return [
            Entry(str(name), KINDS.get(str(kind), "agent"), _table(text), None if base is None else str(base))
            for name, kind, text, base in rows
        ]

    async def emergency_stop(self) -> EmergencyStop | None:
        """Returns the emergency stop, if one is in force."""
        rows = await self._store.read("SELECT value FROM meta WHERE key = ?", (EMERGENCY_STOP_KEY,))
        return msgspec.json.decode(str(rows[0][0]), type=EmergencyStop) if rows else None

    async def set_emergency_stop(self, emergency_stop: EmergencyStop) -> None:
        """Stores the emergency stop, so that it is in force in later daemons too."""
        text = msgspec.json.encode(emergency_stop).decode()
        await self._store.write(("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (EMERGENCY_STOP_KEY, text)))

    async def clear_emergency_stop(self) -> None:
        """Deletes the emergency stop."""
        await self._store.write(("DELETE FROM meta WHERE key = ?", (EMERGENCY_STOP_KEY,)))


def _table(text: object) -> dict[str, object]:
    table = codec.as_object(codec.decode(str(text).encode()))
    assert table is not None, "the store holds tables that this program wrote"
    return dict(table)
