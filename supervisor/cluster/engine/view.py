"""Keeps the newest state of watched keys, for a reader that may be slow, over any number of fresh starts.

Pure but for the event that wakes the reader. Memory is bounded by the number of keys: changes of one key that were not
read yet become one. A fresh start (`begin`, entries, `complete`) reports keys that are gone.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import ClassVar

from .interface import Change, Entry

AGAIN_S = 0.1
"""Seconds after a failure until it is tried again."""


class View:
    """Holds the keys below a prefix."""

    def __init__(self) -> None:
        self._known: dict[str, Entry] = {}
        self._unread: dict[str, Change] = {}
        self._seen: set[str] | None = None
        self._wake = asyncio.Event()
        self._synced = asyncio.Event()
        self._alive_at = time.monotonic()

    # -- what the engine brings

    def begin(self) -> None:
        """Begins a fresh start: keys that do not come until `complete` are gone."""
        self._seen = set()

    def complete(self) -> None:
        """Ends a fresh start."""
        if self._seen is not None:
            for key in [key for key in self._known if key not in self._seen]:
                self.put(Change(key, None, self._known[key].revision + 1))
            self._seen = None
        self.alive()
        self._synced.set()

    def put(self, change: Change) -> None:
        """Takes the state of a key; one that is not newer than the known one is dropped."""
        self.alive()
        known = self._known.get(change.key)
        if self._seen is not None and change.value is not None:
            self._seen.add(change.key)
        if change.value is None:
            if known is None or change.revision < known.revision:
                return
            del self._known[change.key]
        else:
            if known is not None and change.revision <= known.revision:
                return
            self._known[change.key] = Entry(change.key, change.value, change.revision)
        self._unread.pop(change.key, None)  # to the end: the order is that of the revisions
        self._unread[change.key] = change
        self._wake.set()

    def alive(self) -> None:
        """Notes that the engine is there."""
        self._alive_at = time.monotonic()

    # -- for the reader

    async def next(self) -> Change:
        """Returns the next change."""
        while not self._unread:
            self._wake.clear()
            await self._wake.wait()
        return self._unread.pop(next(iter(self._unread)))

    async def synced(self) -> None:
        """Returns once the first start is complete."""
        await self._synced.wait()

    @property
    def unread(self) -> int:
        """Returns how many changes the reader has not taken."""
        return len(self._unread)

    def entries(self) -> dict[str, Entry]:
        """Returns a copy of the known keys."""
        return dict(self._known)

    def lag_s(self) -> float:
        """Returns the seconds since the engine was there."""
        return time.monotonic() - self._alive_at


class Following:
    """Follows the engine in a task of its own until it is closed; a failure, `failures`, begins it anew.

    A subclass follows in `_follow_once`, and calls this `__init__` last: the task begins with it.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed = closed
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Ends it."""
        self._closed()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        while True:
            try:
                await self._follow_once()
            except self.failures:
                await asyncio.sleep(AGAIN_S)

    async def _follow_once(self) -> None:
        raise NotImplementedError


class Inbox:
    """Holds messages for a reader that may be slow: at most `messages_max`, further ones are counted."""

    def __init__(self, messages_max: int) -> None:
        self._queue: asyncio.Queue[object] = asyncio.Queue(messages_max)
        self.dropped = 0

    def put(self, message: object) -> None:
        """Takes a message, or counts it as dropped."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped += 1

    async def get(self) -> object:
        """Returns the oldest message, waiting for one."""
        return await self._queue.get()
