"""Holds the tasks that have not ended: by id, by agent, by key, in the queues of agents, and behind other tasks or a time.

Guarantees that counts are current, so that a status costs no more than the agents have tasks, and that a task with a
dependency or a start time is released once. Must not know how a task is executed or written.
"""

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.usage.task_usage import Meter
from corral.worker.contract.errors import Cancelled, CorralError
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Task, TaskState

from ..rules.boundaries import Limits
from ..rules.queue import TaskQueue, rank
from .attempt import Attempt, AttemptHandover
from .buffer import PartBuffer
from .memo import Memo

CLOCK_CHECK_S = 60.0
"""Seconds between two looks at the wall clock at the most: it may be set, and what a jump made due begins soon."""

TIMED_SLACK = 64
"""Number of removed tasks that the heap of start times may hold, beside as many as wait."""

NAMED_MAX = 3
"""Number of tasks that the reason of a waiting one names."""

Progress = Callable[[Task], None]


class Origin(NamedTuple):
    """Represents the origin of a task: its parent, the step of a workflow, the schedule, the task that it repeats.

    `tenant` is that of the caller, whose names it uses; with a parent it is the parent's. One that the cluster has
    accepted has its `id` already, since `accepted_at` of the wall clock, and has begun so often before: `deliveries`. With `only` it begins on that worker at once,
    whatever else that runs, and on no other one.
    """

    parent: Task | None = None
    step: str = ""
    schedule: str | None = None
    retry_of: str | None = None
    retried_from: str | None = None
    tenant: str = ""
    id: str = ""
    deliveries: int = 0
    accepted_at: float | None = None
    only: WorkerSupervisor | None = None


NO_ORIGIN = Origin()


class JobRun(NamedTuple):
    """Represents the run of a job: its worker, and the number of the life of that one before it."""

    supervisor: WorkerSupervisor
    life_before: int

    @property
    def has_begun(self) -> bool:
        """Returns whether the worker has a life of this run."""
        return self.supervisor.worker.incarnation > self.life_before


