"""corral as an MCP server, without a transport: what a client of either era asks, answered from an Offering.

It knows no daemon, no pool and no pipe. A transport makes one `Face` for each client, gives it the
client's requests (`request`) and notifications (`hear`), answers with what comes back or is raised
(`CorralError.to_wire` is the error object), cancels the call of `request` when the client withdraws the request or is gone,
and calls `close` in the end. `Link` (exchange.py) is the way back to the client for as long as one request lasts;
`notify` is the one for what belongs to no request.

A client that says `initialize` is *legacy* from then on; requests whose `_meta` names a revision are *modern* and
stand for themselves, also between those of a legacy client. One that began without `initialize` is
refused it: it has shown that it can do without. A transport that keeps no state of its clients (HTTP, for
modern ones) may have one Face for all that are offered the same.
"""

import asyncio
import base64
import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

from ...worker.contract.codec import as_array, as_object
from ...worker.contract.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
    ResourceLimitExceeded,
    ToolFailed,
)
from ...worker.contract.mcp_info import CAPABILITIES
from ..protocol.caller import NOBODY, Caller
from ..protocol.catalog import Kind
from ..protocol.messages import (
    ACKNOWLEDGED,
    CALL,
    COMPLETE,
    DISCOVER,
    GET_PROMPT,
    INITIALIZE,
    INITIALIZED,
    LEGACY_VERSIONS,
    LISTEN,
    LOG_LEVEL,
    META,
    MODERN_VERSIONS,
    OURS,
    PING,
    READ,
    SET_LEVEL,
    SUBSCRIBE,
    SUBSCRIPTION_ID,
    UNSUBSCRIBE,
    UPDATED,
    Era,
)
from ..upstream.listing import KEYS, METHODS
from .request import (
    LEVELS,
    Exchange,
    Link,
    failed,
    is_unknown_tool,
    of_server,
    refusal,
    unsupported_version,
)

PAGE = 200
"""Entries of a list in one answer."""

MAX_SUBSCRIPTIONS = 1000
"""Resources that one client subscribes to."""

MAX_LISTENS = 1000
"""Requests `subscriptions/listen` under way at one Face."""

MAX_ROUNDS = 10
"""How often a modern server may ask a legacy client for more before it has an answer."""

TTL_MS = 0
"""How long a client may take a list for good unasked: servers come and go at any time."""

VERSION_KEY = META + "protocolVersion"
CAPABILITIES_KEY = META + "clientCapabilities"
SERVER_KEY = META + "serverInfo"


LISTED: dict[str, Kind] = {method: kind for kind, method in METHODS.items()}

CHANGED: dict[Kind, str] = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
    "resources": "notifications/resources/list_changed",
    "resourceTemplates": "notifications/resources/list_changed",
}

WANTED: dict[str, str] = {
    "toolsListChanged": CHANGED["tools"],
    "promptsListChanged": CHANGED["prompts"],
    "resourcesListChanged": CHANGED["resources"],
}
"""What `subscriptions/listen` asks for, and what it is told then."""

PASSED_ON = frozenset({GET_PROMPT, READ, COMPLETE})

Notify = Callable[[str, Mapping[str, object]], None]


