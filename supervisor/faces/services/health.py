"""Decides whether an agent, a team or a workflow can do its work now, and gives the reasons why not.

An agent can while one of its workers is up, or hibernated, and no health check has degraded it. A team
can while its lead can; or, without a lead, one of its members. A workflow needs every agent that its steps name.
"""

from collections.abc import Mapping

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.spec.spec import Group
from corral.supervisor.config.spec.team import Team
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor


def reasons_of(agents: Agents, name: str) -> list[str]:
    """Returns the reasons why it cannot do its work; empty where it can."""
    if agents.draining:
        return ["the daemon is stopping"]
    if agents.emergency_stop is not None:
        return ["an emergency stop is in force"]
    return _reasons(agents, agents.groups.by_name, name)


def _reasons(agents: Agents, groups: Mapping[str, Group], name: str) -> list[str]:
    group, agent = groups.get(name), agents.agents.get(name)
    if group is not None:
        return _of_group(agents, groups, group)
    return [f"{name} no longer exists"] if agent is None else _of_agent(agent)


def _of_group(agents: Agents, groups: Mapping[str, Group], group: Group) -> list[str]:
    needed = (group.lead,) if isinstance(group, Team) and group.lead is not None else group.needs
    found = [_reasons(agents, groups, each) for each in needed]
    is_one_enough = isinstance(group, Team) and group.lead is None
    if is_one_enough and not all(found):
        return []
    return [reason for reasons in found for reason in reasons]


def _of_agent(agent: Agent) -> list[str]:
    found = [
        f"{agent.name}: check {health.name} failed: {health.message}"
        for supervisor in agent.supervisors
        for health in supervisor.health_monitor.healths
        if health.degraded
    ]
    if found:
        return found
    if not agent.supervisors:
        return [f"{agent.name}: it has no workers"]
    down = [_why_down(supervisor) for supervisor in agent.supervisors]
    return [] if None in down else [reason for reason in down if reason is not None]


def _why_down(supervisor: WorkerSupervisor) -> str | None:
    """Returns why a worker takes no task now; None where it does, or wakes up for one."""
    worker = supervisor.worker
    if supervisor.is_cordoned(Unschedulable.HIBERNATED):
        return None
    if worker.paused_at is not None:
        return f"{worker.id} is paused"
    if worker.state in UP:
        return None
    if not worker.wanted:
        return f"{worker.id} is stopped"
    return f"{worker.id} is {worker.state}" + (f": {worker.reason}" if worker.reason else "")