class TaskHandover(Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: a task as it is now, which the store has otherwise or not at all.

    `attempt` is there where a worker has it, for a job `life_before`; `children` are the tokens and cents of those below it;
    `recorded` are the numbers of the recorded answers that its beginning has not asked for, None where it has asked for none.
    """

    task: Task
    created: float
    since: float
    due: float | None
    is_measured: bool
    children: tuple[int, float]
    attempt: AttemptHandover | None
    life_before: int | None = None
    recorded: tuple[int, ...] | None = None

    @property
    def runs(self) -> bool:
        """Returns whether a worker runs it, and not only the record says so."""
        return self.attempt is not None or self.life_before is not None


@dataclass(slots=True, eq=False)
class Entry:
    """Holds a task that has not ended, and its run-time state. Its state is changed by `Backlog.replace` alone."""

    task: Task
    created: float
    limits: Limits
    since: float
    size_bytes: int = 0
    due: float | None = None
    blockers: set[str] = field(default_factory=set[str])
    dependency_error: CorralError | None = None
    """Why it cannot begin any more: a task that had to succeed has not."""
    accepted: asyncio.Future[None] | None = None
    """Ends when it is in the store, or refused; None when it is accepted."""
    stop: asyncio.Future[CorralError] | None = None
    """There from when it is given to a worker; ends with the reason when it is stopped."""
    attempt: Attempt | None = None
    job: JobRun | None = None
    """There while it is the run of a job."""
    answered_at: str = ""
    """When its worker has answered: its place is taken by the next before its end is written."""
    timer: asyncio.TimerHandle | None = None
    deadline: asyncio.TimerHandle | None = None
    is_ending: bool = False  # its end is being written: nothing else ends or starts it
    waits: list[str] = field(default_factory=list[str])
    is_measured: bool = False
    """The gateway measures calls of models for it: the reports of its agent are not added."""
    children_tokens: int = 0  # used by all tasks below, since this daemon has it
    children_cost_cents: float = 0.0
    listeners: list[Progress] = field(default_factory=list[Progress])
    waiters: int = 0
    """Number of callers that wait for its end."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    parts: PartBuffer | None = None
    """There from when it streams something, or a reader waits for that."""
    progress_due: float = 0.0
    """When the next report of progress is stored, on the loop's clock."""
    progress_kept: int = 0
    """Number of those that are."""
    meter: Meter | None = None
    """Measures the attempt that runs."""
    cpu_ns: int = 0
    """Processor time of the attempts that have ended."""
    peak_memory_bytes: int = 0
    """The most memory that an attempt was seen to use."""
    only: WorkerSupervisor | None = None
    """The worker that it is for, which may have no place among those of its agent."""
    memo: Memo | None = None
    """The recorded answers of its agent, from the first call of a beginning on."""

    @property
    def is_begun(self) -> bool:
        """Returns True if it is being executed, or is about to be, or was stopped."""
        return self.stop is not None

    @property
    def takes_any_place(self) -> bool:
        """Returns True if it waits for a place among the workers of its agent, and for nothing else."""
        task = self.task
        is_bound = task.after or task.session is not None or task.sticky_key is not None
        return task.state == "queued" and task.kind == "task" and not self.is_begun and not is_bound

    @property
    def is_unseen(self) -> bool:
        """Returns True if no worker was sent the attempt that has just ended."""
        return self.attempt is not None and not self.attempt.is_handed_over

    @property
    def obstacle(self) -> str:
        """Returns why no other program can go on with it; empty where one can."""
        task = self.task
        name = f'task "{task.id}" of "{task.agent}"'
        if self.is_ending or self.answered_at or self.accepted is not None:
            return f"{name} is being written"
        if self.parts is not None:
            return f"{name} streams"
        if task.state != "running":
            return f"{name} is being begun or ended" if self.is_begun else ""
        if task.kind == "job":
            is_carried = self.job is not None and self.job.has_begun and self.stop is not None and not self.stop.done()
        else:
            is_carried = task.kind == "task" and self.attempt is not None and self.attempt.is_carried
        return "" if is_carried else f"{name} runs"

    def hand_over(self) -> TaskHandover:
        """Returns what the next program goes on from; for one without an `obstacle`."""
        attempt, job = self.attempt, self.job
        return TaskHandover(
            task=self.task,
            created=self.created,
            since=self.since,
            due=self.due,
            is_measured=self.is_measured,
            children=(self.children_tokens, self.children_cost_cents),
            attempt=None if attempt is None or not attempt.is_carried else attempt.hand_over(),
            life_before=None if job is None else job.life_before,
            recorded=None if self.memo is None else self.memo.recorded,
        )

    def memo_now(self) -> Memo:
        """Returns the recorded answers for the beginning that runs."""
        if self.memo is None or self.memo.delivery != self.task.delivery:
            self.memo = Memo(self.task.delivery)
        return self.memo

    def notify(self) -> None:
        """Calls the listeners with its record."""
        for listener in tuple(self.listeners):
            listener(self.task)

    def cancel_timer(self) -> None:
        """Cancels the timer of queue_timeout."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Backlog:
    """Holds the tasks of one daemon that have not ended."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._by_agent: dict[str, dict[str, Entry]] = {}
        self._by_key: dict[tuple[str, str], Entry] = {}
        self._counts = Counter[tuple[str, TaskState]]()
        self.queues: dict[str, TaskQueue] = {}
        """By agent, from its first task on that had to wait."""
        self.totals = Counter[TaskState]()
        """Number of tasks by state."""
        self.placed = Counter[TaskState]()
        """Number of them that a node of the cluster runs under a record of its own."""
        self._waiting = Counter[str]()
        """Number of queued tasks by tenant."""
        self.volatile: dict[str, Entry] = {}
        """Those that are not durable, in the order in which they came."""
        self.composite = 0
        """Number of tasks of teams and workflows."""
        self.queued_bytes = 0
        """Bytes of objective, input and context of all that are queued."""

    def add(self, entry: Entry) -> None:
        """Enters a task; it is in no queue yet."""
        task = entry.task
        self._entries[task.id] = entry
        self._by_agent.setdefault(task.agent, {})[task.id] = entry
        if task.idempotency_key is not None:
            self._by_key[task.agent, task.idempotency_key] = entry
        self.composite += task.kind != "task"
        if not task.durable:
            self.volatile[task.id] = entry
        self._count(entry, +1)

    def remove(self, entry: Entry) -> None:
        """Removes a task; a second time is harmless."""
        task = entry.task
        if self._entries.pop(task.id, None) is None:
            return
        if entry.timer is not None:
            entry.cancel_timer()
        if entry.deadline is not None:
            entry.deadline.cancel()
        self.volatile.pop(task.id, None)
        self._count(entry, -1)
        self.composite -= task.kind != "task"
        if task.idempotency_key is not None:
            self._by_key.pop((task.agent, task.idempotency_key), None)
        queue = self.queues.get(task.agent)
        if queue is not None and (task.session is not None or task.id in queue.waiting):
            queue.end(task.id, task.session)
        others = self._by_agent[task.agent]
        del others[task.id]
        if not others:
            del self._by_agent[task.agent]

    def replace(self, entry: Entry, task: Task) -> None:
        """Gives a task another record, and counts it by its new state."""
        if entry.task.state == task.state or entry.task.id not in self._entries:
            entry.task = task
            return
        self._count(entry, -1)
        entry.task = task
        self._count(entry, +1)

    def _count(self, entry: Entry, step: int) -> None:
        task = entry.task
        self.totals[task.state] += step
        if task.kind == "placed":
            self.placed[task.state] += step
        if task.state == "queued":
            self.queued_bytes += step * entry.size_bytes
            self._waiting[tenant_of(task.agent)] += step
        counted = self._counts[task.agent, task.state] + step
        if counted:
            self._counts[task.agent, task.state] = counted
        else:
            del self._counts[task.agent, task.state]

    def find(self, task_id: str) -> Entry | None:
        """Returns a task that has not ended."""
        return self._entries.get(task_id)

    def find_by_key(self, agent: str, key: str) -> Entry | None:
        """Returns the task that was submitted to an agent with an idempotency key."""
        return self._by_key.get((agent, key))

    def of(self, agent: str) -> list[Entry]:
        """Returns the tasks of an agent."""
        return list(self._by_agent.get(agent, {}).values())

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def queued(self, agent: str) -> int:
        """Returns the number of tasks that wait for a worker of an agent."""
        return self._counts.get((agent, "queued"), 0)

    def waiting(self, tenant: str) -> int:
        """Returns the number of tasks of a tenant that wait, "" for the owner; those of teams and workflows among them."""
        return self._waiting[tenant]

    def running(self, agent: str) -> int:
        """Returns the number of tasks of an agent that run."""
        return self._counts.get((agent, "running"), 0)

    def enqueue(self, entry: Entry) -> None:
        """Puts a task into the queue of its agent."""
        task = entry.task
        queue = self._queue(task.agent)
        place = rank(task.priority, entry.since)
        queue.add(task.id, place, sticky=task.sticky_key, session=task.session)

    def note_begun(self, entry: Entry) -> None:
        """Notes that a task runs already, before others are enqueued: those of its session wait for it."""
        if entry.task.session is not None:
            self._queue(entry.task.agent).note_begun(entry.task.id, entry.task.session)

    def _queue(self, agent: str) -> TaskQueue:
        queue = self.queues.get(agent)
        if queue is None:
            queue = self.queues[agent] = TaskQueue()
        return queue

    def dequeue(self, entry: Entry) -> None:
        """Takes a task out of the queue of its agent; it may be enqueued again."""
        queue = self.queues.get(entry.task.agent)
        if queue is not None:
            queue.remove(entry.task.id)

    def is_waiting(self, agent: str) -> bool:
        """Returns True if tasks are in the queue of an agent."""
        queue = self.queues.get(agent)
        return queue is not None and bool(queue.waiting)

    def remove_agent(self, agent: str) -> None:
        """Removes the queue of an agent that is gone: nothing in it begins any more, also under a new agent of the name."""
        self.queues.pop(agent, None)

    def empty_queues(self) -> None:
        """Removes all queues: nothing that is in one begins any more."""
        self.queues.clear()


class Dependencies:
    """Holds back the tasks of one daemon that wait for a time or for other tasks.

    Times are those of the wall clock, which may be set: nothing begins before the clock says so.
    """

    def __init__(self, on_ready: Callable[[Entry], None], clock: Callable[[], float] = time.time) -> None:
        self._on_ready = on_ready
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.dependants: dict[str, dict[str, Entry]] = {}
        """The waiting tasks, by the task that they wait for."""
        self._timed: dict[str, Entry] = {}
        self._due: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry) -> None:
        """Enters a task with its blockers, before anything else can happen."""
        for blocker in entry.blockers:
            self.dependants.setdefault(blocker, {})[entry.task.id] = entry

    def holds(self, entry: Entry) -> bool:
        """Returns True while a task has to wait; then `on_ready` follows, unless it is removed."""
        if entry.blockers:
            return True
        if entry.task.id in self._timed:
            return True  # also when its time has just come: it goes on once, by `on_ready`
        if entry.due is None or entry.due <= self._clock():
            return False
        self._timed[entry.task.id] = entry
        heapq.heappush(self._due, (entry.due, entry.task.id))
        if len(self._due) > 2 * len(self._timed) + TIMED_SLACK:
            self._due = [place for place in self._due if place[1] in self._timed]
            heapq.heapify(self._due)
        self._rearm()
        return True

    def remove(self, entry: Entry) -> None:
        """Removes a task that has ended, or was refused."""
        self._timed.pop(entry.task.id, None)
        for blocker in entry.blockers:
            others = self.dependants.get(blocker)
            if others is not None:
                others.pop(entry.task.id, None)
                if not others:
                    del self.dependants[blocker]

    def resolve(self, task: Task) -> None:
        """Releases the tasks that wait for one that has ended, or marks them as never to begin."""
        for entry in self.dependants.pop(task.id, {}).values():
            entry.blockers.discard(task.id)
            if task.state != "succeeded" and entry.dependency_error is None:
                entry.dependency_error = dependency_failed(entry.task.id, task.id, task.state)
            if entry.dependency_error is not None or not entry.blockers:
                self._on_ready(entry)

    def close(self) -> None:
        """Cancels the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rearm(self) -> None:
        self.close()
        while self._due and self._due[0][1] not in self._timed:
            heapq.heappop(self._due)
        if self._due:
            wait_s = min(max(self._due[0][0] - self._clock(), 0.0), CLOCK_CHECK_S)
            self._timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            entry = self._timed.pop(heapq.heappop(self._due)[1], None)
            if entry is not None:
                self._on_ready(entry)
        self._rearm()


def dependency_failed(task: str, blocker: str, state: str) -> Cancelled:
    """Returns why a task never begins: another one that had to succeed is in this state."""
    what = "is not known any more" if state == "unknown" else f"ended as {state}"
    words = f'cannot begin task "{task}": task "{blocker}", which had to succeed before, {what}'
    return Cancelled(words, reason="dependency", dependency=blocker, state=state)


def waiting_reason(entry: Entry) -> str:
    """Returns the tasks or the time that a task waits for, in words; "" when for neither."""
    if entry.blockers:
        some = sorted(entry.blockers)[:NAMED_MAX]
        more = len(entry.blockers) - len(some)
        also = f" and {more} more" if more else ""
        return f"it waits for {'task' if len(some) == 1 else 'tasks'} {', '.join(some)}{also}"
    return "" if entry.due is None else f"it begins at {entry.task.scheduled_at}"
