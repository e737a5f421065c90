"""Rewrites status and statistics as a tenant sees them: its own figures in place of those of the daemon and of others.

It must not know where the figures come from.
"""

from typing import Any

from msgspec.structs import replace

from corral.worker.contract.records import (
    AlertCounts,
    DaemonStatus,
    ExecutorFigures,
    Figures,
    ProcessFigures,
    RuntimeFigures,
    Statistics,
)


def own_daemon(daemon: DaemonStatus, needs_you: int) -> DaemonStatus:
    """Returns what a tenant may know of the daemon: its version, its containment, whether it is stopping, and its own inbox."""
    return DaemonStatus(
        pid=0,
        version=daemon.version,
        uptime_s=0.0,
        socket="",
        state_dir="",
        containment=daemon.containment,
        draining=daemon.draining,
        degraded=[],
        config=None,
        launcher_pid=None,
        alerts=AlertCounts(),
        log_level=daemon.log_level,
        needs_you=needs_you,
    )


def own_statistics(found: Statistics) -> Statistics:
    """Returns statistics of the agents of a tenant with their sums in place of those of the daemon; durations have none."""
    every = [*found.agents.values(), *found.mcp_servers.values()]
    tasks = [*found.agents.values(), *found.teams.values(), *found.workflows.values()]
    return replace(
        found,
        runtime=_runtime(every, tasks),
        process=ProcessFigures(
            active=sum(each.process.active for each in every),
            memory_bytes=sum(each.process.memory_bytes for each in every),
            cpu_ms=round(sum(each.process.cpu_ms for each in every), 3),
        ),
        executor=_executor(tasks, every),
        overhead={},
        methods={},
    )


def _runtime(every: list[Figures], tasks: list[Figures]) -> RuntimeFigures:
    executed, failed = (sum(each.runtime.executed for each in tasks), sum(each.runtime.failed for each in tasks))
    judged = executed - sum(each.executor.cancelled for each in tasks)
    return RuntimeFigures(
        spawned=sum(each.runtime.spawned for each in every),
        active=sum(each.runtime.active for each in every),
        executed=executed,
        failed=failed,
        success_rate=None if judged <= 0 else round(1 - failed / judged, 6),
        restarts=sum(each.runtime.restarts for each in every),
    )


def _executor(tasks: list[Figures], every: list[Figures]) -> ExecutorFigures:
    def total(keys: str, of: list[Figures]) -> dict[str, Any]:  # Any: each sum has the type of its figure
        return {key: sum(getattr(each.executor, key) for each in of) for key in keys.split()}

    sums = total("total ok failed cancelled tool_calls_last_minute tokens tokens_last_minute", tasks)
    cents = {key: round(value, 6) for key, value in total("cost_cents cost_cents_today", tasks).items()}
    return ExecutorFigures(average_ms=None, p50_ms=None, p99_ms=None, **sums, **cents, **total("tool_calls", every))
