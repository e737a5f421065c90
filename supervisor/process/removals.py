"""Temporary folders of lives that have ended: removed in a thread, soon, and all that wait at a time.

A life that ends is often followed by another at once: nothing is removed before that one is on its way, and a thread is
woken once for all of a thousand workers that end together.
"""

import asyncio
from collections.abc import Coroutine

from .sandbox import remove_empty, remove_temporary

DELAY_S = 0.02
"""Between the first end and the removal."""


class Removals:
    """What is to be removed; for use in one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def add(self, path: str) -> None:
        """Has a folder removed, with all that is in it."""
        self._waiting.append(path)
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self._begin)

    async def finish(self) -> None:
        """Returns when all that was added is removed, or has turned out not to be removable; each removal is bounded."""
        if self._timer is not None:
            self._timer.cancel()
            self._begin()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self) -> None:
        paths, self._waiting = self._waiting, []
        self._timer = None
        self._do(self._remove(paths))

    async def _remove(self, paths: list[str]) -> None:
        # Most are empty; whose removal lasts must not hold up the others.
        for path in await asyncio.to_thread(remove_empty, paths):
            self._do(asyncio.to_thread(remove_temporary, path))

    def _do(self, work: Coroutine[None, None, object]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
