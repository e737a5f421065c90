"""Ends tasks: those that are not being executed at once, those that are by their `stop`; each has one end.

An end that the store refuses for good leaves the task as the store has it, for the next daemon. Starts nothing, and must
not know workers or queues.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime

from msgspec.structs import replace

from corral.worker.contract.errors import Cancelled, CorralError, NotFound, Timeout
from corral.worker.contract.records import Task, TaskState
from corral.worker.contract.steps import is_key

from .accounting import Accounting
from .attempt import state_of
from .backlog import Entry
from .record_writer import RETRY_AFTER_S, ErrorOf, RecordWriter

CLOSE_S = 10.0
"""Seconds that unfinished writes are waited for when the daemon stops."""

logger = logging.getLogger(__name__)


class Endings:
    """Ends the tasks of one daemon."""

    def __init__(self, writer: RecordWriter, accounting: Accounting) -> None:
        self._writer = writer
        self._backlog = writer.backlog
        self._accounting = accounting
        self._running: set[asyncio.Task[None]] = set()
        self._is_held = False
        self._loop = asyncio.get_running_loop()
        writer.subscribe_to_ends(lambda entry: self.stop_children(entry.task, "the task that delegated it has ended"))

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Runs a coroutine whose end `close` waits for."""
        task = self._loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def hold(self) -> None:
        """Ends nothing at its deadline, until `release`."""
        self._is_held = True

    def release(self) -> None:
        """Ends tasks at their deadlines again; those that are late in a moment."""
        self._is_held = False

    @property
    def under_way(self) -> int:
        """Returns the number of attempts that run, and of ends that are being written."""
        return len(self._running)

    async def close(self) -> None:
        """Waits for attempts and ends that are still being written; their workers are gone."""
        if self._running:
            _, late = await asyncio.wait(set(self._running), timeout=CLOSE_S)
            for each in late:
                each.cancel()

    async def end(
        self, entry: Entry, state: TaskState, error: CorralError | None = None, *, output: object = None
    ) -> None:
        """Ends a task; when the store refuses that for good, the next daemon finds the task as the store has it."""
        self._accounting.settle(entry)
        try:
            await self._writer.end(entry, state, error=error, output=output)
        except CorralError as refusal:
            logger.warning("cannot write down the end of task %s: %s", entry.task.id, refusal)

    async def settle(self, entry: Entry, tokens: int, cost_cents: float) -> None:
        """Takes in what a task that has its answer has used: what was measured, else what its agent reports."""
        await self._accounting.settled(entry)
        self._accounting.record_usage(entry, tokens, cost_cents)

    def end_soon(self, entry: Entry, state: TaskState, error: CorralError) -> None:
        """Ends a task that is not being executed."""
        self._put_down_each([entry])
        self.keep(self.end(entry, state, error))

    async def end_each(self, waiting: Sequence[Entry], state: TaskState, why: ErrorOf) -> None:
        """Ends tasks that are not being executed, a few in each turn of the loop; none of them begins meanwhile."""
        self._put_down_each(waiting)
        await self._writer.end_each(deque(waiting), state, why)

    def refuse(self, entry: Entry, error: BaseException) -> None:
        """Removes a new task that the store has not taken: it has never been."""
        self._backlog.remove(entry)
        self._accounting.remove_child(entry, is_refused=True)
        assert entry.accepted is not None, "an accepted task is not refused"
        entry.accepted.set_exception(error)
        entry.accepted.exception()  # perhaps its caller has hung up
        entry.ended.set()  # for a parent that knows it, or an emergency stop

    async def take_back(self, entry: Entry, error: CorralError) -> bool:
        """Takes back a start that the store has refused; returns whether the task, which waits again, is to begin later."""
        if entry.is_ending:
            return False  # the daemon is stopping: the next one finds it as the store has it
        stop, entry.stop = entry.stop, None
        if entry.accepted is not None:
            self.refuse(entry, error)
            return False
        task = entry.task
        # A running one has begun in the store alone: its session or checkpoint could not be read.
        in_vain = task.state == "running" and task.kind == "task"
        again = replace(
            task,
            state="queued",
            worker=None,
            attempt=task.attempt - in_vain,
            delivery=task.delivery - entry.is_unseen,
            reason=error.message,
        )
        self._backlog.replace(entry, again)
        entry.attempt = None
        if stop is not None and stop.done():
            await self.end(entry, state_of(stop.result()), stop.result())
            return False
        return True

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

    def stop_children(self, task: Task, reason: str, *, spares_steps: bool = False) -> None:
        """Cancels the tasks that a task has delegated; with `spares_steps` not those that its next beginning awaits again."""
        found = filter(None, map(self._backlog.find, task.children))
        self.stop_each([e for e in found if not (spares_steps and is_key(e.task.idempotency_key))], reason)

    def abandon(self, entries: Iterable[Entry]) -> None:
        """Ends as failed the tasks of an agent that was removed."""
        self._end_soon_each(deque(entries), "failed", agent_gone)

    def _end_soon_each(self, waiting: deque[Entry], state: TaskState, why: ErrorOf) -> None:
        if waiting:
            self._put_down_each(waiting)
            self.keep(self._writer.end_each(waiting, state, why))

    def _put_down_each(self, waiting: Iterable[Entry]) -> None:
        """Keeps tasks from being begun: as little as can be for each, because all of them are in this turn of the loop."""
        stop: asyncio.Future[CorralError] = self._loop.create_future()
        stop.set_result(Cancelled("cannot begin a task that is about to end"))
        for entry in waiting:
            entry.stop = stop
            self._backlog.dequeue(entry)

    def watch_deadline(self, entry: Entry) -> None:
        """Ends a task at its deadline, in whatever state it is then."""
        if entry.task.deadline_at is not None:
            due = datetime.fromisoformat(entry.task.deadline_at).timestamp()
            entry.deadline = self._loop.call_later(max(due - time.time(), 0.0), self._expire, entry)

    def _expire(self, entry: Entry) -> None:
        task = entry.task
        if entry.is_ending:
            return
        if entry.accepted is not None or self._is_held:  # its record is being written, or another program ends it
            entry.deadline = self._loop.call_later(RETRY_AFTER_S, self._expire, entry)
            return
        self.stop(entry, past_deadline(task, task.reason))


def past_deadline(task: Task, why: str) -> Timeout:
    """Returns why a task ends at its deadline; `why` is what it waits for, "" for nothing."""
    text = f'cannot finish task "{task.id}" by its deadline {task.deadline_at}'
    return Timeout(f"{text}: {why}" if why else text, limit="deadline_s", value=task.deadline_at)


def not_begun_in_time(task: Task, limit_s: float, why: str) -> Timeout:
    """Returns why a task ends that no worker took within queue_timeout."""
    text = f'cannot start task "{task.id}" within {limit_s:g} s (queue_timeout)'
    return Timeout(f"{text}: {why}" if why else text, limit="queue_timeout", value=limit_s)


def agent_gone(task: Task) -> NotFound:
    """Returns why a task whose agent was removed cannot be executed."""
    return NotFound(f'cannot run task "{task.id}": agent "{task.agent}" is gone', name=task.agent)
