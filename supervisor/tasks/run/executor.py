"""Executes tasks: one attempt after another on workers, or by the workflow engine, until the end.

An attempt is committed before the worker is sent it, an end before it is announced. While an end is being written its
worker is free already, and the next attempt is committed together with it. Must not know which task is next.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from corral.supervisor.agents.running.agents import Agents
from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.records.store.batch import Writing
from corral.supervisor.records.store.store import Statement
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.workers.supervision.checkpoints import Checkpoints
from corral.supervisor.workers.supervision.incarnation import Incarnation
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.usage.task_usage import Meters, peak_bytes
from corral.worker.contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    Corrupted,
    InternalError,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    Timeout,
    WorkerFailed,
)
from corral.worker.contract.records import Task, TaskState
from corral.worker.contract.worker_messages import TaskResult

from ..rules.boundaries import limits
from ..rules.retry_policy import Attempted, Policy, policy_of, retries, retry_delay_s
from .accounting import Accounting
from .attempt import Alarms, Attempt, BrokenOff, Failed, Outcome, Succeeded, given_up, is_breach, state_of
from .backlog import Entry
from .record_writer import REASON_CHARS, RETRY_AFTER_S, ErrorOf, RecordWriter, TaskObserver

CLOSE_S = 10.0
"""Seconds that unfinished writes are waited for when the daemon stops."""

MAX_PAUSE_S = 3600.0
"""Seconds before the next attempt that an agent can ask for by `retry_after_s` of Overloaded, at most."""

logger = logging.getLogger(__name__)


class Scheduler(Protocol):
    """Decides when a task is executed, and on which worker."""

    def enqueue(self, entry: Entry) -> None:
        """Enters a task that waits for its next attempt."""

    def release(self, supervisor: WorkerSupervisor, task: Task) -> None:
        """Frees the place of a task on a worker for the next one."""

    def hold_off(self, agent: str) -> None:
        """Starts nothing for a while, since the store refuses writes; the agent's queue then goes on."""


class Sessions(Protocol):
    """Keeps the state of agents from one task of a session to the next."""

    def started(self, task: Task) -> None:
        """Notes that an attempt of a task with a session begins."""

    def ended(self, task: Task) -> None:
        """Notes that a task with a session has ended; it is in the store."""

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        """Returns the `memory` that is sent to the worker."""

    def keep(self, task: Task, change: object) -> tuple[Statement, ...]:
        """Returns the statements to write with the end of a task; `change` is the worker's `memory`, None if it sent none."""

    def kept(self, task: Task) -> None:
        """Notes that the statements of `keep` are durable."""

    def dropped(self, task: Task) -> None:
        """Notes that the statements of `keep` have not been written, and will not be."""


