"""Reads and writes the records of all tasks: those that have not ended, those in the store, the ended ones in memory.

Guarantees that a durable change is announced only when the store has it. A task that is not durable costs no write: its
record is in memory, also for a while after its end, and goes with the daemon.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.records.events.bus import Bus, rfc3339
from corral.supervisor.records.store.batch import Batches, Writing
from corral.supervisor.records.store.store import Statement, Store
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.worker.contract.errors import CorralError, Corrupted, NotFound, Overloaded
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Error, Task, TaskState
from corral.worker.control.params import TaskListParams

from ..rules.payload import bounded, error_room
from .backlog import Backlog, Entry
from .cluster import Cluster, is_on_engine
from .steps import Steps
from .table import Page, Records, cursor_of, is_match, place_of

RETRY_AFTER_S = 1.0
"""Seconds until a write that the store refused is tried again."""

ENDS_AT_ONCE = 100
"""Number of tasks whose ends are prepared, or announced, in one turn of the loop: some milliseconds."""

ENDS_WRITTEN = 1_000
"""Number of ends that are written before the first of them is announced."""

REASON_CHARS = 1_000
"""Characters of an error's message in an event; the task's record has it whole."""

ErrorOf: TypeAlias = Callable[[Task], CorralError]
"""Returns why a task ends."""

Place: TypeAlias = tuple[float, int]
"""Where a record stands in a list: when it came, in seconds of the Unix epoch, and its row."""

logger = logging.getLogger(__name__)


class Volatile:
    """Keeps the newest ended tasks that are in no store, as many as there is room for."""

    LIMIT = 10_000
    LIMIT_BYTES = 64 * 1024 * 1024

    def __init__(self, limit: int = LIMIT, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._records: OrderedDict[str, tuple[bytes, float, tuple[str, str] | None]] = OrderedDict()
        self._by_key: dict[tuple[str, str], str] = {}
        self._size_bytes = 0

    def put(self, task: Task, created: float) -> None:
        """Keeps a record; removes the oldest beyond the limits."""
        record = msgspec.json.encode(task)
        key = None if task.idempotency_key is None else (task.agent, task.idempotency_key)
        self._records[task.id] = (record, created, key)
        self._size_bytes += len(record)
        if key is not None:
            self._by_key[key] = task.id
        while self._records and (len(self._records) > self._limit or self._size_bytes > self._limit_bytes):
            oldest, (gone, _, its_key) = self._records.popitem(last=False)
            self._size_bytes -= len(gone)
            if its_key is not None and self._by_key.get(its_key) == oldest:
                del self._by_key[its_key]

    def find(self, task_id: str) -> Task | None:
        """Returns a record by its id."""
        found = self._records.get(task_id)
        return None if found is None else msgspec.json.decode(found[0], type=Task)

    def find_by_key(self, agent: str, key: str) -> Task | None:
        """Returns a record by its agent and its idempotency key."""
        task_id = self._by_key.get((agent, key))
        return None if task_id is None else self.find(task_id)

    def __iter__(self) -> Iterator[tuple[Task, float]]:
        for record, created, _ in reversed(self._records.values()):
            yield msgspec.json.decode(record, type=Task), created


class TaskObserver(Protocol):
    """Observes the starts and ends of all tasks."""

    def started(self, task: Task) -> None:
        """Notes that an attempt begins."""

    def ended(self, task: Task) -> None:
        """Notes that a task has ended; it is in the store."""


class RecordWriter:
    """Reads and writes the records of one daemon's tasks, and publishes their changes."""

    def __init__(
        self, store: Store, bus: Bus, backlog: Backlog, registry: Registry, turns: CallTurns, cluster: Cluster
    ) -> None:
        self.backlog = backlog
        self.records = Records(store, self._note_corrupted)
        self.steps = Steps(store, cluster)
        self.volatile = Volatile()
        self.counts: dict[str, int] = {"succeeded": 0, "failed": 0, "cancelled": 0, "timeout": 0}
        self._store = store
        self._batches = Batches(store)
        self._bus = bus
        self._registry = registry
        self._turns = turns
        self._cluster = cluster
        self._end_listeners: list[Callable[[Entry], None]] = []
        self._end_waiters: list[asyncio.Future[None]] = []
        self._observers: list[TaskObserver] = []
        self._ending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    def subscribe(self, observer: TaskObserver) -> None:
        """Tells an observer of each start and end from now on, once it is announced."""
        self._observers.append(observer)

    def subscribe_to_ends(self, listener: Callable[[Entry], None]) -> None:
        """Calls `listener` with each task that has ended, and is in the store, before its end is announced."""
        self._end_listeners.append(listener)

    async def load_counts(self) -> None:
        """Loads how many tasks have ended in each state, also under earlier daemons."""
        self.counts |= await self.records.counts(is_in_cluster=self._cluster.is_joined)

    async def next_end(self) -> None:
        """Waits until any task ends, so that a full queue may have room."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._end_waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._end_waiters:
                self._end_waiters.remove(waiter)

    def _note_corrupted(self, error: Corrupted) -> None:
        self._bus.publish("task.corrupted", task=str(error.data["task"]), reason=error.message)

    @property
    def is_closing(self) -> bool:
        """Returns whether the daemon stops: what the store refuses now is left to the next one."""
        return self._registry.draining

    def find(self, task_id: str) -> Task | None:
        """Returns the record of a task that has not ended."""
        entry = self.backlog.find(task_id)
        return None if entry is None else entry.task

    async def show(self, task_id: str) -> Task:
        """Returns the record of a task."""
        task = self.find(task_id) or self.volatile.find(task_id)
        if task is None:
            task = await self.records.find(task_id)
        if task is None:
            raise NotFound(f'cannot find task "{task_id}"', task=task_id)
        return task

    async def known(self, agents: Sequence[str], key: str) -> Entry | Task | None:
        """Returns the task that one of the agents was given with an idempotency key."""
        for name in agents:
            found = self.backlog.find_by_key(name, key) or self.volatile.find_by_key(name, key)
            if found is not None:
                return found
        for name in agents:
            stored = await self.records.find_by_key(key, name)
            if stored is not None:
                return self.backlog.find(stored.id) or stored
        return None

    async def list(self, wanted: TaskListParams, knows: Callable[[str], bool] | None = None) -> Page:
        """Returns records of agents that pass `knows`, newest first; fewer than the limit if one message has no room."""
        if knows is not None and not wanted.agents and wanted.agent is None:
            agents = await self._agents(knows)
            if not agents:
                return Page([], None, 0)
            wanted = replace(wanted, agents=agents)
        page = await self.records.page(wanted)
        states = {*wanted.states, *([wanted.state] if wanted.state is not None else [])}
        found: list[tuple[Place, Task]] = []
        for place, task in zip(page.places, page.tasks, strict=True):
            fresh = self.find(task.id) or task
            if not states or fresh.state in states:
                found.append((place, fresh))
        found += self._volatile_page(wanted, page)
        found.sort(key=lambda each: each[0], reverse=True)
        more = page.more
        if len(found) > wanted.limit:
            del found[wanted.limit :]
            more = cursor_of(found[-1][0])
        places = tuple(place for place, _ in found)
        return page._replace(tasks=[task for _, task in found], more=more, places=places)

    async def _agents(self, knows: Callable[[str], bool]) -> Sequence[str]:
        others = {entry.task.agent for entry in self.backlog.volatile.values()}
        others |= {task.agent for task, _ in self.volatile}
        return sorted({*await self.records.agents(knows), *filter(knows, others)})

    def _volatile_page(self, wanted: TaskListParams, page: Page) -> Iterator[tuple[Place, Task]]:
        """Yields the tasks of a page that are in no store, newest first, as many as it holds."""
        before = math.inf if wanted.before is None else place_of(wanted.before)[0]
        after = -math.inf if page.more is None else place_of(page.more)[0]
        living = [(e.task, e.created) for e in reversed(self.backlog.volatile.values())]
        for source in (living, self.volatile):
            fitting = (
                ((created, 0), task)
                for task, created in source
                if after < created < before and _is_match(task, created, wanted)
            )
            yield from islice(fitting, wanted.limit)

    def save(self, entry: Entry, task: Task, *more: Statement) -> Writing | None:
        """Writes a record, and `more` with it; returns a future that ends when it is durable, None if nothing is written."""
        statements = (*self.records.statements(task, entry.created), *more) if task.durable else more
        if not statements:
            return None
        try:
            only = statements[0] if len(statements) == 1 else None
            wait_s = self._turns.write_wait_s(tenant_of(task.agent))
            if isinstance(only, tuple) and isinstance(only[1], tuple):
                return self._batches.write(only[0], only[1], wait_s)
            self._batches.end_batch()
            return self._store.begin(*statements, wait_s=wait_s)
        except CorralError as error:
            refused: Writing = self._loop.create_future()
            refused.set_exception(error)
            return refused

    async def end(
        self,
        entry: Entry,
        state: TaskState,
        *,
        output: object = None,
        error: CorralError | None = None,
        more: Sequence[Statement] = (),
        on_written: Callable[[], None] | None = None,
    ) -> bool:
        """Ends a task once, when the store takes it; returns False when it has ended, or is about to. `on_written` is called before it is told."""
        if entry.is_ending:
            return False
        ended = _ending(entry, state, output, error)
        written = self.save(entry, ended, *more)
        if written is not None:
            await self._written(entry, ended, written, more)
        if on_written is not None:
            on_written()
        self._conclude(entry, ended)
        return True

    async def end_each(self, entries: deque[Entry], state: TaskState, why: ErrorOf) -> None:
        """Ends tasks that were put down, ENDS_AT_ONCE in one turn of the loop, and takes them out of `entries` one by one."""
        async with self._ending:
            while entries:
                some = [entries.popleft() for _ in range(min(ENDS_WRITTEN, len(entries)))]
                await self._end_some(some, state, why)

    async def _end_some(self, entries: Sequence[Entry], state: TaskState, why: ErrorOf) -> None:
        under_way: list[tuple[Entry, Task, Writing | None]] = []
        for number, entry in enumerate(entries, 1):
            if not entry.is_ending and self.backlog.find(entry.task.id) is entry:
                ended = _ending(entry, state, None, why(entry.task))
                under_way.append((entry, ended, self.save(entry, ended)))
            if number % ENDS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for number, (entry, ended, written) in enumerate(under_way, 1):
            try:
                await self._written(entry, ended, written)
            except CorralError as refusal:  # the next daemon finds the task as the store has it
                logger.warning("cannot write down the end of task %s: %s", ended.id, refusal)
            else:
                self._conclude(entry, ended)
            if number % ENDS_AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _written(
        self, entry: Entry, ended: Task, written: Writing | None, more: Sequence[Statement] = ()
    ) -> None:
        """Waits until an end is in the store, which may accept it later."""
        while written is not None:
            try:
                await written
                return
            except Overloaded as refusal:
                if self.is_closing:
                    raise
                logger.warning("cannot write down the end of task %s yet: %s", ended.id, refusal)
                await asyncio.sleep(RETRY_AFTER_S)
            except Exception:
                entry.is_ending = False  # it may end in another way
                raise
            written = self.save(entry, ended, *more)

    def _conclude(self, entry: Entry, ended: Task) -> None:
        """Removes an ended task from the backlog, and announces its end; one of the engine has ended once that has it."""
        self.backlog.remove(entry)
        entry.task = ended
        if not ended.durable:
            self.volatile.put(ended, entry.created)
        if ended.kind != "placed":  # the node that ran it counts it
            self.counts[ended.state] += 1
        for listener in self._end_listeners:
            listener(entry)
        waiters, self._end_waiters = self._end_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if entry.parts is not None:
            entry.parts.close()
        entry.ended.set()
        if entry.listeners:
            entry.notify()
        if not is_on_engine(ended.id):
            self.announce_end(ended)
        for observer in self._observers:
            observer.ended(ended)

    def announce_end(self, ended: Task) -> None:
        """Publishes the end of a task."""
        if self._is_published("task.ended", ended):
            self.publish("task.ended", ended, end_facts(ended))

    def accept(self, entry: Entry) -> None:
        """Acknowledges a new task to its caller, and announces it."""
        accepted, entry.accepted = entry.accepted, None
        if accepted is not None:
            accepted.set_result(None)
        if not is_on_engine(entry.task.id):  # the node that has accepted it says so
            self.announce(entry.task)

    def announce(self, task: Task) -> None:
        """Publishes that a task was accepted."""
        self.publish("task.queued", task, {"priority": task.priority, "parent": task.parent})

    def start(self, entry: Entry, started: Task) -> None:
        """Announces an attempt, which is in the store, or never will be; also acknowledges a task that begins at once."""
        if entry.accepted is not None:
            self.accept(entry)
        self.backlog.replace(entry, started)
        self.publish("task.started", started, {"delivery": started.delivery})
        for observer in self._observers:
            observer.started(started)
        if entry.listeners:
            entry.notify()

    def _is_published(self, what: str, task: Task) -> bool:
        """Returns True if an event about a task has a reader: that of one which goes with this daemon is not stored."""
        return _outlives_daemon(task) or self._bus.has_subscribers(what)

    def publish(self, what: str, task: Task, facts: Mapping[str, object], *, store: bool = True) -> None:
        """Publishes an event about a task."""
        if not self._is_published(what, task):
            return
        event = self._bus.publish(
            what,
            agent=task.agent,
            worker=task.worker,
            incarnation=None,
            store=store and _outlives_daemon(task),
            task=task.id,
            attempt=task.attempt,
            **facts,
        )
        if is_on_engine(task.id):
            self._cluster.runner.note_event(task.id, event)


def end_facts(ended: Task) -> dict[str, object]:
    """Returns what the event `task.ended` says beside which task it is."""
    return {
        "state": ended.state,
        "error": None if ended.error is None else ended.error.name,
        "reason": None if ended.error is None else ended.error.message[:REASON_CHARS],
        "duration_s": ended.duration_s,
        "tool_calls": ended.tool_calls,
        "tokens_used": ended.tokens_used,
        "cost_cents": ended.cost_cents,
    }


def _outlives_daemon(task: Task) -> bool:
    """Returns True if a task is in the store, or on the engine of the cluster."""
    return task.durable or is_on_engine(task.id)


def _ending(entry: Entry, state: TaskState, output: object, error: CorralError | None) -> Task:
    """Returns the record with which a task ends; nothing else ends it from now on."""
    entry.is_ending = True
    if entry.timer is not None:
        entry.cancel_timer()
    task, now = entry.task, entry.answered_at or rfc3339(time.time())
    return replace(
        task,
        state=state,
        output=output,
        error=None if error is None else bounded(Error.of(error), error_room(entry.size_bytes)),
        finished_at=now,
        duration_s=None if task.started_at is None else seconds_between(task.started_at, now),
        cpu_ms=round(entry.cpu_ns / 1e6, 3) if entry.cpu_ns else None,
        peak_memory_bytes=entry.peak_memory_bytes or None,
        reason="",
    )


def _is_match(task: Task, created: float, wanted: TaskListParams) -> bool:
    is_then = (wanted.since is None or created >= wanted.since) and (wanted.until is None or created < wanted.until)
    return is_then and not wanted.dead and is_match(task, wanted)  # it goes with the daemon: it is no dead letter


def seconds_between(earlier: str, later: str) -> float:
    """Returns the seconds from one moment of a record to another."""
    if earlier == later:
        return 0.0
    return round(_moment(later) - _moment(earlier), 3)


@lru_cache(64)
def _moment(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
