"""Keeps the answer of `status` about all agents and servers as bytes, and encodes only changed parts anew.

It guarantees the answer that `StatusReport` would give at the same moment, in the same order. A worker's part is made again after each
change of it, and at every call where something in it changes by itself: a wait that gets shorter, a task, a check, a
share of the processors. The time that a worker is up is put in at each call.
"""

import asyncio
from dataclasses import dataclass, field

import msgspec

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent, Refused, Rolling
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.records import ServiceStatus

from .status import StatusReport

UPTIME = b'"uptime_s":'
"""The first such key of a worker's part: no text of others comes before it, and in one its quotes would be escaped."""

WORKERS = b'"workers":[]'
AGENTS = b'"agents":[]'
SERVERS = b'"mcp_servers":[]'

PARTS = 3
"""Number of parts of a worker: before its uptime, the uptime, after it."""

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False, slots=True)
class _Entry:
    """Holds the last encoded status of one agent or server.

    `parts` are PARTS for each of `supervisors`, `starts` when those that are `up`, by their place, were started.
    """

    spec: Spec
    supervisors: list[WorkerSupervisor] = field(default_factory=list[WorkerSupervisor])
    stale: set[WorkerSupervisor] = field(default_factory=set[WorkerSupervisor])
    parts: list[bytes] = field(default_factory=list[bytes])
    starts: list[float] = field(default_factory=list[float])
    up: list[int] = field(default_factory=list[int])
    head: bytes = b""
    tail: bytes = b""
    queued: int = -1
    health_score: int = -1
    service: ServiceStatus | None = None
    rolling: Rolling | None = None
    taken_back: Refused | None = None
    is_wide: bool = False
    """It has workers without a place."""


class StatusCache:
    """Holds the newest status of all agents and servers, encoded."""

    def __init__(self, report: StatusReport, agents: Agents, tasks: Tasks, logs: LogStore) -> None:
        self._report = report
        self._agents = agents
        self._tasks = tasks
        self._logs = logs
        self._loop = asyncio.get_running_loop()
        self._entries: dict[str, _Entry] = {}
        self._losses = 0

    def note(self, supervisor: WorkerSupervisor) -> None:
        """Marks a worker whose state, or use of resources, has changed."""
        entry = self._entries.get(supervisor.worker.spec.name)
        if entry is not None:
            entry.stale.add(supervisor)
            if len(entry.stale) > len(entry.supervisors):  # some are of workers that are no more
                del self._entries[supervisor.worker.spec.name]

    def status(self) -> msgspec.Raw:
        """Returns the answer to `daemon.status` about all."""
        agents = self._agents.agents
        losses = self._logs.losses
        if losses != self._losses or len(self._entries) > len(agents):
            self._losses = losses
            self._entries.clear()
        listed_pieces: dict[str, list[bytes]] = {"agent": [], "mcp": []}
        for name, agent in agents.items():
            entry = self._entries.get(name)
            if entry is None:
                entry = self._entries[name] = _Entry(agent.spec)
            self._renew(entry, agent)
            pieces = listed_pieces[agent.spec.kind]
            if pieces:
                pieces.append(b",")
            pieces += self._pieces(entry)
        head, _, rest = _encode(self._report.frame()).partition(AGENTS)
        between, _, tail = rest.partition(SERVERS)
        listed = (head, AGENTS[:-1], *listed_pieces["agent"], b"]", between)
        return msgspec.Raw(b"".join((*listed, SERVERS[:-1], *listed_pieces["mcp"], b"]", tail)))

    def _renew(self, entry: _Entry, agent: Agent) -> None:
        """Encodes the changed parts of an entry anew."""
        spec = agent.spec
        has_others = entry.supervisors != agent.supervisors
        if has_others:
            entry.supervisors = [*agent.supervisors]
            entry.parts = [b""] * (PARTS * len(entry.supervisors))
            entry.stale = set(entry.supervisors)
        queued = self._tasks.queued(agent.name)
        lives_by_itself = spec.kind == "mcp" or spec.entrypoint is not None or bool(spec.listen)
        service = self._report.service(agent.name)
        is_other = queued != entry.queued or spec is not entry.spec or service is not entry.service
        health_score = self._report.health_score(agent)
        is_other = is_other or health_score != entry.health_score
        is_other = is_other or agent.rolling is not entry.rolling or bool(agent.beside)
        is_other = is_other or agent.taken_back is not entry.taken_back
        if not (entry.stale or has_others or lives_by_itself or is_other or entry.is_wide):
            return
        entry.spec, entry.queued, entry.service = spec, queued, service
        entry.health_score = health_score
        entry.rolling, entry.is_wide = agent.rolling, bool(agent.beside)
        entry.taken_back = agent.taken_back
        head, _, tail = _encode(self._report.agent_entry(agent, [])).partition(WORKERS)
        entry.head, entry.tail = head + WORKERS[:-1], b"]" + tail
        if not (entry.stale or has_others):
            return
        stale, entry.stale = entry.stale, set()
        for number, supervisor in enumerate(entry.supervisors):
            if supervisor in stale:
                self._renew_worker(entry, number, supervisor)
        entry.up = [n for n, supervisor in enumerate(entry.supervisors) if _is_up(supervisor)]
        entry.starts = [life.started_at for n in entry.up if (life := entry.supervisors[n].life) is not None]

    def _renew_worker(self, entry: _Entry, number: int, supervisor: WorkerSupervisor) -> None:
        status = self._report.worker_status(supervisor)
        uptime = _encode(status.uptime_s)
        head, _, tail = _encode(status).partition(UPTIME)
        comma = b"," if number else b""
        entry.parts[PARTS * number : PARTS * (number + 1)] = (comma + head + UPTIME, uptime, tail[len(uptime) :])
        if _changes_by_itself(supervisor):
            entry.stale.add(supervisor)

    def _pieces(self, entry: _Entry) -> list[bytes]:
        now = self._loop.time()
        # To the millisecond: a float that is made of one is written with three digits at most, without `round`.
        times = [int((now - started) * 1000.0 + 0.5) / 1000.0 for started in entry.starts]
        uptimes = _encode(times)[1:-1].split(b",")
        if len(entry.up) == len(entry.supervisors):
            entry.parts[1::PARTS] = uptimes if entry.up else []
        else:
            for number, uptime in zip(entry.up, uptimes, strict=False):  # none is one, but empty
                entry.parts[PARTS * number + 1] = uptime
        return [entry.head, *entry.parts, entry.tail]


def _is_up(supervisor: WorkerSupervisor) -> bool:
    return supervisor.life is not None and supervisor.worker.pid is not None


def _changes_by_itself(supervisor: WorkerSupervisor) -> bool:
    """Returns whether a part of its status changes without a notification."""
    worker = supervisor.worker
    spec = worker.spec
    waits = worker.state is State.INITIAL and worker.deadline is not None
    is_watched = bool(spec.checks or supervisor.health_monitor.healths) or spec.resources.cpu_limit_percent > 0
    return waits or is_watched or bool(supervisor.running) or supervisor.is_cordoned(Unschedulable.HIBERNATED)
