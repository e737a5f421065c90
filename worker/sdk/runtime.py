"""One life of a worker: takes the pipes, serves the daemon on an asyncio loop, and leaves in order.

It guarantees that nothing but the protocol reaches the real stdout, that heartbeats come from the loop
on which async handlers run (a handler that blocks it is hung, and is seen to be), that a handler's
failure is an answer and not the end of the worker, and that the process ends when it is told to, even
if a handler's thread does not. It needs the standard library alone.
"""

import asyncio
import contextlib
import contextvars
import enum
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from ..contract import codec
from ..contract.channel import Channel
from ..contract.errors import (
    CLASSES,
    Cancelled,
    Conflict,
    CorralError,
    InvalidParams,
    MethodNotFound,
    NotInitialized,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
    SpawnFailed,
    TaskFailed,
    Unreachable,
)
from ..contract.jsonrpc import MAX_MESSAGE_BYTES, Foreign, Notification, Peer, Request
from .forking import keep_signals
from .results import Json
from .session import Memory
from .stdio import Pipes, leave, say, say_traceback, take_stdio
from .subscriptions import Subscriptions
from .task import Hooks, Running, Start, SyncTask, Task

PROTOCOL_VERSION = "1"

MARK = "CORRAL_WORKER"
"""Environment variable of every worker: which life of which worker it is."""

SIGNAL_GRACE_S = 10.0
"""How long tasks may go on after a SIGTERM that came without `shutdown`."""

RESERVE_S = 1.0
"""The part of the grace period that is kept for cancelling and for on_shutdown (at most a fifth)."""

LEAVE_S = 0.5
"""How long handlers, hooks and threads have for leaving when no time is given."""

SUBSCRIBE_S = 5.0
"""How long the daemon's answer to a subscription holds up the start."""

MAX_TEXT = 4096
"""How much of an exception's text travels."""

ENVELOPE_BYTES = 4096
"""What a message needs beside the output in it: more than enough."""

T = TypeVar("T")


def _pong(_: dict[str, object]) -> object:
    return {}


AT_ONCE: Mapping[str, Callable[[dict[str, object]], object]] = {"ping": _pong}
"""What is answered without a task of its own."""


def run(hooks: Hooks) -> int:
    """Serves the daemon until the end of this worker's life, and returns the exit status.

    It does not return when something that it cannot end is still running then: the process ends.
    """
    pipes = take_stdio()
    if pipes is None:
        say(_by_hand(hooks.name))
        return 2
    # A line that somebody has begun on the real stdout (an os.write, a subprocess at import) ends here.
    with contextlib.suppress(OSError):  # the daemon is gone already: the loop will see it
        os.write(pipes.write_fd, b"\n")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(thread_name_prefix="to_thread")
    loop.set_default_executor(executor)
    worker = Worker(hooks, loop)
    keep_signals(worker.handlers)
    status = loop.run_until_complete(worker.live(pipes))
    executor.shutdown(wait=False, cancel_futures=True)
    if worker.is_orphan or asyncio.all_tasks(loop) or not _threads_end(LEAVE_S):
        leave(status)
    asyncio.set_event_loop(None)
    loop.close()
    return status


def _by_hand(name: str | None) -> str:
    agent = name or "NAME"
    program = sys.argv[0] or "agent.py"
    return (
        f'corral: cannot run agent "{agent}" by hand: stdin and stdout are no pipes to a daemon;'
        f" try: corral add {agent} -- python {program}; then: corral run {agent} OBJECTIVE"
    )


def _threads_end(within_s: float) -> bool:
    """Whether the threads that are handlers, or that would hold up the interpreter, have ended."""
    deadline = time.monotonic() + within_s
    for thread in threading.enumerate():
        if thread is threading.current_thread():
            continue
        if isinstance(thread, _HandlerThread) or not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
    return True


class _Phase(enum.Enum):
    WAITING = "waiting for initialize"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "shutting down"


