"""Runs coroutines of a program that has no event loop: on a loop in a thread of its own, for all other threads.

Guarantees that a wait which is interrupted cancels its coroutine, and that a program which ends without closing it
does not hang. It must not know what the coroutines do.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

from ..contract.errors import Conflict, Unreachable

END_S = 10.0
"""Seconds that coroutines have to end when the loop is closed."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class LoopThread:
    """Holds an event loop that runs in a daemon thread."""

    def __init__(self) -> None:
        refuse_in_loop()
        self._pid = os.getpid()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="corral.Runtime", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Returns True once `close` was called."""
        return self._is_closed

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine, waits for it and returns its result; KeyboardInterrupt cancels it.

        Raises:
            Conflict: the caller is a coroutine, a callback of this loop, or a forked process.
            Unreachable: the loop is closed.
        """
        with self._usable(coroutine):
            future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise _closed() from error
        except BaseException:
            future.cancel()
            raise

    @contextmanager
    def _usable(self, coroutine: Coroutine[Any, Any, object]) -> Generator[None]:
        try:
            self.check()
            yield
        except BaseException as error:
            coroutine.close()
            if isinstance(error, RuntimeError) and self._loop.is_closed():
                raise _closed() from error
            raise

    def check(self) -> None:
        """Checks that the caller may wait; raises as `wait`."""
        if os.getpid() != self._pid:
            text = "cannot use a runtime in a forked process: make one there, or fork before it is made"
            raise Conflict(text, reason="forked", pid=self._pid)
        if threading.current_thread() is self._thread:
            text = "cannot wait in a callback of corral.Runtime: it runs on the loop that has to answer; use a thread"
            raise Conflict(text, reason="in-callback")
        refuse_in_loop()
        if self._is_closed:
            raise _closed()

    def close(self) -> None:
        """Cancels what runs on the loop, ends the thread and closes the loop; does nothing the second time."""
        if self._is_closed or os.getpid() != self._pid:
            return
        self._is_closed = True
        asyncio.run_coroutine_threadsafe(_end(), self._loop).result(END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)


async def _end() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=END_S / 2)
    await asyncio.get_running_loop().shutdown_asyncgens()


def refuse_in_loop() -> None:
    """Refuses to wait in a thread whose event loop runs, since nothing else would run on it meanwhile.

    Raises:
        Conflict: a loop runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    text = "cannot use corral.Runtime in a coroutine: it would block the event loop; use corral.AgentRuntime"
    raise Conflict(text, reason="in-loop")


def _closed() -> Unreachable:
    return Unreachable("cannot use a runtime that is shut down: make another one", reason="closed")


class Streaming(Protocol[T_co]):
    """Represents a stream of `AgentRuntime`."""

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Returns an iterator over its items."""
        ...

    async def close(self) -> None:
        """Ends the stream."""
        ...


S_co = TypeVar("S_co", bound=Streaming[Any], covariant=True)


class Followed(Generic[T, S_co]):
    """Iterates over a stream in a program without an event loop; `stream` is that stream, `close` ends it.

    Several threads may share it: each gets other items.
    """

    def __init__(self, loop: LoopThread, stream: S_co, items: AsyncIterator[T]) -> None:
        self.stream = stream
        self._loop = loop
        self._items = items
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._lock:
            found = self._loop.wait(self._next())
        if not found:
            raise StopIteration
        return found[0]

    async def _next(self) -> tuple[T, ...]:
        """Returns the next item, or nothing at the end: a coroutine must not raise StopIteration."""
        async for item in self._items:
            return (item,)
        return ()

    def close(self) -> None:
        """Ends the stream: where a thread waits for the next item, the iteration ends, or raises Unreachable."""
        self._loop.wait(self.stream.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
