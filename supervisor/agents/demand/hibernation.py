"""Hibernates, wakes and restores workers, and decides which checkpoint the next life of one begins with.

A worker that is hibernated has saved a checkpoint and has no process; `wake`, a start or a task brings it back, in a
later daemon too, and its next life begins with the checkpoint. The checkpoint to begin with is kept until a life of
it is Ready. While a worker is being hibernated or restored, it gets no task.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.workers.lifecycle import state_machine
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import UP, LastExit, State
from corral.supervisor.workers.supervision.checkpoints import Checkpoints, Resumption
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    Corrupted,
    InvalidParams,
    NotFound,
    ShuttingDown,
    SpawnFailed,
)
from corral.worker.contract.records import CheckpointRecord

from ..membership.agents import Agents
from ..running.agent import Agent
from .checkpoint_saver import CheckpointSaver, ask_worker, check_protocol

LOOK_S = 1.0
"""Seconds between two checks for due checkpoints."""

logger = logging.getLogger(__name__)


class Hibernation:
    """Manages the checkpoints of workers and their hibernation."""

    def __init__(self, agents: Agents, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.saver = CheckpointSaver(agents, checkpoints)
        self._agents = agents
        self._queued: Callable[[str], int] = _nothing_waits
        self._loop = asyncio.get_running_loop()
        self._resumptions: dict[str, Resumption] = {}
        self._begun: dict[str, tuple[int, int | None]] = {}
        self._awake_until: dict[str, float] = {}
        self._has_booted = False

    def wake_by(self, queued: Callable[[str], int]) -> None:
        """Keeps agents awake for which tasks wait, of which `queued` returns the number by name."""
        self._queued = queued

    async def load(self) -> None:
        """Takes up what an earlier daemon hibernated: it rests until it is woken."""
        self._resumptions = await self.checkpoints.resumptions()
        for agent in {each.agent for each in self._resumptions.values()}:
            if agent not in self._agents.agents:  # the file names it no more
                self.removed(agent)
        for supervisor in self._agents.all_supervisors():
            found = self._resumptions.get(supervisor.id)
            if found is not None and found.hibernated:
                supervisor.cordon(Unschedulable.HIBERNATED)
                supervisor.rest(LastExit("hibernated", at=rfc3339(found.at), message="hibernated"))

    def boot(self) -> None:
        """Wakes those for whom tasks wait, once workers may start."""
        self._has_booted = True
        for agent in list(self._agents.agents.values()):
            self._wake_for_tasks(agent)

    def is_hibernated(self, agent: Agent) -> bool:
        """Returns True if an agent has no wanted worker, and a hibernated one: a task wakes it."""
        return any(_is_hibernated(supervisor) for supervisor in agent.supervisors) and not agent.wanted

    def wake_soon(self, agent: Agent) -> None:
        """Wakes the workers of an agent, as there is room for them."""
        if self._has_booted:
            self._agents.startup.start_by_itself(
                [k for k in agent.supervisors if _is_hibernated(k) or self._came_asleep(k)]
            )

    def _came_asleep(self, supervisor: WorkerSupervisor) -> bool:
        """Returns True if a worker was added to a hibernated agent: it wakes with the others."""
        agent = self._agents.agents.get(supervisor.spec.name)
        is_new = supervisor.worker.state is State.INITIAL
        return is_new and agent is not None and self.is_hibernated(agent)

    def _wake_for_tasks(self, agent: Agent) -> None:
        if self.is_hibernated(agent) and self._queued(agent.name):
            self.wake_soon(agent)

    async def checkpoint_of(self, supervisor: WorkerSupervisor) -> dict[str, object]:
        """Returns the state for the next life of a worker, as `{"checkpoint": data}`, or nothing."""
        resumption = self._resumptions.get(supervisor.id)
        if resumption is not None:
            self._begun[supervisor.id] = (supervisor.worker.incarnation, resumption.checkpoint)
            if resumption.checkpoint is None:
                return {}
            return await self._pending(supervisor, resumption.checkpoint)
        if not supervisor.spec.recovery.enable_checkpointing:
            return {}
        try:
            return await self.checkpoints.latest(supervisor.id)
        except Corrupted:  # each that is damaged has had its event
            supervisor.note("error", "it begins anew: none of its checkpoints can be read")
            return {}

    async def _pending(self, supervisor: WorkerSupervisor, number: int) -> dict[str, object]:
        """Loads this checkpoint or fails: an earlier one in its place would be a silent loss."""
        try:
            record, data = await self.checkpoints.find(number)
            if record.worker != supervisor.id:  # what a worker begins with is always its own, a copy if need be
                text = f'cannot read what it begins with: checkpoint {number} is of "{record.worker}"'
                raise Corrupted(text, record=f"checkpoint {number}", reason="not-its-own")
        except (Corrupted, NotFound) as error:
            way_out = f"corral checkpoint restore ID {supervisor.id} gives it another, rm --force {number} none"
            text = f'cannot start worker "{supervisor.id}": {error.message}; {way_out}'
            facts = {**error.data, "worker": supervisor.id, "checkpoint": number}
            raise SpawnFailed(text, **facts) from error
        return {"checkpoint": data}

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Notes a change of a worker: it may be awake, or has begun from its checkpoint."""
        worker = supervisor.worker
        found = self._resumptions.get(supervisor.id)
        if found is not None:
            if found.hibernated and worker.wanted:
                supervisor.uncordon(Unschedulable.HIBERNATED)
                self._keep_in_mind(supervisor.id, found._replace(hibernated=False))
                self.saver.publish("agent.woken", supervisor, {"checkpoint": found.checkpoint})
            elif worker.state in UP and self._has_used(supervisor, found):
                self._keep_in_mind(supervisor.id, None)
        self.saver.changed(supervisor)

    def _has_used(self, supervisor: WorkerSupervisor, found: Resumption) -> bool:
        begun = self._begun.pop(supervisor.id, None)
        return begun == (supervisor.worker.incarnation, found.checkpoint) and not found.hibernated

    def _keep_in_mind(self, worker_id: str, resumption: Resumption | None) -> None:
        if resumption is None:
            self._resumptions.pop(worker_id, None)
        else:
            self._resumptions[worker_id] = resumption
        self.checkpoints.resume_soon(worker_id, resumption)

    def stopped(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Notes a stop of workers: hibernated ones stay down, and begin from their checkpoint at the next start."""
        for supervisor in supervisors:
            found = self._resumptions.get(supervisor.id)
            if found is not None and found.hibernated:
                supervisor.uncordon(Unschedulable.HIBERNATED)
                self._keep_in_mind(supervisor.id, found._replace(hibernated=False))

    def removed(self, agent: str) -> None:
        """Forgets a removed agent."""
        for worker_id in [w for w, each in self._resumptions.items() if each.agent == agent]:
            del self._resumptions[worker_id]
            self._begun.pop(worker_id, None)
        self._awake_until.pop(agent, None)
        self.checkpoints.removed(agent)

    async def remove(self, numbers: Sequence[int], *, force: bool) -> Sequence[int]:
        """Removes checkpoints, as `Checkpoints.remove`: a worker that was to begin with one begins anew."""
        removed = await self.checkpoints.remove(numbers, force=force)
        self.saver.forget_saved()  # those may be among them
        for worker_id, each in self._resumptions.items():
            if each.checkpoint in removed:
                self._resumptions[worker_id] = each._replace(checkpoint=None)
        return removed

    async def run(self) -> None:
        """Saves checkpoints of workers with enable_checkpointing, and hibernates agents with hibernate_after, in time."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(LOOK_S)
                now = self._loop.time()
                for agent in self._agents.agents.values():
                    if agent.spec.hibernate_after > 0 and self._is_tired(agent, now):
                        self._awake_until[agent.name] = float("inf")
                        group.create_task(self._hibernate_by_itself(agent))
                self.saver.save_due(group, now)

    def _is_tired(self, agent: Agent, now: float) -> bool:
        """Returns True if all wanted workers are up, and have had no task for hibernate_after."""
        if now < self._awake_until.get(agent.name, 0.0) or self._queued(agent.name):
            return False
        workers = [supervisor.worker for supervisor in agent.supervisors if supervisor.worker.wanted]
        return bool(workers) and all(
            worker.state in (State.READY, State.IDLE)
            and worker.paused_at is None
            and worker.idle_at is not None
            and now - worker.idle_at >= agent.spec.hibernate_after
            for worker in workers
        )

    async def _hibernate_by_itself(self, agent: Agent) -> None:
        try:
            await self.hibernate([agent.name], timeout_s=None, force=False)
        except CorralError as error:
            logger.info("%s", error)
            for supervisor in agent.supervisors:
                self.saver.publish_failure(supervisor, error)
        except Exception:
            logger.exception("cannot hibernate %s", agent.name)
        finally:
            self._awake_until[agent.name] = self._loop.time() + agent.spec.hibernate_after

    async def restore(
        self, number: int | None, data: object, name: str | None, timeout_s: float | None
    ) -> tuple[WorkerSupervisor, CheckpointRecord, bool]:
        """Restores a worker from a checkpoint, or from `data` if `number` is None.

        Returns the worker, its own copy of the checkpoint, and whether it took effect at once: one that does not run
        begins with it at its next start.
        """
        if number is not None:
            record, data = await self.checkpoints.find(number)
            if record.task is not None:
                text = f'cannot restore checkpoint {number}: it is of task "{record.task}", which goes on from it by itself'
                raise Conflict(text, checkpoint=number, task=record.task)
            name = name or record.worker
        supervisor = self._one(name)
        worker = supervisor.worker
        what = f'restore a checkpoint into "{supervisor.id}"'
        if worker.state in UP:
            # Before the worker takes it: a state that cannot be kept would be lost with its next crash.
            self.checkpoints.encoded(supervisor.spec.name, data, f'worker "{supervisor.id}"')
            async with self._withheld([supervisor], timeout_s, what):
                await ask_worker(supervisor, what, "checkpoint/restore", {"data": data}, timeout_s)
                copy = await self.saver.keep(supervisor, data, "restore")
                self.saver.forget_saved(supervisor.id)
        elif worker.state in (State.STARTING, State.SHUTTING_DOWN):
            raise Conflict(f"cannot {what}: it is {worker.state}", worker=supervisor.id)
        else:
            copy = await self.saver.keep(supervisor, data, "restore")
            pending = Resumption(supervisor.spec.name, copy.id, _is_hibernated(supervisor), time.time())
            await self._resume({supervisor.id: pending})
            self._resumptions[supervisor.id] = pending
        is_live = worker.state in UP
        self.saver.publish("checkpoint.restored", supervisor, {"checkpoint": copy.id, "live": is_live})
        return supervisor, copy, is_live

    def _one(self, name: str | None) -> WorkerSupervisor:
        if name is None:
            raise InvalidParams("cannot choose a worker to restore: give a name", key="name")
        supervisors = self._agents.supervisors(name)
        check_protocol(supervisors, f'restore a checkpoint into "{name}"')
        if len(supervisors) != 1:
            text = f'cannot restore one checkpoint into the {len(supervisors)} workers of "{name}": name one'
            raise Conflict(text, name=name, workers=[supervisor.id for supervisor in supervisors])
        return supervisors[0]

    async def hibernate(self, names: Sequence[str], *, timeout_s: float | None, force: bool) -> list[WorkerSupervisor]:
        """Saves checkpoints of workers and ends their processes, all or none; waits until no process is left."""
        if self._agents.draining:
            raise ShuttingDown("cannot hibernate anything: the daemon is stopping")
        chosen = self._agents.selected(names, everything=False)
        up = [supervisor for supervisor in chosen if _is_to_sleep(supervisor)]
        for name in names:
            supervisors = self._agents.supervisors(name)
            check_protocol(supervisors, f'hibernate "{name}"')
            if not any(supervisor in up or _is_hibernated(supervisor) for supervisor in supervisors):
                raise Conflict(f'cannot hibernate "{name}": it does not run', name=name)
        async with self._withheld(up, timeout_s, "hibernate"):
            numbers = {supervisor.id: supervisor.worker.incarnation for supervisor in up}
            saved = dict(zip(up, await self._save_for_sleep(up, force), strict=True))
            now = time.time()
            asleep = {
                supervisor.id: Resumption(supervisor.spec.name, None if record is None else record.id, True, now)
                for supervisor, record in saved.items()
            }
            await self._resume(asleep)
            gone = [k for k in up if k.worker.state not in UP or k.worker.incarnation != numbers[k.id]]
            if gone:
                for supervisor in up:
                    self.checkpoints.resume_soon(supervisor.id, self._resumptions.get(supervisor.id))
                text = f'cannot hibernate "{gone[0].id}": it ended meanwhile'
                raise Conflict(text, worker=gone[0].id)
            for supervisor in up:
                resumption = asleep[supervisor.id]
                self._resumptions[supervisor.id] = resumption
                supervisor.cordon(Unschedulable.HIBERNATED)
                supervisor.job.cancel()
                supervisor.send(state_machine.Stop("hibernated", "hibernated"))
                self.saver.publish("agent.hibernated", supervisor, {"checkpoint": resumption.checkpoint})
        try:
            await self._agents.operations.until_gone(up)
        finally:  # a task may have come before they hibernated; also when the caller disconnects
            for agent in {supervisor.spec.name for supervisor in up} & self._agents.agents.keys():
                self._wake_for_tasks(self._agents.of(agent))
        return chosen

    async def _resume(self, resumptions: Mapping[str, Resumption]) -> None:
        """Stores the checkpoints that workers begin with; completes although the caller disconnects."""
        try:
            await self.checkpoints.resume(resumptions)
        except asyncio.CancelledError:
            for worker_id in resumptions:
                self.checkpoints.resume_soon(worker_id, self._resumptions.get(worker_id))
            raise

    async def _save_for_sleep(
        self, supervisors: Sequence[WorkerSupervisor], force: bool
    ) -> Sequence[CheckpointRecord | None]:
        if not force:
            return await self.saver.save_each(supervisors, "hibernate", None)

        async def save(supervisor: WorkerSupervisor) -> CheckpointRecord | None:
            try:
                return await self.saver.save_one(supervisor, "hibernate", None)
            except CorralError as error:
                supervisor.note("warning", f"hibernated without a checkpoint: {error.message}")
                return None

        return await asyncio.gather(*map(save, supervisors))

    async def wake(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool) -> None:
        """Starts hibernated workers from their checkpoints, and waits until they are up; running ones are untouched."""
        for supervisor in supervisors:
            if not (_is_hibernated(supervisor) or supervisor.worker.wanted or self._came_asleep(supervisor)):
                text = f'cannot wake "{supervisor.id}": it is not hibernated; corral start {supervisor.id}'
                raise Conflict(text, worker=supervisor.id)
        asleep = [supervisor for supervisor in supervisors if _is_hibernated(supervisor)]
        self._agents.startup.check_may_begin(asleep)
        found = {k.id: self._resumptions[k.id]._replace(hibernated=False) for k in asleep}
        if found:
            await self._resume(found)  # a later daemon starts what was woken by name
        await self._agents.startup.bring_up(supervisors, wait=wait)

    @asynccontextmanager
    async def _withheld(
        self, supervisors: Sequence[WorkerSupervisor], timeout_s: float | None, what: str
    ) -> AsyncGenerator[None, None]:
        """Withholds tasks from workers, and waits until they have none."""
        for supervisor in supervisors:
            if supervisor.is_cordoned(Unschedulable.HIBERNATING):
                text = f'cannot go on with "{supervisor.id}": another call hibernates or restores it'
                raise Conflict(text, worker=supervisor.id)
        for supervisor in supervisors:
            supervisor.cordon(Unschedulable.HIBERNATING)
        try:
            await _until_idle(supervisors, timeout_s, what)
            yield
        finally:
            for supervisor in supervisors:
                supervisor.uncordon(Unschedulable.HIBERNATING)
                supervisor.publish_change()  # tasks may wait for it


def _nothing_waits(_agent: str) -> int:
    return 0


def _is_hibernated(supervisor: WorkerSupervisor) -> bool:
    return supervisor.is_cordoned(Unschedulable.HIBERNATED)


async def _until_idle(supervisors: Sequence[WorkerSupervisor], timeout_s: float | None, what: str) -> None:
    grace_s = max((k.spec.process.shutdown_grace_period for k in supervisors), default=0.0)
    try:
        async with asyncio.timeout(grace_s if timeout_s is None else timeout_s):
            for supervisor in supervisors:
                await supervisor.until(_has_no_task(supervisor))
    except TimeoutError:
        busy = next((supervisor for supervisor in supervisors if supervisor.running), supervisors[0])
        task = next(iter(busy.running), None)
        words = f'worker "{busy.id}" is busy with task "{task}"'
        raise Conflict(f"cannot {what}: {words}", worker=busy.id, task=task, reason="busy") from None


def _has_no_task(supervisor: WorkerSupervisor) -> Callable[[state_machine.Worker], bool]:
    return lambda worker: not supervisor.running or worker.state not in UP


def _is_to_sleep(supervisor: WorkerSupervisor) -> bool:
    """Returns True if a worker is up, False if it hibernates."""
    worker = supervisor.worker
    if worker.state in UP and worker.paused_at is None:
        return True
    if _is_hibernated(supervisor) or not worker.wanted:
        return False
    state = "paused" if worker.paused_at is not None else str(worker.state)
    raise Conflict(f'cannot hibernate "{supervisor.id}": it is {state}', worker=supervisor.id, state=state)
