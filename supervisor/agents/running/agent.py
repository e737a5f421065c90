"""One agent or MCP server with its supervisors, and in which order several are started and stopped."""

import asyncio
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from msgspec.structs import replace

from corral.mcp.protocol.catalog import Catalogue
from corral.mcp.protocol.messages import Tool
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle import job
from corral.supervisor.workers.lifecycle.state_machine import CORRUPTED, UP, State, Worker
from corral.supervisor.workers.process.instance_spec import spec_of_instance
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, CorralError, Corrupted, InvalidParams, SpawnFailed, Timeout
from corral.worker.contract.records import JobState


@dataclass(frozen=True)
class Rolling:
    """Describes a change of workers that is under way: revisions, new workers in place, former ones left, and what it waits for."""

    ready: int
    left: int
    reason: str
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Refused:
    """Describes the last change of workers, which was taken back; `at` is in seconds since 1970."""

    revision: int | None
    reason: str
    at: float


LEAST_ADVANCED = (State.TERMINATED, State.SHUTTING_DOWN, State.INITIAL, State.STARTING)


@dataclass
class Agent:
    """An agent or MCP server with its workers.

    `held` means that it was stopped on request, so calls do not start it. `catalogue` has the tools of a server, as listed last.
    """

    spec: Spec
    supervisors: list[WorkerSupervisor] = field(default_factory=list[WorkerSupervisor])
    held: bool = False
    added: bool = False
    catalogue: Catalogue = field(default_factory=Catalogue)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    candidates: "WorkerHeap | None" = None
    """Workers for its next task; None before its first worker that takes tasks."""
    target: Spec | None = None
    """The spec that is about to be in force: its workers are being brought up. None: no change is under way."""
    incoming: dict[int, WorkerSupervisor] = field(default_factory=dict[int, WorkerSupervisor])
    """New workers that are not in their places yet, by the number of the worker that each is to replace."""
    outgoing: list[WorkerSupervisor] = field(default_factory=list[WorkerSupervisor])
    """Workers that were replaced, or never got their places, and have not ended yet."""
    rolling: "Rolling | None" = None
    """The change of its workers that is under way."""
    taken_back: "Refused | None" = None
    """The last change of its workers, if that was taken back."""

    @property
    def name(self) -> str:
        """Returns the agent's name."""
        return self.spec.name

    @property
    def intended(self) -> Spec:
        """Returns the spec that a further change is compared with: that of the change under way, else that in force."""
        return self.target or self.spec

    @property
    def beside(self) -> list[WorkerSupervisor]:
        """Returns the workers that have no place: those that come, and those that finish their tasks."""
        return [*self.incoming.values(), *self.outgoing]

    @property
    def lives(self) -> list[WorkerSupervisor]:
        """Returns all that may have processes: its workers, and those beside them with the same ids."""
        return [*self.supervisors, *self.beside] if self.incoming or self.outgoing else self.supervisors

    def note(self, supervisor: WorkerSupervisor) -> None:
        """Notes that one of its workers may be able to begin a task, or no longer."""
        capacity = self.spec.resources.max_concurrent_requests
        if self.candidates is None:
            if not has_place(supervisor, capacity):
                return
            self.candidates = WorkerHeap()
        self.candidates.note(supervisor, capacity)

    def first(self) -> WorkerSupervisor | None:
        """Returns the worker for its next task; None if none can begin one."""
        if self.candidates is None:
            return None
        return self.candidates.first(self.spec.resources.max_concurrent_requests)

    @property
    def wanted(self) -> bool:
        """Returns True if one of its workers is wanted."""
        return any(supervisor.worker.wanted for supervisor in self.supervisors)

    @property
    def is_satisfied(self) -> bool:
        """Returns True if those that require it may start: all of its workers are up, or jobs that have succeeded."""
        return all(supervisor.worker.is_satisfied for supervisor in self.supervisors)

    @property
    def is_paused(self) -> bool:
        """Returns True if a worker of it is up, and all such workers are paused."""
        up = (supervisor.worker for supervisor in self.supervisors if supervisor.worker.state in UP)
        first = next(up, None)  # as a rule it is not, and says so for all
        return first is not None and first.paused_at is not None and all(worker.paused_at is not None for worker in up)

    @property
    def job(self) -> JobState | None:
        """Returns the state of a job, the least advanced one of its workers; None for a service."""
        if self.spec.type != "oneshot":
            return None
        states = {job.state(supervisor.worker) for supervisor in self.supervisors}
        return next((state for state in job.STATES if state in states), "idle")

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Returns a server's tools, as listed last."""
        return self.catalogue.tools

    @property
    def state(self) -> State:
        """Returns one state for all workers, as `status` shows it."""
        workers = [supervisor.worker for supervisor in self.supervisors]
        states = [worker.state for worker in [worker for worker in workers if worker.wanted] or workers]
        for state in LEAST_ADVANCED:
            if state in states:
                return state
        for state in (State.BUSY, State.IDLE, State.READY):
            if state in states:
                return state
        return State.INITIAL  # scaled to none


def processes_of(spec: Spec) -> int:
    """Returns the number of workers by the spec: working ones, and those in reserve."""
    return spec.instances.minimum + spec.spares


def spec_of(spec: Spec, number: int) -> Spec:
    """Returns the spec of one worker: with its own number, and one in reserve does not end for lack of use."""
    spec = spec_of_instance(spec, number)
    first = spec.instances.minimum
    is_reserve = first <= number < first + spec.spares
    return replace(spec, idle_timeout=0.0) if is_reserve else spec


