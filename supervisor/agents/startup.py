"""Starts workers in the order of their dependencies, and within the limit of processes.

The limit is checked and the room taken without an await in between. A worker that requires others is started
once they are Ready; any later request for it cancels that wait. A worker that starts by itself and finds no room waits
here until there is some.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from ...worker.contract.errors import (
    Conflict,
    CorralError,
    NotFound,
    ResourceLimitExceeded,
    ShuttingDown,
)
from ..events.bus import Bus
from ..lifecycle import state_machine
from ..lifecycle.state_machine import UP, LastExit, State, Worker
from ..supervision.worker_supervisor import WorkerSupervisor
from .agent import Agent, not_up
from .await_state import has_settled, is_down, needs_a_start, rests
from .emergency_stop import EmergencyStopSwitch
from .registry import Registry

Exits: TypeAlias = Mapping[str, LastExit | None]
"""Last exits by worker id."""

logger = logging.getLogger(__name__)


class Startup:
    """Starts the workers of one daemon."""

    def __init__(self, registry: Registry, emergency: EmergencyStopSwitch, bus: Bus) -> None:
        self._registry = registry
        self._emergency = emergency
        self._bus = bus
        self._no_room: list[WorkerSupervisor] = []

    # -- may it start

    def check_capacity(self, more: int) -> None:
        """Refuses to start more processes than the daemon may have.

        Raises:
            ResourceLimitExceeded: with `limit` and `value`.
        """
        limit = self._limit
        active = self._registry.active() if more else 0
        if active + more > limit:
            raise ResourceLimitExceeded(
                f"cannot start {more} more processes: {active} of"
                f" max_concurrent_processes = {limit} are in use",
                limit="max_concurrent_processes",
                value=active + more,
            )

    def check_may_start(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Refuses to start anything while the daemon stops, and workers that come or go.

        Raises:
            ShuttingDown, Conflict, NotFound: it is so.
        """
        if self._registry.draining:
            raise ShuttingDown("cannot start anything: the daemon is stopping")
        for supervisor in supervisors:
            if self._registry.supervisor(supervisor.id) is not supervisor:
                raise NotFound(
                    f'cannot start "{supervisor.id}": it was removed', name=supervisor.id
                )
            if supervisor in self._registry.leaving:
                raise Conflict(
                    f'cannot start "{supervisor.id}": it is being added or removed',
                    worker=supervisor.id,
                )

    def check_may_begin(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Refuses what `bring_up` would refuse.

        Raises:
            CorralError: as for `bring_up`.
        """
        self._emergency.check("start anything")
        self.startable(supervisors)

    def startable(self, supervisors: Sequence[WorkerSupervisor]) -> list[WorkerSupervisor]:
        """Returns the supervisors after those that have to be started for them, if all of them may be.

        Raises:
            ShuttingDown, Conflict, NotFound, ResourceLimitExceeded: one may not be started.
        """
        self.check_may_start(supervisors)
        needed = self.needed(supervisors)
        chosen = set(supervisors)
        self.check_may_start(each for each in needed if each not in chosen)
        self.check_capacity(idle_count(needed))
        return needed

    def needed(self, supervisors: Iterable[WorkerSupervisor]) -> list[WorkerSupervisor]:
        """Returns the supervisors after those that have to be started for them, each once."""
        agents = self._registry.agents
        found: dict[WorkerSupervisor, None] = {}
        seen = set[str]()

        def add(name: str, chosen: Iterable[WorkerSupervisor]) -> None:
            if name not in seen:
                seen.add(name)
                for required in agents[name].spec.requires:
                    add(required, [k for k in agents[required].supervisors if needs_a_start(k)])
            found.update(dict.fromkeys(chosen))

        for supervisor in supervisors:
            add(supervisor.spec.name, [supervisor])
        return list(found)

    # -- starting

    async def bring_up(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """Starts workers and what they require, and waits until they are up.

        Raises:
            SpawnFailed: one did not come up; `data` has `result`.
            Timeout: one was not ready in time.
            Conflict: an emergency stop is in force, one is being removed, or is paused before it was ready.
            ResourceLimitExceeded: they are too many; none is started.
            NotFound, ShuttingDown: one was removed, or the daemon is stopping.
        """
        self._emergency.check("start anything")
        needed = self.startable(supervisors)
        before = self.last_exits()
        self.begin(needed)
        if wait:
            await self.until_up(supervisors, before)

    async def call_up(self, supervisor: WorkerSupervisor) -> None:
        """Starts the worker of a server that is called, or waits for one that is starting.

        Raises:
            CorralError: as for `bring_up`.
        """
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
            needed = self.needed([supervisor])
            more = idle_count(needed)
            if taken + more > limit:
                reason = f"max_concurrent_processes = {limit} is reached"
                supervisor.send(state_machine.Want(reason))
                self._no_room.append(supervisor)
                self._bus.publish(
                    "limit.processes",
                    agent=supervisor.spec.name,
                    worker=supervisor.id,
                    reason=reason,
                )
            else:
                taken += more
                self.begin(needed)

    def fill_room(self) -> None:
        """Starts what found no room before, as far as there is some now."""
        registry = self._registry
        while self._no_room and not registry.draining and self._emergency.in_force is None:
            supervisor = self._no_room[0]
            if supervisor.worker.waits and not supervisor.takes_room:
                needed = self.needed([supervisor])
                if registry.active() + idle_count(needed) > self._limit:
                    return
                self._no_room.remove(supervisor)
                self.begin(needed)
            else:  # it was started, stopped or removed
                self._no_room.remove(supervisor)

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
            names = ", ".join(n for n in agent.spec.requires if not agents[n].is_up)
            if names:
                supervisor.start_after(self._until_required(agent), f"waits for {names}")
            else:
                supervisor.job.cancel()
                supervisor.send(state_machine.Start())
            supervisor.has_room = False  # it has taken it

    @property
    def _limit(self) -> int:
        return self._registry.config.process.max_concurrent_processes

    # -- waiting

    def last_exits(self) -> dict[str, LastExit | None]:
        """Returns the last exit of every worker, by id."""
        return {each.id: each.worker.last_exit for each in self._registry.all_supervisors()}

    async def until_up(self, supervisors: Iterable[WorkerSupervisor], before: Exits) -> None:
        """Waits until workers and what they require are up, or one has failed since `before`.

        Raises:
            SpawnFailed, Timeout, Conflict: one is not coming up.
        """
        for supervisor in supervisors:
            await self.until(supervisor, has_settled(before.get(supervisor.id)), before)
            if supervisor.worker.state not in UP and not self._registry.is_scaled_away(supervisor):
                raise not_up(supervisor.worker)

    async def until(
        self, supervisor: WorkerSupervisor, done: Callable[[Worker], bool], before: Exits
    ) -> None:
        """Waits for a worker that may wait for others, as long as those are coming up or are up.

        Raises:
            SpawnFailed, Timeout, Conflict: an agent that it requires is not coming up.
        """
        agent = self._registry.agents.get(supervisor.spec.name)
        while not done(supervisor.worker):
            if agent is None or not supervisor.worker.waits:
                await supervisor.until(lambda worker: done(worker) or worker.waits)
                continue
            required = self._registry.required(agent)
            await self.until_up(required, before)
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(each.until(is_down)) for each in required]
                changes = supervisor.until(lambda worker: done(worker) or not worker.waits)
                waits.append(group.create_task(changes))
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in waits:
                    each.cancel()

    async def _until_required(self, agent: Agent) -> None:
        for supervisor in self._registry.required(agent):
            await supervisor.until(lambda worker: worker.state in UP)


def idle_count(supervisors: Iterable[WorkerSupervisor]) -> int:
    """Counts the workers that have no process, and would take room if they were started."""
    return len([each for each in supervisors if not each.takes_room])
