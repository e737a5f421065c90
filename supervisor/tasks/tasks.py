"""Tasks: acknowledged, queued, given to one worker at a time, ended once in the record.

A task is committed before it is acknowledged, an attempt before it is dispatched, an end before it is
told. What comes together is committed together: a task that finds a free worker with its first attempt, the
end of one with the attempt of the next. Which task is next, on which worker, and what follows a failed attempt is
decided in `turns` and `schedule`; who is taken in `admission`, who is given to a worker in `assignment`; what is
written and told in `ledger`.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from weakref import WeakValueDictionary

from msgspec.structs import replace

from ...worker.contract.control_params import TaskListParams
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
from ...worker.contract.records import ENDED, Task, TaskKind, TaskParams
from ..agents.agent import Agent
from ..agents.agents import Agents
from ..store.batch import Writing
from ..supervision.worker_supervisor import Shared
from .admission import Admission, limits_of
from .attempt import words_bytes
from .backlog import Entry, Progress
from .boundaries import normalised, within
from .dependencies import doomed, reason_of
from .dispatcher import Assignment
from .executor import gone
from .output_format import check_format
from .policy import Attempted, policy, retries
from .record_writer import RETRY_AFTER_S, RecordWriter
from .table import Page, Records

HALT_S = 10.0
"""How long an emergency stop waits for its ends to be written down."""

logger = logging.getLogger(__name__)


class Tasks(Assignment):
    """The tasks of one daemon."""

    def __init__(self, shared: Shared, agents: Agents) -> None:
        ledger = RecordWriter(shared, self._on_end)
        ledger.is_closing = lambda: agents.draining
        super().__init__(
            ledger, agents, Admission(agents, ledger.backlog, lambda: self.hibernation)
        )
        self.ended = ledger.listeners
        """Called with every record that has ended."""
        self._arriving = WeakValueDictionary[str, asyncio.Lock]()

    # -- from an earlier daemon

    async def load(self) -> None:
        """Takes up what an earlier daemon left: queued tasks wait on, begun ones follow retry_on."""
        self._early = []
        self.counts |= await self.records.counts()
        now, here = time.time(), self._loop.time()
        entries: list[Entry] = []
        for task, created in await self.records.unfinished():
            agent = self.agents.agents.get(task.agent) if task.kind == "task" else None
            due = None
            if task.scheduled_at is not None:
                due = datetime.fromisoformat(task.scheduled_at).timestamp()
            since = here - max(0.0, now - max(created, due or created))
            entry = Entry(task, created, limits_of(task, agent), since, words_bytes(task), due)
            self._backlog.add(entry)
            entries.append(entry)
        for entry in entries:
            await self._take_up(entry)

    async def _take_up(self, entry: Entry) -> None:
        task = entry.task
        if self.agents.emergency_stop is not None:
            halted = Cancelled(f'cannot finish task "{task.id}": an emergency stop')
            self._keep(self._end(entry, "cancelled", halted))
            return
        if task.parent is not None:
            above = self._backlog.find(task.parent)
            if above is None or above.task.kind == "task":
                # Whoever delegated it begins again, and delegates again.
                reason = "the daemon died while another task waited for it"
                orphaned = Cancelled(f'cannot finish task "{task.id}": {reason}', reason=reason)
                self._keep(self._end(entry, "cancelled", orphaned))
                return
            self.adopt(entry)
        if task.state == "running" and task.kind == "task":
            agent = self.agents.agents.get(task.agent)
            ended = Attempted(died=True, error=WorkerFailed.__name__)
            if agent is None or not retries(
                policy(agent.spec.tasks, task.retry), task.attempt, ended
            ):
                died = WorkerFailed(
                    f'cannot finish task "{task.id}": the daemon died while it ran',
                    worker=task.worker,
                    result="daemon-gone",
                )
                self._keep(self._end(entry, "failed", died if agent is not None else gone(task)))
                return
            again = replace(task, state="queued", worker=None, reason="the daemon died")
            self._backlog.put(entry, again)
        elif task.state == "queued" and task.started_at is None and task.after:
            await self._block(entry, is_new=False)
        self._settle(entry)

    # -- asking

    async def submit(
        self,
        params: TaskParams,
        *,
        parent: Task | None = None,
        step: str = "",
        schedule: str | None = None,
        retry_of: str | None = None,
    ) -> Task:
        """The acknowledged task as it was taken: if it is durable, it is in the store.

        With an idempotency key that was given before it is the task of then, whatever has become of it.

        Raises:
            InvalidParams: it is not asked for as it has to be; `data` has `key`.
            NotFound: no such agent, none with the capabilities, or no task of those in `after`.
            Conflict: the agent is stopped, or speaks no protocol that takes tasks; the key was given to another task.
            Overloaded: the queue is full; `data` has `retry_after_s`.
            ShuttingDown: the daemon is stopping.
        """
        self._check_open()
        params = normalised(params)
        check_format(params.output_format)
        kind = self._kind(params.agent)
        able = [] if kind != "task" else self.admission.candidates(params)
        if parent is not None:
            able = self._of_team(parent, params, able)
        take = partial(
            self._take,
            params,
            kind,
            able,
            parent=parent,
            step=step,
            schedule=schedule,
            retry_of=retry_of,
        )
        key = params.idempotency_key
        if key is None:
            return await take()
        if not step:
            self.check_is_no_step(key)
        lock = self._arriving.setdefault(key, asyncio.Lock())
        async with lock:  # of two that come at once the second sees the first
            names = [agent.name for agent in able] or [str(params.agent)]
            known = await self.ledger.known(names, key)
            return await take() if known is None else await self._known(known, params, parent)

    async def note_refused(
        self, params: TaskParams, error: CorralError, *, parent: Task, step: str
    ) -> Task:
        """The record of a part of a task that was not taken: it has failed with this, under every later daemon too.

        Raises:
            Conflict: its key was given to another task.
            CorralError: there is no room for it, or the daemon is stopping.
        """
        self._check_open()
        params = normalised(params)
        entry = self.admission.entry(
            params.agent or "",  # of a capability that nobody has, it is nobody's
            params,
            within(params.boundaries, self.check_may_delegate(parent)),
            kind=self._kind(params.agent),
            parent=parent,
            step=step,
        )
        self.adopt(entry)
        try:
            await self.ledger.end(entry, "failed", error=error)
        except BaseException:
            self.leave_parent(entry, is_refused=True)
            raise
        return entry.task

    def _check_open(self) -> None:
        if self.agents.draining:
            raise ShuttingDown("cannot take the task: the daemon is stopping")
        self.agents.emergency.check("take the task")

    def _of_team(self, parent: Task, params: TaskParams, able: list[Agent]) -> list[Agent]:
        """Those of the agents to whom the parent may delegate: the members, where it leads a team.

        Raises:
            PermissionDenied: it leads one, and the child is for nobody of it.
        """
        members = None if self.workflows is None else self.workflows.members_for(parent)
        if members is None or params.agent in members:
            return able
        found = [agent for agent in able if agent.name in members]
        if not found:
            whom = params.agent or params.capability or ""
            raise PermissionDenied(
                f'cannot delegate to "{whom}": task "{parent.id}" leads a team of {", ".join(members)}',
                agent=params.agent,
                task=parent.id,
                members=list(members),
            )
        return found

    def _kind(self, name: str | None) -> TaskKind:
        found = None
        if name is not None and self.workflows is not None:
            found = self.workflows.kind(name)
        return found or "task"

    async def _known(self, known: Entry | Task, params: TaskParams, parent: Task | None) -> Task:
        """The task that was given the key before.

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
                self.adopt(known)
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
        *,
        parent: Task | None,
        step: str,
        schedule: str | None,
        retry_of: str | None,
    ) -> Task:
        if kind != "task":
            assert self.workflows is not None, "it said the kind"
            assert params.agent is not None, "the kind is that of a name"
            self.workflows.check(params)
            name = params.agent
            limit_s = self.workflows.timeout_s(name)
            if limit_s is not None:
                least_s = min(limit_s, params.boundaries.timeout_s or limit_s)
                params = replace(params, boundaries=replace(params.boundaries, timeout_s=least_s))
        else:
            agent = self.admission.chosen(able, params)
            self.admission.check(agent)
            name = agent.name
        boundaries = params.boundaries
        if parent is not None:
            boundaries = within(boundaries, self.check_may_delegate(parent))
        entry = self.admission.entry(
            name,
            params,
            boundaries,
            kind=kind,
            parent=parent,
            step=step,
            schedule=schedule,
            retry_of=retry_of,
        )
        if entry.task.after:
            await self._block(entry, is_new=True)
        try:
            if entry.task.after:  # it took a while
                self._check_open()
                if parent is not None:
                    self.check_may_delegate(parent)
            if parent is not None:
                self.check_can_run(entry.task, parent)
        except CorralError:
            self._waitlist.forget(entry)  # else it would begin when they have ended
            raise
        if reason := reason_of(entry):
            entry.task = replace(entry.task, reason=reason)
        taken = entry.task
        self._backlog.add(entry)
        self.adopt(entry)
        self._accept(entry)
        if entry.accepted is not None:
            # A caller who hangs up meanwhile does not take back what the store may have already.
            await asyncio.shield(entry.accepted)
        return taken

    async def _block(self, entry: Entry, *, is_new: bool) -> None:
        """Finds out which of the tasks in `after` have not ended; from then on their ends are noticed.

        Raises:
            NotFound: a new task names one that there is not.
            Conflict: a durable one would wait for one that is not, which the next daemon does not know.
        """
        task = entry.task
        ended: dict[str, Task | None] = {}
        while True:
            open_ones = {each for each in task.after if each not in ended}
            unseen = [each for each in open_ones if self._backlog.find(each) is None]
            if not unseen:
                break
            for each in unseen:
                ended[each] = await self._known_end(each, is_new=is_new)
        for each in task.after if task.durable and is_new else ():
            found = self.ledger.find(each) or self.ledger.volatile.find(each)
            if found is not None and not found.durable:
                raise Conflict(
                    f'cannot let a durable task wait for task "{each}": that is not durable',
                    key="after",
                    task=each,
                )
        for each, found in ended.items():
            if found is None or found.state != "succeeded":
                entry.doom = doomed(task.id, each, "unknown" if found is None else found.state)
                return
            if found.finished_at is not None:  # so long it has waited for its own turn
                freed = datetime.fromisoformat(found.finished_at).timestamp()
                entry.since = max(entry.since, self._loop.time() - max(0.0, time.time() - freed))
        entry.blockers = open_ones
        self._waitlist.add(entry)

    async def _known_end(self, task_id: str, *, is_new: bool) -> Task | None:
        """The record of a task that has ended; what is not known any more may not have succeeded."""
        try:
            return await self.ledger.show(task_id)
        except NotFound:
            if is_new:
                raise
        except Corrupted as error:
            logger.warning("%s", error)
        return None

    def _accept(self, entry: Entry) -> None:
        """Writes a new task down; one that can begin at once is written with its first attempt."""
        if not entry.task.durable:
            self._accepted(entry)
            return
        entry.accepted = self._loop.create_future()
        if entry.doom is None and not self._waitlist.holds(entry) and self._begin_at_once(entry):
            return
        written = self.ledger.save(entry, entry.task)
        assert written is not None, "what is durable is written"
        written.add_done_callback(partial(self._stored, entry))

    def _begin_at_once(self, entry: Entry) -> bool:
        task = entry.task
        if task.kind != "task":
            self._perform_soon(entry)
            return True
        if self._backlog.waiting(task.agent):
            return False
        self._backlog.line_up(entry)
        self.dispatch(task.agent)
        if not entry.is_begun:
            self._backlog.step_back(entry)
        return entry.is_begun

    def _stored(self, entry: Entry, written: Writing) -> None:
        error = None if written.cancelled() else written.exception()
        if written.cancelled() or error is not None:
            self._refuse(entry, error or ShuttingDown("cannot take the task: the store is closed"))
        else:
            self._accepted(entry)

    def _refuse(self, entry: Entry, error: BaseException) -> None:
        """The store has not taken a new task: it has never been."""
        self._backlog.drop(entry)
        self._waitlist.forget(entry)
        self.leave_parent(entry, is_refused=True)
        assert entry.accepted is not None, "what is taken is not refused"
        entry.accepted.set_exception(error)
        entry.accepted.exception()  # perhaps nobody waits any more
        entry.ended.set()  # for who knows it from its parent, or stops everything

    def _accepted(self, entry: Entry) -> None:
        accepted, entry.accepted = entry.accepted, None
        if accepted is not None:
            accepted.set_result(None)
        task = entry.task
        self.ledger.publish("task.queued", task, priority=task.priority, parent=task.parent)
        self._settle(entry)

    @property
    def records(self) -> Records:
        """The table of tasks."""
        return self.ledger.records

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks have ended, by how."""
        return self.ledger.counts

    @counts.setter
    def counts(self, counts: dict[str, int]) -> None:
        self.ledger.counts = counts

    def totals(self) -> dict[str, int]:
        """How many tasks there are, by what became of them; a timeout is a failure."""
        return {
            "queued": self._backlog.count("queued"),
            "running": self._backlog.count("running"),
            "succeeded": self.counts["succeeded"],
            "failed": self.counts["failed"] + self.counts["timeout"],
        }

    def find(self, task_id: str) -> Task | None:
        """The record of a task that has not ended."""
        return self.ledger.find(task_id)

    async def show(self, task_id: str) -> Task:
        """The record of a task.

        Raises:
            NotFound: there is none, or it has expired.
            Corrupted: it is there and cannot be read.
        """
        return await self.ledger.show(task_id)

    async def list(self, wanted: TaskListParams) -> Page:
        """Records, newest first; fewer than the limit where they would not fit into one message."""
        return await self.ledger.list(wanted)

    async def wait(self, task_id: str, *, listener: Progress | None = None) -> Task:
        """The record of a task when it has ended; `listener` is told how it stands, and of each change.

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

    async def cancel(self, task_id: str, reason: str = "cancelled on request") -> Task:
        """Cancels a task and those that it delegated; one that has ended stays as it is.

        Raises:
            NotFound: there is no such task.
        """
        entry = self._backlog.find(task_id)
        if entry is None:
            return await self.show(task_id)
        self._stop(entry, Cancelled(f'cannot finish task "{task_id}": {reason}', reason=reason))
        await entry.ended.wait()
        return _ended(entry)

    def _stop(self, entry: Entry, error: CorralError) -> None:
        if entry.stop is None:
            self._end_soon(entry, "cancelled", error)  # also when the caller hangs up
        elif not entry.stop.done():
            entry.stop.set_result(error)

    def _stop_each(self, entries: Iterable[Entry], reason: str) -> None:
        """Cancels tasks: by the end of this none of them begins any more."""
        waiting: list[Entry] = []
        for entry in entries:
            text = f'cannot finish task "{entry.task.id}": {reason}'
            if entry.stop is None:
                self._put_down(entry, Cancelled(text, reason=reason))
                waiting.append(entry)
            elif not entry.stop.done():
                entry.stop.set_result(Cancelled(text, reason=reason))
        if waiting:
            self._keep(self.ledger.end_each(waiting, "cancelled"))

    def _stop_children(self, task: Task, reason: str) -> None:
        self._stop_each(filter(None, map(self._backlog.find, task.children)), reason)

    def halt(self) -> tuple[str, ...]:
        """Cancels every task, as `halted` then waits for; nothing of them begins any more. Their ids."""
        entries = tuple(self._backlog)
        self._stop_each(entries, "an emergency stop")
        return tuple(entry.task.id for entry in entries)

    async def halted(self, task_ids: Iterable[str]) -> None:
        """Waits until the ends of tasks are written down.

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

    # -- the end of others

    def _on_end(self, entry: Entry) -> None:
        """What an end means for others; it is in the store by now."""
        task = entry.task
        self.admission.note_end(task.agent)
        self.leave_parent(entry)
        self._waitlist.forget(entry)
        self._waitlist.ended(task)
        self._stop_children(task, "the task that delegated it has ended")
        if task.session is not None:  # the next of the session may go on
            self.dispatch(task.agent)


def _ended(entry: Entry) -> Task:
    """The record of a task that is over.

    Raises:
        NotFound: the store has not taken it, so that it has never been.
    """
    task = entry.task
    if task.state not in ENDED:
        raise NotFound(f'cannot find task "{task.id}": it was not taken', task=task.id)
    return task
