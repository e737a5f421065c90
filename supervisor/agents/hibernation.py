"""Saves what workers know of themselves, and gives it back: on request, now and then, around a sleep.

A worker that is hibernated has saved a checkpoint and has no process; `wake`, a start or a task brings it back, in a
later daemon too, and its next life begins with what it saved. What a worker is to begin with stays so until a life of
it is Ready. While a worker is being put to sleep, or is given another state, it is given no task.
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
from ...worker.contract.shapes import CheckpointRecord
from ..events.bus import rfc3339
from ..lifecycle import state_machine
from ..lifecycle.state_machine import UP, LastExit, State
from ..supervision.checkpoints import Checkpoints, Reason, Resumption
from ..supervision.worker_supervisor import Keeper
from .agent import Agent
from .agents import Agents

SAVE_S = 30.0
"""How long a worker may take to save or to restore, where the caller says nothing else."""

SAVES_AT_ONCE = 8
"""Periodic checkpoints that are saved in one moment: each may be megabytes in memory."""

JITTER = 0.1
"""How much the time between two checkpoints of a worker varies, so that those of many spread."""

LOOK_S = 1.0
"""How often it is looked whose checkpoint is due."""

logger = logging.getLogger(__name__)


class Hibernation:
    """What workers save and begin with, for one daemon. `queued` counts the tasks that wait for an agent."""

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
        for keeper in self._agents.all_keepers():
            found = self._resumptions.get(keeper.id)
            if found is not None and found.hibernated:
                keeper.is_hibernated = True
                last = LastExit("hibernated", at=rfc3339(found.at), message="hibernated")
                keeper.worker = state_machine.rested(keeper.worker, last)

    def boot(self) -> None:
        """Wakes those for whom tasks wait, once workers may start."""
        self._has_booted = True
        for agent in list(self._agents.agents.values()):
            self._wake_for_tasks(agent)

    # -- what others ask

    def is_hibernated(self, agent: Agent) -> bool:
        """Whether an agent has no worker that is wanted, and one that sleeps: a task wakes it."""
        return any(keeper.is_hibernated for keeper in agent.keepers) and not agent.wanted

    def wake_soon(self, agent: Agent) -> None:
        """Wakes the workers of an agent, as there is room for them."""
        if self._has_booted:
            self._agents.start_by_itself(
                [k for k in agent.keepers if k.is_hibernated or self._came_asleep(k)]
            )

    def _came_asleep(self, keeper: Keeper) -> bool:
        """Whether a worker was added to an agent that sleeps: it wakes with the others."""
        agent = self._agents.agents.get(keeper.spec.name)
        is_new = keeper.worker.state is State.INITIAL
        return is_new and agent is not None and self.is_hibernated(agent)

    def _wake_for_tasks(self, agent: Agent) -> None:
        if self.is_hibernated(agent) and self._queued(agent.name):
            self.wake_soon(agent)

    async def checkpoint_of(self, keeper: Keeper) -> dict[str, object]:
        """What the next life of a worker begins with, as `{"checkpoint": data}`, or nothing.

        Raises:
            SpawnFailed: what it was to begin with is damaged or gone.
        """
        resumption = self._resumptions.get(keeper.id)
        if resumption is not None:
            self._begun[keeper.id] = (keeper.worker.incarnation, resumption.checkpoint)
            if resumption.checkpoint is None:
                return {}
            return await self._pending(keeper, resumption.checkpoint)
        if not keeper.spec.recovery.enable_checkpointing:
            return {}
        try:
            return await self.checkpoints.latest(keeper.id)
        except Corrupted:  # each that is damaged has had its event
            keeper.note("error", "it begins anew: none of its checkpoints can be read")
            return {}

    async def _pending(self, keeper: Keeper, number: int) -> dict[str, object]:
        """Somebody counts on this one: an earlier one in its place would be a loss that nobody is told of."""
        try:
            record, data = await self.checkpoints.find(number)
            if (
                record.worker != keeper.id
            ):  # what a worker begins with is always its own, a copy if need be
                text = (
                    f'cannot read what it begins with: checkpoint {number} is of "{record.worker}"'
                )
                raise Corrupted(text, record=f"checkpoint {number}", reason="not-its-own")
        except (Corrupted, NotFound) as error:
            way_out = f"corral checkpoint restore ID {keeper.id} gives it another, rm --force {number} none"
            text = f'cannot start worker "{keeper.id}": {error.message}; {way_out}'
            facts = {**error.data, "worker": keeper.id, "checkpoint": number}
            raise SpawnFailed(text, **facts) from error
        return {"checkpoint": data}

    def changed(self, keeper: Keeper) -> None:
        """A worker's state has changed: it may be awake, or has begun with what it was to begin with."""
        worker = keeper.worker
        found = self._resumptions.get(keeper.id)
        if found is not None:
            if found.hibernated and worker.wanted:
                self._awake(keeper, found)
            elif worker.state in UP and self._has_used(keeper, found):
                self._keep_in_mind(keeper.id, None)
        if worker.state not in UP:
            self._due.pop(keeper.id, None)
            self._failing.discard(keeper.id)
            self._saved.pop(keeper.id, None)
        elif keeper.spec.recovery.enable_checkpointing and keeper.id not in self._due:
            self._put_off(keeper)

    def _has_used(self, keeper: Keeper, found: Resumption) -> bool:
        begun = self._begun.pop(keeper.id, None)
        return begun == (keeper.worker.incarnation, found.checkpoint) and not found.hibernated

    def _awake(self, keeper: Keeper, found: Resumption) -> None:
        keeper.is_hibernated = False
        self._keep_in_mind(keeper.id, found._replace(hibernated=False))
        self._tell("agent.woken", keeper, {"checkpoint": found.checkpoint})

    def _keep_in_mind(self, worker_id: str, resumption: Resumption | None) -> None:
        if resumption is None:
            self._resumptions.pop(worker_id, None)
        else:
            self._resumptions[worker_id] = resumption
        self.checkpoints.resume_soon(worker_id, resumption)

    def stopped(self, keepers: Sequence[Keeper]) -> None:
        """Somebody stops workers: those that sleep stay down, and begin with what they saved when they are started."""
        for keeper in keepers:
            found = self._resumptions.get(keeper.id)
            if found is not None and found.hibernated:
                keeper.is_hibernated = False
                self._keep_in_mind(keeper.id, found._replace(hibernated=False))

    def removed(self, agent: str) -> None:
        """An agent is no more."""
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
        """Has each worker of an agent that is up, or the one worker, save a checkpoint.

        Raises:
            NotFound: there is no such agent or worker.
            Conflict: none is up, one is paused, or saves nothing.
            TaskFailed, Timeout, WorkerFailed: one could not; others may have.
            ResourceLimitExceeded: what one saved is longer than max_checkpoint_bytes.
        """
        keepers = self._agents.keepers(name)
        up = [keeper for keeper in keepers if keeper.worker.state in UP]
        what = f'save a checkpoint of "{name}"'
        _check_protocol(keepers, what)
        if not up:
            raise Conflict(f"cannot {what}: it does not run", name=name)
        return await self._save_each(up, "asked", timeout_s)

    async def _save_each(
        self, keepers: Sequence[Keeper], reason: Reason, timeout_s: float | None
    ) -> list[CheckpointRecord]:
        saves = (self._save(keeper, reason, timeout_s) for keeper in keepers)
        results = await asyncio.gather(*saves, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, CheckpointRecord)]

    async def _save(
        self, keeper: Keeper, reason: Reason, timeout_s: float | None
    ) -> CheckpointRecord:
        return await self._keep(keeper, await _state_of(keeper, timeout_s), reason)

    async def _keep(self, keeper: Keeper, data: object, reason: Reason) -> CheckpointRecord:
        record = await self.checkpoints.keep(keeper.spec.name, keeper.id, None, data, reason)
        facts = {"checkpoint": record.id, "reason": reason, "size_bytes": record.size_bytes}
        self._tell("checkpoint.saved", keeper, facts, is_stored=reason != "interval")
        return record

    def _tell(
        self, what: str, keeper: Keeper, fields: Mapping[str, object], *, is_stored: bool = True
    ) -> None:
        self._bus.publish(
            what,
            agent=keeper.spec.name,
            worker=keeper.id,
            incarnation=keeper.worker.incarnation,
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
                    keeper = self._keeper(worker_id)
                    if keeper is None or not keeper.spec.recovery.enable_checkpointing:
                        del self._due[worker_id]
                        continue
                    self._due[worker_id] = float("inf")
                    group.create_task(self._save_by_itself(keeper, gate))

    def _keeper(self, worker_id: str) -> Keeper | None:
        try:
            return self._agents.keepers(worker_id)[0]
        except NotFound:
            return None

    def _put_off(self, keeper: Keeper) -> None:
        factor = random.uniform(1 - JITTER, 1 + JITTER)
        interval_s = keeper.spec.recovery.checkpoint_interval
        self._due[keeper.id] = self._loop.time() + interval_s * factor

    async def _save_by_itself(self, keeper: Keeper, gate: asyncio.Semaphore) -> None:
        incarnation = keeper.worker.incarnation
        try:
            async with gate:
                if keeper.takes_tasks:  # else it is paused, or about to end
                    await self._save_what_changed(keeper)
                    self._failing.discard(keeper.id)
        except CorralError as error:
            if keeper.worker.incarnation == incarnation:
                self._tell_failure(keeper, error)
        except Exception:
            logger.exception("cannot save a checkpoint of worker %s", keeper.id)
        finally:
            if keeper.worker.state in UP:
                self._put_off(keeper)

    def _tell_failure(self, keeper: Keeper, error: CorralError) -> None:
        if keeper.id not in self._failing:
            self._failing.add(keeper.id)  # one event for all that fail in a row
            keeper.note("warning", error.message)
            self._tell("checkpoint.failed", keeper, {"reason": error.message})

    async def _save_what_changed(self, keeper: Keeper) -> None:
        """An agent that does nothing has nothing new to save; half of the time that one is kept is the exception."""
        data = await _state_of(keeper, None)
        digest, now = sha256(codec.encode(data)).digest(), self._loop.time()
        before = self._saved.get(keeper.id)
        old_s = keeper.spec.recovery.checkpoint_retention / 2
        if before is None or before[0] != digest or now - before[1] > old_s:
            await self._keep(keeper, data, "interval")
            self._saved[keeper.id] = (digest, now)

    def _is_tired(self, agent: Agent, now: float) -> bool:
        """Whether all of its workers that are wanted are up, and have had no task for hibernate_after."""
        if now < self._awake_until.get(agent.name, 0.0) or self._queued(agent.name):
            return False
        workers = [keeper.worker for keeper in agent.keepers if keeper.worker.wanted]
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
            for keeper in agent.keepers:
                self._tell_failure(keeper, error)
        except Exception:
            logger.exception("cannot hibernate %s", agent.name)
        finally:
            self._awake_until[agent.name] = self._loop.time() + agent.spec.hibernate_after

    # -- going on from another state

    async def restore(
        self, number: int | None, data: object, name: str | None, timeout_s: float | None
    ) -> tuple[Keeper, CheckpointRecord, bool]:
        """Has a worker go on with a checkpoint, or with `data` where `number` is None.

        Returns the worker, its own copy of the checkpoint, and whether it goes on at once: one that does not run
        begins with it when it is started.

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
        keeper = self._one(name)
        worker = keeper.worker
        what = f'restore a checkpoint into "{keeper.id}"'
        if worker.state in UP:
            # Before the worker takes it: a state that cannot be kept would be lost with its next crash.
            self.checkpoints.encoded(keeper.spec.name, data, f'worker "{keeper.id}"')
            async with self._withheld([keeper], timeout_s, what):
                await _ask(keeper, what, "checkpoint/restore", {"data": data}, timeout_s)
                copy = await self._keep(keeper, data, "restore")
                self._saved.pop(keeper.id, None)
        elif worker.state in (State.STARTING, State.SHUTTING_DOWN):
            raise Conflict(f"cannot {what}: it is {worker.state}", worker=keeper.id)
        else:
            copy = await self._keep(keeper, data, "restore")
            pending = Resumption(keeper.spec.name, copy.id, keeper.is_hibernated, time.time())
            await self._resume({keeper.id: pending})
            self._resumptions[keeper.id] = pending
        is_live = worker.state in UP
        self._tell("checkpoint.restored", keeper, {"checkpoint": copy.id, "live": is_live})
        return keeper, copy, is_live

    def _one(self, name: str | None) -> Keeper:
        if name is None:
            raise InvalidParams("cannot tell into whom to restore: give a name", key="name")
        keepers = self._agents.keepers(name)
        _check_protocol(keepers, f'restore a checkpoint into "{name}"')
        if len(keepers) != 1:
            text = f'cannot restore one checkpoint into the {len(keepers)} workers of "{name}": name one'
            raise Conflict(text, name=name, workers=[keeper.id for keeper in keepers])
        return keepers[0]

    # -- sleeping and waking

    async def hibernate(
        self, names: Sequence[str], *, timeout_s: float | None, force: bool
    ) -> list[Keeper]:
        """Has workers save a checkpoint and ends their processes, all or none; waits until nothing is left of them.

        Args:
            names: agents or workers; those of an agent that do not run are passed over.
            timeout_s: how long running tasks are waited for; None: the shutdown_grace_period.
            force: what saves nothing is ended, too.

        Raises:
            NotFound: a name is unknown.
            Conflict: one is busy, does not run, saves nothing, or is no agent.
            CorralError: one could not save.
        """
        if self._agents.draining:
            raise ShuttingDown("cannot hibernate anything: the daemon is stopping")
        chosen = self._agents.selected(names, everything=False)
        up = [keeper for keeper in chosen if _is_to_sleep(keeper)]
        for name in names:
            keepers = self._agents.keepers(name)
            _check_protocol(keepers, f'hibernate "{name}"')
            if not any(keeper in up or keeper.is_hibernated for keeper in keepers):
                raise Conflict(f'cannot hibernate "{name}": it does not run', name=name)
        async with self._withheld(up, timeout_s, "hibernate"):
            numbers = {keeper.id: keeper.worker.incarnation for keeper in up}
            saved = dict(zip(up, await self._save_for_sleep(up, force), strict=True))
            now = time.time()
            asleep = {
                keeper.id: Resumption(
                    keeper.spec.name, None if record is None else record.id, True, now
                )
                for keeper, record in saved.items()
            }
            await self._resume(asleep)
            gone = [
                k for k in up if k.worker.state not in UP or k.worker.incarnation != numbers[k.id]
            ]
            if gone:
                for keeper in up:
                    self.checkpoints.resume_soon(keeper.id, self._resumptions.get(keeper.id))
                text = f'cannot hibernate "{gone[0].id}": it ended meanwhile'
                raise Conflict(text, worker=gone[0].id)
            for keeper in up:
                self._lay_down(keeper, asleep[keeper.id])
        try:
            await self._agents.until_gone(up)
        finally:  # a task may have come before they slept; also when whoever asked hangs up
            for agent in {keeper.spec.name for keeper in up} & self._agents.agents.keys():
                self._wake_for_tasks(self._agents.of(agent))
        return chosen

    async def _resume(self, resumptions: Mapping[str, Resumption]) -> None:
        """Keeps what workers are to begin with; whoever hangs up meanwhile leaves the store as they are."""
        try:
            await self.checkpoints.resume(resumptions)
        except asyncio.CancelledError:
            for worker_id in resumptions:
                self.checkpoints.resume_soon(worker_id, self._resumptions.get(worker_id))
            raise

    def _lay_down(self, keeper: Keeper, resumption: Resumption) -> None:
        self._resumptions[keeper.id] = resumption
        keeper.is_hibernated = True
        keeper.forget()
        keeper.send(state_machine.Stop("hibernated", "hibernated"))
        self._tell("agent.hibernated", keeper, {"checkpoint": resumption.checkpoint})

    async def _save_for_sleep(
        self, keepers: Sequence[Keeper], force: bool
    ) -> Sequence[CheckpointRecord | None]:
        if not force:
            return await self._save_each(keepers, "hibernate", None)

        async def save(keeper: Keeper) -> CheckpointRecord | None:
            try:
                return await self._save(keeper, "hibernate", None)
            except CorralError as error:
                keeper.note("warning", f"hibernated without a checkpoint: {error.message}")
                return None

        return await asyncio.gather(*map(save, keepers))

    async def wake(self, keepers: Sequence[Keeper], *, wait: bool) -> None:
        """Starts workers that sleep, with what they saved, and waits until they are up; what is up stays as it is.

        Raises:
            Conflict: one is neither up nor sleeps, or an emergency stop is in force.
            CorralError: as for `Agents.start`.
        """
        for keeper in keepers:
            if not (keeper.is_hibernated or keeper.worker.wanted or self._came_asleep(keeper)):
                text = f'cannot wake "{keeper.id}": it is not hibernated; corral start {keeper.id}'
                raise Conflict(text, worker=keeper.id)
        asleep = [keeper for keeper in keepers if keeper.is_hibernated]
        self._agents.check_may_begin(asleep)
        found = {k.id: self._resumptions[k.id]._replace(hibernated=False) for k in asleep}
        if found:
            await self._resume(found)  # a later daemon starts what was woken by name
        await self._agents.bring_up(keepers, wait=wait)

    @asynccontextmanager
    async def _withheld(
        self, keepers: Sequence[Keeper], timeout_s: float | None, what: str
    ) -> AsyncGenerator[None, None]:
        """While workers are given no task, and have none."""
        for keeper in keepers:
            if keeper.is_withheld:
                text = f'cannot go on with "{keeper.id}": another call hibernates or restores it'
                raise Conflict(text, worker=keeper.id)
        for keeper in keepers:
            keeper.is_withheld = True
        try:
            await _until_idle(keepers, timeout_s, what)
            yield
        finally:
            for keeper in keepers:
                keeper.is_withheld = False
                keeper.service.changed(keeper)  # tasks may wait for it


async def _until_idle(keepers: Sequence[Keeper], timeout_s: float | None, what: str) -> None:
    grace_s = max((k.spec.process.shutdown_grace_period for k in keepers), default=0.0)
    try:
        async with asyncio.timeout(grace_s if timeout_s is None else timeout_s):
            for keeper in keepers:
                await keeper.until(_has_no_task(keeper))
    except TimeoutError:
        busy = next((keeper for keeper in keepers if keeper.running), keepers[0])
        task = next(iter(busy.running), None)
        words = f'worker "{busy.id}" is busy with task "{task}"'
        raise Conflict(
            f"cannot {what}: {words}", worker=busy.id, task=task, reason="busy"
        ) from None


def _has_no_task(keeper: Keeper) -> Callable[[state_machine.Worker], bool]:
    return lambda worker: not keeper.running or worker.state not in UP


def _is_to_sleep(keeper: Keeper) -> bool:
    """Whether a worker is up, and not merely down or asleep.

    Raises:
        Conflict: it is neither.
    """
    worker = keeper.worker
    if worker.state in UP and worker.paused_at is None:
        return True
    if keeper.is_hibernated or not worker.wanted:
        return False
    state = "paused" if worker.paused_at is not None else str(worker.state)
    raise Conflict(f'cannot hibernate "{keeper.id}": it is {state}', worker=keeper.id, state=state)


def _check_protocol(keepers: Sequence[Keeper], what: str) -> None:
    for keeper in keepers:
        if keeper.spec.protocol != "corral":
            words = f'it speaks protocol "{keeper.spec.protocol}", which has no checkpoints'
            raise Conflict(f"cannot {what}: {words}", name=keeper.spec.name)


async def _state_of(keeper: Keeper, timeout_s: float | None) -> object:
    """What a worker's checkpoint hook returns."""
    what = f'save a checkpoint of "{keeper.id}"'
    data = (await _ask(keeper, what, "checkpoint/save", {}, timeout_s)).get("data")
    if data is None:
        text = f"cannot {what}: its agent has no checkpoint hook, or that returned nothing"
        raise Conflict(text, worker=keeper.id, reason="nothing-saved")
    return data


async def _ask(
    keeper: Keeper, what: str, method: str, params: dict[str, object], timeout_s: float | None
) -> dict[str, object]:
    """What a worker that is up answers.

    Raises:
        Conflict: it is paused, or knows no such method.
        CorralError: what it answered, or that it did not.
    """
    if keeper.worker.paused_at is not None:
        text = f"cannot {what}: it is paused; corral resume {keeper.id}"
        raise Conflict(text, worker=keeper.id, reason="paused")
    try:
        wait_s = SAVE_S if timeout_s is None else timeout_s
        answer = await keeper.channel.request(method, params, timeout_s=wait_s)
    except MethodNotFound as error:
        text = f"cannot {what}: its agent has no hook for it"
        raise Conflict(text, worker=keeper.id, reason="no-hook") from error
    return dict(codec.as_object(answer) or {})
