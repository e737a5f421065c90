"""Executes the tasks that wait for no worker's queue: of teams, workflows and jobs.

The workflow engine computes the result of a team or workflow; here its task is begun, timed, stopped and ended. The task of a job
is one run of its command, on a worker that is at rest. A run is never repeated for its task: it may have done half of its work,
so a task whose daemon died has failed. The restart policy of the job decides whether a failed command is tried again, within the
same task. Runs of one job that find all of its workers at work wait for their turn, in the order in which they came.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.startup import has_ended
from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.workers.lifecycle import job, state_machine
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Cancelled, CorralError, InternalError, Timeout, WorkerFailed
from corral.worker.contract.records import Task, TaskParams, TaskState, copied
from corral.worker.contract.worker_messages import TaskResult

from ..rules.payload import check_result
from .accounting import Accounting
from .attempt import state_of
from .backlog import Entry, JobRun
from .cluster import Cluster
from .endings import CLOSE_S, Endings, agent_gone
from .executor import begun
from .record_writer import RETRY_AFTER_S, RecordWriter

logger = logging.getLogger(__name__)


class WorkflowEngine:
    """Executes the tasks of teams and workflows, which need no worker of their own; this one stands for it until it is made."""

    def members_for(self, task: Task) -> tuple[str, ...] | None:
        """Returns the only agents to which a running task may delegate, since it leads a team; None if it leads none."""
        return None

    def checked(self, params: TaskParams) -> TaskParams:
        """Returns the params of a task that can be accepted, within the time that its workflow may take."""
        return params

    async def execute(self, task: Task) -> TaskResult:
        """Returns the result of a task, also of one that a daemon left; it is cancelled when the task is cancelled or timed out."""
        raise agent_gone(task)

    def note_end(self, task: Task) -> None:
        """Forgets a task of a team or workflow that has ended."""


class CompositeRunner:
    """Executes the tasks of one daemon that need no worker of it: those of teams, workflows and placed agents."""

    def __init__(
        self, writer: RecordWriter, endings: Endings, accounting: Accounting, agents: Agents, cluster: Cluster
    ) -> None:
        self._writer = writer
        self._endings = endings
        self._accounting = accounting
        self._registry = agents.registry
        self._groups = agents.groups
        self._cluster = cluster
        self.engine = WorkflowEngine()
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        writer.subscribe_to_ends(self._note_end)

    def execute_with(self, engine: WorkflowEngine) -> None:
        """Executes teams and workflows with an engine, which is made later, since it submits tasks itself."""
        self.engine = engine

    def pause(self) -> None:
        """Has nothing that would wait."""

    def resume(self) -> None:
        """Has nothing that has waited."""

    def take_up(self, entry: Entry, run: JobRun) -> None:
        """Never comes: what runs here is found in the store."""

    def _note_end(self, entry: Entry) -> None:
        if entry.task.kind in ("team", "workflow"):
            self.engine.note_end(entry.task)

    async def close(self) -> None:
        """Interrupts all: the next daemon goes on with them."""
        for each in tuple(self._running):
            each.cancel()
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=CLOSE_S)
            for each in late:
                each.cancel()

    def begin_at_once(self, entry: Entry) -> bool:
        """Begins a new task, before it is accepted."""
        self.enqueue(entry)
        return True

    def enqueue(self, entry: Entry) -> None:
        """Begins a task."""
        if entry.is_begun or entry.is_ending:
            return  # it was cancelled while it waited for the store
        entry.stop = self._loop.create_future()
        task = self._loop.create_task(self._run(entry, entry.stop))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, entry: Entry, stop: asyncio.Future[CorralError]) -> None:
        """Executes a task that needs no worker to its end; once more, if a daemon left it."""
        task = entry.task
        if task.state == "queued":
            task = replace(
                task,
                state="running",
                attempt=max(task.attempt, 1),
                delivery=max(task.delivery, 1),
                started_at=rfc3339(time.time()),
                reason="",
            )
            written = self._writer.save(entry, task)
            try:
                if written is not None:
                    await written
            except CorralError as error:
                if await self._endings.take_back(entry, error):
                    self._loop.call_later(RETRY_AFTER_S, self.enqueue, entry)
                return
            self._writer.start(entry, task)
        execute = self._executed(entry)
        if execute is None:
            await self._endings.end(entry, "failed", agent_gone(task))
            return
        work = self._loop.create_task(execute)
        try:
            ends: set[asyncio.Future[Any]] = {work, stop}  # of different results
            await asyncio.wait(ends, timeout=_left_s(task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():  # also when the daemon stops: the next one executes it again
                work.cancel()
                await asyncio.wait({work}, timeout=CLOSE_S)
        await self._end(entry, work, stop)

    def _executed(self, entry: Entry) -> Coroutine[Any, Any, TaskResult] | None:
        task = entry.task
        if task.kind == "placed":
            return self._on_its_node(entry) if self._cluster.is_joined else None
        return self.engine.execute(task) if task.agent in self._groups.by_name else None

    async def _on_its_node(self, entry: Entry) -> TaskResult:
        """Returns the result of a task of a placed agent, and takes over what it has used."""
        ended = await self._cluster.runner.execute(entry.task)
        self._accounting.record_usage(entry, ended.tokens_used, ended.cost_cents)
        entry.task = replace(entry.task, worker=ended.worker, tool_calls=ended.tool_calls, delivery=ended.delivery)
        if ended.error is not None:
            raise ended.error.as_error()
        return TaskResult(output=ended.output)

    async def _end(self, entry: Entry, work: asyncio.Task[TaskResult], stop: asyncio.Future[CorralError]) -> None:
        task = entry.task
        is_withdrawn = stop.done() or not work.done() or work.cancelled()
        if is_withdrawn and task.kind == "placed":
            await self._cluster.runner.withdraw(task)
        if stop.done():
            await self._endings.end(entry, state_of(stop.result()), stop.result())
            return
        if not work.done() or work.cancelled():
            limit_s = task.boundaries.timeout_s or 0.0
            text = f'cannot finish task "{task.id}" within {limit_s:g} s'
            await self._endings.end(entry, "timeout", Timeout(text, limit="timeout_s", value=limit_s))
            return
        error = work.exception()
        if error is None:
            try:
                check_result(task, work.result().output, entry.size_bytes)
            except CorralError as misfit:
                error = misfit
        if error is None:
            await self._endings.end(entry, "succeeded", output=work.result().output)
        elif self._registry.draining and task.kind != "placed":
            return  # its parts were refused or put down: the next daemon goes on with it
        elif isinstance(error, CorralError):
            await self._endings.end(entry, state_of(error) if task.kind == "placed" else "failed", error)
        else:
            logger.error("cannot perform task %s", task.id, exc_info=error)
            defect = InternalError(f'cannot perform task "{task.id}": {error!r}')
            await self._endings.end(entry, "failed", defect)


def _left_s(task: Task) -> float | None:
    """Returns the seconds left to a task that needs no worker; its clock runs on while there is no daemon."""
    limit_s = task.boundaries.timeout_s
    if limit_s is None or task.started_at is None:
        return limit_s
    begun = datetime.fromisoformat(task.started_at).timestamp()
    return max(0.0, limit_s - max(0.0, time.time() - begun))


WAITS = "it waits for the run before"
"""Reason of a task that waits for its turn."""


class JobRunner:
    """Executes the tasks of one daemon's jobs."""

    def __init__(self, writer: RecordWriter, endings: Endings, agents: Agents) -> None:
        self._writer = writer
        self._endings = endings
        self._agents = agents
        self._waiting: dict[str, deque[Entry]] = {}
        self._is_paused = False
        self._taken: set[WorkerSupervisor] = set()
        self._loop = asyncio.get_running_loop()

    def begin_at_once(self, entry: Entry) -> bool:
        """Begins a new task, before it is accepted, if a worker of its job is at rest; returns False if none is."""
        name = entry.task.agent
        supervisor = None if self._waiting.get(name) else self._free(name)
        if supervisor is None:
            return False
        self._begin(entry, supervisor)
        return True

    def enqueue(self, entry: Entry) -> None:
        """Begins a task as soon as its turn has come."""
        if entry.is_begun or entry.is_ending:
            return  # it was cancelled meanwhile
        name = entry.task.agent
        agent = self._agents.agents.get(name)
        if agent is None or agent.spec.type != "oneshot":
            self._endings.end_soon(entry, "failed", agent_gone(entry.task))
            return
        self._waiting.setdefault(name, deque()).append(entry)
        self._dispatch(name)
        if not entry.is_begun:
            entry.task = replace(entry.task, reason=WAITS)
            entry.notify()

    def pause(self) -> None:
        """Begins no task, until `resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Begins tasks again."""
        self._is_paused = False
        for name in tuple(self._waiting):
            self._dispatch(name)

    def take_up(self, entry: Entry, run: JobRun) -> None:
        """Goes on with a run that another program of the daemon has left."""
        self._taken.add(run.supervisor)
        entry.stop = self._loop.create_future()
        self._endings.keep(self._to_its_end(entry, run, entry.stop, self._agents.operations.settled(*run)))

    def worker_changed(self, supervisor: WorkerSupervisor) -> None:
        """Begins the next task of a job whose worker may be at rest."""
        if supervisor.worker.spec.type == "oneshot":
            self._dispatch(supervisor.worker.spec.name)

    def _dispatch(self, name: str) -> None:
        waiting = self._waiting.get(name)
        while waiting:
            entry = waiting[0]
            if entry.is_begun or entry.is_ending or entry.ended.is_set():
                waiting.popleft()  # it was cancelled meanwhile
                continue
            supervisor = self._free(name)
            if supervisor is None:
                return
            waiting.popleft()
            self._begin(entry, supervisor)
        self._waiting.pop(name, None)

    def _free(self, name: str) -> WorkerSupervisor | None:
        agent = self._agents.agents.get(name)
        if agent is None or self._agents.draining or self._is_paused:
            return None
        idle = (k for k in agent.supervisors if k not in self._taken and not k.takes_room)
        return next(idle, None)

    def _begin(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        self._taken.add(supervisor)
        entry.stop = self._loop.create_future()
        self._endings.keep(self._run(entry, supervisor, entry.stop))

    async def _run(self, entry: Entry, supervisor: WorkerSupervisor, stop: asyncio.Future[CorralError]) -> None:
        task = entry.task
        started = begun(task, supervisor.id)
        try:
            written = self._writer.save(entry, started)
            if written is not None:
                await written
        except CorralError as error:
            self._release(supervisor)
            if await self._endings.take_back(entry, error):
                self._loop.call_later(RETRY_AFTER_S, self.enqueue, entry)
            return
        self._writer.start(entry, started)
        run = JobRun(supervisor, supervisor.worker.incarnation)
        await self._to_its_end(entry, run, stop, self._agents.operations.restart([supervisor]))

    async def _to_its_end(
        self, entry: Entry, run: JobRun, stop: asyncio.Future[CorralError], work: Coroutine[Any, Any, None]
    ) -> None:
        """Waits for the end of a run, which `work` returns from, and writes it."""
        task, entry.job = entry.task, run
        try:
            await self._perform(entry, run, stop, self._loop.create_task(work))
        except Exception as error:  # a defect of ours must not keep the task, or block its callers
            logger.exception("cannot perform task %s", task.id)
            defect = InternalError(f'cannot perform task "{task.id}": {error!r}'[:1000])
            await self._endings.end(entry, "failed", defect)
        finally:
            self._release(run.supervisor)

    def _release(self, supervisor: WorkerSupervisor) -> None:
        self._taken.discard(supervisor)
        self._dispatch(supervisor.spec.name)

    async def _perform(
        self, entry: Entry, run: JobRun, stop: asyncio.Future[CorralError], work: asyncio.Task[None]
    ) -> None:
        task, (supervisor, before) = entry.task, run
        limit_s = task.boundaries.timeout_s
        ends: set[asyncio.Future[Any]] = {work, stop}  # of different results
        await asyncio.wait(ends, timeout=_left_s(task), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            supervisor.job.cancel()
            supervisor.send(state_machine.Stop(reason="its task has ended"))
            await supervisor.until(has_ended(supervisor.worker.incarnation))
        if stop.done():
            await self._endings.end(entry, state_of(stop.result()), stop.result())
        elif work.cancelled():
            late = Timeout(f'cannot finish task "{task.id}" within {limit_s:g} s', limit="timeout_s", value=limit_s)
            await self._endings.end(entry, "timeout", late)
        else:
            state, error = _outcome(task, supervisor, before, work.exception())
            output = {"code": 0, "incarnation": supervisor.worker.incarnation}
            await self._endings.end(entry, state, error, output=None if error else output)


def _outcome(
    task: Task, supervisor: WorkerSupervisor, before: int, error: BaseException | None
) -> tuple[TaskState, CorralError | None]:
    """Returns how the run of a task has ended; `before` is the number of the worker's life before it."""
    if error is None:
        return "succeeded", None
    if not isinstance(error, CorralError):
        raise error
    last, number = supervisor.worker.last_exit, supervisor.worker.incarnation
    if last is None or number == before:
        return "failed", error  # it could not be started
    facts = {"worker": supervisor.id, "incarnation": number, **copied(last, "result code signal")}
    text = f'cannot finish task "{task.id}": {last.message}'
    if last.result == job.LATE:
        return "timeout", Timeout(text, **facts)
    if last.result in ASKED_FOR:
        return "cancelled", Cancelled(text, **facts)
    return "failed", WorkerFailed(text, **facts)
