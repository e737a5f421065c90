"""Counts processes, tasks and tool calls since the daemon started, as they happen.

Every figure is exact. A counter moves at the event itself, in a time that does not depend on how many agents
there are, and nothing is sampled until a request comes. Percentiles are those of the last WINDOW tasks, or calls
of a server, in full; all else is since `since`. The share of a removed agent stays in the totals. Nothing is stored.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

from ...worker.contract.records import Task
from ..agents.agent import Agent
from ..agents.agents import Agents
from ..events.bus import rfc3339
from ..lifecycle.state_machine import UP
from ..process.usage import read_process
from ..supervision.incarnation import Incarnation
from ..supervision.limit_enforcer import LimitEnforcer
from ..supervision.shared import Shared
from ..supervision.worker_supervisor import WorkerSupervisor
from ..worker_api.call_rate import CallRates
from .overhead import Overhead

WINDOW = 10_000
"""Number of the last durations of which percentiles are made, of each agent and server, and of all tasks."""

RECENT_ENDS = 100
"""Number of the last ends by which routing judges an agent."""

RECENT_S = 3600.0
"""Seconds after which an end no longer counts for routing, so that an agent that failed is tried again."""

AT_ONCE = 4
"""Number of windows that are sorted before the loop has its turn: a few milliseconds."""

Outcome = Literal["ok", "failed", "cancelled"]

OUTCOMES: Mapping[str, Outcome] = {"succeeded": "ok", "cancelled": "cancelled"}
"""Outcomes by state of a task; any other state, `failed` and `timeout`, has failed."""


class Window:
    """Holds the last WINDOW durations, in milliseconds, and the sum of all."""

    __slots__ = ("_kept", "_next", "count", "total_ms")

    def __init__(self) -> None:
        self._kept = array("d")
        self._next = 0
        self.count = 0
        self.total_ms = 0.0

    def add(self, duration_ms: float) -> None:
        """Adds one duration."""
        self.count += 1
        self.total_ms += duration_ms
        if len(self._kept) < WINDOW:
            self._kept.append(duration_ms)
        else:
            self._kept[self._next] = duration_ms
            self._next = (self._next + 1) % WINDOW

    def figures(self) -> "Figures":
        """Returns the figures of this moment, the percentiles still to be sorted."""
        average_ms = round(self.total_ms / self.count, 3) if self.count else None
        return Figures(average_ms, self._kept[:])


class Figures(NamedTuple):
    """Holds the durations of one moment; sorting them takes a millisecond or two."""

    average_ms: float | None
    kept: "array[float]"

    def record(self) -> dict[str, float | None]:
        """Returns `average_ms` of all, `p50_ms` and `p99_ms` of the last: the least that so many per cent do not exceed."""
        ordered = sorted(self.kept)
        found = [ordered[_rank(each, len(ordered))] if ordered else None for each in (50, 99)]
        p50_ms, p99_ms = (None if each is None else round(each, 3) for each in found)
        return {"average_ms": self.average_ms, "p50_ms": p50_ms, "p99_ms": p99_ms}


def _rank(percent: int, count: int) -> int:
    """Returns the place of a percentile among `count` in order, by the nearest rank."""
    return -(-percent * count // 100) - 1


@dataclass(slots=True, eq=False)
class Count:
    """Counts for one agent, server, team or workflow; or for all."""

    agent: Agent | None = None
    """The agent that is counted: another of the same name begins anew."""
    spawned: int = 0
    cpu_s: float = 0.0
    """Seconds of incarnations that have ended."""
    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost_cents: float = 0.0
    restarts: int = 0
    """Number of starts after failures; unlike `worker.restarts` it never goes back."""
    window: Window = field(default_factory=Window)
    recent: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=RECENT_ENDS))
    """Times, in monotonic seconds, of the last ends, and whether each succeeded."""

    def end(self, outcome: Outcome, duration_ms: float | None) -> None:
        """Counts one more task, or call, that has ended; without a duration it had not begun."""
        if outcome == "ok":
            self.ok += 1
        elif outcome == "failed":
            self.failed += 1
        else:
            self.cancelled += 1
        if outcome != "cancelled":
            self.recent.append((time.monotonic(), outcome == "ok"))
        if duration_ms is not None:
            self.window.add(duration_ms)

    @property
    def ended(self) -> int:
        """Returns the number of tasks, or calls, that have ended."""
        return self.ok + self.failed + self.cancelled

    @property
    def success_rate(self) -> float | None:
        """Returns the share that succeeded of those that were not cancelled."""
        judged = self.ok + self.failed
        return round(self.ok / judged, 6) if judged else None


@dataclass(slots=True)
class Usage:
    """Holds the number of processes now, and the resources that they use."""

    up: int = 0
    processes: int = 0
    memory_bytes: int = 0
    cpu_s: float = 0.0

    def add(self, other: "Usage") -> None:
        """Adds the usage of another."""
        self.up += other.up
        self.processes += other.processes
        self.memory_bytes += other.memory_bytes
        self.cpu_s += other.cpu_s


@dataclass(frozen=True, slots=True)
class Counted:
    """Names the counters of an agent, server, team or workflow; `agent` is None for the last two."""

    name: str
    kind: str
    agent: Agent | None
    count: Count


class Statistics:
    """Counts for one daemon.

    Args:
        shared: knows corral's own processes, which the totals count.
        agents: the running set.
        limits: knows what each tree uses.
        kind_of: "team" or "workflow" for the name of one, else None.
        rates: counts tool calls by the minute.
    """

    def __init__(
        self,
        shared: Shared,
        agents: Agents,
        limits: LimitEnforcer,
        kind_of: Callable[[str], str | None],
        rates: CallRates,
    ) -> None:
        self._overhead = Overhead(shared.launcher, shared.zygotes)
        self._rates = rates
        self._agents = agents
        self._limits = limits
        self._kind_of = kind_of
        self.since_s = time.time()
        """When counting began, in seconds of the Unix epoch."""
        self._restarts: WeakKeyDictionary[WorkerSupervisor, int] = WeakKeyDictionary()
        self._total = Count()
        self._counts: dict[str, Count] = {}
        self._lives: dict[WorkerSupervisor, Incarnation] = {}
        self._begun: dict[str, float] = {}

    # -- counting

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Counts a worker's start and end; subscribed to every change of one, before `LimitEnforcer`."""
        known, life = self._lives.get(supervisor), supervisor.life
        if known is not None and (life is not known or supervisor.worker.pid is None):
            del self._lives[supervisor]
            used_s = max(known.used_s, self._limits.cpu_s(supervisor))
            self._total.cpu_s += used_s
            if (count := self._count(supervisor.spec.name)) is not None:
                count.cpu_s += used_s
            known = None
        if known is None and life is not None and supervisor.worker.pid is not None:
            self._lives[supervisor] = life
            self._total.spawned += 1
            again = supervisor.worker.restarts - self._restarts.get(supervisor, 0)
            if supervisor.worker.restarts or again:
                self._restarts[supervisor] = supervisor.worker.restarts
            self._total.restarts += max(again, 0)
            if (count := self._count(supervisor.spec.name)) is not None:
                count.spawned += 1
                count.restarts += max(again, 0)

    def started(self, task: Task) -> None:
        """Notes the begin of an attempt, from which its duration counts."""
        self._begun[task.id] = time.monotonic()

    def ended(self, task: Task) -> None:
        """Counts a task that has ended."""
        began = self._begun.pop(task.id, None)
        duration_ms: float | None = None
        if began is not None:
            duration_ms = (time.monotonic() - began) * 1000
        elif task.duration_s is not None:  # it began under an earlier daemon
            duration_ms = task.duration_s * 1000
        outcome = OUTCOMES.get(task.state, "failed")
        count = self._count(task.agent)
        for each in (self._total,) if count is None else (self._total, count):
            each.end(outcome, duration_ms)
            each.tokens += task.tokens_used
            each.cost_cents += task.cost_cents

    def called(self, agent: str | None, server: str, outcome: str, duration_s: float) -> None:
        """Counts a tool call by a worker of `agent`, or by a client (None), that has reached a server."""
        self._total.tool_calls += 1
        if agent is not None and (count := self._count(agent)) is not None:
            count.tool_calls += 1
        found = self._agents.agents.get(server)
        if found is not None and found.spec.kind == "mcp":
            count = self._count_of(found)
            count.tool_calls += 1
            ended: Outcome = "failed"
            if outcome in ("ok", "cancelled"):
                ended = "ok" if outcome == "ok" else "cancelled"
            count.end(ended, duration_s * 1000)

    def recent_success_rate(self, name: str) -> float | None:
        """Returns the share that succeeded of the last RECENT_ENDS within RECENT_S; None without any."""
        count = self._counts.get(name)
        since = time.monotonic() - RECENT_S
        ends = [] if count is None else [ok for at, ok in count.recent if at > since]
        return sum(ends) / len(ends) if ends else None

    def calls_last_minute(self, name: str) -> int:
        """Returns the number of tool calls that workers of an agent made within the last minute."""
        return self._rates.last_minute(name, time.monotonic())

    def _count(self, name: str) -> Count | None:
        """Returns the counters behind a name; None where it is not in use."""
        agent = self._agents.agents.get(name)
        if agent is not None:
            return self._count_of(agent)
        if self._kind_of(name) is None:
            return None
        count = self._counts.get(name)
        if count is None or count.agent is not None:
            count = self._enter(name, Count())
        return count

    def _count_of(self, agent: Agent) -> Count:
        count = self._counts.get(agent.name)
        if count is None or count.agent is not agent:
            count = self._enter(agent.name, Count(agent))
        return count

    def _enter(self, name: str, count: Count) -> Count:
        for other in [each for each in self._counts if not self._is_known(each)]:
            del self._counts[other]
        self._counts[name] = count
        return count

    def _is_known(self, name: str) -> bool:
        return name in self._agents.agents or self._kind_of(name) is not None

    # -- reporting

    def counted(self) -> list[Counted]:
        """Returns the counters of all agents, servers, teams and workflows, in any order; they go on counting."""
        found: list[Counted] = []
        for name in self._known():
            agent = self._agents.agents.get(name)
            kind = str(self._kind_of(name)) if agent is None else agent.spec.kind
            found.append(Counted(name, kind, agent, self._count(name) or Count()))
        return found

    def overhead(self) -> dict[str, dict[str, float]]:
        """Returns `active`, `memory_bytes` and `cpu_ms` of each part of corral itself."""
        return self._overhead.figures()

    async def shown(self, names: Iterable[str] | None = None) -> dict[str, object]:
        """Returns all counters, or beside the totals those of `names`, as `statistics.show` answers.

        Raises:
            NotFound: no agent, server, team or workflow has one of the names.
        """
        chosen = None if names is None else set(names)
        for name in chosen or ():
            if not self._is_known(name):
                raise self._agents.unknown("agent, MCP server, team or workflow", name)
        groups: dict[str, dict[str, object]] = {
            "agents": {},
            "mcp_servers": {},
            "teams": {},
            "workflows": {},
        }
        entries: list[CountedEntry] = []
        total = Usage()
        at_s, now = time.time(), time.monotonic()
        for name in sorted(self._known()):  # all at one moment, so that it adds up
            agent = self._agents.agents.get(name)
            present = Usage() if agent is None else self._usage_of(agent)
            total.add(present)
            if chosen is None or name in chosen:
                kind = str(self._kind_of(name)) if agent is None else agent.spec.kind
                key = "mcp_servers" if kind == "mcp" else f"{kind}s"
                calls = self._rates.last_minute(name, now)
                entries.append(CountedEntry.of(self._count(name) or Count(), present, calls))
                groups[key][name] = entries[-1].record
        overhead = self._overhead.figures()
        for part in overhead.values():
            total.add(
                Usage(0, int(part["active"]), int(part["memory_bytes"]), part["cpu_ms"] / 1000)
            )
        entries.append(CountedEntry.of(self._total, total, self._rates.total(now)))
        for number, each in enumerate(entries):
            each.finish()
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        return {
            "since": rfc3339(self.since_s),
            "uptime_s": round(at_s - self.since_s, 3),
            "window": WINDOW,
            **entries[-1].record,
            **groups,
            "overhead": overhead,
        }

    def _known(self) -> set[str]:
        return {*self._agents.agents, *filter(self._is_known, self._counts)}

    def _usage_of(self, agent: Agent) -> Usage:
        present = Usage()
        for supervisor in agent.supervisors:
            present.up += supervisor.worker.state in UP
            pid = supervisor.worker.pid
            if pid is None:
                continue
            present.processes += 1
            present.memory_bytes += self._limits.sample(supervisor).rss_bytes
            leader = read_process(pid)
            leader_s = 0.0 if leader is None else leader.total_s
            present.cpu_s += max(leader_s, self._limits.cpu_s(supervisor))
        return present


class CountedEntry(NamedTuple):
    """Holds the record of one name, or of all; `finish` puts the percentiles in."""

    record: dict[str, dict[str, object]]
    figures: Figures

    @classmethod
    def of(cls, count: Count, present: Usage, calls_last_minute: int) -> "CountedEntry":
        """Returns the figures of this moment."""
        record: dict[str, dict[str, object]] = {
            "runtime": {
                "spawned": count.spawned,
                "active": present.up,
                "executed": count.ended,
                "failed": count.failed,
                "success_rate": count.success_rate,
            },
            "process": {
                "active": present.processes,
                "memory_bytes": present.memory_bytes,
                "cpu_ms": round((count.cpu_s + present.cpu_s) * 1000, 3),
            },
            "executor": {
                "total": count.ended,
                "ok": count.ok,
                "failed": count.failed,
                "cancelled": count.cancelled,
                "tool_calls": count.tool_calls,
                "tool_calls_last_minute": calls_last_minute,
            },
        }
        return cls(record, count.window.figures())

    def finish(self) -> None:
        """Sorts the durations and puts the percentiles in."""
        self.record["executor"] |= self.figures.record()
