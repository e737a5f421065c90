"""Tells the rules in force for a task, and whether it is tried again: of its agent, else of all agents, within what its tenant may."""

from collections.abc import Sequence

from msgspec import Struct

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.spec.spec import Resources, Tasks
from corral.supervisor.config.spec.spec import Tasks as TasksSection
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Retry, Task

from ..rules.boundaries import Limits, capped, limits


class Policy(Struct, frozen=True):
    """Holds the reasons for which a task is retried, how often, and its backoff."""

    max_attempts: int
    retry_on: frozenset[str]
    base_s: float
    max_s: float


def policy_of(tasks: Tasks, own: Retry | None) -> Policy:
    """Returns the policy in force: that of the task itself, else of its agent's `[tasks]`."""
    retry = Retry() if own is None else own
    reasons = tasks.retry_on if retry.retry_on is None else retry.retry_on
    base_s = retry.retry_backoff_base_s
    return Policy(
        tasks.max_attempts if retry.max_attempts is None else retry.max_attempts,
        frozenset((reasons,) if isinstance(reasons, str) else reasons),
        tasks.retry_backoff_base if base_s is None else base_s,
        tasks.retry_backoff_max,
    )


class Attempted(Struct, frozen=True):
    """Represents the end of an attempt: by the worker's death (`died`), late, or by an error that the agent returned.

    An attempt that was stopped on request does not count: that is not the task's fault.
    """

    died: bool
    counts: bool = True
    late: bool = False
    error: str = ""


def retries(policy: Policy, attempt: int, ended: Attempted) -> bool:
    """Returns True if a task is retried after its attempt number `attempt` failed.

    "any" is every error but the task's own timeout: that is the caller's deadline, and remains one
    unless the policy names Timeout.
    """
    if not ended.counts:
        return True
    if attempt >= policy.max_attempts:
        return False
    if ended.late:
        return "Timeout" in policy.retry_on
    if "any" in policy.retry_on or ended.error in policy.retry_on:
        return True
    return ended.died and "worker-death" in policy.retry_on


def retry_delay_s(policy: Policy, attempt: int, jitter: float) -> float:
    """Returns the seconds before the next attempt: the base, doubled each time up to the longest, ±20 %."""
    return min(policy.base_s * 2.0 ** min(attempt - 1, 64), policy.max_s) * (0.8 + 0.4 * jitter)


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
        """Returns the limits of a task on a worker with these resources, else of its agent; of a group's task its own and its tenant's."""
        longest_s = self._tenants.longest_s(tenant_of(task.agent))
        agent = self._registry.agents.get(task.agent) if task.kind == "task" else None
        if resources is None and agent is not None:
            resources = agent.spec.resources
        if resources is not None:
            return limits(task.boundaries, resources, longest_s)
        allowed: Sequence[str] | None = task.boundaries.allowed_tools
        timeout_s = capped(task.boundaries.timeout_s or 0.0, longest_s)
        return Limits(timeout_s, 0, None if allowed is None else tuple(allowed))
