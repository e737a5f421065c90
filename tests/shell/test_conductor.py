"""A conductor before queues that are full: who waits for a place waits in line, and asks for nothing meanwhile."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from corral.supervisor.conductor import Conductor
from corral.supervisor.workflow import Step, Workflow
from corral.worker.errors import Overloaded
from corral.worker.schema import Task, TaskParams

PARTS = 200


class NarrowQueue:
    """The tasks of a daemon whose queue has one place, and whose worker takes one turn of the loop for each."""

    def __init__(self) -> None:
        self.ended: list[Any] = []  # callbacks
        self.asked = 0
        self.records = SimpleNamespace(children=self._children)
        self._open: asyncio.Event | None = None

    async def _children(self, _parent: str, _limit: int) -> list[Task]:
        return []

    def recall_children(self, _parent: str, _children: list[str]) -> None:
        """There are none of an earlier daemon."""

    def find(self, _task_id: str) -> None:
        """Nothing is kept."""

    async def submit(self, params: TaskParams, *, parent: Task, step: str) -> Task:
        self.asked += 1
        if self._open is not None:
            raise Overloaded("cannot queue a task: one is waiting")
        self._open = asyncio.Event()
        return Task(id=step, agent=params.agent or "", parent=parent.id, step=step)

    async def wait(self, task_id: str) -> Task:
        ended = Task(id=task_id, agent="ann", state="succeeded")
        await asyncio.sleep(0)
        self._open = None
        for listener in self.ended:
            listener(ended)
        return ended


def _unheard(_event: str, **_facts: object) -> None:
    """Nobody follows the events."""


def test_of_all_that_wait_for_a_place_the_first_alone_asks_for_it() -> None:
    async def run() -> int:
        step = Step(name="each", agent="ann", for_each=list(range(PARTS)), max_parallel=PARTS)
        workflow = Workflow(name="many", source="", steps=(step,), max_parallel=PARTS)
        ensembles = SimpleNamespace(by_name={"many": workflow}, under_way=Counter[str]())
        agents: Any = SimpleNamespace(ensembles=ensembles, agents={})  # what is asked of them
        shared: Any = SimpleNamespace(bus=SimpleNamespace(publish=_unheard))
        queue: Any = NarrowQueue()  # what is asked of it
        conductor = Conductor(shared, agents, queue)
        result = await conductor.perform(Task(id="1", agent="many", kind="workflow", objective="x"))
        assert result.output == {"each": [None] * PARTS}
        return int(queue.asked)

    assert asyncio.run(run()) <= 4 * PARTS
