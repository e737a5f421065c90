"""Says what this daemon has, and whose it is: agents, tasks, checkpoints, schedules, approvals and deployments.

It must not know a caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from corral.supervisor.agents.deployment.deployments import Deployments
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api.approvals import Approvals
from corral.supervisor.tasks.workflows.schedules import Schedules
from corral.supervisor.workers.supervision.checkpoints import Checkpoints
from corral.worker.contract.errors import NotFound
from corral.worker.contract.records import ScheduleRecord


@dataclass(frozen=True, eq=False)
class Inventory:
    """Finds what the daemon has. Of what is not there, each function raises NotFound or returns False."""

    _registry: Registry
    _tasks: Tasks
    _checkpoints: Checkpoints
    _schedules: Schedules
    _approvals: Approvals
    _deployments: Deployments

    async def has(self, names: Sequence[str], task: str) -> bool:
        """Returns whether this daemon has all of these agents, servers, teams, workflows or workers, or this task."""
        if task:
            try:
                await self._tasks.show(task)
            except NotFound:
                return False
            return True
        registry = self._registry
        return bool(names) and all(
            name in registry.agents or name in registry.groups or registry.supervisor(name) is not None
            for name in names
        )

    def runs(self, task: str) -> bool:
        """Returns whether a task waits for a worker here, or runs on one."""
        return self._tasks.find(task) is not None

    def has_schedule(self, name: str) -> bool:
        """Returns whether this daemon has a schedule of this name."""
        return any(each.name == name for each in self._schedules.list())

    def schedule(self, name: str) -> ScheduleRecord:
        """Returns a schedule."""
        return self._schedules.show(name)

    async def agent_of_task(self, task: str) -> str:
        """Returns the agent of a task."""
        return (await self._tasks.show(task)).agent

    async def agent_of_checkpoint(self, number: int) -> str:
        """Returns the agent of a checkpoint."""
        record, _ = await self._checkpoints.find(number)
        return record.agent

    async def agent_of_approval(self, number: int) -> str:
        """Returns the agent whose task asks."""
        return (await self._approvals.show(number)).agent

    async def agent_of_deployment(self, number: int) -> str:
        """Returns the agent of a deployment."""
        return self._deployments.of(number).agent
