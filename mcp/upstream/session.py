"""Represents one connection to one MCP server process: handshake, lists, requests, and responses to its requests.

It takes the two pipes of a running process and reports by callbacks; it must not know a daemon or a process. Whatever
the server does, a request ends: with its result, with a typed error that names the server, or with Timeout. Lines that
are not messages go to `on_log` and have no other effect.

Callers use the methods of the legacy era, which are translated to the era of the connection.

Request ids are integers, although the protocol permits strings: a pipe belongs to one incarnation of the server, so
that ids cannot collide, and some servers were only tested with integers.
"""

import asyncio
import enum
import logging
import select
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

import msgspec

from corral.worker.contract.channel import Channel, ChannelHandover
from corral.worker.contract.codec import as_array
from corral.worker.contract.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResourceLimitExceeded,
    Timeout,
    ToolFailed,
)
from corral.worker.contract.jsonrpc import CANCELLED, Foreign, Notification, Peer, Request
from corral.worker.contract.read_turns import ReadTurns

from ..protocol import messages
from ..protocol.catalog import KINDS, Catalogue, Kind
from ..protocol.messages import NOBODY, Caller, Era, Opened, Relay
from .in_flight import Flight, Flights, Liveness
from .listing import KINDS_OF, Inventory
from .subscription import Subscriptions

PROBE_S = 5.0
"""Seconds for a response to `server/discover`, which is repeated later: enough for the start of an interpreter."""

MAX_REQUEST_S = 600.0

PROVES_SILENT = 0.9
"""Fraction of the request timeout after which silence is no longer excused; waiting shortens a whole one."""

LISTS = "lists"
"""The key of the subscription to changed lists; those to resources have the URI as key, which has a colon."""

logger = logging.getLogger(__name__)


class SessionHandover(msgspec.Struct, frozen=True, kw_only=True):
    """Holds what another program of the daemon goes on from, beside the connection: `listening` has the subscriptions."""

    opened: Opened
    catalogue: Catalogue
    ttl_s: dict[Kind, float]
    listening: dict[str, tuple[str | int, dict[str, object]]]


class _Lost(ToolFailed):
    """Raised if the server is gone; a class of its own, so that no server can claim it by its code."""


class _State(enum.Enum):
    NEW = enum.auto()
    OPENING = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


def _ignore(_: object) -> None:
    return


class Terms(NamedTuple):
    """Says how a client speaks with a server."""

    request_timeout_s: float
    max_request_timeout_s: float = MAX_REQUEST_S
    protocol_version: str = "auto"
    era_hint: Era | None = None
    probe_s: float = PROBE_S
    relays: frozenset[Relay] = frozenset()


class Listener(NamedTuple):
    """Takes what a server says by itself, and gives the bridge of a remote one its tokens."""

    on_log: Callable[[Foreign], None] = _ignore
    on_catalogue: Callable[[Catalogue], None] = _ignore
    on_updated: Callable[[str], None] = _ignore
    on_notification: Callable[[Notification], None] = _ignore
    authorize: Callable[[Mapping[str, object]], Awaitable[object]] | None = None


