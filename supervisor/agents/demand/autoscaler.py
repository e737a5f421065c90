"""Gives agents with `instances = { min, max }` as many workers as their tasks need; `policy` decides when.

An agent is checked when its workers or its queue have changed, and when time alone may decide; never in between. The
worker that is removed is the one with the highest number: it is cordoned, and goes when it has no task.
"""

import asyncio
import logging
import math

from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Config
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import UP, State, Worker
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import CorralError, NotFound, ShuttingDown

from ..membership.agents import Agents
from ..running.agent import Agent, has_range
from . import sizing as policy
from .sizing import Bounds, Decision, Load, Scaling

logger = logging.getLogger(__name__)


class Queues:
    """The waiting tasks of agents, as `tasks.run.dispatcher` has them; this one has none."""

    def pressure(self, agent: Agent) -> tuple[int, int]:
        """Returns the number of tasks that one more worker could begin, and of those that wait for any worker."""
        return 0, 0

    def note(self, supervisor: WorkerSupervisor) -> None:
        """Notes that a worker may be able to begin a task, or one more, or no longer."""

    def dispatch(self, name: str) -> None:
        """Gives waiting tasks to the free workers of an agent."""


class _Scaled:
    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.scaling = Scaling()
        self.timer: asyncio.TimerHandle | None = None
        self.decision: Decision | None = None
        """The one that is being carried out: until then nothing else is decided."""
        self.is_resting = True
        """It was not checked: its earlier load is no reason for anything."""
        self.is_overruled = False
        """Its number was set by hand since the decision."""
        self.is_cramped = False
        """It found no room for another process, and none has ended since."""

    def cancel_timer(self) -> None:
        """Cancels the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Autoscaler:
    """Scales the agents of one daemon within their ranges."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._queues = Queues()
        self._loop = asyncio.get_running_loop()
        self._scaled: dict[str, _Scaled] = {}
        self._pending: set[str] = set()
        self._due: asyncio.Queue[_Scaled] = asyncio.Queue()  # of each agent one decision at a time

    async def run(self) -> None:
        """Carries out what is decided, until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    scaled = await self._due.get()
                    group.create_task(self._carry_out(scaled))
        finally:
            for scaled in self._scaled.values():
                scaled.cancel_timer()

    def scale_by(self, queues: Queues) -> None:
        """Scales by the tasks that wait."""
        self._queues = queues

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Checks the agent of a worker that has changed its state, or has begun or ended a task."""
        spec = supervisor.worker.spec
        # One that is cordoned was to go; its range may have been removed meanwhile.
        if has_range(spec) or supervisor.is_cordoned(Unschedulable.SURPLUS):
            self.check_soon(spec.name)
        if supervisor.worker.state is State.TERMINATED:
            self._check_cramped()

    def reloaded(self, _: Config) -> None:
        """Checks agents without room again: the new configuration may allow more processes."""
        self._check_cramped()

    def _check_cramped(self) -> None:
        for scaled in self._scaled.values():
            if scaled.is_cramped:
                scaled.is_cramped = False
                self.check_soon(scaled.agent.name)

    def check_soon(self, name: str) -> None:
        """Checks an agent in the next turn of the loop, when all present changes have happened."""
        if name in self._pending:
            return
        agent = self._agents.agents.get(name)
        if agent is None or not (has_range(agent.spec) or name in self._scaled):
            return
        if not self._pending:
            self._loop.call_soon(self._check_pending)
        self._pending.add(name)

    def resized(self, agent: Agent) -> None:
        """Continues from a number of workers that was set by hand."""
        if has_range(agent.spec):
            scaled = self._of(agent)
            scaled.is_overruled = True
            scaled.scaling = policy.resized(scaled.scaling, len(agent.supervisors), self._loop.time())
            self.check_soon(agent.name)

    def _of(self, agent: Agent) -> _Scaled:
        found = self._scaled.get(agent.name)
        if found is None or found.agent is not agent:
            if found is not None:
                found.cancel_timer()
            found = self._scaled[agent.name] = _Scaled(agent)
            for name in [name for name in self._scaled if name not in self._agents.agents]:
                self._scaled.pop(name).cancel_timer()
        return found

    def _check_pending(self) -> None:
        names, self._pending = self._pending, set()
        for name in names:
            agent = self._agents.agents.get(name)
            if agent is not None:
                self._check(self._of(agent))

    def _check(self, scaled: _Scaled) -> None:
        agent = scaled.agent
        scaled.cancel_timer()
        if scaled.decision is not None or self._agents.agents.get(agent.name) is not agent:
            return
        if not self._may_scale(agent):
            self._retain(agent)
            scaled.is_resting = True
            if not has_range(agent.spec):
                del self._scaled[agent.name]
            return
        bounds, now = policy.bounds_of(agent.spec), self._loop.time()
        if scaled.is_resting:
            scaled.is_resting = False
            scaled.scaling = policy.resized(Scaling(), len(agent.supervisors), now)
        load = self._load(scaled, bounds)
        scaled.scaling, decision = policy.decide(scaled.scaling, bounds, load, now)
        if decision is not None and decision.instances < load.instances:
            load = replace(load, unable=sum(_is_unable(k.worker) for k in agent.supervisors[:-1]))
            scaled.scaling, decision = policy.decide(scaled.scaling, bounds, load, now)
        scaled.is_cramped = scaled.scaling.reported == "room" and load.room < 1
        if decision is None:
            self._retain(agent)
            due = policy.deadline(scaled.scaling, bounds, load)
            if due is not None:
                scaled.timer = self._loop.call_at(due, self._check, scaled)
        elif decision.instances == load.instances:
            self._publish_held_back(scaled, decision.reason)
        elif decision.instances > load.instances or self._is_free(agent.supervisors[-1]):
            scaled.decision = decision
            self._due.put_nowait(scaled)

    def _may_scale(self, agent: Agent) -> bool:
        """Returns True if an agent is in normal operation: one that is stopped, hibernated or paused has no load."""
        if self._agents.draining or self._agents.emergency_stop is not None or not has_range(agent.spec):
            return False
        if agent.held or not agent.wanted or agent.is_paused:
            return False
        if any(supervisor.is_cordoned(Unschedulable.HIBERNATED) for supervisor in agent.supervisors):
            return False
        # Else it is about to hibernate.
        return any(k.worker.wanted and not k.is_cordoned(Unschedulable.HIBERNATING) for k in agent.supervisors)

    def _load(self, scaled: _Scaled, bounds: Bounds) -> Load:
        agent = scaled.agent
        ready, offered = self._queues.pressure(agent)
        running = sum(len(supervisor.running) for supervisor in agent.supervisors)
        load = Load(len(agent.supervisors), 0, 0, running, ready, offered)
        if not ready:
            return load  # with each task of an agent that may have a thousand workers
        room_of = (bounds.capacity - len(k.running) for k in agent.supervisors if k.takes_tasks)
        free = sum(max(0, room) for room in room_of)
        wanted = [k.worker for k in agent.supervisors if k.worker.wanted and k.worker.state not in UP]
        failing = [worker for worker in wanted if _is_failing(worker)]
        room = math.inf
        if not free and len(agent.supervisors) < bounds.maximum:
            room = 0 if scaled.is_cramped else self._room()
        why = f"{failing[0].id} is {failing[0].state}: {failing[0].reason}" if failing else ""
        return replace(load, free=free, coming=len(wanted) - len(failing), failing=why, room=room)

    def _room(self) -> int:
        return self._agents.config.process.max_concurrent_processes - self._agents.registry.active()

    def _is_free(self, supervisor: WorkerSupervisor) -> bool:
        """Cordons the last worker; returns True if it has no task, and is neither hibernating nor paused."""
        if supervisor.is_cordoned(Unschedulable.HIBERNATING) or supervisor.worker.paused_at is not None:
            return False
        supervisor.cordon(Unschedulable.SURPLUS)
        return not supervisor.running

    def _retain(self, agent: Agent) -> None:
        for supervisor in agent.supervisors:
            if supervisor.is_cordoned(Unschedulable.SURPLUS):
                supervisor.uncordon(Unschedulable.SURPLUS)
                self._queues.note(supervisor)
                self._queues.dispatch(agent.name)

    def _publish_held_back(self, scaled: _Scaled, reason: str) -> None:
        name, instances = scaled.agent.name, len(scaled.agent.supervisors)
        self._agents.shared.bus.publish(
            "agent.scaled", agent=name, instances=instances, before=instances, reason=reason
        )
        level = logging.INFO if scaled.scaling.reported == "maximum" else logging.WARNING
        logger.log(level, "%s: %s", name, reason, extra={"fields": {"agent": name}})

    async def _carry_out(self, scaled: _Scaled) -> None:
        agent, decision = scaled.agent, scaled.decision
        assert decision is not None, "what is due was decided"
        before, instances = len(agent.supervisors), decision.instances
        scaled.is_overruled = False

        def is_right() -> bool:
            if scaled.is_overruled or len(agent.supervisors) != before:
                return False  # its number was set by hand while this waited
            return instances > before or not self._queues.pressure(agent)[1]

        try:
            if await self._agents.replicas.adjust(agent, instances, decision.reason, is_right):
                scaled.scaling = policy.carried_out(scaled.scaling)
        except CorralError as error:
            scaled.scaling, is_new = policy.held_back(scaled.scaling)
            is_over = isinstance(error, NotFound | ShuttingDown)  # its agent is gone, or the daemon
            if is_new and not is_over:
                self._publish_held_back(scaled, error.message)
        except Exception:  # a defect of ours must not end the scaling of others
            logger.exception("cannot scale %s", agent.name)
        finally:
            scaled.decision = None
            self._retain(agent)
            self.check_soon(agent.name)


def _is_unable(worker: Worker) -> bool:
    return not worker.wanted or (worker.state not in UP and _is_failing(worker))


def _is_failing(worker: Worker) -> bool:
    """Returns True if a wanted worker has given up, or waits for a backoff; False for one that restarts at once."""
    if worker.state is State.TERMINATED:
        return worker.resume_at is None and not worker.waits
    return worker.state is State.INITIAL and worker.deadline is not None
