"""Reads the lists of one server page by page, and keeps them up to date.

It sends requests through a function, and must not know a connection. Entries are kept unchanged. Lists are hostile
input: an endless list is an error, and an entry without its key is left out.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

import msgspec

from corral.worker.contract.codec import as_array, as_object, encode
from corral.worker.contract.errors import CorralError, MethodNotFound, ResourceLimitExceeded, ToolFailed

from ..protocol.catalog import KINDS, Catalogue, Kind
from ..protocol.messages import LIST_TOOLS, Opened, Tool

MAX_PAGES = 100
MAX_ENTRIES = 5_000
MAX_LIST_BYTES = 16 * 1024 * 1024
"""Bytes of all entries of one list as JSON."""

RELIST_PAUSE_S = 0.5
"""Seconds between two listings because of changes, which a server may report in a loop."""

METHODS: dict[Kind, str] = {
    "tools": LIST_TOOLS,
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resourceTemplates": "resources/templates/list",
}

KEYS: dict[Kind, str] = {"tools": "name", "prompts": "name", "resources": "uri", "resourceTemplates": "uriTemplate"}
"""The key that identifies an entry of each kind in requests."""

KINDS_OF: dict[str, tuple[Kind, ...]] = {
    "tools": ("tools",),
    "prompts": ("prompts",),
    "resources": ("resources", "resourceTemplates"),
}
"""The lists of each declared capability; a change notification concerns all of them."""

Ask = Callable[[str, Mapping[str, object]], Awaitable[object]]

logger = logging.getLogger(__name__)


class Listed(NamedTuple):
    """Represents one complete list."""

    entries: tuple[dict[str, object], ...]
    ttl_s: float | None = None
    """Seconds that it may be cached, if its server gives a `ttlMs` (2026-07-28); the minimum of its pages."""


class Inventory:
    """Maintains the catalogue of one connected server."""

    def __init__(self, server: str, ask: Ask, on_change: Callable[[Catalogue], None]) -> None:
        self.catalogue = Catalogue()
        self.ttl_s: dict[Kind, float] = {}
        """Seconds that each list may be cached after `catalogue.listed_at`, if the server gives a limit."""
        self._server = server
        self._ask = ask
        self._on_change = on_change
        self._kinds: tuple[Kind, ...] = ()
        self._stale: set[Kind] = set()
        self._is_open = False
        self._refreshing: asyncio.Task[None] | None = None

    async def read(self, opened: Opened) -> None:
        """Reads the declared lists for the first time; tools also if no list is declared.

        A server is useful without prompts and resources: only a failure to list tools is an error.
        """
        declared = [each for each in KINDS_OF if each in opened.capabilities] or ["tools"]
        self._kinds = tuple(kind for each in declared for kind in KINDS_OF[each])
        self.catalogue = Catalogue(
            era=opened.era,
            version=opened.version,
            server_info=opened.server_info,
            capabilities=opened.capabilities,
            instructions=opened.instructions,
        )
        found: dict[Kind, Listed] = {}
        for kind in self._kinds:
            try:
                found[kind] = await read_list(kind, self._ask)
            except (ToolFailed, ResourceLimitExceeded) as error:
                if kind == "tools" or error.data.get("lost") is True:
                    error.data["server"] = self._server
                    raise
                logger.warning('MCP server "%s" lists no %s: %s', self._server, kind, error)
        self._take(found)

    @property
    def is_reading(self) -> bool:
        """Returns True while lists are read again."""
        return self._refreshing is not None

    def take_up(self, opened: Opened, catalogue: Catalogue, ttl_s: Mapping[Kind, float]) -> None:
        """Goes on from what another program has read."""
        declared = [each for each in KINDS_OF if each in opened.capabilities] or ["tools"]
        self._kinds = tuple(kind for each in declared for kind in KINDS_OF[each])
        self.catalogue, self.ttl_s = catalogue, dict(ttl_s)

    def open(self) -> None:
        """Starts to follow changes, including those reported before."""
        self._is_open = True
        self.changed(())

    def close(self) -> None:
        """Stops reading lists."""
        self._is_open = False
        if self._refreshing is not None:
            self._refreshing.cancel()

    def changed(self, kinds: Collection[Kind]) -> None:
        """Reads lists again soon, because they may have changed; one listing runs at a time."""
        self._stale.update(kind for kind in self._kinds if kind in kinds)
        if self._is_open and self._stale and self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            while self._stale and self._is_open:
                kinds = [kind for kind in KINDS if kind in self._stale]
                self._stale.clear()
                found: dict[Kind, Listed] = {}
                for kind in kinds:
                    try:
                        found[kind] = await read_list(kind, self._ask)
                    except CorralError as error:
                        logger.warning(
                            'MCP server "%s" lists no %s, so that the known ones are kept: %s',
                            self._server,
                            kind,
                            error,
                        )
                before = self.catalogue
                if found:
                    self._take(found)
                after = self.catalogue
                if msgspec.structs.replace(before, listed_at=after.listed_at) != after:
                    self._on_change(after)
                await asyncio.sleep(RELIST_PAUSE_S)
        finally:
            self._refreshing = None

    def _take(self, found: Mapping[Kind, Listed]) -> None:
        lists: dict[str, tuple[object, ...]] = {}
        for kind, listed in found.items():
            if kind == "tools":
                lists[kind] = tuple(tool for tool in map(Tool.from_wire, listed.entries) if tool is not None)
            else:
                lists["templates" if kind == "resourceTemplates" else kind] = listed.entries
            self.ttl_s.pop(kind, None)
            if listed.ttl_s is not None:
                self.ttl_s[kind] = listed.ttl_s
        self.catalogue = msgspec.structs.replace(self.catalogue, **lists, listed_at=time.time())


async def read_list(kind: Kind, ask: Ask) -> Listed:
    """Reads all pages of one list; if two entries have the same key, the first one counts.

    A cursor is opaque, and `""` is valid. A repeated cursor ends the list, because some servers ignore cursors. A
    server without the method has an empty list.
    """
    found: dict[str, dict[str, object]] = {}
    seen: set[str] = set()
    size_bytes = 0
    ttls_s: list[float] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        try:
            result = await ask(METHODS[kind], {} if cursor is None else {"cursor": cursor})
        except ToolFailed as error:
            if error.data.get("code") == MethodNotFound.code:
                return Listed(())
            raise
        fields = as_object(result)
        entries = None if fields is None else as_array(fields.get(kind))
        if fields is None or entries is None:
            raise ToolFailed(f"cannot read the {kind}: the answer has no list of them")
        for entry in map(as_object, entries):
            key = None if entry is None else entry.get(KEYS[kind])
            if entry is not None and isinstance(key, str) and key:
                size_bytes += len(encode(entry))
                found.setdefault(key, entry)
        ttl_ms = fields.get("ttlMs")
        if isinstance(ttl_ms, int | float) and not isinstance(ttl_ms, bool):
            ttls_s.append(max(0.0, ttl_ms / 1000))
        if len(found) > MAX_ENTRIES or size_bytes > MAX_LIST_BYTES:
            break
        following = fields.get("nextCursor")
        if not isinstance(following, str) or following in seen:
            return Listed(tuple(found.values()), min(ttls_s, default=None))
        cursor = following
        seen.add(cursor)
    raise ResourceLimitExceeded(
        f"cannot keep the {kind}: there are too many of them",
        limit={"pages": MAX_PAGES, "entries": MAX_ENTRIES, "bytes": MAX_LIST_BYTES},
        value={"entries": len(found), "bytes": size_bytes},
    )