class Worker:
    """The daemon's other side: answers its requests, beats, and leaves when it is told to."""

    def __init__(self, hooks: Hooks, loop: asyncio.AbstractEventLoop) -> None:
        self.is_orphan = False
        """Whether the daemon was gone before this worker left."""
        self.handlers: dict[int, object] = {}
        """By signal, what makes this worker leave."""
        self._hooks = hooks
        self._loop = loop
        self._thread = threading.get_ident()
        self._has_async_handler = hooks.task is not None and _is_async(hooks.task)
        self._phase = _Phase.WAITING
        self._start: Start | None = None
        self._status = 0
        self._stop_at = 0.0
        self._stopping = asyncio.Event()
        self._lost = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._running: set[asyncio.Task[Any]] = set()  # one for each task/run
        self._beside: set[asyncio.Task[Any]] = set()  # what runs beside: publishing, delivering
        self._ears = Subscriptions(hooks.on_event, self._call)
        self._methods: dict[str, Callable[[dict[str, Json]], Awaitable[object]]] = {
            "initialize": self._initialize,
            "task/run": self._run_task,
            "checkpoint/save": self._save,
            "checkpoint/restore": self._restore,
        }

    # -- its life

    async def live(self, pipes: Pipes) -> int:
        """Serves until shutdown, SIGTERM or the daemon's end; returns the exit status."""
        self._channel = Channel(
            Peer(),
            name="the daemon",
            on_request=self.answer,
            at_once=AT_ONCE,
            is_eager=True,
            on_notification=self._hear,
            on_foreign=_complain,
            on_closed=self._on_closed,
            lost=Unreachable,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end, 0, SIGNAL_GRACE_S)
            self.handlers[number] = signal.getsignal(number)
        self._hooks.running = Running(self, _ThreadBridge(self._loop))
        await self._channel.open_pipes(*pipes)
        await self._stopping.wait()
        await self._wind_up()
        return self._status

    def _on_closed(self, error: CorralError | None) -> None:
        self._lost.set()
        status = 0 if error is None else 1  # an error: the daemon is there, but does not read
        self._end(status, 0.0)

    def _end(self, status: int, grace_s: float) -> None:
        """Decides to leave within `grace_s`; who says it again changes nothing."""
        if self._phase is not _Phase.STOPPING:
            self._phase = _Phase.STOPPING
            self._status = status
            self._stop_at = self._loop.time() + max(grace_s, LEAVE_S)
            self._stopping.set()

    async def _wind_up(self) -> None:
        """Lets tasks finish, cancels what does not, runs on_shutdown, sends what is queued."""
        reserve_s = min(RESERVE_S, (self._stop_at - self._loop.time()) / 5)
        await self._first_of(self._stop_at - reserve_s, self._idle, self._lost)
        if self._lost.is_set():
            self._stop_at = min(self._stop_at, self._loop.time() + LEAVE_S)
        for task in list(self._running):
            task.cancel("the worker is shutting down")
        await self._first_of(self._stop_at - reserve_s / 2, self._idle)
        hook = self._hooks.on_shutdown
        if hook is not None and self._start is not None:
            task = self.begin(self._call(hook), "on_shutdown failed")
            left_s = max(self._stop_at - self._loop.time(), LEAVE_S / 5)
            await asyncio.wait([task], timeout=left_s)
        self.is_orphan = self._lost.is_set()
        if not self.is_orphan:
            await asyncio.wait({self._loop.create_task(self._channel.wait_sent())}, timeout=LEAVE_S)
        self._channel.close()
        rest = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for each in rest:
            each.cancel()
        if rest:
            await asyncio.wait(rest, timeout=LEAVE_S / 5)

    async def _first_of(self, until: float, *events: asyncio.Event) -> None:
        waiters = {self._loop.create_task(event.wait()) for event in events}
        timeout_s = max(0.0, until - self._loop.time())
        await asyncio.wait(waiters, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()

    def _beat(self) -> None:
        start = self._start
        if start is not None and not self._channel.is_closed:
            self._channel.notify("heartbeat", {"busy": bool(self._running)})
            self._loop.call_later(start.heartbeat_interval_s, self._beat)

    # -- what the daemon asks and says

    def answer(self, request: Request) -> Awaitable[object]:
        """What the daemon is answered, unless that is so `AT_ONCE`.

        Raises:
            CorralError: that is the answer.
        """
        method = self._methods.get(request.method)
        if method is None:
            text = f'cannot call "{request.method}": a worker has no such method'
            raise MethodNotFound(text, method=request.method)
        return method(request.params)

    def _hear(self, notification: Notification) -> None:
        params = notification.params
        if notification.method == "shutdown":
            grace_s = params.get("grace_s")
            if not isinstance(grace_s, int | float):
                grace_s = SIGNAL_GRACE_S
            if self._channel.is_eager:
                self._end(0, grace_s)
            else:  # after the requests that came before it
                self._loop.call_soon(self._end, 0, grace_s)
        elif notification.method == "event":
            self._ears.hear(params)
        # Others are of a later protocol: a notification that nobody knows is dropped.

    async def _initialize(self, params: dict[str, Json]) -> object:
        if self._phase is not _Phase.WAITING:
            raise Conflict(f"cannot initialize: the worker is {self._phase.value}")
        try:
            start = _start_of(params)
            _take_identity(start)
            self._phase = _Phase.STARTING
            if self._hooks.on_start is not None:
                await self._call(self._hooks.on_start, start)
            if start.checkpoint is not None and self._hooks.restore is not None:
                await self._call(self._hooks.restore, start.checkpoint)
            await self._subscribe()
        except BaseException as error:
            self._end(1, 0.0)
            raise _reason(
                error, f'cannot start worker "{params.get("worker")}"', SpawnFailed
            ) from error
        if self._phase is not _Phase.STARTING:
            raise ShuttingDown("cannot initialize: the worker is shutting down")
        self._phase = _Phase.READY
        self._start = start
        self._loop.call_soon(self._beat)  # after the reply, which is queued when this returns
        for listening in self._ears.listen():
            self.begin(listening, "cannot deliver events")
        return {
            "protocolVersion": PROTOCOL_VERSION,
            "name": self._hooks.name or start.agent,
            "version": self._hooks.version,
            "capabilities": list(self._hooks.capabilities),
        }

    def _ready(self, what: str) -> Start:
        if self._phase is _Phase.STOPPING:
            raise ShuttingDown(f"cannot {what}: the worker is shutting down")
        if self._start is None:
            raise NotInitialized(f"cannot {what}: the worker is {self._phase.value}")
        return self._start

    async def _save(self, _: dict[str, Json]) -> object:
        self._ready("save a checkpoint")
        hook = self._hooks.checkpoint
        if hook is None:
            return {"data": None}
        try:
            data = await self._call(hook)
            codec.encode(data)
        except BaseException as error:
            raise _reason(error, "cannot save a checkpoint", TaskFailed) from error
        return {"data": data}

    async def _restore(self, params: dict[str, Json]) -> object:
        self._ready("restore a checkpoint")
        hook = self._hooks.restore
        if hook is None:
            raise MethodNotFound("cannot restore a checkpoint: the agent has no restore hook")
        try:
            await self._call(hook, params.get("data"))
        except BaseException as error:
            raise _reason(error, "cannot restore a checkpoint", TaskFailed) from error
        return {}

    async def _subscribe(self) -> None:
        """Before the worker is Ready, so that nothing is missed that comes after."""
        if types := self._ears.types:
            try:
                await self._channel.request(
                    "event/subscribe", {"types": types}, timeout_s=SUBSCRIBE_S
                )
            except CorralError as error:
                say_traceback(error, "cannot subscribe to events")

    # -- tasks

    async def _run_task(self, params: dict[str, Json]) -> object:
        start = self._ready("run a task")
        handler = self._hooks.task
        if handler is None:
            raise MethodNotFound("cannot run a task: the agent has no task handler")
        limit = start.limits.get("max_concurrent_requests", 1)
        if type(limit) is int and len(self._running) >= limit:
            text = f"cannot run a task: {limit} are running"
            raise Overloaded(text, limit="max_concurrent_requests", value=limit, retry_after_s=1)
        me = asyncio.current_task(self._loop)
        assert me is not None, "a coroutine of the loop runs in a task"
        self._running.add(me)
        self._idle.clear()
        try:
            task, work = self._begun(start, handler, params)
            try:
                output = await work
                if me.cancelling():  # the handler swallowed it, yet nobody waits for its output
                    raise asyncio.CancelledError
                answer = _output(output, task.id, start.limits)
                return answer if task.session is None else _with_memory(answer, task)
            except BaseException as error:
                raise _failure(error, task.id, is_ours=me.cancelling() > 0) from error
        finally:
            self._running.discard(me)
            if not self._running:
                self._idle.set()

    def _begun(
        self, start: Start, handler: Callable[[Any], object], params: dict[str, Json]
    ) -> tuple[Task | SyncTask, Awaitable[object]]:
        memory = Memory(params.get("memory") or {}, codec.encode)
        if self._has_async_handler:
            task = Task(start, params, self, memory)
            return task, cast("Coroutine[Any, Any, object]", handler(task))
        bridge = _ThreadBridge(self._loop)
        blocking = SyncTask(start, params, self, memory, bridge)
        return blocking, self._in_thread(partial(handler, blocking), bridge.cancel)

    # -- Calls: what a Task needs

    async def ask(self, method: str, params: Any, /) -> object:
        """The daemon's answer to a request."""
        self._check_thread()
        return await self._channel.request(method, params, timeout_s=None)

    def tell(self, method: str, params: Any, /) -> None:
        """Sends a notification."""
        self._check_thread()
        self._channel.notify(method, params)

    async def room(self) -> None:
        """Waits while the daemon reads too slowly."""
        await self._channel.drain()

    def begin(self, coroutine: Coroutine[Any, Any, T], what: str, /) -> asyncio.Task[T]:
        """Runs it beside; when it fails, that is said on stderr."""
        task = self._loop.create_task(coroutine)
        self._beside.add(task)

        def ended(task: asyncio.Task[T]) -> None:
            self._beside.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                say_traceback(error, what)

        task.add_done_callback(ended)
        return task

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "cannot use a Task from another thread: make the handler a plain def"
            )

    # -- an author's functions

    async def _call(self, hook: Callable[..., object], *args: object) -> object:
        if _is_async(hook):
            return await cast("Awaitable[object]", hook(*args))
        return await self._in_thread(partial(hook, *args), lambda _: None)

    async def _in_thread(self, function: Callable[[], T], on_cancel: Callable[[str], None]) -> T:
        """What the function returns or raises in a thread of its own.

        A thread cannot be cut off: after a cancellation this waits for the function's own end, so that
        the daemon can tell a worker that has let go from one that has to be replaced.
        """
        ended: asyncio.Future[_Outcome[T]] = self._loop.create_future()
        _HandlerThread(self._loop, function, ended).start()
        try:
            outcome = await asyncio.shield(ended)
        except asyncio.CancelledError as reason:
            on_cancel(str(reason))
            while not ended.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([ended])
            raise
        if outcome.error is not None:
            raise outcome.error
        return cast("T", outcome.value)  # without an error there is a value


