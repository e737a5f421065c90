"""The agents and MCP servers that there are, and what people do with their workers.

Start, stop, pause and the rest are events for the lifecycle, which puts them in order by itself, so they
need no lock: each is sent in one go, and the last one wins. What requires others is started when they
are Ready, and stopped before them; where that has to be waited for, whatever is asked meanwhile
takes it back. The limit of processes is checked, and the room taken, without anything in between.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from ...worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
    Timeout,
)
from ..config.spec import Config
from ..lifecycle import state_machine
from ..lifecycle.state_machine import UP, State, Worker
from ..process.launcher_client import Exit
from ..supervision.worker_supervisor import Shared, WorkerSupervisor, utc_now
from .agent import Agent, has_range, not_paused, not_up, users, waves
from .await_state import (
    can_pause,
    has_ended,
    has_moved_on,
    has_settled,
    is_down,
    is_gone,
    is_up_after,
    last_exit_until,
    needs_a_start,
    rests,
)
from .registry import EmergencyStop, Registry

Exits: TypeAlias = Mapping[str, state_machine.LastExit | None]
"""Last exits by worker id."""

STOP_MARGIN_S = 30.0
"""Beyond the grace period: a stop that takes longer meets a process that the kernel cannot end."""

BRAKE_S = 2.0
"""How long an emergency stop waits for the store: a disk that hangs must not keep its answer."""


logger = logging.getLogger(__name__)


class Running:
    """The agents and servers of one daemon, by name."""

    def __init__(self, shared: Shared, config: Config) -> None:
        self.shared = shared
        self.config = config
        self.agents: dict[str, Agent] = {}
        self.draining = False
        self.emergency_stop: EmergencyStop | None = None
        """The emergency stop that is in force."""
        self._roster = Registry(shared.store)
        self._braking = asyncio.Lock()
        self._no_room: list[WorkerSupervisor] = []
        self._leaving: set[WorkerSupervisor] = set()

    # -- who there is

    def of(self, name: str) -> Agent:
        """The agent or server of that name.

        Raises:
            NotFound: there is none.
        """
        agent = self.agents.get(name)
        if agent is None:
            raise self.unknown("agent", name)
        return agent

    def unknown(self, what: str, name: str) -> NotFound:
        """The refusal of a name that nobody has; `what` says who was looked for."""
        return NotFound(f'cannot find {what} "{name}"', name=name, known=sorted(self.agents))

    def supervisors(self, name: str) -> list[WorkerSupervisor]:
        """All supervisors of an agent, or the one of a worker id.

        Raises:
            NotFound: the name is neither.
        """
        if name in self.agents:
            return self.agents[name].supervisors
        found = self._supervisor_of(name)
        if found is not None:
            return [found]
        raise self.unknown("agent, MCP server or worker", name)

    def all_supervisors(self) -> list[WorkerSupervisor]:
        """Every supervisor, in the order of the configuration."""
        return [supervisor for agent in self.agents.values() for supervisor in agent.supervisors]

    def selected(self, names: Sequence[str], everything: bool) -> list[WorkerSupervisor]:
        """The supervisors that a command names, each once.

        Raises:
            NotFound: a name is unknown.
            InvalidParams: nothing is named, or both names and all.
        """
        if everything == bool(names):
            raise InvalidParams(
                "cannot tell whom: give names, or all", key="names", value=list(names)
            )
        if everything:
            return self.all_supervisors()
        return list(
            dict.fromkeys(supervisor for name in names for supervisor in self.supervisors(name))
        )

    def _supervisor_of(self, worker_id: str) -> WorkerSupervisor | None:
        name, _, number = worker_id.rpartition("-")
        agent = self.agents.get(name)
        if agent is None or not number.isdecimal() or int(number) >= len(agent.supervisors):
            return None
        supervisor = agent.supervisors[int(number)]  # they stand in the order of their numbers
        return supervisor if supervisor.id == worker_id else None

    # -- reports of the launcher

    def exited(self, report: Exit) -> None:
        """Hands the death of a leader to its supervisor."""
        supervisor = self._supervisor_of(report.unit.rpartition("#")[0])
        if supervisor is not None:
            supervisor.exited(report)

    def emptied(self, unit: str) -> None:
        """Hands the end of a tree to its supervisor."""
        supervisor = self._supervisor_of(unit.rpartition("#")[0])
        if supervisor is not None:
            supervisor.emptied(unit)

    # -- room

    def active(self) -> int:
        """How many workers and servers have, or are about to have, processes."""
        return sum(supervisor.takes_room for supervisor in self.all_supervisors())

    def check_capacity(self, more: int) -> None:
        """Refuses to start more processes than the daemon may have.

        Raises:
            ResourceLimitExceeded: with `limit` and `value`.
        """
        limit = self.config.process.max_concurrent_processes
        active = self.active() if more else 0
        if active + more > limit:
            raise ResourceLimitExceeded(
                f"cannot start {more} more processes: {active} of"
                f" max_concurrent_processes = {limit} are in use",
                limit="max_concurrent_processes",
                value=active + more,
            )

    def fill_room(self) -> None:
        """Starts what found no room at boot, as far as there is some now."""
        while self._no_room and not self.draining and self.emergency_stop is None:
            supervisor = self._no_room[0]
            if supervisor.worker.waits and not supervisor.takes_room:
                needed = self._needed([supervisor])
                limit = self.config.process.max_concurrent_processes
                if self.active() + _idle(needed) > limit:
                    return
                self._no_room.remove(supervisor)
                self._begin(needed)
            else:  # it was started, stopped or removed
                self._no_room.remove(supervisor)

    def _start_as_room_allows(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """What starts by itself: what finds no room waits for it, and says so."""
        limit = self.config.process.max_concurrent_processes
        taken = self.active()
        for supervisor in supervisors:
            needed = self._needed([supervisor])
            more = _idle(needed)
            if taken + more > limit:
                reason = f"max_concurrent_processes = {limit} is reached"
                supervisor.send(state_machine.Want(reason))
                self._no_room.append(supervisor)
                self.shared.bus.publish(
                    "limit.processes",
                    agent=supervisor.spec.name,
                    worker=supervisor.id,
                    reason=reason,
                )
            else:
                taken += more
                self._begin(needed)

    # -- starting

    async def start(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """Starts workers and what they require, and waits until they are up; ends an emergency stop.

        Whoever idleness takes away meanwhile, of an agent with a range, is neither started nor missed.

        Raises:
            SpawnFailed: one did not come up; `data` has `result`.
            Timeout: one was not ready in time.
            Conflict: one is being removed, or is paused before it was ready.
            ResourceLimitExceeded: they are too many; none is started.
        """
        supervisors = [k for k in supervisors if not self._is_taken_away(k)] or supervisors
        self._startable(supervisors)
        await self._release_brake()
        await self.bring_up(supervisors, wait=wait)

    async def bring_up(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """As `start`, for whoever may not end an emergency stop.

        Raises:
            Conflict: an emergency stop is in force.
            CorralError: as for `start`.
        """
        self.check_brake("start anything")
        needed = self._startable(supervisors)
        before = {
            supervisor.id: supervisor.worker.last_exit for supervisor in self.all_supervisors()
        }
        self._begin(needed)
        if wait:
            await self._until_up(supervisors, before)

    def check_may_begin(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Refuses what `bring_up` would refuse.

        Raises:
            CorralError: as for `bring_up`.
        """
        self.check_brake("start anything")
        self._startable(supervisors)

    def let_grow(self, names: Sequence[str], everything: bool) -> None:
        """Somebody starts these agents: those that have no worker now have them started when they are scaled up."""
        for name, agent in self.agents.items():
            if everything or name in names:
                agent.held = False

    def is_to_go(self, supervisor: WorkerSupervisor) -> bool:
        """Whether a worker is being added or removed, or was removed: nothing starts it now."""
        return supervisor in self._leaving or self._supervisor_of(supervisor.id) is not supervisor

    def _is_taken_away(self, supervisor: WorkerSupervisor) -> bool:
        return has_range(supervisor.spec) and self.is_to_go(supervisor)

    async def call_up(self, supervisor: WorkerSupervisor) -> None:
        """Starts the worker of a server that is called, or waits for one that is on its way."""
        worker = supervisor.worker
        last = worker.last_exit
        if worker.state is State.TERMINATED and last is not None and last.result == "restart-limit":
            raise not_up(worker)
        if worker.wanted and not rests(worker):
            await self._until_up([supervisor], {supervisor.id: last})
        else:
            await self.bring_up([supervisor])

    def start_soon(self, supervisor: WorkerSupervisor) -> None:
        """Starts a worker beside others of its server, if there is room for it; waits for nothing."""
        try:
            self.check_brake("start anything")
            self._begin(self._startable([supervisor]))
        except CorralError as error:
            logger.info("%s is not started: %s", supervisor.id, error)

    def start_by_itself(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Starts workers that nobody waits for; what finds no room waits for it. Not while everything is to end."""
        if self.emergency_stop is None and not self.draining:
            self._start_as_room_allows(k for k in supervisors if not self.is_to_go(k))

    def check_may_start(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Refuses to start anything while the daemon stops, and whatever comes or goes.

        Raises:
            ShuttingDown, Conflict, NotFound: it is so.
        """
        if self.draining:
            raise ShuttingDown("cannot start anything: the daemon is stopping")
        for supervisor in supervisors:
            if self._supervisor_of(supervisor.id) is not supervisor:
                raise NotFound(
                    f'cannot start "{supervisor.id}": it was removed', name=supervisor.id
                )
            if supervisor in self._leaving:
                raise Conflict(
                    f'cannot start "{supervisor.id}": it is being added or removed',
                    worker=supervisor.id,
                )

    def _startable(self, supervisors: Iterable[WorkerSupervisor]) -> list[WorkerSupervisor]:
        """The supervisors after those that have to be started for them, if all of them may be.

        Raises:
            CorralError: as for `start`.
        """
        self.check_may_start(supervisors)
        needed = self._needed(supervisors)
        self.check_may_start(needed)
        self.check_capacity(_idle(needed))
        return needed

    def _needed(self, supervisors: Iterable[WorkerSupervisor]) -> list[WorkerSupervisor]:
        """The supervisors after those that have to be started for them, each once."""
        found: dict[WorkerSupervisor, None] = {}
        seen = set[str]()

        def add(agent: Agent, chosen: Iterable[WorkerSupervisor]) -> None:
            if agent.name not in seen:
                seen.add(agent.name)
                for required in (self.agents[name] for name in agent.spec.requires):
                    add(required, [k for k in required.supervisors if needs_a_start(k)])
            found.update(dict.fromkeys(chosen))

        for supervisor in supervisors:
            add(self.agents[supervisor.spec.name], [supervisor])
        return list(found)

    def _begin(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Starts each, those that require others when they are up."""
        for supervisor in supervisors:
            if supervisor in self._leaving:
                continue  # whoever requires it waits for the next of its name
            agent = self.agents[supervisor.spec.name]
            agent.held = False
            names = ", ".join(n for n in agent.spec.requires if not self.agents[n].is_up)
            if names:
                supervisor.start_after(self._until_required(agent), f"waits for {names}")
            else:
                supervisor.forget()
                supervisor.send(state_machine.Start())
            supervisor.has_room = False  # it has taken it

    def _required(self, agent: Agent) -> list[WorkerSupervisor]:
        found = filter(None, map(self.agents.get, agent.spec.requires))  # one may be gone by now
        return [supervisor for each in found for supervisor in each.supervisors]

    async def _until_required(self, agent: Agent) -> None:
        for supervisor in self._required(agent):
            await supervisor.until(lambda worker: worker.state in UP)

    async def _until_up(self, supervisors: Iterable[WorkerSupervisor], before: Exits) -> None:
        """Waits until workers and what they require are up, or one has failed since `before`.

        Raises:
            SpawnFailed, Timeout, Conflict: one is not coming up.
        """
        for supervisor in supervisors:
            await self._until(supervisor, has_settled(before.get(supervisor.id)), before)
            if supervisor.worker.state not in UP and not self._is_taken_away(supervisor):
                raise not_up(supervisor.worker)

    async def _until(
        self, supervisor: WorkerSupervisor, done: Callable[[Worker], bool], before: Exits
    ) -> None:
        """Waits for a worker, which may wait for others: as long as those are coming up, or are up.

        Raises:
            SpawnFailed, Timeout, Conflict: what it waits for is not coming up.
        """
        agent = self.agents.get(supervisor.spec.name)
        while not done(supervisor.worker):
            if agent is None or not supervisor.worker.waits:
                await supervisor.until(lambda worker: done(worker) or worker.waits)
                continue
            required = self._required(agent)
            await self._until_up(required, before)
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(each.until(is_down)) for each in required]
                changes = supervisor.until(lambda worker: done(worker) or not worker.waits)
                waits.append(group.create_task(changes))
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in waits:
                    each.cancel()

    # -- stopping

    async def stop(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """Stops workers, at once but for those that others of them require, and waits until nothing is left.

        Raises:
            Timeout: something survives SIGKILL; the killing goes on.
        """
        chosen, using = set(supervisors), users(supervisors)
        wholly = {
            name
            for name in {supervisor.spec.name for supervisor in supervisors}
            if name in self.agents and chosen.issuperset(self.agents[name].supervisors)
        }
        for supervisor in supervisors:
            after = [k for k in using.get(supervisor.spec.name, ()) if k.worker.tree]
            if after:
                stop = partial(self._stop, supervisor, wholly)
                supervisor.do_after(self._until_each_has_ended(after), stop, ends=True)
            else:
                self._stop(supervisor, wholly)
        if wait:
            await self.until_gone(supervisors)

    def _stop(self, supervisor: WorkerSupervisor, wholly: set[str]) -> None:
        supervisor.forget()
        agent = self.agents.get(supervisor.spec.name)
        if agent is not None and agent.name in wholly:
            agent.held = True  # one of several workers leaves the others to be called
        supervisor.send(state_machine.Stop())

    async def _until_each_has_ended(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Waits for the end of the lives that they have now; what cannot be ended holds up nobody."""
        for supervisor in supervisors:
            try:
                async with asyncio.timeout(_patience_s([supervisor])):
                    await supervisor.until(has_ended(supervisor.worker.incarnation))
            except TimeoutError:
                continue

    async def until_gone(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Waits until nothing is left of workers that are being stopped, or somebody starts them again.

        Raises:
            Timeout: something survives SIGKILL; the killing goes on.
        """
        stages = sum(
            1
            for _ in waves(
                {supervisor.spec.name: supervisor.spec for supervisor in supervisors}.values()
            )
        )
        try:
            async with asyncio.timeout(stages * _patience_s(supervisors)):
                for supervisor in supervisors:
                    await supervisor.until(is_gone(supervisor))
        except TimeoutError:
            left = [supervisor.id for supervisor in supervisors if supervisor.worker.tree]
            raise Timeout(
                f"cannot end {', '.join(left)}: processes survive SIGKILL", workers=left
            ) from None
        await self.shared.zygotes.until_ended({supervisor.spec.name for supervisor in supervisors})

    async def restart(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """Ends workers and starts a new incarnation of each; what requires others of them ends first and starts last.

        Raises:
            SpawnFailed, Timeout, Conflict, ResourceLimitExceeded: as for start.
        """
        self.check_brake("start anything")
        self._startable(supervisors)
        numbers = {supervisor.id: supervisor.worker.incarnation for supervisor in supervisors}
        supervisors = await self._with_new_sources(supervisors)
        left = [
            supervisor
            for supervisor in supervisors
            if not self._has_begun_anew(supervisor, numbers)
        ]
        needed = self._startable(supervisors)
        exits = {
            supervisor.id: supervisor.worker.last_exit for supervisor in self.all_supervisors()
        }
        chosen = set(supervisors)
        self._begin(supervisor for supervisor in needed if supervisor not in chosen)
        self._renew_each(left, "asked to restart")
        if not wait:
            return
        # One may have failed again while another was still ending: that is not its exit from before.
        for supervisor in self._in_order(supervisors):
            await self._until(supervisor, has_moved_on(supervisor, numbers[supervisor.id]), exits)
            exits[supervisor.id] = last_exit_until(supervisor, numbers[supervisor.id])
            await self._until_up([supervisor], exits)

    async def _with_new_sources(
        self, supervisors: Sequence[WorkerSupervisor]
    ) -> list[WorkerSupervisor]:
        """Those of the supervisors that nobody has stopped meanwhile, once what has changed of their sources is read.

        Raises:
            SpawnFailed: it cannot be imported; they go on as they are.
        """
        wanted = {supervisor for supervisor in supervisors if supervisor.worker.wanted}
        names = list(dict.fromkeys(supervisor.spec.name for supervisor in supervisors))
        await self.shared.zygotes.check_sources(names)
        await self.shared.zygotes.settled(names)
        return [
            supervisor
            for supervisor in supervisors
            if supervisor.worker.wanted or supervisor not in wanted
        ]

    def _has_begun_anew(self, supervisor: WorkerSupervisor, numbers: Mapping[str, int]) -> bool:
        """Whether it was replaced because of its new sources, before it was its turn to be restarted."""
        life, newest = supervisor.life, self.shared.zygotes.current(supervisor.spec.name)
        is_new = life is not None and newest is not None and life.parent is newest
        return is_new and supervisor.worker.incarnation > numbers[supervisor.id]

    def _renew_each(self, supervisors: Sequence[WorkerSupervisor], reason: str) -> dict[str, int]:
        """Restarts of several, as `restart` says; the numbers of the lives that end, by worker id."""
        numbers = {supervisor.id: supervisor.worker.incarnation for supervisor in supervisors}
        using = users(supervisors)
        for supervisor in supervisors:
            self.agents[supervisor.spec.name].held = False
            after = [k for k in using.get(supervisor.spec.name, ()) if k.worker.tree]
            again = partial(self._renew, supervisor, numbers, reason)
            if after:
                supervisor.do_after(self._until_each_has_ended(after), again)
            else:
                again()
        return numbers

    def _renew(self, supervisor: WorkerSupervisor, numbers: Mapping[str, int], reason: str) -> None:
        """One restart among others: what requires one of those starts when that one is up again."""
        supervisor.forget()
        agent = self.agents.get(supervisor.spec.name)
        if agent is None:
            return  # it was removed meanwhile
        required = self._required(agent)
        if all(k.id not in numbers and k.worker.state in UP for k in required):
            supervisor.send(state_machine.Restart(reason))
            return
        supervisor.send(state_machine.Stop(reason=reason))
        names = ", ".join(agent.spec.requires)
        supervisor.start_after(_until_up_after(required, numbers), f"waits for {names}")

    def _in_order(self, supervisors: Iterable[WorkerSupervisor]) -> list[WorkerSupervisor]:
        specs = {supervisor.spec.name: supervisor.spec for supervisor in supervisors}
        place = {name: n for n, wave in enumerate(waves(specs.values())) for name in wave}
        return sorted(supervisors, key=lambda supervisor: place[supervisor.spec.name])

    def reset(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Forgets failures; what is wanted and has given up is started, after what it requires.

        Raises:
            ResourceLimitExceeded: that would be too many; nothing is changed.
            ShuttingDown: the daemon is stopping.
        """
        self.check_may_start(())
        needed = self._needed(k for k in supervisors if k.worker.wanted and rests(k.worker))
        self.check_capacity(_idle(needed))
        self._begin(needed)
        for supervisor in supervisors:
            self.shared.bus.publish("agent.reset", agent=supervisor.spec.name, worker=supervisor.id)
            supervisor.send(state_machine.Reset())

    # -- standing still

    async def pause(self, names: Sequence[str], everything: bool) -> None:
        """Freezes workers with all their processes until they are resumed, stopped or die; again is harmless.

        With `everything`, or for an agent of several, those that do not run are passed over.

        Raises:
            Conflict: a name has no worker that runs; nobody is paused.
        """
        chosen = self.selected(names, everything)
        for name in names:
            workers = [supervisor.worker for supervisor in self.supervisors(name)]
            if not any(map(can_pause, workers)):
                raise not_paused(name, workers)
        for supervisor in chosen:
            supervisor.send(state_machine.Pause())
        try:
            await self.shared.launcher.listed()  # by this answer it has heard of them
        except Timeout:
            return  # it is being replaced, and they with it

    def resume(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Lets workers run again; what is not paused stays as it is."""
        for supervisor in supervisors:
            supervisor.send(state_machine.Resume())

    # -- emergencies

    def check_brake(self, what: str) -> None:
        """Refuses work while an emergency stop is in force; `what` is what cannot be done.

        Raises:
            Conflict: it is.
        """
        if self.emergency_stop is not None:
            raise Conflict(
                f"cannot {what}: an emergency stop is in force; corral start NAME, or --all",
                reason="emergency-stop",
                **{"at": self.emergency_stop.at, "by": self.emergency_stop.by},
            )

    def check_may_call(self, what: str) -> None:
        """Refuses calls of servers that would be started for them; `what` as for `check_brake`.

        Raises:
            Conflict, ShuttingDown: an emergency stop is in force, or the daemon stops.
        """
        self.check_brake(what)
        if self.draining:
            raise ShuttingDown(f"cannot {what}: the daemon is stopping")

    async def halt(self, by: str, stop_tasks: Callable[[], None]) -> int:
        """Kills every worker and server without grace, and starts none until `start`; how many there were.

        Nothing is waited for before they are killed. `stop_tasks` is called in between, so that nobody
        takes their deaths for failures.

        Raises:
            Overloaded: it is done, but the store takes nothing now: a new daemon would not know of it.
            Timeout: something survives SIGKILL; the killing goes on.
        """
        emergency_stop = EmergencyStop(utc_now(), by)
        self.emergency_stop = emergency_stop
        self._no_room.clear()
        stop_tasks()
        supervisors = self.all_supervisors()
        killed = sum(supervisor.worker.tree for supervisor in supervisors)
        for agent in self.agents.values():
            agent.held = True
        for supervisor in supervisors:
            supervisor.forget()
            supervisor.send(state_machine.Halt("an emergency stop"))
        self.shared.bus.publish("daemon.emergency_stop", by=by, workers=killed)
        try:
            async with asyncio.timeout(BRAKE_S), self._braking:
                await self._roster.pull(emergency_stop)
        except TimeoutError:
            raise Overloaded(
                "cannot keep the emergency stop for a new daemon: the store has not answered; all are killed",
                reason="stalled",
                retry_after_s=1.0,
            ) from None
        await self.until_gone(supervisors)
        return killed

    async def _release_brake(self) -> None:
        """The first start after an emergency stop; a stop that is still going on is waited for."""
        async with self._braking:
            emergency_stop = self.emergency_stop
            if emergency_stop is None:
                return
            await self._roster.release()
            if self.emergency_stop is not emergency_stop:
                self.check_brake("start anything")  # another has come meanwhile
            self.emergency_stop = None
        self.shared.bus.publish("daemon.emergency_over")


def _idle(supervisors: Iterable[WorkerSupervisor]) -> int:
    return sum(not supervisor.takes_room for supervisor in supervisors)


def _patience_s(supervisors: Iterable[WorkerSupervisor]) -> float:
    grace_s = max((k.spec.process.shutdown_grace_period for k in supervisors), default=0.0)
    return grace_s + STOP_MARGIN_S


async def _until_up_after(
    supervisors: Iterable[WorkerSupervisor], numbers: Mapping[str, int]
) -> None:
    """Waits until each is up, those with a number in a later life than that."""
    for supervisor in supervisors:
        await supervisor.until(is_up_after(numbers.get(supervisor.id, -1)))
