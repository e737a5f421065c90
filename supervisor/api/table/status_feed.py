"""Sends a reader the status, and from then on what changes in it, at a cost that does not grow with the number of changes.

Changes are collected and sent together: the first at once, the next not before REST_S, and never for more than a
twentieth of the daemon's time. Of a worker that has changed several times meanwhile, the newest status is sent.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.records.events.bus import Bus, Event, Subscription
from corral.supervisor.records.events.catalog import SKIPPED
from corral.supervisor.tenants.tokens.scope import knows
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.names import SEPARATOR
from corral.worker.contract.records import AgentStatus

from .caller import Caller
from .status import StatusReport
from .tenant_view import own_daemon

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
            frame = replace(frame, daemon=own_daemon(frame.daemon), tasks=own)
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
        """Returns names that something has happened to, with their changed workers, and forgets them."""
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
