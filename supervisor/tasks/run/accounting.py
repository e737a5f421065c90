"""Accounts for tasks: progress, tokens, cost, tool calls, delegated tasks.

Enforces a task's limits whatever its worker does: stops a task that has used more than it may, refuses the tool call or
the delegation that would exceed a limit. `budgets` holds back agents. Starts and ends nothing else; must not know how a
task is queued or executed.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Statement, Store, number_of
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Cancelled, Conflict, InvalidParams, NotFound, ResourceLimitExceeded
from corral.worker.contract.records import Task

from ..rules.availability import wanted_workers
from ..rules.boundaries import Groups, can_ever_run, check_child, overspent
from ..rules.queue import preferred
from .backlog import Entry
from .budgets import Budgets
from .buffer import PartBuffer, PartBuffers
from .record_writer import RecordWriter

MESSAGE_CHARS = 1_000
"""Number of characters of a progress message that are kept."""

PROGRESS_S = 1.0
"""Seconds between two reports of progress that are stored; all others are published alone."""

PROGRESS_KEPT = 1_000
"""Number of reports of progress of one task that are stored."""

SAVE_USE = (
    "INSERT INTO task_use (task, tokens, cost_cents, estimated) VALUES (?, ?, ?, ?) ON CONFLICT (task) DO UPDATE"
    " SET tokens = excluded.tokens, cost_cents = excluded.cost_cents, estimated = excluded.estimated"
)


class Measured:
    """Knows the usage of calls of models that belong to tasks; this one knows of none."""

    def settle(self) -> None:
        """Takes in at once what was measured until now."""

    async def settled(self, task: str) -> None:
        """Returns when no call of a task is under way, or after a moment."""

    async def recover(self, tasks: Collection[str]) -> None:
        """Counts what an earlier daemon has not counted any more, also of these tasks, which have ended."""


class Accounting:
    """Counts what running tasks use and delegate, against their limits."""

    def __init__(self, writer: RecordWriter, agents: Agents, budgets: Budgets, gathered: Gathered) -> None:
        self._writer = writer
        self.backlog = writer.backlog
        self._agents = agents
        self.budgets = budgets
        self._loop = asyncio.get_running_loop()
        self.part_buffers = PartBuffers()
        self._usage_listeners: list[Callable[[str, int, float], None]] = []
        self._measured = Measured()
        self._gathered = gathered
        gathered.add(self._taken)
        self._unsaved: set[str] = set()  # tasks with usage that is not written
        self._saved: set[str] = set()  # tasks with usage in the store
        writer.subscribe_to_ends(self._ended)

    def subscribe(self, listener: Callable[[str, int, float], None]) -> None:
        """Calls `listener` with the agent, tokens and cents of each use of a task that runs here."""
        self._usage_listeners.append(listener)

    def measure_with(self, measured: Measured) -> None:
        """Counts what is measured of calls of models, too; before anything is loaded."""
        self._measured = measured

    async def load(self, store: Store) -> None:
        """Loads what the unfinished tasks of an earlier daemon have used, and has the calls counted that it left."""
        ended: set[str] = set()
        rows = await store.read("SELECT task, tokens, cost_cents, estimated FROM task_use")
        for name, tokens, cents, estimated in rows:
            task_id = str(name)
            self._saved.add(task_id)
            entry = self.backlog.find(task_id)
            if entry is None:
                ended.add(task_id)
                self._save_soon(task_id)
            elif isinstance(cents, float):
                entry.task = replace(
                    entry.task,
                    tokens_used=max(entry.task.tokens_used, number_of(tokens)),
                    cost_cents=max(entry.task.cost_cents, cents),
                    tokens_estimated=max(entry.task.tokens_estimated, number_of(estimated)),
                )
        await self._measured.recover(ended)

    def _ended(self, entry: Entry) -> None:
        task = entry.task
        if task.id in self._saved or task.id in self._unsaved:
            self._save_soon(task.id)
        self.remove_child(entry)

    def _save_soon(self, task_id: str) -> None:
        self._unsaved.add(task_id)
        self._gathered.soon()

    def _taken(self) -> Iterator[Statement]:
        unsaved, self._unsaved = self._unsaved, set()
        for task_id in unsaved:
            entry = self.backlog.find(task_id)
            if entry is not None:
                self._saved.add(task_id)
                task = entry.task
                values = (task_id, task.tokens_used, task.cost_cents, task.tokens_estimated)
                yield SAVE_USE, values
            elif task_id in self._saved:
                self._saved.discard(task_id)
                yield "DELETE FROM task_use WHERE task = ?", (task_id,)

    def task_of(self, supervisor: WorkerSupervisor, task_id: str | None) -> Entry | None:
        """Returns the running task of a worker that a message is about; None where it is about none."""
        if task_id is None:
            if len(supervisor.running) != 1:
                return None
            task_id = next(iter(supervisor.running))
        entry = self.backlog.find(task_id)
        if entry is None or task_id not in supervisor.running:
            raise NotFound(f'cannot find task "{task_id}" on worker "{supervisor.id}"', task=task_id)
        return entry

    def record_progress(self, entry: Entry, fraction: float, total: float | None, message: str) -> None:
        """Records and publishes how far a task has come."""
        self.record_heartbeat(entry)
        message = message[:MESSAGE_CHARS]
        entry.task = replace(entry.task, progress=fraction, progress_total=total, progress_message=message)
        now = self._loop.time()
        is_kept = now >= entry.progress_due and entry.progress_kept < PROGRESS_KEPT
        if is_kept:
            entry.progress_due = now + PROGRESS_S
            entry.progress_kept += 1
        self._writer.publish(
            "task.progress",
            entry.task,
            {
                "progress": fraction,
                "total": total,
                "message": message,
                "memory_bytes": None if entry.meter is None else entry.meter.most_bytes or None,
            },
            store=is_kept,
        )
        entry.notify()

    def record_part(self, entry: Entry, part: object, size: int) -> None:
        """Keeps a part of `size` bytes that a task streams for its readers."""
        self.record_heartbeat(entry)
        (entry.parts or self.parts(entry)).put(part, size)

    def parts(self, entry: Entry) -> PartBuffer:
        """Returns the buffer of what a task streams."""
        if entry.parts is None:
            task = entry.task
            entry.parts = PartBuffer(task.id, self.part_buffers)
            entry.parts.begin(task.attempt, task.delivery)
        return entry.parts

    def record_heartbeat(self, entry: Entry) -> None:
        """Restarts the stall_timeout of a task, whose handler has shown a sign of life."""
        if entry.attempt is not None:
            entry.attempt.beat()

    def record_usage(self, entry: Entry, tokens: int, cost_cents: float) -> None:
        """Adds to the usage of a task what its agent reports; nothing from its first measured call on, whose usage that is."""
        if not entry.is_measured:
            self.record_measured(entry, tokens, cost_cents)

    def settle(self, entry: Entry) -> None:
        """Takes in what was measured of a task that is about to end."""
        if entry.is_measured:
            self._measured.settle()

    async def settled(self, entry: Entry) -> None:
        """Takes in what was measured of a task that has its answer; waits a moment for calls that are being ended."""
        self.settle(entry)
        if entry.is_measured:
            await self._measured.settled(entry.task.id)

    def record_measured(self, entry: Entry, tokens: int, cost_cents: float, *, estimated: int = 0) -> None:
        """Adds to the usage of a task, including its estimated tokens; stops the task, or one that delegated it, when that exceeds a limit."""
        if not tokens and not cost_cents:
            return
        task = entry.task
        entry.task = replace(
            task,
            tokens_used=task.tokens_used + tokens,
            cost_cents=task.cost_cents + cost_cents,
            tokens_estimated=task.tokens_estimated + estimated,
        )
        if task.durable:
            self._save_soon(task.id)
        if task.kind != "placed":  # the node that runs it counts what its agent uses
            self.budgets.charge(task.agent, tokens, cost_cents)
            for listener in self._usage_listeners:
                listener(task.agent, tokens, cost_cents)
        each: Entry | None = entry
        while each is not None:
            if each is not entry:
                each.children_tokens += tokens
                each.children_cost_cents += cost_cents
            _stop_overspent(each)
            each = self._parent(each)

    def count_tool_call(self, entry: Entry) -> None:
        """Counts a tool call of a task."""
        allowed = entry.limits.max_tool_calls
        if entry.task.tool_calls >= allowed:
            words = f'cannot call a tool in task "{entry.task.id}": it may make {allowed} calls'
            raise ResourceLimitExceeded(words, limit="max_tool_calls", value=allowed, task=entry.task.id)
        entry.task = replace(entry.task, tool_calls=entry.task.tool_calls + 1)

    def check_is_no_step(self, key: str) -> None:
        """Refuses a key under which a task of a team or workflow finds one of its own parts."""
        above = self._writer.find(key.partition("/")[0])
        if above is not None and above.kind in ("team", "workflow", "job"):
            words = f'cannot take the task: idempotency_key "{key[:50]}" is for the parts of task "{above.id}"'
            raise InvalidParams(words, key="idempotency_key", task=above.id)

    def check_can_run(self, child: Task, parent: Task) -> None:
        """Returns if a child, not yet queued, could begin while its parent waits for it."""
        find, waits = self._writer.find, self._waited_for
        if not can_ever_run(child, asking=parent.id, find=find, waits=waits, obstacles=self._obstacles):
            words = f'cannot delegate to "{child.agent}": it could begin only after this task, which waits for it'
            raise Conflict(words, agent=child.agent, task=parent.id)

    def _waited_for(self, task_id: str) -> list[str]:
        """Returns the tasks that a running task waits for: one alone of those that wait for any worker of the same agent."""
        entry = self.backlog.find(task_id)
        unlike: dict[tuple[bool, str], str] = {}
        for each in () if entry is None else entry.waits:
            child = self.backlog.find(each)
            is_alike = child is not None and child.takes_any_place
            unlike[is_alike, child.task.agent if child is not None and is_alike else each] = each
        return list(unlike.values())

    def _obstacles(self, task: Task) -> Groups:
        """Returns the groups of tasks that a queued task waits for: one of each group has to end."""
        entry = self.backlog.find(task.id)
        if entry is not None and entry.is_begun:
            return []  # it has its place, and its attempt is being written
        groups = [[each] for each in task.after]
        agent = None if task.kind != "task" else self._agents.agents.get(task.agent)
        if agent is None:
            return groups
        supervisors = agent.supervisors
        if task.session is not None:
            running = [each for supervisor in supervisors for each in supervisor.running]
            groups.append([each for each in running if self._is_in_session(each, task.session)])
        if task.sticky_key is not None:
            place = preferred(task.sticky_key, wanted_workers(agent))
            supervisors = [supervisor for supervisor in supervisors if place in (None, supervisor.id)]
        capacity = agent.spec.resources.max_concurrent_requests
        if not any(each.takes_tasks and len(each.running) < capacity for each in supervisors):
            groups.append([each for supervisor in supervisors for each in supervisor.running])
        return groups

    def _is_in_session(self, task_id: str, session: str) -> bool:
        task = self._writer.find(task_id)
        return task is not None and task.session == session

    def check_may_delegate(self, parent: Task, count: int = 1) -> Task:
        """Returns the record of a running task that may submit `count` children, with the usage of all tasks below it."""
        above = self.backlog.find(parent.id)
        if above is None or above.is_ending or (above.stop is not None and above.stop.done()):
            raise Cancelled(f'cannot delegate for task "{parent.id}": it has ended', task=parent.id)
        owner = self._agents.agents.get(parent.agent)
        section = self._agents.registry.config.defaults.tasks if owner is None else owner.spec.tasks
        check_child(above.task, section, len(above.task.children), count)
        return replace(
            above.task,
            tokens_used=above.task.tokens_used + above.children_tokens,
            cost_cents=above.task.cost_cents + above.children_cost_cents,
        )

    def add_child(self, entry: Entry) -> None:
        """Enters a child with its parent, before anything else can happen: no circle of waits closes unseen."""
        above = self._parent(entry)
        if above is not None and entry.task.id not in above.waits:
            above.waits.append(entry.task.id)
            if entry.task.id not in above.task.children:
                above.task = replace(above.task, children=[*above.task.children, entry.task.id])

    def remove_child(self, entry: Entry, *, is_refused: bool = False) -> None:
        """Ends a parent's wait for a child; removes a refused one from the parent's record as well."""
        above = self._parent(entry)
        if above is not None and entry.task.id in above.waits:
            above.waits.remove(entry.task.id)
            if is_refused:
                children = [each for each in above.task.children if each != entry.task.id]
                above.task = replace(above.task, children=children)

    def restore_children(self, parent: str, children: Sequence[str]) -> None:
        """Enters the tasks that a running task delegated under an earlier daemon; some may have ended."""
        above = self.backlog.find(parent)
        if above is not None:
            merged = list(dict.fromkeys([*children, *above.task.children]))
            above.task = replace(above.task, children=merged)

    def restore_usage(self, task_id: str, tokens: int, cost_cents: float) -> None:
        """Enters the usage below a running task under an earlier daemon; stops the task if that exceeds its limits."""
        above = self.backlog.find(task_id)
        if above is None:
            return
        above.children_tokens = max(above.children_tokens, tokens)
        above.children_cost_cents = max(above.children_cost_cents, cost_cents)
        _stop_overspent(above)

    def _parent(self, entry: Entry) -> Entry | None:
        parent = entry.task.parent
        return None if parent is None else self.backlog.find(parent)


def _stop_overspent(entry: Entry) -> None:
    over = overspent(entry.task, entry.children_tokens, entry.children_cost_cents)
    if over is not None and entry.stop is not None and not entry.stop.done():
        entry.stop.set_result(over)
