"""Takes new tasks: each is admitted, recorded and queued, or refused with the reason; a key is taken once.

Guarantees that a durable task is committed before it is acknowledged, and that of two that come at once with one idempotency key
the second gets the task of the first. `admission` decides, `record_writer` writes, `dispatcher` begins what can begin at once.
Of the tasks that an earlier daemon left, those that wait go on waiting, and those that had begun follow `retry_on`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from weakref import WeakValueDictionary

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.records.store.batch import Writing
from corral.supervisor.records.store.store import Store
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.worker.contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    Corrupted,
    NotFound,
    PermissionDenied,
    ShuttingDown,
    WorkerFailed,
)
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.contract.records import Task, TaskKind, TaskParams
from corral.worker.contract.steps import is_key

from ..rules.boundaries import normalised, within
from ..rules.payload import words_bytes
from .accounting import Accounting
from .admission import Admission
from .attempt import given_up
from .backlog import NO_ORIGIN, Entry, Origin, TaskHandover, dependency_failed, waiting_reason
from .cluster import is_on_engine
from .composite import CompositeRunner
from .dispatcher import Dispatcher
from .endings import Endings, agent_gone
from .memo import Memo
from .record_writer import RecordWriter
from .task_rules import Attempted, TaskRules, retries

logger = logging.getLogger(__name__)


class Submission:
    """Takes the tasks of one daemon."""

    def __init__(
        self,
        writer: RecordWriter,
        admission: Admission,
        accounting: Accounting,
        endings: Endings,
        composites: CompositeRunner,
        dispatcher: Dispatcher,
        turns: CallTurns,
    ) -> None:
        self._writer = writer
        self._backlog = writer.backlog
        self._admission = admission
        self._accounting = accounting
        self._endings = endings
        self._composites = composites
        self._dispatcher = dispatcher
        self._turns = turns
        self._arriving = WeakValueDictionary[str, asyncio.Lock]()
        self._loop = asyncio.get_running_loop()

    async def submit(self, params: TaskParams, origin: Origin = NO_ORIGIN) -> Task:
        """Returns the accepted task, in the store if it is durable; with an idempotency key that was given before, the task of then."""
        parent = origin.parent
        tenant = origin.tenant if parent is None else tenant_of(parent.agent)
        params, kind, able = self._admission.check(params, tenant, is_taken=bool(origin.id))
        if parent is not None:
            able = self._of_team(parent, params, able)
        take = partial(self._take, params, kind, able, origin)
        key = params.idempotency_key
        whose = tenant_of(params.agent or qualified("", tenant))
        if key is None:
            return await self._paced(whose, take)
        if not origin.step:
            self._accounting.check_is_no_step(key)
        lock = self._arriving.setdefault(key, asyncio.Lock())
        async with lock:  # of two that come at once the second sees the first
            known = await self._writer.known([agent.name for agent in able] or [str(params.agent)], key)
            return await self._paced(whose, take) if known is None else await self._known(known, params, parent)

    async def _paced(self, tenant: str, take: Callable[[], Awaitable[Task]]) -> Task:
        """Takes a task at once, or while several tenants call, when few others of its tenant are being written."""
        if not self._turns.is_contended:
            return await take()
        async with self._turns.submitting(tenant):
            return await take()

    async def note_refused(self, params: TaskParams, error: CorralError, *, parent: Task, step: str) -> Task:
        """Returns the record of a part of a task that was refused: it has failed, under every later daemon too."""
        self._admission.check_open()
        params = normalised(params)
        entry = self._admission.entry(
            params.agent or "",  # no agent has the capability
            params,
            within(params.boundaries, self._accounting.check_may_delegate(parent)),
            self._admission.kind(params.agent),
            Origin(parent, step),
        )
        self._accounting.add_child(entry)
        try:
            await self._writer.end(entry, "failed", error=error)
        except BaseException:
            self._accounting.remove_child(entry, is_refused=True)
            raise
        return entry.task

    def _of_team(self, parent: Task, params: TaskParams, able: list[Agent]) -> list[Agent]:
        """Returns those of the agents to which the parent may delegate: the members, where it leads a team."""
        members = self._composites.engine.members_for(parent)
        if members is None or params.agent in members:
            return able
        found = [agent for agent in able if agent.name in members]
        if not found:
            asked = params.agent or params.capability or ""
            words = f'cannot delegate to "{asked}": task "{parent.id}" leads a team of {", ".join(members)}'
            raise PermissionDenied(words, agent=params.agent, task=parent.id, members=list(members))
        return found

    async def _known(self, known: Entry | Task, params: TaskParams, parent: Task | None) -> Task:
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
                self._accounting.add_child(known)
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
            task = None if task.parent is None else self._writer.find(task.parent)
        return False

    async def _take(self, params: TaskParams, kind: TaskKind, able: list[Agent], origin: Origin) -> Task:
        parent = origin.parent
        if kind == "task":
            name = self._admission.choose(able, params)
        else:
            assert params.agent is not None, "the kind is that of a name"
            name = params.agent
            if kind not in ("job", "placed"):
                params = self._composites.engine.checked(params)
        self._admission.check_input(name, params.input)
        self._admission.check_tenant(name, is_step=bool(origin.step))
        boundaries = params.boundaries
        if parent is not None:
            boundaries = within(boundaries, self._accounting.check_may_delegate(parent))
        entry = self._admission.entry(name, params, boundaries, kind, origin)
        if not origin.step:
            self._admission.note_taken(name)
        entry.only = origin.only
        if entry.task.after:
            await self._block(entry, is_new=True)
        try:
            if entry.task.after:  # it took a while
                self._admission.check_open()
                if parent is not None:
                    self._accounting.check_may_delegate(parent)
            if parent is not None:
                self._accounting.check_can_run(entry.task, parent)
        except CorralError:
            self._dispatcher.dependencies.remove(entry)  # else it would begin when they have ended
            raise
        if (entry.blockers or entry.due is not None) and (reason := waiting_reason(entry)):
            entry.task = replace(entry.task, reason=reason)
        taken = entry.task
        self._backlog.add(entry)
        self._endings.watch_deadline(entry)
        if parent is not None:
            self._accounting.add_child(entry)
        self._accept(entry)
        if entry.accepted is not None:
            # A caller that hangs up meanwhile does not take back a task that the store may have already.
            await asyncio.shield(entry.accepted)
        return taken

    async def resume(self, entry: Entry) -> None:
        """Lets a task of an earlier daemon wait for its turn, behind the tasks and the time that it waits for."""
        task = entry.task
        if task.state == "queued" and task.started_at is None and task.after:
            await self._block(entry, is_new=False)
        self._dispatcher.settle(entry)

    async def _block(self, entry: Entry, *, is_new: bool) -> None:
        """Finds the tasks in `after` that have not ended; from then on their ends are noticed."""
        task = entry.task
        ended: dict[str, Task | None] = {}
        # Of a placed agent, those on the engine are awaited by the cluster.
        after = [e for e in task.after if task.kind != "placed" or not is_on_engine(e)]
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
                words = f'cannot let a durable task wait for task "{each}": that is not durable'
                raise Conflict(words, key="after", task=each)
        for each, found in ended.items():
            if found is None or found.state != "succeeded":
                state = "unknown" if found is None else found.state
                entry.dependency_error = dependency_failed(task.id, each, state)
                return
            if found.finished_at is not None:  # since then it has waited for a worker
                freed = datetime.fromisoformat(found.finished_at).timestamp()
                entry.since = max(entry.since, self._loop.time() - max(0.0, time.time() - freed))
        entry.blockers = open_ones
        self._dispatcher.dependencies.add(entry)

    async def _known_end(self, task_id: str, *, is_new: bool) -> Task | None:
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
            self._dispatcher.settle(entry)
            return
        entry.accepted = self._loop.create_future()
        must_wait = entry.dependency_error is not None or (
            (entry.blockers or entry.due is not None) and self._dispatcher.dependencies.holds(entry)
        )
        if not must_wait and self._dispatcher.begin_at_once(entry):
            return
        written = self._writer.save(entry, entry.task)
        assert written is not None, "a durable task is written"
        written.add_done_callback(partial(self._stored, entry))

    def _stored(self, entry: Entry, written: Writing) -> None:
        error = None if written.cancelled() else written.exception()
        if written.cancelled() or error is not None:
            self._dispatcher.dependencies.remove(entry)
            self._endings.refuse(entry, error or ShuttingDown("cannot take the task: the store is closed"))
        else:
            self._writer.accept(entry)
            self._dispatcher.settle(entry)


class Recovery:
    """Loads the tasks of one daemon."""

    def __init__(
        self,
        store: Store,
        writer: RecordWriter,
        agents: Agents,
        rules: TaskRules,
        accounting: Accounting,
        endings: Endings,
        submission: Submission,
        dispatcher: Dispatcher,
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._writer = writer
        self._backlog = writer.backlog
        self._agents = agents
        self._rules = rules
        self._accounting = accounting
        self._endings = endings
        self._submission = submission

    async def load(self, left: Sequence[TaskHandover] = ()) -> None:
        """Loads the counts, the budgets, and the tasks that have not ended.

        Those that another program of this daemon has `left` run on: `take_up` follows.
        """
        known_left = {each.task.id: each for each in left}
        running = {each.task.id for each in left if each.runs}
        await self._accounting.budgets.load()
        await self._writer.load_counts()
        now, here = time.time(), asyncio.get_running_loop().time()
        entries: list[Entry] = []
        stored = await self._writer.records.unfinished()
        known = {task.id for task, _ in stored}
        stored += [(each.task, each.created) for each in left if each.task.id not in known]
        for task, created in stored:
            due = None if task.scheduled_at is None else datetime.fromisoformat(task.scheduled_at).timestamp()
            since = here - max(0.0, now - max(created, due or created))
            entry = Entry(task, created, self._rules.limits(task), since, words_bytes(task), due)
            if (found := known_left.get(task.id)) is not None:
                entry.task, entry.is_measured = found.task, found.is_measured
                entry.children_tokens, entry.children_cost_cents = found.children
                entry.memo = None if found.recorded is None else Memo(found.task.delivery, found.recorded)
            self._backlog.add(entry)
            if task.id in running:
                self._backlog.note_begun(entry)
            self._endings.watch_deadline(entry)
            entries.append(entry)
        await self._accounting.load(self._store)
        for entry in entries:
            await self._resume(entry, running)

    def take_up(self, left: Sequence[TaskHandover]) -> None:
        """Goes on with the attempts that another program has left, once their workers were taken up."""
        for each in left:
            entry, worker = self._backlog.find(each.task.id), each.task.worker
            supervisor = None if worker is None else self._agents.registry.supervisor(worker)
            if entry is not None and supervisor is not None and each.runs:
                self._dispatcher.take_up(entry, supervisor, each)

    async def _resume(self, entry: Entry, running: Collection[str]) -> None:
        task, endings = entry.task, self._endings
        if self._agents.emergency_stop is not None:
            halted = Cancelled(f'cannot finish task "{task.id}": an emergency stop')
            endings.keep(endings.end(entry, "cancelled", halted))
            return
        if task.parent is not None:
            above = self._backlog.find(task.parent)
            is_awaited_again = above is not None and is_key(task.idempotency_key)
            if not is_awaited_again and (above is None or (above.task.kind == "task" and above.task.id not in running)):
                # The task that delegated it begins again, and delegates again.
                reason = "the daemon died while another task waited for it"
                orphaned = Cancelled(f'cannot finish task "{task.id}": {reason}', reason=reason)
                endings.keep(endings.end(entry, "cancelled", orphaned))
                return
            self._accounting.add_child(entry)
        if task.id in running:
            return
        if task.state == "running" and task.kind in ("task", "job"):
            is_gone = task.agent not in self._agents.agents
            ended = Attempted(died=True, error=WorkerFailed.__name__)
            is_job = task.kind == "job"  # whose run is never repeated for its task
            if is_job or is_gone or not retries(self._rules.retry_policy(task), task.attempt, ended):
                died = WorkerFailed("the daemon died while it ran", worker=task.worker, result="daemon-gone")
                endings.keep(endings.end(entry, "failed", agent_gone(task) if is_gone else given_up(task, died)))
                return
            self._backlog.replace(entry, replace(task, state="queued", worker=None, reason="the daemon died"))
        await self._submission.resume(entry)
