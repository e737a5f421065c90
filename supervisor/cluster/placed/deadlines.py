"""Ends the tasks of placed agents that wait beyond their deadline or queue_timeout, with the reasons of local ones.

The node that has accepted a task watches it. Each node looks through the queues when it joins, and the one that places when another
node is over: so a task is watched while any node is there. Several nodes may find one due; the engine takes one end.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Mapping

from corral.supervisor.tasks.rules.payload import words_bytes
from corral.supervisor.tasks.run.endings import not_begun_in_time, past_deadline
from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import Task

from ..calls.forwarding import Forwarding, Question
from ..engine.interface import Engine
from ..state.stored_task import StoredTask, accepted_at
from ..state.view import ClusterView
from .placed_agents import decoded_spec
from .placed_changes import PlacedChanges
from .placed_tasks import PlacedTasks

WATCHED_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of the tasks that are watched; further ones are looked for in their queues when half of these have ended."""

TASK_BYTES = 1_000
"""Bytes that a task takes at least."""

TOGETHER = 100
"""Number of tasks that are looked at together: each may take half a second."""

LOOK_S = 2.0
"""Seconds until a task is looked at again that is beyond its deadline, and runs or could not be ended."""

logger = logging.getLogger(__name__)


class Deadlines:
    """Watches tasks that wait on the engine."""

    def __init__(self, view: ClusterView, tasks: PlacedTasks, changes: PlacedChanges, forwarding: Forwarding) -> None:
        self._view = view
        self._tasks = tasks
        self._changes = changes
        self._forwarding = forwarding
        self._watched: dict[str, tuple[StoredTask, int]] = {}
        self._due: list[tuple[float, str]] = []
        self._size_bytes = 0
        self._is_partial = False
        self._limits: dict[str, tuple[int, float]] = {}
        self._wake = asyncio.Event()
        tasks.subscribe(self._watch)
        tasks.ends.subscribe(self._forget)

    def look_through(self) -> None:
        """Looks soon for tasks whose node may not watch them any more."""
        self._is_partial = True
        self._wake.set()

    async def run(self, engine: Engine) -> None:
        """Ends tasks as they become due, until it is cancelled."""
        await self._view.synced.wait()
        self.look_through()
        while True:
            self._wake.clear()
            try:
                if self._is_partial and self._size_bytes < WATCHED_BYTES_MAX / 2:
                    self._is_partial = False
                    for stored in await self._tasks.waiting(engine):
                        self._watch(stored)
            except CorralError as error:
                logger.info("cannot look for tasks that wait too long: %s", error)
                self._is_partial = True
            while some := self._due_now():
                found = await asyncio.gather(*(self._is_over(engine, each) for each in some))
                for stored, is_over in zip(some, found, strict=True):
                    if is_over:
                        self._forget(stored.id)
                    else:
                        heapq.heappush(self._due, (time.time() + LOOK_S, stored.id))
            wait_s = LOOK_S if self._is_partial else None
            if self._due:
                wait_s = max(0.0, self._due[0][0] - time.time())
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _due_now(self) -> list[StoredTask]:
        """Takes some of the tasks that are due."""
        found: list[StoredTask] = []
        while self._due and self._due[0][0] <= time.time() and len(found) < TOGETHER:
            _, task_id = heapq.heappop(self._due)
            if task_id in self._watched:
                found.append(self._watched[task_id][0])
        return found

    # -- what is watched

    def _watch(self, stored: StoredTask) -> None:
        due = min(self._limits_of(stored).values(), default=None)
        if due is None or stored.id in self._watched:
            return
        if self._size_bytes >= WATCHED_BYTES_MAX:
            self._is_partial = True
            return
        size_bytes = TASK_BYTES + words_bytes(self._tasks.queued_record(stored))
        self._watched[stored.id] = stored, size_bytes
        self._size_bytes += size_bytes
        heapq.heappush(self._due, (due, stored.id))
        if self._due[0][1] == stored.id:
            self._wake.set()

    def _forget(self, task_id: str) -> None:
        if (watched := self._watched.pop(task_id, None)) is not None:
            self._size_bytes -= watched[1]

    def _limits_of(self, stored: StoredTask) -> Mapping[str, float]:
        """Returns when the limits of a task are reached, by the wall clock."""
        params, accepted = stored.params, accepted_at(stored)
        found: dict[str, float] = {}
        if params.deadline_s is not None:
            found["deadline_s"] = accepted + params.deadline_s
        if limit_s := self._queue_timeout(stored):
            found["queue_timeout"] = accepted + limit_s
        return found

    def _queue_timeout(self, stored: StoredTask) -> float:
        """Returns the seconds that a task may wait for its first worker, 0 for any time."""
        name = stored.params.agent or ""
        if stored.params.queue_timeout_s is not None:
            return stored.params.queue_timeout_s
        if (known := self._view.specs.get(name)) is None:
            return 0.0
        revision, limit_s = self._limits.get(name, (0, 0.0))
        if revision != known.revision:
            try:
                limit_s = decoded_spec(name, known.value).tasks.queue_timeout
            except CorralError:  # of a newer version
                limit_s = 0.0
            self._limits[name] = (known.revision, limit_s)
        return limit_s

    # -- one that is due

    async def _is_over(self, engine: Engine, stored: StoredTask) -> bool:
        """Ends a task that is due, unless a node runs it, which ends it itself; returns whether it need not be looked at again."""
        agent = stored.params.agent or ""
        try:
            if await self._tasks.ends.find(engine, stored.id) is not None:
                return True
            if self._view.nodes_of(agent):
                why, question = "", Question(task=stored.id, running=True)
                if self._tasks.runs(stored.id) or await self._forwarding.find(engine, question):
                    return stored.params.deadline_s is None
            else:
                why = await self._changes.why_unplaced(engine, agent)
            await self._tasks.end_waiting(
                engine, stored, self._why_over(stored, self._tasks.queued_record(stored), why)
            )
        except CorralError as error:
            logger.info("cannot end task %s, which waits too long: %s", stored.id, error)
            return False
        return True

    def _why_over(self, stored: StoredTask, task: Task, why: str) -> CorralError:
        limits = self._limits_of(stored)
        if limits.get("deadline_s", time.time() + 1) <= time.time():
            return past_deadline(task, why)
        return not_begun_in_time(task, self._queue_timeout(stored), why)
