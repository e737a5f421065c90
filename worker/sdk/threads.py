"""Runs handlers and hooks in threads of their own, and lets them reach the loop of the worker.

A thread cannot be cut off: a cancellation ends its waits for the loop, and is over when its function has returned.
It needs the standard library alone.
"""

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from ..contract.errors import Cancelled

T = TypeVar("T")


async def run_in_thread(function: Callable[[], T], on_cancel: Callable[[str], None]) -> T:
    """Returns the result of the function, or raises its error, after running it in a thread of its own.

    After a cancellation this calls `on_cancel` with the reason and waits for the end of the function, so that the
    daemon can distinguish a worker that has let go of its task from one that has to be replaced.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[_Outcome[T]] = loop.create_future()
    _HandlerThread(loop, function, ended).start()
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


def is_async(function: Callable[..., object]) -> bool:
    """Returns True if a handler or hook has to be awaited."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  an object


def join_threads(within_s: float) -> bool:
    """Returns True if all handlers' threads, and those that block the interpreter's exit, end `within_s` seconds."""
    deadline = time.monotonic() + within_s
    for thread in threading.enumerate():
        if thread is threading.current_thread():
            continue
        if isinstance(thread, _HandlerThread) or not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
    return True


class _Outcome(NamedTuple, Generic[T]):
    value: T | None
    error: BaseException | None


class _HandlerThread(threading.Thread):
    """Runs one function of an author. A daemon thread: it never keeps the process alive."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: Callable[[], T], ended: "asyncio.Future[_Outcome[T]]"
    ) -> None:
        super().__init__(name="corral-handler", daemon=True)
        self._loop = loop
        self._function: Callable[[], object] = partial(contextvars.copy_context().run, function)
        self._ended = cast("asyncio.Future[_Outcome[object]]", ended)

    def run(self) -> None:
        outcome: _Outcome[object]
        try:
            outcome = _Outcome(self._function(), None)
        except BaseException as error:  # SystemExit too: it would end this thread silently
            outcome = _Outcome(None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: _Outcome[object]) -> None:
        if not self._ended.done():
            self._ended.set_result(outcome)


class ThreadBridge:
    """Lets the thread of a handler wait for coroutines on the loop, until the task is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = threading.Event()
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._waiting: set[asyncio.Task[Any]] = set()

    @property
    def is_on_loop(self) -> bool:
        """Returns True if the caller runs on the worker's loop."""
        return threading.get_ident() == self._loop_thread

    def wait(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """Runs a coroutine on the loop and returns its result.

        Raises:
            Cancelled: the task is cancelled, or was meanwhile.
            RuntimeError: the caller is on the loop.
        """
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
        """Cancels the present wait of the thread and all later ones."""
        self.cancelled.set()
        for task in self._waiting:
            task.cancel(reason)
