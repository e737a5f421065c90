"""What one server lists, and how a list is read to its end, whatever its cursors are.

It asks through a function that it is given, and knows no connection. Entries are kept as they came. What a server
lists is hostile input: a list without end is given up, and an entry without the key that it would be asked for by is
left out.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

import msgspec

from ...worker.contract.codec import as_array, as_object, encode
from ...worker.contract.errors import CorralError, MethodNotFound, ResourceLimitExceeded, ToolFailed
from ..protocol.catalog import KINDS, Catalogue, Kind
from ..protocol.messages import LIST_TOOLS, Opened, Tool

MAX_PAGES = 100
MAX_ENTRIES = 5_000
MAX_LIST_BYTES = 16 * 1024 * 1024
"""All entries of one list, as JSON."""

RELIST_PAUSE_S = 0.5
"""The least time between two listings because of changes: a server may tell of them in a loop."""

METHODS: dict[Kind, str] = {
    "tools": LIST_TOOLS,
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resourceTemplates": "resources/templates/list",
}

KEYS: dict[Kind, str] = {
    "tools": "name",
    "prompts": "name",
    "resources": "uri",
    "resourceTemplates": "uriTemplate",
}
"""What tells one entry from another, and what it is asked for by."""

FAMILIES: dict[str, tuple[Kind, ...]] = {
    "tools": ("tools",),
    "prompts": ("prompts",),
    "resources": ("resources", "resourceTemplates"),
}
"""What is listed by a server that declares the capability; a change of the one list may be one of the other."""

Ask = Callable[[str, Mapping[str, object]], Awaitable[object]]

logger = logging.getLogger(__name__)


class Listed(NamedTuple):
    """One whole list."""

    entries: tuple[dict[str, object], ...]
    ttl_s: float | None = None
    """How long it may be taken for true, where its server says so (2026-07-28); the least of its pages."""
    is_private: bool = False
    """Whether its server says that it is for us alone."""


class Inventory:
    """The catalogue of one server while it is connected.

    Args:
        server: its name, for messages.
        ask: sends a request, by method and params, and returns its result.
        on_change: takes the catalogue whenever a list has changed after `open`.
    """

    def __init__(self, server: str, ask: Ask, on_change: Callable[[Catalogue], None]) -> None:
        self.catalogue = Catalogue()
        self.ttl_s: dict[Kind, float] = {}
        """How long each list may be taken for true after `catalogue.listed_at`, where the server says so."""
        self.private: frozenset[Kind] = frozenset()
        """The lists of which the server says that they are for us alone."""
        self._server = server
        self._ask = ask
        self._on_change = on_change
        self._kinds: tuple[Kind, ...] = ()
        self._stale: set[Kind] = set()
        self._is_open = False
        self._refreshing: asyncio.Task[None] | None = None

    async def read(self, opened: Opened) -> None:
        """Reads what the server declares for the first time; of one that declares no list, tools at least.

        A server is of use without prompts and resources: only tools have to be had.

        Raises:
            CorralError: the tools could not be listed, or the connection has ended.
        """
        families = [family for family in FAMILIES if family in opened.capabilities] or ["tools"]
        self._kinds = tuple(kind for family in families for kind in FAMILIES[family])
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

    def open(self) -> None:
        """From now on changes are followed; those that were told of before as well."""
        self._is_open = True
        self.changed(())

    def close(self) -> None:
        """Nothing is read any more."""
        self._is_open = False
        if self._refreshing is not None:
            self._refreshing.cancel()

    def changed(self, kinds: Collection[Kind]) -> None:
        """Lists may have changed: has them read soon. However many changes come, one listing runs at a time."""
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
                            'MCP server "%s" lists no %s, so that those known stay: %s',
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
                tools = map(Tool.from_wire, listed.entries)
                lists[kind] = tuple(tool for tool in tools if tool is not None)
            else:
                lists["templates" if kind == "resourceTemplates" else kind] = listed.entries
            self.ttl_s.pop(kind, None)
            if listed.ttl_s is not None:
                self.ttl_s[kind] = listed.ttl_s
        private = {kind for kind, listed in found.items() if listed.is_private}
        self.private = (self.private - found.keys()) | private
        self.catalogue = msgspec.structs.replace(self.catalogue, **lists, listed_at=time.time())


async def read_list(kind: Kind, ask: Ask) -> Listed:
    """All pages of one list; of two entries with one key the first counts.

    A cursor is opaque and `""` is one. One that comes again ends the list, for some servers ignore them. A server
    that does not know the method has an empty list.

    Raises:
        ToolFailed: an answer is no page of it.
        ResourceLimitExceeded: it is longer than lists may be.
        CorralError: what `ask` raises.
    """
    found: dict[str, dict[str, object]] = {}
    seen: set[str] = set()
    size_bytes = 0
    ttls_s: list[float] = []
    is_private = False
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
        is_private = is_private or fields.get("cacheScope") == "private"
        if len(found) > MAX_ENTRIES or size_bytes > MAX_LIST_BYTES:
            break
        following = fields.get("nextCursor")
        if not isinstance(following, str) or following in seen:
            return Listed(tuple(found.values()), min(ttls_s, default=None), is_private)
        cursor = following
        seen.add(cursor)
    raise ResourceLimitExceeded(
        f"cannot keep the {kind}: there are too many of them",
        limit={"pages": MAX_PAGES, "entries": MAX_ENTRIES, "bytes": MAX_LIST_BYTES},
        value={"entries": len(found), "bytes": size_bytes},
    )
