"""Connects a `Peer` to asyncio: transports, futures, timers, and bounded writes.

A Channel serves a socket (it is the asyncio Protocol of a server or a client) or a pair of pipes (`open_pipes`). It
writes once per iteration of the loop, however many messages were queued; messages that no other one is expected to
accompany are written at once: the only request in flight, the response to the only request being served, and the
responses to the requests of one read. If a peer does not read for STALL_S seconds, the channel is closed with an
error that names it. It must not know any method.
"""

import asyncio
import inspect
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextvars import ContextVar
from itertools import chain
from typing import Any, NamedTuple, cast

from .errors import Cancelled, CorralError, InternalError, Overloaded, Timeout, WorkerFailed
from .jsonrpc import Event, Foreign, Id, Notification, Peer, PeerHandover, Request, Response, Withdrawn
from .read_turns import ReadTurns

STALL_S = 30.0
"""Seconds that a peer may not read before its connection is closed."""

HIGH_WATER_BYTES = 1024 * 1024
"""Bytes unsent from which on senders wait."""

PATIENT_BYTES = 64 * 1024
"""Bytes above which a sender waits that sends to a patient peer: however many there are, little is held for each."""

READ_BYTES = 64 * 1024
"""Bytes of one read of a pipe: asyncio's own buffer is so large that each read maps new memory."""

