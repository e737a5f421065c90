"""Carries out one change of the workers of an agent or server: performs what `policy` decides, until it is done or taken back.

It guarantees that a former worker ends only when it runs nothing, and that a change which is taken back leaves the former
spec in force. It is looked at again after each change of a worker, and acts only then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle import state_machine
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, UP, LastExit, State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor

from ..running.agent import Agent, Rolling, spec_of
from ..running.running_agents import RunningAgents
from . import policy
from .policy import Former, New, Slot, Smoke, View

FIRST = (State.INITIAL, State.STARTING)
"""States of a worker before it is up."""

SPAWN_TRIES = 3
"""Number of starts that fail for a lack of resources, and are tried again, before the change is taken back."""

REMOVED = "its agent has fewer workers now"
"""Reason of the end of a new worker whose place is removed during the change."""

IN_PLACE_HINT = "if it owns a port or a file, rolling = false ends the former worker first"

Try = Callable[[WorkerSupervisor, Spec], Awaitable[str]]
"""Runs the smoke task of a spec on a worker; returns why it has failed, "" if it has not."""

CHANGED = "its configuration has changed"
"""Reason of the end of a worker that is replaced."""


@dataclass(eq=False)
class Roll:
    """Replaces the workers of one agent.

    `former` is the spec before, `was_added` whether that was added at run time. With `is_resumed` its workers are being
    started for the first time, and are waited for. `share` below 1 is the part of the
    workers that is replaced until the rest is asked for. `settle` is called once with "" or why it was taken back.
    """

    running: RunningAgents
    agent: Agent
    former: Spec
    spec: Spec
    share: float
    attempt: Try
    settle: Callable[["Roll", str], None]
    was_added: bool = False
    is_return: bool = False
    is_resumed: bool = False
    before: int | None = None
    after: int | None = None
    why_revoked: str = ""
    has_settled: bool = False
    is_holding: bool = False
    smoke: Smoke = Smoke.NONE
    why_failed: str = ""
    in_place: dict[WorkerSupervisor, LastExit | None] = field(default_factory=dict[WorkerSupervisor, LastExit | None])
    """Workers that were started anew in their places, and are not known to be sound; with their last exits before."""
    placed: dict[WorkerSupervisor, LastExit | None] = field(default_factory=dict[WorkerSupervisor, LastExit | None])
    """New workers that have their places, with their last exits until then."""
    trying: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        if self.spec.smoke is not None and not self.is_return:
            self.smoke = Smoke.DUE

    def view(self) -> View:
        """Returns all that the next action depends on."""
        limit = self.running.config.process.max_concurrent_processes
        slots = tuple(self._slot(n, each) for n, each in enumerate(self.agent.supervisors))
        return View(
            slots,
            beside=runs_beside(self.spec) and runs_beside(self.former) and self.spec.listen == self.former.listen,
            room=max(0, limit - self.running.registry.active()),
            leaving=len(self.agent.outgoing),
            share=self.share,
            smoke=self.smoke,
            is_revoked=bool(self.why_revoked),
        )

    def _slot(self, number: int, supervisor: WorkerSupervisor) -> Slot:
        if supervisor in self.running.registry.leaving:
            return Slot(number, Former.GONE)
        tasks = work_of(supervisor)
        incoming = self.agent.incoming.get(number)
        if incoming is not None:
            return Slot(number, self._former(supervisor), self._new(incoming, None), tasks)
        if supervisor in self.in_place:
            return Slot(number, Former.GONE, self._new(supervisor, self.in_place[supervisor]))
        if supervisor in self.placed:
            return Slot(number, Former.GONE, self._in_service(supervisor))
        if not self._is_of_former(number, supervisor):
            return Slot(number, Former.GONE, New.SERVING)
        return Slot(number, self._former(supervisor), tasks=tasks)

    def _in_service(self, supervisor: WorkerSupervisor) -> New:
        """Returns whether a new worker that has its place still serves: it may have given up since."""
        worker = supervisor.worker
        last = worker.last_exit
        if last is None or last is self.placed[supervisor] or last.result in ASKED_FOR:
            return New.SERVING
        if not worker.wanted or not rests(supervisor):
            return New.SERVING
        self.why_failed = self.why_failed or _why(supervisor, last.message)
        return New.FAILED

    def _is_of_former(self, number: int, supervisor: WorkerSupervisor) -> bool:
        return "restart" in changed(supervisor.spec, spec_of(self.spec, number)).values()

    def _former(self, supervisor: WorkerSupervisor) -> Former:
        worker = supervisor.worker
        if self.is_resumed and worker.wanted and worker.state in FIRST and worker.last_exit is None:
            return Former.COMING
        if not worker.wanted or worker.waits or supervisor.job.is_to_end:
            return Former.GONE
        if supervisor.is_cordoned(Unschedulable.OUTGOING):
            return Former.DRAINING
        return Former.SERVING if worker.state in UP else Former.DOWN

    def _new(self, supervisor: WorkerSupervisor, before: LastExit | None) -> New:
        worker = supervisor.worker
        reason = failure(supervisor, before)
        if reason:
            self.why_failed = self.why_failed or reason
            return New.FAILED
        if worker.waits:
            return New.SERVING  # its next life is of the new spec, whenever that begins
        is_up = worker.state in UP and worker.paused_at is None
        healths = supervisor.health_monitor.healths
        written = healths if supervisor.spec.health is not None else ()
        announced = [each for each in healths if each.rule.check.way == "worker"]
        is_well = all(each.healthy for each in (*written, *announced))
        return New.SOUND if is_up and is_well else New.COMING

    def look(self) -> None:
        """Does what is due now."""
        if self.has_settled:
            return
        while actions := policy.decide(self._noted(self.view())):
            for action in actions:
                self._perform(action)
            if self.has_settled or isinstance(actions[0], policy.Hold):
                return

    def _noted(self, view: View) -> View:
        states = [slot.new for slot in view.slots]
        left = sum(slot.is_pending or slot.former is Former.DRAINING for slot in view.slots)
        left += sum(s.new in (New.COMING, New.SOUND) for s in view.slots)
        left += sum(s.former is Former.COMING for s in view.slots)
        ready = states.count(New.SERVING)
        self.agent.rolling = Rolling(ready, left, self._words(view.slots), self.before, self.after)
        return view

    def _words(self, slots: Sequence[Slot]) -> str:
        states = [slot.new for slot in slots]
        if self.is_holding:
            return "holds: the rest waits to be asked for"
        if self.smoke is Smoke.RUNNING:
            return "waits for the smoke task"
        if New.COMING in states:
            return "waits for new workers to be up and healthy"
        if any(slot.former is Former.COMING for slot in slots):
            return "waits for the start of the former workers"
        return "waits for former workers to finish"

    def _perform(self, action: policy.Action) -> None:
        if isinstance(action, policy.Begin):
            self._begin(action.number)
        elif isinstance(action, policy.Drain):
            supervisor = self.agent.supervisors[action.number]
            supervisor.cordon(Unschedulable.OUTGOING)
            supervisor.publish_change()
            self._publish("agent.draining", worker=supervisor.id, reason=action.reason)
        elif isinstance(action, policy.Replace):
            self._replace(self.agent.supervisors[action.number])
        elif isinstance(action, policy.Try):
            self._try(action.number)
        elif isinstance(action, policy.Switch):
            self._switch(action.numbers)
        elif isinstance(action, policy.TakeBack):
            self._take_back()
        elif isinstance(action, policy.Hold):
            if not self.is_holding:
                self.is_holding = True
                self._noted(self.view())
                self._publish("agent.holding", workers=self._ids())
        else:
            self._finish()

    def _ids(self) -> list[str]:
        return [supervisor.id for supervisor in self.placed]

    def _begin(self, number: int) -> None:
        supervisor = self.running.replicas.supervisor(self.spec, number)
        supervisor.cordon(Unschedulable.INCOMING)
        self.agent.incoming[number] = supervisor
        if self.spec.kind == "mcp":
            self.running.tools.attach(self.agent, supervisor)
        supervisor.send(state_machine.Start())
        supervisor.health_monitor.hurry()

    def _replace(self, supervisor: WorkerSupervisor) -> None:
        self.in_place[supervisor] = supervisor.worker.last_exit
        supervisor.cordon(Unschedulable.INCOMING)
        supervisor.uncordon(Unschedulable.OUTGOING)
        number = self.agent.supervisors.index(supervisor)
        supervisor.reconfigure(spec_of(self.spec, number))
        supervisor.health_monitor.hurry()
        self._restart(supervisor)

    def _restart(self, supervisor: WorkerSupervisor) -> None:
        if supervisor.takes_room:
            self.running.operations.renew_each([supervisor], CHANGED)
        else:
            self.running.startup.start_by_itself([supervisor])

    def _try(self, number: int) -> None:
        supervisor = self.agent.incoming.get(number) or self.agent.supervisors[number]
        self.smoke = Smoke.RUNNING
        self.trying = asyncio.get_running_loop().create_task(self._smoke(number, supervisor))

    async def _smoke(self, number: int, supervisor: WorkerSupervisor) -> None:
        reason = await self.attempt(supervisor, self.spec)
        if reason and self._is_removed(number):
            self.smoke = Smoke.DUE  # it says nothing about the spec: another worker is tried
        elif reason:
            self.smoke = Smoke.FAILED
            self.why_failed = self.why_failed or f"its smoke task has failed: {reason}"
        else:
            self.smoke = Smoke.PASSED
        self.trying = None
        self.look()

    def _is_removed(self, number: int) -> bool:
        places = self.agent.supervisors
        return number >= len(places) or places[number] in self.running.registry.leaving

    def _switch(self, numbers: tuple[int, ...]) -> None:
        """Gives new workers their places: not an instant is awaited in between, so that no task meets both specs."""
        agent, touched = self.agent, list[WorkerSupervisor]()
        for number in numbers:
            former, new = agent.supervisors[number], agent.incoming.pop(number, None)
            if new is None:
                new = former
                self.in_place.pop(former, None)
            else:
                agent.supervisors[number] = new
                agent.outgoing.append(former)
                new.succeed(former)
                former.job.cancel()
                former.cordon(Unschedulable.OUTGOING)
                touched.append(former)
            new.uncordon(Unschedulable.INCOMING)
            new.health_monitor.hurry(is_due=False)
            self.placed[new] = new.worker.last_exit
            touched.append(new)
        if self.share >= 1.0:
            self._put_in_force()
        self._publish("agent.switched", workers=[agent.supervisors[number].id for number in numbers])
        for supervisor in touched:
            agent.note(supervisor)
        for supervisor in touched:
            supervisor.publish_change()

    def _put_in_force(self) -> None:
        """Puts what belongs to no process in force: the limits of tasks, the tools of a server."""
        agent = self.agent
        if agent.spec is self.spec:
            return
        agent.spec = self.spec
        self.running.zygotes.note(agent)
        if self.spec.kind == "mcp":
            self.running.servers.relist(agent)

    def _finish(self) -> None:
        agent = self.agent
        self._discard_incoming(REMOVED)
        before, agent.spec = agent.spec, self.spec
        for number, supervisor in enumerate(agent.supervisors):
            supervisor.reconfigure(spec_of(self.spec, number))
        self.running.zygotes.note(agent)
        if self.spec.kind == "mcp" and before is not self.spec:
            self.running.servers.relist(agent)
        self._end("")

    def _take_back(self) -> None:
        agent = self.agent
        reason = self.why_revoked or self.why_failed or "a new worker has failed"
        self._discard_incoming(reason)
        agent.spec = self.former
        self.running.zygotes.note(agent)
        self.running.zygotes.restore(self.former)
        for number, supervisor in enumerate(agent.supervisors):
            if supervisor.is_cordoned(Unschedulable.OUTGOING):
                supervisor.uncordon(Unschedulable.OUTGOING)
                supervisor.publish_change()
            if supervisor in self.in_place:
                supervisor.reconfigure(spec_of(self.former, number))
                supervisor.uncordon(Unschedulable.INCOMING)
                supervisor.send(state_machine.Reset())
                self._restart(supervisor)
        if self.former.kind == "mcp":
            self.running.servers.relist(agent)
        self._end(reason)

    def abandon(self, reason: str) -> None:
        """Ends the change without a result of its own: another one takes its place, or the agent is stopped or removed."""
        if self.has_settled:
            return
        self._discard_incoming(reason)
        for supervisor in self.agent.supervisors:
            if supervisor.is_cordoned(Unschedulable.OUTGOING):
                supervisor.uncordon(Unschedulable.OUTGOING)
                supervisor.publish_change()
            if supervisor in self.in_place:
                supervisor.uncordon(Unschedulable.INCOMING)
                supervisor.publish_change()
        self._end(reason)

    def _discard_incoming(self, reason: str) -> None:
        if self.trying is not None:
            self.trying.cancel()
        for new in self.agent.incoming.values():
            discard(self.agent, new, reason)
        self.agent.incoming.clear()

    def _end(self, reason: str) -> None:
        self.has_settled = True
        self.agent.rolling = self.agent.target = None
        self.settle(self, reason)

    def _publish(self, event: str, *, worker: str | None = None, **facts: str | list[str]) -> None:
        bus, name = self.running.bus, self.agent.name
        more = {"revision": self.after, **facts}
        bus.publish(event, agent=name, worker=worker, incarnation=None, store=True, **more)


def work_of(supervisor: WorkerSupervisor) -> int:
    """Returns the number of tasks that a worker runs; of a server 1 while it has calls."""
    if supervisor.spec.kind == "mcp":
        return int(supervisor.worker.state is State.BUSY)
    return len(supervisor.running)


def runs_beside(spec: Spec) -> bool:
    """Returns True if a worker may run beside another one of its id: as the spec says, else where no probe has an address of its own."""
    if spec.rolling is not None:
        return spec.rolling
    if spec.listen:
        return True  # the daemon holds the socket for all of them
    ways = {check.way for check in spec.checks}
    if spec.ready is not None:
        ways.add(spec.ready.way)
    return ways.isdisjoint({"http", "tcp"})


def rests(supervisor: WorkerSupervisor) -> bool:
    """Returns True if a worker has ended and does not start by itself."""
    worker = supervisor.worker
    return worker.state is State.TERMINATED and worker.resume_at is None and not worker.waits


def failure(supervisor: WorkerSupervisor, before: LastExit | None) -> str:
    """Returns why a new worker counts as failed; "" if it does not. `before` is its last exit before the change."""
    worker = supervisor.worker
    last = worker.last_exit
    if last is not None and last is not before and last.result not in ASKED_FOR:
        is_tried = last.result == "exec-failed" and 0 < worker.spawn_failures < SPAWN_TRIES
        if not is_tried:
            return _why(supervisor, last.message)
    for health in supervisor.health_monitor.healths:
        if health.healthy is False and worker.state in UP:
            return _why(supervisor, f'health check "{health.name}" has failed: {health.message}')
    if not worker.wanted and not worker.tree:
        return _why(supervisor, "it was stopped")
    return ""


def _why(supervisor: WorkerSupervisor, message: str) -> str:
    worker = supervisor.worker
    words = f'worker "{worker.id}" (incarnation {worker.incarnation}): {message}'
    is_silent = worker.spec.speaks == "none" and worker.spec.rolling is None
    return f"{words}; {IN_PLACE_HINT}" if is_silent else words


def discard(agent: Agent, supervisor: WorkerSupervisor, reason: str) -> None:
    """Ends a worker that has had no task, and is to have none."""
    supervisor.cordon(Unschedulable.OUTGOING)
    agent.outgoing.append(supervisor)
    supervisor.job.cancel()
    supervisor.send(state_machine.Stop(reason=reason))


async def untried(_supervisor: WorkerSupervisor, _spec: Spec) -> str:
    """Runs no smoke task, where there are no tasks."""
    return ""
