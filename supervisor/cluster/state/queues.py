"""Keeps the tasks of an agent in one queue for each priority that they have, and takes from the most urgent one first.

Most agents have one queue: tasks without a priority, or with the default one of the agent, go there. The first task with another
priority adds a queue, which every node then knows by a key. While an agent has several, a message tells its takers that one has a task:
a request that waits in each would take more tasks than there are workers.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Protocol

import msgspec
from msgspec import Struct

from corral.supervisor.tasks.rules.queue import rank
from corral.worker.contract.errors import Conflict

from ..engine.interface import Engine, Subscription, Taken
from .stored_task import StoredTask, queue_of

PRIORITIES = "state/priorities"
"""The prefix of the priorities of agents, below the keys that every node follows."""

RUNG = "waiting"
"""The prefix of the subjects on which takers hear that an agent with several queues has a task."""

WAIT_S = 2.0
"""Seconds that one request for tasks waits; and between two looks at several queues without a message."""


class Priorities(Struct, frozen=True, kw_only=True):
    """Represents the priorities for which an agent has a queue beside that of its default one."""

    values: list[int]


class Known(Protocol):
    """Represents what this node knows about the queues of agents."""

    def default_priority(self, agent: str) -> int:
        """Returns the priority of tasks without one."""
        ...

    def priorities(self, agent: str) -> Collection[int]:
        """Returns the priorities for which there is another queue."""
        ...

    def note_priorities(self, agent: str, values: list[int], revision: int) -> None:
        """Notes the priorities that this node has written or read."""
        ...


class QueueOrder:
    """Orders queues as a local queue orders tasks: by priority, and by a step more for each minute of waiting. Pure.

    The age of the first task of a queue is not known before it is taken. That of the last one that was taken there stands for it.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def ordered(self, queues: Mapping[str, int], now: float) -> list[str]:
        """Returns the queues, each with its priority, the most urgent first; one that was not seen before is empty until now."""
        for each in queues:
            self._since.setdefault(each, now)
        return sorted(queues, key=lambda each: (rank(queues[each], self._since[each]), each))

    def note(self, queue: str, since: float) -> None:
        """Notes when the last task that was taken from a queue was accepted; for an empty one the present time."""
        self._since[queue] = since


class TaskQueues:
    """Appends tasks to the queues of their agents, and takes them from there."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def of(self, agent: str) -> dict[str, int]:
        """Returns the queues of an agent, with their priorities."""
        others = {queue_of(agent, each): each for each in self._known.priorities(agent)}
        return {queue_of(agent): self._known.default_priority(agent), **others}

    async def append(self, engine: Engine, stored: StoredTask, payload: bytes) -> bool:
        """Stores a task in the queue of its priority; returns whether it is new."""
        agent, priority = stored.params.agent or "", stored.params.priority
        if priority == self._known.default_priority(agent):
            priority = None
        if priority is not None:
            await self._add_queue(engine, agent, priority)
        is_new = await engine.append(queue_of(agent, priority), stored.id, payload)
        if self._known.priorities(agent):
            await engine.publish(f"{RUNG}/{agent}", b"")
        return is_new

    async def _add_queue(self, engine: Engine, agent: str, priority: int) -> None:
        key = f"{PRIORITIES}/{agent}"
        while priority not in self._known.priorities(agent):
            entry = await engine.get(key)
            values = [] if entry is None else decoded_priorities(entry.value)
            revision = 0 if entry is None else entry.revision
            if priority not in values:
                values = sorted((*values, priority))
                value = msgspec.json.encode(Priorities(values=values))
                try:
                    revision = await engine.put(key, value, revision=revision)
                except Conflict:
                    continue  # another node has just added one
            self._known.note_priorities(agent, values, revision)

    def taker(self, agent: str) -> "QueueTaker":
        """Returns a taker of the tasks of an agent."""
        return QueueTaker(self, agent)


class QueueTaker:
    """Takes the tasks of one agent."""

    def __init__(self, queues: TaskQueues, agent: str) -> None:
        self._queues = queues
        self._agent = agent
        self._order = QueueOrder()
        self._rung: Subscription | None = None

    async def take(self, engine: Engine, count_max: int) -> list[Taken]:
        """Returns the most urgent tasks that nobody has, waiting for one for a while."""
        queues = self._queues.of(self._agent)
        if len(queues) == 1:
            return await engine.take(queue_of(self._agent), WAIT_S, count_max)
        if self._rung is None:
            self._rung = await engine.subscribe(f"{RUNG}/{self._agent}", messages_max=1)
        found: list[Taken] = []
        for queue in self._order.ordered(queues, time.time()):
            wanted = count_max - len(found)
            some = await engine.take(queue, 0.0, wanted)
            is_empty = len(some) < wanted
            self._order.note(queue, time.time() if is_empty else _accepted_at(some))
            found += some
            if not is_empty:
                break
        if not found:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self._rung.next()
        return found

    async def close(self) -> None:
        """Ends the subscription."""
        if self._rung is not None:
            await self._rung.close()


def decoded_priorities(value: bytes) -> list[int]:
    """Returns the priorities of a key; none where they cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(value, type=Priorities).values
    return []


class _Accepted(Struct):
    created_at: datetime


def _accepted_at(tasks: Iterable[Taken]) -> float:
    """Returns the time at which the last of some tasks was accepted; now where none says it."""
    found = time.time()
    for each in tasks:
        with contextlib.suppress(msgspec.MsgspecError):
            found = msgspec.json.decode(each.payload, type=_Accepted).created_at.timestamp()
    return found
