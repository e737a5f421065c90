"""Connects to the control socket from an asyncio program: one connection, many concurrent calls, all bounded.

It is the asyncio counterpart of `sync`: the same socket, errors and results. Each call has its own deadline, and
cancelling one withdraws it at the daemon. Notifications go to a function, or to a `Stream`, which stops reading from
the socket when its consumer is slow. No call is ever sent twice: after a lost connection only the caller can decide,
because whether the call took effect is unknown. It must not know any method.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar, cast

import msgspec

from ..contract.channel import Channel
from ..contract.errors import Conflict, InternalError, MethodNotFound, Unreachable
from ..contract.jsonrpc import Foreign, Notification, Peer, Request
from ..contract.misfit import misfit_of
from .sync import RETRY_FIRST_S, RETRY_LAST_S, connect

MAX_CALLS = 1_000
"""Number of calls in flight over one connection; further calls wait."""

WAITING_MAX = 1_000
"""Number of unread notifications of a `Stream` at which it stops reading, until half of them are consumed."""

LOGIN_S = 30.0
"""Seconds that the daemon may take to check a token."""

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """Represents the daemon at `path`, and the `token` and the `tenant` that restrict each connection to it."""

    path: str
    token: str | None = None
    tenant: str | None = None

    @property
    def login(self) -> dict[str, object]:
        """Returns the params of `auth.login`; none where nothing restricts a connection."""
        given = {"token": self.token, "tenant": self.tenant}
        return {key: value for key, value in given.items() if value is not None}


class Connection:
    """Holds an open connection to the daemon, for one event loop.

    After an Unreachable it is unusable (`is_closed`): open another one.
    """

    def __init__(self, path: str, channel: "_Channel") -> None:
        self.path = path
        self.channel = channel
        self._slots = asyncio.Semaphore(MAX_CALLS)

    @classmethod
    async def open(
        cls, daemon: str | Endpoint, *, on_notification: Callable[[Notification], None] | None = None
    ) -> Self:
        """Connects to a daemon, or to that at a path; without `on_notification` notifications are dropped.

        Raises:
            Unreachable: no daemon listens there; `data["reason"]` as for `sync.Client`.
            PermissionDenied: the token is wrong.
            NotFound: there is no such tenant.
        """
        endpoint = Endpoint(daemon) if isinstance(daemon, str) else daemon
        path = endpoint.path
        loop = asyncio.get_running_loop()
        # In a thread, because connect() blocks while the daemon's accept queue is full.
        made = await asyncio.to_thread(connect, path)
        try:
            made.settimeout(None)
            made.setblocking(False)
            _, channel = await loop.create_unix_connection(lambda: _Channel(path, on_notification), sock=made)
        except BaseException:
            made.close()
            raise
        connection = cls(path, channel)
        if login := endpoint.login:
            try:
                await connection.call("auth.login", login, timeout_s=LOGIN_S)
            except BaseException:
                await connection.close()
                raise
        return connection

    @property
    def is_closed(self) -> bool:
        """Returns True once the daemon has closed the connection or `close` was called."""
        return self.channel.is_closed

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout_s: float | None = None
    ) -> object:
        """Returns the result of `method`; waits without limit unless `timeout_s` is given.

        Cancelling it withdraws the request at the daemon.

        Raises:
            Timeout: no answer within `timeout_s`.
            Unreachable: the connection broke, or the listener is not corrald. Whether the call took effect is
                unknown then.
            CorralError: the error that the daemon answered.
        """
        async with self._slots:
            try:
                return await self.channel.request(method, params, timeout_s=timeout_s)
            except Unreachable as error:
                if "reason" in error.data:
                    raise
                raise _closed(self.path) from error

    async def close(self) -> None:
        """Closes the connection after its queued output is sent; pending calls raise Unreachable."""
        await self.channel.wait_sent()
        self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Reconnecting:
    """Holds at most one connection to a daemon; a call that finds it closed opens a new one first."""

    def __init__(self, endpoint: Endpoint, on_notification: Callable[[Notification], None]) -> None:
        self.path = endpoint.path
        self._endpoint = endpoint
        self._on_notification = on_notification
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._is_shut = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    def check(self) -> None:
        """Checks that this is the event loop, and the process, that began to use it.

        Raises:
            Conflict: it is another one.
        """
        if os.getpid() != self._pid:
            text = "cannot use a runtime in a forked process: make one there, or fork before it is made"
            raise Conflict(text, reason="forked", pid=self._pid)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            text = (
                "cannot use a runtime in a second event loop: it belongs to the loop that used it first;"
                " make one in each loop, or one corral.Runtime, which all threads can use"
            )
            raise Conflict(text, reason="second-loop")

    async def open(self) -> Connection:
        """Returns the open connection; concurrent callers share one attempt to connect.

        Raises:
            Unreachable: no daemon listens, or `shut` was called and the connection is closed.
        """
        self.check()
        async with self._opening:
            if self._connection is None or self._connection.is_closed:
                if self._is_shut:
                    text = f'cannot reach the daemon at "{self.path}": the runtime is shut down; make another one'
                    raise Unreachable(text, socket=self.path, reason="closed")
                self._connection = await Connection.open(self._endpoint, on_notification=self._on_notification)
            return self._connection

    async def open_within(self, patience_s: float) -> Connection:
        """Returns the open connection; retries for `patience_s` seconds to reach a daemon that is starting.

        Raises:
            Unreachable: it did not listen in time; or waiting cannot help (reason too-long, not-ours).
        """
        loop = asyncio.get_running_loop()
        give_up_at, pause_s = loop.time() + patience_s, RETRY_FIRST_S
        while True:
            try:
                return await self.open()
            except Unreachable as error:
                hopeless = error.data.get("reason") in ("too-long", "not-ours")
                if hopeless or loop.time() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LAST_S)

    async def call(self, method: str, params: Mapping[str, object], *, timeout_s: float | None = None) -> object:
        """Returns the result of `method`; see `Connection.call`."""
        self.check()
        connection = self._connection
        if connection is None or connection.is_closed:
            connection = await self.open()
        return await connection.call(method, params, timeout_s=timeout_s)

    async def ask(
        self, type_: type[T], method: str, params: Mapping[str, object], *, timeout_s: float | None = None
    ) -> T:
        """Returns the result of `method` decoded as `type_`; see `Connection.call`.

        Raises:
            InternalError: the result has another shape: daemon and program are of different versions.
            CorralError: as for `call`.
        """
        return decode_answer(type_, await self.call(method, params, timeout_s=timeout_s), method)

    def shut(self) -> None:
        """Forbids new connections; calls over the open one remain possible until `close`."""
        self._is_shut = True

    async def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()


class Stream:
    """Iterates over the notifications of a `….follow` method, on a connection of its own, with backpressure.

    The daemon drops a reader that takes nothing for half a minute; the stream then ends as if the daemon had gone.
    Responses share the connection: a call over it waits until all earlier notifications are consumed.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._waiting: deque[Notification] = deque()
        self._arrived = asyncio.Event()
        self._is_paused = False
        connection.channel.deliver_to(self._take)

    @classmethod
    async def open(cls, daemon: str | Endpoint) -> Self:
        """Opens a connection to be read as a stream.

        Raises:
            Unreachable: no daemon listens there.
        """
        return cls(await Connection.open(daemon))

    def _take(self, notification: Notification) -> None:
        self._waiting.append(notification)
        self._arrived.set()
        if len(self._waiting) >= WAITING_MAX and not self._is_paused:
            self._is_paused = True
            self.connection.channel.pause()

    async def __aiter__(self) -> AsyncIterator[Notification]:
        """Yields the notifications in order of arrival.

        Raises:
            Unreachable: the connection ended, reason `closed`; all earlier notifications were yielded before.
        """
        gone = asyncio.ensure_future(self.connection.channel.wait_closed())
        gone.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                while self._waiting:
                    yield self._waiting.popleft()
                    if self._is_paused and len(self._waiting) <= WAITING_MAX // 2:
                        self._is_paused = False
                        self.connection.channel.resume()
                if self.connection.is_closed:
                    raise _closed(self.connection.path)
                self._arrived.clear()
                if not self._waiting and not gone.done():
                    await self._arrived.wait()
        finally:
            gone.cancel()


