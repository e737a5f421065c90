"""Serves MCP requests of a client of either era from a `Provider`, without a transport.

It must not know the daemon, the pool or a pipe. A transport makes one `McpEndpoint` for each client, passes it the
client's requests (`request`) and notifications (`handle_notification`), responds with the result or the raised error
(`CorralError.to_wire` is the error object), cancels the call of `request` when the client cancels the request or is
gone, and calls `close` in the end. `ClientLink` (request.py) leads back to the client during one request; `notify`
sends notifications that belong to no request.

A client that sends `initialize` is *legacy* from then on; requests whose `_meta` names a revision are *modern* and
stateless, also between those of a legacy client. A client that began without `initialize` is refused it later. A
transport without client state (HTTP, for modern clients) may use one endpoint for all clients with the same view.
"""

import base64
from collections.abc import Callable, Mapping

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import CorralError, InvalidParams, MethodNotFound
from corral.worker.contract.mcp_info import CAPABILITIES, TASKS_VERSION, capabilities

from ..protocol.catalog import Kind
from ..protocol.forms import MAX_ROUNDS, requires_input, too_many_rounds, with_input
from ..protocol.messages import (
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
    NOBODY,
    OURS,
    PING,
    READ,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    UPDATED,
    Caller,
    Era,
)
from ..upstream.listing import KEYS, METHODS
from .request import (
    LEVELS,
    ClientLink,
    Provider,
    ServedRequest,
    TaskSource,
    failed,
    is_unknown_tool,
    of_server,
    refusal,
    too_many,
    unsupported_version,
)
from .tasks import MAX_SUBSCRIPTIONS, WANTED, ListChanges, Listens, TaskRequests

PAGE = 200
"""Number of entries of a list in one response."""

TTL_MS = 0
"""Milliseconds that a client may cache a list: servers are added and removed at any time."""

VERSION_KEY = META + "protocolVersion"
CAPABILITIES_KEY = META + "clientCapabilities"
SERVER_KEY = META + "serverInfo"


LISTED: dict[str, Kind] = {method: kind for kind, method in METHODS.items()}

PASSED_ON = frozenset({GET_PROMPT, READ, COMPLETE})

Notify = Callable[[str, Mapping[str, object]], None]


def _drop(_method: str, _params: Mapping[str, object]) -> None:
    return


