"""Holds the operation on a worker that waits for other workers: a job, as systemd queues it for a unit.

Guarantees that a worker has at most one, and that a cancelled one never acts. Knows no worker.
"""

import asyncio
from collections.abc import Callable, Coroutine


class Job:
    """Represents the waiting operation of one worker; a newer one replaces it."""

    __slots__ = ("_task", "is_to_end")

    def __init__(self) -> None:
        self.is_to_end = False
        """It will end the worker."""
        self._task: asyncio.Task[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Returns True if an operation waits for others."""
        return self._task is not None

    def run_after(self, ready: Coroutine[None, None, None], act: Callable[[], None], *, ends: bool = False) -> None:
        """Calls `act` once `ready` is done; `cancel` prevents that. `ends` declares that it ends the worker."""
        self.cancel()

        async def follow() -> None:
            await ready
            self._task = None
            self.is_to_end = False
            act()

        self.is_to_end = ends
        self._task = asyncio.create_task(follow())
        self._task.add_done_callback(lambda _: ready.close())

    def cancel(self) -> None:
        """Drops the operation that still waits."""
        self.is_to_end = False
        if self._task is not None:
            self._task.cancel()
            self._task = None
