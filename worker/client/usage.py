"""Combines `daemon.status` and `statistics.show` into the resource usage of agents, servers and their workers."""

import msgspec

from ..contract.records import Statistics, Status, WorkerStatus


class ResourceUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Represents the current usage of processes, and the processor time since the daemon started.

    `parts` are agents and servers, or the workers of one. `cpu_ms` is null for a worker: it is counted over all
    incarnations of an agent's workers.
    """

    processes: int
    memory_bytes: int
    cpu_percent: float
    open_files: int
    cpu_ms: float | None = None
    parts: dict[str, "ResourceUsage"] = {}


def resource_usage(status: Status, statistics: Statistics) -> ResourceUsage:
    """Returns the total usage of all agents and servers; `parts` has each agent and server, and the `parts` of those their workers."""
    known = {**statistics.agents, **statistics.mcp_servers}
    parts: dict[str, ResourceUsage] = {}
    for entry in (*status.agents, *status.mcp_servers):
        workers = {worker.id: _usage(worker) for worker in entry.workers}
        figures = known.get(entry.name)
        cpu_ms = 0.0 if figures is None else figures.process.cpu_ms
        parts[entry.name] = _sum(workers, cpu_ms)
    own_ms = sum(part.cpu_ms for part in statistics.overhead.values())
    return _sum(parts, round(statistics.process.cpu_ms - own_ms, 3))


def _usage(worker: WorkerStatus) -> ResourceUsage:
    return ResourceUsage(
        processes=int(worker.pid is not None),
        memory_bytes=worker.rss_bytes,
        cpu_percent=worker.cpu_percent,
        open_files=worker.open_files,
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
