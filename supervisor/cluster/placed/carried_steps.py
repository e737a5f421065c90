"""Carries the steps of placed tasks from node to node: pages of steps, each page a key of the engine.

A step is on the engine before its worker goes on. A run writes each page at the revision that it knows, and a later delivery
writes the last page anew before it begins: a run that comes back late finds another revision, and is refused and counted,
whatever it knows of its lease. The pages end when the end of their task does.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from msgspec import Raw

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.tasks.run import cluster
from corral.supervisor.tasks.run.cluster import KeptSteps
from corral.supervisor.tasks.run.steps import PAGE_BYTES
from corral.worker.contract.errors import Conflict, ResourceLimitExceeded, Timeout
from corral.worker.contract.records import Task, TaskStep

from ..engine.interface import VALUE_BYTES_MAX, Engine, Entry
from ..state.state import decoded, encoded
from ..state.stored_steps import StepFold, StepPage, page_key
from ..state.stored_task import RESULT_S
from .fences import Fences

FULL_BYTES = 16 * 1024
"""Bytes of a page after which the next step begins another one: a page is written anew with each step on it."""

STEP_BYTES_MAX = VALUE_BYTES_MAX - 1_000
"""Bytes of one step."""

BYTES_MAX = 64 * 1024 * 1024
"""Bytes of all steps of a task."""

AT_ONCE = 32
"""Number of pages that are read or written side by side."""

AGAIN_S = 0.5
"""Seconds until an engine that has not answered is asked again."""


class StepRun:
    """Holds what a run of a task has written: the revisions of its pages, and the steps of those that the engine does not have yet."""

    def __init__(self, agent: str, task_id: str, delivery: int, by: str) -> None:
        self.agent = agent
        self.task_id = task_id
        self.delivery = delivery
        self.by = by
        self.revisions: list[int] = []
        self.pages: dict[int, list[Raw]] = {}
        """The last page, and those before it that are not written, by number."""
        self.size_bytes = 0
        self.added = 0
        self.written = 0
        """Number of the steps that were added, and of those that the engine has."""
        self.lock = asyncio.Lock()
        self.is_late = False
        """Whether a later delivery has taken over: the end of this run does not count."""

    def add(self, step: bytes) -> int:
        """Adds a step to the last page, or to a new one; returns how many there are."""
        last = max(self.pages, default=1)
        if sum(map(len, self.pages.get(last, ()))) + len(step) > FULL_BYTES and last in self.pages:
            last += 1
        self.pages.setdefault(last, []).append(Raw(step))
        self.size_bytes += len(step)
        self.added += 1
        return self.added


class CarriedSteps(cluster.EngineSteps):
    """Writes and reads the steps of the tasks of one cluster."""

    def __init__(self, fences: Fences, bus: Bus) -> None:
        self._fences = fences
        self._joining = fences.joining
        self._bus = bus
        self._runs: dict[str, StepRun] = {}

    # -- the run of a task

    async def begin(self, engine: Engine, agent: str, task_id: str, delivery: int) -> StepRun:
        """Writes the steps of a task from now on; those of earlier deliveries are refused when this returns.

        Of a task that was delivered again while it runs here it returns the run that goes on.

        Raises:
            Conflict: a later delivery has begun.
        """
        if (known := self._runs.get(task_id)) is not None:
            return known
        run = StepRun(agent, task_id, delivery, f"{self._joining.node} {self._joining.incarnation}")
        if delivery > 1:
            await self._take_over(engine, run)
        return self._runs.setdefault(task_id, run)

    async def _take_over(self, engine: Engine, run: StepRun) -> None:
        while True:
            last: Entry | None = None
            run.revisions, run.size_bytes = [], 0
            async for page in _pages(engine, run.task_id):
                run.revisions.append(page.revision)
                run.size_bytes += len(page.value)
                last = page
            found = None if last is None else decoded(last.value, StepPage)
            if found is not None and found.delivery > run.delivery:
                raise Conflict(f'cannot run task "{run.task_id}": it was delivered again', reason="task.late")
            number = max(1, len(run.revisions))
            run.pages = {number: [] if found is None else list(found.steps)}
            try:
                await self._put(engine, run, number)
                return
            except Conflict:
                continue  # the run before has just written one more step

    def finish(self, run: StepRun) -> None:
        """Takes no more steps of a run."""
        if self._runs.get(run.task_id) is run:
            del self._runs[run.task_id]

    async def expire(self, engine: Engine, task_id: str) -> None:
        """Lets the steps of a task that has ended go when its end does."""
        async for page in _pages(engine, task_id):
            await engine.put(page.key, page.value, revision=page.revision, ttl_s=RESULT_S)

    # -- steps

    async def keep(self, task: Task, step: TaskStep) -> None:
        """Keeps a step of a task that runs here; steps that are kept at the same time are one write.

        Raises:
            Conflict: this node has lost its lease, or the task was delivered again: `reason` is `task.late`.
            ResourceLimitExceeded: the step, or all of the task, is too large for the engine.
        """
        run = self._runs.get(task.id)
        if run is None:
            raise self._late(task, step)
        value = msgspec.json.encode(step)
        if len(value) > STEP_BYTES_MAX or run.size_bytes + len(value) > BYTES_MAX:
            size, most = (len(value), STEP_BYTES_MAX) if len(value) > STEP_BYTES_MAX else (run.size_bytes, BYTES_MAX)
            text = f'cannot keep step "{step.name}" of task "{task.id}": {size} bytes, and the engine keeps {most}'
            raise ResourceLimitExceeded(text, limit=most, value=size, task=task.id, step=step.name)
        if not await self._write(run, run.add(value)):
            raise self._late(task, step)

    async def _write(self, run: StepRun, wanted: int) -> bool:
        """Writes what is not on the engine, until it has as many steps as `wanted`; returns False where this run is late."""
        async with run.lock:
            while run.written < wanted:
                engine = self._joining.engine
                if run.is_late or engine is None or self._fences.of(run.agent) is None:
                    return False
                added = run.added
                try:
                    for number in sorted(run.pages):
                        await self._put(engine, run, number)
                    run.written = added
                except Conflict:
                    run.is_late = not await self._is_own(engine, run)
                except Timeout:
                    await asyncio.sleep(AGAIN_S)
        return True

    async def _put(self, engine: Engine, run: StepRun, number: int) -> None:
        """Writes a page at the revision that is known, and forgets what is on it unless it is the last one."""
        revision = run.revisions[number - 1] if number <= len(run.revisions) else 0
        steps = run.pages[number]
        count, page = len(steps), encoded(StepPage(delivery=run.delivery, by=run.by, steps=steps))
        run.revisions[number - 1 :] = [await engine.put(page_key(run.task_id, number), page, revision=revision)]
        if number < max(run.pages) and len(steps) == count:  # none was added meanwhile
            del run.pages[number]

    async def _is_own(self, engine: Engine, run: StepRun) -> bool:
        """Returns whether the page at another revision is one that this run has written without hearing of it; notes its revision."""
        number = min(run.pages)
        try:
            entry = await engine.get(page_key(run.task_id, number))
        except Timeout:
            return True  # it is written again, and refused again
        page = None if entry is None else decoded(entry.value, StepPage)
        if entry is None or page is None or (page.delivery, page.by) != (run.delivery, run.by):
            return False
        run.revisions[number - 1 :] = [entry.revision]
        return True

    def _late(self, task: Task, step: TaskStep) -> Conflict:
        reason = f"step {step.number}: this node has lost its lease, or the task was delivered again"
        self._bus.publish("task.late", agent=task.agent, task=task.id, reason=reason)
        return Conflict(
            f'cannot keep step "{step.name}" of task "{task.id}": {reason}', task=task.id, reason="task.late"
        )

    async def read(self, task_id: str, after: int = 0) -> KeptSteps:
        """Returns the steps of a task after a number, whichever node has done them; for a task that runs here it waits for the engine."""
        run = self._runs.get(task_id)
        if run is not None:  # a worker that died may have left some
            await self._write(run, run.added)
        while True:
            fold = StepFold(after, PAGE_BYTES)
            try:
                async for page in _pages(self._joining.reached(f'read the steps of task "{task_id}"'), task_id):
                    fold.add(page.value)
                return fold.steps()
            except Timeout:
                if run is None or self._fences.of(run.agent) is None:
                    raise
                await asyncio.sleep(AGAIN_S)


async def _pages(engine: Engine, task_id: str) -> AsyncGenerator[Entry]:
    """Returns the pages of a task as the engine has them now."""
    number, count = 1, 1
    while True:
        for entry in await asyncio.gather(*[engine.get(page_key(task_id, n)) for n in range(number, number + count)]):
            if entry is None:
                return
            yield entry
        number, count = number + count, min(2 * count, AT_ONCE)
