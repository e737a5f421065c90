"""Copies the figures of one scrape from the rooms that count them, a few agents in each turn of the loop.

The result is values alone, so that a thread may make text of it while the daemon goes on. Nothing is measured here: memory,
open files and processor time of workers are those of the last sample.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from corral import __version__
from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.api.metrics.statistics import Count, Counted, Statistics
from corral.supervisor.api.table.status import StatusReport
from corral.supervisor.models.desk.ledger import Ledger
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tenants.tokens.scope import is_in_scope
from corral.supervisor.workers.lifecycle.state_machine import State
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer

AT_ONCE = 50
"""Number of workers whose figures are copied in one turn of the loop: less than a millisecond."""

MAX_NAMES = 1_000
"""Number of agents and servers that have series of their own; the others are summed under the name OTHERS."""

MAX_WORKERS = 2_000
"""Number of workers that have series of their own; the sums of their agents have all."""

OTHERS = "_others"
"""A label in place of a name: no agent has one that begins like this."""


@dataclass(slots=True)
class WorkerFigures:
    """Holds the figures of one worker."""

    agent: str
    worker: str
    memory_bytes: int
    cpu_ratio: float
    """Share of one processor; 1 is all of it."""


@dataclass(slots=True)
class AgentFigures:
    """Holds the figures of one agent, server, team or workflow, or of several under one name."""

    name: str
    kind: str
    states: Counter[str] = field(default_factory=Counter[str])
    """Numbers of workers by state."""
    wanted: int = 0
    memory_bytes: int = 0
    open_files: int = 0
    cpu_s: float = 0.0
    starts: int = 0
    restarts: int = 0
    lost_lines: int = 0
    queued: int = 0
    running: int = 0
    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    durations: Counter[int] = field(default_factory=Counter[int])
    """Numbers of durations by bucket."""
    ended_s: float = 0.0
    tokens: int = 0
    cost_cents: float = 0.0
    tool_calls: int = 0
    in_flight: int = 0
    waiting: int = 0
    retries: int = 0
    refused: int = 0
    health: int | None = None
    """The score of one agent or server, 0 to 100."""

    def add(self, other: "AgentFigures") -> None:
        """Adds the figures of another."""
        for key in self.__slots__:
            if key not in ("name", "kind", "health"):
                setattr(self, key, getattr(self, key) + getattr(other, key))


@dataclass(slots=True)
class PartFigures:
    """Holds the figures of one part of corral itself."""

    processes: int
    memory_bytes: int
    cpu_s: float


@dataclass(slots=True)
class ModelFigures:
    """Holds the figures of one model: tokens by what they are, calls by outcome, refusals by limit."""

    name: str
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    cost_cents: float = 0.0
    estimated: int = 0
    calls: dict[str, int] = field(default_factory=dict[str, int])
    refused: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Snapshot:
    """Holds the figures of one scrape. Figures of the daemon itself are None for a caller with some agents."""

    agents: list[AgentFigures]
    workers: list[WorkerFigures]
    version: str = __version__
    started_s: float = 0.0
    """Seconds of the Unix epoch."""
    parts: dict[str, PartFigures] | None = None
    degraded: Sequence[str] = ()
    is_draining: bool = False
    models: list[ModelFigures] = field(default_factory=list[ModelFigures])
    alerts: dict[str, int] = field(default_factory=dict[str, int])
    methods: dict[str, tuple[dict[int, int], float]] = field(default_factory=dict[str, tuple[dict[int, int], float]])
    """Of each method that was called the durations by bucket, and their sum in seconds."""


class Figures:
    """Reads the figures of one daemon."""

    def __init__(
        self,
        statistics: Statistics,
        status: StatusReport,
        limits: LimitEnforcer,
        tasks: Tasks,
        ledger: Ledger,
        pool: Pool,
    ) -> None:
        self._statistics = statistics
        self._status = status
        self._limits = limits
        self._tasks = tasks
        self._ledger = ledger
        self._pool = pool

    async def take(self, globs: Sequence[str] | None) -> Snapshot:
        """Returns the figures of all agents that pass `globs`; of the daemon too, where they are None."""
        found = [
            each
            for each in self._statistics.counted()
            if is_in_scope(each.name, globs) and (each.agent is None or each.agent.spec.monitoring.enable_metrics)
        ]
        found.sort(key=lambda each: each.name)
        snapshot = Snapshot([], [], started_s=self._statistics.since_s)
        seen = 0
        for each in found:
            snapshot.agents.append(self._figures(each))
            workers = () if each.agent is None else each.agent.supervisors
            for supervisor in workers[: MAX_WORKERS - len(snapshot.workers)]:
                sample = self._limits.sample(supervisor)
                if supervisor.worker.pid is not None:
                    snapshot.workers.append(
                        WorkerFigures(each.name, supervisor.id, sample.rss_bytes, sample.cpu_percent / 100)
                    )
            seen += 1 + len(workers)
            if seen >= AT_ONCE:
                seen = 0
                await asyncio.sleep(0)
        snapshot.agents = summed(snapshot.agents, MAX_NAMES)
        snapshot.models = self._models(globs)
        if globs is None:
            frame = self._status.frame().daemon
            snapshot.degraded = sorted({_part(each) for each in frame.degraded})
            snapshot.is_draining = frame.draining
            if frame.alerts is not None:
                counts = frame.alerts
                snapshot.alerts = {"sent": counts.sent, "failed": counts.failed, "suppressed": counts.suppressed}
            snapshot.methods = {
                name: (dict(each.durations), each.total_ms / 1000)
                for name, each in sorted(self._statistics.methods.items())
            }
            snapshot.parts = {
                name: PartFigures(int(part["active"]), int(part["memory_bytes"]), part["cpu_ms"] / 1000)
                for name, part in self._statistics.overhead().items()
            }
        return snapshot

    def _models(self, globs: Sequence[str] | None) -> list[ModelFigures]:
        """Returns the figures of models: of those that agents which pass `globs` have called, what these have used."""
        ledger = self._ledger
        found: dict[str, ModelFigures] = {}
        for (model, agent), sums in ledger.totals.items():
            if is_in_scope(agent, globs):
                each = found.setdefault(model, ModelFigures(model))
                for part in ("input", "cached", "cache_write", "output"):
                    each.tokens[part] = each.tokens.get(part, 0) + getattr(sums, part)
                each.cost_cents += sums.cost_cents
                each.estimated += sums.estimated
        if globs is None:
            for (model, outcome), count in ledger.outcomes.items():
                found.setdefault(model, ModelFigures(model)).calls[outcome] = count
            for (model, limit), count in ledger.refused.items():
                found.setdefault(model, ModelFigures(model)).refused[limit] = count
        return [found[name] for name in sorted(found)]

    def _figures(self, counted: Counted) -> AgentFigures:
        count: Count = counted.count
        figures = AgentFigures(
            counted.name,
            counted.kind,
            cpu_s=count.cpu_s,
            starts=count.spawned,
            restarts=count.restarts,
            queued=self._tasks.queued(counted.name),
            running=self._tasks.running(counted.name),
            ok=count.ok,
            failed=count.failed,
            cancelled=count.cancelled,
            durations=Counter(count.durations),
            ended_s=count.window.total_ms / 1000,
            tokens=count.tokens,
            cost_cents=count.cost_cents,
            tool_calls=count.tool_calls,
        )
        if counted.agent is not None:
            figures.health = self._statistics.health_score(counted.agent)
            self._add_workers(figures, counted.agent)
        return figures

    def _add_workers(self, figures: AgentFigures, agent: Agent) -> None:
        limits = self._limits
        for supervisor in agent.supervisors:
            worker = supervisor.worker
            figures.states[worker.state.value] += 1
            figures.wanted += worker.wanted
            figures.lost_lines += supervisor.log.lost_lines
            if worker.pid is not None and worker.state is not State.INITIAL:
                sample = limits.sample(supervisor)
                figures.memory_bytes += sample.rss_bytes
                figures.open_files += sample.open_files
                figures.cpu_s += limits.cpu_s(supervisor)
        if agent.spec.kind == "mcp":
            stats = self._pool.stats(agent.name)
            figures.in_flight, figures.waiting = stats.in_flight, stats.waiting
            figures.retries, figures.refused = stats.retries, stats.refused


def _part(degraded: str) -> str:
    """Returns a part of `degraded` without the name of an agent: "service of x" is "service"."""
    return degraded.partition(" ")[0]


def summed(agents: Sequence[AgentFigures], most: int) -> list[AgentFigures]:
    """Returns the first `most` as they are, and of each kind the sum of the others."""
    others: dict[str, AgentFigures] = {}
    for each in agents[most:]:
        others.setdefault(each.kind, AgentFigures(OTHERS, each.kind)).add(each)
    return [*agents[:most], *others.values()]
