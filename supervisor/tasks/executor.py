"""How a task is performed: one attempt after the other on workers, or by the daemon itself, to its end.

An attempt is committed before the worker is told, an end before anybody is told. While an end is being written its
worker is free already, and the next attempt is committed together with it.
"""

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from ...worker.contract.errors import (
    Conflict,
    CorralError,
    Corrupted,
    InternalError,
    NotFound,
    Overloaded,
    Timeout,
)
from ...worker.contract.records import Task, TaskState
from ...worker.contract.worker_messages import TaskResult
from ..agents.agents import Agents
from ..events.bus import rfc3339
from ..store.batch import Writing
from ..supervision.worker_supervisor import WorkerSupervisor
from .accounting import Accounts
from .admission import Admission
from .attempt import (
    Alarms,
    Attempt,
    BrokenOff,
    Failed,
    Outcome,
    Succeeded,
    check_result,
    is_breach,
    state_of,
)
from .backlog import Entry
from .policy import Attempted, Policy, policy, retries, retry_delay_s
from .ports import Checkpoints, Sessions, WorkflowEngine
from .record_writer import REASON_CHARS, RETRY_AFTER_S, RecordWriter

CLOSE_S = 10.0
"""How long what is still being written down is waited for at the end."""

logger = logging.getLogger(__name__)


