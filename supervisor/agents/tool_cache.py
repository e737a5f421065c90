"""What MCP servers offered when they last ran, kept for as long as the same thing is started under their name.

A server that is not running stays listed, also by the next daemon. What it offers is what its program says, so
a catalogue is kept with a fingerprint of what was started, and dropped when another would be.
"""

import hashlib
import logging
from collections.abc import Iterable

import msgspec

from ...mcp.protocol.catalog import Catalogue
from ...worker.contract import codec
from ...worker.contract.errors import CorralError
from ..config.spec import Spec
from ..store.store import Statement, Store

MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Of one catalogue, as JSON: a larger one is read from its server again by each daemon."""

logger = logging.getLogger(__name__)


def fingerprint(spec: Spec) -> bytes:
    """Stands for all of a spec that what the server offers depends on; references to secrets as they are."""
    process = spec.process
    described = {
        "command": spec.command,
        "url": spec.url,
        "headers": spec.headers,
        "environment": spec.environment,
        "environment_file": str(process.environment_file),
        "working_directory": str(process.working_directory),
        "user": process.user,
        "protocol_version": spec.mcp.protocol_version,
        "relays": spec.relays,
    }
    return hashlib.sha256(codec.encode(described)).digest()


class ToolCache:
    """The table `catalogue`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, tuple[bytes, bytes]] = {}

    async def load(self) -> None:
        """Reads what an earlier daemon has kept."""
        rows = await self._store.read("SELECT server, fingerprint, value FROM catalogue")
        for server, stamp, value in rows:
            if isinstance(stamp, bytes) and isinstance(value, bytes):
                self._kept[str(server)] = (stamp, value)

    def of(self, spec: Spec) -> Catalogue:
        """What the server offered when this spec of it ran; an empty catalogue where that is not known."""
        stamp, value = self._kept.get(spec.name, (b"", b""))
        if stamp != fingerprint(spec):
            return Catalogue()
        try:
            return msgspec.json.decode(value, type=Catalogue)
        except msgspec.DecodeError as error:  # another version of corral has written it
            logger.info("what %s offers is read anew: %s", spec.name, error)
            return Catalogue()

    def keep(self, spec: Spec, catalogue: Catalogue) -> None:
        """Keeps what the server offers now, soon on disk."""
        value = msgspec.json.encode(catalogue)
        if len(value) > MAX_KEPT_BYTES:
            self.forget([spec.name])
            return
        stamp = fingerprint(spec)
        before = self._kept.get(spec.name)
        if before is not None and before[0] == stamp and _is_same(before[1], catalogue):
            return
        self._kept[spec.name] = (stamp, value)
        self._post(
            "INSERT OR REPLACE INTO catalogue (server, fingerprint, value) VALUES (?, ?, ?)",
            (spec.name, stamp, value),
        )

    def forget(self, names: Iterable[str]) -> None:
        """Keeps nothing of these servers any more."""
        for name in names:
            if self._kept.pop(name, None) is not None:
                self._post("DELETE FROM catalogue WHERE server = ?", (name,))

    def _post(self, sql: str, params: tuple[object, ...]) -> None:
        statement: Statement = (sql, params)
        try:
            self._store.post(statement)
        except CorralError as error:  # it is read from the server again
            logger.warning("what a server offers is not kept: %s", error)


def _is_same(kept: bytes, catalogue: Catalogue) -> bool:
    """Whether only the time has changed: no reason to write."""
    try:
        before = msgspec.json.decode(kept, type=Catalogue)
    except msgspec.DecodeError:
        return False
    return msgspec.structs.replace(before, listed_at=catalogue.listed_at) == catalogue