SLICE_BYTES = 16 * 1024
"""Bytes of one read that are decoded at a time where channels take turns."""

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Bytes unsent at which the connection is closed at once: responses are queued even while the peer does not read."""

logger = logging.getLogger(__name__)


async def _refuse(request: Request) -> object:
    raise InternalError(f'cannot call "{request.method}": nothing is served here')


def _ignore(_: object) -> None:
    return


NOTHING: Mapping[str, Callable[[dict[str, object]], object]] = {}

_SERVED: ContextVar["tuple[Channel, Id]"] = ContextVar("_SERVED")
"""The request that is being served, and the channel over which it came."""


def begun() -> dict[str, object]:
    """Returns what is noted of the request that is being served, for its server to read and change.

    It is handed over with the request. So another program of this one's finds here what was begun for it, when it serves the
    request anew. Values are those of JSON.
    """
    channel, request_id = _SERVED.get((None, ""))
    return {} if channel is None else channel.note_of(request_id)


class Call(NamedTuple):
    """Represents a request in flight; `answer` ends with its result or its error."""

    id: Id
    answer: asyncio.Future[object]


Notes = Mapping[Id, Mapping[str, object]]
"""What was noted of requests by `begun`, by their ids."""

NO_NOTES: Notes = {}


class ChannelHandover(NamedTuple):
    """Holds the state of a connection for another program, beside its `notes`.

    `requests` are those that are being served, `unread` is what was read and not looked at.
    """

    peer: PeerHandover
    requests: tuple[Request, ...]
    unread: bytes = b""


class Channel(asyncio.Protocol):
    """Represents one JSON-RPC connection on a running loop.

    Args:
        peer: the protocol state.
        name: name of the other side, for messages.
        on_request: handles a request of the peer; an exception is sent as the error response.
        at_once: methods answered without waiting, each with a function of the params; no task is made for them.
        is_eager: run `on_request` up to its first wait while the request is read, where Python has eager tasks
            (3.12): this saves an iteration of the loop, and immediate responses are written together.
        on_notification: takes a notification.
        on_foreign: takes a line that is not a message.
        on_message: called before a valid message is served; once for several of one read.
        on_closed: called once, with the error if this side closed the connection for it, else None.
        lost: the class of the error with which requests in flight end when the peer is gone.
        stall_s: seconds that the peer may not read before the connection is closed.
        max_unsent_bytes: bytes unsent at which it is closed at once.
        turns: shared with the other channels that are to be served by turns; without it, what was read is served at once.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        name: str,
        on_request: Callable[[Request], Awaitable[object]] = _refuse,
        at_once: Mapping[str, Callable[[dict[str, object]], object]] = NOTHING,
        is_eager: bool = False,
        on_notification: Callable[[Notification], None] = _ignore,
        on_foreign: Callable[[Foreign], None] = _ignore,
        on_message: Callable[[], None] | None = None,
        on_closed: Callable[[CorralError | None], None] = _ignore,
        lost: type[CorralError] = WorkerFailed,
        stall_s: float = STALL_S,
        max_unsent_bytes: int = MAX_UNSENT_BYTES,
        turns: ReadTurns | None = None,
    ) -> None:
        self.peer = peer
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._on_request = on_request
        self._at_once = at_once
        self._is_eager = is_eager and sys.version_info >= (3, 12)
        self._is_taking = False
        """True while the messages of one read are served; output queued meanwhile is written at the end."""
        self._on_notification = on_notification
        self._on_foreign = on_foreign
        self._on_message = on_message
        self._on_closed = on_closed
        self._turns = turns
        self._is_held = False
        self._is_left = False
        self._is_resting = False
        self._unread = b""  # while it is held
        self._to_begin: tuple[Request, ...] = ()  # of another program, when it is released
        self._left: Iterator[Event] | None = None
        """What was read and is still to be served; meanwhile nothing more is read."""
        self._lost = lost
        self._stall_s = stall_s
        self._is_patient = False
        self._max_unsent_bytes = max_unsent_bytes
        self._reader: asyncio.BaseTransport | None = None
        self._writer: asyncio.WriteTransport | None = None
        self._write_fd = -1
        self._serving: dict[Id, tuple[Request, asyncio.Task[None]]] = {}
        self._notes: dict[Id, dict[str, object]] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = 0.0
        self._stall: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.is_closed = False
        """True once the peer is gone: nothing more will be received."""
        self._ended = asyncio.Event()
        self._error: CorralError | None = None

    # -- opening and closing

    async def open_pipes(self, read_fd: int, write_fd: int) -> None:
        """Takes ownership of a pipe to read from and one to write to, and closes both in the end."""
        reader = os.fdopen(read_fd, "rb", buffering=0)
        writer = os.fdopen(write_fd, "wb", buffering=0)
        try:
            transport, _ = await self._loop.connect_write_pipe(lambda: _Writer(self), writer)
            self._write_fd = write_fd
            self._attach(transport)
            self._reader, _ = await self._loop.connect_read_pipe(lambda: _Reader(self), reader)
            if hasattr(self._reader, "max_size"):  # uvloop has one buffer for all reads
                setattr(self._reader, "max_size", READ_BYTES)  # noqa: B010  only asyncio's class has it
        except BaseException:
            if self._writer is None:
                writer.close()
            else:
                self._writer.abort()
            reader.close()
            raise
        if self.is_closed:  # closed before the transport existed
            self._reader.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport of a connected socket, which serves both directions."""
        self._reader = transport
        connected = transport.get_extra_info("socket")
        self._write_fd = -1 if connected is None else connected.fileno()
        self._attach(cast("asyncio.WriteTransport", transport))  # uvloop's does not inherit from it

    def _attach(self, transport: asyncio.WriteTransport) -> None:
        self._writer = transport
        if self.is_closed:  # closed before the transport existed
            self._loop.call_soon(transport.close)  # uvloop's transport is not ready for it yet
            return
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._flush()

    def close(self, error: CorralError | None = None) -> None:
        """Sends queued output, closes both directions, and ends requests in flight with `error`."""
        self._flush()
        self._error = self._error or error
        if self._writer is not None:
            self._writer.close()
        if self._reader is not None:
            self._reader.close()
        self._end()

    def close_writing(self) -> None:
        """Sends queued output and then EOF; reading continues."""
        self._flush()
        if self._writer is not None and self._writer is not self._reader:
            self._writer.close()

    async def wait_closed(self) -> None:
        """Waits until the peer is gone."""
        await self._ended.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the channel when the transport is closed."""
        if exc is not None:
            logger.debug("connection to %s lost: %s", self.name, exc)
        self._dispatch_last()
        self._end()
        if self._writer is self._reader:
            self.writer_lost()

    def writer_lost(self) -> None:
        """Releases senders when the writing side is closed; unsent output is lost."""
        if self._linger is not None:
            self._linger.cancel()
        self.resume_writing()

    def eof_received(self) -> bool:
        """Ends the channel when the peer has closed its writing side."""
        self._dispatch_last()
        self._end()  # here, because a transport with unsent bytes delays connection_lost
        return False

    def _dispatch_last(self) -> None:
        if not self.is_closed:
            left, self._left = self._left, None
            self._take(left or ())
        if not self.is_closed:
            self._take(self.peer.finish())

    def _end(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._left = None
        self._ended.set()
        error = self._error or self._lost(f"cannot reach {self.name}: the connection is closed")
        for response in self.peer.close(error):
            self._settle(response)
        for _, task in list(self._serving.values()):
            task.cancel()
        for handle in (self._expiry, self._stall, self._flush_handle):
            if handle is not None:
                handle.cancel()
        if self._writer is not None:
            self._writer.close()
            if self._writer.get_write_buffer_size() > 0:  # else a peer that never reads would keep the descriptor
                self._linger = self._loop.call_later(self._stall_s, self._writer.abort)
        self._can_write.set()
        on_closed = self._on_closed
        # Most are methods of the owner of the channel: a reference cycle, which only the garbage collector would free.
        self._on_request, self._on_message = _refuse, None
        self._on_notification = self._on_foreign = self._on_closed = _ignore
        on_closed(self._error)

    # -- from one program to another

    @property
    def requests(self) -> list[Request]:
        """Returns the requests of the peer that are being served."""
        return [request for request, _ in self._serving.values()]

    def go_on_as(self, request: Request) -> None:
        """Hands another request over in place of the one with its id, if that is still being served."""
        found = self._serving.get(request.id)
        if found is not None:
            self._serving[request.id] = request, found[1]

    @property
    def notes(self) -> Notes:
        """Returns what is noted of the requests of the peer that are being served."""
        return self._notes

    def note_of(self, request_id: Id) -> dict[str, object]:
        """Returns what is noted of a request, to be changed; of one that is not being served it is kept nowhere."""
        return self._notes.setdefault(request_id, {}) if request_id in self._serving else {}

    @property
    def is_drained(self) -> bool:
        """Returns whether all output is in the kernel, and all messages that were read have been served."""
        is_written = self._writer is not None and self._writer.get_write_buffer_size() == 0
        return is_written and not self.peer.has_unsent and not self.is_closed and self._left is None

    def hold(self) -> None:
        """Reads nothing more, until `release`: what the peer sends stays in the kernel."""
        self._is_held = True
        self._read_or_rest()

    def leave(self) -> None:
        """Writes nothing more: another program goes on with the connection."""
        self._is_left = True

    def release(self) -> None:
        """Reads again."""
        self._is_held = False
        requests, self._to_begin = self._to_begin, ()
        for request in requests:
            self._begin(request)
        unread, self._unread = self._unread, b""
        if unread:
            self.data_received(unread)
        self._read_or_rest()

    def _read_or_rest(self) -> None:
        """Reads from the transport unless it is held, or has read more than was served."""
        reader = cast("asyncio.ReadTransport | None", self._reader)
        is_resting = self._left is not None or self._is_held
        # What comes while the transport is being made comes before it is known.
        if reader is None or reader.is_closing() or is_resting == self._is_resting:
            return
        self._is_resting = is_resting  # asyncio cannot ask a pipe in the first versions of Python 3.11
        if is_resting:
            reader.pause_reading()
        else:
            reader.resume_reading()

    def hand_over(self) -> ChannelHandover:
        """Returns the state with which another program goes on; for one that is held and drained."""
        return ChannelHandover(self.peer.hand_over(), tuple(self.requests), self._unread)

    def take_up(self, left: ChannelHandover, notes: Notes = NO_NOTES) -> dict[Id, asyncio.Future[object]]:
        """Goes on from the state of another program, before anything is read.

        The requests of the peer are served anew, with what was noted of them. Returns the answers to the own ones that are
        in flight, by their ids.
        """
        answers = {request_id: self._loop.create_future() for request_id in left.peer.asked}
        self.peer.take_up(left.peer, answers)
        self._notes = {request_id: dict(note) for request_id, note in notes.items()}
        self._unread = left.unread + self._unread
        self._arm_expiry()
        self._to_begin = left.requests
        if not self._is_held:
            self.release()
        return answers

    # -- sending

    async def request(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout_s: float | None
    ) -> object:
        """Returns the result of a call; cancelling the caller cancels the request at the peer.

        Raises:
            CorralError: the error of the peer, Timeout, or the `lost` class when the peer is gone.
        """
        if self._can_write.is_set():  # nearly always; a coroutine costs as much as all of this
            answer = self._loop.create_future()
            deadline = None if timeout_s is None else self._loop.time() + timeout_s
            request_id = self._ask(method, params, deadline, answer)
        else:
            request_id, answer = await self.call(method, params, timeout_s=timeout_s)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancel(Call(request_id, answer), "the caller was cancelled")
            raise

    async def call(self, method: str, params: Mapping[str, object] | None = None, *, timeout_s: float | None) -> Call:
        """Queues a request and returns it, for a caller that waits for more than its answer.

        Raises:
            CorralError: it could not be queued. Its answer raises the errors of `request`.
        """
        deadline = None if timeout_s is None else self._loop.time() + timeout_s
        if not self._can_write.is_set():
            try:
                async with asyncio.timeout_at(deadline):
                    await self.drain()
            except TimeoutError as error:
                raise Timeout(f'cannot send "{method}": {self.name} does not read') from error
        return self._start(method, params, deadline)

    @property
    def can_send(self) -> bool:
        """Returns True if a request may be queued without waiting: the peer reads fast enough."""
        return self._can_write.is_set()

    @property
    def is_eager(self) -> bool:
        """Returns True if a request runs up to its first wait before the next message is read."""
        return self._is_eager and self._loop.get_task_factory() is None

    @property
    def is_sending(self) -> bool:
        """Returns True if messages are queued to be written at the end of this iteration of the loop."""
        return self.peer.has_unsent

    def start(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None,
        answer: asyncio.Future[object] | None = None,
    ) -> Call:
        """Queues a request without waiting, where `can_send` is True; `answer` is a future of the caller's for it."""
        return self._start(method, params, None if timeout_s is None else self._loop.time() + timeout_s, answer)

    def _start(
        self,
        method: str,
        params: Mapping[str, object] | None,
        deadline: float | None,
        answer: asyncio.Future[object] | None = None,
    ) -> Call:
        if answer is None:
            answer = self._loop.create_future()
        return Call(self._ask(method, params, deadline, answer), answer)

    def _ask(
        self, method: str, params: Mapping[str, object] | None, deadline: float | None, answer: asyncio.Future[object]
    ) -> Id:
        self._check_open()
        peer = self.peer
        request_id = peer.request(method, params, deadline=deadline, context=answer)
        if self._is_taking:
            return request_id
        if peer.in_flight == 1:
            self._flush()
        elif self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)
        return request_id

    def cancel(self, call: Call, reason: str) -> None:
        """Cancels a request at the peer, and forgets it: its answer never ends."""
        if call.answer.done() and not call.answer.cancelled():
            call.answer.exception()  # it arrived in the same iteration, and is not retrieved any more
        self.peer.cancel(call.id, reason)
        self._wake()

    def reschedule(self, call: Call, deadline: float) -> None:
        """Changes the deadline of a request that has one; on the loop's clock."""
        self.peer.reschedule(call.id, deadline)
        self._wake()

    def withdraw(self, call: Call, reason: str) -> None:
        """Cancels a request at the peer, and still waits for its response."""
        self.peer.withdraw(call.id, reason)
        self._wake()

    def notify(self, method: str, params: Mapping[str, object] | None = None) -> None:
        """Queues a notification; it is dropped if the peer is gone."""
        if not self.is_closed:
            self.peer.notify(method, params)
            self._wake()

    def wait_patiently(self) -> None:
        """Lets a peer that does not read stay connected from now on; senders must bound their output by `drain`."""
        self._is_patient = True
        if self._writer is not None and not self._writer.is_closing():
            self._writer.set_write_buffer_limits(high=PATIENT_BYTES)

    async def drain(self) -> None:
        """Waits while the peer reads too slowly.

        Raises:
            CorralError: the peer is gone, or the connection was closed meanwhile.
        """
        if self._is_patient:
            self._flush()  # only then it is known whether the peer takes it
        if not self._can_write.is_set():
            await self._can_write.wait()
            self._check_open()

    async def wait_sent(self) -> None:
        """Waits until all queued output is in the kernel, or the peer is gone; for use before an exit."""
        self._flush()
        if self._writer is not None and not self._writer.is_closing():
            self._writer.set_write_buffer_limits(high=0)
            await self._can_write.wait()

    def _check_open(self) -> None:
        if self.is_closed or (self._writer is not None and self._writer.is_closing()):
            raise self._error or self._lost(f"cannot reach {self.name}: the connection is closed")

    def _wake(self) -> None:
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._arm_expiry()
        if self._writer is None:
            return
        data = b"" if self._is_left else self.peer.take()
        if not data or self.is_closed or self._writer.is_closing():
            return
        data = data[self._written_at_once(self._writer, data) :]
        if not data:
            return
        self._writer.write(data)
        if self._writer.get_write_buffer_size() > self._max_unsent_bytes:
            self._disconnect(f"more than {self._max_unsent_bytes} bytes are unsent")

    def _written_at_once(self, writer: asyncio.WriteTransport, data: bytes) -> int:
        """Writes directly and returns the number of bytes written: uvloop's transport would poll for input first."""
        if self._write_fd < 0 or writer.get_write_buffer_size():
            return 0  # earlier output goes first
        try:
            return os.write(self._write_fd, data)
        except OSError:  # it is full, or the peer is gone: the transport detects and reports it
            return 0

    def pause_writing(self) -> None:
        """Makes senders wait, for a bounded time, when the transport's buffer is full."""
        self._can_write.clear()
        if not self._is_patient:
            self._stall = self._loop.call_later(
                self._stall_s, self._disconnect, f"it has read too little for {self._stall_s:g} s"
            )

    def resume_writing(self) -> None:
        """Releases senders when the peer reads again."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._can_write.set()

    def _disconnect(self, reason: str) -> None:
        error = Overloaded(f"cannot send to {self.name}: {reason}", retry_after_s=1)
        logger.warning("%s", error)
        self._error = error
        if self._writer is not None:
            self._writer.abort()
        if self._reader is not None:
            self._reader.close()
        self._end()

    # -- deadlines

    def _arm_expiry(self) -> None:
        deadline = self.peer.deadline
        if deadline is None or self.is_closed:
            return
        if self._expiry is not None:
            if self._expiry_at <= deadline:
                return
            self._expiry.cancel()
        self._expiry_at = deadline
        self._expiry = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        for response in self.peer.expire(self._loop.time()):
            self._settle(response)
        self._flush()

    # -- receiving

    def data_received(self, data: bytes) -> None:
        """Serves the messages in the next bytes of the peer."""
        if self._is_held:
            self._unread += data
        elif self._turns is None:
            self._serve_some(self.peer.receive(data))
        elif self._left is None:
            self._left = self._events(data)
            self._go_on()
        else:
            self._left = chain(self._left, self._events(data))

    def _events(self, data: bytes) -> Iterator[Event]:
        for first in range(0, len(data), SLICE_BYTES):  # reading them takes time, too
            yield from self.peer.receive(data[first : first + SLICE_BYTES])

    def _go_on(self) -> None:
        """Serves what was read for as long as it is this channel's turn."""
        turns, left = self._turns, self._left
        if turns is None or left is None:
            return  # it has ended
        is_over = self._serve_some(left, turns.slice_end())
        if is_over:
            self._left = None
        else:
            turns.wait(self._go_on)
        self._read_or_rest()

    def _serve_some(self, events: Iterable[Event], until: float | None = None) -> bool:
        """Serves messages, until a time on `time.perf_counter`; returns whether none is left."""
        self._is_taking = True
        try:
            return self._take(events, until)
        finally:
            self._is_taking = False
            if not self.is_closed and self.peer.has_unsent:
                self._flush()

    def _take(self, events: Iterable[Event], until: float | None = None) -> bool:
        is_noted = False
        for event in events:
            if not is_noted and self._on_message is not None and type(event) is not Foreign:
                is_noted = True
                self._on_message()
            if type(event) is Response:
                self._settle(event)
            else:
                self._dispatch(event)
            if self.is_closed:  # a handler closed the channel
                return True
            if until is not None and time.perf_counter() >= until:
                return False
        return True

    def _dispatch(self, event: Event) -> None:
        if type(event) is Request:
            answer = self._at_once.get(event.method)
            if answer is None:
                self._begin(event)
            else:
                try:
                    self.peer.respond(event.id, answer(event.params))
                except CorralError as error:
                    self.peer.fail(event.id, error)
        elif type(event) is Notification:
            self._on_notification(event)
        elif type(event) is Withdrawn:
            self._withdraw(event)
        elif type(event) is Foreign:
            self._on_foreign(event)

    def _begin(self, request: Request) -> None:
        if self.is_eager:
            task = _eager_task(self._serve(request), self._loop)
            if not task.done():
                self._serving[request.id] = request, task
        else:
            self._serving[request.id] = request, self._loop.create_task(self._serve(request))

    def _withdraw(self, event: Withdrawn) -> None:
        _, task = self._serving.get(event.id, (None, None))
        if task is None:
            return
        task.cancel(event.reason)
        serving = task.get_coro()
        if inspect.iscoroutine(serving) and inspect.getcoroutinestate(serving) == inspect.CORO_CREATED:
            # Withdrawn before its first step: `_serve` never runs.
            del self._serving[event.id]
            self._notes.pop(event.id, None)
            self.peer.fail(event.id, Cancelled("cannot start the request: cancelled"))

    @staticmethod
    def _settle(response: Response) -> None:
        _, context, result, error = response
        future = cast("asyncio.Future[object]", context)  # _ask() put it there
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    async def _serve(self, request: Request) -> None:
        _SERVED.set((self, request.id))
        try:
            result = await self._on_request(request)
        except CorralError as error:
            self.peer.fail(request.id, error)
        except asyncio.CancelledError as reason:
            self.peer.fail(request.id, Cancelled(f'cannot finish "{request.method}": cancelled', reason=str(reason)))
        except Exception as error:  # the outermost frame of this request: a defect of this program
            logger.exception("%s from %s failed", request.method, self.name)
            self.peer.fail(request.id, InternalError(f'cannot answer "{request.method}": {error!r}'))
        else:
            self.peer.respond(request.id, result)
        finally:
            self._serving.pop(request.id, None)
            self._notes.pop(request.id, None)
            if not self.is_closed and not self._is_taking:
                if not self._serving:
                    self._flush()
                elif self._flush_handle is None:
                    self._flush_handle = self._loop.call_soon(self._flush)


def _eager_task(serving: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """Returns a task that has run up to its first wait, where Python can do that."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(serving, loop=loop, eager_start=True)
    return asyncio.Task(serving, loop=loop)


class _Reader(asyncio.Protocol):
    """Receives from the reading pipe of a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def data_received(self, data: bytes) -> None:
        self._channel.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.connection_lost(exc)


class _Writer(asyncio.BaseProtocol):
    """Controls the writing pipe of a channel; when only it breaks, the peer may still send messages."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def pause_writing(self) -> None:
        self._channel.pause_writing()

    def resume_writing(self) -> None:
        self._channel.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.writer_lost()