class Offering(Protocol):
    """What one client is offered: the pool through its access, and corral's own tools."""

    @property
    def instructions(self) -> str:
        """What models are told about the whole."""
        ...

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        """MCP's objects under exposed names, sorted; starts servers that never listed anything."""
        ...

    async def request(
        self, method: str, params: Mapping[str, object], caller: Caller
    ) -> dict[str, object]:
        """The result of tools/call, prompts/get, resources/read or completion/complete.

        `params` are those of MCP, with `_meta` of the caller that is not the protocol's, and with
        `inputResponses` and `requestState` where it has them.

        Raises:
            NotFound: there is no such tool, prompt or resource; of a tool, `data["tool"]` or `data["server"]` says so.
            CorralError: it could not be had.
        """
        ...

    async def subscribe(self, uri: str, on_updated: Callable[[str], None]) -> Callable[[], None]:
        """Has `on_updated` called with the URI whenever the resource changes; returns what ends that.

        Raises:
            CorralError: there is no such resource, or its server does not tell.
        """
        ...

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Has `on_change` called when a list has changed; returns what ends that."""
        ...


def _drop(_method: str, _params: Mapping[str, object]) -> None:
    return


class McpEndpoint:
    """One client's MCP server.

    Args:
        offering: what it is offered.
        name: the server's name, for clients that show it.
        version: corral's own.
        caller: who it is; capabilities and ways back are filled in for each request.
        notify: sends what belongs to no request: changed lists and resources.
    """

    def __init__(
        self,
        offering: Offering,
        *,
        name: str = "corral",
        version: str,
        caller: Caller = NOBODY,
        notify: Notify = _drop,
    ) -> None:
        self._offering = offering
        self._info: dict[str, object] = {"name": name, "version": version}
        self._caller = caller
        self._notify = notify
        self._era: Era | None = None
        self._version = ""
        self._capabilities: dict[str, object] = {}
        self._level: str | None = None
        self._subscribed: dict[str, Callable[[], None]] = {}
        self._changes: _Changes | None = None
        self._listens: set[asyncio.Future[None]] = set()
        self._is_closed = False

    @property
    def era(self) -> Era | None:
        """The era of the client's first message; None before it."""
        return self._era

    @property
    def version(self) -> str:
        """The revision that was agreed on with a legacy client; empty for others."""
        return self._version

    async def request(
        self, request_id: str | int, method: str, params: Mapping[str, object], link: Link
    ) -> dict[str, object]:
        """The result of a request of the client.

        Raises:
            CorralError: its `to_wire` is the error to answer with.
        """
        meta = as_object(params.get("_meta"))
        if meta is not None and VERSION_KEY in meta:
            exchange = self._modern_exchange(request_id, meta, link)
            self._era = self._era or "modern"
            return await self._serve_modern(exchange, method, params)
        if method == INITIALIZE:
            return self._initialize(params)
        if method == PING:
            return {}
        if self._era != "legacy" or method == DISCOVER:
            raise InvalidParams(
                f'cannot serve "{method}": its _meta has no "{VERSION_KEY}"',
                key=f"_meta.{VERSION_KEY}",
            )
        self._begin()
        least = 0 if self._level is None else LEVELS.index(self._level)
        exchange = Exchange(request_id, link, meta, self._capabilities, least)
        return await self._serve_legacy(exchange, method, params)

    def hear(self, method: str, _params: Mapping[str, object]) -> None:
        """Takes a notification of the client; those that need nothing from us are dropped."""
        if method == INITIALIZED and self._era == "legacy":
            self._begin()

    def close(self) -> None:
        """The client is gone, or is to go: ends subscriptions; what listens is answered."""
        self._is_closed = True
        self._notify = _drop
        if self._changes is not None:
            self._changes.end()
            self._changes = None
        for end in self._subscribed.values():
            end()
        self._subscribed.clear()
        for listen in self._listens:
            if not listen.done():
                listen.set_result(None)

    # -- opening

    def _initialize(self, params: Mapping[str, object]) -> dict[str, object]:
        if self._era == "modern":
            raise unsupported_version(params.get("protocolVersion"))
        requested = params.get("protocolVersion")
        if not isinstance(requested, str):
            raise InvalidParams(
                'cannot initialize: "protocolVersion" is no string', key="protocolVersion"
            )
        self._era = "legacy"
        self._version = requested if requested in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
        self._capabilities = as_object(params.get("capabilities")) or {}
        return {
            "protocolVersion": self._version,
            "capabilities": CAPABILITIES,
            "serverInfo": self._info,
            "instructions": self._offering.instructions,
        }

    def _begin(self) -> None:
        """From `initialized` on, or the first request after it was forgotten, a legacy client hears of changes."""
        if self._changes is None and not self._is_closed:
            self._changes = _Changes(self._offering, frozenset(WANTED.values()), self._tell)

    def _tell(self, method: str) -> None:
        self._notify(method, {})

    def _modern_exchange(
        self, request_id: str | int, meta: dict[str, object], link: Link
    ) -> "Exchange":
        version, capabilities = meta[VERSION_KEY], as_object(meta.get(CAPABILITIES_KEY))
        if not isinstance(version, str):
            raise InvalidParams(
                "cannot serve the request: its revision is no string", key=VERSION_KEY
            )
        if version not in MODERN_VERSIONS:
            raise unsupported_version(version)
        if capabilities is None:
            raise InvalidParams(
                f'cannot serve the request: its _meta has no "{CAPABILITIES_KEY}"',
                key=CAPABILITIES_KEY,
            )
        level = meta.get(LOG_LEVEL)
        if level is not None and level not in LEVELS:
            raise InvalidParams(f"cannot log at level {level!r}", key=LOG_LEVEL, known=list(LEVELS))
        least = None if level is None else LEVELS.index(str(level))
        return Exchange(request_id, link, meta, capabilities, least, is_modern=True)

    # -- serving

    async def _serve_legacy(
        self, exchange: "Exchange", method: str, params: Mapping[str, object]
    ) -> dict[str, object]:
        if method == CALL or method in PASSED_ON:
            result = await self._relay(exchange, method, params)
            for _ in range(MAX_ROUNDS):
                if result.get("resultType") != "input_required":
                    return _without_modern(result)
                result = await self._go_on(exchange, method, params, result)
            text = f'cannot finish "{method}": its server asked {MAX_ROUNDS} times for more'
            raise ToolFailed(text, limit=MAX_ROUNDS)
        if (kind := LISTED.get(method)) is not None:
            return await self._list(kind, params)
        if method == SET_LEVEL:
            level = params.get("level")
            if level not in LEVELS:
                raise InvalidParams(
                    f"cannot log at level {level!r}", key="level", known=list(LEVELS)
                )
            self._level = str(level)
            return {}
        if method == SUBSCRIBE:
            return await self._subscribe(_text(params, "uri"))
        if method == UNSUBSCRIBE:
            end = self._subscribed.pop(_text(params, "uri"), None)
            if end is not None:
                end()
            return {}
        raise MethodNotFound(f'cannot call "{method}": there is no such method', method=method)

    async def _serve_modern(
        self, exchange: "Exchange", method: str, params: Mapping[str, object]
    ) -> dict[str, object]:
        if method == CALL or method in PASSED_ON:
            result = await self._relay(exchange, method, params)
            if method == READ and "contents" in result:
                result = {"ttlMs": TTL_MS, "cacheScope": "private", **result}
        elif (kind := LISTED.get(method)) is not None:
            result = await self._list(kind, params)
            result |= {"ttlMs": TTL_MS, "cacheScope": "private"}
        elif method == DISCOVER:
            result = {
                "supportedVersions": list(MODERN_VERSIONS),
                "capabilities": CAPABILITIES,
                "instructions": self._offering.instructions,
                "ttlMs": TTL_MS,
                "cacheScope": "private",
            }
        elif method == LISTEN:
            result = await self._listen(exchange, params)
        else:
            raise MethodNotFound(f'cannot call "{method}": there is no such method', method=method)
        meta = {**(as_object(result.get("_meta")) or {}), SERVER_KEY: self._info}
        return {"resultType": "complete", **result, "_meta": meta}

    async def _list(self, kind: Kind, params: Mapping[str, object]) -> dict[str, object]:
        entries = await self._offering.listed(kind)
        start = 0
        if "cursor" in params and params["cursor"] is not None:
            start = _place(kind, entries, params["cursor"])
        page = entries[start : start + PAGE]
        result: dict[str, object] = {kind: page}
        if start + PAGE < len(entries):
            result["nextCursor"] = _cursor(kind, start + PAGE, page[-1])
        return result

    async def _relay(
        self,
        exchange: "Exchange",
        method: str,
        params: Mapping[str, object],
    ) -> dict[str, object]:
        """What the offering answers; of a call that failed, a result that says so where MCP wants one."""
        key = "uri" if method == READ else "name"
        name = params.get(key)
        if method == COMPLETE:
            _check_completion(params)
        elif not isinstance(name, str):
            raise InvalidParams(f'cannot call "{method}": "{key}" is no string', key=key)
        if "_meta" in params:
            params = _without_protocol(params)
        if self._level is not None and not exchange.is_modern:  # modern servers are told each time
            meta = as_object(params.get("_meta")) or {}
            params = {**params, "_meta": {**meta, LOG_LEVEL: self._level}}
        try:
            return await self._offering.request(method, params, exchange.caller(self._caller))
        except CorralError as error:
            if method != CALL:
                raise refusal(error, method, name, is_modern=exchange.is_modern) from error
            if is_unknown_tool(error, str(name)):
                raise InvalidParams(error.message, **error.data) from error
            if (own := of_server(error)) is not None:
                raise own from error
            return failed(error)
        finally:
            exchange.is_over = True

    async def _go_on(
        self,
        exchange: "Exchange",
        method: str,
        params: Mapping[str, object],
        result: Mapping[str, object],
    ) -> dict[str, object]:
        """Asks a legacy client what a modern server wants to know, and the server once more."""
        exchange.is_over = False
        responses: dict[str, object] = {}
        try:
            for key, raw in (as_object(result.get("inputRequests")) or {}).items():
                asked = as_object(raw) or {}
                wanted = asked.get("method")
                if not isinstance(wanted, str):
                    raise ToolFailed(f'cannot finish "{method}": its server asks for nothing')
                responses[key] = await exchange.ask(wanted, as_object(asked.get("params")) or {})
        except CorralError as error:
            if method != CALL:
                raise
            return failed(error)
        again = {**params, "inputResponses": responses}
        if "requestState" in result:
            again["requestState"] = result["requestState"]
        return await self._relay(exchange, method, again)

    # -- subscriptions

    async def _subscribe(self, uri: str) -> dict[str, object]:
        if uri in self._subscribed:
            return {}
        if len(self._subscribed) >= MAX_SUBSCRIPTIONS:
            raise _too_many(f"subscribe to {uri!r}", MAX_SUBSCRIPTIONS)
        try:
            end = await self._offering.subscribe(uri, self._tell_updated)
        except CorralError as error:
            raise refusal(error, SUBSCRIBE, uri, is_modern=False) from error
        if self._is_closed or uri in self._subscribed:  # meanwhile
            end()
        else:
            self._subscribed[uri] = end
        return {}

    def _tell_updated(self, uri: str) -> None:
        self._notify(UPDATED, {"uri": uri})

    async def _listen(
        self, exchange: "Exchange", params: Mapping[str, object]
    ) -> dict[str, object]:
        """Tells of what the filter names until the client withdraws the request or the face is closed."""
        wanted = as_object(params.get("notifications"))
        if wanted is None:
            raise InvalidParams('cannot listen: "notifications" is no object', key="notifications")
        if len(self._listens) >= MAX_LISTENS:
            raise _too_many("listen", MAX_LISTENS)
        uris = [
            uri
            for uri in as_array(wanted.get("resourceSubscriptions")) or []
            if isinstance(uri, str)
        ]
        if len(uris) > MAX_SUBSCRIPTIONS:
            raise _too_many("listen", MAX_SUBSCRIPTIONS)
        meta: dict[str, object] = {SUBSCRIPTION_ID: exchange.id}
        flags = {key: True for key in WANTED if wanted.get(key) is True}
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listens.add(over)
        with contextlib.ExitStack() as stack:
            stack.callback(self._listens.discard, over)
            waiting: list[str] | None = []  # told before the acknowledgement, and sent after it

            def updated(uri: str) -> None:
                if waiting is None:
                    exchange.notify(UPDATED, {"uri": uri, "_meta": meta})
                elif uri not in waiting:
                    waiting.append(uri)

            honored: list[str] = []
            for uri in dict.fromkeys(uris):
                with contextlib.suppress(
                    CorralError
                ):  # what there is none of is left out of the answer
                    stack.callback(await self._offering.subscribe(uri, updated))
                    honored.append(uri)
            filters: dict[str, object] = dict(flags)
            if honored:
                filters["resourceSubscriptions"] = honored
            exchange.notify(ACKNOWLEDGED, {"notifications": filters, "_meta": meta})
            held, waiting = waiting or [], None
            for uri in held:
                updated(uri)
            methods = frozenset(WANTED[key] for key in flags)
            changes = _Changes(
                self._offering, methods, lambda method: exchange.notify(method, {"_meta": meta})
            )
            stack.callback(changes.end)
            if self._is_closed and not over.done():  # else it was there to be ended
                over.set_result(None)
            await over
        return {"_meta": meta}