class McpEndpoint:
    """Represents the MCP server of one client."""

    def __init__(
        self,
        provider: Provider,
        *,
        name: str = "corral",
        version: str,
        caller: Caller = NOBODY,
        notify: Notify = _drop,
        tasks: TaskSource | None = None,
    ) -> None:
        self._provider = provider
        self._info: dict[str, object] = {"name": name, "version": version}
        self._caller = caller
        self._notify = notify
        self._era: Era | None = None
        self._version = ""
        self._capabilities: dict[str, object] = {}
        self._level: str | None = None
        self._subscribed: dict[str, Callable[[], None]] = {}
        self._changes: ListChanges | None = None
        self._listens = Listens(provider, tasks)
        self._tasks = None if tasks is None else TaskRequests(tasks, self._notify_change_of_task)
        self._is_closed = False

    @property
    def era(self) -> Era | None:
        """Returns the era of the client's first message; None before it."""
        return self._era

    @property
    def version(self) -> str:
        """Returns the revision negotiated with a legacy client; empty for others."""
        return self._version

    async def request(
        self, request_id: str | int, method: str, params: Mapping[str, object], link: ClientLink
    ) -> dict[str, object]:
        """Returns the result of a request of the client."""
        meta = as_object(params.get("_meta"))
        if meta is not None and VERSION_KEY in meta:
            request = self._modern_request(request_id, meta, link)
            self._era = self._era or "modern"
            return await self._serve_modern(request, method, params)
        if method == INITIALIZE:
            return self._initialize(params)
        if method == PING:
            return {}
        if self._era != "legacy" or method == DISCOVER:
            raise InvalidParams(
                f'cannot serve "{method}": its _meta has no "{VERSION_KEY}"', key=f"_meta.{VERSION_KEY}"
            )
        self._begin()
        least = 0 if self._level is None else LEVELS.index(self._level)
        request = ServedRequest(request_id, link, meta, self._capabilities, least)
        return await self._serve_legacy(request, method, params)

    def handle_notification(self, method: str, _params: Mapping[str, object]) -> None:
        """Takes a notification of the client; those without an effect are dropped."""
        if method == INITIALIZED and self._era == "legacy":
            self._begin()

    def close(self) -> None:
        """Ends the subscriptions of the client, and completes its `subscriptions/listen` requests."""
        self._is_closed = True
        self._notify = _drop
        if self._changes is not None:
            self._changes.end()
            self._changes = None
        for end in self._subscribed.values():
            end()
        self._subscribed.clear()
        self._listens.close()
        if self._tasks is not None:
            self._tasks.close()

    # -- opening

    def _initialize(self, params: Mapping[str, object]) -> dict[str, object]:
        if self._era == "modern":
            raise unsupported_version(params.get("protocolVersion"))
        requested = params.get("protocolVersion")
        if not isinstance(requested, str):
            raise InvalidParams('cannot initialize: "protocolVersion" is no string', key="protocolVersion")
        self._era = "legacy"
        self._version = requested if requested in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
        self._capabilities = as_object(params.get("capabilities")) or {}
        return {
            "protocolVersion": self._version,
            "capabilities": self._declared(self._version),
            "serverInfo": self._info,
            "instructions": self._provider.instructions,
        }

    def _begin(self) -> None:
        """Starts change notifications for a legacy client: at `initialized`, or at its first request without it."""
        if self._changes is None and not self._is_closed:
            self._changes = ListChanges(self._provider, frozenset(WANTED.values()), self._notify_change)

    def _declared(self, version: str) -> dict[str, object]:
        return CAPABILITIES if self._tasks is None else capabilities(version)

    def _notify_change(self, method: str) -> None:
        self._notify(method, {})

    def _notify_change_of_task(self, method: str, params: Mapping[str, object]) -> None:
        self._notify(method, params)

    def _modern_request(self, request_id: str | int, meta: dict[str, object], link: ClientLink) -> "ServedRequest":
        version, capabilities = meta[VERSION_KEY], as_object(meta.get(CAPABILITIES_KEY))
        if not isinstance(version, str):
            raise InvalidParams("cannot serve the request: its revision is no string", key=VERSION_KEY)
        if version not in MODERN_VERSIONS:
            raise unsupported_version(version)
        if capabilities is None:
            raise InvalidParams(
                f'cannot serve the request: its _meta has no "{CAPABILITIES_KEY}"', key=CAPABILITIES_KEY
            )
        level = meta.get(LOG_LEVEL)
        if level is not None and level not in LEVELS:
            raise InvalidParams(f"cannot log at level {level!r}", key=LOG_LEVEL, known=list(LEVELS))
        least = None if level is None else LEVELS.index(str(level))
        return ServedRequest(request_id, link, meta, capabilities, least, is_modern=True)

    # -- serving

    async def _serve_legacy(
        self, request: "ServedRequest", method: str, params: Mapping[str, object]
    ) -> dict[str, object]:
        if method == CALL and "task" in params:
            if self._tasks is not None and self._has_task_support(request):
                return await self._tasks.begin_legacy(request, params, self._caller)
            params = _without(dict(params), "task")
        if method == CALL and self._tasks is not None:
            self._tasks.check_plain(params.get("name"))
        if method == CALL or method in PASSED_ON:
            result = await self._relay(request, method, params)
            for _ in range(MAX_ROUNDS):
                if not requires_input(result):
                    return _without_modern(result)
                result = await self._go_on(request, method, params, result)
            raise too_many_rounds(method)
        if (kind := LISTED.get(method)) is not None:
            return await self._list(kind, params, self._has_task_support(request))
        if method == SET_LEVEL:
            level = params.get("level")
            if level not in LEVELS:
                raise InvalidParams(f"cannot log at level {level!r}", key="level", known=list(LEVELS))
            self._level = str(level)
            return {}
        if method == SUBSCRIBE:
            return await self._subscribe(_text(params, "uri"))
        if method == UNSUBSCRIBE:
            end = self._subscribed.pop(_text(params, "uri"), None)
            if end is not None:
                end()
            return {}
        tasks = self._tasks if self._has_task_support(request) else None
        if tasks is not None and tasks.serves(method, is_modern=False):
            return await tasks.serve(request, method, params, self._caller)
        raise MethodNotFound(f'cannot call "{method}": there is no such method', method=method)

    async def _serve_modern(
        self, request: "ServedRequest", method: str, params: Mapping[str, object]
    ) -> dict[str, object]:
        if method == CALL or method in PASSED_ON:
            if method == CALL:
                params = _without(dict(params), "task")  # of 2025-11-25: it has no meaning here
            result = await self._begun(request, method, params)
            if result is None:
                result = await self._relay(request, method, params)
            if method == READ and "contents" in result:
                result = {"ttlMs": TTL_MS, "cacheScope": "private", **result}
        elif (kind := LISTED.get(method)) is not None:
            result = await self._list(kind, params, self._has_task_support(request))
            result |= {"ttlMs": TTL_MS, "cacheScope": "private"}
        elif method == DISCOVER:
            result = {
                "supportedVersions": list(MODERN_VERSIONS),
                "capabilities": self._declared(MODERN_VERSIONS[-1]),
                "instructions": self._provider.instructions,
                "ttlMs": TTL_MS,
                "cacheScope": "private",
            }
        elif method == LISTEN:
            result = await self._listens.serve(request, params, request.caller(self._caller))
        elif self._tasks is not None and self._tasks.serves(method, is_modern=True):
            result = await self._tasks.serve(request, method, params, self._caller)
        else:
            raise MethodNotFound(f'cannot call "{method}": there is no such method', method=method)
        meta = {**(as_object(result.get("_meta")) or {}), SERVER_KEY: self._info}
        return {"resultType": "complete", **result, "_meta": meta}

    def _has_task_support(self, request: "ServedRequest") -> bool:
        """Returns True if tools say whether their calls may be tasks, and calls ask for that."""
        return self._tasks is not None and not request.is_modern and self._version == TASKS_VERSION

    async def _list(self, kind: Kind, params: Mapping[str, object], has_task_support: bool) -> dict[str, object]:
        entries = await self._provider.listed(kind)
        start = 0
        if "cursor" in params and params["cursor"] is not None:
            start = _place(kind, entries, params["cursor"])
        page = entries[start : start + PAGE]
        if kind == "tools" and not has_task_support:
            page = [_without(entry, "execution") for entry in page]
        result: dict[str, object] = {kind: page}
        if start + PAGE < len(entries):
            result["nextCursor"] = _cursor(kind, start + PAGE, page[-1])
        return result

    async def _begun(
        self, request: "ServedRequest", method: str, params: Mapping[str, object]
    ) -> dict[str, object] | None:
        """Returns the task, or the refusal, of a call that is one; None for other requests."""
        if method != CALL or self._tasks is None or not isinstance(params.get("name"), str):
            return None
        return await self._tasks.begin_modern(request, _without_protocol(params), self._caller)

    async def _relay(self, request: "ServedRequest", method: str, params: Mapping[str, object]) -> dict[str, object]:
        """Returns the provider's result; for a failed call a result with `isError` where MCP requires one."""
        key = "uri" if method == READ else "name"
        name = params.get(key)
        if method == COMPLETE:
            _check_completion(params)
        elif not isinstance(name, str):
            raise InvalidParams(f'cannot call "{method}": "{key}" is no string', key=key)
        if "_meta" in params:
            params = _without_protocol(params)
        if self._level is not None and not request.is_modern:  # modern requests carry their own level
            meta = as_object(params.get("_meta")) or {}
            params = {**params, "_meta": {**meta, LOG_LEVEL: self._level}}
        try:
            return await self._provider.request(method, params, request.caller(self._caller))
        except CorralError as error:
            if method != CALL:
                raise refusal(error, method, name, is_modern=request.is_modern) from error
            if is_unknown_tool(error, str(name)):
                raise InvalidParams(error.message, **error.data) from error
            if (own := of_server(error)) is not None:
                raise own from error
            return failed(error)
        finally:
            request.is_over = True

    async def _go_on(
        self, request: "ServedRequest", method: str, params: Mapping[str, object], result: Mapping[str, object]
    ) -> dict[str, object]:
        """Asks a legacy client for the input that a modern server requests, and calls the server again."""
        request.is_over = False
        try:
            again = await with_input(method, params, result, request.ask)
        except CorralError as error:
            if method != CALL:
                raise
            return failed(error)
        return await self._relay(request, method, again)

    # -- subscriptions

    async def _subscribe(self, uri: str) -> dict[str, object]:
        if uri in self._subscribed:
            return {}
        if len(self._subscribed) >= MAX_SUBSCRIPTIONS:
            raise too_many(f"subscribe to {uri!r}", MAX_SUBSCRIPTIONS)
        try:
            end = await self._provider.subscribe(uri, self._notify_updated)
        except CorralError as error:
            raise refusal(error, SUBSCRIBE, uri, is_modern=False) from error
        if self._is_closed or uri in self._subscribed:  # changed during the wait
            end()
        else:
            self._subscribed[uri] = end
        return {}

    def _notify_updated(self, uri: str) -> None:
        self._notify(UPDATED, {"uri": uri})


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
    """Returns the params without the protocol's own keys in `_meta`; the log level remains for the server."""
    rest = {key: value for key, value in params.items() if key != "_meta"}
    meta = as_object(params.get("_meta")) or {}
    kept = {key: value for key, value in meta.items() if key not in OURS}
    if kept:
        rest["_meta"] = kept
    return rest


def _cursor(kind: Kind, place: int, last: Mapping[str, object]) -> str:
    """Encodes the place in a list after `last`: by its name, because the list may change, and by number if it is gone."""
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
        raise InvalidParams(f'cannot list {kind}: "cursor" is not of this server', key="cursor")
    if number <= len(entries) and _key(kind, entries[number - 1]) == key:
        return number
    places = (place for place, entry in enumerate(entries, 1) if _key(kind, entry) == key)
    return next(places, min(number, len(entries)))


def _key(kind: Kind, entry: Mapping[str, object]) -> str:
    return str(entry.get(KEYS[kind]))


# -- results and errors


def _without(entry: dict[str, object], key: str) -> dict[str, object]:
    if key not in entry:
        return entry
    return {each: value for each, value in entry.items() if each != key}


def _without_modern(result: dict[str, object]) -> dict[str, object]:
    """Returns the result without keys that legacy clients do not know."""
    if "resultType" not in result:
        return result
    modern = ("resultType", "ttlMs", "cacheScope")
    return {key: value for key, value in result.items() if key not in modern}
