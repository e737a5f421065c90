"""Runs one incarnation of a worker: takes the pipes, serves the daemon on an asyncio loop, and shuts down in order.

It guarantees that only protocol messages reach the real stdout, that heartbeats are sent from the loop on which
async handlers run (a handler that blocks the loop is detected as hung), that a handler's failure is a response and
not the end of the worker, and that the process ends at `shutdown` even if a handler's thread does not. It needs the
standard library alone.
"""

import asyncio
import contextlib
import enum
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

from ..contract import codec
from ..contract.channel import Channel
from ..contract.errors import (
    CLASSES,
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
from ..contract.parts import size_of
from .generators import handler_of
from .health import HealthFunctions
from .results import Json
from .session import Memory
from .signatures import fault_of
from .source_location import place_of_error
from .stdio import Pipes, exit_now, log_line, log_traceback, take_stdio
from .subscriptions import Subscriptions
from .task import INSTANCE, MARK, Hooks, Running, Start, SyncTask, Task
from .threads import ThreadBridge, is_async, join_threads, run_in_thread

PROTOCOL_VERSION = "1"

SIGNAL_GRACE_S = 10.0
"""Seconds that tasks may continue after a SIGTERM without `shutdown`."""

RESERVE_S = 1.0
"""Seconds of the grace period kept for cancelling tasks and for on_shutdown (at most a fifth of it)."""

LEAVE_S = 0.5
"""Seconds that handlers, hooks and threads have to end where no grace period is given."""

SUBSCRIBE_S = 5.0
"""Seconds that the start waits for the response to `event/subscribe`."""

MAX_TEXT = 4096
"""Characters of an exception's text in an error response."""

ENVELOPE_BYTES = 4096
"""Bytes of a message reserved for everything but its output."""

T = TypeVar("T")


AT_ONCE: Mapping[str, Callable[[dict[str, object]], object]] = {"ping": lambda _: {}}
"""The requests that are answered synchronously, without an asyncio task."""


def run(hooks: Hooks) -> int:
    """Serves the daemon until the end of this worker, and returns the exit status.

    Ends the process instead of returning when a thread or task cannot be ended.
    """
    pipes = take_stdio()
    if pipes is None:
        log_line(_by_hand(hooks.name))
        return 2
    # Terminates a partial line on the real stdout, left by an os.write or a subprocess at import.
    with contextlib.suppress(OSError):  # the daemon is gone already: the loop detects it
        os.write(pipes.write_fd, b"\n")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(thread_name_prefix="to_thread")
    loop.set_default_executor(executor)
    worker = Worker(hooks, loop)
    _isolate_forks(worker.handlers)
    status = loop.run_until_complete(worker.live(pipes))
    executor.shutdown(wait=False, cancel_futures=True)
    if worker.is_orphan or asyncio.all_tasks(loop) or not join_threads(LEAVE_S):
        exit_now(status)
    asyncio.set_event_loop(None)
    loop.close()
    return status


def _isolate_forks(handlers: Mapping[int, object]) -> None:
    """Resets signal handling in later forks of this process, such as those of multiprocessing; call once.

    A loop receives signals through a descriptor that a fork inherits (signal.set_wakeup_fd): without this a SIGTERM
    to a child would be taken for one to the worker, and would not end the child.
    """
    masks: dict[int, set[int | signal.Signals]] = {}

    def before() -> None:  # a signal to the child must not arrive before `reset`
        masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)

    def restore() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(threading.get_ident(), set()))

    def reset() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            if signal.getsignal(number) is handler:  # else the agent has set another one
                signal.signal(number, signal.SIG_DFL)
        restore()

    os.register_at_fork(before=before, after_in_parent=restore, after_in_child=reset)


def _by_hand(name: str | None) -> str:
    agent = name or "NAME"
    program = sys.argv[0] or "agent.py"
    return (
        f'corral: cannot run agent "{agent}" by hand: stdin and stdout are no pipes to a daemon;'
        f" try: corral add {agent} -- python {program}; then: corral run {agent} OBJECTIVE"
    )


class _Phase(enum.Enum):
    WAITING = "waiting for initialize"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "shutting down"