class _Changes:
    """Tells of changed lists, once for all changes of one turn of the loop."""

    def __init__(
        self, offering: Offering, methods: frozenset[str], tell: Callable[[str], None]
    ) -> None:
        self._methods = methods
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._pending: set[str] = set()
        self._handle: asyncio.Handle | None = None
        self._unwatch = offering.watch(self._changed) if methods else None

    def _changed(self, kind: Kind) -> None:
        method = CHANGED[kind]
        if method in self._methods:
            self._pending.add(method)
            if self._handle is None:
                self._handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._handle = None
        pending = sorted(self._pending)
        self._pending.clear()
        for method in pending:
            self._tell(method)

    def end(self) -> None:
        """Nothing is told after this."""
        if self._handle is not None:
            self._handle.cancel()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None


# -- params


def _text(params: Mapping[str, object], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str):
        raise InvalidParams(f'cannot serve the request: "{key}" is no string', key=key)
    return value


def _check_completion(params: Mapping[str, object]) -> None:
    for key in ("ref", "argument"):
        if as_object(params.get(key)) is None:
            raise InvalidParams(f'cannot call "{COMPLETE}": "{key}" is no object', key=key)


def _without_protocol(params: Mapping[str, object]) -> dict[str, object]:
    """The params with what of `_meta` is the server's to read, the log level among it."""
    rest = {key: value for key, value in params.items() if key != "_meta"}
    meta = as_object(params["_meta"]) or {}
    kept = {key: value for key, value in meta.items() if key not in OURS}
    if kept:
        rest["_meta"] = kept
    return rest


