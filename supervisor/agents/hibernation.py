"""Saves and restores checkpoints of workers: on request, periodically, and around a hibernation.

A worker that is hibernated has saved a checkpoint and has no process; `wake`, a start or a task brings it back, in a
later daemon too, and its next life begins with the checkpoint. The checkpoint to begin with is kept until a life of
it is Ready. While a worker is being hibernated or restored, it gets no task.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256

from ...worker.contract import codec
from ...worker.contract.errors import (
    Conflict,
    CorralError,
    Corrupted,
    InvalidParams,
    MethodNotFound,
    NotFound,
    ShuttingDown,
    SpawnFailed,
)
from ...worker.contract.records import CheckpointRecord
from ..events.bus import rfc3339
from ..lifecycle import state_machine
from ..lifecycle.state_machine import UP, LastExit, State
from ..supervision.checkpoints import Checkpoints, Reason, Resumption
from ..supervision.worker_supervisor import Unschedulable, WorkerSupervisor
from .agent import Agent
from .agents import Agents

SAVE_S = 30.0
"""Seconds that a worker may take to save or restore, unless the caller sets another limit."""

SAVES_AT_ONCE = 8
"""Number of periodic checkpoints that are saved at the same time: each may be megabytes in memory."""

JITTER = 0.1
"""Fraction by which the time between two checkpoints varies, so that those of many workers spread."""

LOOK_S = 1.0
"""Seconds between two checks for due checkpoints."""

logger = logging.getLogger(__name__)


class Hibernation:
    """Manages the checkpoints of workers and their hibernation. `queued` counts the tasks that wait for an agent."""

    def __init__(
        self, agents: Agents, checkpoints: Checkpoints, queued: Callable[[str], int]
    ) -> None:
        self.checkpoints = checkpoints
        self._agents = agents
        self._queued = queued
        self._bus = agents.shared.bus
        self._loop = asyncio.get_running_loop()
        self._resumptions: dict[str, Resumption] = {}
        self._begun: dict[str, tuple[int, int | None]] = {}
        self._due: dict[str, float] = {}
        self._failing: set[str] = set()
        self._awake_until: dict[str, float] = {}
        self._saved: dict[str, tuple[bytes, float]] = {}
        self._has_booted = False

    # -- from an earlier daemon

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

    # -- what others ask

    def is_hibernated(self, agent: Agent) -> bool:
        """Returns True if an agent has no wanted worker, and a hibernated one: a task wakes it."""
        return (
            any(_is_hibernated(supervisor) for supervisor in agent.supervisors) and not agent.wanted
        )

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
        """Returns the state for the next life of a worker, as `{"checkpoint": data}`, or nothing.

        Raises:
            SpawnFailed: its checkpoint is damaged or gone.
        """
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
            if (
                record.worker != supervisor.id
            ):  # what a worker begins with is always its own, a copy if need be
                text = (
                    f'cannot read what it begins with: checkpoint {number} is of "{record.worker}"'
                )
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
                self._awake(supervisor, found)
            elif worker.state in UP and self._has_used(supervisor, found):
                self._keep_in_mind(supervisor.id, None)
        if worker.state not in UP:
            self._due.pop(supervisor.id, None)
            self._failing.discard(supervisor.id)
            self._saved.pop(supervisor.id, None)
        elif supervisor.spec.recovery.enable_checkpointing and supervisor.id not in self._due:
            self._put_off(supervisor)

    def _has_used(self, supervisor: WorkerSupervisor, found: Resumption) -> bool:
        begun = self._begun.pop(supervisor.id, None)
        return begun == (supervisor.worker.incarnation, found.checkpoint) and not found.hibernated

    def _awake(self, supervisor: WorkerSupervisor, found: Resumption) -> None:
        supervisor.uncordon(Unschedulable.HIBERNATED)
        self._keep_in_mind(supervisor.id, found._replace(hibernated=False))
        self._publish("agent.woken", supervisor, {"checkpoint": found.checkpoint})

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
        self._saved.clear()  # those may be among them
        for worker_id, each in self._resumptions.items():
            if each.checkpoint in removed:
                self._resumptions[worker_id] = each._replace(checkpoint=None)
        return removed

    # -- saving

    async def save(self, name: str, timeout_s: float | None) -> list[CheckpointRecord]:
        """Saves a checkpoint of each worker of an agent that is up, or of one worker.

        Raises:
            NotFound: there is no such agent or worker.
            Conflict: none is up, one is paused, or saves nothing.
            TaskFailed, Timeout, WorkerFailed: one could not; others may have.
            ResourceLimitExceeded: a checkpoint is longer than max_checkpoint_bytes.
        """
        supervisors = self._agents.supervisors(name)
        up = [supervisor for supervisor in supervisors if supervisor.worker.state in UP]
        what = f'save a checkpoint of "{name}"'
        _check_protocol(supervisors, what)
        if not up:
            raise Conflict(f"cannot {what}: it does not run", name=name)
        return await self._save_each(up, "asked", timeout_s)

    async def _save_each(
        self, supervisors: Sequence[WorkerSupervisor], reason: Reason, timeout_s: float | None
    ) -> list[CheckpointRecord]:
        saves = (self._save(supervisor, reason, timeout_s) for supervisor in supervisors)
        results = await asyncio.gather(*saves, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, CheckpointRecord)]

    async def _save(
        self, supervisor: WorkerSupervisor, reason: Reason, timeout_s: float | None
    ) -> CheckpointRecord:
        return await self._keep(supervisor, await _state_of(supervisor, timeout_s), reason)

    async def _keep(
        self, supervisor: WorkerSupervisor, data: object, reason: Reason
    ) -> CheckpointRecord:
        record = await self.checkpoints.keep(
            supervisor.spec.name, supervisor.id, None, data, reason
        )
        facts = {"checkpoint": record.id, "reason": reason, "size_bytes": record.size_bytes}
        self._publish("checkpoint.saved", supervisor, facts, is_stored=reason != "interval")
        return record

    def _publish(
        self,
        type_: str,
        supervisor: WorkerSupervisor,
        fields: Mapping[str, object],
        *,
        is_stored: bool = True,
    ) -> None:
        self._bus.publish(
            type_,
            agent=supervisor.spec.name,
            worker=supervisor.id,
            incarnation=supervisor.worker.incarnation,
            store=is_stored,
            **fields,
        )

    # -- now and then

    async def run(self) -> None:
        """Saves checkpoints of workers with enable_checkpointing, and hibernates agents with hibernate_after, in time."""
        gate = asyncio.Semaphore(SAVES_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(LOOK_S)
                now = self._loop.time()
                for agent in self._agents.agents.values():
                    if agent.spec.hibernate_after > 0 and self._is_tired(agent, now):
                        self._awake_until[agent.name] = float("inf")
                        group.create_task(self._hibernate_by_itself(agent))
                for worker_id in [w for w, due in self._due.items() if due <= now]:
                    supervisor = self._supervisor(worker_id)
                    if supervisor is None or not supervisor.spec.recovery.enable_checkpointing:
                        del self._due[worker_id]
                        continue
                    self._due[worker_id] = float("inf")
                    group.create_task(self._save_by_itself(supervisor, gate))

    def _supervisor(self, worker_id: str) -> WorkerSupervisor | None:
        try:
            return self._agents.supervisors(worker_id)[0]
        except NotFound:
            return None

    def _put_off(self, supervisor: WorkerSupervisor) -> None:
        factor = random.uniform(1 - JITTER, 1 + JITTER)
        interval_s = supervisor.spec.recovery.checkpoint_interval
        self._due[supervisor.id] = self._loop.time() + interval_s * factor

    async def _save_by_itself(self, supervisor: WorkerSupervisor, gate: asyncio.Semaphore) -> None:
        incarnation = supervisor.worker.incarnation
        try:
            async with gate:
                if supervisor.takes_tasks:  # else it is paused, or about to end
                    await self._save_what_changed(supervisor)
                    self._failing.discard(supervisor.id)
        except CorralError as error:
            if supervisor.worker.incarnation == incarnation:
                self._publish_failure(supervisor, error)
        except Exception:
            logger.exception("cannot save a checkpoint of worker %s", supervisor.id)
        finally:
            if supervisor.worker.state in UP:
                self._put_off(supervisor)

    def _publish_failure(self, supervisor: WorkerSupervisor, error: CorralError) -> None:
        if supervisor.id not in self._failing:
            self._failing.add(supervisor.id)  # one event for all that fail in a row
            supervisor.note("warning", error.message)
            self._publish("checkpoint.failed", supervisor, {"reason": error.message})

    async def _save_what_changed(self, supervisor: WorkerSupervisor) -> None:
        """Saves a checkpoint if the state has changed, or the stored one has reached half of its retention."""
        data = await _state_of(supervisor, None)
        digest, now = sha256(codec.encode(data)).digest(), self._loop.time()
        before = self._saved.get(supervisor.id)
        old_s = supervisor.spec.recovery.checkpoint_retention / 2
        if before is None or before[0] != digest or now - before[1] > old_s:
            await self._keep(supervisor, data, "interval")
            self._saved[supervisor.id] = (digest, now)

    def _is_tired(self, agent: Agent, now: float) -> bool:
        """Returns True if all wanted workers are up, and have had no task for hibernate_after."""
        if now < self._awake_until.get(agent.name, 0.0) or self._queued(agent.name):
            return False
        workers = [
            supervisor.worker for supervisor in agent.supervisors if supervisor.worker.wanted
        ]
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
                self._publish_failure(supervisor, error)
        except Exception:
            logger.exception("cannot hibernate %s", agent.name)
        finally:
            self._awake_until[agent.name] = self._loop.time() + agent.spec.hibernate_after

    # -- going on from another state

    async def restore(
        self, number: int | None, data: object, name: str | None, timeout_s: float | None
    ) -> tuple[WorkerSupervisor, CheckpointRecord, bool]:
        """Restores a worker from a checkpoint, or from `data` if `number` is None.

        Returns the worker, its own copy of the checkpoint, and whether it took effect at once: one that does not run
        begins with it at its next start.

        Raises:
            NotFound: there is no such checkpoint or worker.
            Corrupted: the checkpoint is damaged.
            Conflict: it is a task's, or the worker cannot take it now.
            TaskFailed, Timeout: the worker could not restore it.
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
                await _ask(supervisor, what, "checkpoint/restore", {"data": data}, timeout_s)
                copy = await self._keep(supervisor, data, "restore")
                self._saved.pop(supervisor.id, None)
        elif worker.state in (State.STARTING, State.SHUTTING_DOWN):
            raise Conflict(f"cannot {what}: it is {worker.state}", worker=supervisor.id)
        else:
            copy = await self._keep(supervisor, data, "restore")
            pending = Resumption(
                supervisor.spec.name, copy.id, _is_hibernated(supervisor), time.time()
            )
            await self._resume({supervisor.id: pending})
            self._resumptions[supervisor.id] = pending
        is_live = worker.state in UP
        self._publish("checkpoint.restored", supervisor, {"checkpoint": copy.id, "live": is_live})
        return supervisor, copy, is_live

    def _one(self, name: str | None) -> WorkerSupervisor:
        if name is None:
            raise InvalidParams("cannot tell into whom to restore: give a name", key="name")
        supervisors = self._agents.supervisors(name)
        _check_protocol(supervisors, f'restore a checkpoint into "{name}"')
        if len(supervisors) != 1:
            text = f'cannot restore one checkpoint into the {len(supervisors)} workers of "{name}": name one'
            raise Conflict(text, name=name, workers=[supervisor.id for supervisor in supervisors])
        return supervisors[0]

    # -- sleeping and waking

    async def hibernate(
        self, names: Sequence[str], *, timeout_s: float | None, force: bool
    ) -> list[WorkerSupervisor]:
        """Saves checkpoints of workers and ends their processes, all or none; waits until no process is left.

        Args:
            names: agents or workers; workers of an agent that do not run are skipped.
            timeout_s: seconds to wait for running tasks; None: the shutdown_grace_period.
            force: end also workers without a checkpoint.

        Raises:
            NotFound: a name is unknown.
            Conflict: one is busy, does not run, saves nothing, or is no agent.
            CorralError: one could not save.
        """
        if self._agents.draining:
            raise ShuttingDown("cannot hibernate anything: the daemon is stopping")
        chosen = self._agents.selected(names, everything=False)
        up = [supervisor for supervisor in chosen if _is_to_sleep(supervisor)]
        for name in names:
            supervisors = self._agents.supervisors(name)
            _check_protocol(supervisors, f'hibernate "{name}"')
            if not any(
                supervisor in up or _is_hibernated(supervisor) for supervisor in supervisors
            ):
                raise Conflict(f'cannot hibernate "{name}": it does not run', name=name)
        async with self._withheld(up, timeout_s, "hibernate"):
            numbers = {supervisor.id: supervisor.worker.incarnation for supervisor in up}
            saved = dict(zip(up, await self._save_for_sleep(up, force), strict=True))
            now = time.time()
            asleep = {
                supervisor.id: Resumption(
                    supervisor.spec.name, None if record is None else record.id, True, now
                )
                for supervisor, record in saved.items()
            }
            await self._resume(asleep)
            gone = [
                k for k in up if k.worker.state not in UP or k.worker.incarnation != numbers[k.id]
            ]
            if gone:
                for supervisor in up:
                    self.checkpoints.resume_soon(
                        supervisor.id, self._resumptions.get(supervisor.id)
                    )
                text = f'cannot hibernate "{gone[0].id}": it ended meanwhile'
                raise Conflict(text, worker=gone[0].id)
            for supervisor in up:
                self._lay_down(supervisor, asleep[supervisor.id])
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

    def _lay_down(self, supervisor: WorkerSupervisor, resumption: Resumption) -> None:
        self._resumptions[supervisor.id] = resumption
        supervisor.cordon(Unschedulable.HIBERNATED)
        supervisor.job.cancel()
        supervisor.send(state_machine.Stop("hibernated", "hibernated"))
        self._publish("agent.hibernated", supervisor, {"checkpoint": resumption.checkpoint})

    async def _save_for_sleep(
        self, supervisors: Sequence[WorkerSupervisor], force: bool
    ) -> Sequence[CheckpointRecord | None]:
        if not force:
            return await self._save_each(supervisors, "hibernate", None)

        async def save(supervisor: WorkerSupervisor) -> CheckpointRecord | None:
            try:
                return await self._save(supervisor, "hibernate", None)
            except CorralError as error:
                supervisor.note("warning", f"hibernated without a checkpoint: {error.message}")
                return None

        return await asyncio.gather(*map(save, supervisors))

    async def wake(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool) -> None:
        """Starts hibernated workers from their checkpoints, and waits until they are up; running ones are untouched.

        Raises:
            Conflict: one is neither up nor sleeps, or an emergency stop is in force.
            CorralError: as for `Agents.start`.
        """
        for supervisor in supervisors:
            if not (
                _is_hibernated(supervisor)
                or supervisor.worker.wanted
                or self._came_asleep(supervisor)
            ):
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
                text = (
                    f'cannot go on with "{supervisor.id}": another call hibernates or restores it'
                )
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