class Worker:
    """Answers the requests of the daemon, sends heartbeats, and shuts down on request."""

    def __init__(self, hooks: Hooks, loop: asyncio.AbstractEventLoop) -> None:
        self.is_orphan = False
        """True if the daemon was gone before this worker ended."""
        self.handlers: dict[int, object] = {}
        """The handlers of the signals that end this worker, by signal number."""
        self._hooks = hooks
        self._loop = loop
        self._thread = threading.get_ident()
        self._handler = None if hooks.task is None else handler_of(hooks.task)
        self._has_async_handler = self._handler is not None and is_async(self._handler)
        self._phase = _Phase.WAITING
        self._start: Start | None = None
        self._early: dict[str, Json] | None = None  # the params of a `configure` before it is Ready
        self._next_beat: asyncio.TimerHandle | None = None
        self._status = 0
        self._stop_at = 0.0
        self._stopping = asyncio.Event()
        self._lost = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._running: set[asyncio.Task[Any]] = set()  # one for each task/run
        self._background: set[asyncio.Task[Any]] = set()  # publishing and delivering events
        self._subscriptions = Subscriptions(hooks.on_event, self._call)
        self._health = HealthFunctions(hooks.health, hooks.recovery, self._call)
        self._methods: dict[str, Callable[[dict[str, Json]], Awaitable[object]]] = {
            "initialize": self._initialize,
            "task/run": self._run_task,
            "checkpoint/save": self._save,
            "checkpoint/restore": self._restore,
            "health/check": self._health.check,
            "health/recover": self._health.recover,
        }

    # -- life cycle

    async def live(self, pipes: Pipes) -> int:
        """Serves until shutdown, SIGTERM or the daemon's end; returns the exit status."""
        self._channel = Channel(
            Peer(),
            name="the daemon",
            on_request=self.answer,
            at_once=AT_ONCE,
            is_eager=True,
            on_notification=self._on_notification,
            on_foreign=_log_foreign,
            on_closed=self._on_closed,
            lost=Unreachable,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end, 0, SIGNAL_GRACE_S)
            self.handlers[number] = signal.getsignal(number)
        self._hooks.bind(Running(self, ThreadBridge(self._loop)))
        await self._channel.open_pipes(*pipes)
        await self._stopping.wait()
        await self._shut_down()
        return self._status

    def _on_closed(self, error: CorralError | None) -> None:
        self._lost.set()
        status = 0 if error is None else 1  # an error: the daemon is alive, but does not read
        self._end(status, 0.0)

    def _end(self, status: int, grace_s: float) -> None:
        """Begins the shutdown, which takes at most `grace_s`; later calls change nothing."""
        if self._phase is not _Phase.STOPPING:
            self._phase = _Phase.STOPPING
            self._status = status
            self._stop_at = self._loop.time() + max(grace_s, LEAVE_S)
            self._stopping.set()

    async def _shut_down(self) -> None:
        """Waits for tasks, cancels the rest, runs on_shutdown, and sends queued output."""
        reserve_s = min(RESERVE_S, (self._stop_at - self._loop.time()) / 5)
        await self._first_of(self._stop_at - reserve_s, self._idle, self._lost)
        if self._lost.is_set():
            self._stop_at = min(self._stop_at, self._loop.time() + LEAVE_S)
        for task in list(self._running):
            task.cancel("the worker is shutting down")
        await self._first_of(self._stop_at - reserve_s / 2, self._idle)
        hook = self._hooks.on_shutdown
        if hook is not None and self._start is not None:
            task = self.start(self._call(hook), "on_shutdown failed")
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
        if self._next_beat is not None:
            self._next_beat.cancel()
        if start is not None and not self._channel.is_closed:
            self._channel.notify("heartbeat", {"busy": bool(self._running)})
            self._next_beat = self._loop.call_later(start.heartbeat_interval_s, self._beat)

    # -- requests and notifications of the daemon

    def answer(self, request: Request) -> Awaitable[object]:
        """Returns the awaitable response to a request that is not in `AT_ONCE`.

        Raises:
            CorralError: the error response.
        """
        method = self._methods.get(request.method)
        if method is None:
            raise MethodNotFound(f'cannot call "{request.method}": a worker has no such method', method=request.method)
        return method(request.params)

    def _on_notification(self, notification: Notification) -> None:
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
            self._subscriptions.deliver(params)
        elif notification.method == "configure":
            self._configure(params)
        # Others belong to a later version of the protocol, and are dropped.

    def _configure(self, params: dict[str, Json]) -> None:
        """Adopts limits and the interval of heartbeats that have changed since `initialize`."""
        start = self._start
        if start is None:
            self._early = params
            return
        interval_s = params.get("heartbeat_interval_s")
        if not isinstance(interval_s, int | float) or interval_s <= 0:
            interval_s = start.heartbeat_interval_s
        limits = params.get("limits") or start.limits
        self._start = start._replace(heartbeat_interval_s=float(interval_s), limits=limits)
        self._loop.call_soon(self._beat)

    async def _initialize(self, params: dict[str, Json]) -> object:
        if self._phase is not _Phase.WAITING:
            raise Conflict(f"cannot initialize: the worker is {self._phase.value}")
        what = f'cannot start worker "{params.get("worker")}"'
        if (fault := fault_of(self._hooks)) is not None:
            self._end(1, 0.0)
            log_line(f"corral: {what}: {fault}")
            raise SpawnFailed(f"{what}: {fault}", reason=fault)
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
            raise _reason(error, what, SpawnFailed) from error
        if self._phase is not _Phase.STARTING:
            raise ShuttingDown("cannot initialize: the worker is shutting down")
        self._phase = _Phase.READY
        self._start = start
        if self._early is not None:
            self._configure(self._early)
        self._loop.call_soon(self._beat)  # after the reply, which is queued when this returns
        for delivery in self._subscriptions.deliveries():
            self.start(delivery, "cannot deliver events")
        return {
            "protocolVersion": PROTOCOL_VERSION,
            "name": self._hooks.name or start.agent,
            "version": self._hooks.version,
            "capabilities": list(self._hooks.capabilities),
            **({"health": self._health.offers} if self._hooks.health else {}),
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
        """Subscribes before the worker is Ready, so that no later event is missed."""
        if types := self._subscriptions.types:
            try:
                await self._channel.request("event/subscribe", {"types": types}, timeout_s=SUBSCRIBE_S)
            except CorralError as error:
                log_traceback(error, "cannot subscribe to events")

    # -- tasks

    async def _run_task(self, params: dict[str, Json]) -> object:
        start = self._ready("run a task")
        handler = self._handler
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
                if me.cancelling():  # the handler suppressed it, but the daemon has withdrawn the request
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
        bridge = ThreadBridge(self._loop)
        blocking = SyncTask(start, params, self, memory, bridge)
        return blocking, run_in_thread(partial(handler, blocking), bridge.cancel)

    # -- the protocol `Calls` of Task

    async def request(self, method: str, params: Any, /) -> object:
        """Returns the daemon's response to a request."""
        self._check_thread()
        return await self._channel.request(method, params, timeout_s=None)

    def notify(self, method: str, params: Any, /) -> None:
        """Sends a notification."""
        self._check_thread()
        self._channel.notify(method, params)

    async def drain(self) -> None:
        """Waits while the daemon reads too slowly."""
        await self._channel.drain()

    async def stream(self, task: str, part: object, /) -> None:
        """Sends a part of the output of a task; see Task.stream."""
        size_of(part)
        self.notify("stream", {"task": task, "part": part})
        await asyncio.sleep(0)  # it is sent, and so are heartbeats, where a handler waits for nothing else
        await self._channel.drain()

    def start(self, coroutine: Coroutine[Any, Any, T], what: str, /) -> asyncio.Task[T]:
        """Runs a coroutine in the background; its failure is logged to stderr."""
        task = self._loop.create_task(coroutine)
        self._background.add(task)

        def ended(task: asyncio.Task[T]) -> None:
            self._background.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log_traceback(error, what)

        task.add_done_callback(ended)
        return task

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("cannot use a Task from another thread: make the handler a plain def")

    # -- handlers and hooks

    async def _call(self, hook: Callable[..., object], *args: object) -> object:
        if is_async(hook):
            return await cast("Awaitable[object]", hook(*args))
        return await run_in_thread(partial(hook, *args), lambda _: None)


def _take_identity(start: Start) -> None:
    """Sets the identity of a worker that was forked before it was known; its children are recognised by it."""
    unit = f"{start.worker}#{start.incarnation}"
    before = os.environ.get(MARK)
    os.environ[MARK] = unit
    os.environ[INSTANCE] = start.worker.rpartition("-")[2]
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
        raise InvalidParams(f"cannot beat every {interval_s!r} seconds", key="heartbeat_interval_s", value=interval_s)
    return Start(
        agent=str(params.get("agent") or ""),
        worker=str(params.get("worker") or ""),
        incarnation=params.get("incarnation") or 1,
        heartbeat_interval_s=float(interval_s),
        limits=params.get("limits") or {},
        config=params.get("config") or {},
        checkpoint=params.get("checkpoint"),
        fencing_token=params.get("fencing_token"),
    )


def _output(output: object, task_id: str, limits: dict[str, Json]) -> dict[str, object]:
    """Returns the response to task/run.

    Raises:
        TypeError, ValueError: JSON cannot express the output.
        ResourceLimitExceeded: the output is too large.
    """
    if isinstance(output, Coroutine):
        cast("Coroutine[Any, Any, object]", output).close()
        raise TypeError("the handler returned a coroutine: make it an async def")
    size = len(codec.encode_exactly(output))
    limit = limits.get("max_output_size_bytes")
    most = MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    if isinstance(limit, int) and 0 < limit < most:
        most = limit
    if size > most:
        text = f'cannot return {size} bytes from task "{task_id}": the limit is {most}'
        raise ResourceLimitExceeded(text, limit="max_output_size_bytes", value=most, size_bytes=size)
    return {"output": output}


def _with_memory(answer: dict[str, object], task: Task | SyncTask) -> dict[str, object]:
    """Returns the response with the changes of the session added.

    Raises:
        TaskFailed: JSON cannot express them.
        ResourceLimitExceeded: the response is too large.
    """
    try:
        delta = task.memory.delta()
        size = len(codec.encode_exactly(delta)) + len(codec.encode(answer))
    except (TypeError, ValueError) as error:
        text = f'cannot keep the changes of task "{task.id}" to its session: {error}'
        raise TaskFailed(text, exception=type(error).__name__, message=_text(error)) from error
    most = MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    if size > most:
        text = f'cannot return {size} bytes from task "{task.id}": the limit is {most}'
        raise ResourceLimitExceeded(text, limit="message", value=most, size_bytes=size)
    return {**answer, "memory": delta} if delta else answer


def _failure(error: BaseException, task_id: str, *, is_ours: bool) -> BaseException:
    """Returns the error response for a task; `is_ours` is True if a cancellation is that of the task itself."""
    text = f'cannot finish task "{task_id}"'
    if isinstance(error, asyncio.CancelledError) and not is_ours:
        text += ": an awaitable of its handler was cancelled"
        log_traceback(error, text)
        return TaskFailed(text, exception="CancelledError", message=_text(error))
    return _reason(error, text, TaskFailed)


def _reason(error: BaseException, what: str, kind: type[CorralError]) -> BaseException:
    """Returns the error response, after logging the traceback.

    A typed error keeps its code; all other exceptions become `kind`, SystemExit and KeyboardInterrupt included:
    `sys.exit` in one task must not end the others.
    """
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return error
    log_traceback(error, what)
    known = getattr(error, "code", None) in CLASSES  # a subclass of the agent may have any code or none
    if isinstance(error, CorralError) and known and not isinstance(error, Unreachable):
        return error
    name, text = type(error).__name__, _text(error)
    facts = {"exception": name, "message": text}
    words = f"{what}: {name}: {text.partition(chr(10))[0]}"
    if place := place_of_error(error):
        facts["place"] = place
        words += f" ({place})"
    return kind(words, **facts)


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # __str__ of the agent may raise anything
        text = "its text is not available"
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")


def _log_foreign(foreign: Foreign) -> None:
    log_line(f"corral: the daemon sent {foreign.line[:200]!r}: {foreign.reason}")
