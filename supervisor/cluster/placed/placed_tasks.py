"""Keeps the tasks of placed agents on the engine: stored before they are acknowledged, taken by a node that runs the agent, ended once.

Guarantees that an acknowledged task is delivered until its end is stored, and that its end is stored once, by a record
that is made at revision 0 and has the fencing token of its writer. A task may run twice: its node died, or lost its lease. A node that
has no lease writes no end; one that comes back late finds the record made, and what it says is dropped and published.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.events.bus import Event
from corral.supervisor.tasks.rules.boundaries import normalised
from corral.supervisor.tasks.run.attempt import state_of
from corral.supervisor.tasks.run.backlog import Origin
from corral.supervisor.tasks.run.cluster import is_on_engine
from corral.supervisor.tasks.run.endings import past_deadline
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.worker.contract.errors import Cancelled, Conflict, CorralError, ResourceLimitExceeded, Timeout
from corral.worker.contract.records import Error, Task, TaskParams

from ..engine.interface import REDELIVERY_S, VALUE_BYTES_MAX, Engine, Taken
from ..state.ends import TaskEnds
from ..state.queues import QueueTaker, TaskQueues
from ..state.state import CancelledTask, cancelled_key, encoded
from ..state.stored_task import RESULT_S, StoredEnd, StoredTask, accepted_at, encoded_task, id_of, now, queued_record
from ..state.view import ClusterView, PlacedNames
from .carried_state import CarriedState
from .fences import Fences

FRESH_S = 1.0
"""Seconds of silence of the engine up to which the cancelled tasks are known here without a question."""

CANCELS = "cancels"
"""The subject on which all nodes hear that a task was cancelled before it was known to run."""

LISTED_MAX = 1_000
"""Number of the oldest tasks of an agent among which one that no node runs is looked for."""

ACCEPTED_MAX = 10_000
"""Number of tasks accepted here whose record is remembered until they begin."""

WORKING_S = REDELIVERY_S / 4
"""Seconds between two reports that a task is being worked on."""

AGAIN_S = 0.5
"""Seconds until what has failed is tried again."""

CANCEL_S = 5.0
"""Seconds that a cancellation may take until its caller hears that the engine does not answer."""

EVENTS_MAX = 20
"""Number of events of a task that its end has, without its progress: those of the node that ran it, which may be gone."""

FINAL_ERRORS = frozenset({"TaskFailed", "InvalidParams", "ResourceLimitExceeded", "ToolFailed"})
"""Names of errors of a task that are its own, whatever becomes of its node."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class PlacedTasks:
    """Accepts tasks for placed agents, and runs those of the agents that this node holds."""

    def __init__(
        self,
        node: str,
        view: ClusterView,
        placed: PlacedNames,
        fences: Fences,
        carried: CarriedState,
        agents: Agents,
        tasks: Tasks,
    ) -> None:
        self.is_placed = placed.has
        self.carried = carried
        self._node = node
        self._view = view
        self._agents = agents
        self._placements = fences.placements
        self._bus = agents.shared.bus
        self._holds_lease = fences.joining.holds_lease
        self._tasks = tasks
        self.ends = TaskEnds(node, fences.joining.incarnation, tasks.announce_end)
        self._queues = TaskQueues(view)
        self._accepted: OrderedDict[str, Task] = OrderedDict()
        self._takers: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        self._listeners: list[Callable[[StoredTask], None]] = []
        self._running: set[asyncio.Task[Any]] = set()  # of different results
        self._open: dict[str, list[dict[str, object]]] = {}
        """The events of each task that was taken here."""
        self._held: dict[str, tuple[float, Taken]] = {}
        self._in_turn = WeakValueDictionary[tuple[str, str], asyncio.Lock]()

    def default_priority(self, agent: str) -> int:
        """Returns the priority of tasks of an agent that have none."""
        return self._view.default_priority(agent)

    def subscribe(self, listener: Callable[[StoredTask], None]) -> None:
        """Calls `listener` with each task that is accepted here."""
        self._listeners.append(listener)

    # -- for callers

    async def submit(self, engine: Engine, params: TaskParams, task_id: str = "") -> Task:
        """Returns the record of a task as it was accepted: it is on the engine by then.

        With an idempotency key that was given before, it is that task. `task_id` is that of `id_of`, for who waits for it already.
        """
        assert params.agent is not None, "its tasks are those of an agent"
        params = normalised(params)
        task_id = task_id or id_of(params)
        if params.idempotency_key is not None and (end := await self.ends.find(engine, task_id)):
            return end.task
        stored = StoredTask(id=task_id, params=params, created_at=now(), origin=self._node, whole_end=True)
        payload = encoded_task(stored)
        if len(payload) > VALUE_BYTES_MAX:
            raise ResourceLimitExceeded(
                f'cannot take a task of {len(payload)} bytes for "{params.agent}": the engine takes {VALUE_BYTES_MAX}',
                limit=VALUE_BYTES_MAX,
                value=len(payload),
            )
        task = self.queued_record(stored)
        if await self._queues.append(engine, stored, payload):
            self._tasks.announce(task)
            for listener in self._listeners:
                listener(stored)
        self._accepted[task_id] = task
        if len(self._accepted) > ACCEPTED_MAX:
            self._accepted.popitem(last=False)
        return task

    async def find(self, engine: Engine, task_id: str) -> Task | None:
        """Returns the record of a task: one that runs here, one that has ended, or one that was accepted here; else None."""
        if not is_on_engine(task_id):
            return None
        if (here := self._tasks.find(task_id)) is not None:
            return here
        end = await self.ends.find(engine, task_id)
        return self._accepted.get(task_id) if end is None else end.task

    async def waiting(self, engine: Engine, agents: Collection[str] | None = None) -> list[StoredTask]:
        """Returns the tasks of agents, all when absent, that are not done: LISTED_MAX of each, the oldest first."""
        found: list[StoredTask] = []
        for agent in list(self._view.specs):
            if agents is None or agent in agents:
                for queue in self._queues.of(agent):
                    for payload in await engine.queued(queue, LISTED_MAX):
                        with contextlib.suppress(msgspec.MsgspecError):
                            found.append(msgspec.json.decode(payload, type=StoredTask))
        return found

    def queued_record(self, stored: StoredTask) -> Task:
        """Returns the record of a task that no node has begun."""
        return queued_record(stored, self._view.default_priority(stored.params.agent or ""))

    def runs(self, task_id: str) -> bool:
        """Returns whether a task waits for a worker here, or runs on one."""
        return self._tasks.find(task_id) is not None

    async def queued(self, engine: Engine, task_id: str) -> Task | None:
        """Returns the record of a task that no node is known to run; None where there is none."""
        stored = await self.stored(engine, task_id)
        return None if stored is None else self.queued_record(stored)

    async def stored(self, engine: Engine, task_id: str) -> StoredTask | None:
        """Returns a task that is not done, whether a node runs it or not; None where there is none."""
        return next((each for each in await self.waiting(engine) if each.id == task_id), None)

    async def cancel(self, engine: Engine, task_id: str) -> Task | None:
        """Ends a task that no node is known to run, and returns its end; None where it is not known.

        One that a node takes at the same moment is cancelled there.
        """
        if (end := await self.ends.find(engine, task_id)) is not None:
            return end.task
        if (stored := await self.stored(engine, task_id)) is None:
            return None
        reason = "cancelled on request"
        error = Cancelled(f'cannot finish task "{task_id}": {reason}', reason=reason)
        ending = self._spawn(self.end_waiting(engine, stored, error))
        await asyncio.wait([ending], timeout=CANCEL_S)
        if not ending.done():
            raise Timeout(f'cannot cancel task "{task_id}": the engine does not answer', task=task_id, uncertain=True)
        return await ending

    async def end_waiting(self, engine: Engine, stored: StoredTask, error: CorralError) -> Task:
        """Ends a task that no node is known to run, unless it has ended, and returns its end."""
        task = msgspec.structs.replace(
            self.queued_record(stored), state=state_of(error), error=Error.of(error), finished_at=now()
        )
        end = await self.ends.keep(engine, StoredEnd(task=task, node=self._node, token=0), lambda: True)
        assert end is not None, "a waiting task may be ended by any node"
        if end.token:
            return end.task  # it has run meanwhile
        with contextlib.suppress(Conflict):
            mark = encoded(CancelledTask(by=self._node))
            await engine.put(cancelled_key(stored.id), mark, revision=0, ttl_s=RESULT_S)
        await engine.publish(CANCELS, stored.id.encode())
        await self.ends.announce(engine, stored, end)
        return end.task

    async def node_of_end(self, engine: Engine, task_id: str) -> str:
        """Returns the node that has ended a task; "" where none has."""
        end = await self.ends.find(engine, task_id)
        return "" if end is None else end.node

    # -- on the node that runs the agent

    def begin(self, agent: str, engine: Engine) -> None:
        """Takes tasks of an agent from now on."""
        if agent not in self._takers:
            self._leaving.discard(agent)
            self._takers[agent] = asyncio.create_task(self._take_always(agent, engine))

    def note_event(self, task_id: str, event: Event) -> None:
        """Notes an event of a task that runs here."""
        events = self._open.get(task_id)
        if events is not None and event.type != "task.progress" and len(events) < EVENTS_MAX:
            events.append(event.record())

    async def end(self, agent: str) -> None:
        """Takes no more tasks of an agent; those that run are delivered again unless they end by themselves."""
        self._leaving.add(agent)
        taker = self._takers.pop(agent, None)
        if taker is not None:
            taker.cancel()
            await asyncio.wait([taker])

    async def follow_cancels(self, engine: Engine) -> None:
        """Cancels the tasks here whose end another node has written, until it is cancelled."""
        inbox = await engine.subscribe(CANCELS)
        try:
            while True:
                task_id = (await inbox.next()).payload.decode()
                self._view.note_cancelled(task_id)
                if task_id in self._open:
                    if self._tasks.find(task_id) is not None:
                        self._spawn(self._cancel_here(task_id))
                    del self._open[task_id]
        finally:
            await inbox.close()

    async def _cancel_here(self, task_id: str) -> None:
        with contextlib.suppress(CorralError):
            await self._tasks.cancel(task_id)

    async def _take_always(self, agent: str, engine: Engine) -> None:
        """Takes tasks as workers are free, until the daemon ends; those that run go on when this is cancelled."""
        taker = self._queues.taker(agent)
        try:
            await self._take_with(taker, agent, engine)
        finally:
            await taker.close()

    async def _take_with(self, taker: QueueTaker, agent: str, engine: Engine) -> None:
        slots = _Slots()
        while not self._agents.draining:
            free = slots.free(self._room(agent))
            if free <= 0:
                await slots.released()
                continue
            try:
                found = await taker.take(engine, free)
            except CorralError as error:
                logger.info("cannot take tasks of %s: %s", agent, error)
                await asyncio.sleep(AGAIN_S)
                continue
            for taken in found:
                each = self._spawn(self._run(agent, engine, taken, slots))
                slots.take(each, taken)
                each.add_done_callback(_log_failure)

    def _spawn(self, work: Coroutine[None, None, _T]) -> "asyncio.Task[_T]":
        """Starts what `close` ends."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Ends the takers, and lets go of the tasks that run: they are delivered again."""
        tasks = [*self._takers.values(), *self._running]
        for each in tasks:
            each.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _room(self, agent: str) -> int:
        found = self._agents.agents.get(agent)
        if found is None:
            return 1
        moving = sum(supervisor.is_cordoned(Unschedulable.MOVING) for supervisor in found.supervisors)
        room = (len(found.supervisors) - moving) * found.spec.resources.max_concurrent_requests
        return room if moving else max(1, room)

    async def _run(self, agent: str, engine: Engine, taken: Taken, slots: "_Slots") -> None:
        """Runs one delivery of a task, and stores its end."""
        self._held[taken.handle] = (asyncio.get_running_loop().time(), taken)
        epoch = self._placements.epoch
        try:
            stored = msgspec.json.decode(taken.payload, type=StoredTask)
            self._open.setdefault(stored.id, [])
            if await self._has_ended(engine, stored, taken.delivery):
                await self._settle_done(engine, taken, has_steps=taken.delivery > 1)
                return
            if taken.delivery > 1:
                await self.carried.take_task(engine, agent, stored.id)
            run = await self.carried.steps.begin(engine, agent, stored.id, taken.delivery)
            try:
                ended = await self._in_session(agent, engine, stored, taken.delivery)
            finally:
                self.carried.steps.finish(run)
            slots.release(taken)  # its worker is free
            if run.is_late:
                self._publish_late(agent, stored.id, "it was delivered again, and goes on there")
            elif epoch != self._placements.epoch or not self._holds_lease():
                if ended is not None:
                    self._publish_late(agent, stored.id, "this node has lost its lease meanwhile")
            elif ended is not None and (end := await self._kept(agent, engine, ended, epoch)) is not None:
                await self.ends.announce(engine, stored, end)
                await self._settle_done(engine, taken, has_steps=bool(run.revisions))
            else:
                await asyncio.sleep(AGAIN_S)
                await engine.settle(taken, "again")
        except CorralError as error:  # it is delivered again when its time is over
            logger.info("cannot report on task %s: %s", taken.id, error)
        except msgspec.ValidationError as error:  # of a newer version: another node may know it
            logger.warning("task %s cannot be read, and is passed on: %s", taken.id, error)
            await asyncio.sleep(AGAIN_S)
            await _passed_on(engine, taken)
        except msgspec.DecodeError as error:
            logger.error("task %s is no JSON, and is dropped: %s", taken.id, error)
            await engine.settle(taken, "done")
        finally:
            self._open.pop(taken.id, None)
            self._held.pop(taken.handle, None)

    async def report_always(self, engine: Engine) -> None:
        """Reports that the tasks here are worked on, as long as this node holds its lease, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WORKING_S)
            if self._holds_lease():
                before = loop.time() - WORKING_S
                held = [taken for since, taken in self._held.values() if since <= before]
                await asyncio.gather(*[engine.settle(each, "working") for each in held], return_exceptions=True)

    async def _has_ended(self, engine: Engine, stored: StoredTask, delivery: int) -> bool:
        """Returns whether a task that was taken has an end: it was cancelled, or another delivery of it has ended.

        One without a key that comes for the first time can only have been cancelled: that is known here while the engine is.
        """
        if self._view.is_cancelled(stored.id):
            return True
        if delivery > 1:
            return await self.ends.has_ended(engine, stored.id) or stored.id not in self._open
        if stored.params.idempotency_key is None and self._view.lag_s() < FRESH_S:
            return False
        return await self.ends.find(engine, stored.id) is not None or stored.id not in self._open

    async def _settle_done(self, engine: Engine, taken: Taken, *, has_steps: bool) -> None:
        """Removes a task that has ended from its queue, and the mark of one that was cancelled; its steps go with its end."""
        if has_steps:
            await self.carried.steps.expire(engine, taken.id)
        await engine.settle(taken, "done")
        if (revision := self._view.cancelled.get(taken.id)) is not None:
            with contextlib.suppress(CorralError):  # it ends by itself
                await engine.put(cancelled_key(taken.id), None, revision=revision)

    async def _in_session(self, agent: str, engine: Engine, stored: StoredTask, delivery: int) -> Task | None:
        """Runs a task as `_performed`; one of a session has it as the engine does, and its turn is there before its end."""
        session = stored.params.session
        if session is None:
            return await self._performed(stored, delivery)
        lock = self._in_turn.setdefault((agent, session), asyncio.Lock())
        async with lock:
            revision = await self.carried.take_session(engine, agent, session)
            ended = await self._performed(stored, delivery)
            if ended is not None and ended.state == "succeeded":
                ended = await self._with_session(stored, ended, session, revision)
            return ended

    async def _performed(self, stored: StoredTask, delivery: int) -> Task | None:
        """Runs a task on a worker here, and returns its end; None where it has to be delivered again."""
        record = self.queued_record(stored)
        limit_s = stored.params.deadline_s
        if limit_s is not None and accepted_at(stored) + limit_s <= time.time():
            error = Error.of(past_deadline(record, ""))
            return msgspec.structs.replace(record, state="timeout", error=error, finished_at=now())
        params = msgspec.structs.replace(stored.params, idempotency_key=None, durable=False, when_down="queue")
        try:
            begun = self._tasks.find(stored.id)
            if begun is None:
                origin = Origin(id=stored.id, deliveries=delivery - 1, accepted_at=accepted_at(stored))
                await self._tasks.submit(params, origin)
                if self._view.is_cancelled(stored.id):  # while it was submitted
                    await self._cancel_here(stored.id)
            ended = await self._tasks.wait(stored.id)
        except CorralError as error:
            if error.name not in FINAL_ERRORS:
                logger.info("task %s is delivered again: %s", stored.id, error)
                return None
            return msgspec.structs.replace(record, state="failed", error=Error.of(error))
        is_own = ended.state == "succeeded" or (ended.error is not None and ended.error.name in FINAL_ERRORS)
        agent = stored.params.agent or ""
        if not is_own and (agent in self._leaving or self._placements.find(agent) is None):
            return None  # it has ended because its agent did
        return msgspec.structs.replace(ended, durable=True, idempotency_key=stored.params.idempotency_key)

    async def _with_session(self, stored: StoredTask, ended: Task, session: str, revision: int) -> Task:
        """Returns the end of a task whose session the engine has by now; one that it does not take fails."""
        agent = stored.params.agent or ""
        try:
            await self.carried.give_session(agent, session, stored.id, revision)
        except ResourceLimitExceeded as error:
            return msgspec.structs.replace(ended, state="failed", output=None, error=Error.of(error))
        return ended

    def _publish_late(self, agent: str, task_id: str, reason: str) -> None:
        self._bus.publish("task.late", agent=agent, task=task_id, reason=reason)

    async def _kept(self, agent: str, engine: Engine, ended: Task, epoch: int) -> StoredEnd | None:
        """Stores the end of a task, once, and publishes it; returns the end that the engine has, None where this node may store none."""
        hold = self._placements.find(agent)
        if hold is None:
            return None
        if ended.tool_calls:
            with contextlib.suppress(CorralError):  # the end itself counts
                await self.carried.give_calls(engine, ended.id)
        events = self._open.get(ended.id, [])
        end = StoredEnd(task=ended, node=self._node, token=hold.fencing_token, events=events)
        kept = await self.ends.keep(engine, end, lambda: self._holds_lease() and self._placements.epoch == epoch)
        if kept is None:
            self._publish_late(agent, ended.id, "this node has lost its lease meanwhile")
        elif kept.token and (kept.node, kept.token) != (end.node, end.token):
            self._publish_late(agent, ended.id, "another end is stored")
        return kept


class _Slots:
    """Counts the tasks that were taken for an agent: those that need a worker, and those whose end is being stored."""

    def __init__(self) -> None:
        self._working: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    def free(self, room: int) -> int:
        """Returns how many more tasks may be taken; of those whose end is being stored as many as run are left behind."""
        return min(room - len(self._working), 2 * room - len(self._running))

    def take(self, run: asyncio.Task[None], taken: Taken) -> None:
        """Gives a slot to a task until its run is over."""
        self._working.add(taken.handle)
        self._running.add(run)
        run.add_done_callback(lambda _: self._over(run, taken))

    def release(self, taken: Taken) -> None:
        """Takes the slot of a task back, which needs no worker any more."""
        self._working.discard(taken.handle)
        self._freed.set()

    def _over(self, run: asyncio.Task[None], taken: Taken) -> None:
        self._running.discard(run)
        self.release(taken)

    async def released(self) -> None:
        """Returns when a slot may be free."""
        self._freed.clear()
        await self._freed.wait()


async def _passed_on(engine: Engine, taken: Taken) -> None:
    with contextlib.suppress(CorralError):  # it is delivered again when its time is over
        await engine.settle(taken, "again")


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a placed task failed in corral", exc_info=error)
