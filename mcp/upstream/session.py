"""One live connection to one MCP server process: handshake, lists, requests, and an answer to all it may ask.

It gets the two pipes of a process that somebody else has started, and calls back; it knows no daemon
and no process. Whatever the server does, a request ends: with its result, with a typed error that
names the server, or with Timeout. What is not a message goes to `on_log` and breaks nothing.

Requests are made in the words of the legacy era, and said in those of the era that was agreed.

Request ids are plain integers, although strings are as good in the protocol: a pipe belongs to one
life of the server, so that they cannot collide, and there are servers that were only ever tried with integers.
"""

import asyncio
import enum
import logging
import select
from collections.abc import Callable, Collection, Mapping

from ...worker.contract.channel import Channel
from ...worker.contract.codec import as_array
from ...worker.contract.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    Timeout,
    ToolFailed,
)
from ...worker.contract.jsonrpc import CANCELLED, Foreign, Notification, Peer, Request
from ..protocol import messages
from ..protocol.caller import NOBODY, Caller
from ..protocol.catalog import KINDS, Catalogue, Kind
from ..protocol.messages import Era, Opened, Relay, Tool
from .in_flight import Flight, Flights
from .listing import FAMILIES, Inventory
from .liveness import Liveness
from .subscription import Subscriptions

PROBE_S = 5.0
"""Enough for the start of an interpreter; a new `server/discover` follows if it was not."""

MAX_REQUEST_S = 600.0

PROVES_SILENT = 0.9
"""The part of the request timeout after which silence is no more excused; a whole one is cut by its queue."""

LISTS = "lists"
"""The key of the subscription to changes of lists; those to resources have their URI, which has a colon."""

logger = logging.getLogger(__name__)


class _Lost(ToolFailed):
    """The server is gone; of its own, so that no server can claim it by sending the code."""


class _State(enum.Enum):
    NEW = enum.auto()
    OPENING = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


def _ignore(_: object) -> None:
    return


