"""The tasks that have not ended: each by its id, by its agent, by its key, and whose turn it is.

Counts are kept current, so that a status with many agents and many tasks costs no more than the agents.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...worker.contract.errors import CorralError
from ...worker.contract.records import Task, TaskState
from .attempt import Attempt
from .policy import Limits, rank
from .queue import TaskQueue

Progress = Callable[[Task], None]


@dataclass(slots=True, eq=False)
class Entry:
    """A task that has not ended, and what hangs on it. Its state is changed by `Backlog.put` alone.

    Args:
        task: its record.
        created: when it came, in seconds of the Unix epoch.
        limits: those in force for it.
        since: since when it waits for its turn, on the loop's clock.
        size_bytes: of the caller's words.
        due: when it may begin, in seconds of the Unix epoch.
        blockers: tasks that have to succeed before.
    """

    task: Task
    created: float
    limits: Limits
    since: float
    size_bytes: int = 0
    due: float | None = None
    blockers: set[str] = field(default_factory=set[str])
    doom: CorralError | None = None
    """Why it cannot begin any more: a task that had to succeed has not."""
    accepted: asyncio.Future[None] | None = None
    """Ends when it is in the store, or not taken; None when it is taken."""
    stop: asyncio.Future[CorralError] | None = None
    """There from when it is given to a worker; ends with the reason when somebody stops it."""
    attempt: Attempt | None = None
    answered_at: str = ""
    """When its worker has answered: its place is taken by the next before its end is written."""
    timer: asyncio.TimerHandle | None = None
    is_ending: bool = False  # its end is being written down: nothing else ends or starts it
    waits: list[str] = field(default_factory=list[str])
    children_tokens: int = 0  # used by all tasks below, since this daemon has it
    children_cost_cents: float = 0.0
    listeners: list[Progress] = field(default_factory=list[Progress])
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_begun(self) -> bool:
        """Whether somebody performs it, or is about to."""
        return self.stop is not None

    def quiet(self) -> None:
        """Forgets the timer of the queue."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Backlog:
    """The tasks of one daemon that have not ended."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._by_agent: dict[str, dict[str, Entry]] = {}
        self._by_key: dict[tuple[str, str], Entry] = {}
        self._turns: dict[str, TaskQueue] = {}
        self._retired: set[str] = set()
        self._counts = Counter[tuple[str, TaskState]]()
        self._totals = Counter[TaskState]()
        self.fleeting: dict[str, Entry] = {}
        """Those that are not durable, in the order in which they came."""
        self.composite = 0
        """How many tasks of teams and workflows there are."""
        self.queued_bytes = 0
        """What the words of all that are queued take."""

    def add(self, entry: Entry) -> None:
        """Takes a task in; it is not in the queue yet."""
        task = entry.task
        self._entries[task.id] = entry
        self._by_agent.setdefault(task.agent, {})[task.id] = entry
        if task.idempotency_key is not None:
            self._by_key[task.agent, task.idempotency_key] = entry
        self.composite += task.kind != "task"
        if not task.durable:
            self.fleeting[task.id] = entry
        self._count(entry, +1)

    def drop(self, entry: Entry) -> None:
        """Forgets a task; again is harmless."""
        task = entry.task
        if self._entries.pop(task.id, None) is None:
            return
        entry.quiet()
        self.fleeting.pop(task.id, None)
        self._count(entry, -1)
        self.composite -= task.kind != "task"
        if task.idempotency_key is not None:
            self._by_key.pop((task.agent, task.idempotency_key), None)
        turns = self._turns.get(task.agent)
        if turns is not None:
            turns.close(task.id, task.session)
        others = self._by_agent[task.agent]
        del others[task.id]
        if not others:
            del self._by_agent[task.agent]
            self._forget_turns(task.agent)

    def put(self, entry: Entry, task: Task) -> None:
        """Gives a task that is here another record."""
        if entry.task.state == task.state or entry.task.id not in self._entries:
            entry.task = task
            return
        self._count(entry, -1)
        entry.task = task
        self._count(entry, +1)

    def _count(self, entry: Entry, step: int) -> None:
        task = entry.task
        self._totals[task.state] += step
        if task.state == "queued":
            self.queued_bytes += step * entry.size_bytes
        counted = self._counts[task.agent, task.state] + step
        if counted:
            self._counts[task.agent, task.state] = counted
        else:
            del self._counts[task.agent, task.state]

    def find(self, task_id: str) -> Entry | None:
        """A task that has not ended."""
        return self._entries.get(task_id)

    def with_key(self, agent: str, key: str) -> Entry | None:
        """The task that an agent was given with an idempotency key."""
        return self._by_key.get((agent, key))

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

    def turns(self, agent: str) -> TaskQueue | None:
        """The queue of an agent; None when nobody has waited yet."""
        return self._turns.get(agent)

    def line_up(self, entry: Entry) -> None:
        """Puts a task into the queue of its agent."""
        task = entry.task
        turns = self._turns.get(task.agent)
        if turns is None:
            turns = self._turns[task.agent] = TaskQueue()
            self._retired.discard(task.agent)
        place = rank(task.priority, entry.since)
        turns.line_up(task.id, place, sticky=task.sticky_key, session=task.session)

    def step_back(self, entry: Entry) -> None:
        """Takes a task out of the queue of its agent, to line up again later."""
        turns = self._turns.get(entry.task.agent)
        if turns is not None:
            turns.leave(entry.task.id)

    def waiting(self, agent: str) -> int:
        """How many are lined up for an agent."""
        turns = self._turns.get(agent)
        return 0 if turns is None else len(turns)

    def retire(self, agent: str) -> None:
        """An agent is gone: its queue goes with its last task."""
        self._retired.add(agent)
        if agent not in self._by_agent:
            self._forget_turns(agent)

    def _forget_turns(self, agent: str) -> None:
        if agent in self._retired:
            self._retired.discard(agent)
            self._turns.pop(agent, None)
