"""Saves the state of workers that are up as checkpoints: on request, and periodically where the spec enables it.

Guarantees that a periodic checkpoint of an unchanged state is stored again only at half of its retention, and that a
row of failures is published once. Must not know hibernation: which checkpoint a worker begins with is decided there.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from hashlib import sha256

from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.checkpoints import Checkpoints, Reason
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, CorralError, InternalError, MethodNotFound, NotFound, of_agent
from corral.worker.contract.records import CheckpointRecord

from ..membership.agents import Agents

SAVE_S = 30.0
"""Seconds that a worker may take to save or restore, unless the caller sets another limit."""

SAVES_AT_ONCE = 8
"""Number of periodic checkpoints that are saved at the same time: each may be megabytes in memory."""

JITTER = 0.1
"""Fraction by which the time between two checkpoints varies, so that those of many workers spread."""

logger = logging.getLogger(__name__)


class CheckpointSaver:
    """Saves checkpoints of workers, and publishes their events."""

    def __init__(self, agents: Agents, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._agents = agents
        self._bus = agents.shared.bus
        self._loop = asyncio.get_running_loop()
        self._gate = asyncio.Semaphore(SAVES_AT_ONCE)
        self._due: dict[str, float] = {}
        self._failing: set[str] = set()
        self._saved: dict[str, tuple[bytes, float]] = {}

    async def save(self, name: str, timeout_s: float | None) -> list[CheckpointRecord]:
        """Saves a checkpoint of each worker of an agent that is up, or of one worker."""
        supervisors = self._agents.supervisors(name)
        up = [supervisor for supervisor in supervisors if supervisor.worker.state in UP]
        what = f'save a checkpoint of "{name}"'
        check_protocol(supervisors, what)
        if not up:
            raise Conflict(f"cannot {what}: it does not run", name=name)
        return await self.save_each(up, "asked", timeout_s)

    async def save_each(
        self, supervisors: Sequence[WorkerSupervisor], reason: Reason, timeout_s: float | None
    ) -> list[CheckpointRecord]:
        """Saves all at the same time; raises the first failure after the others have finished."""
        saves = (self.save_one(supervisor, reason, timeout_s) for supervisor in supervisors)
        results = await asyncio.gather(*saves, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, CheckpointRecord)]

    async def save_one(self, supervisor: WorkerSupervisor, reason: Reason, timeout_s: float | None) -> CheckpointRecord:
        """Asks one worker for its state, and keeps it; raises as `save`."""
        return await self.keep(supervisor, await _state_of(supervisor, timeout_s), reason)

    async def keep(self, supervisor: WorkerSupervisor, data: object, reason: Reason) -> CheckpointRecord:
        """Keeps `data` as a checkpoint of a worker."""
        record = await self._checkpoints.keep(supervisor.spec.name, supervisor.id, None, data, reason)
        facts = {"checkpoint": record.id, "reason": reason, "size_bytes": record.size_bytes}
        self.publish("checkpoint.saved", supervisor, facts, is_stored=reason != "interval")
        return record

    def publish(
        self, type_: str, supervisor: WorkerSupervisor, fields: Mapping[str, object], *, is_stored: bool = True
    ) -> None:
        """Publishes an event about a worker."""
        self._bus.publish(
            type_,
            agent=supervisor.spec.name,
            worker=supervisor.id,
            incarnation=supervisor.worker.incarnation,
            store=is_stored,
            **fields,
        )

    def publish_failure(self, supervisor: WorkerSupervisor, error: CorralError) -> None:
        """Publishes that a worker could not be saved: one event for all failures in a row."""
        if supervisor.id not in self._failing:
            self._failing.add(supervisor.id)
            supervisor.note("warning", error.message)
            self.publish("checkpoint.failed", supervisor, {"reason": error.message})

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Notes a change of a worker: from its start to its end it is saved periodically."""
        if supervisor.worker.state not in UP:
            self._due.pop(supervisor.id, None)
            self._failing.discard(supervisor.id)
            self._saved.pop(supervisor.id, None)
        elif supervisor.spec.recovery.enable_checkpointing and supervisor.id not in self._due:
            self._put_off(supervisor)

    def forget_saved(self, worker_id: str | None = None) -> None:
        """Stores the next periodic checkpoint of a worker, None for all, even if its state is unchanged."""
        if worker_id is None:
            self._saved.clear()
        else:
            self._saved.pop(worker_id, None)

    def save_due(self, group: asyncio.TaskGroup, now: float) -> None:
        """Begins to save, in `group`, the workers whose interval has passed."""
        for worker_id in [w for w, due in self._due.items() if due <= now]:
            supervisor = self._supervisor(worker_id)
            if supervisor is None or not supervisor.spec.recovery.enable_checkpointing:
                del self._due[worker_id]
                continue
            self._due[worker_id] = float("inf")
            group.create_task(self._save_by_itself(supervisor))

    def _supervisor(self, worker_id: str) -> WorkerSupervisor | None:
        try:
            return self._agents.supervisors(worker_id)[0]
        except NotFound:
            return None

    def _put_off(self, supervisor: WorkerSupervisor) -> None:
        factor = random.uniform(1 - JITTER, 1 + JITTER)
        self._due[supervisor.id] = self._loop.time() + supervisor.spec.recovery.checkpoint_interval * factor

    async def _save_by_itself(self, supervisor: WorkerSupervisor) -> None:
        incarnation = supervisor.worker.incarnation
        try:
            async with self._gate:
                if supervisor.takes_tasks:  # else it is paused, or about to end
                    data = await _state_of(supervisor, None)
                    digest, now = sha256(codec.encode(data)).digest(), self._loop.time()
                    before = self._saved.get(supervisor.id)
                    old_s = supervisor.spec.recovery.checkpoint_retention / 2
                    if before is None or before[0] != digest or now - before[1] > old_s:
                        await self.keep(supervisor, data, "interval")
                        self._saved[supervisor.id] = (digest, now)
                    self._failing.discard(supervisor.id)
        except CorralError as error:
            if supervisor.worker.incarnation == incarnation:
                self.publish_failure(supervisor, error)
        except Exception:
            logger.exception("cannot save a checkpoint of worker %s", supervisor.id)
        finally:
            if supervisor.worker.state in UP:
                self._put_off(supervisor)


