"""Offers what callers do with tasks: submit, find, list, wait for and cancel them.

A task is committed before it is acknowledged, an attempt before it is dispatched, an end before it is announced. Writes
of one moment are committed together: a task that finds a free worker with its first attempt, the end of one with
the attempt of the next. `submission` takes tasks; which agent one is for is decided in `routing`, which task is next
in `queue`, on which worker in `dispatcher`; `executor` runs it, `record_writer` writes it.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

from corral.supervisor.agents.rollout.roll import Try
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Cancelled, CorralError, NotFound, Overloaded
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import ENDED, Boundaries, Retry, Task, TaskParams

from .accounting import Accounting
from .admission import Admission
from .backlog import Entry, Origin, Progress, TaskHandover
from .buffer import PartBuffer
from .composite import CompositeRunner
from .dispatcher import Dispatcher
from .endings import Endings
from .record_writer import RETRY_AFTER_S, RecordWriter
from .submission import Submission

HALT_S = 10.0
"""Seconds that an emergency stop waits for its ends to be written."""


class Tasks:
    """Accepts, runs and ends the tasks of one daemon."""

    def __init__(
        self,
        writer: RecordWriter,
        admission: Admission,
        accounting: Accounting,
        endings: Endings,
        composites: CompositeRunner,
        dispatcher: Dispatcher,
        submission: Submission,
    ) -> None:
        self._writer = writer
        self._backlog = writer.backlog
        self._admission = admission
        self._endings = endings
        self._composites = composites
        self.records = writer.records
        self.steps = writer.steps
        self.accounting = accounting
        self.budgets = accounting.budgets
        self.dispatcher = dispatcher
        self.submit = submission.submit
        self.note_refused = submission.note_refused
        self.next_end, self.find, self.show, self.list = writer.next_end, writer.find, writer.show, writer.list
        self.queued, self.running, self.kind = writer.backlog.queued, writer.backlog.running, admission.kind
        self.announce, self.announce_end = writer.announce, writer.announce_end

    @property
    def refused(self) -> Mapping[str, int]:
        """Returns how many tasks found a full queue, by agent, or by the key of the queue of all agents."""
        return self._admission.refused

    def boot(self) -> None:
        """Starts the tasks of teams and workflows: by now it is known which agents are wanted for their steps."""
        self.dispatcher.boot()

    async def close(self) -> None:
        """Waits for attempts that are still being written; their workers are gone."""
        await asyncio.gather(self._composites.close(), self._endings.close())
        self.dispatcher.close()

    # -- from one program of the daemon to the next

    def obstacles(self) -> list[str]:
        """Returns what no other program can go on with, each in words."""
        found = [words for entry in self._backlog if (words := entry.obstacle)]
        running = sum(entry.task.state == "running" for entry in self._backlog)
        return found or (["the end of a task is being written"] if self._endings.under_way > running else [])

    def hold(self) -> None:
        """Begins no task and ends none by its time, until `release`: what was handed over would not be so any more."""
        self._endings.hold()
        self.dispatcher.pause()

    def release(self) -> None:
        """Begins and ends tasks again."""
        self._endings.release()
        self.dispatcher.resume()

    def hand_over(self) -> tuple[TaskHandover, ...]:
        """Returns the tasks with which the next program goes on and that it does not find in the store as they are."""
        return tuple(e.hand_over() for e in self._backlog if e.task.state == "running" or not e.task.durable)

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

    async def wait(self, task_id: str, *, listener: Progress | None = None) -> Task:
        """Returns the record of a task when it has ended; `listener` is called with its record at each change."""
        entry = self._backlog.find(task_id)
        if entry is None:
            return await self.show(task_id)
        if listener is not None:
            entry.listeners.append(listener)
            if entry.task.reason or entry.task.state == "running":
                listener(entry.task)
        entry.waiters += 1
        try:
            await entry.ended.wait()
        finally:
            entry.waiters -= 1
            if listener is not None:
                entry.listeners.remove(listener)
        return _ended(entry)

    def parts(self, task_id: str) -> PartBuffer | None:
        """Returns what a task streams; None for one that ended a while ago."""
        entry, accounting = self._backlog.find(task_id), self.accounting
        return accounting.part_buffers.of_ended(task_id) if entry is None else accounting.parts(entry)

    async def cancel(self, task_id: str, reason: str = "cancelled on request") -> Task:
        """Cancels a task and those that it delegated; one that has ended stays as it is."""
        entry = self._backlog.find(task_id)
        if entry is None:
            return await self.show(task_id)
        self._endings.stop(entry, Cancelled(f'cannot finish task "{task_id}": {reason}', reason=reason))
        await entry.ended.wait()
        return _ended(entry)

    async def cancel_all(self, tenant: str) -> None:
        """Cancels every task of a tenant, and waits until their ends are written."""
        entries = [entry for entry in self._backlog if tenant_of(entry.task.agent) == tenant]
        self._endings.stop_each(entries, f"the tenant {tenant} is removed")
        await self.halted([entry.task.id for entry in entries])
        self.budgets.forget(tenant)

    def halt(self) -> tuple[str, ...]:
        """Cancels every task, for which `halted` then waits, and returns their ids; none of them begins after this."""
        entries = tuple(self._backlog)
        self._backlog.empty_queues()
        self._endings.stop_each(entries, "an emergency stop")
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


def _ended(entry: Entry) -> Task:
    task = entry.task
    if task.state not in ENDED:
        raise NotFound(f'cannot find task "{task.id}": it was not taken', task=task.id)
    return task


def smoke_of(tasks: Tasks) -> Try:
    """Returns the function that runs a smoke task; it returns why the task has failed, "" if it has not."""

    async def attempt(supervisor: WorkerSupervisor, spec: Spec) -> str:
        smoke = spec.smoke
        assert smoke is not None, "it is tried where one is asked for"
        params = TaskParams(
            smoke.objective,
            agent=spec.name,
            input=smoke.input,
            boundaries=Boundaries(timeout_s=smoke.timeout),
            retry=Retry(max_attempts=1, retry_on="never"),
        )
        try:
            task = await tasks.submit(params, Origin(only=supervisor))
        except CorralError as error:
            return error.message
        try:
            ended = await tasks.wait(task.id)
        except asyncio.CancelledError:
            with contextlib.suppress(CorralError):
                await tasks.cancel(task.id, "the change that it was to try is taken back")
            raise
        except CorralError as error:
            return error.message
        if ended.state == "succeeded":
            return ""
        return ended.error.message if ended.error is not None else f"it is {ended.state}"

    return attempt
