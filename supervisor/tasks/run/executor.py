"""Executes tasks on workers: one attempt after another until the end, with the processor time and the memory that they use.

An attempt is committed before the worker is sent it, an end before it is announced. While an end is being written its
worker is free already, and the next attempt is committed together with it. Must not know which task is next: whoever begins an
attempt is told, see `Scheduler`.
"""

import asyncio
import logging
import random
import time
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.records.store.batch import Writing
from corral.supervisor.records.store.store import Statement
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.workers.supervision.checkpoints import Checkpoints
from corral.supervisor.workers.supervision.incarnation import Incarnation
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.line import CorralLine
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.usage.task_usage import Meters, peak_bytes
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    Corrupted,
    InternalError,
    Overloaded,
    ResourceLimitExceeded,
    WorkerFailed,
)
from corral.worker.contract.records import Task
from corral.worker.contract.worker_messages import TaskResult

from .attempt import (
    Alarms,
    Attempt,
    AttemptHandover,
    BrokenOff,
    Failed,
    Outcome,
    Succeeded,
    given_up,
    is_breach,
    state_of,
)
from .backlog import Backlog, Entry
from .cluster import is_on_engine
from .endings import Endings
from .record_writer import REASON_CHARS, RETRY_AFTER_S, RecordWriter
from .task_rules import Attempted, TaskRules, retries, retry_delay_s


