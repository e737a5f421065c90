"""The tasks that have not ended: each by its id, and those that wait, in the order of their turn.

Counts are kept current, so that a status with many agents and many tasks costs no more than the agents.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..worker.errors import CorralError
from ..worker.schema import Task, TaskState
from .attempt import Attempt
from .schedule import Limits, rank

Progress = Callable[[Task], None]


@dataclass
class Entry:
    """A task that has not ended, and what hangs on it. Its state is changed by `Backlog.put` alone."""

    task: Task
    created: float
    limits: Limits
    stop: asyncio.Future[CorralError] | None = None
    attempt: Attempt | None = None
    is_ending: bool = False  # its end is being written down: nothing else ends or starts it
    waits: list[str] = field(default_factory=list[str])
    listeners: list[Progress] = field(default_factory=list[Progress])
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Backlog:
    """The tasks of one daemon that have not ended."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._by_agent: dict[str, dict[str, Entry]] = {}
        self._queues: dict[str, list[tuple[float, int, str]]] = {}
        self._arrivals = 0
        self._counts = Counter[tuple[str, TaskState]]()
        self._totals = Counter[TaskState]()

    def add(self, entry: Entry) -> None:
        """Takes a task in; it is not in the queue yet."""
        task = entry.task
        self._entries[task.id] = entry
        self._by_agent.setdefault(task.agent, {})[task.id] = entry
        self._count(task, +1)

    def drop(self, entry: Entry) -> None:
        """Forgets a task; again is harmless."""
        task = entry.task
        if self._entries.pop(task.id, None) is None:
            return
        self._count(task, -1)
        others = self._by_agent[task.agent]
        del others[task.id]
        if not others:
            del self._by_agent[task.agent]
            self._queues.pop(task.agent, None)

    def put(self, entry: Entry, task: Task) -> None:
        """Gives a task that is here another record."""
        is_here = entry.task.id in self._entries
        if is_here:
            self._count(entry.task, -1)
        entry.task = task
        if is_here:
            self._count(task, +1)

    def _count(self, task: Task, step: int) -> None:
        self._totals[task.state] += step
        self._counts[task.agent, task.state] += step
        if not self._counts[task.agent, task.state]:
            del self._counts[task.agent, task.state]

    def find(self, task_id: str) -> Entry | None:
        """A task that has not ended."""
        return self._entries.get(task_id)

    def of(self, agent: str) -> list[Entry]:
        """The tasks of an agent."""
        return list(self._by_agent.get(agent, {}).values())

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def count(self, state: TaskState) -> int:
        """How many are in a state."""
        return self._totals[state]

    def queued(self, agent: str) -> int:
        """How many wait for a worker of an agent."""
        return self._counts.get((agent, "queued"), 0)

    # -- whose turn it is

    def line_up(self, entry: Entry) -> None:
        """Puts a task into the queue of its agent."""
        self._arrivals += 1
        place = (rank(entry.task.priority, entry.created), self._arrivals, entry.task.id)
        heapq.heappush(self._queues.setdefault(entry.task.agent, []), place)

    def first(self, agent: str) -> Entry | None:
        """The task of an agent whose turn it is; what has ended meanwhile is passed over."""
        queue = self._queues.get(agent)
        while queue:
            entry = self._entries.get(queue[0][2])
            if entry is not None and not entry.is_ending and entry.stop is None:
                return entry
            heapq.heappop(queue)
        return None

    def take(self, entry: Entry) -> None:
        """Takes the first of a queue out of it."""
        place = heapq.heappop(self._queues[entry.task.agent])
        assert place[2] == entry.task.id, "only what is first is taken"
