"""Guarantees for each task: acknowledged when committed, queued, given to one worker at a time, ended once.

The facade of the room: submits, lists, waits for and cancels tasks, and composes the objects that do the rest. A task
is committed before it is acknowledged, an attempt before it is dispatched, an end before it is announced. Writes
of one moment are committed together: a task that finds a free worker with its first attempt, the end of one with
the attempt of the next. Which agent a task is for is decided in `admission`, which task is next in `queue`, on which
worker in `dispatcher`; `executor` runs it, `record_writer` writes it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from weakref import WeakValueDictionary

from msgspec.structs import replace

from ...worker.contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    Corrupted,
    NotFound,
    Overloaded,
    PermissionDenied,
    ShuttingDown,
    WorkerFailed,
)
from ...worker.contract.names import SEPARATOR, qualified, tenant_of
from ...worker.contract.records import ENDED, Task, TaskKind, TaskParams
from ...worker.control.params import TaskListParams
from ..agents.agent import Agent
from ..agents.agents import Agents
from ..hibernation.hibernation import Hibernation
from ..quotas.task_limits import TaskLimits
from ..quotas.turns import CallTurns
from ..store.batch import Writing
from ..streaming.buffer import PartBuffer
from ..supervision.limit_enforcer import LimitEnforcer
from ..supervision.shared import Shared
from ..supervision.worker_supervisor import WorkerSupervisor
from ..telemetry.tracing import Tracing
from .accounting import Accounting, Budgets, Measured
from .admission import Admission, limits_of
from .attempt import given_up
from .backlog import Backlog, Entry, Origin, Progress, dependency_failed, waiting_reason
from .boundaries import normalised, within
from .composite import CompositeRunner, PlacedRunner, WorkflowEngine
from .dispatcher import Dispatcher, Jobs
from .executor import Executor, Sessions, gone
from .payload import words_bytes
from .record_writer import RETRY_AFTER_S, RecordWriter, TaskObserver
from .retry_policy import Attempted, policy_of, retries
from .table import Page, Records

HALT_S = 10.0
"""Seconds that an emergency stop waits for its ends to be written."""

ON_ENGINE = "x"
"""The first character of the id of a task that the engine of a cluster keeps."""

logger = logging.getLogger(__name__)


class Tasks:
    """Accepts, runs and ends the tasks of one daemon.

    Args:
        shared: the store, the stream of events, the checkpoints.
        agents: their workers run the tasks.
        backlog: the tasks that have not ended, empty yet.
        hibernation: wakes agents for tasks.
        sessions: the state of sessions; None: there are none.
        observers: are called with each start of an attempt and each end of a task.
        on_waiting: called with the name of an agent for which tasks wait, after each attempt to dispatch them.
        success_rate: returns the share of its last tasks in which an agent, team or workflow succeeded, None without any.
        limits: has the samples of what workers use; None: tasks are not measured.
        on_usage: called with the agent, the tokens and the cents of each usage of a task.
        tracing: passes the context of traces on; None: of callers alone.
        tenants: holds tenants to their limits; None: there are no tenants.
        turns: bounds how many tasks of a tenant are written at once; None: nothing does.
        measured: has what the calls of models of tasks use; None: nothing is measured.
    """

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
    ) -> None:
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
        )
        self.accounting = Accounting(writer, agents, self.budgets, on_usage, measured)
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
            writer,
            agents,
            self._executor,
            self._composites,
            self.budgets,
            hibernation,
            on_waiting,
        )
        self._executor.bind(self.dispatcher)
        self._arriving = WeakValueDictionary[str, asyncio.Lock]()
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
        self._composites.bind(workflows)

    def bind_placed(self, runner: PlacedRunner) -> None:
        """Connects the cluster, which runs the tasks of the agents that it places."""
        self._admission.bind(runner.is_placed)
        self._composites.bind_placed(runner)

    def _freed(self, name: str) -> None:
        """Dispatches the tasks of an agent, or of a tenant with a slash, that has used up its budget no more."""
        if name.endswith(SEPARATOR):
            self.dispatcher.dispatch_all(name[:-1])
        else:
            self.dispatcher.dispatch(name)

    # -- from an earlier daemon

    async def load(self) -> None:
        """Loads the tasks that an earlier daemon left: queued ones wait on, begun ones follow retry_on."""
        await self.budgets.load()
        self._writer.counts |= await self.records.counts()
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
            if (
                is_job
                or agent is None
                or not retries(policy_of(agent.spec.tasks, task.retry), task.attempt, ended)
            ):
                died = WorkerFailed(
                    "the daemon died while it ran", worker=task.worker, result="daemon-gone"
                )
                error = gone(task) if agent is None else given_up(task, died)
                executor.keep(executor.end(entry, "failed", error))
                return
            again = replace(task, state="queued", worker=None, reason="the daemon died")
            self._backlog.replace(entry, again)
        elif task.state == "queued" and task.started_at is None and task.after:
            await self._block(entry, is_new=False)
        self.dispatcher.settle(entry)

    def boot(self) -> None:
        """Starts the tasks of teams and workflows: by now it is known which agents are wanted for their steps."""
        self.dispatcher.boot()

    async def close(self) -> None:
        """Waits for attempts that are still being written; their workers are gone."""
        await asyncio.gather(self._composites.close(), self._executor.close())
        self.budgets.close()

    # -- submission

    async def submit(
        self,
        params: TaskParams,
        *,
        parent: Task | None = None,
        step: str = "",
        schedule: str | None = None,
        retry_of: str | None = None,
        only: WorkerSupervisor | None = None,
        tenant: str = "",
        task_id: str = "",
        deliveries: int = 0,
    ) -> Task:
        """Returns the acknowledged task as it was accepted: if it is durable, it is in the store.

        With an idempotency key that was given before it is the task of then, in whatever state it is by now.
        Of a task with a `parent` the tenant is that of the parent, else `tenant`: it reaches what is the tenant's alone.
        One that the cluster has accepted has its `task_id` already, and has begun `deliveries` times elsewhere.
        With `only` it begins on that worker at once, whatever else that runs, and on no other one.

        Raises:
            InvalidParams: a param is malformed or contradicts another; `data` has `key`.
            NotFound: no such agent, none with the capabilities, or no task of those in `after`.
            Conflict: the agent is stopped, or its protocol has no tasks; the key was given to another task.
            Overloaded: the queue is full; `data` has `retry_after_s`.
            ShuttingDown: the daemon is stopping.
        """
        tenant = tenant if parent is None else tenant_of(parent.agent)
        params, kind, able = self._admission.check(params, tenant, is_taken=bool(task_id))
        if parent is not None:
            able = self._of_team(parent, params, able)
        if params.traceparent is None:
            tracing = self._tracing
            above = tracing.of_root() if parent is None else tracing.of_attempt(parent)
            params = params if above is None else replace(params, traceparent=above)
        origin = Origin(parent, step, schedule, retry_of, task_id, deliveries)
        take = partial(self._take, params, kind, able, origin, only)
        key = params.idempotency_key
        whose = tenant_of(params.agent or qualified("", tenant))
        if key is None:
            return await self._paced(whose, take)
        if not step:
            self.accounting.check_is_no_step(key)
        lock = self._arriving.setdefault(key, asyncio.Lock())
        async with lock:  # of two that come at once the second sees the first
            names = [agent.name for agent in able] or [str(params.agent)]
            known = await self._writer.known(names, key)
            return (
                await self._paced(whose, take)
                if known is None
                else await self._known(known, params, parent)
            )

    def _write_wait_s(self, agent: str) -> float:
        return 0.0 if self._turns is None else self._turns.write_wait_s(tenant_of(agent))

    async def _paced(self, tenant: str, take: Callable[[], Awaitable[Task]]) -> Task:
        """Takes a task at once, or while several tenants call, when few others of its tenant are being written."""
        if self._turns is None or not self._turns.is_contended:
            return await take()
        async with self._turns.submitting(tenant):
            return await take()

    async def note_refused(
        self, params: TaskParams, error: CorralError, *, parent: Task, step: str
    ) -> Task:
        """Returns the record of a part of a task that was refused: it has failed, under every later daemon too.

        Raises:
            Conflict: its key was given to another task.
            CorralError: there is no room for it, or the daemon is stopping.
        """
        self._admission.check_open()
        params = normalised(params)
        entry = self._admission.entry(
            params.agent or "",  # no agent has the capability
            params,
            within(params.boundaries, self.accounting.check_may_delegate(parent)),
            kind=self._admission.kind(params.agent),
            parent=parent,
            step=step,
        )
        self.accounting.add_child(entry)
        try:
            await self._writer.end(entry, "failed", error=error)
        except BaseException:
            self.accounting.remove_child(entry, is_refused=True)
            raise
        return entry.task

    def _of_team(self, parent: Task, params: TaskParams, able: list[Agent]) -> list[Agent]:
        """Returns those of the agents to which the parent may delegate: the members, where it leads a team.

        Raises:
            PermissionDenied: it leads one, and the child is for no member of it.
        """
        members = None if self._workflows is None else self._workflows.members_for(parent)
        if members is None or params.agent in members:
            return able
        found = [agent for agent in able if agent.name in members]
        if not found:
            asked = params.agent or params.capability or ""
            raise PermissionDenied(
                f'cannot delegate to "{asked}": task "{parent.id}" leads a team of {", ".join(members)}',
                agent=params.agent,
                task=parent.id,
                members=list(members),
            )
        return found

    async def _known(self, known: Entry | Task, params: TaskParams, parent: Task | None) -> Task:
        """Returns the task that was given the key before.

        Raises:
            Conflict: that is another task, or one that would wait for itself.
        """
        if parent is not None and self._is_above(known, parent):
            raise Conflict(
                f'cannot delegate with idempotency_key "{params.idempotency_key}": it is that of task'
                f' "{parent.id}" itself, or of one that waits for it',
                key="idempotency_key",
                task=parent.id,
            )
        if isinstance(known, Entry):
            if known.accepted is not None:
                await asyncio.shield(known.accepted)
            if parent is not None and known.task.parent == parent.id:
                self.accounting.add_child(known)
        task = known.task if isinstance(known, Entry) else known
        if (task.objective, task.input) != (params.objective, params.input):
            raise Conflict(
                f'cannot take the task: its idempotency_key "{params.idempotency_key}" is that of task'
                f' "{task.id}", which is another one',
                key="idempotency_key",
                task=task.id,
            )
        return task

    def _is_above(self, known: Entry | Task, task: Task | None) -> bool:
        while task is not None:
            if isinstance(known, Entry) and known.task.id == task.id:
                return True
            task = None if task.parent is None else self.find(task.parent)
        return False

    async def _take(
        self,
        params: TaskParams,
        kind: TaskKind,
        able: list[Agent],
        origin: Origin,
        only: WorkerSupervisor | None,
    ) -> Task:
        parent = origin.parent
        if kind == "task":
            name = self._admission.choose(able, params)
        else:
            assert params.agent is not None, "the kind is that of a name"
            name = params.agent
            if kind not in ("job", "placed"):
                params = self._composites.checked(params, name, kind)
        self._admission.check_input(name, params.input)
        self._admission.check_tenant(name, is_step=bool(origin.step))
        boundaries = params.boundaries
        if parent is not None:
            boundaries = within(boundaries, self.accounting.check_may_delegate(parent))
        entry = self._admission.entry(
            name,
            params,
            boundaries,
            kind=kind,
            parent=parent,
            step=origin.step,
            schedule=origin.schedule,
            retry_of=origin.retry_of,
            origin=origin,
        )
        if not origin.step:
            self._admission.note_taken(name)
        entry.only = only
        if entry.task.after:
            await self._block(entry, is_new=True)
        try:
            if entry.task.after:  # it took a while
                self._admission.check_open()
                if parent is not None:
                    self.accounting.check_may_delegate(parent)
            if parent is not None:
                self.accounting.check_can_run(entry.task, parent)
        except CorralError:
            self.dispatcher.dependencies.remove(entry)  # else it would begin when they have ended
            raise
        if (entry.blockers or entry.due is not None) and (reason := waiting_reason(entry)):
            entry.task = replace(entry.task, reason=reason)
        taken = entry.task
        self._backlog.add(entry)
        self._executor.watch(entry)
        if parent is not None:
            self.accounting.add_child(entry)
        self._accept(entry)
        if entry.accepted is not None:
            # A caller that hangs up meanwhile does not take back a task that the store may have already.
            await asyncio.shield(entry.accepted)
        return taken

    async def _block(self, entry: Entry, *, is_new: bool) -> None:
        """Finds the tasks in `after` that have not ended; from then on their ends are noticed.

        Raises:
            NotFound: a new task names one that there is not.
            Conflict: a durable one would wait for one that is not, which the next daemon does not know.
        """
        task = entry.task
        ended: dict[str, Task | None] = {}
        # Of a placed agent, those on the engine are awaited by the cluster.
        after = [e for e in task.after if task.kind != "placed" or not e.startswith(ON_ENGINE)]
        while True:
            open_ones = {each for each in after if each not in ended}
            unseen = [each for each in open_ones if self._backlog.find(each) is None]
            if not unseen:
                break
            for each in unseen:
                ended[each] = await self._known_end(each, is_new=is_new)
        for each in after if task.durable and is_new else ():
            found = self._writer.find(each) or self._writer.volatile.find(each)
            if found is not None and not found.durable:
                raise Conflict(
                    f'cannot let a durable task wait for task "{each}": that is not durable',
                    key="after",
                    task=each,
                )
        for each, found in ended.items():
            if found is None or found.state != "succeeded":
                state = "unknown" if found is None else found.state
                entry.dependency_error = dependency_failed(task.id, each, state)
                return
            if found.finished_at is not None:  # since then it has waited for a worker
                freed = datetime.fromisoformat(found.finished_at).timestamp()
                entry.since = max(entry.since, self._loop.time() - max(0.0, time.time() - freed))
        entry.blockers = open_ones
        self.dispatcher.dependencies.add(entry)

    async def _known_end(self, task_id: str, *, is_new: bool) -> Task | None:
        """Returns the record of a task that has ended; None for one that is not known any more."""
        try:
            return await self._writer.show(task_id)
        except NotFound:
            if is_new:
                raise
        except Corrupted as error:
            logger.warning("%s", error)
        return None

    def _accept(self, entry: Entry) -> None:
        """Writes a new task; one that can begin at once is written with its first attempt."""
        if not entry.task.durable:
            self._writer.accept(entry)
            self.dispatcher.settle(entry)
            return
        entry.accepted = self._loop.create_future()
        must_wait = entry.dependency_error is not None or (
            (entry.blockers or entry.due is not None) and self.dispatcher.dependencies.holds(entry)
        )
        if not must_wait and self.dispatcher.begin_at_once(entry):
            return
        written = self._writer.save(entry, entry.task)
        assert written is not None, "a durable task is written"
        written.add_done_callback(partial(self._stored, entry))

    def _stored(self, entry: Entry, written: Writing) -> None:
        error = None if written.cancelled() else written.exception()
        if written.cancelled() or error is not None:
            self.dispatcher.dependencies.remove(entry)
            refusal = error or ShuttingDown("cannot take the task: the store is closed")
            self._executor.refuse(entry, refusal)
        else:
            self._writer.accept(entry)
            self.dispatcher.settle(entry)

    # -- records

    def totals(self) -> dict[str, int]:
        """Returns the number of tasks by state; a timeout counts as failed."""
        counts = self._writer.counts
        return {
            "queued": self._backlog.totals["queued"],
            "running": self._backlog.totals["running"],
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
        """Returns the record of a task.

        Raises:
            NotFound: there is none, or it has expired.
            Corrupted: it is there and cannot be read.
        """
        return await self._writer.show(task_id)

    async def list(
        self, wanted: TaskListParams, knows: Callable[[str], bool] | None = None
    ) -> Page:
        """Returns records of agents that pass `knows`, newest first; fewer than the limit if one message has no room."""
        return await self._writer.list(wanted, knows)

    async def wait(self, task_id: str, *, listener: Progress | None = None) -> Task:
        """Returns the record of a task when it has ended; `listener` is called with its record at each change.

        Raises:
            NotFound: there is no such task.
        """
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
        return (
            accounting.part_buffers.of_ended(task_id) if entry is None else accounting.parts(entry)
        )

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
        """Cancels a task and those that it delegated; one that has ended stays as it is.

        Raises:
            NotFound: there is no such task.
        """
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
        """Cancels every task of a tenant, and waits until their ends are written.

        Raises:
            Overloaded: the store does not take them now; it will, as soon as it can.
        """
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
        """Waits until the ends of tasks are written.

        Raises:
            Overloaded: the store does not take them now; it will, as soon as it can.
        """
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
    """Returns the record of a task that is over.

    Raises:
        NotFound: the store has not taken it, so that it has never been.
    """
    task = entry.task
    if task.state not in ENDED:
        raise NotFound(f'cannot find task "{task.id}": it was not taken', task=task.id)
    return task
