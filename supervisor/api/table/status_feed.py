"""Keeps the answer of `status` about all agents and servers as bytes, and sends a reader the status and what changes in it.

`StatusCache` guarantees the answer that `StatusReport` would give at the same moment, in the same order. A worker's part is
made again after each change of it, and at every call where something in it changes by itself: a wait that gets shorter, a
task, a check, a share of the processors. The time that a worker is up is put in at each call.

`StatusFeed` collects changes and sends them together, at a cost that does not grow with their number: the first at once, the
next not before REST_S, and never for more than a twentieth of the daemon's time. Of a worker that has changed several times
meanwhile, the newest status is sent.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

import msgspec
from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent, Refused, Rolling
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus, Event, Subscription
from corral.supervisor.records.events.catalog import SKIPPED
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tenants.tokens.scope import knows
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.names import SEPARATOR
from corral.worker.contract.records import AgentStatus, ServiceStatus

from .handlers import Caller
from .status import StatusReport
from .tenant_view import own_daemon

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
    worker = supervisor.worker
    spec = worker.spec
    waits = worker.state is State.INITIAL and worker.deadline is not None
    is_watched = bool(spec.checks or supervisor.health_monitor.healths) or spec.resources.cpu_limit_percent > 0
    return waits or is_watched or bool(supervisor.running) or supervisor.is_cordoned(Unschedulable.HIBERNATED)


REST_S = 0.02
"""Seconds between two notifications, at least."""

REST_RATIO = 20.0
"""Seconds of rest for each second that a notification took to be made."""

MOST_WORKERS = 200
"""Number of workers, and of agents, in one notification; others follow in the next ones."""

MOST_EVENTS = 100
"""Number of events in one notification: the newest. Others are counted."""


class StatusFeed:
    """Collects the workers that have changed, for each reader."""

    def __init__(self, report: StatusReport, agents: Agents, bus: Bus) -> None:
        self._report = report
        self._agents = agents
        self._bus = bus
        self._readers: set[_Reader] = set()

    def note(self, supervisor: WorkerSupervisor) -> None:
        """Takes note of a worker whose state, load or use of resources has changed."""
        for reader in self._readers:
            reader.note(supervisor)

    async def run(self, caller: Caller, whole: Callable[[], object]) -> None:
        """Sends `whole()` as `status`, then all changes as `status.change`, until the caller is gone."""
        reader = _Reader(self._report, self._agents, caller)
        self._readers.add(reader)
        try:
            with self._bus.subscribe(["*"], where=reader.takes) as subscription:
                caller.notify("status", {"status": whole()})
                await reader.run(subscription)
        finally:
            self._readers.discard(reader)


class _Reader:
    """Holds what one reader has not been sent yet."""

    def __init__(self, report: StatusReport, agents: Agents, caller: Caller) -> None:
        self._report = report
        self._agents = agents
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._knows = knows(caller.agents)
        self._workers: dict[WorkerSupervisor, None] = {}
        self._names: dict[str, None] = {}
        self._places = {name: [*agent.supervisors] for name, agent in agents.agents.items()}
        self._has_events = False
        self._stirred = asyncio.Event()

    def note(self, supervisor: WorkerSupervisor) -> None:
        """Takes note of a worker that has changed."""
        if self._knows is None or self._knows(supervisor.worker.spec.name):
            self._workers[supervisor] = None
            self._stirred.set()

    def takes(self, event: Event) -> bool:
        """Returns whether an event is sent, and takes note of it."""
        name = event.agent
        if self._knows is not None and (name is None or not self._knows(name)):
            return False
        if name is not None and not name.endswith(SEPARATOR):  # else it is of a whole tenant
            self._names[name] = None
        self._has_events = True
        self._stirred.set()
        return True

    async def run(self, subscription: Subscription) -> None:
        """Sends what has changed until the caller is gone."""
        while True:
            await self._stirred.wait()
            began = self._loop.time()
            self._stirred.clear()
            events: list[Event] = []
            if self._has_events:
                self._has_events = False
                events = await subscription.next_batch()  # there is one: this does not wait
            self._caller.notify("status.change", {"change": self._change(events)})
            if self._workers or self._names:
                self._stirred.set()  # more than one notification has
            took_s = self._loop.time() - began
            await self._caller.drain()
            await asyncio.sleep(max(REST_S, took_s * REST_RATIO))

    def _change(self, events: list[Event]) -> dict[str, object]:
        skipped = 0
        if events and events[0].type == SKIPPED:
            count = events[0].fields["count"]
            assert isinstance(count, int), "the bus counts them"
            skipped, events = count, events[1:]
        skipped += max(0, len(events) - MOST_EVENTS)
        frame = self._report.frame()
        if self._caller.tenant:
            own = self._report.counts(list(filter(self._knows, self._agents.agents)))
            frame = replace(frame, daemon=own_daemon(frame.daemon, self._report.needs_of(self._knows)), tasks=own)
        due = self._due()
        places: dict[str, list[str]] = {}
        entries = [self._entry(agent, due[name], places) for name, agent in self._present(due)]
        groups = {each.name for each in frame.teams} | {each.name for each in frame.workflows}
        gone = [each for each in due if each not in self._agents.agents and each not in groups]
        for name in gone:
            self._places.pop(name, None)
        return {
            "daemon": frame.daemon,
            "tasks": frame.tasks,
            "agents": [each for each in entries if each.kind == "agent"],
            "mcp_servers": [each for each in entries if each.kind == "mcp"],
            "teams": [each for each in frame.teams if each.name in due],
            "workflows": [each for each in frame.workflows if each.name in due],
            "places": places,
            "removed": gone,
            "events": [each.record() for each in events[-MOST_EVENTS:]],
            "skipped": skipped,
        }

    def _due(self) -> dict[str, list[WorkerSupervisor]]:
        names = list(islice(self._names, MOST_WORKERS))
        workers = list(islice(self._workers, MOST_WORKERS))
        due: dict[str, list[WorkerSupervisor]] = {name: [] for name in names}
        for name in names:
            del self._names[name]
        for worker in workers:
            del self._workers[worker]
            due.setdefault(worker.worker.spec.name, []).append(worker)
        return due

    def _present(self, names: Iterable[str]) -> list[tuple[str, Agent]]:
        agents = self._agents.agents
        return [(name, agents[name]) for name in names if name in agents]

    def _entry(self, agent: Agent, changed: list[WorkerSupervisor], places: dict[str, list[str]]) -> AgentStatus:
        """Returns an agent with its changed workers; with all, and their ids in `places`, if they are others than before."""
        present = [*agent.supervisors]
        if present != self._places.get(agent.name):
            self._places[agent.name] = changed = present
            places[agent.name] = [each.id for each in present]
        known = set(present)
        workers = [self._report.worker_status(each) for each in changed if each in known]
        return self._report.agent_entry(agent, workers)
