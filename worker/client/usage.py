"""Combines `daemon.status`, `statistics.show` and `quota.list` into the resource usage of agents, servers and their workers."""

import msgspec
from msgspec.structs import replace

from ..contract.records import ExecutorFigures, Statistics, Status
from ..control.results import QuotaList


class ResourceUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Represents the current usage of processes, and the processor time since the daemon started.

    `parts` are agents and servers, or the workers of one. `cpu_ms` is null for a worker: it is counted over all
    incarnations of an agent's workers. `tokens` and `cost_cents` count since the daemon started, `tokens_last_minute` and
    `cost_cents_today` (24 hours) as the limits do. `limits` are those that the daemon holds of an agent or server, by key,
    such as `resources.max_tokens_per_minute`; one that is off is not there.
    """

    processes: int
    memory_bytes: int
    cpu_percent: float
    open_files: int
    cpu_ms: float | None = None
    tokens: int = 0
    cost_cents: float = 0.0
    tokens_last_minute: int = 0
    cost_cents_today: float = 0.0
    limits: dict[str, float] = {}
    parts: dict[str, "ResourceUsage"] = {}


def resource_usage(status: Status, statistics: Statistics, quotas: QuotaList) -> ResourceUsage:
    """Returns the total usage of all agents and servers; `parts` has each agent and server, and the `parts` of those their workers."""
    known = {**statistics.agents, **statistics.mcp_servers}
    limits: dict[str, dict[str, float]] = {}
    for quota in quotas.quotas:
        limits.setdefault(quota.name or (f"{quota.tenant}/" if quota.tenant else ""), {})[quota.key] = quota.limit
    parts: dict[str, ResourceUsage] = {}
    for entry in (*status.agents, *status.mcp_servers):
        workers = {
            worker.id: ResourceUsage(
                processes=int(worker.pid is not None),
                memory_bytes=worker.rss_bytes,
                cpu_percent=worker.cpu_percent,
                open_files=worker.open_files,
            )
            for worker in entry.workers
        }
        figures = known.get(entry.name)
        found = _sum(workers, 0.0 if figures is None else figures.process.cpu_ms)
        if figures is not None:
            found = _with_costs(found, figures.executor)
        parts[entry.name] = replace(found, limits=limits.get(entry.name, {}))
    own_ms = sum(part.cpu_ms for part in statistics.overhead.values())
    whole = _sum(parts, round(statistics.process.cpu_ms - own_ms, 3))
    return replace(_with_costs(whole, statistics.executor), limits=limits.get("", {}))


def _with_costs(usage: ResourceUsage, figures: ExecutorFigures) -> ResourceUsage:
    return replace(
        usage,
        tokens=figures.tokens,
        cost_cents=figures.cost_cents,
        tokens_last_minute=figures.tokens_last_minute,
        cost_cents_today=figures.cost_cents_today,
    )


def _sum(parts: dict[str, ResourceUsage], cpu_ms: float) -> ResourceUsage:
    each = parts.values()
    return ResourceUsage(
        processes=sum(part.processes for part in each),
        memory_bytes=sum(part.memory_bytes for part in each),
        cpu_percent=round(sum(part.cpu_percent for part in each), 1),
        open_files=sum(part.open_files for part in each),
        cpu_ms=cpu_ms,
        parts=parts,
    )
