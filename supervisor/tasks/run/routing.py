"""Decides which agent, team or workflow a task is for: the named one, or the best of those with the capabilities.

Reads the running set, the queues and the latest successes; changes nothing.
"""

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.spec.spec import Spec, kind_of_group
from corral.supervisor.config.spec.spec import Tasks as TasksSection
from corral.supervisor.config.spec.team import Candidate, Thresholds, best
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.contract.records import TaskKind, TaskParams

from ..rules.availability import Down, free_slots, waits_when_down, why_down
from ..rules.queue import preferred
from .backlog import Backlog
from .cluster import Cluster


def _unknown_rate(_name: str) -> float | None:
    return None


class Routing:
    """Finds the agents of one daemon for its tasks."""

    def __init__(self, agents: Agents, backlog: Backlog, cluster: Cluster) -> None:
        self._agents = agents
        self._registry = agents.registry
        self._backlog = backlog
        self._cluster = cluster
        self._success_rate: Callable[[str], float | None] = _unknown_rate

    def rate_by(self, success_rate: Callable[[str], float | None]) -> None:
        """Compares agents from now on by what `success_rate` knows: the share of their latest tasks that succeeded."""
        self._success_rate = success_rate

    def success_rate(self, name: str) -> float | None:
        """Returns the share of the latest tasks of a name that succeeded; None where that is not known."""
        return self._success_rate(name)

    def kind(self, name: str | None) -> TaskKind:
        """Returns the kind of a task for this name: that of a "team", "workflow" or "job", "placed" by the cluster, else "task"."""
        if name is None:
            return "task"
        if self._cluster.runner.is_placed(name):
            return "placed"
        agent = self._registry.agents.get(name)
        if agent is not None:
            return "job" if agent.spec.type == "oneshot" else "task"
        group = self._agents.groups.by_name.get(name)
        return "task" if group is None else kind_of_group(group)

    def default_priority(self, name: str, kind: TaskKind) -> int:
        """Returns the priority of tasks for a name that have none."""
        if kind == "placed":
            return self._cluster.runner.default_priority(name)
        agent = self._registry.agents.get(name) if kind == "task" else None
        section = self._registry.config.defaults.tasks if agent is None else agent.spec.tasks
        return section.default_priority

    def candidates(self, params: TaskParams, tenant: str) -> list[Agent]:
        """Returns the agents that a task may be for: the named one, or those that offer the capabilities."""
        required = params.required_capabilities
        if params.agent is not None and params.capability is not None:
            raise InvalidParams("cannot choose an agent for the task: give agent or capability", key="agent")
        if params.agent is not None:
            agent = self._registry.agents.get(params.agent) or self._registry.of(params.agent)
            for each in required:
                if not _offers(agent, each):
                    words = f'cannot run a task on "{agent.name}": it does not offer "{each}"'
                    raise Conflict(words, agent=agent.name, capability=each)
            return [agent]
        if params.capability is not None:
            required = [params.capability, *required]
        if not required:
            raise InvalidParams("cannot choose an agent for the task: give agent or capability", key="agent")
        able = self._able(required, tenant)
        if not able:
            raise _no_agent(required)
        return able

    def own_name(self, params: TaskParams, name: str, tenant: str) -> TaskParams:
        """Returns params with the full name of what a tenant gives a task to."""
        full = qualified(name, tenant)
        names = [*self._registry.agents, *self._registry.groups]
        if tenant_of(full) != tenant or full not in names:
            known = sorted(each for each in names if tenant_of(each) == tenant)
            raise NotFound(f'cannot find agent "{name}"', name=name, known=known)
        return params if full == name else replace(params, agent=full)

    def for_group(self, params: TaskParams, tenant: str) -> TaskParams:
        """Returns params that name the group with the capabilities, where no agent has them all: the most successful one, then the first."""
        required = [*filter(None, [params.capability]), *params.required_capabilities]
        if not required or self._able(required, tenant):
            return params
        groups = [
            group.name
            for group in self._agents.groups.by_name.values()
            if tenant_of(group.name) == tenant and all(each in group.capabilities for each in required)
        ]
        if not groups:
            return params
        name = max(groups, key=lambda each: self.success_rate(each) or 0.0)
        return replace(params, agent=name, capability=None, required_capabilities=[])

    def _able(self, required: Sequence[str], tenant: str) -> list[Agent]:
        return [
            agent
            for agent in self._registry.agents.values()
            if agent.spec.speaks == "corral"
            and tenant_of(agent.name) == tenant
            and all(_offers(agent, each) for each in required)
        ]

    def choose(self, able: Sequence[Agent], params: TaskParams) -> Agent:
        """Returns the agent that is given the task: the named one, the least loaded, or that of its sticky key or session."""
        agent = able[0] if params.agent is not None else self._route(able, params)
        if agent.spec.speaks != "corral":
            words = f'cannot run a task on "{agent.name}": it takes no tasks (protocol "{agent.spec.protocol}")'
            raise Conflict(words, agent=agent.name)
        down = self._why_down(agent)
        if down is not None and not waits_when_down(agent, params.when_down):
            raise down.refusal()
        return agent

    def _route(self, able: Sequence[Agent], params: TaskParams) -> Agent:
        downs = {agent.name: self._why_down(agent) for agent in able}
        up = {agent.name: agent for agent in able if downs[agent.name] is None}
        if not up:
            up = {agent.name: agent for agent in able if waits_when_down(agent, params.when_down)}
        key = params.sticky_key or params.session
        name = preferred(key, up) if key is not None else self._best_of(list(up))
        if name is None:
            names = [*filter(None, [params.capability]), *params.required_capabilities]
            raise _no_agent(names, list(filter(None, downs.values())))
        return up[name]

    def _best_of(self, names: Sequence[str]) -> str | None:
        """Returns the agent for a task that names only a capability, as `capability_routing` says."""
        candidates = [self.candidate(name) for name in names]
        tasks = self._agents.config.defaults.tasks
        if tasks.capability_routing == "best":
            return best(candidates, thresholds_of(tasks))
        return route(candidates)

    def candidate(self, name: str) -> Candidate:
        """Returns an agent as routing sees it."""
        queued, rate = self._backlog.queued(name), self.success_rate(name)
        agent = self._registry.agents.get(name)
        if agent is None:
            return Candidate(name, 0, queued, float(queued), rate)
        free = sum(slot.capacity - slot.running for slot in free_slots(agent))
        capacity = agent.spec.resources.max_concurrent_requests
        places = max(capacity * sum(each.takes_tasks for each in agent.supervisors), 1)
        running = sum(len(each.running) for each in agent.supervisors)
        return Candidate(name, free, queued, (running + queued) / places, rate)

    def _why_down(self, agent: Agent) -> Down | None:
        return why_down(agent, self._registry.agents)


def thresholds_of(tasks: TasksSection) -> Thresholds:
    """Returns the thresholds of the routing `best`, as shares."""
    return Thresholds(tasks.best_min_success_percent / 100, tasks.best_max_load_percent / 100)


def route(candidates: Sequence[Candidate]) -> str | None:
    """Returns the agent for a task that names only a capability: most free workers, then the shortest queue."""
    if not candidates:
        return None
    return min(candidates, key=lambda each: (-each.free, each.queued, each.name)).name


def has_capability(spec: Spec, announced: Iterable[str], capability: str) -> bool:
    """Returns True if an agent offers a capability, by its configuration, else by its announcement."""
    return capability in (spec.capabilities or tuple(announced))


def _no_agent(names: Sequence[str], downs: Sequence[Down] = ()) -> NotFound:
    text = '", "'.join(names)
    why = f': "{downs[0].agent}": {downs[0].words}' if downs else ""
    words = f'cannot find an agent with capability "{text}" that is up{why}'
    return NotFound(words, capability=names[0], capabilities=names)


def _offers(agent: Agent, capability: str) -> bool:
    announced: Sequence[str] = next((k.announced for k in agent.supervisors if k.announced), ())
    return has_capability(agent.spec, announced, capability)
