"""Tells the rules in force for a task: of its agent, else of all agents, within what its tenant may."""

from collections.abc import Sequence

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.spec.spec import Resources
from corral.supervisor.config.spec.spec import Tasks as TasksSection
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Task

from ..rules.boundaries import Limits, capped, limits
from ..rules.retry_policy import Policy, policy_of


class TaskRules:
    """Finds the rules of one daemon's tasks, as they are now."""

    def __init__(self, registry: Registry, tenants: TaskLimits) -> None:
        self._registry = registry
        self._tenants = tenants

    def section(self, agent: str) -> TasksSection:
        """Returns `[tasks]` of an agent, that of all agents for any other name."""
        found = self._registry.agents.get(agent)
        return self._registry.config.defaults.tasks if found is None else found.spec.tasks

    def retry_policy(self, task: Task) -> Policy:
        """Returns whether and when a task is tried again."""
        return policy_of(self.section(task.agent), task.retry)

    def limits(self, task: Task, resources: Resources | None = None) -> Limits:
        """Returns the limits of a task on a worker with these resources, else those of its agent.

        Those of a team's or workflow's task are its own and its tenant's alone.
        """
        longest_s = self._tenants.longest_s(tenant_of(task.agent))
        agent = self._registry.agents.get(task.agent) if task.kind == "task" else None
        if resources is None and agent is not None:
            resources = agent.spec.resources
        if resources is not None:
            return limits(task.boundaries, resources, longest_s)
        allowed: Sequence[str] | None = task.boundaries.allowed_tools
        timeout_s = capped(task.boundaries.timeout_s or 0.0, longest_s)
        return Limits(timeout_s, 0, None if allowed is None else tuple(allowed))