def _cursor(kind: Kind, place: int, last: Mapping[str, object]) -> str:
    """The place in a list after `last`: by its name, since the list may change, and by number if that has gone."""
    text = f"{kind} {place} {_key(kind, last)}"
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def _place(kind: Kind, entries: list[dict[str, object]], cursor: object) -> int:
    try:
        raw = base64.b64decode(str(cursor).encode("ascii"), altchars=b"-_", validate=True)
        named, place, key = raw.decode("utf-8", "surrogatepass").split(" ", 2)
        number = int(place)
    except ValueError:
        named, number, key = "", 0, ""
    if named != kind or number < 1:
        raise InvalidParams(f'cannot list {kind}: "cursor" is none of ours', key="cursor")
    if number <= len(entries) and _key(kind, entries[number - 1]) == key:
        return number
    places = (place for place, entry in enumerate(entries, 1) if _key(kind, entry) == key)
    return next(places, min(number, len(entries)))


def _key(kind: Kind, entry: Mapping[str, object]) -> str:
    return str(entry.get(KEYS[kind]))


# -- results and errors


def _without_modern(result: dict[str, object]) -> dict[str, object]:
    """The result as legacy clients know it."""
    if "resultType" not in result:
        return result
    modern = ("resultType", "ttlMs", "cacheScope")
    return {key: value for key, value in result.items() if key not in modern}


def _too_many(what: str, limit: int) -> ResourceLimitExceeded:
    return ResourceLimitExceeded(
        f"cannot {what}: the client has {limit} already", limit=limit, value=limit + 1
    )