class _Outcome(NamedTuple, Generic[T]):
    value: T | None
    error: BaseException | None


class _HandlerThread(threading.Thread):
    """Runs one function of an author. A daemon thread: it never keeps the process alive."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], T],
        ended: "asyncio.Future[_Outcome[T]]",
    ) -> None:
        super().__init__(name="corral-handler", daemon=True)
        self._loop = loop
        self._function: Callable[[], object] = partial(contextvars.copy_context().run, function)
        self._ended = cast("asyncio.Future[_Outcome[object]]", ended)

    def run(self) -> None:
        outcome: _Outcome[object]
        try:
            outcome = _Outcome(self._function(), None)
        except BaseException as error:  # SystemExit too: it would end this thread without a word
            outcome = _Outcome(None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: _Outcome[object]) -> None:
        if not self._ended.done():
            self._ended.set_result(outcome)


class _ThreadBridge:
    """From a handler's thread to the loop and back, until the task is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = threading.Event()
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._waiting: set[asyncio.Task[Any]] = set()

    @property
    def is_on_loop(self) -> bool:
        """Whether the caller runs on the worker's loop."""
        return threading.get_ident() == self._loop_thread

    def wait(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """Runs it on the loop and returns its result, or raises Cancelled."""
        if self.is_on_loop:
            coroutine.close()
            raise RuntimeError("cannot wait on the loop: it would wait for itself")
        return asyncio.run_coroutine_threadsafe(self._guard(coroutine), self._loop).result()

    async def _guard(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self.cancelled.is_set():
            coroutine.close()
            raise Cancelled("cannot go on: the task is cancelled")
        me = asyncio.current_task()
        assert me is not None, "run_coroutine_threadsafe makes a task"
        self._waiting.add(me)
        try:
            return await coroutine
        except asyncio.CancelledError as reason:
            raise Cancelled("cannot go on: the task is cancelled", reason=str(reason)) from None
        finally:
            self._waiting.discard(me)

    def cancel(self, reason: str) -> None:
        """Ends what the thread waits for, and all that it will wait for."""
        self.cancelled.set()
        for task in self._waiting:
            task.cancel(reason)


def _is_async(function: Callable[..., object]) -> bool:
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  an object


def _take_identity(start: Start) -> None:
    """What is forked ahead of its use learns only now who it is; its children are known by that."""
    unit = f"{start.worker}#{start.incarnation}"
    before = os.environ.get(MARK)
    os.environ[MARK] = unit
    if before is not None and before != unit:
        with contextlib.suppress(OSError):  # a file of Python's would touch 15 pages more
            comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(comm, start.worker.encode())
            finally:
                os.close(comm)


def _start_of(params: dict[str, Json]) -> Start:
    version = params.get("protocolVersion")
    if version != PROTOCOL_VERSION:
        text = f'cannot speak protocol version "{version}", only "{PROTOCOL_VERSION}"'
        raise InvalidParams(text, key="protocolVersion", value=version, known=[PROTOCOL_VERSION])
    interval_s = params.get("heartbeat_interval_s", 5.0)
    if not isinstance(interval_s, int | float) or interval_s <= 0:
        text = f"cannot beat every {interval_s!r} seconds"
        raise InvalidParams(text, key="heartbeat_interval_s", value=interval_s)
    return Start(
        agent=str(params.get("agent") or ""),
        worker=str(params.get("worker") or ""),
        incarnation=params.get("incarnation") or 1,
        heartbeat_interval_s=float(interval_s),
        limits=params.get("limits") or {},
        config=params.get("config") or {},
        checkpoint=params.get("checkpoint"),
    )


def _output(output: object, task_id: str, limits: dict[str, Json]) -> dict[str, object]:
    """The reply to task/run; raises when the output cannot travel."""
    if isinstance(output, Coroutine):
        cast("Coroutine[Any, Any, object]", output).close()
        raise TypeError("the handler returned a coroutine: make it an async def")
    size = len(codec.encode(output))
    limit = limits.get("max_output_size_bytes")
    most = MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    if isinstance(limit, int) and 0 < limit < most:
        most = limit
    if size > most:
        text = f'cannot return {size} bytes from task "{task_id}": the limit is {most}'
        raise ResourceLimitExceeded(
            text, limit="max_output_size_bytes", value=most, size_bytes=size
        )
    return {"output": output}


def _with_memory(answer: dict[str, object], task: Task | SyncTask) -> dict[str, object]:
    """The reply with what the task has changed of its session; raises when that cannot travel."""
    try:
        delta = task.memory.delta()
        size = len(codec.encode(delta)) + len(codec.encode(answer))
    except (TypeError, ValueError) as error:
        text = f'cannot keep what task "{task.id}" has changed of its session: {error}'
        raise TaskFailed(text, exception=type(error).__name__, message=_text(error)) from error
    most = MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    if size > most:
        text = f'cannot return {size} bytes from task "{task.id}": the limit is {most}'
        raise ResourceLimitExceeded(text, limit="message", value=most, size_bytes=size)
    return {**answer, "memory": delta} if delta else answer


def _failure(error: BaseException, task_id: str, *, is_ours: bool) -> BaseException:
    """The error to answer with for a task; `is_ours`: a cancellation is that of the task, and not of what it awaited."""
    text = f'cannot finish task "{task_id}"'
    if isinstance(error, asyncio.CancelledError) and not is_ours:
        text += ": what its handler awaited was cancelled"
        say_traceback(error, text)
        return TaskFailed(text, exception="CancelledError", message=_text(error))
    return _reason(error, text, TaskFailed)


def _reason(error: BaseException, what: str, kind: type[CorralError]) -> BaseException:
    """The error to answer with, after its traceback went to the log.

    A typed error keeps its code; whatever else an author's code raises is of `kind`, SystemExit and
    KeyboardInterrupt included: one task's `sys.exit` must not end its neighbours.
    """
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return error
    say_traceback(error, what)
    known = getattr(error, "code", None) in CLASSES  # an author's own subclass may have any or none
    if isinstance(error, CorralError) and known and not isinstance(error, Unreachable):
        return error
    name, text = type(error).__name__, _text(error)
    return kind(f"{what}: {name}: {text.partition(chr(10))[0]}", exception=name, message=text)


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # an author's __str__ may raise anything
        text = "its text cannot be had"
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")


def _complain(foreign: Foreign) -> None:
    say(f"corral: the daemon sent {foreign.line[:200]!r}: {foreign.reason}")
