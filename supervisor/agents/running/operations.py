"""Carries out requests for workers: start, stop, restart, reset, pause, resume, emergency stop.

Each request is an event for the lifecycle, which orders them by itself, so they need no lock: each is sent without
an await in between, and the last one wins. A dependent is stopped before the agents that it requires, and started when they are
Ready; during that wait, any later request for the same worker cancels the wait.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from corral.supervisor.workers.lifecycle import state_machine
from corral.supervisor.workers.supervision.shared import Shared
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Timeout

from .agent import not_paused, users, waves
from .emergency_stop import EmergencyStopSwitch
from .registry import Registry
from .startup import (
    Startup,
    can_pause,
    has_ended,
    has_moved_on,
    idle_counts,
    is_gone,
    is_up_after,
    last_exit_until,
    rests,
)

STOP_MARGIN_S = 30.0
"""Seconds beyond the grace period after which a stop has failed: the kernel cannot end a process."""


class Operations:
    """Carries out requests for workers of one daemon."""

    def __init__(self, shared: Shared, registry: Registry, startup: Startup, emergency: EmergencyStopSwitch) -> None:
        self._shared = shared
        self._zygotes = shared.zygotes
        self._registry = registry
        self._startup = startup
        self._emergency = emergency

    async def start(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """Starts workers and what they require, and waits until they are up; ends an emergency stop. One that is scaled away is not missed."""
        is_scaled_away = self._registry.is_scaled_away
        supervisors = [k for k in supervisors if not is_scaled_away(k)] or supervisors
        if self._emergency.in_force is not None:
            self._startup.startable(supervisors, anew=True)  # a start that is refused does not end it
            await self._emergency.release()
        await self._startup.bring_up(supervisors, wait=wait, anew=True)

    def unhold(self, names: Sequence[str], everything: bool) -> None:
        """Lets calls start these agents again, also the workers that they are given later."""
        for name, agent in self._registry.agents.items():
            if everything or name in names:
                agent.held = False

    async def stop(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """Stops workers, at once but for those that others of them require, and waits until nothing is left."""
        supervisors = self._registry.with_beside(supervisors)
        chosen, using = set(supervisors), users(supervisors)
        wholly = {
            name
            for name in {supervisor.spec.name for supervisor in supervisors}
            if name in self._registry.agents and chosen.issuperset(self._registry.agents[name].supervisors)
        }
        for supervisor in supervisors:
            after = [k for k in using.get(supervisor.spec.name, ()) if k.worker.tree]
            if after:
                stop = partial(self._stop, supervisor, wholly)
                supervisor.job.run_after(self._until_each_has_ended(after), stop, ends=True)
            else:
                self._stop(supervisor, wholly)
        if wait:
            await self.until_gone(supervisors)

    def _stop(self, supervisor: WorkerSupervisor, wholly: set[str]) -> None:
        supervisor.job.cancel()
        agent = self._registry.agents.get(supervisor.spec.name)
        if agent is not None and agent.name in wholly:
            agent.held = True  # one of several workers leaves the others to be called
        supervisor.send(state_machine.Stop())

    async def _until_each_has_ended(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Waits for the end of their present lives; one that cannot be ended does not delay the others."""
        for supervisor in supervisors:
            try:
                async with asyncio.timeout(_patience_s([supervisor])):
                    await supervisor.until(has_ended(supervisor.worker.incarnation))
            except TimeoutError:
                continue

    async def until_gone(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Waits until stopping workers have no processes left, or are started again."""
        stages = sum(1 for _ in waves({supervisor.spec.name: supervisor.spec for supervisor in supervisors}.values()))
        try:
            async with asyncio.timeout(stages * _patience_s(supervisors)):
                for supervisor in supervisors:
                    await supervisor.until(is_gone(supervisor))
        except TimeoutError:
            left = [supervisor.id for supervisor in supervisors if supervisor.worker.tree]
            raise Timeout(f"cannot end {', '.join(left)}: processes survive SIGKILL", workers=left) from None
        await self._zygotes.until_ended({supervisor.spec.name for supervisor in supervisors})

    async def restart(self, supervisors: Sequence[WorkerSupervisor], *, wait: bool = True) -> None:
        """Ends workers and starts a new incarnation of each; dependents end first and start last."""
        self._emergency.check("start anything")
        self._startup.startable(supervisors)
        numbers = {supervisor.id: supervisor.worker.incarnation for supervisor in supervisors}
        supervisors = await self._with_new_sources(supervisors)
        left = [supervisor for supervisor in supervisors if not self._has_begun_anew(supervisor, numbers)]
        needed = self._startup.startable(supervisors)
        exits = self._startup.last_exits()
        chosen = set(supervisors)
        self._startup.begin(supervisor for supervisor in needed if supervisor not in chosen)
        self.renew_each(left, "asked to restart")
        if not wait:
            return
        # One may have failed again while another was still ending: that is not its exit from before.
        for supervisor in self._in_order(supervisors):
            await self._startup.until(supervisor, has_moved_on(supervisor, numbers[supervisor.id]), exits)
            exits[supervisor.id] = last_exit_until(supervisor, numbers[supervisor.id])
            await self._startup.until_up([supervisor], exits)

    async def settled(self, supervisor: WorkerSupervisor, life_before: int) -> None:
        """Waits like a `restart` that another program of the daemon has begun: for what a later life of a worker comes to."""
        await self._startup.until_up([supervisor], {supervisor.id: last_exit_until(supervisor, life_before)})

    async def _with_new_sources(self, supervisors: Sequence[WorkerSupervisor]) -> list[WorkerSupervisor]:
        """Waits for the import of changed sources; returns the supervisors that were not stopped meanwhile."""
        wanted = {supervisor for supervisor in supervisors if supervisor.worker.wanted}
        names = list(dict.fromkeys(supervisor.spec.name for supervisor in supervisors))
        await self._zygotes.check_sources(names)
        await self._zygotes.settled(names)
        return [supervisor for supervisor in supervisors if supervisor.worker.wanted or supervisor not in wanted]

    def _has_begun_anew(self, supervisor: WorkerSupervisor, numbers: Mapping[str, int]) -> bool:
        """Returns True if it was replaced because of its new sources, before its restart."""
        life, newest = supervisor.life, self._zygotes.current(supervisor.spec.name)
        is_new = life is not None and newest is not None and life.parent is newest
        return is_new and supervisor.worker.incarnation > numbers[supervisor.id]

    def renew_each(self, supervisors: Sequence[WorkerSupervisor], reason: str) -> dict[str, int]:
        """Restarts several workers like `restart`; returns the numbers of the ending lives by worker id."""
        numbers = {supervisor.id: supervisor.worker.incarnation for supervisor in supervisors}
        using = users(supervisors)
        for supervisor in supervisors:
            self._registry.agents[supervisor.spec.name].held = False
            after = [k for k in using.get(supervisor.spec.name, ()) if k.worker.tree]
            again = partial(self._renew, supervisor, numbers, reason)
            if after:
                supervisor.job.run_after(self._until_each_has_ended(after), again)
            else:
                again()
        return numbers

    def _renew(self, supervisor: WorkerSupervisor, numbers: Mapping[str, int], reason: str) -> None:
        """Restarts one worker among others: a dependent of one of those starts when that one is up again."""
        supervisor.job.cancel()
        agent = self._registry.agents.get(supervisor.spec.name)
        if agent is None:
            return  # it was removed meanwhile
        required = self._registry.required(agent)
        if all(k.id not in numbers and k.worker.is_satisfied for k in required):
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
        """Clears failures; starts wanted workers that gave up, after the agents that they require."""
        self._startup.check_may_start(())
        needed = self._startup.needed(k for k in supervisors if k.worker.wanted and rests(k.worker))
        self._startup.check_capacity(idle_counts(needed))
        self._startup.begin(needed)
        for supervisor in supervisors:
            self._shared.bus.publish("agent.reset", agent=supervisor.spec.name, worker=supervisor.id)
            supervisor.send(state_machine.Reset())

    async def pause(self, names: Sequence[str], everything: bool) -> None:
        """Freezes workers until they are resumed, stopped or die; with `everything`, or of several, those that do not run are passed over."""
        chosen = self._registry.selected(names, everything)
        for name in names:
            workers = [supervisor.worker for supervisor in self._registry.supervisors(name)]
            if not any(map(can_pause, workers)):
                raise not_paused(name, workers)
        for supervisor in chosen:
            supervisor.send(state_machine.Pause())
        try:
            await self._shared.launcher.listed()  # by this answer it has heard of them
        except Timeout:
            return  # it is being replaced, and they with it

    def resume(self, supervisors: Iterable[WorkerSupervisor]) -> None:
        """Continues paused workers; others are untouched."""
        for supervisor in supervisors:
            supervisor.send(state_machine.Resume())

    async def halt(self, by: str, stop_tasks: Callable[[], None]) -> int:
        """Kills every worker and server without grace, and starts none until `start`; returns how many there were.

        Nothing is waited for before they are killed. `stop_tasks` is called before, so that no task takes the
        death of its worker for a failure.
        """
        emergency_stop = self._emergency.engage(by)
        self._startup.forget_waiting()
        stop_tasks()
        supervisors = self._registry.lives()
        killed = sum(supervisor.worker.tree for supervisor in supervisors)
        for agent in self._registry.agents.values():
            agent.held = True
        for supervisor in supervisors:
            supervisor.job.cancel()
            supervisor.send(state_machine.Halt("an emergency stop"))
        self._shared.bus.publish("daemon.emergency_stop", by=by, workers=killed)
        await self._emergency.store(emergency_stop)
        await self.until_gone(supervisors)
        return killed


def _patience_s(supervisors: Iterable[WorkerSupervisor]) -> float:
    return max((k.spec.process.shutdown_grace_period for k in supervisors), default=0.0) + STOP_MARGIN_S


async def _until_up_after(supervisors: Iterable[WorkerSupervisor], numbers: Mapping[str, int]) -> None:
    for supervisor in supervisors:
        await supervisor.until(is_up_after(numbers.get(supervisor.id, -1)))
