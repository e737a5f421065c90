"""Guarantees for each task: acknowledged when committed, queued, given to one worker at a time, ended once.

The facade of the room: lists, waits for and cancels tasks, and composes the objects that do the rest. A task
is committed before it is acknowledged, an attempt before it is dispatched, an end before it is announced. Writes
of one moment are committed together: a task that finds a free worker with its first attempt, the end of one with
the attempt of the next. `submission` takes tasks; which agent one is for is decided in `admission`, which task is next
in `queue`, on which worker in `dispatcher`; `executor` runs it, `record_writer` writes it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from msgspec.structs import replace

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.running.agents import Agents
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.shared import Shared
from corral.worker.contract.errors import Cancelled, NotFound, Overloaded, WorkerFailed
from corral.worker.contract.names import SEPARATOR, tenant_of
from corral.worker.contract.records import ENDED, Task, TaskKind
from corral.worker.control.params import TaskListParams

from ..rules.payload import words_bytes
from ..rules.retry_policy import Attempted, policy_of, retries
from .accounting import Accounting, Measured
from .admission import Admission, limits_of
from .attempt import given_up
from .backlog import Backlog, Entry, Progress
from .budgets import Budgets
from .buffer import PartBuffer
from .composite import CompositeRunner, PlacedRunner, WorkflowEngine
from .dispatcher import Dispatcher, Jobs
from .executor import Executor, Sessions, gone
from .record_writer import RETRY_AFTER_S, RecordWriter, TaskObserver
from .submission import Submission
from .table import Page, Records

HALT_S = 10.0
"""Seconds that an emergency stop waits for its ends to be written."""

logger = logging.getLogger(__name__)


class Tasks:
    """Accepts, runs and ends the tasks of one daemon."""

    def __init__(
        self,
        shared: Shared,
        agents: Agents,
        backlog: Backlog,
        hibernation: Hibernation,
        sessions: Sessions | None,
        observers: Sequence[TaskObserver],
        on_waiting: Callable[[str], None],
        success_rate: Callable[[str], float | None] = lambda _: None,
        limits: LimitEnforcer | None = None,
        on_usage: Callable[[str, int, float], None] = lambda *_: None,
        tracing: Tracing | None = None,
        tenants: TaskLimits | None = None,
        turns: CallTurns | None = None,
        measured: Measured | None = None,
        gathered: Gathered | None = None,
    ) -> None:
        self._store = shared.store
        self._turns = turns
        self._tracing = tracing or Tracing()
        self.success_rate = success_rate
        self._agents = agents
        self._backlog = backlog
        self._sessions = sessions
        self._workflows: WorkflowEngine | None = None
        self._writer = writer = RecordWriter(
            shared,
            backlog,
            on_end=self._on_end,
            is_closing=lambda: agents.draining,
            observers=observers,
            write_wait_s=self._write_wait_s,
        )
        self.records: Records = writer.records
        self._admission = Admission(agents, backlog, success_rate, tenants)
        self.candidate = self._admission.candidate
        self.budgets = Budgets(
            shared.store,
            shared.bus,
            lambda name: None if (agent := agents.agents.get(name)) is None else agent.spec,
            on_free=self._freed,
            tenants=tenants,
            gathered=gathered,
        )
        self.accounting = Accounting(writer, agents, self.budgets, on_usage, measured, gathered)
        self._executor = Executor(
            writer,
            agents,
            self.accounting,
            shared.checkpoints,
            sessions,
            observers,
            self._tracing,
            limits,
            self._admission.longest_s,
        )
        self.note_sample = self._executor.note_sample
        self._composites = CompositeRunner(writer, agents, self._executor, self.accounting)
        self.dispatcher = Dispatcher(
            writer, agents, self._executor, self._composites, self.budgets, hibernation, on_waiting
        )
        self._executor.bind(self.dispatcher)
        self._submission = Submission(
            writer,
            backlog,
            self._admission,
            self.accounting,
            self._executor,
            self._composites,
            self.dispatcher,
            self._tracing,
            turns,
        )
        self.submit = self._submission.submit
        self.note_refused = self._submission.note_refused
        self._is_in_cluster = False
        self._end_waiters: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()

    @property
    def refused(self) -> Mapping[str, int]:
        """Returns how many tasks found a full queue, by agent, or by the key of the queue of all agents."""
        return self._admission.refused

    def bind_jobs(self, runner: Callable[[RecordWriter, Executor], Jobs]) -> None:
        """Connects the runner of jobs, made with the writer of records and the executor; before the first task."""
        self.dispatcher.bind_jobs(runner(self._writer, self._executor))

    def bind(self, workflows: WorkflowEngine) -> None:
        """Connects the engine that executes the tasks of teams and workflows, which submits tasks itself."""
        self._workflows = workflows
        self._submission.bind(workflows)
        self._composites.bind(workflows)

    def bind_placed(self, runner: PlacedRunner) -> None:
        """Connects the cluster, which runs the tasks of the agents that it places."""
        self._admission.bind(runner.is_placed, runner.default_priority)
        self._composites.bind_placed(runner)
        self._is_in_cluster = True

    def _write_wait_s(self, agent: str) -> float:
        return 0.0 if self._turns is None else self._turns.write_wait_s(tenant_of(agent))

    def _freed(self, name: str) -> None:
        """Dispatches the tasks of an agent, or of a tenant with a slash, that has used up its budget no more."""
        if name.endswith(SEPARATOR):
            self.dispatcher.dispatch_all(name[:-1])
        else:
            self.dispatcher.dispatch(name)

    # -- from an earlier daemon

    async def load(self, recover: Callable[[Collection[str]], Awaitable[None]] | None = None) -> None:
        """Loads the tasks that an earlier daemon left: queued ones wait on, begun ones follow retry_on."""
        await self.budgets.load()
        self._writer.counts |= await self.records.counts(is_in_cluster=self._is_in_cluster)
        now, here = time.time(), self._loop.time()
        entries: list[Entry] = []
        for task, created in await self.records.unfinished():
            agent = self._agents.agents.get(task.agent) if task.kind == "task" else None
            due = None
            if task.scheduled_at is not None:
                due = datetime.fromisoformat(task.scheduled_at).timestamp()
            since = here - max(0.0, now - max(created, due or created))
            held_to = limits_of(task, agent, self._admission.longest_s(task.agent))
            entry = Entry(task, created, held_to, since, words_bytes(task), due)
            self._backlog.add(entry)
            self._executor.watch(entry)
            entries.append(entry)
        uncounted = await self.accounting.load(self._store)
        if recover is not None:
            await recover(uncounted)
        for entry in entries:
            await self._resume(entry)

    async def _resume(self, entry: Entry) -> None:
        task, executor = entry.task, self._executor
        if self._agents.emergency_stop is not None:
            halted = Cancelled(f'cannot finish task "{task.id}": an emergency stop')
            executor.keep(executor.end(entry, "cancelled", halted))
            return
        if task.parent is not None:
            above = self._backlog.find(task.parent)
            if above is None or above.task.kind == "task":
                # The task that delegated it begins again, and delegates again.
                reason = "the daemon died while another task waited for it"
                orphaned = Cancelled(f'cannot finish task "{task.id}": {reason}', reason=reason)
                executor.keep(executor.end(entry, "cancelled", orphaned))
                return
            self.accounting.add_child(entry)
        if task.state == "running" and task.kind in ("task", "job"):
            agent = self._agents.agents.get(task.agent)
            ended = Attempted(died=True, error=WorkerFailed.__name__)
            is_job = task.kind == "job"  # whose run is never repeated for its task
            if is_job or agent is None or not retries(policy_of(agent.spec.tasks, task.retry), task.attempt, ended):
                died = WorkerFailed("the daemon died while it ran", worker=task.worker, result="daemon-gone")
                error = gone(task) if agent is None else given_up(task, died)
                executor.keep(executor.end(entry, "failed", error))
                return
            again = replace(task, state="queued", worker=None, reason="the daemon died")
            self._backlog.replace(entry, again)
        elif task.state == "queued" and task.started_at is None and task.after:
            await self._submission.block(entry, is_new=False)
        self.dispatcher.settle(entry)

    def boot(self) -> None:
        """Starts the tasks of teams and workflows: by now it is known which agents are wanted for their steps."""
        self.dispatcher.boot()

    async def close(self) -> None:
        """Waits for attempts that are still being written; their workers are gone."""
        await asyncio.gather(self._composites.close(), self._executor.close())
        self.budgets.close()

    # -- records

    def totals(self) -> dict[str, int]:
        """Returns the number of tasks by state; a timeout counts as failed. Those of placed agents count where they run."""
        counts, backlog = self._writer.counts, self._backlog
        return {
            "queued": backlog.totals["queued"] - backlog.placed["queued"],
            "running": backlog.totals["running"] - backlog.placed["running"],
            "succeeded": counts["succeeded"],
            "failed": counts["failed"] + counts["timeout"],
        }

    def queued(self, agent: str) -> int:
        """Returns the number of tasks that wait for a worker of an agent."""
        return self._backlog.queued(agent)

    def running(self, agent: str) -> int:
        """Returns the number of tasks of an agent that run."""
        return self._backlog.running(agent)

    def kind(self, name: str) -> TaskKind:
        """Returns the kind of a task for this name: "team" or "workflow" where it is that of one, else "task"."""
        return self._admission.kind(name)

    def find(self, task_id: str) -> Task | None:
        """Returns the record of a task that has not ended."""
        return self._writer.find(task_id)

    async def show(self, task_id: str) -> Task:
        """Returns the record of a task."""
        return await self._writer.show(task_id)

    async def list(self, wanted: TaskListParams, knows: Callable[[str], bool] | None = None) -> Page:
        """Returns records of agents that pass `knows`, newest first; fewer than the limit if one message has no room."""
        return await self._writer.list(wanted, knows)

    async def wait(self, task_id: str, *, listener: Progress | None = None) -> Task:
        """Returns the record of a task when it has ended; `listener` is called with its record at each change."""
        entry = self._backlog.find(task_id)
        if entry is None:
            return await self.show(task_id)
        if listener is not None:
            entry.listeners.append(listener)
            if entry.task.reason or entry.task.state == "running":
                listener(entry.task)
        try:
            await entry.ended.wait()
        finally:
            if listener is not None:
                entry.listeners.remove(listener)
        return _ended(entry)

    def parts(self, task_id: str) -> PartBuffer | None:
        """Returns what a task streams; None for one that ended a while ago."""
        entry, accounting = self._backlog.find(task_id), self.accounting
        return accounting.part_buffers.of_ended(task_id) if entry is None else accounting.parts(entry)

    async def next_end(self) -> None:
        """Waits until any task ends, so that a full queue may have room."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._end_waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._end_waiters:
                self._end_waiters.remove(waiter)

    # -- ends

    async def cancel(self, task_id: str, reason: str = "cancelled on request") -> Task:
        """Cancels a task and those that it delegated; one that has ended stays as it is."""
        entry = self._backlog.find(task_id)
        if entry is None:
            return await self.show(task_id)
        error = Cancelled(f'cannot finish task "{task_id}": {reason}', reason=reason)
        self._executor.stop(entry, error)
        await entry.ended.wait()
        return _ended(entry)

    def abandon(self, agent: str) -> None:
        """Ends the tasks that still wait for an agent that was removed."""
        self.dispatcher.abandon(agent)

    async def cancel_all(self, tenant: str) -> None:
        """Cancels every task of a tenant, and waits until their ends are written."""
        entries = [entry for entry in self._backlog if tenant_of(entry.task.agent) == tenant]
        self._executor.stop_each(entries, f"the tenant {tenant} is removed")
        await self.halted([entry.task.id for entry in entries])
        self.budgets.forget(tenant)

    def halt(self) -> tuple[str, ...]:
        """Cancels every task, for which `halted` then waits, and returns their ids; none of them begins after this."""
        entries = tuple(self._backlog)
        self._backlog.empty_queues()
        self._executor.stop_each(entries, "an emergency stop")
        return tuple(entry.task.id for entry in entries)

    async def halted(self, task_ids: Iterable[str]) -> None:
        """Waits until the ends of tasks are written."""
        try:
            async with asyncio.timeout(HALT_S):
                for entry in filter(None, map(self._backlog.find, task_ids)):
                    await entry.ended.wait()
        except TimeoutError:
            text = "cannot write down the ends of all tasks yet: the store takes nothing now"
            raise Overloaded(text, retry_after_s=RETRY_AFTER_S) from None

    def _on_end(self, entry: Entry) -> None:
        """Frees the tasks that depend on one that has ended, and is in the store by now."""
        task = entry.task
        self._admission.note_end(task.agent)
        self.accounting.ended(task)
        if task.parent is not None:
            self.accounting.remove_child(entry)
        dependencies = self.dispatcher.dependencies
        if entry.blockers or entry.due is not None:
            dependencies.remove(entry)
        if task.id in dependencies.dependants:
            dependencies.resolve(task)
        if task.children:
            self._executor.stop_children(task, "the task that delegated it has ended")
        if task.session is not None:
            if self._sessions is not None:
                self._sessions.ended(task)
            self.dispatcher.dispatch(task.agent)  # the next of the session may go on
        if task.kind in ("team", "workflow") and self._workflows is not None:
            self._workflows.note_end(task)
        if self._end_waiters:
            waiters, self._end_waiters = self._end_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def _ended(entry: Entry) -> Task:
    """Returns the record of a task that is over."""
    task = entry.task
    if task.state not in ENDED:
        raise NotFound(f'cannot find task "{task.id}": it was not taken', task=task.id)
    return task