class TaskMeters:
    """Measures the tasks of one daemon, from the samples of its workers."""

    def __init__(self, limits: LimitEnforcer, backlog: Backlog) -> None:
        self._limits = limits
        self._backlog = backlog
        self._meters = Meters()

    def begin(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Begins to measure what the worker uses for a task."""
        pid, life, limits = supervisor.worker.pid, supervisor.life, self._limits
        if pid is not None and life is not None:
            peak = partial(_peak_of, life, pid)
            rss_bytes, cpu_s = limits.sample(supervisor).rss_bytes, limits.cpu_s(supervisor)
            entry.meter = self._meters.begin(life.unit, pid, peak, rss_bytes, cpu_s)

    def end(self, entry: Entry, supervisor: WorkerSupervisor) -> None:
        """Adds what an attempt has used to its task."""
        meter, limits = entry.meter, self._limits
        if meter is not None:
            self._meters.end(meter, limits.sample(supervisor).rss_bytes, limits.cpu_s(supervisor))
            entry.cpu_ns += meter.cpu_ns
            entry.peak_memory_bytes = max(entry.peak_memory_bytes, meter.most_bytes)
            entry.meter = None

    def note_sample(self, supervisor: WorkerSupervisor) -> None:
        """Takes a new sample of what a worker uses, for the tasks that it runs."""
        if not supervisor.running:
            return
        rss_bytes = self._limits.sample(supervisor).rss_bytes
        for task_id in supervisor.running:
            entry = self._backlog.find(task_id)
            if entry is not None and entry.meter is not None:
                entry.meter.note(rss_bytes)


def _peak_of(life: Incarnation, pid: int) -> int | None:
    return peak_bytes(pid, life.parent.cgroup_of(life.unit))


MAX_PAUSE_S = 3600.0
"""Seconds before the next attempt that an agent can ask for by `retry_after_s` of Overloaded, at most."""

logger = logging.getLogger(__name__)


class Scheduler(Protocol):
    """Begins attempts, and is told what to decide next."""

    def enqueue(self, entry: Entry) -> None:
        """Enters a task that waits for its next attempt."""

    def release(self, supervisor: WorkerSupervisor, task: Task) -> None:
        """Frees the place of a task on a worker for the next one."""

    def hold_off(self, agent: str) -> None:
        """Starts nothing for a while, since the store refuses writes; the agent's queue then goes on."""


class Sessions(Protocol):
    """Keeps the state of agents from one task of a session to the next."""

    def started(self, task: Task) -> None:
        """Notes that an attempt of a task begins."""

    def ended(self, task: Task) -> None:
        """Notes that a task has ended; it is in the store."""

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        """Returns the `memory` that is sent to the worker."""
        ...

    def keep(self, task: Task, answer: object) -> tuple[Statement, ...]:
        """Returns the statements to write with the end of a task; `answer` is the worker's `memory`, None if it sent none."""
        ...

    def kept(self, task: Task) -> None:
        """Notes that the statements of `keep` are durable."""

    def dropped(self, task: Task) -> None:
        """Notes that the statements of `keep` have not been written, and will not be."""


class Executor:
    """Executes the tasks of one daemon on its workers."""

    def __init__(
        self,
        writer: RecordWriter,
        endings: Endings,
        rules: TaskRules,
        checkpoints: Checkpoints,
        sessions: Sessions,
        meters: TaskMeters,
        tracing: Tracing,
    ) -> None:
        self._writer = writer
        self._backlog = writer.backlog
        self._endings = endings
        self._rules = rules
        self._checkpoints = checkpoints
        self._sessions = sessions
        self._meters = meters
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self._alarms = Alarms()

    def close(self) -> None:
        """Cancels the deadlines of attempts; none is running any more."""
        self._alarms.close()

    def hold(self) -> None:
        """Ends no attempt by its time, until `release`."""
        self._alarms.hold()

    def release(self) -> None:
        """Ends attempts by their time again."""
        self._alarms.release()

    def begin(self, entry: Entry, supervisor: WorkerSupervisor, scheduler: Scheduler) -> None:
        """Gives a task to a worker: its record is committed with the other writes of this turn of the loop."""
        task = entry.task
        if entry.timer is not None:
            entry.cancel_timer()
        entry.stop = self._loop.create_future()
        entry.progress_due = 0.0
        entry.limits = self._rules.limits(task, supervisor.worker.spec.resources)
        started = begun(task, supervisor.worker.id)
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
        self._endings.keep(self._run(entry, attempt, _Place(scheduler, supervisor, started), written))

    def take_up(self, entry: Entry, supervisor: WorkerSupervisor, scheduler: Scheduler, left: AttemptHandover) -> None:
        """Goes on with an attempt that another program of the daemon has left; the worker is sent nothing."""
        task = entry.task
        entry.stop = self._loop.create_future()
        entry.limits = self._rules.limits(task, supervisor.worker.spec.resources)
        attempt = Attempt(task, entry.limits, entry.size_bytes, supervisor, entry.stop, self._alarms)
        line = None if supervisor.life is None else supervisor.life.line
        answer = line.answers[left.request] if isinstance(line, CorralLine) else None
        assert answer is not None, "a worker that runs tasks speaks corral"
        attempt.take_up(left, answer)
        entry.attempt = attempt
        self._sessions.started(task)
        self._endings.keep(self._run(entry, attempt, _Place(scheduler, supervisor, task), None))

    def _begin_now(self, entry: Entry, attempt: Attempt, started: Task) -> Writing | None:
        """Starts an attempt that needs no write; a defect in this ends the attempt, not the dispatcher."""
        try:
            entry.attempt = attempt
            self._writer.start(entry, started)
        except Exception as error:
            broken: Writing = self._loop.create_future()
            broken.set_exception(error)
            return broken
        return None

    async def _run(self, entry: Entry, attempt: Attempt, place: "_Place", written: Writing | None) -> None:
        started = place.task
        self._meters.begin(entry, place.supervisor)
        try:
            outcome = await self._outcome(entry, attempt, started, written)
            self._meters.end(entry, place.supervisor)
            if isinstance(outcome, BrokenOff):
                await self._break_off(entry, attempt, outcome, place)
                return
            place.end_lines()
            entry.answered_at = rfc3339(time.time())
            if isinstance(outcome, Succeeded) and self._is_alone(started):
                await self._succeed(entry, outcome.result, place)
                # The caller is answered before others learn that its worker is free.
                await asyncio.sleep(0)
                return
            # The worker is free for the next, whose attempt is committed with this one's end.
            place.release()
            if isinstance(outcome, Succeeded):
                await self._succeed(entry, outcome.result, place)
            else:
                await self._after_failure(entry, outcome, place)
        except CorralError as error:  # the store refuses: the task stays as it was
            logger.warning("cannot go on with task %s: %s", started.id, error)
            if isinstance(error, Overloaded):
                place.scheduler.hold_off(started.agent)
            place.release()
            if await self._endings.take_back(entry, error):
                self._loop.call_later(RETRY_AFTER_S, place.scheduler.enqueue, entry)
        except Exception as error:  # a defect of ours must not keep the task, or block its callers
            logger.exception("cannot go on with task %s", started.id)
            attempt.withdraw("the daemon cannot go on with it")
            place.release()
            defect = InternalError(f'cannot go on with task "{started.id}": {error!r}'[:1000])
            await self._endings.end(entry, "failed", defect)
        finally:
            place.release()

    def _is_alone(self, task: Task) -> bool:
        """Returns True if neither a write nor another task gains anything from its worker being free sooner."""
        is_written = task.durable or task.session is not None
        return not is_written and not self._backlog.is_waiting(task.agent)

    async def _outcome(self, entry: Entry, attempt: Attempt, started: Task, written: Writing | None) -> Outcome:
        assert entry.stop is not None, "it was given to a worker"
        if written is not None:
            await written
            entry.attempt = attempt
            self._writer.start(entry, started)
        if entry.stop.done() and not attempt.is_handed_over:
            return Failed(entry.stop.result(), died=False, put_down=False)
        more: dict[str, object] = {}
        try:
            if attempt.is_again:
                more |= await self._checkpoint(started.id)
            more |= await self._kept_steps(entry, attempt)
        except Corrupted as error:  # what is not known to be done is not done twice
            return Failed(error, died=False, put_down=False)
        if started.session is not None:
            try:
                more["memory"] = await self._sessions.recall(started.agent, started.session)
            except Overloaded:
                raise
            except CorralError as error:
                return Failed(error, died=False, put_down=False)
        return await attempt.outcome(more)

    async def _checkpoint(self, task_id: str) -> dict[str, object]:
        try:
            return await self._checkpoints.of_task(task_id)
        except Corrupted as error:  # it begins anew, then
            logger.warning("task %s begins without its checkpoint: %s", task_id, error)
            return {}

    async def _kept_steps(self, entry: Entry, attempt: Attempt) -> dict[str, object]:
        """Returns the `steps` of the params of `task/run`: what an earlier beginning of the task has done."""
        task = entry.task
        if not (task.durable or is_on_engine(task.id)) or not (attempt.is_again or task.retry_of):
            return {}
        found = await self._writer.steps.page(task)
        order = attempt.supervisor.worker.spec.tasks.step_order
        return {"steps": {"order": order, **found}} if found["kept"] else {}

    async def _succeed(self, entry: Entry, result: TaskResult, place: "_Place") -> None:
        await self._endings.settle(entry, result.tokens_used, result.cost_cents)
        if entry.stop is not None and entry.stop.done() and is_breach(entry.stop.result()):
            await self._endings.end(entry, "failed", entry.stop.result())
            return
        task, sessions = entry.task, self._sessions
        if task.session is None:
            await self._endings.end(entry, "succeeded", output=result.output)
            return
        try:
            statements = sessions.keep(task, result.memory)
        except CorralError as error:
            await self._after_failure(entry, Failed(error, died=False, put_down=False), place)
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
            await self._after_failure(entry, Failed(refusal, died=False, put_down=False), place)

    async def _break_off(self, entry: Entry, attempt: Attempt, over: BrokenOff, place: "_Place") -> None:
        """Ends the record at once, unless the task is retried: then when the worker has let go of it."""
        late = Attempted(died=False, late=over.state == "timeout", error=over.error.name)
        is_at_deadline = entry.stop is not None and entry.stop.done()
        if late.late and not is_at_deadline and retries(self._rules.retry_policy(entry.task), entry.task.attempt, late):
            await attempt.let_go(over.state)
            place.release()
            await self._after_failure(entry, Failed(over.error, died=False, put_down=False), place, late)
            return
        await self._endings.end(entry, over.state, over.error)
        await attempt.let_go(over.state)

    async def _after_failure(
        self, entry: Entry, failed: Failed, place: "_Place", ended: Attempted | None = None
    ) -> None:
        task, policy = entry.task, self._rules.retry_policy(entry.task)
        if entry.stop is not None and entry.stop.done():
            stopped = entry.stop.result()
            await self._endings.end(entry, state_of(stopped), stopped)
            return
        if ended is None:
            ended = Attempted(failed.died, counts=not failed.put_down, error=failed.error.name)
        if not retries(policy, task.attempt, ended):
            died = failed.died and isinstance(failed.error, WorkerFailed)
            await self._endings.end(entry, "failed", given_up(task, failed.error) if died else failed.error)
            return
        reason = failed.error.message[:REASON_CHARS]
        again = replace(
            task,
            state="queued",
            worker=None,
            attempt=task.attempt - failed.put_down,
            delivery=task.delivery - entry.is_unseen,
            reason=reason,
        )
        self._backlog.replace(entry, again)
        entry.stop = entry.attempt = None
        entry.answered_at = ""
        if not self._writer.is_closing:
            self._endings.stop_children(task, "the attempt that delegated it has failed", spares_steps=True)
        written = self._writer.save(entry, again)
        if written is not None:
            await written
        if entry.is_begun:
            return  # it was stopped meanwhile
        self._tracing.retried(task, failed.error)
        self._writer.publish("task.retried", task, {"reason": reason})
        entry.notify()
        # The first retry of a task whose worker died needs no wait: the worker's own start is one.
        if failed.put_down or (failed.died and not failed.remote and task.attempt == 1):
            place.scheduler.enqueue(entry)
            return
        delay_s = retry_delay_s(policy, task.attempt, random.random())
        asked_s = failed.error.data.get("retry_after_s")
        if isinstance(failed.error, Overloaded) and isinstance(asked_s, int | float):
            delay_s = max(delay_s, min(asked_s, MAX_PAUSE_S))
        self._loop.call_later(delay_s, place.scheduler.enqueue, entry)


class _Place:
    """Holds a place on a worker, which is released once."""

    __slots__ = ("_is_held", "_moments", "scheduler", "supervisor", "task")

    def __init__(self, scheduler: Scheduler, supervisor: WorkerSupervisor, task: Task) -> None:
        self.scheduler = scheduler
        self.supervisor = supervisor
        self.task = task
        self._is_held = True
        self._moments = supervisor.shared.task_moments.begin(task.id, supervisor.id)

    def end_lines(self) -> None:
        """Ends what its worker prints for it: its log has all of this task before another begins."""
        if self._moments.end_ns is None:
            if self.supervisor.life is not None:
                self.supervisor.life.catch_up()
            self._moments.end_ns = time.time_ns()

    def release(self) -> None:
        """Releases it to the next task; a second time is harmless."""
        if self._is_held:
            self._is_held = False
            self.end_lines()
            self.scheduler.release(self.supervisor, self.task)


def begun(task: Task, worker: str | None = None) -> Task:
    """Returns the record of a task whose attempt begins, on a worker or on none."""
    return replace(
        task,
        state="running",
        worker=worker,
        attempt=task.attempt + 1,
        delivery=task.delivery + 1,
        started_at=rfc3339(time.time()),
        finished_at=None,
        tool_calls=0,
        reason="",
    )