def has_range(spec: Spec) -> bool:
    """Returns True if the load decides the number of workers of an agent."""
    takes_tasks = spec.kind == "agent" and spec.speaks == "corral"
    return takes_tasks and spec.instances.min < spec.instances.max


def check_range(spec: Spec, instances: int) -> None:
    """Refuses a number that its own load would change again at once; none at all switches it off."""
    least, most = spec.instances.minimum, spec.instances.maximum
    if has_range(spec) and instances != 0 and not least <= instances <= most:
        words = f'cannot scale "{spec.name}" to {instances}: it has instances = {{ min = {least}, max = {most} }}'
        raise InvalidParams(words, key="instances", value=instances, min=least, max=most)


def is_at_risk(agent: Agent) -> bool:
    """Returns True if all callers share several processes of a server although its era keeps state in each."""
    spec = agent.spec
    is_wide = max(spec.instances.maximum, len(agent.supervisors) - spec.spares) > 1
    legacy = agent.catalogue.era == "legacy"
    return legacy and is_wide and spec.share == "all" and spec.concurrency != "parallel"


def waves(specs: Iterable[Spec]) -> Iterator[set[str]]:
    """Orders names by starts: each wave requires only names of earlier ones, or absent ones."""
    requires: Mapping[str, tuple[str, ...]] = {spec.name: spec.requires for spec in specs}
    sorter = TopologicalSorter(
        {name: [each for each in required if each in requires] for name, required in requires.items()}
    )
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        yield set(ready)
        sorter.done(*ready)


def users(supervisors: Iterable[WorkerSupervisor]) -> dict[str, list[WorkerSupervisor]]:
    """Groups the supervisors whose agents require another one by the name of that."""
    found: dict[str, list[WorkerSupervisor]] = {}
    for supervisor in supervisors:
        for name in supervisor.spec.requires:
            found.setdefault(name, []).append(supervisor)
    return found


def not_paused(name: str, workers: Iterable[Worker]) -> CorralError:
    """Returns the error if none of the workers of a name can be paused."""
    if State.SHUTTING_DOWN in {worker.state for worker in workers}:
        return Conflict(f'cannot pause "{name}": it is being stopped', name=name)
    return Conflict(f'cannot pause "{name}": it does not run; corral start {name}', name=name)


def not_up(worker: Worker) -> CorralError:
    """Returns the error of a started worker that is not up."""
    if worker.paused_at is not None:
        text = f'cannot wait for "{worker.id}": it is paused; corral resume {worker.id}'
        return Conflict(text, worker=worker.id, reason="paused")
    last = worker.last_exit
    if last is None or not worker.wanted:  # then its last exit is of an earlier life, or no failure
        return Conflict(f'cannot start "{worker.id}": it was stopped', worker=worker.id)
    facts = {"worker": worker.id, "result": last.result, "code": last.code, "signal": last.signal}
    text = f'cannot start "{worker.id}": {last.message}'
    if worker.spec.type == "oneshot":
        text = f'cannot finish job "{worker.id}": {last.message}'
    if last.result in ("start-timeout", job.LATE):
        return Timeout(text, **facts)
    if last.result == CORRUPTED:
        return Corrupted(text, record=worker.spec.name, **facts)
    return SpawnFailed(text, **facts)


SLACK = 64
"""Number of outdated places that may stay, beside one for each worker."""

Place = tuple[int, float, str, int]
"""Number of a worker's tasks, time when it last had none, its id, and a serial number."""


class WorkerHeap:
    """Orders the workers of one agent that may be able to begin a task, the idlest first."""

    def __init__(self) -> None:
        self._heap: list[Place] = []
        self._places: dict[WorkerSupervisor, Place] = {}  # the newest of each: others are outdated
        self._workers: dict[int, WorkerSupervisor] = {}
        """By the serial number of its newest place: an outdated place keeps no worker that has ended in memory."""
        self._count = 0

    @property
    def size(self) -> int:
        """Returns the number of places, outdated ones included."""
        return len(self._heap)

    def note(self, supervisor: WorkerSupervisor, capacity: int) -> None:
        """Notes that a worker may be able to begin a task, or no longer."""
        before = self._places.get(supervisor)
        key = (len(supervisor.running), supervisor.rested_at)
        is_placed = has_place(supervisor, capacity)
        if before is not None:
            if is_placed and before[:2] == key:
                return
            self._remove(supervisor, before)
        if not is_placed:
            return
        self._count += 1
        place = self._places[supervisor] = (*key, supervisor.id, self._count)
        self._workers[self._count] = supervisor
        heapq.heappush(self._heap, place)
        if len(self._heap) > 2 * len(self._places) + SLACK:
            self._heap = sorted(self._places.values())

    def first(self, capacity: int) -> WorkerSupervisor | None:
        """Returns the worker for the next task; None if there is none."""
        while self._heap:
            place = self._heap[0]
            supervisor = self._workers.get(place[3])
            if supervisor is not None:
                if has_place(supervisor, capacity):
                    return supervisor
                self._remove(supervisor, place)
            heapq.heappop(self._heap)
        return None

    def _remove(self, supervisor: WorkerSupervisor, place: Place) -> None:
        del self._places[supervisor], self._workers[place[3]]


def has_place(supervisor: WorkerSupervisor, capacity: int) -> bool:
    """Returns True if a worker can begin a task now."""
    return len(supervisor.running) < capacity and supervisor.is_schedulable