class Executor(Accounts, ABC):
    """The attempts of one daemon's tasks."""

    def __init__(self, ledger: RecordWriter, agents: Agents, admission: Admission) -> None:
        super().__init__(ledger, agents, admission)
        self.workflows: WorkflowEngine | None = None
        self.sessions: Sessions | None = None
        self.checkpoints: Checkpoints | None = None
        self.started: list[Callable[[Task], None]] = []
        """Called at each start of an attempt."""
        self._backlog = ledger.backlog
        self._refused_until = 0.0
        """Of the loop's clock: the store took nothing, and nothing is begun before."""
        self._refused: set[str] = set()
        """Agents whose turn it is then."""
        self._running: set[asyncio.Task[None]] = set()
        self._performing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._alarms = Alarms()

    @abstractmethod
    def dispatch(self, name: str) -> None:
        """Gives waiting tasks to free workers of an agent."""

    @abstractmethod
    def note(self, supervisor: WorkerSupervisor) -> None:
        """A worker may be able to begin a task, or one more; or no longer."""

    @abstractmethod
    def _enqueue(self, entry: Entry) -> None:
        """A task waits for its turn, once more."""

    @abstractmethod
    def _stop_children(self, task: Task, reason: str) -> None:
        """What a task has delegated is cancelled."""

    @abstractmethod
    def _accepted(self, entry: Entry) -> None:
        """A new task is in the store."""

    @abstractmethod
    def _refuse(self, entry: Entry, error: BaseException) -> None:
        """The store has not taken a new task."""

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        """Goes on with something whose end `close` waits for."""
        task = self._loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Waits for attempts that are still being written down; their workers are gone."""
        for each in tuple(self._performing):
            each.cancel()  # the next daemon goes on with it
        open_ones = self._running | self._performing
        if open_ones:
            _, late = await asyncio.wait(open_ones, timeout=CLOSE_S)
            for each in late:
                each.cancel()
        self._alarms.close()

    # -- one attempt

    def _begin(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Gives a task to a worker: what this writes is committed with what else is written now."""
        task = entry.task
        entry.quiet()
        entry.stop = self._loop.create_future()
        started = replace(
            task,
            state="running",
            worker=supervisor.id,
            attempt=task.attempt + 1,
            started_at=rfc3339(time.time()),
            finished_at=None,
            tool_calls=0,
            reason="",
        )
        attempt = Attempt(
            started, entry.limits, entry.size_bytes, supervisor, entry.stop, self._alarms
        )
        attempt.is_again = task.started_at is not None
        written = self.ledger.save(entry, started)
        if written is None and not attempt.is_again and task.session is None:
            attempt.try_at_once()  # while the worker reads it, the rest is done
        supervisor.begin(task.id)
        if written is None:
            written = self._begin_now(entry, attempt, started)
        self._keep(self._run(entry, supervisor, attempt, started, written))

    def _begin_now(self, entry: Entry, attempt: Attempt, started: Task) -> Writing | None:
        """For an attempt that nothing has to be written for; a defect in this ends the attempt, not who dispatched it."""
        try:
            self._note_started(entry, attempt, started)
        except Exception as error:
            broken: Writing = self._loop.create_future()
            broken.set_exception(error)
            return broken
        return None

    async def _run(
        self,
        entry: Entry,
        supervisor: WorkerSupervisor,
        attempt: Attempt,
        started: Task,
        written: Writing | None,
    ) -> None:
        held = _Place(self, supervisor, started)
        try:
            outcome = await self._outcome(entry, attempt, started, written)
            if isinstance(outcome, BrokenOff):
                await self._break_off(entry, attempt, outcome, held)
                return
            entry.answered_at = rfc3339(time.time())
            if isinstance(outcome, Succeeded) and self._is_alone(started):
                await self._succeed(entry, outcome.result)
                await asyncio.sleep(
                    0
                )  # the caller hears of it before others hear that its worker is free
                return
            # The worker is free for the next, whose attempt is committed with this one's end.
            held.release()
            if isinstance(outcome, Succeeded):
                await self._succeed(entry, outcome.result)
            else:
                await self._after_failure(entry, outcome)
        except CorralError as error:  # the store refuses: the task stays as it was
            logger.warning("cannot go on with task %s: %s", started.id, error)
            if isinstance(error, Overloaded):
                self._rest(started.agent)
            held.release()
            await self._try_later(entry, error)
        except Exception as error:  # our own mistake must not keep the task, or who waits for it
            logger.exception("cannot go on with task %s", started.id)
            attempt.withdraw("the daemon cannot go on with it")
            held.release()
            defect = InternalError(f'cannot go on with task "{started.id}": {error!r}'[:1000])
            await self._end(entry, "failed", defect)
        finally:
            held.release()

    def _is_alone(self, task: Task) -> bool:
        """Whether neither a write nor another task gains anything from its worker being free sooner."""
        is_written = task.durable or task.session is not None
        return not is_written and not self._backlog.waiting(task.agent)

    def _rest(self, name: str) -> None:
        """Begins nothing while the store takes nothing: with each that is tried, all that wait would be tried in vain."""
        self._refused.add(name)
        if self._loop.time() >= self._refused_until:
            self._refused_until = self._loop.time() + RETRY_AFTER_S
            self._loop.call_at(self._refused_until, self._go_on)

    def _go_on(self) -> None:
        names, self._refused = self._refused, set()
        self._refused_until = 0.0
        for name in names:
            self.dispatch(name)

    async def _try_later(self, entry: Entry, error: CorralError) -> None:
        if entry.is_ending:
            return  # the daemon is stopping: the next one finds it as the store has it
        stop, entry.stop = entry.stop, None
        if entry.accepted is not None:
            self._refuse(entry, error)
            return
        task = entry.task
        # What runs has begun in the store alone: what its worker was to be given could not be read.
        attempt = task.attempt - (task.state == "running" and task.kind == "task")
        again = replace(task, state="queued", worker=None, attempt=attempt, reason=error.message)
        self._backlog.put(entry, again)
        entry.attempt = None
        if stop is not None and stop.done():
            await self._end(entry, state_of(stop.result()), stop.result())
        else:
            self._loop.call_later(RETRY_AFTER_S, self._enqueue, entry)

    async def _outcome(
        self,
        entry: Entry,
        attempt: Attempt,
        started: Task,
        written: Writing | None,
    ) -> Outcome:
        """What became of an attempt that was begun.

        Raises:
            CorralError: the store has not taken it; nobody has performed anything.
        """
        assert entry.stop is not None, "it was given to a worker"
        if written is not None:
            await written
            self._note_started(entry, attempt, started)
        if entry.stop.done() and not attempt.is_handed_over:
            return Failed(entry.stop.result(), died=False, put_down=False)
        more: dict[str, object] = {}
        if attempt.is_again:
            more |= await self._checkpoint(started.id)
        if started.session is not None and self.sessions is not None:
            try:
                more["memory"] = await self.sessions.recall(started.agent, started.session)
            except Overloaded:
                raise
            except CorralError as error:
                return Failed(error, died=False, put_down=False)
        return await attempt.outcome(more)

    def _note_started(self, entry: Entry, attempt: Attempt, started: Task) -> None:
        """An attempt is in the store, or never will be: it is begun for everybody."""
        if entry.accepted is not None:
            self._accepted(entry)
        self._backlog.put(entry, started)
        entry.attempt = attempt
        self.ledger.publish("task.started", started)
        for listener in self.started:
            listener(started)
        self.ledger.tell(entry)

    async def _checkpoint(self, task_id: str) -> dict[str, object]:
        if self.checkpoints is None:
            return {}
        try:
            return await self.checkpoints.of_task(task_id)
        except Corrupted as error:  # it begins anew, then
            logger.warning("task %s begins without its checkpoint: %s", task_id, error)
            return {}

    async def _succeed(self, entry: Entry, result: TaskResult) -> None:
        self.used(entry, result.tokens_used, result.cost_cents)
        if entry.stop is not None and entry.stop.done() and is_breach(entry.stop.result()):
            await self._end(entry, "failed", entry.stop.result())
            return
        task, sessions = entry.task, self.sessions
        if task.session is None or sessions is None:
            await self._end(entry, "succeeded", output=result.output)
            return
        try:
            statements = sessions.keep(task, result.memory)
        except CorralError as error:
            await self._after_failure(entry, Failed(error, died=False, put_down=False))
            return
        is_kept, refusal = False, None
        try:
            is_kept = await self.ledger.end(
                entry,
                "succeeded",
                output=result.output,
                more=statements,
                on_written=lambda: sessions.kept(task),
            )
        except (Conflict, Corrupted) as error:
            refusal = error
        finally:
            if not is_kept:
                sessions.dropped(task)
        if refusal is not None:
            await self._after_failure(entry, Failed(refusal, died=False, put_down=False))

    async def _break_off(
        self, entry: Entry, attempt: Attempt, over: BrokenOff, held: "_Place"
    ) -> None:
        """The record ends at once, unless the task is tried again: then when the worker has let go of it."""
        late = Attempted(died=False, late=over.state == "timeout", error=over.error.name)
        if late.late and retries(self._policy(entry.task), entry.task.attempt, late):
            await attempt.let_go(over.state)
            held.release()
            await self._after_failure(entry, Failed(over.error, died=False, put_down=False), late)
            return
        await self._end(entry, over.state, over.error)
        await attempt.let_go(over.state)

    def _policy(self, task: Task) -> Policy:
        agent = self.agents.agents.get(task.agent)
        section = self.agents.config.defaults.tasks if agent is None else agent.spec.tasks
        return policy(section, task.retry)

    async def _after_failure(
        self, entry: Entry, failed: Failed, ended: Attempted | None = None
    ) -> None:
        """Tried again, or failed."""
        task = entry.task
        if entry.stop is not None and entry.stop.done():
            stopped = entry.stop.result()
            await self._end(entry, state_of(stopped), stopped)
            return
        if ended is None:
            ended = Attempted(failed.died, counts=not failed.put_down, error=failed.error.name)
        if not retries(self._policy(task), task.attempt, ended):
            await self._end(entry, "failed", failed.error)
            return
        attempt = task.attempt - 1 if failed.put_down else task.attempt
        reason = failed.error.message[:REASON_CHARS]
        again = replace(task, state="queued", worker=None, attempt=attempt, reason=reason)
        self._backlog.put(entry, again)
        entry.stop = entry.attempt = None
        entry.answered_at = ""
        if not self.agents.draining:
            self._stop_children(task, "the attempt that delegated it has failed")
        written = self.ledger.save(entry, again)
        if written is not None:
            await written
        if entry.is_begun:
            return  # it was stopped meanwhile
        self.ledger.publish("task.retried", task, reason=reason)
        self.ledger.tell(entry)
        # The first retry of a task whose worker died needs no wait: the worker's own start is one.
        if failed.put_down or (failed.died and task.attempt == 1):
            self._enqueue(entry)
            return
        delay_s = retry_delay_s(self._policy(task), task.attempt, random.random())
        self._loop.call_later(delay_s, self._enqueue, entry)

    # -- tasks of teams and workflows

    def _perform_soon(self, entry: Entry) -> None:
        entry.stop = self._loop.create_future()
        task = self._loop.create_task(self._perform(entry, entry.stop))
        self._performing.add(task)
        task.add_done_callback(self._performing.discard)

    async def _perform(self, entry: Entry, stop: asyncio.Future[CorralError]) -> None:
        """From the start of a task that needs no worker to its end; again, if a daemon left it."""
        task = entry.task
        if task.state == "queued":
            attempt = max(task.attempt, 1)
            task = replace(
                task, state="running", attempt=attempt, started_at=rfc3339(time.time()), reason=""
            )
            written = self.ledger.save(entry, task)
            try:
                if written is not None:
                    await written
            except CorralError as error:
                await self._try_later(entry, error)
                return
            if entry.accepted is not None:
                self._accepted(entry)
            self._backlog.put(entry, task)
            self.ledger.publish("task.started", task)
            for listener in self.started:
                listener(task)
            self.ledger.tell(entry)
        if self.workflows is None or self.workflows.kind(task.agent) is None:
            await self._end(entry, "failed", gone(task))
            return
        work = self._loop.create_task(self.workflows.perform(task))
        try:
            ends: set[asyncio.Future[Any]] = {work, stop}  # of different results
            await asyncio.wait(ends, timeout=_left_s(task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():  # also when the daemon stops: the next one performs it again
                work.cancel()
                await asyncio.wait({work}, timeout=CLOSE_S)
        await self._conclude(entry, work, stop)

    async def _conclude(
        self, entry: Entry, work: asyncio.Task[TaskResult], stop: asyncio.Future[CorralError]
    ) -> None:
        task = entry.task
        if stop.done():
            await self._end(entry, state_of(stop.result()), stop.result())
            return
        if not work.done() or work.cancelled():
            limit_s = task.boundaries.timeout_s or 0.0
            text = f'cannot finish task "{task.id}" within {limit_s:g} s'
            await self._end(entry, "timeout", Timeout(text, limit="timeout_s", value=limit_s))
            return
        error = work.exception()
        if error is None:
            try:
                check_result(task, work.result().output, entry.size_bytes)
            except CorralError as misfit:
                error = misfit
        if error is None:
            await self._end(entry, "succeeded", output=work.result().output)
        elif self.agents.draining:
            return  # its parts were refused or put down: the next daemon goes on with it
        elif isinstance(error, CorralError):
            await self._end(entry, "failed", error)
        else:
            logger.error("cannot perform task %s", task.id, exc_info=error)
            defect = InternalError(f'cannot perform task "{task.id}": {error!r}')
            await self._end(entry, "failed", defect)

    def _end_soon(self, entry: Entry, state: TaskState, error: CorralError) -> None:
        """Ends a task that nobody performs."""
        self._put_down(entry, error)
        self._keep(self._end(entry, state, error))

    def _put_down(self, entry: Entry, error: CorralError) -> None:
        """From now on nobody begins a task, though its end is yet to be written."""
        entry.stop = self._loop.create_future()
        entry.stop.set_result(error)
        self._backlog.step_back(entry)

    async def _end(
        self,
        entry: Entry,
        state: TaskState,
        error: CorralError | None = None,
        *,
        output: object = None,
    ) -> None:
        try:
            await self.ledger.end(entry, state, error=error, output=output)
        except CorralError as refusal:  # the next daemon finds the task as the store has it
            logger.warning("cannot write down the end of task %s: %s", entry.task.id, refusal)


class _Place:
    """A place on a worker, which is given back once."""

    __slots__ = ("_is_held", "_supervisor", "_task", "_tasks")

    def __init__(self, tasks: Executor, supervisor: WorkerSupervisor, task: Task) -> None:
        self._tasks = tasks
        self._supervisor = supervisor
        self._task = task
        self._is_held = True

    def release(self) -> None:
        """Gives it back, and to the next; again is harmless."""
        if self._is_held:
            self._is_held = False
            self._supervisor.end(self._task.id)
            self._tasks.note(self._supervisor)
            self._tasks.dispatch(self._task.agent)


def gone(task: Task) -> NotFound:
    """Why a task cannot be performed whose agent was removed."""
    return NotFound(f'cannot run task "{task.id}": agent "{task.agent}" is gone', name=task.agent)


def _left_s(task: Task) -> float | None:
    """How long a task that needs no worker may go on; its clock runs on while there is no daemon."""
    limit_s = task.boundaries.timeout_s
    if limit_s is None or task.started_at is None:
        return limit_s
    begun = datetime.fromisoformat(task.started_at).timestamp()
    return max(0.0, limit_s - max(0.0, time.time() - begun))