class Executor:
    """Executes the tasks of one daemon."""

    def __init__(
        self,
        writer: RecordWriter,
        agents: Agents,
        accounting: Accounting,
        checkpoints: Checkpoints,
        sessions: Sessions | None,
        observers: Sequence[TaskObserver],
        tracing: Tracing,
        limits: LimitEnforcer | None = None,
        longest_s: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        self._longest_s = longest_s
        self._limits = limits
        self._meters = Meters()
        self._writer = writer
        self._backlog = writer.backlog
        self._registry = agents.registry
        self._accounting = accounting
        self._checkpoints = checkpoints
        self._sessions = sessions
        self._observers = observers
        self._tracing = tracing
        self._scheduler: Scheduler
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._alarms = Alarms()

    def bind(self, scheduler: Scheduler) -> None:
        """Connects the scheduler, before the first task: the two need each other."""
        self._scheduler = scheduler

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Runs a coroutine whose end `close` waits for."""
        task = self._loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Waits for attempts that are still being written; their workers are gone."""
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=CLOSE_S)
            for each in late:
                each.cancel()
        self._alarms.close()

    # -- one attempt

    def begin(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Gives a task to a worker: its record is committed with the other writes of this turn of the loop."""
        task = entry.task
        if entry.timer is not None:
            entry.cancel_timer()
        entry.stop = self._loop.create_future()
        entry.progress_due = 0.0
        entry.limits = limits(task.boundaries, supervisor.worker.spec.resources, self._longest_s(task.agent))
        now = time.time()
        started = replace(
            task,
            state="running",
            worker=supervisor.worker.id,
            attempt=task.attempt + 1,
            delivery=task.delivery + 1,
            started_at=rfc3339(now),
            finished_at=None,
            tool_calls=0,
            reason="",
        )
        attempt = Attempt(
            started,
            entry.limits,
            entry.size_bytes,
            supervisor,
            entry.stop,
            self._alarms,
            self._tracing.of_attempt(started),
        )
        attempt.is_again = task.started_at is not None or task.delivery > 0
        if entry.parts is not None:
            entry.parts.begin(started.attempt, started.delivery)
        written = self._writer.save(entry, started)
        if written is None and not attempt.is_again and task.session is None:
            attempt.try_at_once()  # while the worker reads it, the rest is done
        supervisor.begin(task.id)
        if written is None:
            written = self._begin_now(entry, attempt, started)
        self.keep(self._run(entry, supervisor, attempt, started, written))

    def _begin_now(self, entry: Entry, attempt: Attempt, started: Task) -> Writing | None:
        """Starts an attempt that needs no write; a defect in this ends the attempt, not the dispatcher."""
        try:
            self.note_started(entry, attempt, started)
        except Exception as error:
            broken: Writing = self._loop.create_future()
            broken.set_exception(error)
            return broken
        return None

    async def _run(
        self, entry: Entry, supervisor: WorkerSupervisor, attempt: Attempt, started: Task, written: Writing | None
    ) -> None:
        place = _Place(self._scheduler, supervisor, started)
        self._begin_meter(entry, supervisor)
        try:
            outcome = await self._outcome(entry, attempt, started, written)
            self._end_meter(entry, supervisor)
            if isinstance(outcome, BrokenOff):
                await self._break_off(entry, attempt, outcome, place)
                return
            place.end_lines()
            entry.answered_at = rfc3339(time.time())
            if isinstance(outcome, Succeeded) and self._is_alone(started):
                await self._succeed(entry, outcome.result)
                # The caller is answered before others learn that its worker is free.
                await asyncio.sleep(0)
                return
            # The worker is free for the next, whose attempt is committed with this one's end.
            place.release()
            if isinstance(outcome, Succeeded):
                await self._succeed(entry, outcome.result)
            else:
                await self._after_failure(entry, outcome)
        except CorralError as error:  # the store refuses: the task stays as it was
            logger.warning("cannot go on with task %s: %s", started.id, error)
            if isinstance(error, Overloaded):
                self._scheduler.hold_off(started.agent)
            place.release()
            await self.try_later(entry, error)
        except Exception as error:  # a defect of ours must not keep the task, or block its callers
            logger.exception("cannot go on with task %s", started.id)
            attempt.withdraw("the daemon cannot go on with it")
            place.release()
            defect = InternalError(f'cannot go on with task "{started.id}": {error!r}'[:1000])
            await self.end(entry, "failed", defect)
        finally:
            place.release()

    def _begin_meter(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Begins to measure what the worker uses for a task."""
        pid, life, limits = supervisor.worker.pid, supervisor.life, self._limits
        if limits is not None and pid is not None and life is not None:
            entry.meter = self._meters.begin(
                life.unit,
                pid,
                partial(_peak_of, life, pid),
                limits.sample(supervisor).rss_bytes,
                limits.cpu_s(supervisor),
            )

    def _end_meter(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Adds what an attempt has used to its task."""
        meter, limits = entry.meter, self._limits
        if meter is None or limits is None:
            return
        self._meters.end(meter, limits.sample(supervisor).rss_bytes, limits.cpu_s(supervisor))
        entry.cpu_ns += meter.cpu_ns
        if meter.most_bytes > entry.peak_memory_bytes:
            entry.peak_memory_bytes = meter.most_bytes
        entry.meter = None

    def note_sample(self, supervisor: WorkerSupervisor) -> None:
        """Takes a new sample of what a worker uses, for the tasks that it runs."""
        if self._limits is None or not supervisor.running:
            return
        rss_bytes = self._limits.sample(supervisor).rss_bytes
        for task_id in supervisor.running:
            entry = self._backlog.find(task_id)
            if entry is not None and entry.meter is not None:
                entry.meter.note(rss_bytes)

    def _is_alone(self, task: Task) -> bool:
        """Returns True if neither a write nor another task gains anything from its worker being free sooner."""
        is_written = task.durable or task.session is not None
        return not is_written and not self._backlog.is_waiting(task.agent)

    async def try_later(self, entry: Entry, error: CorralError) -> None:
        """Queues a task again whose start the store has refused; refuses one that was not accepted yet."""
        if entry.is_ending:
            return  # the daemon is stopping: the next one finds it as the store has it
        stop, entry.stop = entry.stop, None
        if entry.accepted is not None:
            self.refuse(entry, error)
            return
        task = entry.task
        # A running one has begun in the store alone: its session or checkpoint could not be read.
        in_vain = task.state == "running" and task.kind == "task"
        again = replace(
            task,
            state="queued",
            worker=None,
            attempt=task.attempt - in_vain,
            delivery=task.delivery - _is_unseen(entry),
            reason=error.message,
        )
        self._backlog.replace(entry, again)
        entry.attempt = None
        if stop is not None and stop.done():
            await self.end(entry, state_of(stop.result()), stop.result())
        else:
            self._loop.call_later(RETRY_AFTER_S, self._scheduler.enqueue, entry)

    async def _outcome(self, entry: Entry, attempt: Attempt, started: Task, written: Writing | None) -> Outcome:
        """Returns the outcome of an attempt that was begun."""
        assert entry.stop is not None, "it was given to a worker"
        if written is not None:
            await written
            self.note_started(entry, attempt, started)
        if entry.stop.done() and not attempt.is_handed_over:
            return Failed(entry.stop.result(), died=False, put_down=False)
        more: dict[str, object] = {}
        if attempt.is_again:
            more |= await self._checkpoint(started.id)
        if started.session is not None and self._sessions is not None:
            try:
                more["memory"] = await self._sessions.recall(started.agent, started.session)
            except Overloaded:
                raise
            except CorralError as error:
                return Failed(error, died=False, put_down=False)
        return await attempt.outcome(more)

    def note_started(self, entry: Entry, attempt: Attempt | None, started: Task) -> None:
        """Announces the start of a task, which is in the store, or never will be."""
        entry.attempt = attempt
        if entry.accepted is not None:
            self._writer.accept(entry)
        self._backlog.replace(entry, started)
        self._writer.publish("task.started", started, delivery=started.delivery)
        if started.session is not None and self._sessions is not None:
            self._sessions.started(started)
        for observer in self._observers:
            observer.started(started)
        if entry.listeners:
            self._writer.notify(entry)

    async def _checkpoint(self, task_id: str) -> dict[str, object]:
        try:
            return await self._checkpoints.of_task(task_id)
        except Corrupted as error:  # it begins anew, then
            logger.warning("task %s begins without its checkpoint: %s", task_id, error)
            return {}

    async def _succeed(self, entry: Entry, result: TaskResult) -> None:
        await self._accounting.settled(entry)
        if result.tokens_used or result.cost_cents:
            self._accounting.record_usage(entry, result.tokens_used, result.cost_cents)
        if entry.stop is not None and entry.stop.done() and is_breach(entry.stop.result()):
            await self.end(entry, "failed", entry.stop.result())
            return
        task, sessions = entry.task, self._sessions
        if task.session is None or sessions is None:
            await self.end(entry, "succeeded", output=result.output)
            return
        try:
            statements = sessions.keep(task, result.memory)
        except CorralError as error:
            await self._after_failure(entry, Failed(error, died=False, put_down=False))
            return
        is_kept, refusal = False, None
        try:
            is_kept = await self._writer.end(
                entry, "succeeded", output=result.output, more=statements, on_written=lambda: sessions.kept(task)
            )
        except (Conflict, Corrupted, ResourceLimitExceeded) as error:
            refusal = error
        finally:
            if not is_kept:
                sessions.dropped(task)
        if refusal is not None:
            await self._after_failure(entry, Failed(refusal, died=False, put_down=False))

    async def _break_off(self, entry: Entry, attempt: Attempt, over: BrokenOff, place: "_Place") -> None:
        """Ends the record at once, unless the task is retried: then when the worker has let go of it."""
        late = Attempted(died=False, late=over.state == "timeout", error=over.error.name)
        is_at_deadline = entry.stop is not None and entry.stop.done()
        if late.late and not is_at_deadline and retries(self._policy(entry.task), entry.task.attempt, late):
            await attempt.let_go(over.state)
            place.release()
            await self._after_failure(entry, Failed(over.error, died=False, put_down=False), late)
            return
        await self.end(entry, over.state, over.error)
        await attempt.let_go(over.state)

    def _policy(self, task: Task) -> Policy:
        agent = self._registry.agents.get(task.agent)
        section = self._registry.config.defaults.tasks if agent is None else agent.spec.tasks
        return policy_of(section, task.retry)

    async def _after_failure(self, entry: Entry, failed: Failed, ended: Attempted | None = None) -> None:
        """Retries a task, or ends it as failed."""
        task = entry.task
        if entry.stop is not None and entry.stop.done():
            stopped = entry.stop.result()
            await self.end(entry, state_of(stopped), stopped)
            return
        if ended is None:
            ended = Attempted(failed.died, counts=not failed.put_down, error=failed.error.name)
        if not retries(self._policy(task), task.attempt, ended):
            died = failed.died and isinstance(failed.error, WorkerFailed)
            await self.end(entry, "failed", given_up(task, failed.error) if died else failed.error)
            return
        reason = failed.error.message[:REASON_CHARS]
        again = replace(
            task,
            state="queued",
            worker=None,
            attempt=task.attempt - failed.put_down,
            delivery=task.delivery - _is_unseen(entry),
            reason=reason,
        )
        self._backlog.replace(entry, again)
        entry.stop = entry.attempt = None
        entry.answered_at = ""
        if not self._registry.draining:
            self.stop_children(task, "the attempt that delegated it has failed")
        written = self._writer.save(entry, again)
        if written is not None:
            await written
        if entry.is_begun:
            return  # it was stopped meanwhile
        self._tracing.retried(task, failed.error)
        self._writer.publish("task.retried", task, reason=reason)
        self._writer.notify(entry)
        # The first retry of a task whose worker died needs no wait: the worker's own start is one.
        if failed.put_down or (failed.died and not failed.remote and task.attempt == 1):
            self._scheduler.enqueue(entry)
            return
        delay_s = retry_delay_s(self._policy(task), task.attempt, random.random())
        asked_s = failed.error.data.get("retry_after_s")
        if isinstance(failed.error, Overloaded) and isinstance(asked_s, int | float):
            delay_s = max(delay_s, min(asked_s, MAX_PAUSE_S))
        self._loop.call_later(delay_s, self._scheduler.enqueue, entry)

    # -- ends

    def refuse(self, entry: Entry, error: BaseException) -> None:
        """Removes a new task that the store has not taken: it has never been."""
        self._backlog.remove(entry)
        self._accounting.remove_child(entry, is_refused=True)
        assert entry.accepted is not None, "an accepted task is not refused"
        entry.accepted.set_exception(error)
        entry.accepted.exception()  # perhaps its caller has hung up
        entry.ended.set()  # for a parent that knows it, or an emergency stop

    def stop(self, entry: Entry, error: CorralError) -> None:
        """Stops a task; one that has not begun is cancelled."""
        if entry.stop is None:
            self.end_soon(entry, state_of(error), error)  # also when the caller hangs up
        elif not entry.stop.done():
            entry.stop.set_result(error)

    def stop_each(self, entries: Iterable[Entry], reason: str) -> None:
        """Cancels tasks: none of them begins after this."""

        def cancelled(task: Task) -> CorralError:
            return Cancelled(f'cannot finish task "{task.id}": {reason}', reason=reason)

        waiting: deque[Entry] = deque()
        for entry in entries:
            if entry.stop is None:
                waiting.append(entry)
            elif not entry.stop.done():
                entry.stop.set_result(cancelled(entry.task))
        self._end_soon_each(waiting, "cancelled", cancelled)

    def stop_children(self, task: Task, reason: str) -> None:
        """Cancels the tasks that a task has delegated."""
        if task.children:
            self.stop_each(filter(None, map(self._backlog.find, task.children)), reason)

    def abandon(self, entries: Iterable[Entry]) -> None:
        """Ends as failed the tasks of an agent that was removed."""
        self._end_soon_each(deque(entries), "failed", gone)

    def _end_soon_each(self, waiting: deque[Entry], state: TaskState, why: ErrorOf) -> None:
        if waiting:
            self._put_down_each(waiting)
            self.keep(self._writer.end_each(waiting, state, why))

    async def end_each(self, waiting: Sequence[Entry], state: TaskState, why: ErrorOf) -> None:
        """Ends tasks that are not being executed, a few in each turn of the loop; none of them begins meanwhile."""
        self._put_down_each(waiting)
        await self._writer.end_each(deque(waiting), state, why)

    def _put_down_each(self, waiting: Iterable[Entry]) -> None:
        """Keeps tasks from being begun: as little as can be for each, because all of them are in this turn of the loop."""
        stop: asyncio.Future[CorralError] = self._loop.create_future()
        stop.set_result(Cancelled("cannot begin a task that is about to end"))
        for entry in waiting:
            entry.stop = stop
            self._backlog.dequeue(entry)

    def end_soon(self, entry: Entry, state: TaskState, error: CorralError) -> None:
        """Ends a task that is not being executed."""
        self._put_down_each([entry])
        self.keep(self.end(entry, state, error))

    def watch(self, entry: Entry) -> None:
        """Ends a task at its deadline, in whatever state it is then."""
        if entry.task.deadline_at is not None:
            due = datetime.fromisoformat(entry.task.deadline_at).timestamp()
            left_s = max(due - time.time(), 0.0)
            entry.deadline = self._loop.call_later(left_s, self._expire, entry)

    def _expire(self, entry: Entry) -> None:
        task = entry.task
        if entry.is_ending:
            return
        if entry.accepted is not None:  # its record is being written
            entry.deadline = self._loop.call_later(RETRY_AFTER_S, self._expire, entry)
            return
        why = f": {task.reason}" if task.reason else ""
        text = f'cannot finish task "{task.id}" by its deadline {task.deadline_at}{why}'
        self.stop(entry, Timeout(text, limit="deadline_s", value=task.deadline_at))

    async def end(
        self, entry: Entry, state: TaskState, error: CorralError | None = None, *, output: object = None
    ) -> None:
        """Ends a task; when the store refuses that for good, the next daemon finds the task as the store has it."""
        self._accounting.settle(entry)
        try:
            await self._writer.end(entry, state, error=error, output=output)
        except CorralError as refusal:
            logger.warning("cannot write down the end of task %s: %s", entry.task.id, refusal)


class _Place:
    """Holds a place on a worker, which is released once."""

    __slots__ = ("_is_held", "_moments", "_scheduler", "_supervisor", "_task")

    def __init__(self, scheduler: Scheduler, supervisor: WorkerSupervisor, task: Task) -> None:
        self._scheduler = scheduler
        self._supervisor = supervisor
        self._task = task
        self._is_held = True
        self._moments = supervisor.shared.task_moments.begin(task.id, supervisor.id)

    def end_lines(self) -> None:
        """Ends what its worker prints for it: its log has all of this task before another begins."""
        if self._moments.end_ns is None:
            if self._supervisor.life is not None:
                self._supervisor.life.catch_up()
            self._moments.end_ns = time.time_ns()

    def release(self) -> None:
        """Releases it to the next task; a second time is harmless."""
        if self._is_held:
            self._is_held = False
            self.end_lines()
            self._scheduler.release(self._supervisor, self._task)


def _peak_of(life: Incarnation, pid: int) -> int | None:
    """Returns the most memory that an incarnation has used so far, in bytes."""
    return peak_bytes(pid, life.parent.cgroup_of(life.unit))


def _is_unseen(entry: Entry) -> bool:
    """Returns True if no worker was sent the attempt that has just ended."""
    return entry.attempt is not None and not entry.attempt.is_handed_over


def gone(task: Task) -> NotFound:
    """Returns why a task whose agent was removed cannot be executed."""
    return NotFound(f'cannot run task "{task.id}": agent "{task.agent}" is gone', name=task.agent)