class _Channel(Channel):
    """Adds pausing to a channel, and recognises a listener that is not corrald."""

    def __init__(self, path: str, on_notification: Callable[[Notification], None] | None) -> None:
        super().__init__(
            Peer(),
            name=f'the daemon at "{path}"',
            on_request=self._refuse,
            on_notification=self._notify,
            on_foreign=self._take_foreign,
            on_message=self._note_message,
            lost=Unreachable,
        )
        self._subscriber = on_notification
        self._path = path
        self._has_received = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport of the open connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        super().connection_made(transport)

    def deliver_to(self, on_notification: Callable[[Notification], None]) -> None:
        self._subscriber = on_notification

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _notify(self, notification: Notification) -> None:
        if self._subscriber is not None:
            self._subscriber(notification)

    async def _refuse(self, request: Request) -> object:
        text = f'cannot call "{request.method}": a client of the control socket has no methods'
        raise MethodNotFound(text, method=request.method)

    def _note_message(self) -> None:
        self._has_received = True

    def _take_foreign(self, _: Foreign) -> None:
        if self._has_received:  # an oversized response: its call has already failed
            return
        text = f'cannot reach the daemon at "{self._path}": the listener is not corrald'
        self.close(Unreachable(text, socket=self._path, reason="foreign"))


def _closed(path: str) -> Unreachable:
    text = f'cannot reach the daemon at "{path}": the daemon closed the connection'
    return Unreachable(text, socket=path, reason="closed")


def decode_answer(type_: type[T], answer: object, method: str) -> T:
    """Returns an answer as a Struct.

    Raises:
        InternalError: it has another shape.
    """
    try:
        return msgspec.convert(answer, type_)
    except msgspec.ValidationError as error:
        text = f'cannot read the answer to "{method}": {misfit_of(error, answer, type_).words}'
        raise InternalError(text, method=method) from error
