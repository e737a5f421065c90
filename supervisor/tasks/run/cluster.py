"""Defines what tasks, budgets and schedules ask of the cluster that the daemon may have joined, and answers without one.

`Cluster` is made before the room, and knows nothing until `join`: the parts that ask need not know whether there is a
cluster. Each class here answers as without one, and the cluster's own is derived from it.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from corral.supervisor.records.events.bus import Event
from corral.supervisor.tenants.quotas.spending import NO_COST, NO_TOKENS, Spending
from corral.worker.contract.records import ScheduleRecord, Task, TaskStep

ON_ENGINE = "x"
"""The first character of the id of a task that the engine of a cluster keeps; those of a daemon alone are hexadecimal."""

Claim = Literal["run", "later", "elsewhere", "busy"]
"""run: this node submits the task. later: ask again. elsewhere: another node did. busy: the last one has not ended."""


def is_on_engine(task_id: str) -> bool:
    """Returns whether the engine of a cluster keeps a task, whichever node runs it."""
    return task_id.startswith(ON_ENGINE)


class PlacedRunner:
    """Runs the tasks of agents that a cluster places, on whichever node has the agent; this one knows none."""

    def is_placed(self, agent: str | None) -> bool:
        """Returns whether the cluster places an agent of this name."""
        return False

    def default_priority(self, agent: str) -> int:
        """Returns the priority of tasks of an agent of the cluster that have none."""
        raise AssertionError(f"{agent} is not placed")

    async def execute(self, task: Task) -> Task:
        """Returns the end of a task on the node that ran it; also called again for one that a daemon left."""
        raise AssertionError(f"{task.agent} is not placed")

    def note_event(self, task_id: str, event: Event) -> None:
        """Notes an event of a task on the engine, so that it is known when this node is gone."""

    async def withdraw(self, task: Task) -> None:
        """Cancels a task whose end nobody waits for any more."""

    async def claim(self, schedule: str, agent: str, at: str, *, may_overlap: bool) -> Claim:
        """Returns what this node does about a run of a schedule: submit its task, ask again, or skip it."""
        return "run"


class KeptSteps(NamedTuple):
    """Holds steps of a task in their order: those whose results fit into one message, and the rest."""

    whole: list[TaskStep]
    rest: list[TaskStep]


class EngineSteps:
    """Keeps the steps of tasks on the engine of a cluster, for whichever node goes on with them; without one there are no such tasks."""

    async def keep(self, task: Task, step: TaskStep) -> None:
        """Keeps a step; the engine has it when this returns."""
        raise AssertionError(f"{task.id} is on no engine")

    async def read(self, task_id: str, after: int = 0) -> KeptSteps:
        """Returns the steps of a task after a number."""
        raise AssertionError(f"{task_id} is on no engine")


class Elsewhere:
    """Knows what other nodes of a cluster have used of the budgets of an agent, by the wall clock; this one knows none."""

    def tokens(self, agent: str) -> Spending:
        """Returns the tokens of the last minute."""
        return NO_TOKENS

    def cents(self, agent: str) -> Spending:
        """Returns the cents of the last day."""
        return NO_COST

    def changed(self, agent: str) -> None:
        """Notes that this node has used more; `spent` of the budgets has it."""


class SharedSchedules:
    """Keeps the schedules that all nodes of a cluster have, here none; each raises Timeout while the engine is away."""

    def known(self) -> Mapping[str, ScheduleRecord] | None:
        """Returns them by name; None before they were read from the engine."""
        return None

    def subscribe(self, listener: Callable[[], None], /) -> None:
        """Calls `listener` after each change."""

    async def add(self, record: ScheduleRecord, /) -> None:
        """Adds one; raises Conflict where there is one of its name."""
        raise AssertionError("a schedule is shared by a cluster")

    async def remove(self, name: str, /) -> None:
        """Removes one."""
        raise AssertionError("a schedule is shared by a cluster")

    async def set_paused(self, name: str, /, *, paused: bool) -> None:
        """Pauses or resumes one."""
        raise AssertionError("a schedule is shared by a cluster")


class Cluster:
    """Holds what the cluster does for the tasks of this daemon; without one nothing is placed or shared."""

    def __init__(self) -> None:
        self.is_joined = False
        self.runner = PlacedRunner()
        self.elsewhere = Elsewhere()
        self.schedules = SharedSchedules()
        self.steps = EngineSteps()

    def join(self, runner: PlacedRunner, elsewhere: Elsewhere, schedules: SharedSchedules, steps: EngineSteps) -> None:
        """Asks a cluster from now on; before anything is loaded."""
        self.is_joined = True
        self.runner, self.elsewhere, self.schedules, self.steps = runner, elsewhere, schedules, steps