class Session:
    """Represents a client's connection to one MCP server."""

    def __init__(self, name: str, terms: Terms, listener: Listener, turns: ReadTurns | None = None) -> None:
        self.name = name
        self.liveness = Liveness(PROVES_SILENT * terms.request_timeout_s)
        self._terms = terms
        self._listener = listener
        self._eras = messages.eras_to_try(terms.protocol_version, terms.era_hint)
        self._unauthorized: CorralError | None = None
        self._state = _State.NEW
        self._opened: Opened | None = None
        self._modern_version: str | None = None
        self._hangup = select.poll()
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(
            Peer(log_foreign=True, mends_text=True),
            name=f'MCP server "{name}"',
            on_request=self._answer,
            on_notification=self._on_message,
            on_foreign=listener.on_log,
            on_message=self._received,
            on_closed=self._ended,
            lost=_Lost,
            turns=turns,
        )
        self._flights = Flights(terms.relays, self._channel.reschedule)
        self._inventory = Inventory(name, self._ask_for_list, listener.on_catalogue)
        self._subscriptions = Subscriptions(self._channel, self._with_meta, self._missed)

    # -- the negotiated connection

    @property
    def era(self) -> Era | None:
        """Returns the era of the connection; None before it is negotiated."""
        return None if self._opened is None else self._opened.era

    @property
    def version(self) -> str | None:
        """Returns the negotiated revision of MCP."""
        return None if self._opened is None else self._opened.version

    @property
    def capabilities(self) -> dict[str, object]:
        """Returns the server's declared capabilities."""
        return {} if self._opened is None else self._opened.capabilities

    @property
    def catalogue(self) -> Catalogue:
        """Returns its last listing."""
        return self._inventory.catalogue

    @property
    def ttl_s(self) -> Mapping[Kind, float]:
        """Returns the seconds that each list may be cached after `catalogue.listed_at`, if the server gives a limit."""
        return self._inventory.ttl_s

    @property
    def is_open(self) -> bool:
        """Returns True if a request may be sent."""
        return self._state is _State.OPEN

    def limit(self, request_timeout_s: float, max_request_timeout_s: float) -> None:
        """Sets the time limits of further requests."""
        self._terms = self._terms._replace(
            request_timeout_s=request_timeout_s, max_request_timeout_s=max_request_timeout_s
        )

    # -- opening and closing

    async def open(self, read_fd: int, write_fd: int, *, timeout_s: float) -> None:
        """Takes ownership of the server's stdout and stdin, negotiates an era and reads the lists.

        After an error the session is closed, and a new process needs a new session.
        """
        assert self._state is _State.NEW, "a session is opened once"
        self._state = _State.OPENING
        text = f'cannot open MCP server "{self.name}": no answer within {timeout_s:g} s'
        late = Timeout(text, server=self.name, timeout_s=timeout_s)
        # The handshake must not be cancelled (MCP, lifecycle), so its requests have no deadline: the
        # connection has one. Closing it ends them with its error.
        deadline = self._loop.call_later(timeout_s, self._channel.close, late)
        try:
            await self._channel.open_pipes(read_fd, write_fd)
            self._hangup.register(read_fd, 0)
            opened = self._opened = await self._negotiate()
            if opened.version == messages.BATCHING_VERSION:
                self._channel.peer.accept_batches()
            if opened.era == "modern":
                self._modern_version = opened.version
            await self._prepare(opened)
            await self._inventory.read(opened)
        except BaseException:
            self._channel.close()
            raise
        finally:
            deadline.cancel()
        if self._state is not _State.OPENING:  # it ended, or was closed, after its last response
            self._channel.close()
            text = f'cannot open MCP server "{self.name}": it has ended'
            raise ToolFailed(text, server=self.name, lost=True, sent=False)
        self._state = _State.OPEN
        self._inventory.open()

    # -- from one program of the daemon to the next

    @property
    def obstacle(self) -> str:
        """Returns what is under way that no other program can go on with; empty where there is nothing."""
        name, channel = self._channel.name, self._channel
        if self._state is not _State.OPEN:
            return f"{name} is starting or ending"
        if not channel.is_drained:
            return f"{name} does not read"
        methods = [request.method for request in channel.requests]
        methods += [method for method in channel.peer.asked if method != messages.LISTEN]
        methods += ["tools/list"] if self._inventory.is_reading else []
        return f'"{methods[0]}" of {name} is under way' if methods else ""

    def hand_over(self) -> tuple[SessionHandover, ChannelHandover]:
        """Returns what another program goes on from; for one without an `obstacle`."""
        assert self._opened is not None, "it is open"
        left = SessionHandover(
            opened=self._opened,
            catalogue=self.catalogue,
            ttl_s=dict(self.ttl_s),
            listening={key: (each, dict(filters)) for key, (each, filters) in self._subscriptions.hand_over().items()},
        )
        return left, self._channel.hand_over()

    async def take_up(self, left: SessionHandover, channel: ChannelHandover, read_fd: int, write_fd: int) -> None:
        """Goes on from what another program has left; reads nothing before `release`."""
        self._channel.hold()
        await self._channel.open_pipes(read_fd, write_fd)
        self._hangup.register(read_fd, 0)
        self._opened = left.opened
        self._modern_version = left.opened.version if left.opened.era == "modern" else None
        self._inventory.take_up(left.opened, left.catalogue, left.ttl_s)
        self._subscriptions.take_up(left.listening, self._channel.take_up(channel))
        self._state = _State.OPEN
        self._received()

    def hold(self) -> None:
        """Reads nothing more, until `release`."""
        self._channel.hold()

    def leave(self) -> None:
        """Writes nothing more: another program goes on with the connection."""
        self._channel.leave()

    def release(self) -> None:
        """Reads again, and follows changes."""
        self._channel.release()
        if self._state is _State.OPEN:
            self._inventory.open()

    def refresh(self, kinds: Collection[Kind] = KINDS) -> None:
        """Reads lists again soon, as after a change notification of the server."""
        self._inventory.changed(kinds)

    def close_input(self) -> None:
        """Sends EOF, which asks the server to exit; requests in flight may still be answered."""
        if self._state in (_State.OPENING, _State.OPEN):
            self._state = _State.CLOSING
            self._channel.close_writing()

    def close(self, error: CorralError | None = None) -> None:
        """Ends the connection; call it at the exit of the process.

        (A grandchild that holds the server's stdout would keep it open for ever.)
        """
        if self._state not in (_State.NEW, _State.CLOSED):
            self._channel.close(error)

    async def wait_closed(self) -> None:
        """Waits until the server has closed its stdout, or `close` was called."""
        await self._channel.wait_closed()

    async def _negotiate(self) -> Opened:
        """Opens in the first era that the server accepts; refusals of others are expected."""
        refusals: list[CorralError] = []
        for number, era in enumerate(self._eras, 1):
            is_probe = era == "modern" and number < len(self._eras)
            try:
                if era == "legacy":
                    return await self._initialize()
                return await self._discover(timeout_s=self._terms.probe_s if is_probe else None)
            except CorralError as error:
                if self._channel.is_closed or isinstance(error, PermissionDenied):
                    raise
                logger.debug("%s refused the %s era: %s", self._channel.name, era, error)
                refusals.append(error)
        raise refusals[0]

    async def _initialize(self) -> Opened:
        params = messages.initialize_params(self._terms.protocol_version, self._terms.relays)
        opened = messages.read_initialize(await self._ask(messages.INITIALIZE, params, timeout_s=None))
        self._channel.notify(messages.INITIALIZED)
        return opened

    async def _discover(self, *, timeout_s: float | None) -> Opened:
        meta = messages.request_meta(None, messages.MODERN_VERSIONS[-1])
        return messages.read_discover(await self._ask(messages.DISCOVER, {"_meta": meta}, timeout_s=timeout_s))

    async def _prepare(self, opened: Opened) -> None:
        """Subscribes to changed lists before anything is listed, so that none is missed."""
        filters = {f"{each}ListChanged": True for each in messages.announced(opened)}
        if opened.era == "modern" and filters:
            await self._subscriptions.start(LISTS, filters)

    # -- requests

    async def request(
        self, method: str, params: Mapping[str, object], *, timeout_s: float | None = None, caller: Caller = NOBODY
    ) -> dict[str, object]:
        """Sends a request and returns its unchanged result; the result of a failed tool has `isError`.

        Cancelling the caller cancels the request at the server; a late response is dropped. The caller has to handle
        a result of type `input_required`: it repeats the request with `inputResponses` and `requestState` in
        `params`, which are passed on unchanged. So is `_meta`, except the keys that identify the client.
        """
        channel = self._channel
        # A request that is written together with others skips the check of the pipe, which costs a system call.
        if self._state is not _State.OPEN or (
            not channel.is_sending and self._hangup.poll(0) and await self._hung_up()
        ):
            key, subject = _subject(method, params)
            text = f'cannot call "{subject}": MCP server "{self.name}" has ended'
            raise ToolFailed(text, server=self.name, **{key: subject}, lost=True, sent=False)
        if self._modern_version is not None and method in (messages.SUBSCRIBE, messages.UNSUBSCRIBE):
            return await self._subscribe(method, params, timeout_s)
        now = self._loop.time()
        number = self.liveness.began(now)
        step_s, most_s = self._terms.request_timeout_s, self._terms.max_request_timeout_s
        if timeout_s is None:
            limit_s, hard_at = min(step_s, most_s), now + most_s
            flight = self._flights.begin(number, caller, hard_at, step_s)
        else:
            limit_s = timeout_s
            flight = self._flights.begin(number, caller, now + timeout_s, None)
        is_answered = False
        try:
            sent = self._params(params, flight)
            if channel.can_send:  # nearly always; a coroutine costs as much as all of this
                call = channel.start(method, sent, timeout_s=limit_s)
            else:
                call = await channel.call(method, sent, timeout_s=limit_s)
            flight.call = call
            try:
                result = await call.answer
            except asyncio.CancelledError:
                channel.cancel(call, "the caller was cancelled")
                raise
            is_answered = True
        except CorralError as error:
            is_answered = not isinstance(error, Timeout)
            if timeout_s is None and self._loop.time() >= hard_at:
                limit_s = most_s
            raise self._named(error, _subject(method, params), limit_s) from error
        finally:
            self._flights.end(flight)
            self.liveness.ended(number, self._loop.time(), is_answered=is_answered)
        try:
            return messages.read_result(method, result)
        except ToolFailed as error:
            key, subject = _subject(method, params)
            raise ToolFailed(error.message, server=self.name, **{key: subject}) from error

    async def ping(self, *, timeout_s: float | None) -> None:
        """Returns when the server has responded in any way; a refusal proves it alive too."""
        method = messages.PING if self.era == "legacy" else messages.DISCOVER
        try:
            await self._ask(method, self._with_meta({}), timeout_s=timeout_s)
        except Timeout:
            raise
        except CorralError:
            if self._channel.is_closed:
                raise

    async def _hung_up(self) -> bool:
        """Returns True after the end of the connection, which the loop has not read yet.

        A call written to a closed pipe would count as lost during the call, and could not be retried.
        """
        await self._channel.wait_closed()
        return True

    def _params(self, params: Mapping[str, object], flight: Flight) -> Mapping[str, object]:
        """Returns the params with the `_meta` of the era, and a token if progress is wanted."""
        given = params.get("_meta")
        if given is None and self._modern_version is None:
            if not flight.wants_progress:
                return params
            return {**params, "_meta": {"progressToken": flight.token}}
        meta = messages.request_meta(given, self._modern_version, flight.caller.capabilities)
        if flight.wants_progress:
            meta["progressToken"] = flight.token
        return {**params, "_meta": meta}

    def _with_meta(self, params: Mapping[str, object]) -> dict[str, object]:
        if self._modern_version is None:
            return dict(params)
        return {**params, "_meta": messages.request_meta(None, self._modern_version)}

    async def _subscribe(self, method: str, params: Mapping[str, object], timeout_s: float | None) -> dict[str, object]:
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise InvalidParams(f'cannot call "{method}": its uri is not a string', server=self.name)
        if method == messages.UNSUBSCRIBE:
            self._subscriptions.end(uri)
            return {}
        limit_s = self._terms.request_timeout_s if timeout_s is None else timeout_s
        is_new = uri not in self._subscriptions
        try:
            await self._subscriptions.start(uri, {"resourceSubscriptions": [uri]})
            honoured = await self._subscriptions.honoured(uri, timeout_s=limit_s)
            if uri not in (as_array(honoured.get("resourceSubscriptions")) or []):
                text = f'cannot subscribe to "{uri}": the server does not notify of it'
                raise ToolFailed(text, code=MethodNotFound.code)
        except BaseException as error:
            if is_new:  # else another caller has subscribed as well
                self._subscriptions.end(uri)
            if isinstance(error, CorralError):
                raise self._named(error, ("uri", uri), limit_s) from error
            raise
        return {}

    async def _ask_for_list(self, method: str, params: Mapping[str, object]) -> object:
        limit_s = self._terms.request_timeout_s if self.is_open else None  # `open` has its own limit
        return await self._ask(method, self._with_meta(params), timeout_s=limit_s)

    async def _ask(self, method: str, params: Mapping[str, object], *, timeout_s: float | None) -> object:
        try:
            return await self._channel.request(method, params, timeout_s=timeout_s)
        except CorralError as error:
            raise self._named(error, ("method", method), timeout_s) from error

    def _named(self, error: CorralError, subject: tuple[str, str], timeout_s: float | None) -> CorralError:
        """Returns an error for callers, with the names of the server and of the subject of the request.

        A server may send any code: only those for wrong params and for a missing resource have a class.
        """
        key, value = subject
        target = f'"{value}" of MCP server "{self.name}"'
        facts: dict[str, object] = {"server": self.name}
        if key != "method":
            facts[key] = value
        if isinstance(error, _Lost):
            text = f"cannot finish {target}: the server has ended"
            # While the channel is open, only the way to the server is lost: nothing was queued.
            is_sent = self._channel.is_closed
            if self._state is _State.OPEN:
                self._channel.close()  # it has closed its stdin but lives on, and is useless
            return ToolFailed(text, **facts, lost=True, sent=is_sent)
        if isinstance(error, PermissionDenied) and self._unauthorized is not None:
            # Its own words: a server may send this code as well.
            own = self._unauthorized
            return PermissionDenied(own.message, **{**own.data, **facts})
        if isinstance(error, Timeout):
            if timeout_s is None:
                return error  # the connection was closed with it: see open()
            return Timeout(f"cannot wait for {target} longer than {timeout_s:g} s", **facts, timeout_s=timeout_s)
        if isinstance(error, InvalidParams | Overloaded | ResourceLimitExceeded):
            return type(error)(f"cannot call {target}: {error.message}", **{**error.data, **facts})
        details = dict(error.data)
        code = details.pop("code", error.code)
        if details:
            facts["details"] = details
        if key == "uri" and code == messages.RESOURCE_NOT_FOUND:
            return NotFound(f"cannot find {target}: {error.message}", **facts)
        return ToolFailed(f"cannot finish {target}: {error.message}", **facts, code=code)

    # -- messages of the server

    async def _answer(self, request: Request) -> object:
        """Serves the requests of a server: a ping, and those that the one caller in flight can answer."""
        if request.method == messages.PING:
            return {}
        if request.method != messages.TOKEN or self._listener.authorize is None:
            return await self._flights.ask(request)
        self._unauthorized = None
        try:
            return await self._listener.authorize(request.params)
        except CorralError as error:
            self._unauthorized = error
            raise

    def _on_message(self, notification: Notification) -> None:
        """Takes notifications; late and unexpected ones are dropped."""
        method, params = notification
        if method == messages.PROGRESS:
            self._flights.progressed(params)
        elif method in messages.LIST_CHANGED:
            self._inventory.changed(KINDS_OF[messages.LIST_CHANGED[method]])
        elif method == messages.UPDATED:
            uri = params.get("uri")
            if isinstance(uri, str):
                self._listener.on_updated(uri)
        elif method == messages.LOG_MESSAGE:
            self._listener.on_notification(notification)
            self._flights.logged(params)
        elif method == messages.ACKNOWLEDGED:
            self._subscriptions.acknowledged(params)
        elif method == CANCELLED and self._modern_version is not None:
            self._subscriptions.withdrawn(params.get("requestId"))

    def _missed(self, key: str) -> None:
        """Reports a change after an interrupted subscription, because a notification may have been missed."""
        if key == LISTS:
            self._inventory.changed(KINDS)
        else:
            self._listener.on_updated(key)

    def _received(self) -> None:
        flights = self._flights
        flights.received_token = flights.last_token
        self.liveness.received(self._loop.time())

    def _ended(self, _error: CorralError | None) -> None:
        self._state = _State.CLOSED
        self._inventory.close()
        self._subscriptions.close()


def _subject(method: str, params: Mapping[str, object]) -> tuple[str, str]:
    key, field = _SUBJECTS.get(method, ("method", ""))
    value = params.get(field)
    return (key, value) if isinstance(value, str) else ("method", method)


_SUBJECTS = {
    messages.CALL: ("tool", "name"),
    messages.GET_PROMPT: ("prompt", "name"),
    messages.READ: ("uri", "uri"),
    messages.SUBSCRIBE: ("uri", "uri"),
    messages.UNSUBSCRIBE: ("uri", "uri"),
}