def _is_hibernated(supervisor: WorkerSupervisor) -> bool:
    return supervisor.is_cordoned(Unschedulable.HIBERNATED)


async def _until_idle(
    supervisors: Sequence[WorkerSupervisor], timeout_s: float | None, what: str
) -> None:
    grace_s = max((k.spec.process.shutdown_grace_period for k in supervisors), default=0.0)
    try:
        async with asyncio.timeout(grace_s if timeout_s is None else timeout_s):
            for supervisor in supervisors:
                await supervisor.until(_has_no_task(supervisor))
    except TimeoutError:
        busy = next(
            (supervisor for supervisor in supervisors if supervisor.running), supervisors[0]
        )
        task = next(iter(busy.running), None)
        words = f'worker "{busy.id}" is busy with task "{task}"'
        raise Conflict(
            f"cannot {what}: {words}", worker=busy.id, task=task, reason="busy"
        ) from None


def _has_no_task(supervisor: WorkerSupervisor) -> Callable[[state_machine.Worker], bool]:
    return lambda worker: not supervisor.running or worker.state not in UP


def _is_to_sleep(supervisor: WorkerSupervisor) -> bool:
    """Returns True if a worker is up, False if it hibernates.

    Raises:
        Conflict: it is neither.
    """
    worker = supervisor.worker
    if worker.state in UP and worker.paused_at is None:
        return True
    if _is_hibernated(supervisor) or not worker.wanted:
        return False
    state = "paused" if worker.paused_at is not None else str(worker.state)
    raise Conflict(
        f'cannot hibernate "{supervisor.id}": it is {state}', worker=supervisor.id, state=state
    )


