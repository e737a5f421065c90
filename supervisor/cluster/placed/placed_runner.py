"""Runs tasks of this daemon on placed agents: one that an agent delegates, a step of a workflow, a run of a schedule, a task that waits.

Such a task has a record here, which counts what it uses and ends with it, and one on the engine under an idempotency key, so
that it is the same after a restart of this daemon. A run of a schedule is the same task on all nodes.
"""

import asyncio
import contextlib
import logging
import time
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.records.events.bus import Event
from corral.supervisor.tasks.run import cluster
from corral.supervisor.tasks.run.backlog import dependency_failed
from corral.worker.contract.errors import Conflict, CorralError, Timeout
from corral.worker.contract.records import Task, TaskParams

from ..engine.interface import Engine
from ..lease.record import key_of
from ..state.state import decoded, encoded
from ..state.stored_task import StoredEnd, id_of
from .joining import Joining
from .placed_tasks import PlacedTasks

AGAIN_S = 1.0
"""Seconds until the engine is asked again."""

WITHDRAW_S = 2.0
"""Seconds that the end of a task may wait until it is cancelled on its node."""

SETTLED_S = 5.0
"""Seconds after which a run that another node has claimed was submitted, or its node has lost its lease."""

TICKS = "ticks"
"""The prefix of the last run of each schedule."""

logger = logging.getLogger(__name__)


class Tick(Struct, frozen=True, kw_only=True):
    """Represents the last run of a schedule: when it was due, and the node that submits its task."""

    at: str
    node: str


class PlacedRunner(cluster.PlacedRunner):
    """Submits tasks of this daemon to the engine, and returns their ends."""

    def __init__(self, node: str, tasks: PlacedTasks, joining: Joining) -> None:
        self._node = node
        self._tasks = tasks
        self._joining = joining

    def is_placed(self, agent: str | None) -> bool:
        """Returns whether the cluster places an agent of this name."""
        return self._tasks.is_placed(agent)

    def default_priority(self, agent: str) -> int:
        """Returns the priority of tasks of an agent of the cluster that have none."""
        return self._tasks.default_priority(agent)

    def note_event(self, task_id: str, event: Event) -> None:
        """Notes an event of a task that runs here: its end has it."""
        self._tasks.note_event(task_id, event)

    # -- tasks

    async def execute(self, task: Task) -> Task:
        """Returns the end of a task, with the node behind the name of its worker; waits while the engine is away."""
        while True:
            engine = self._joining.engine
            try:
                if engine is not None:
                    end = await self._ended(engine, task)
                    worker = end.task.worker
                    return replace(end.task, worker=None if worker is None else f"{worker}@{end.node}")
            except Timeout as error:
                logger.info("task %s waits for the engine: %s", task.id, error)
            await asyncio.sleep(AGAIN_S)

    async def _ended(self, engine: Engine, task: Task) -> StoredEnd:
        for each in task.after:
            if cluster.is_on_engine(each):
                before = (await self._tasks.ends.wait(engine, each)).task
                if before.state != "succeeded":
                    raise dependency_failed(task.id, each, before.state)
        submitted = await self._tasks.submit(engine, _params(task))
        return await self._tasks.ends.wait(engine, submitted.id)

    async def withdraw(self, task: Task) -> None:
        """Cancels a task whose end nobody waits for; one that runs is cancelled by its node when that is there."""
        engine = self._joining.engine
        if engine is not None:
            with contextlib.suppress(TimeoutError, CorralError):
                async with asyncio.timeout(WITHDRAW_S):
                    await self._tasks.cancel(engine, id_of(_params(task)))

    # -- schedules

    async def claim(self, schedule: str, agent: str, at: str, *, may_overlap: bool) -> cluster.Claim:
        """Returns whether this node submits the task of a run: of all nodes that ask one does, by compare-and-swap.

        The run of a node that is gone is claimed anew; had it submitted the task, its idempotency key makes it the same.
        """
        engine = self._joining.engine
        if engine is None:
            return "later"
        key = f"{TICKS}/{schedule}"
        try:
            entry = await engine.get(key)
            last = None if entry is None else decoded(entry.value, Tick)
            if last is not None and (last.at > at or (last.at == at and last.node != self._node)):
                if last.at > at or await engine.get(key_of(last.node)) is not None:
                    age_s = time.time() - datetime.fromisoformat(at).timestamp()
                    return "elsewhere" if last.at > at or age_s > SETTLED_S else "later"
            elif last is not None and last.at < at and not may_overlap:
                before = id_of(TaskParams(objective="", agent=agent, idempotency_key=f"{schedule}@{last.at}"))
                if await self._tasks.stored(engine, before) is not None:
                    return "busy"
            revision = 0 if entry is None else entry.revision
            await engine.put(key, encoded(Tick(at=at, node=self._node)), revision=revision)
        except (Conflict, Timeout):
            return "later"
        return "run"


def _params(task: Task) -> TaskParams:
    """Returns a task as the engine takes it, under the key that is its own over restarts."""
    due = None if task.deadline_at is None else datetime.fromisoformat(task.deadline_at).timestamp()
    return TaskParams(
        objective=task.objective,
        queue_timeout_s=task.queue_timeout_s,
        deadline_s=None if due is None else max(due - time.time(), 0.001),
        agent=task.agent,
        input=task.input,
        context=task.context,
        priority=task.priority,
        boundaries=task.boundaries,
        output_format=task.output_format,
        session=task.session,
        traceparent=task.traceparent,
        idempotency_key=task.idempotency_key or f"for:{task.id}",
    )
