"""Starts workers in the order of their dependencies, and within the limit of processes.

First come the conditions that callers wait for: each is a predicate on the present state of a worker, to be evaluated again at
every change. The limit is checked and the room taken without an await in between. A worker that requires others is started
once they are Ready; any later request for it cancels that wait. A worker that starts by itself and finds no room waits here
until there is some.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TypeAlias

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.tenants.quotas.room import TenantRoom
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.lifecycle import job, state_machine
from corral.supervisor.workers.lifecycle.start_failure import RUNS_TO_ITS_END
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, UP, LastExit, State, Worker
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, CorralError, NotFound, ResourceLimitExceeded, ShuttingDown
from corral.worker.contract.names import tenant_of

from .agent import Agent, not_up
from .emergency_stop import EmergencyStopSwitch
from .registry import Registry


def rests(worker: Worker) -> bool:
    """Returns True if it has given up, or must not start again: only a start brings it up."""
    return worker.state is State.TERMINATED and worker.resume_at is None and not worker.waits


def needs_a_start(supervisor: WorkerSupervisor) -> bool:
    """Returns True if only a start brings it up, or it is about to end; a job that has succeeded needs none."""
    if supervisor.worker.done:
        return False
    is_leaving = supervisor.job.is_to_end or not supervisor.worker.wanted
    return is_leaving or not supervisor.takes_room or rests(supervisor.worker)


def can_pause(worker: Worker) -> bool:
    """Returns True if it has a running process."""
    return worker.pid is not None and (worker.state in UP or worker.state is State.STARTING)


def has_ended(incarnation: int) -> Callable[[Worker], bool]:
    """Returns True if no process of that life is left."""
    return lambda worker: not worker.tree or worker.incarnation != incarnation


def is_gone(supervisor: WorkerSupervisor) -> Callable[[Worker], bool]:
    """Returns True if no process of it is left, or it was started again."""
    return lambda worker: not worker.tree or (worker.wanted and not supervisor.job.is_to_end)


def is_repeated(worker: Worker) -> bool:
    """Returns True if it is a job that has succeeded, and runs again when a start of those that require it is requested."""
    return worker.done and not worker.spec.remain


def is_down(worker: Worker) -> bool:
    """Returns True if those that require it have to wait for it."""
    return not worker.is_satisfied


def has_settled(before: LastExit | None) -> Callable[[Worker], bool]:
    """Returns True if it is up, or is not coming up: not wanted, paused, or failed since `before`.

    A job has settled when it has succeeded, or failed for good: while it is retried it may succeed yet.
    """
    tried = (State.TERMINATED, State.INITIAL, State.STARTING)

    def check(worker: Worker) -> bool:
        last = worker.last_exit  # a requested end is none of its failures
        has_failed = last is not None and last is not before and last.result not in ASKED_FOR
        has_failed = has_failed and worker.spec.type == "service"
        stands = not worker.wanted or worker.paused_at is not None or rests(worker)
        return worker.is_satisfied or stands or (has_failed and worker.state in tried)

    return check


def is_up_after(incarnation: int) -> Callable[[Worker], bool]:
    """Returns True if it is up, in a later life than that."""
    return lambda worker: worker.is_satisfied and worker.incarnation > incarnation


def has_moved_on(supervisor: WorkerSupervisor, incarnation: int) -> Callable[[Worker], bool]:
    """Returns True if it is in a new life, or the restart was revoked."""

    def check(worker: Worker) -> bool:
        is_kept = worker.state in UP and not supervisor.job.is_waiting
        return worker.incarnation > incarnation or not worker.wanted or is_kept

    return check


def last_exit_until(supervisor: WorkerSupervisor, incarnation: int) -> LastExit | None:
    """Returns the exit of its newest life that is no later than that; None if unknown."""
    return next((last for number, last in supervisor.exits if number <= incarnation), None)


Exits: TypeAlias = Mapping[str, LastExit | None]
"""Last exits by worker id."""

ENDING = "waits for the end of a former process of it"
"""Reason of a worker whose start waits for another one of its id."""

logger = logging.getLogger(__name__)


class Startup:
    """Starts the workers of one daemon."""

    def __init__(
        self, registry: Registry, emergency: EmergencyStopSwitch, bus: Bus, tenants: Tenants, room: TenantRoom
    ) -> None:
        self._room = room
        self._registry = registry
        self._tenants = tenants
        self._emergency = emergency
        self._bus = bus
        self._no_room: dict[WorkerSupervisor, None] = {}

    def check_capacity(self, wanted: Mapping[str, int]) -> None:
        """Refuses to start more workers than the daemon, or a tenant, may have; `wanted` has their number by agent."""
        limit, more = self._limit, sum(wanted.values())
        active = self._registry.active() if more else 0
        if active + more > limit:
            words = f"cannot start {more} more processes: {active} of max_concurrent_processes = {limit} are in use"
            raise ResourceLimitExceeded(words, limit="max_concurrent_processes", value=active + more)
        self._room.check(wanted)

    def check_may_start(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Refuses to start anything while the daemon stops, workers that come or go, and those of suspended tenants."""
        if self._registry.draining:
            raise ShuttingDown("cannot start anything: the daemon is stopping")
        for supervisor in supervisors:
            self._tenants.check_active(supervisor.spec.name, "start")
            if self._registry.supervisor(supervisor.id) is not supervisor:
                raise NotFound(f'cannot start "{supervisor.id}": it was removed', name=supervisor.id)
            if supervisor in self._registry.leaving:
                raise Conflict(f'cannot start "{supervisor.id}": it is being added or removed', worker=supervisor.id)

    def check_may_begin(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Refuses what `bring_up` would refuse."""
        self._emergency.check("start anything")
        self.startable(supervisors)

    def startable(self, supervisors: Sequence[WorkerSupervisor], *, anew: bool = False) -> list[WorkerSupervisor]:
        """Returns the supervisors after those that have to be started for them, if all of them may be; `anew` as in `needed`."""
        self.check_may_start(supervisors)
        needed = self.needed(supervisors, anew=anew)
        chosen = set(supervisors)
        self.check_may_start(each for each in needed if each not in chosen)
        self.check_capacity(idle_counts(needed))
        return needed

    def needed(self, supervisors: Iterable[WorkerSupervisor], *, anew: bool = False) -> list[WorkerSupervisor]:
        """Returns the supervisors after those that have to be started for them, each once; `anew` includes jobs that run again."""
        agents = self._registry.agents
        found: dict[WorkerSupervisor, None] = {}
        seen = set[str]()

        def add(name: str, chosen: Sequence[WorkerSupervisor]) -> None:
            if name not in seen:
                seen.add(name)
                repeats = anew and not all(k.worker.tree for k in chosen)
                for required in agents[name].spec.requires:
                    add(
                        required,
                        [
                            k
                            for k in agents[required].supervisors
                            if needs_a_start(k) or (repeats and is_repeated(k.worker))
                        ],
                    )
            found.update(dict.fromkeys(chosen))

        for supervisor in supervisors:
            add(supervisor.spec.name, [supervisor])
        return list(found)

    async def bring_up(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True, anew: bool = False) -> None:
        """Starts workers and what they require, and waits until they are up, jobs until they have succeeded; `anew` as in `needed`."""
        self._emergency.check("start anything")
        needed = self.startable(supervisors, anew=anew)
        before = self.last_exits()
        self.begin(needed)
        if wait:
            await self.until_up(supervisors, before)

    async def call_up(self, supervisor: WorkerSupervisor) -> None:
        """Starts the worker of a server that is called, or waits for one that is starting."""
        worker = supervisor.worker
        last = worker.last_exit
        if worker.state is State.TERMINATED and last is not None and last.result == "restart-limit":
            raise not_up(worker)
        if worker.wanted and not rests(worker):
            await self.until_up([supervisor], {supervisor.id: last})
        else:
            await self.bring_up([supervisor])

    def start_soon(self, supervisor: WorkerSupervisor) -> None:
        """Starts a worker beside others of its server, if there is room for it; waits for nothing."""
        try:
            self._emergency.check("start anything")
            self.begin(self.startable([supervisor]))
        except CorralError as error:
            logger.info("%s is not started: %s", supervisor.id, error)

    def start_by_itself(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Starts workers unasked, as `start_within_limit`; not during an emergency stop, nor while the daemon stops."""
        if self._emergency.in_force is None and not self._registry.draining:
            self.start_within_limit(k for k in supervisors if not self._registry.is_to_go(k))

    def start_within_limit(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Starts workers; one that finds no room waits for it, and its status says so."""
        limit = self._limit
        taken = self._registry.active()
        for supervisor in supervisors:
            if job.stays(supervisor.worker) or self._is_suspended(supervisor):
                continue
            needed = self.needed([supervisor])
            wanted = idle_counts(needed)
            reason = self._room.why_full(wanted)
            if taken + wanted.total() > limit:
                reason = f"max_concurrent_processes = {limit} is reached"
            if reason:
                supervisor.send(state_machine.Want(reason))
                self._no_room[supervisor] = None
                self._bus.publish("limit.processes", agent=supervisor.spec.name, worker=supervisor.id, reason=reason)
            else:
                taken += wanted.total()
                self.begin(needed)

    def hold_until_room(self, supervisor: WorkerSupervisor, result: str, reason: str) -> None:
        """Kills a worker that leaves its tenant no room; one that is ever restarted starts again as soon as there is some."""
        policy = supervisor.spec.recovery
        if not policy.enable_auto_restart or policy.restart == "never":
            supervisor.send(state_machine.Replace(result, reason))
            return
        is_wanted = supervisor.worker.wanted
        supervisor.send(state_machine.Halt(reason, result))
        if is_wanted:
            supervisor.send(state_machine.Want(reason))
            self._no_room[supervisor] = None

    def fill_room(self) -> None:
        """Starts what found no room before, as far as there is some now; each start is a change, at which this is called again."""
        registry = self._registry
        if not self._no_room or registry.draining or self._emergency.in_force is not None:
            return
        full = set[str]()
        for supervisor in tuple(self._no_room):
            tenant = tenant_of(supervisor.spec.name)
            if self._is_suspended(supervisor):
                self._no_room.pop(supervisor, None)
            elif tenant in full or (supervisor.worker.waits and supervisor.worker.tree):
                continue  # it is ending, or its tenant has no room
            elif supervisor.worker.waits and not supervisor.takes_room:
                needed = self.needed([supervisor])
                wanted = idle_counts(needed)
                if registry.active() + wanted.total() > self._limit:
                    return
                if self._room.why_full(wanted):
                    full.add(tenant)  # others may have room
                    continue
                self._no_room.pop(supervisor, None)
                self.begin(needed)
            else:  # it was started, stopped or removed
                self._no_room.pop(supervisor, None)

    def changed(self, _: WorkerSupervisor) -> None:
        """Starts what a change of a worker has made room for."""
        self.fill_room()

    def forget_waiting(self) -> None:
        """Drops what waits for room."""
        self._no_room.clear()

    def begin(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Starts each, those that require others when they are up; may or may not is checked before."""
        agents = self._registry.agents
        for supervisor in supervisors:
            if supervisor in self._registry.leaving:
                continue  # what requires it waits for the next worker of its name
            agent = agents[supervisor.spec.name]
            agent.held = False
            missing = [agents[n] for n in agent.spec.requires if not agents[n].is_satisfied]
            ending = ending_beside(agent, supervisor)
            if missing or ending:
                waiting = self._until_may_begin(agent, supervisor, ending)
                supervisor.start_after(waiting, ENDING if ending else waits_for(missing))
            else:
                supervisor.job.cancel()
                supervisor.send(state_machine.Start())
            supervisor.has_room = False  # it has taken it

    def _is_suspended(self, supervisor: WorkerSupervisor) -> bool:
        return self._tenants.is_suspended(tenant_of(supervisor.spec.name))

    @property
    def _limit(self) -> int:
        return self._registry.config.process.max_concurrent_processes

    def last_exits(self) -> dict[str, LastExit | None]:
        """Returns the last exit of every worker, by id."""
        return {each.id: each.worker.last_exit for each in self._registry.all_supervisors()}

    async def until_up(self, supervisors: Iterable[WorkerSupervisor], before: Exits) -> None:
        """Waits until workers and what they require are up, or one has failed since `before`."""
        for supervisor in supervisors:
            await self.until(supervisor, has_settled(before.get(supervisor.id)), before)
            is_up = supervisor.worker.is_satisfied
            if not is_up and not self._registry.is_scaled_away(supervisor):
                raise not_up(supervisor.worker)

    async def until(self, supervisor: WorkerSupervisor, done: Callable[[Worker], bool], before: Exits) -> None:
        """Waits for a worker that may wait for others, as long as those are coming up or are up."""
        agent = self._registry.agents.get(supervisor.spec.name)
        while not done(supervisor.worker):
            if agent is None or not supervisor.worker.waits:
                await supervisor.until(lambda worker: done(worker) or worker.waits)
                continue
            required = self._registry.required(agent)
            await self.until_up(required, before)
            changes = supervisor.until(lambda worker: done(worker) or not worker.waits)
            await _first([*(each.until(is_down) for each in required), changes])

    async def _until_may_begin(
        self, agent: Agent, waiting: WorkerSupervisor, ending: Iterable[WorkerSupervisor]
    ) -> None:
        for each in ending:
            await each.until(has_ended(each.worker.incarnation))
        await self._until_required(agent, waiting)

    async def _until_required(self, agent: Agent, waiting: WorkerSupervisor) -> None:
        """Waits until all that an agent requires is up; says in the status of `waiting` which of them does not come up."""

        def has_news(worker: Worker) -> bool:
            return worker.is_satisfied or waits_for(missing) != reason

        while missing := [
            each for each in filter(None, map(self._registry.agents.get, agent.spec.requires)) if not each.is_satisfied
        ]:
            reason = waits_for(missing)
            waiting.send(state_machine.Want(reason))
            down = [k for each in missing for k in each.supervisors if is_down(k.worker)]
            await _first([each.until(has_news) for each in down])


async def _first(waits: Iterable[Coroutine[None, None, object]]) -> None:
    """Waits until one of several has ended, and cancels the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in tasks:
            each.cancel()


def ending_beside(agent: Agent, supervisor: WorkerSupervisor) -> list[WorkerSupervisor]:
    """Returns what has the same worker id and must end before a worker starts: no change asks for both at a time.

    One that finishes its tasks may go on, unless the spec permits none beside.
    """
    if not agent.outgoing or supervisor.worker.state in (State.STARTING, *UP):
        return []
    same = [k for k in agent.outgoing if k.id == supervisor.id and k.worker.tree]
    return [k for k in same if not k.worker.wanted or agent.spec.rolling is False]


def idle_counts(supervisors: Iterable[WorkerSupervisor]) -> Counter[str]:
    """Counts, by agent, the workers that have no process, and would take room if they were started."""
    return Counter(each.spec.name for each in supervisors if not each.takes_room)


def waits_for(agents: Iterable[Agent]) -> str:
    """Describes the agents that are waited for, and why one of them does not come up by itself."""
    return f"waits for {', '.join(map(_why_missing, agents))}"


def _why_missing(agent: Agent) -> str:
    down = [k.worker for k in agent.supervisors if is_down(k.worker)]
    resting = next((worker for worker in down if rests(worker)), None)
    if resting is None or resting.last_exit is None:
        return agent.name
    last = resting.last_exit
    verb = "failed" if agent.spec.type == "oneshot" else "is down"
    if last.result in ASKED_FOR:
        return f"{agent.name}, which was stopped: corral start {agent.name}"
    remedy = f"corral start {agent.name}"
    is_clean = agent.spec.type == "service" and agent.spec.protocol == "none" and last.code == 0
    if is_clean and RUNS_TO_ITS_END not in last.message:
        remedy = RUNS_TO_ITS_END
    return f"{agent.name}, which {verb} ({last.message}): {remedy}"