def check_protocol(supervisors: Sequence[WorkerSupervisor], what: str) -> None:
    """Raises Conflict if one of the workers has no checkpoints, because it speaks MCP."""
    for supervisor in supervisors:
        if supervisor.spec.speaks != "corral":
            words = f'its protocol "{supervisor.spec.protocol}" has no checkpoints'
            raise Conflict(f"cannot {what}: {words}", name=supervisor.spec.name)


async def _state_of(supervisor: WorkerSupervisor, timeout_s: float | None) -> object:
    what = f'save a checkpoint of "{supervisor.id}"'
    data = (await ask_worker(supervisor, what, "checkpoint/save", {}, timeout_s)).get("data")
    if data is None:
        text = f"cannot {what}: its agent has no checkpoint hook, or that returned nothing"
        raise Conflict(text, worker=supervisor.id, reason="nothing-saved")
    return data


async def ask_worker(
    supervisor: WorkerSupervisor, what: str, method: str, params: dict[str, object], timeout_s: float | None
) -> dict[str, object]:
    """Calls a method of a worker that is up, and returns the result."""
    if supervisor.worker.paused_at is not None:
        text = f"cannot {what}: it is paused; corral resume {supervisor.id}"
        raise Conflict(text, worker=supervisor.id, reason="paused")
    try:
        wait_s = SAVE_S if timeout_s is None else timeout_s
        answer = await supervisor.channel.request(method, params, timeout_s=wait_s)
    except MethodNotFound as error:
        text = f"cannot {what}: its agent has no hook for it"
        raise Conflict(text, worker=supervisor.id, reason="no-hook") from error
    except InternalError as error:  # with a code of the agent's own
        raise of_agent(error) from error
    return dict(codec.as_object(answer) or {})
