"""Waits for the ends of tasks: a message brings each to the node that accepted the task, and a look at the engine those of which none came."""

import asyncio
import contextlib

import msgspec

from corral.worker.contract.errors import Timeout

from ..engine.interface import Engine
from .stored_task import StoredEnd, StoredTask, result_key

ENDED = "ended"
"""The prefix of the subjects on which a node hears that a task that it waits for has ended."""

WAIT_S = 2.0
"""Seconds between two looks for an end without a message."""

EndQueue = asyncio.Queue[StoredEnd | None]
"""Holds an end that came by a message; None where the message has its id alone."""


class TaskEnds:
    """Finds ends, waits for them, and tells of them."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._waiters: dict[str, list[EndQueue]] = {}

    async def find(self, engine: Engine, task_id: str) -> StoredEnd | None:
        """Returns the end of a task; None where it has none."""
        entry = await engine.get(result_key(task_id))
        return None if entry is None else msgspec.json.decode(entry.value, type=StoredEnd)

    async def wait(self, engine: Engine, task_id: str, *, is_new: bool = False) -> StoredEnd:
        """Returns the end of a task when it has one; with `is_new` there was none when this began."""
        arrived: EndQueue = asyncio.Queue()
        self._waiters.setdefault(task_id, []).append(arrived)
        try:
            while True:
                if not is_new:
                    with contextlib.suppress(Timeout):  # it will be back
                        if (end := await self.find(engine, task_id)) is not None:
                            return end
                is_new = False
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WAIT_S):
                        if (end := await arrived.get()) is not None:
                            return end
        finally:
            waiters = self._waiters[task_id]
            waiters.remove(arrived)
            if not waiters:
                del self._waiters[task_id]

    async def announce(self, engine: Engine, stored: StoredTask, end: StoredEnd, value: bytes) -> None:
        """Notifies the node that waits for a task of its end, which is stored, and encoded as `value`."""
        self._note(stored.id, end)
        if stored.origin != self._node:
            await engine.publish(f"{ENDED}/{stored.origin}", value if stored.whole_end else stored.id.encode())

    async def follow(self, engine: Engine) -> None:
        """Wakes those who wait here for a task that another node has ended, until it is cancelled."""
        inbox = await engine.subscribe(f"{ENDED}/{self._node}")
        try:
            while True:
                payload = (await inbox.next()).payload
                if payload.startswith(b"{"):
                    with contextlib.suppress(msgspec.MsgspecError):  # the engine is asked for it
                        end = msgspec.json.decode(payload, type=StoredEnd)
                        self._note(end.task.id, end)
                else:
                    self._note(payload.decode(), None)
        finally:
            await inbox.close()

    def _note(self, task_id: str, end: StoredEnd | None) -> None:
        for arrived in self._waiters.get(task_id, []):
            arrived.put_nowait(end)