def _check_protocol(supervisors: Sequence[WorkerSupervisor], what: str) -> None:
    for supervisor in supervisors:
        if supervisor.spec.protocol != "corral":
            words = f'it speaks protocol "{supervisor.spec.protocol}", which has no checkpoints'
            raise Conflict(f"cannot {what}: {words}", name=supervisor.spec.name)


async def _state_of(supervisor: WorkerSupervisor, timeout_s: float | None) -> object:
    """Returns the data of a worker's checkpoint hook."""
    what = f'save a checkpoint of "{supervisor.id}"'
    data = (await _ask(supervisor, what, "checkpoint/save", {}, timeout_s)).get("data")
    if data is None:
        text = f"cannot {what}: its agent has no checkpoint hook, or that returned nothing"
        raise Conflict(text, worker=supervisor.id, reason="nothing-saved")
    return data


async def _ask(
    supervisor: WorkerSupervisor,
    what: str,
    method: str,
    params: dict[str, object],
    timeout_s: float | None,
) -> dict[str, object]:
    """Calls a method of a worker that is up, and returns the result.

    Raises:
        Conflict: it is paused, or knows no such method.
        CorralError: the error of the worker, or no answer.
    """
    if supervisor.worker.paused_at is not None:
        text = f"cannot {what}: it is paused; corral resume {supervisor.id}"
        raise Conflict(text, worker=supervisor.id, reason="paused")
    try:
        wait_s = SAVE_S if timeout_s is None else timeout_s
        answer = await supervisor.channel.request(method, params, timeout_s=wait_s)
    except MethodNotFound as error:
        text = f"cannot {what}: its agent has no hook for it"
        raise Conflict(text, worker=supervisor.id, reason="no-hook") from error
    return dict(codec.as_object(answer) or {})
