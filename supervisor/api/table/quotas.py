"""Reports the limits that the daemon itself holds, with the usage and the refusals of each.

A limit that is off has no entry. Counts of refusals are since the start of the daemon. Holds and changes no limit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.tasks.run.budgets import tenant_key
from corral.supervisor.tenants.quotas.spending import DAY_S, MINUTE_S
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.worker.contract.names import tenant_of
from corral.worker.control.results import Quota


class Quotas:
    """Reads the limits of one daemon, and what is used of them."""

    def __init__(
        self,
        agents: Agents,
        tasks: TasksGroup,
        pool: Pool,
        tenants: Tenants,
        limits: TaskLimits,
        measured: Callable[[str], Mapping[str, float]],
    ) -> None:
        self._measured = measured
        self._tenants = tenants
        self._limits = limits
        self._agents = agents
        self._tasks = tasks.tasks
        self._budgets = tasks.budgets
        self._backlog = tasks.backlog
        self._rates = tasks.call_rates
        self._pool = pool

    def shown(self, names: Sequence[str] | None, now: float) -> list[Quota]:
        """Returns the limits of agents and servers, after those of their tenants; without names of all, after those of the daemon."""
        if names is None:
            tenants, chosen = set(self._tenants.all()), list(self._agents.agents.values())
        else:
            tenants, chosen = self._chosen(names)
        found = list(self._whole()) if names is None else []
        for tenant in sorted(tenants):
            found += self._of_tenant(tenant, now)
        for agent in sorted(chosen, key=lambda each: each.name):
            server = agent.spec.kind == "mcp"
            found += self._of_server(agent) if server else self._of_agent(agent, now)
        return [each for each in found if each.limit]

    def _chosen(self, names: Sequence[str]) -> tuple[set[str], list[Agent]]:
        """Returns the tenants and the agents that names stand for; an agent comes before a tenant of its name."""
        agents, groups = self._agents.agents, self._agents.groups.by_name
        left = [each for each in names if each not in groups]
        whole = {each for each in left if each not in agents and self._tenants.find(each)}
        chosen = [self._agents.of(each) for each in left if each not in whole]
        chosen += [each for each in agents.values() if tenant_of(each.name) in whole]
        return {*whole, *(tenant_of(each.name) for each in chosen)}, chosen

    def _whole(self) -> Iterator[Quota]:
        config, backlog = self._agents.config, self._backlog
        section, refused = config.defaults.tasks, self._tasks.refused
        most, active = config.process.max_concurrent_processes, self._agents.registry.active()
        yield Quota(name=None, key="process.max_concurrent_processes", limit=most, used=active)
        queued = {
            "max_total_queue_size": backlog.totals["queued"] + backlog.composite,
            "max_total_queue_bytes": backlog.queued_bytes,
        }
        for key, used in queued.items():
            limit = getattr(section, key)
            yield Quota(name=None, key=f"tasks.{key}", limit=limit, used=used, refused=refused.get(key, 0))

    def _of_tenant(self, name: str, now: float) -> Iterator[Quota]:
        tenant = self._tenants.find(name)
        if tenant is None:
            return
        tokens, cents = self._budgets.used(tenant_key(name))
        held, refused = self._budgets.held, self._limits.refusals.counts
        used: dict[str, tuple[float, float | None]] = {
            "max_agents": (self._agents.registry.counted(name), None),
            **{key: (amount, None) for key, amount in self._measured(name).items()},
            "max_queue_size": (self._backlog.waiting(name), None),
            "max_tasks_per_minute": (self._limits.submitted(name, now), MINUTE_S),
            "max_tokens_per_minute": (tokens, MINUTE_S),
            "max_cost_cents_per_day": (cents, DAY_S),
        }
        for key, (amount, window_s) in used.items():
            yield Quota(
                name=None,
                tenant=name,
                key=f"tenants.{key}",
                limit=getattr(tenant, key),
                used=amount,
                window_s=window_s,
                refused=held[tenant_key(name), key] or refused[name, key],
            )

    def _of_agent(self, agent: Agent, now: float) -> Iterator[Quota]:
        spec, name = agent.spec, agent.name
        tokens, cents = self._budgets.used(name)
        held, rates, resources, tasks = self._budgets.held, self._rates, spec.resources, spec.tasks
        places = resources.max_concurrent_requests * len(agent.supervisors)
        running = sum(len(supervisor.running) for supervisor in agent.supervisors)
        queued, refused = self._backlog.queued(name), self._tasks.refused.get(name, 0)
        used: dict[str, tuple[float, float, float | None, int]] = {
            "tasks.max_queue_size": (tasks.max_queue_size, queued, None, refused),
            "resources.max_concurrent_requests": (places, running, None, 0),
            "resources.max_tokens_per_minute": (
                *(resources.max_tokens_per_minute, tokens, MINUTE_S),
                held[name, "max_tokens_per_minute"],
            ),
            "resources.max_tool_calls_per_minute": (
                *(resources.max_tool_calls_per_minute, rates.last_minute(name, now), MINUTE_S),
                rates.refused[name],
            ),
            "tasks.max_cost_cents_per_day": (
                *(tasks.max_cost_cents_per_day, cents, DAY_S),
                held[name, "max_cost_cents_per_day"],
            ),
        }
        for key, (limit, amount, window_s, count) in used.items():
            yield Quota(name=name, key=key, limit=limit, used=amount, window_s=window_s, refused=count)

    def _of_server(self, agent: Agent) -> Iterator[Quota]:
        stats = self._pool.stats(agent.name)
        yield Quota(
            name=agent.name,
            key="max_calls_per_minute",
            limit=agent.spec.max_calls_per_minute,
            used=stats.used,
            window_s=MINUTE_S,
            refused=stats.refused,
        )
