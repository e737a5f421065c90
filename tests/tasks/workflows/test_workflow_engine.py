"""The workflow engine before full queues: parts that wait for a place form a line, of which the first alone retries."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from corral.supervisor.config.spec.team import Team
from corral.supervisor.config.spec.workflow import Step, Workflow
from corral.supervisor.tasks.run.backlog import Origin
from corral.supervisor.tasks.workflows import workflow_engine
from corral.supervisor.tasks.workflows.workflow_engine import WorkflowEngine
from corral.worker.contract.errors import Overloaded, ResourceLimitExceeded
from corral.worker.contract.records import Task, TaskParams
from corral.worker.contract.worker_messages import TaskResult

pytestmark = pytest.mark.shell

PARTS = 200


class NarrowQueue:
    """Stands in for tasks with a queue of one place, and a worker that takes one turn of the loop for each."""

    def __init__(self, output: object = None) -> None:
        self._output = output  # of each task
        self.ended: list[Any] = []  # callbacks
        self.asked = 0
        self.accounting = self
        self.records = SimpleNamespace(children=self._children)
        self._open: asyncio.Event | None = None
        self._end = asyncio.Event()

    async def _children(self, _parent: str, _limit: int) -> list[Task]:
        return []

    def restore_children(self, _parent: str, _children: list[str]) -> None:
        """There are none of an earlier daemon."""

    def find(self, _task_id: str) -> None:
        """Nothing is kept."""

    async def submit(self, params: TaskParams, origin: Origin) -> Task:
        self.asked += 1
        if self._open is not None:
            raise Overloaded("cannot queue a task: one is waiting")
        self._open = asyncio.Event()
        assert origin.parent is not None
        return Task(id=origin.step, agent=params.agent or "", parent=origin.parent.id, step=origin.step)

    async def wait(self, task_id: str) -> Task:
        ended = Task(id=task_id, agent="ann", state="succeeded", output=self._output)
        await asyncio.sleep(0)
        self._open = None
        for listener in self.ended:
            listener(ended)
        self._end.set()
        self._end = asyncio.Event()
        return ended

    async def next_end(self) -> None:
        await self._end.wait()


def _unheard(_event: str, **_facts: object) -> None:
    """Nobody follows the events."""


def perform(workflow: Workflow, queue: Any) -> TaskResult:  # what is asked of a queue
    async def run() -> TaskResult:
        groups = SimpleNamespace(by_name={workflow.name: workflow}, under_way=Counter[str]())
        agents: Any = SimpleNamespace(groups=groups, agents={})  # what is asked of them
        bus: Any = SimpleNamespace(publish=_unheard)
        task = Task(id="1", agent=workflow.name, kind="workflow", objective="x")
        engine = WorkflowEngine(bus, agents, queue, queue)
        queue.ended.append(engine.note_end)
        return await engine.execute(task)

    return asyncio.run(run())


def each_of(count: int) -> Workflow:
    step = Step(name="each", agent="ann", for_each=list(range(count)), max_parallel=count)
    return Workflow(name="many", source="", steps=(step,), max_parallel=count)


def test_only_the_first_waiting_step_asks_for_a_place() -> None:
    queue = NarrowQueue()
    assert perform(each_of(PARTS), queue).output == {"each": [None] * PARTS}
    assert queue.asked <= 4 * PARTS


def test_a_lead_keeps_to_its_team_before_it_is_performed_again_and_until_its_end_is_written() -> None:
    async def run() -> None:
        duo = Team(name="duo", source="", lead="chief", members=("ann", "ben"))
        groups = SimpleNamespace(by_name={"duo": duo}, under_way=Counter[str]())
        agents: Any = SimpleNamespace(groups=groups, agents={})  # what is asked of them
        queue: Any = NarrowQueue()  # what is asked of it
        whole = Task(id="1", agent="duo", kind="team", state="running")
        queue.find = {"1": whole}.get
        of_lead = Task(id="2", agent="chief", parent="1", step="chief", state="running")
        leader = WorkflowEngine(agents, agents, queue, queue)
        queue.ended.append(leader.note_end)
        assert leader.members_for(of_lead) == ("ann", "ben")
        assert leader.members_for(replace(of_lead, agent="ann")) is None
        await leader.execute(whole)
        groups.by_name["duo"] = replace(duo, members=("cleo",))
        assert leader.members_for(of_lead) == ("ann", "ben")
        for listener in queue.ended:
            listener(whole)
        assert leader.members_for(of_lead) == ("cleo",)
        del groups.by_name["duo"]
        assert leader.members_for(of_lead) == ()

    asyncio.run(run())


def test_outputs_that_are_too_long_together_end_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow_engine, "OUTPUTS_BYTES", 1000)
    assert perform(each_of(9), NarrowQueue("x" * 98)).output == {"each": ["x" * 98] * 9}
    with pytest.raises(ResourceLimitExceeded) as refused:
        perform(each_of(11), NarrowQueue("x" * 98))
    assert refused.value.data == {"limit": "outputs", "value": 1000}
