"""Stores the HTTP addresses that agents, teams and workflows were given at run time, so that the next daemon has them.

One of them counts in place of `http` and `http_auth` of the spec, until it is removed or its agent is.
"""

from collections.abc import Collection, Mapping

import msgspec

from corral.supervisor.config.decoding.values import HttpAuth
from corral.supervisor.config.spec.spec import Group, Spec
from corral.supervisor.records.store.store import Store

KEY = "exposures"
"""Key of all of them in the table `meta`."""


class Exposure(msgspec.Struct, frozen=True):
    """Represents where one is served: at `address`, or nowhere (None)."""

    address: str | None
    auth: HttpAuth = "token"


def written(entry: Spec | Group) -> Exposure:
    """Returns what the table of an agent, team or workflow says."""
    return Exposure(entry.http, entry.http_auth)


class Exposures:
    """Holds what was changed at run time, by name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_name: Mapping[str, Exposure] = {}

    async def load(self) -> None:
        """Reads them from the store."""
        rows = await self._store.read("SELECT value FROM meta WHERE key = ?", (KEY,))
        if rows:
            self._by_name = msgspec.json.decode(str(rows[0][0]), type=dict[str, Exposure])

    def of(self, entry: Spec | Group) -> Exposure:
        """Returns what is in force for an agent, team or workflow."""
        return self._by_name.get(entry.name) or written(entry)

    def has(self, name: str) -> bool:
        """Returns whether it was changed at run time."""
        return name in self._by_name

    async def set(self, entry: Spec | Group, exposure: Exposure) -> None:
        """Stores a change; one to what the table says is none."""
        others = {name: each for name, each in self._by_name.items() if name != entry.name}
        is_none = exposure.address == entry.http and (exposure.address is None or exposure.auth == entry.http_auth)
        await self._write(others if is_none else {**others, entry.name: exposure})

    async def forget(self, names: Collection[str]) -> None:
        """Removes those of names that are no longer there."""
        kept = {name: each for name, each in self._by_name.items() if name not in names}
        if kept != self._by_name:
            await self._write(kept)

    async def _write(self, by_name: Mapping[str, Exposure]) -> None:
        sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
        await self._store.write((sql, (KEY, msgspec.json.encode(by_name).decode())))
        self._by_name = by_name
