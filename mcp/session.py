"""One live connection to one MCP server process: handshake, tools, calls, and an answer to all it may ask.

It gets the two pipes of a process that somebody else has started, and calls back; it knows no daemon
and no process. Whatever the server does, a request ends: with its result, with a typed error that
names the server, or with Timeout. What is not a message goes to `on_log` and breaks nothing.

Request ids are plain integers, although strings are as good in the protocol: a pipe belongs to one
life of the server, so that they cannot collide, and there are servers that were only ever tried with integers.
"""

import asyncio
import contextlib
import enum
import logging
import select
from collections.abc import Callable, Generator, Mapping

from ..worker.channel import Channel
from ..worker.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
    Overloaded,
    ResourceLimitExceeded,
    Timeout,
    ToolFailed,
)
from ..worker.wire import Foreign, Notification, Peer, Request
from . import messages
from .liveness import Liveness
from .messages import Era, Opened, Progress, Tool

PROBE_S = 5.0
"""Enough for the start of an interpreter; a new `server/discover` follows if it was not."""

PROVES_SILENT = 0.9
"""The part of the request timeout after which silence is no more excused; a whole one is cut by its queue."""

RELIST_PAUSE_S = 0.5
"""The least time between two listings because of list_changed: a server may send it in a loop."""

MAX_PAGES = 100
MAX_TOOLS = 5_000
MAX_CATALOGUE_BYTES = 16 * 1024 * 1024
"""All tools of one server, as JSON."""

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
        request_timeout_s: for requests that bring no timeout of their own.
        client_version: corral's own, which servers may log.
        protocol_version: "auto" or a revision of MCP.
        era_hint: the era of an earlier life of this server; see `messages.eras_to_try`. Whoever
            passes it forgets it after an `open` that failed: some servers end when asked in the wrong era.
        probe_s: how long a server that is believed to be modern may be silent before it is greeted
            the legacy way.
        on_log: takes each line on the server's stdout that is no message, a long one in pieces.
        on_tools: takes the tools whenever they have changed after `open`.
        on_notification: takes `notifications/message`, the server's own log.
        on_closed: called once when the connection has ended, with the reason if it was ours.
    """

    def __init__(
        self,
        name: str,
        *,
        request_timeout_s: float,
        client_version: str,
        protocol_version: str = "auto",
        era_hint: Era | None = None,
        probe_s: float = PROBE_S,
        on_log: Callable[[Foreign], None] = _ignore,
        on_tools: Callable[[tuple[Tool, ...]], None] = _ignore,
        on_notification: Callable[[Notification], None] = _ignore,
        on_closed: Callable[[CorralError | None], None] = _ignore,
    ) -> None:
        self.name = name
        self.tools: tuple[Tool, ...] = ()
        self.liveness = Liveness(PROVES_SILENT * request_timeout_s)
        self._request_timeout_s = request_timeout_s
        self._client_version = client_version
        self._protocol_version = protocol_version
        self._probe_s = probe_s
        self._eras = messages.eras_to_try(protocol_version, era_hint)
        self._on_tools = on_tools
        self._on_notification = on_notification
        self._on_closed = on_closed
        self._state = _State.NEW
        self._opened: Opened | None = None
        self._hangup = select.poll()
        self._last_token = 0
        self._progress: dict[object, Callable[[Progress], None]] = {}
        self._is_stale = False
        self._refreshing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(
            Peer(log_foreign=True),
            name=f'MCP server "{name}"',
            on_request=self._answer,
            on_notification=self._hear,
            on_foreign=on_log,
            on_heard=self._heard,
            on_closed=self._ended,
            lost=_Lost,
        )

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
    def heard_at(self) -> float:
        """When the last valid message came, on the loop's clock."""
        return self.liveness.heard_at

    @property
    def is_open(self) -> bool:
        """Whether a call may be sent."""
        return self._state is _State.OPEN

    # -- opening and closing

    async def open(self, read_fd: int, write_fd: int, *, timeout_s: float) -> None:
        """Takes over the server's stdout and stdin, agrees on an era and lists the tools.

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
            self._opened = await self._agree()
            if self._opened.era == "modern" and messages.announces_tools(self._opened):
                self._listening = self._loop.create_task(self._listen())
                await asyncio.sleep(0)  # it is sent first: no change falls between it and the list
            self.tools = await self._list_tools(timeout_s=None)
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
        if self._is_stale:
            self._refresh_soon()

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
        params = messages.initialize_params(self._protocol_version, self._client_version)
        result = await self._request(messages.INITIALIZE, params, timeout_s=None)
        opened = messages.read_initialize(result)
        self._channel.notify(messages.INITIALIZED)
        return opened

    async def _discover(self, *, timeout_s: float | None) -> Opened:
        params = messages.with_meta(
            {}, modern_version=messages.MODERN_VERSIONS[-1], client_version=self._client_version
        )
        result = await self._request(messages.DISCOVER, params, timeout_s=timeout_s)
        return messages.read_discover(result)

    # -- requests

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> dict[str, object]:
        """MCP's result object of one call; a tool that failed says so in it (`isError`).

        Cancelling the caller cancels the call at the server; a late answer is dropped.

        Args:
            name: the tool's own name.
            arguments: for the tool.
            timeout_s: the session's request timeout when absent.
            on_progress: called for each progress notification until the call ends.

        Raises:
            InvalidParams: the server refused the call (-32602), or JSON cannot say the arguments.
            ToolFailed: the server refused it otherwise (`data["code"]`), answered outside the protocol, or
                ended (`data["lost"]`; `data["sent"]` says whether it may have seen the call).
            Timeout: no answer within `timeout_s`; the server was told to stop.
            ResourceLimitExceeded: the answer, or the call, is longer than a message may be.
        """
        if not self.is_open or await self._has_hung_up():
            text = f'cannot call "{name}": MCP server "{self.name}" has ended'
            raise ToolFailed(text, server=self.name, tool=name, lost=True, sent=False)
        token: int | None = None
        if on_progress is not None:
            self._last_token += 1
            token = self._last_token
            self._progress[token] = on_progress
        try:
            params = self._with_meta({"name": name, "arguments": dict(arguments)}, token)
            limit_s = self._request_timeout_s if timeout_s is None else timeout_s
            with self._in_flight():
                result = await self._request(messages.CALL, params, timeout_s=limit_s, tool=name)
        finally:
            self._progress.pop(token, None)
        try:
            return messages.read_call(result)
        except ToolFailed as error:
            raise ToolFailed(error.message, server=self.name, tool=name) from error

    @contextlib.contextmanager
    def _in_flight(self) -> Generator[None, None, None]:
        call = self.liveness.began(self._loop.time())
        is_answered = False
        try:
            yield
            is_answered = True
        except (Timeout, asyncio.CancelledError):
            raise
        except CorralError:
            is_answered = True
            raise
        finally:
            self.liveness.ended(call, self._loop.time(), is_answered=is_answered)

    async def ping(self, *, timeout_s: float | None) -> None:
        """Returns when the server has answered anything at all; a refusal is a sign of life too.

        Raises:
            Timeout: no answer; a server that is busy with a call may be silent as well.
            ToolFailed: the server has ended.
        """
        method = messages.PING if self.era == "legacy" else messages.DISCOVER
        try:
            await self._request(method, self._with_meta({}), timeout_s=timeout_s)
        except Timeout:
            raise
        except CorralError:
            if self._channel.is_closed:
                raise

    async def _has_hung_up(self) -> bool:
        """Whether the server is gone and the loop has only not read so far.

        A call that was written to nobody would count as lost during the call, and could not be repeated.
        """
        if not self._hangup.poll(0):
            return False
        await self._channel.wait_closed()
        return True

    async def _list_tools(self, *, timeout_s: float | None) -> tuple[Tool, ...]:
        """All pages. A cursor is opaque; one that comes again ends the list, for some servers ignore it."""
        found: dict[str, Tool] = {}
        seen: set[str | None] = {None}
        size_bytes = 0
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            params = self._with_meta({} if cursor is None else {"cursor": cursor})
            try:
                result = await self._request(messages.LIST_TOOLS, params, timeout_s=timeout_s)
                page, cursor = messages.read_tools(result)
            except ToolFailed as error:
                if error.data.get("code") == MethodNotFound.code:
                    return ()  # a server of prompts and resources alone
                raise ToolFailed(error.message, **{**error.data, "server": self.name}) from error
            for tool in page:
                size_bytes += tool.size_bytes
                found.setdefault(tool.name, tool)
            if len(found) > MAX_TOOLS or size_bytes > MAX_CATALOGUE_BYTES:
                break
            if cursor in seen:
                return tuple(found.values())
            seen.add(cursor)
        text = f'cannot keep the tools of MCP server "{self.name}": there are too many of them'
        facts = {"pages": MAX_PAGES, "tools": MAX_TOOLS, "bytes": MAX_CATALOGUE_BYTES}
        raise ResourceLimitExceeded(
            text, server=self.name, limit=facts, value={"tools": len(found), "bytes": size_bytes}
        )

    def _with_meta(
        self, params: Mapping[str, object], progress_token: int | None = None
    ) -> dict[str, object]:
        return messages.with_meta(
            params,
            modern_version=self.version if self.era == "modern" else None,
            client_version=self._client_version,
            progress_token=progress_token,
        )

    async def _request(
        self,
        method: str,
        params: Mapping[str, object],
        *,
        timeout_s: float | None,
        tool: str | None = None,
    ) -> object:
        try:
            return await self._channel.request(method, params, timeout_s=timeout_s)
        except CorralError as error:
            named = self._named(error, method, timeout_s, tool)
            if isinstance(error, _Lost) and self._state is _State.OPEN:
                self._channel.close()  # it closed its stdin and lives on, of no use to anybody
            raise named from error

    def _named(
        self, error: CorralError, method: str, timeout_s: float | None, tool: str | None
    ) -> CorralError:
        """The error as callers see it, with the names of server and tool.

        A server may send any code: only the one for wrong arguments keeps its class.
        """
        who = f'"{tool or method}" of MCP server "{self.name}"'
        facts: dict[str, object] = {"server": self.name}
        if tool is not None:
            facts["tool"] = tool
        if isinstance(error, _Lost):
            text = f"cannot finish {who}: the server has ended"
            # While the channel is open, only the way to the server is lost: nothing was queued.
            return ToolFailed(text, **facts, lost=True, sent=self._channel.is_closed)
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
        return ToolFailed(f"cannot finish {who}: {error.message}", **facts, code=code)

    # -- what comes from the server

    async def _answer(self, request: Request) -> object:
        """Answers what a server may ask: it may ping; we have declared nothing else."""
        if request.method == messages.PING:
            return {}
        text = f'cannot serve "{request.method}": this client has not declared it'
        raise MethodNotFound(text, method=request.method)

    def _hear(self, notification: Notification) -> None:
        """Takes notifications; those that belong to nothing are late or out of turn, and dropped."""
        if notification.method == messages.PROGRESS:
            heard = messages.read_progress(notification.params)
            if heard is not None:
                token, progress = heard
                on_progress = self._progress.get(token) if type(token) is int else None
                if on_progress is not None:
                    on_progress(progress)
        elif notification.method == messages.TOOLS_CHANGED:
            self._is_stale = True
            if self._state is _State.OPEN:
                self._refresh_soon()
        elif notification.method == messages.LOG_MESSAGE:
            self._on_notification(notification)

    def _heard(self) -> None:
        self.liveness.heard(self._loop.time())

    def _ended(self, error: CorralError | None) -> None:
        self._state = _State.CLOSED
        for task in (self._refreshing, self._listening):
            if task is not None:
                task.cancel()
        self._on_closed(error)

    async def _listen(self) -> None:
        """Keeps the one request open that makes a modern server announce changed tools."""
        try:
            params = self._with_meta(messages.LISTEN_PARAMS)
            await self._request(messages.LISTEN, params, timeout_s=None)
        except CorralError as error:
            logger.debug("no longer told of changed tools: %s", error)

    def _refresh_soon(self) -> None:
        if self._refreshing is None:
            self._refreshing = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        """Lists again until no list_changed came meanwhile; however many come, one listing at a time."""
        try:
            while self._is_stale and self.is_open:
                self._is_stale = False
                try:
                    tools = await self._list_tools(timeout_s=self._request_timeout_s)
                except CorralError as error:
                    logger.warning("the known tools stay listed: %s", error)
                else:
                    if tools != self.tools:
                        self.tools = tools
                        self._on_tools(tools)
                await asyncio.sleep(RELIST_PAUSE_S)
        finally:
            self._refreshing = None