class Session:
    """A client's connection to one MCP server.

    Args:
        name: the server's, for errors.
        request_timeout_s: how long a request that brings no timeout of its own may be without progress.
        max_request_timeout_s: how long such a request may take, however much progress it reports.
        client_version: corral's own, which servers may log.
        protocol_version: "auto" or a revision of MCP.
        era_hint: the era of an earlier life of this server; see `messages.eras_to_try`. Whoever
            passes it forgets it after an `open` that failed: some servers end when asked in the wrong era.
        probe_s: how long a server that is believed to be modern may be silent before it is greeted
            the legacy way.
        relays: what a legacy server is told that we can be asked for; it is asked of a caller that can.
        log_level: the least severe message that a server with a log shall send; its own choice when absent.
        on_log: takes each line on the server's stdout that is no message, a long one in pieces.
        on_catalogue: takes the catalogue whenever a list has changed after `open`.
        on_updated: takes the URI of a resource that has changed, subscribed to or below one that is.
        on_notification: takes `notifications/message`, the server's own log.
        on_closed: called once when the connection has ended, with the reason if it was ours.
    """

    def __init__(
        self,
        name: str,
        *,
        request_timeout_s: float,
        max_request_timeout_s: float = MAX_REQUEST_S,
        client_version: str,
        protocol_version: str = "auto",
        era_hint: Era | None = None,
        probe_s: float = PROBE_S,
        relays: Collection[Relay] = (),
        log_level: str | None = None,
        on_log: Callable[[Foreign], None] = _ignore,
        on_catalogue: Callable[[Catalogue], None] = _ignore,
        on_updated: Callable[[str], None] = _ignore,
        on_notification: Callable[[Notification], None] = _ignore,
        on_closed: Callable[[CorralError | None], None] = _ignore,
    ) -> None:
        self.name = name
        self.liveness = Liveness(PROVES_SILENT * request_timeout_s)
        self._request_timeout_s = request_timeout_s
        self._max_request_timeout_s = max_request_timeout_s
        self._client_version = client_version
        self._protocol_version = protocol_version
        self._probe_s = probe_s
        self._relays = frozenset(relays)
        self._log_level = log_level
        self._eras = messages.eras_to_try(protocol_version, era_hint)
        self._on_updated = on_updated
        self._on_notification = on_notification
        self._on_closed = on_closed
        self._state = _State.NEW
        self._opened: Opened | None = None
        self._modern_version: str | None = None
        self._hangup = select.poll()
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(
            Peer(log_foreign=True, mends_text=True),
            name=f'MCP server "{name}"',
            on_request=self._answer,
            on_notification=self._hear,
            on_foreign=on_log,
            on_message=self._heard,
            on_closed=self._ended,
            lost=_Lost,
        )
        self._flights = Flights(self._relays, self._channel.reschedule)
        self._inventory = Inventory(name, self._ask_for_list, on_catalogue)
        self._subscriptions = Subscriptions(self._channel, self._with_meta, self._missed)

    # -- what was agreed

    @property
    def era(self) -> Era | None:
        """The era of the connection; None before it is agreed."""
        return None if self._opened is None else self._opened.era

    @property
    def version(self) -> str | None:
        """The revision of MCP that is spoken."""
        return None if self._opened is None else self._opened.version

    @property
    def server_info(self) -> dict[str, object]:
        """`name`, `version` and more, as the server says; for people only."""
        return {} if self._opened is None else self._opened.server_info

    @property
    def capabilities(self) -> dict[str, object]:
        """What the server declared."""
        return {} if self._opened is None else self._opened.capabilities

    @property
    def instructions(self) -> str:
        """What the server tells models about itself."""
        return "" if self._opened is None else self._opened.instructions

    @property
    def catalogue(self) -> Catalogue:
        """What it listed last."""
        return self._inventory.catalogue

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that it listed last."""
        return self._inventory.catalogue.tools

    @property
    def ttl_s(self) -> Mapping[Kind, float]:
        """How long each list may be taken for true after `catalogue.listed_at`, where the server says so."""
        return self._inventory.ttl_s

    @property
    def private(self) -> frozenset[Kind]:
        """The lists of which the server says that they are for us alone."""
        return self._inventory.private

    @property
    def heard_at(self) -> float:
        """When the last valid message came, on the loop's clock."""
        return self.liveness.heard_at

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent."""
        return self._state is _State.OPEN

    def limit(self, request_timeout_s: float, max_request_timeout_s: float) -> None:
        """Has other time limits for the requests from now on."""
        self._request_timeout_s = request_timeout_s
        self._max_request_timeout_s = max_request_timeout_s

    # -- opening and closing

    async def open(self, read_fd: int, write_fd: int, *, timeout_s: float) -> None:
        """Takes over the server's stdout and stdin, agrees on an era and lists what there is.

        The descriptors belong to the session from now on. After an error the session is closed, and
        a new process needs a new one.

        Raises:
            Timeout: the server did not answer within `timeout_s`.
            ToolFailed: it ended, or no era could be agreed on, or its tools could not be listed.
            ResourceLimitExceeded: it has more tools than are kept.
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
            opened = self._opened = await self._agree()
            self._channel.peer.takes_batches = opened.version == messages.BATCHING_VERSION
            if opened.era == "modern":
                self._modern_version = opened.version
            await self._prepare(opened)
            await self._inventory.read(opened)
        except BaseException:
            self._channel.close()
            raise
        finally:
            deadline.cancel()
        if self._state is not _State.OPENING:  # it ended, or was told to, after its last answer
            self._channel.close()
            text = f'cannot open MCP server "{self.name}": it has ended'
            raise ToolFailed(text, server=self.name, lost=True, sent=False)
        self._state = _State.OPEN
        self._inventory.open()

    def refresh(self, kinds: Collection[Kind] = KINDS) -> None:
        """Has lists read again soon, as if the server had said that they changed."""
        self._inventory.changed(kinds)

    def close_input(self) -> None:
        """Sends EOF, the polite request to end; what is in flight may still be answered."""
        if self._state in (_State.OPENING, _State.OPEN):
            self._state = _State.CLOSING
            self._channel.close_writing()

    def close(self, error: CorralError | None = None) -> None:
        """Ends the connection; whoever supervises the process calls it at its exit.

        (A grandchild that holds the server's stdout would keep it open for ever.)
        """
        if self._state not in (_State.NEW, _State.CLOSED):
            self._channel.close(error)

    async def wait_closed(self) -> None:
        """Waits until the server has closed its stdout, or `close` was called."""
        await self._channel.wait_closed()

    async def _agree(self) -> Opened:
        """Opens in the first era that is answered; the refusals of the others are expected."""
        refusals: list[CorralError] = []
        for number, era in enumerate(self._eras, 1):
            is_probe = era == "modern" and number < len(self._eras)
            try:
                if era == "legacy":
                    return await self._initialize()
                return await self._discover(timeout_s=self._probe_s if is_probe else None)
            except CorralError as error:
                if self._channel.is_closed:
                    raise
                logger.debug("%s refused the %s era: %s", self._channel.name, era, error)
                refusals.append(error)
        raise refusals[0]

    async def _initialize(self) -> Opened:
        params = messages.initialize_params(
            self._protocol_version, self._client_version, self._relays
        )
        result = await self._ask(messages.INITIALIZE, params, timeout_s=None)
        opened = messages.read_initialize(result)
        self._channel.notify(messages.INITIALIZED)
        return opened

    async def _discover(self, *, timeout_s: float | None) -> Opened:
        version = messages.MODERN_VERSIONS[-1]
        meta = messages.request_meta(
            None, modern_version=version, client_version=self._client_version, capabilities={}
        )
        result = await self._ask(messages.DISCOVER, {"_meta": meta}, timeout_s=timeout_s)
        return messages.read_discover(result)

    async def _prepare(self, opened: Opened) -> None:
        """Asks for changes before anything is listed, so that none falls between, and for the log."""
        if opened.era == "modern":
            wanted = {f"{family}ListChanged": True for family in messages.announced(opened)}
            if wanted:
                await self._subscriptions.start(LISTS, wanted)
        elif self._log_level is not None and "logging" in opened.capabilities:
            try:
                await self._ask(messages.SET_LEVEL, {"level": self._log_level}, timeout_s=None)
            except CorralError as error:
                if self._channel.is_closed:
                    raise
                logger.debug("%s does not set its log level: %s", self._channel.name, error)

    # -- requests

    async def request(
        self,
        method: str,
        params: Mapping[str, object],
        *,
        timeout_s: float | None = None,
        caller: Caller = NOBODY,
    ) -> dict[str, object]:
        """The result of a request, as it came; a tool that failed says so in it (`isError`).

        Cancelling the caller cancels the request at the server; a late answer is dropped. A result of type
        `input_required` is the caller's to act on: it asks again with `inputResponses` and `requestState` in
        `params`, which are passed on as they are. So is `_meta`, but for the keys that say who speaks here.

        Args:
            method: of the legacy era: tools/call, prompts/get, resources/read, resources/subscribe,
                resources/unsubscribe or completion/complete.
            params: for it, under the server's own names.
            timeout_s: for the whole. When absent, the session's request timeout since the last progress, and its
                maximum for the whole.
            caller: who hears of progress, and may be asked.

        Raises:
            InvalidParams: the server refused it (-32602), or JSON cannot say the params.
            NotFound: there is no such resource (-32002).
            ToolFailed: the server refused it otherwise (`data["code"]`), answered outside the protocol, or
                ended (`data["lost"]`; `data["sent"]` says whether it may have seen the request).
            Timeout: no answer in time; the server was told to stop.
            ResourceLimitExceeded: the answer, or the request, is longer than a message may be.
        """
        channel = self._channel
        # What goes out together with others needs no look of its own at the pipe, which costs a system call.
        if self._state is not _State.OPEN or (
            not channel.is_sending and self._hangup.poll(0) and await self._hung_up()
        ):
            key, subject = _subject(method, params)
            text = f'cannot call "{subject}": MCP server "{self.name}" has ended'
            raise ToolFailed(text, server=self.name, **{key: subject}, lost=True, sent=False)
        if self._modern_version is not None and method in (
            messages.SUBSCRIBE,
            messages.UNSUBSCRIBE,
        ):
            return await self._subscribe(method, params, timeout_s)
        now = self._loop.time()
        number = self.liveness.began(now)
        if timeout_s is None:
            limit_s = min(self._request_timeout_s, self._max_request_timeout_s)
            hard_at = now + self._max_request_timeout_s
            flight = self._flights.begin(number, caller, hard_at, self._request_timeout_s)
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
                limit_s = self._max_request_timeout_s
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
        """Returns when the server has answered anything at all; a refusal is a sign of life too.

        Raises:
            Timeout: no answer; a server that is busy with a call may be silent as well.
            ToolFailed: the server has ended.
        """
        method = messages.PING if self.era == "legacy" else messages.DISCOVER
        try:
            await self._ask(method, self._with_meta({}), timeout_s=timeout_s)
        except Timeout:
            raise
        except CorralError:
            if self._channel.is_closed:
                raise

    async def _hung_up(self) -> bool:
        """The server is gone, and the loop has only not read so far.

        A call that was written to nobody would count as lost during the call, and could not be repeated.
        """
        await self._channel.wait_closed()
        return True

    def _params(self, params: Mapping[str, object], flight: Flight) -> Mapping[str, object]:
        """The params with the `_meta` that the era asks for, and a token where progress is of use."""
        given = params.get("_meta")
        if given is None and self._modern_version is None:
            if not flight.wants_progress:
                return params
            return {**params, "_meta": {"progressToken": flight.token}}
        meta = messages.request_meta(
            given,
            modern_version=self._modern_version,
            client_version=self._client_version,
            capabilities=flight.caller.capabilities,
            log_level=self._log_level,
        )
        if flight.wants_progress:
            meta["progressToken"] = flight.token
        return {**params, "_meta": meta}

    def _with_meta(self, params: Mapping[str, object]) -> dict[str, object]:
        """The params of a request of our own."""
        if self._modern_version is None:
            return dict(params)
        meta = messages.request_meta(
            None,
            modern_version=self._modern_version,
            client_version=self._client_version,
            capabilities={},
        )
        return {**params, "_meta": meta}

    async def _subscribe(
        self, method: str, params: Mapping[str, object], timeout_s: float | None
    ) -> dict[str, object]:
        """What the modern era has in place of resources/subscribe and unsubscribe."""
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise InvalidParams(f'cannot call "{method}": its uri is no string', server=self.name)
        if method == messages.UNSUBSCRIBE:
            self._subscriptions.end(uri)
            return {}
        limit_s = self._request_timeout_s if timeout_s is None else timeout_s
        is_new = uri not in self._subscriptions
        try:
            await self._subscriptions.start(uri, {"resourceSubscriptions": [uri]})
            honoured = await self._subscriptions.honoured(uri, timeout_s=limit_s)
            if uri not in (as_array(honoured.get("resourceSubscriptions")) or []):
                text = f'cannot subscribe to "{uri}": the server does not tell of it'
                raise ToolFailed(text, code=MethodNotFound.code)
        except BaseException as error:
            if is_new:  # else it is somebody else's too
                self._subscriptions.end(uri)
            if isinstance(error, CorralError):
                raise self._named(error, ("uri", uri), limit_s) from error
            raise
        return {}

    async def _ask_for_list(self, method: str, params: Mapping[str, object]) -> object:
        limit_s = (
            self._request_timeout_s if self.is_open else None
        )  # while it opens, that is bounded
        return await self._ask(method, self._with_meta(params), timeout_s=limit_s)

    async def _ask(
        self, method: str, params: Mapping[str, object], *, timeout_s: float | None
    ) -> object:
        """A request of our own, that no caller has made."""
        try:
            return await self._channel.request(method, params, timeout_s=timeout_s)
        except CorralError as error:
            raise self._named(error, ("method", method), timeout_s) from error

    def _named(
        self, error: CorralError, subject: tuple[str, str], timeout_s: float | None
    ) -> CorralError:
        """The error as callers see it, with the names of the server and of what was asked for.

        A server may send any code: only those for wrong params and for a resource that is not there have a class.
        """
        key, value = subject
        who = f'"{value}" of MCP server "{self.name}"'
        facts: dict[str, object] = {"server": self.name}
        if key != "method":
            facts[key] = value
        if isinstance(error, _Lost):
            text = f"cannot finish {who}: the server has ended"
            # While the channel is open, only the way to the server is lost: nothing was queued.
            is_sent = self._channel.is_closed
            if self._state is _State.OPEN:
                self._channel.close()  # it closed its stdin and lives on, of no use to anybody
            return ToolFailed(text, **facts, lost=True, sent=is_sent)
        if isinstance(error, Timeout):
            if timeout_s is None:
                return error  # the connection was closed with it: see open()
            text = f"cannot wait for {who} longer than {timeout_s:g} s"
            return Timeout(text, **facts, timeout_s=timeout_s)
        if isinstance(error, InvalidParams | Overloaded | ResourceLimitExceeded):
            return type(error)(f"cannot call {who}: {error.message}", **{**error.data, **facts})
        details = dict(error.data)
        code = details.pop("code", error.code)
        if details:
            facts["details"] = details
        if key == "uri" and code == messages.RESOURCE_NOT_FOUND:
            return NotFound(f"cannot find {who}: {error.message}", **facts)
        return ToolFailed(f"cannot finish {who}: {error.message}", **facts, code=code)

    # -- what comes from the server

    async def _answer(self, request: Request) -> object:
        """Answers what a server may ask: a ping, and what the one caller whose request it works on can be asked."""
        return {} if request.method == messages.PING else await self._flights.ask(request)

    def _hear(self, notification: Notification) -> None:
        """Takes notifications; those that belong to nothing are late or out of turn, and dropped."""
        method, params = notification
        if method == messages.PROGRESS:
            self._flights.progressed(params)
        elif method in messages.LIST_CHANGED:
            self._inventory.changed(FAMILIES[messages.LIST_CHANGED[method]])
        elif method == messages.UPDATED:
            uri = params.get("uri")
            if isinstance(uri, str):
                self._on_updated(uri)
        elif method == messages.LOG_MESSAGE:
            self._on_notification(notification)
            self._flights.told(params)
        elif method == messages.ACKNOWLEDGED:
            self._subscriptions.acknowledged(params)
        elif method == CANCELLED and self._modern_version is not None:
            self._subscriptions.withdrawn(params.get("requestId"))

    def _missed(self, key: str) -> None:
        """A subscription was interrupted: what it is about may have changed meanwhile."""
        if key == LISTS:
            self._inventory.changed(KINDS)
        else:
            self._on_updated(key)

    def _heard(self) -> None:
        flights = self._flights
        flights.heard_token = flights.last_token
        self.liveness.heard(self._loop.time())

    def _ended(self, error: CorralError | None) -> None:
        self._state = _State.CLOSED
        self._inventory.close()
        self._subscriptions.close()
        self._on_closed(error)


def _subject(method: str, params: Mapping[str, object]) -> tuple[str, str]:
    """What a request is about, for errors: the key of its fact, and the name."""
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
