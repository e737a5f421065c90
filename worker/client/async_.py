"""The control socket, from a program that runs a loop: one connection, many calls at once, all of them bounded.

It is the asyncio counterpart of `client`: the same socket, the same errors, the same shapes as Structs. Each call
has its deadline, and to cancel one tells the daemon. Notifications go to a function, or to a `Stream`, which holds
the daemon up when they are read too slowly. Nothing is repeated here: a caller who lost the connection does not
know what became of his call, and has to decide. It knows no method.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar, cast

import msgspec

from ..contract.channel import Channel
from ..contract.errors import InternalError, MethodNotFound, Unreachable
from ..contract.jsonrpc import Foreign, Notification, Peer, Request
from .sync import connect

MAX_CALLS = 1_000
"""Calls on their way over one connection; the next ones wait for their turn."""

WAITING_MAX = 1_000
"""Notifications that a `Stream` keeps unread: then it reads no further until half of them are taken."""

T = TypeVar("T")


class Connection:
    """An open connection to the daemon, for one loop.

    After an Unreachable it is of no further use (`is_closed`): open another one.
    """

    def __init__(self, path: str, channel: "_Channel") -> None:
        self.path = path
        self._channel = channel
        self._turn = asyncio.Semaphore(MAX_CALLS)

    @classmethod
    async def open(
        cls, path: str, *, on_notification: Callable[[Notification], None] | None = None
    ) -> Self:
        """A connection to who listens at `path`; without `on_notification` what is told is dropped.

        Raises:
            Unreachable: nobody answers; `data["reason"]` as of `client.Client`.
        """
        loop = asyncio.get_running_loop()
        # In a thread: a connection waits for its turn in the daemon's queue, which blocks.
        made = await asyncio.to_thread(connect, path)
        try:
            made.settimeout(None)
            made.setblocking(False)
            _, channel = await loop.create_unix_connection(
                lambda: _Channel(path, on_notification), sock=made
            )
        except BaseException:
            made.close()
            raise
        return cls(path, channel)

    @property
    def is_closed(self) -> bool:
        """Whether the daemon is gone, or `close` was called."""
        return self._channel.is_closed

    async def call(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> object:
        """The result of `method`, however long it takes unless `timeout_s` says otherwise.

        To cancel it tells the daemon that nobody waits any more.

        Raises:
            Timeout: no answer within `timeout_s`.
            Unreachable: the connection broke, or what answers is no corrald. Whether the call took effect is
                then unknown.
            CorralError: whatever the daemon answered.
        """
        async with self._turn:
            try:
                return await self._channel.request(method, params, timeout_s=timeout_s)
            except Unreachable as error:
                if "reason" in error.data:
                    raise
                raise _closed(self.path) from error

    async def ask(
        self,
        type_: type[T],
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> T:
        """As `call`, in the shape that the answer has to have.

        Raises:
            InternalError: it has another: daemon and program are of different versions.
            CorralError: as `call`.
        """
        return shaped(type_, await self.call(method, params, timeout_s=timeout_s), method)

    def post(self, method: str, params: Mapping[str, object]) -> None:
        """Asks for something and waits for no answer; nothing happens where the connection is closed."""
        if not self.is_closed:
            answer = self._channel.start(method, params, timeout_s=None).answer
            answer.add_done_callback(_overlook)

    def hear(self, on_notification: Callable[[Notification], None]) -> None:
        """Gives what is told from now on to `on_notification`."""
        self._channel.on_told = on_notification

    def pause(self) -> None:
        """Reads nothing more, answers included, until `resume`."""
        self._channel.pause()

    def resume(self) -> None:
        """Reads on."""
        self._channel.resume()

    async def wait_closed(self) -> None:
        """Waits until the daemon is gone."""
        await self._channel.wait_closed()

    async def close(self) -> None:
        """Closes it, once what is queued is sent; calls on their way raise Unreachable."""
        await self._channel.wait_sent()
        self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()


class Stream:
    """What a `….follow` sends, on a connection of its own: an iterator that whoever is slow may take its time with.

    The daemon gives up on a reader that takes nothing for half a minute; then it ends as if the daemon had gone.
    Answers come in the same stream: a call on its connection waits until what was told before is read.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._waiting: deque[Notification] = deque()
        self._arrived = asyncio.Event()
        self._is_paused = False
        connection.hear(self._take)

    @classmethod
    async def open(cls, path: str) -> Self:
        """A new connection that is read as a stream.

        Raises:
            Unreachable: nobody answers.
        """
        return cls(await Connection.open(path))

    def _take(self, notification: Notification) -> None:
        self._waiting.append(notification)
        self._arrived.set()
        if len(self._waiting) >= WAITING_MAX and not self._is_paused:
            self._is_paused = True
            self.connection.pause()

    async def __aiter__(self) -> AsyncIterator[Notification]:
        """The notifications, as they come.

        Raises:
            Unreachable: the connection ended, reason `closed`; all that came before has been given out.
        """
        gone = asyncio.ensure_future(self.connection.wait_closed())
        gone.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                while self._waiting:
                    yield self._waiting.popleft()
                    if self._is_paused and len(self._waiting) <= WAITING_MAX // 2:
                        self._is_paused = False
                        self.connection.resume()
                if self.connection.is_closed:
                    raise _closed(self.connection.path)
                self._arrived.clear()
                if not self._waiting and not gone.done():
                    await self._arrived.wait()
        finally:
            gone.cancel()


class _Channel(Channel):
    """A channel to a daemon, which can be told to read no further."""

    def __init__(self, path: str, on_notification: Callable[[Notification], None] | None) -> None:
        super().__init__(
            Peer(),
            name=f'the daemon at "{path}"',
            on_request=self._refuse,
            on_notification=self._hear,
            on_foreign=self._take_foreign,
            on_heard=self._note_message,
            lost=Unreachable,
        )
        self.on_told = on_notification
        self._path = path
        self._has_spoken = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        super().connection_made(transport)

    def pause(self) -> None:
        """Reads no further."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _hear(self, notification: Notification) -> None:
        if self.on_told is not None:
            self.on_told(notification)

    async def _refuse(self, request: Request) -> object:
        text = f'cannot call "{request.method}": a client of the control socket has no methods'
        raise MethodNotFound(text, method=request.method)

    def _note_message(self) -> None:
        self._has_spoken = True

    def _take_foreign(self, _: Foreign) -> None:
        if self._has_spoken:  # an answer that was too long: its call has ended with that
            return
        words = f'cannot reach the daemon at "{self._path}": what answers is no corrald'
        self.close(Unreachable(words, socket=self._path, reason="foreign"))


def _closed(path: str) -> Unreachable:
    words = f'cannot reach the daemon at "{path}": the daemon closed the connection'
    return Unreachable(words, socket=path, reason="closed")


def shaped(type_: type[T], answer: object, method: str) -> T:
    """An answer as a Struct.

    Raises:
        InternalError: it has another shape.
    """
    try:
        return msgspec.convert(answer, type_)
    except msgspec.ValidationError as error:
        text = f'cannot read the answer to "{method}": {error}'
        raise InternalError(text, method=method) from error


def _overlook(answer: asyncio.Future[object]) -> None:
    """Looks at an answer that nobody waits for, lest asyncio complain that nobody did."""
    if not answer.cancelled():
        answer.exception()
