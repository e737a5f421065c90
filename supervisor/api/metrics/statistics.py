"""Counts processes, tasks, tool calls, tokens and incidents since the daemon started, as they happen.

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
from math import inf
from typing import Literal, NamedTuple

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.records.events.bus import Event, rfc3339
from corral.supervisor.tasks.worker_api.call_records import CallRates
from corral.supervisor.workers.lifecycle.state_machine import GIVEN_UP, UP, State, Worker
from corral.supervisor.workers.supervision.incarnation import Incarnation
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.shared import Shared
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.usage.tree import read_process
from corral.worker.contract.records import Task

from .health import FULL, health_score
from .histogram import Buckets, bucket_of, quantile_ms
from .overhead import Overhead

WINDOW = 10_000
"""Number of the last durations that percentiles are computed from: of each agent and server, and of all tasks."""

RECENT_ENDS = 100
"""Number of the last ends by which routing judges an agent."""

RECENT_S = 3600.0
"""Seconds after which an end no longer counts for routing, so that an agent that failed is tried again."""

AT_ONCE = 4
"""Number of windows that are sorted before the loop has its turn: a few milliseconds."""

INCIDENTS = 100
"""Number of the last incidents that the health of an agent is computed from."""

Incident = Literal["restarts", "failed_checks", "limit_hits", "hung"]
"""Kinds of events that lower the health of an agent beside its failed tasks; each is counted in the field of its name."""

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
        return Figures(round(self.total_ms / self.count, 3) if self.count else None, self._kept[:])


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
    failed_checks: int = 0
    limit_hits: int = 0
    hung: int = 0
    durations: Buckets = field(default_factory=Buckets)
    window: Window = field(default_factory=Window)
    recent: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=RECENT_ENDS))
    """Times, in monotonic seconds, of the last ends, and whether each succeeded."""
    failed_at: float = -inf
    """Time, in monotonic seconds, of the last failed task or incident."""
    incidents: deque[tuple[float, Incident]] | None = None
    """Times, in monotonic seconds, of the last incidents; None before the first."""
    restarts_seen: dict[str, int] = field(default_factory=dict[str, int])
    """Restarts of workers that have any, by worker id, as they were seen last."""

    def end(self, outcome: Outcome, duration_ms: float | None) -> None:
        """Counts one more task, or call, that has ended; without a duration it had not begun."""
        if outcome == "ok":
            self.ok += 1
        elif outcome == "failed":
            self.failed += 1
            self.failed_at = time.monotonic()
        else:
            self.cancelled += 1
        if outcome != "cancelled":
            self.recent.append((time.monotonic(), outcome == "ok"))
        if duration_ms is not None:
            self.window.add(duration_ms)
            bucket = bucket_of(duration_ms)
            self.durations[bucket] = self.durations.get(bucket, 0) + 1

    def note(self, incident: Incident, number: int = 1) -> None:
        """Counts incidents of this moment."""
        setattr(self, incident, getattr(self, incident) + number)
        if self.incidents is None:
            self.incidents = deque(maxlen=INCIDENTS)
        self.failed_at = time.monotonic()
        entry: tuple[float, Incident] = (self.failed_at, incident)
        self.incidents.extend([entry] * number)

    @property
    def ended(self) -> int:
        """Returns the number of tasks, or calls, that have ended."""
        return self.ok + self.failed + self.cancelled

    @property
    def success_rate(self) -> float | None:
        """Returns the share that succeeded of those that were not cancelled."""
        judged = self.ok + self.failed
        return round(self.ok / judged, 6) if judged else None


@dataclass(slots=True, eq=False)
class MethodCount:
    """Counts the calls of one method of the table."""

    count: int = 0
    total_ms: float = 0.0
    durations: Buckets = field(default_factory=Buckets)

    def add(self, duration_ms: float) -> None:
        """Counts a call."""
        self.count += 1
        self.total_ms += duration_ms
        bucket = bucket_of(duration_ms)
        self.durations[bucket] = self.durations.get(bucket, 0) + 1

    def record(self) -> dict[str, float]:
        """Returns the figures of this moment."""
        return {
            "count": self.count,
            "average_ms": round(self.total_ms / self.count, 3),
            "p50_ms": quantile_ms(self.durations, 50) or 0.0,
            "p99_ms": quantile_ms(self.durations, 99) or 0.0,
        }


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


NOTHING = Count()
"""The counters of all to which nothing has happened; it is not to be changed."""


class Statistics:
    """Counts for one daemon."""

    def __init__(
        self,
        shared: Shared,
        agents: Agents,
        limits: LimitEnforcer,
        kind_of: Callable[[str], str | None],
        rates: CallRates,
        usage_of: Callable[[str], tuple[int, float]] = lambda _: (0, 0.0),
    ) -> None:
        self._usage_of_budget = usage_of
        self._overhead = Overhead(shared.launcher, shared.zygotes)
        self._rates = rates
        self._agents = agents
        self._limits = limits
        self._kind_of = kind_of
        self.since_s = time.time()
        """When counting began, in seconds of the Unix epoch."""
        self._total = Count()
        self._counts: dict[str, Count] = {}
        self._lives: dict[WorkerSupervisor, Incarnation] = {}
        self._begun: dict[str, float] = {}
        self._methods: dict[str, MethodCount] = {}
        # Nothing is queued: an event is counted the moment it is published.
        self._incidents = shared.bus.subscribe(("limit.*", "health.failed"), where=self._noted)

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Counts a worker's start and end; subscribed to every change of one, before `LimitEnforcer`."""
        known, life = self._lives.get(supervisor), supervisor.life
        count = self._counts.get(supervisor.spec.name)
        if supervisor.worker.restarts or (count is not None and count.restarts_seen):
            self._note_restarts(supervisor)
        if known is not None and (life is not known or supervisor.worker.pid is None):
            del self._lives[supervisor]
            used_s = max(known.used_s, self._limits.cpu_s(supervisor))
            self._total.cpu_s += used_s
            if (count := self._count(supervisor.spec.name)) is not None:
                count.cpu_s += used_s
                last = supervisor.worker.last_exit
                if last is not None and last.result == "hung":
                    count.note("hung")
                    self._total.hung += 1
            known = None
        if known is None and life is not None and supervisor.worker.pid is not None:
            self._lives[supervisor] = life
            self._total.spawned += 1
            if (count := self._count(supervisor.spec.name)) is not None:
                count.spawned += 1

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

    def used(self, agent: str, tokens: int, cost_cents: float) -> None:
        """Counts tokens and cents that a task of an agent has used."""
        for count in (self._total, self._count(agent)):
            if count is not None:
                count.tokens += tokens
                count.cost_cents += cost_cents

    def served(self, method: str, duration_s: float) -> None:
        """Counts a call of a method of the table, with the time that it waited for what it asked for."""
        count = self._methods.get(method)
        if count is None:
            count = self._methods[method] = MethodCount()
        count.add(duration_s * 1000)

    def _note_restarts(self, supervisor: WorkerSupervisor) -> None:
        """Counts restarts of a worker that has its place; one beside it has the same id."""
        name, now = supervisor.spec.name, supervisor.worker.restarts
        if self._agents.registry.supervisor(supervisor.id) is not supervisor:
            return
        count = self._count(name)
        if count is None:
            return
        new = now - count.restarts_seen.get(supervisor.id, 0)
        if new > 0:
            count.note("restarts", new)
            self._total.restarts += new
        if new:
            count.restarts_seen[supervisor.id] = now

    def _noted(self, event: Event) -> bool:
        """Counts a limit that was met, or a check that failed; returns False, since it is done with the event."""
        throttles = event.type != "limit.cpu" or event.fields.get("throttled") is True
        if event.agent is None or event.type == "limit.processes" or not throttles:
            return False
        incident: Incident = "failed_checks" if event.type == "health.failed" else "limit_hits"
        if (count := self._count(event.agent)) is not None:
            count.note(incident)
        self._total.note(incident)
        return False

    def recent_success_rate(self, name: str) -> float | None:
        """Returns the share that succeeded of the last RECENT_ENDS within RECENT_S; None without any."""
        count = self._counts.get(name)
        since = time.monotonic() - RECENT_S
        ends = [] if count is None else [ok for at, ok in count.recent if at > since]
        return sum(ends) / len(ends) if ends else None

    def health_score(self, agent: Agent) -> int:
        """Returns the health of an agent or server, from 0 to 100."""
        if any(_has_given_up(supervisor.worker) for supervisor in agent.supervisors):
            return 0
        count = self.find(agent.name)
        since = time.monotonic() - self._agents.config.metrics.health_window
        if count is None or count.failed_at <= since:
            return FULL  # as with most of thousands
        return health_score(count.recent, count.incidents or (), since=since)

    def calls_last_minute(self, name: str) -> int:
        """Returns the number of tool calls that workers of an agent made within the last minute."""
        return self._rates.last_minute(name, time.monotonic())

    @property
    def uptime_s(self) -> float:
        """Returns the seconds for which it has counted."""
        return time.time() - self.since_s

    @property
    def total(self) -> Count:
        """Returns the counters of all."""
        return self._total

    def find(self, name: str) -> Count | None:
        """Returns the counters of an agent, server, team or workflow; None while nothing was counted."""
        count = self._counts.get(name)
        agent = self._agents.agents.get(name)
        return None if count is None or (agent is not None and count.agent is not agent) else count

    @property
    def methods(self) -> Mapping[str, "MethodCount"]:
        """Returns the calls of each method of the table that was called."""
        return self._methods

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

    def counted(self) -> list[Counted]:
        """Returns the counters of all agents, servers, teams and workflows, in any order; they go on counting."""
        found: list[Counted] = []
        for name in self._known():
            agent = self._agents.agents.get(name)
            kind = str(self._kind_of(name)) if agent is None else agent.spec.kind
            found.append(Counted(name, kind, agent, self.find(name) or NOTHING))
        return found

    def overhead(self) -> dict[str, dict[str, float]]:
        """Returns `active`, `memory_bytes` and `cpu_ms` of each part of corral itself."""
        return self._overhead.figures()

    async def shown(self, names: Iterable[str] | None = None) -> dict[str, object]:
        """Returns all counters, or beside the totals those of `names`, as `statistics.show` answers."""
        chosen = None if names is None else set(names)
        for name in chosen or ():
            if not self._is_known(name):
                raise self._agents.unknown("agent, MCP server, team or workflow", name)
        groups: dict[str, dict[str, object]] = {"agents": {}, "mcp_servers": {}, "teams": {}, "workflows": {}}
        entries: list[CountedEntry] = []
        total = Usage()
        tokens, cents = 0, 0.0
        at_s, now = time.time(), time.monotonic()
        for name in sorted(self._known()):  # all at one moment, so that it adds up
            agent = self._agents.agents.get(name)
            present = Usage() if agent is None else self._usage_of(agent)
            total.add(present)
            used = self._usage_of_budget(name)
            tokens, cents = tokens + used[0], cents + used[1]
            if chosen is None or name in chosen:
                kind = str(self._kind_of(name)) if agent is None else agent.spec.kind
                key = "mcp_servers" if kind == "mcp" else f"{kind}s"
                calls = self._rates.last_minute(name, now)
                score = None if agent is None else self.health_score(agent)
                entries.append(CountedEntry.of(self._count(name) or Count(), present, calls, score, used))
                groups[key][name] = entries[-1].record
        overhead = self._overhead.figures()
        for part in overhead.values():
            total.add(Usage(0, int(part["active"]), int(part["memory_bytes"]), part["cpu_ms"] / 1000))
        all_calls, all_used = self._rates.total(now), (tokens, round(cents, 6))
        entries.append(CountedEntry.of(self._total, total, all_calls, None, all_used))
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
            "methods": {name: each.record() for name, each in sorted(self._methods.items())},
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
            present.cpu_s += max(0.0 if leader is None else leader.total_s, self._limits.cpu_s(supervisor))
        return present


def _has_given_up(worker: Worker) -> bool:
    last = worker.last_exit
    return worker.state is State.TERMINATED and last is not None and last.result in GIVEN_UP


class CountedEntry(NamedTuple):
    """Holds the record of one name, or of all; `finish` puts the percentiles in."""

    record: dict[str, dict[str, object]]
    figures: Figures

    @classmethod
    def of(
        cls, count: Count, present: Usage, calls_last_minute: int, health: int | None, used: tuple[int, float]
    ) -> "CountedEntry":
        """Returns the figures of this moment."""
        record: dict[str, dict[str, object]] = {
            "runtime": {
                "spawned": count.spawned,
                "active": present.up,
                "executed": count.ended,
                "failed": count.failed,
                "success_rate": count.success_rate,
                "restarts": count.restarts,
                "health_score": health,
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
                "tokens": count.tokens,
                "cost_cents": round(count.cost_cents, 6),
                "tokens_last_minute": used[0],
                "cost_cents_today": used[1],
            },
        }
        return cls(record, count.window.figures())

    def finish(self) -> None:
        """Sorts the durations and puts the percentiles in."""
        self.record["executor"] |= self.figures.record()
