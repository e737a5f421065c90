"""Keeps the ends of tasks on the engine, and waits for them: a message brings each to the node that accepted the task, else a look at the engine.

Guarantees that a task has one end, and that it is published once the engine has it, by one daemon: the one that wrote it, or, where
that is gone before the task has left its queue, one that gets the task again.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from corral.worker.contract.errors import Conflict, Timeout
from corral.worker.contract.records import Task

from ..engine.interface import Engine
from ..lease.record import decoded, key_of
from .stored_task import RESULT_S, StoredEnd, StoredTask, encoded_end, result_key

ENDED = "ended"
"""The prefix of the subjects on which a node hears that a task that it waits for has ended."""

WAIT_S = 2.0
"""Seconds between two looks for an end without a message."""

AGAIN_S = 0.5
"""Seconds until an end is stored again, where the engine has not answered."""

TOLD_MAX = 10_000
"""Number of ends of which it is remembered that this daemon has published them."""

EndQueue = asyncio.Queue[StoredEnd | None]
"""Holds an end that came by a message; None where the message has its id alone."""


class TaskEnds:
    """Finds ends, waits for them, and tells of them."""

    def __init__(self, node: str, incarnation: str, publish: Callable[[Task], None]) -> None:
        self._node = node
        self._teller = f"{node} {incarnation}"
        self._publish = publish
        self._waiters: dict[str, list[EndQueue]] = {}
        self._told: OrderedDict[str, None] = OrderedDict()
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the id of each task of whose end this node hears."""
        self._listeners.append(listener)

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

    async def keep(self, engine: Engine, end: StoredEnd, may_write: Callable[[], bool]) -> StoredEnd | None:
        """Stores the end of a task unless it has one, and publishes it; returns the one that it has.

        While the engine does not answer it is asked again, since it may have stored the end. None is for a node that may not
        write any more, and has not.
        """
        end, value = encoded_end(replace(end, teller=self._teller))
        key = result_key(end.task.id)
        while True:
            try:
                with contextlib.suppress(Conflict):
                    if may_write():
                        await engine.put(key, value, revision=0, ttl_s=RESULT_S)
                        return self._tell(end)
                known = await self.find(engine, end.task.id)
            except Timeout:
                await asyncio.sleep(AGAIN_S)
                continue
            if known is not None:
                return self._tell(known)
            if not may_write():
                return None

    async def has_ended(self, engine: Engine, task_id: str) -> bool:
        """Returns whether a task that was delivered again has an end; takes it over from a daemon that is gone, and may not have published it."""
        entry = await engine.get(result_key(task_id))
        if entry is None:
            return False
        end = self._tell(msgspec.json.decode(entry.value, type=StoredEnd))
        if end.teller not in ("", self._teller) and not await self._is_there(engine, end.teller):
            end = replace(end, teller=self._teller)
            with contextlib.suppress(Conflict):  # another node has just taken it over
                await engine.put(entry.key, msgspec.json.encode(end), revision=entry.revision, ttl_s=RESULT_S)
                self._tell(end)
        return True

    async def _is_there(self, engine: Engine, teller: str) -> bool:
        node, _, incarnation = teller.partition(" ")
        entry = await engine.get(key_of(node))
        record = None if entry is None else decoded(entry.value)
        return record is not None and record.incarnation == incarnation

    def _tell(self, end: StoredEnd) -> StoredEnd:
        """Publishes an end that is this daemon's to publish, once, and returns it."""
        if end.teller == self._teller and end.task.id not in self._told:
            self._told[end.task.id] = None
            if len(self._told) > TOLD_MAX:
                self._told.popitem(last=False)
            self._publish(end.task)
        return end

    async def announce(self, engine: Engine, stored: StoredTask, end: StoredEnd) -> None:
        """Notifies the node that waits for a task of its end, which is stored."""
        self._note(stored.id, end)
        if stored.origin != self._node:
            value = msgspec.json.encode(end) if stored.whole_end else stored.id.encode()
            await engine.publish(f"{ENDED}/{stored.origin}", value)

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
        for listener in self._listeners:
            listener(task_id)
