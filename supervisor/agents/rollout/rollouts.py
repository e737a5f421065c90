"""Holds the changes of workers that are under way in a daemon, and replaces workers one after the other after a renewal.

Begin with `Rollouts.begin`. One agent has one change at a time: a newer one takes its place. Agents that require others which
are being changed begin after those. `policy.turn` selects the next workers of a renewal. It is evaluated again whenever a worker
changes, so that a stop, a pause, a scaling or another renewal in between need no special case.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle import state_machine
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import CORRUPTED, UP, State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.zygote.agent_record import Order
from corral.supervisor.workers.zygote.policy import Aged, turn
from corral.worker.contract.errors import Conflict, CorralError

from ..running.agent import Agent, Refused
from ..running.running_agents import RunningAgents
from .roll import Roll, Try, untried, work_of

REPLACED = "a worker of another spec has replaced it"
"""Reason of the end of a former worker that has finished its tasks."""

SUPERSEDED = "a newer change has taken its place"
"""Reason of the end of a change that was not finished."""

STOPPED = "it was stopped meanwhile"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """Describes the end of a change: whether the new spec is in force, and why it is not."""

    succeeded: bool
    reason: str = ""


@dataclass(eq=False)
class Rollout:
    """Represents one change for its caller: `held` is set while it holds, `settled` when it has ended."""

    agent: str
    revision: int | None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Future[Settled] = field(default_factory=asyncio.Future[Settled])

    async def result(self) -> Settled:
        """Waits for the end of the change; the caller bounds the time.

        Each part is bounded: starts by spawn_timeout, checks and the smoke task by their timeouts. Only where a former
        worker has to finish before the next one can start may it take as long as its task.
        """
        return await asyncio.shield(self.settled)


class Rollouts:
    """Replaces the workers of the agents and servers of one daemon."""

    def __init__(self, running: RunningAgents) -> None:
        self._running = running
        self.attempt: Try = untried
        self._revisions = running.revisions
        self._rolls: dict[str, Roll] = {}
        self._waiting: dict[str, Roll] = {}
        self._handles: dict[Roll, Rollout] = {}
        self._busy: set[str] = set()
        """Names of agents with a change under way, or with workers that finish."""
        self._due: set[str] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def try_by(self, attempt: Try) -> None:
        """Runs the smoke tasks of specs by `attempt`."""
        self.attempt = attempt

    def begin(
        self, agent: Agent, spec: Spec, *, share: float = 1.0, added: bool | None = None, resumed: bool = False
    ) -> Rollout:
        """Begins to replace the workers of an agent or server by those of `spec`, and returns at once.

        The spec is in force when the new workers have their places; until then `agent.spec` is the former one, and
        `agent.target` this one. It is taken back by itself where a new worker does not come up, a health check of it
        fails, or the smoke task does. A change that is under way is given up.
        """
        former, head = agent.spec, self._revisions.head(agent.name)
        self.forgo(agent)
        roll = Roll(
            self._running,
            agent,
            former,
            spec,
            share,
            self.attempt,
            self._settle,
            was_added=agent.added,
            is_resumed=resumed,
            before=head.current,
            after=head.rolling,
        )
        agent.target = spec
        if added is not None:
            agent.added = added
        handle = self._handles[roll] = Rollout(agent.name, roll.after)
        self._busy.add(agent.name)
        names = {*agent.spec.requires, *spec.requires}
        if any(name in self._rolls or name in self._waiting for name in names):
            self._waiting[agent.name] = roll
        else:
            self._start(roll)
        return handle

    def _start(self, roll: Roll) -> None:
        self._rolls[roll.agent.name] = roll
        self._running.bus.publish("agent.rolling", agent=roll.agent.name, revision=roll.after, store=True)
        self._look(roll.agent.name)

    def of(self, name: str) -> Rollout | None:
        """Returns the change of an agent that is under way; None where there is none."""
        roll = self._rolls.get(name) or self._waiting.get(name)
        return None if roll is None else self._handles.get(roll)

    def proceed(self, name: str) -> None:
        """Replaces the rest of the workers of a change that holds."""
        roll = self._present(name, "proceed with")
        roll.share, roll.is_holding = 1.0, False
        self._handles[roll].held.clear()
        self._look(name)

    def take_back(self, name: str, reason: str) -> None:
        """Takes a change back that is not finished: the former spec is in force again."""
        roll = self._present(name, "take back")
        roll.why_revoked = reason
        self._look(name)

    def _present(self, name: str, what: str) -> Roll:
        roll = self._rolls.get(name)
        if roll is None:
            raise Conflict(f'cannot {what} the change of "{name}": none is under way', name=name)
        return roll

    def forgo(self, agent: Agent) -> None:
        """Gives up the change of an agent that is under way; workers that have their places keep them."""
        for rolls in (self._rolls, self._waiting):
            roll = rolls.get(agent.name)
            if roll is not None:
                roll.abandon(SUPERSEDED)

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Takes note of a change of a worker, of its load alone too."""
        name = supervisor.spec.name
        if name not in self._busy:
            return
        if supervisor.is_cordoned(Unschedulable.OUTGOING):
            self._see_off(name, supervisor)
        if name not in self._due:
            self._due.add(name)
            self._loop.call_soon(self._look, name)

    def _look(self, name: str) -> None:
        self._due.discard(name)
        agent = self._running.agents.get(name)
        roll = self._rolls.get(name)
        if agent is None or (roll is not None and roll.agent is not agent):
            self._forget(name)
            return
        if self._running.draining:
            return
        for supervisor in list(agent.outgoing):
            self._see_off(name, supervisor)
        if roll is not None:
            if not any(supervisor.worker.wanted for supervisor in agent.supervisors):
                self._end_of_stopped(roll)
            else:
                roll.look()
                if roll.is_holding and roll in self._handles:
                    self._handles[roll].held.set()
        if name not in self._rolls and name not in self._waiting and not agent.outgoing:
            self._busy.discard(name)

    def _see_off(self, name: str, supervisor: WorkerSupervisor) -> None:
        """Ends a worker that was replaced as soon as it runs nothing, and keeps it from being started again."""
        agent = self._running.agents.get(name)
        if agent is None or supervisor not in agent.outgoing:
            return
        worker = supervisor.worker
        if worker.wanted and (worker.state not in UP or not work_of(supervisor)):
            supervisor.send(state_machine.Stop(reason=REPLACED, drains=True))
        elif not worker.tree and worker.state in (State.TERMINATED, State.INITIAL):
            agent.outgoing.remove(supervisor)
            self._keep(self._running.replicas.close([supervisor]))
            self._running.startup.fill_room()

    def _end_of_stopped(self, roll: Roll) -> None:
        """Ends the change of an agent that was stopped: its next start is of the new spec."""
        agent, spec = roll.agent, roll.spec
        roll.abandon(STOPPED)
        self._running.replicas.put_in_force(agent, spec)

    def _forget(self, name: str) -> None:
        for rolls in (self._rolls, self._waiting):
            roll = rolls.get(name)
            if roll is not None:
                roll.abandon("it was removed")
        self._busy.discard(name)

    def _settle(self, roll: Roll, reason: str) -> None:
        agent = roll.agent
        name = agent.name
        for rolls in (self._rolls, self._waiting):
            if rolls.get(name) is roll:
                del rolls[name]
        is_stopped = reason == STOPPED
        succeeded = not reason or is_stopped
        is_superseded = reason == SUPERSEDED
        if succeeded:
            agent.taken_back = None
        elif not is_superseded:
            agent.taken_back = Refused(roll.after, reason, time.time())
            self._restore(roll, reason)
        self._running.bus.publish(
            "agent.rolled" if succeeded else "agent.taken_back",
            agent=name,
            revision=roll.after,
            reason=reason,
            store=True,
        )
        handle = self._handles.pop(roll, None)
        if handle is not None and not handle.settled.done():
            handle.settled.set_result(Settled(succeeded, reason))
        if not roll.is_return and roll.after is not None:
            self._keep(self._record(name, roll.after, succeeded, reason))
        if succeeded and self._running.agents.get(name) is agent:
            self._keep(self._running.replicas.rescale(name, agent.spec.instances.minimum))
        self._loop.call_soon(self._begin_next)

    def in_force(self, agent: Agent) -> None:
        """Takes note that the newest revision of an agent is in force, without a new worker."""
        agent.taken_back = None
        number = self._revisions.head(agent.name).rolling
        if number is not None:
            self._keep(self._record(agent.name, number, True, ""))

    async def _record(self, name: str, number: int, succeeded: bool, reason: str) -> None:
        try:
            await self._revisions.settle(name, number, succeeded, reason)
        except CorralError as error:  # the next daemon begins with the former one
            logger.error("cannot record the end of revision %s of %s: %s", number, name, error)

    def _restore(self, roll: Roll, reason: str) -> None:
        """Puts the former table back, and replaces the new workers that have their places already."""
        agent = roll.agent
        logger.warning("the change of %s is taken back: %s", agent.name, reason)
        agent.added = roll.was_added
        if self._running.agents.get(agent.name) is not agent:
            return
        if roll.placed and not roll.is_return:
            back = Roll(
                self._running,
                agent,
                roll.spec,
                roll.former,
                1.0,
                self.attempt,
                self._settle,
                was_added=roll.was_added,
                is_return=True,
            )
            agent.spec = roll.former
            self._loop.call_soon(self._go_back, back)

    def _go_back(self, back: Roll) -> None:
        name = back.agent.name
        if name not in self._rolls and name not in self._waiting and name in self._running.agents:
            self._busy.add(name)
            self._rolls[name] = back
            self._look(name)

    def _begin_next(self) -> None:
        for name, roll in list(self._waiting.items()):
            others = {*roll.spec.requires, *roll.former.requires} - {name}
            if not any(other in self._rolls or other in self._waiting for other in others):
                del self._waiting[name]
                self._start(roll)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def close(self) -> None:
        """Ends smoke tasks, and waits for what is being closed; the workers themselves are the drain's."""
        for roll in [*self._rolls.values(), *self._waiting.values()]:
            if roll.trying is not None:
                roll.trying.cancel()
        if self._chores:
            await asyncio.wait(set(self._chores))


@dataclass(eq=False)
class Round:
    """Tracks the progress of one request: the replaced workers, with the number of the life that ended."""

    order: Order
    replaced: dict[WorkerSupervisor, int] = field(default_factory=dict[WorkerSupervisor, int])


class RollingRestart:
    """Replaces workers for one daemon."""

    def __init__(self, running: RunningAgents) -> None:
        self._agents = running.agents
        self._zygotes = running.zygotes
        self._rounds: dict[str, Round] = {}
        self._looking: set[str] = set()
        self._last_seen: dict[WorkerSupervisor, tuple[bool, bool, bool]] = {}
        self._zygotes.subscribe(self.look)

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Takes note of a change of a worker."""
        worker = supervisor.worker
        if worker.spec.entrypoint is None:
            return
        name = worker.spec.name
        seen = (worker.wanted, worker.tree, worker.state in UP)
        if self._last_seen.get(supervisor) != seen:  # each task causes two changes without effect here
            if worker.wanted or worker.tree:
                self._last_seen[supervisor] = seen
            else:
                self._last_seen.pop(supervisor, None)
            agent = self._agents.get(name)
            if agent is not None:
                self._zygotes.note(agent)
        if name in self._rounds:
            self.look(name)

    def look(self, name: str) -> None:
        """Replaces those whose turn it is."""
        if name in self._looking:
            return  # what is done here changes workers: the loop below sees that
        self._looking.add(name)
        try:
            while self._step(name):
                pass
        finally:
            self._looking.discard(name)

    def _step(self, name: str) -> bool:
        """Runs one step; returns True if a worker was replaced."""
        agent, order = self._agents.get(name), self._zygotes.order(name)
        round_ = self._rounds.get(name)
        if agent is not None and agent.target is not None:
            return False  # its workers are being replaced already; the last of them looks again
        if agent is None or order is None:
            self._rounds.pop(name, None)
            self._withhold(() if agent is None else agent.supervisors, frozenset())
            return False
        if round_ is None or round_.order is not order:
            round_ = self._rounds[name] = self._begin(order, round_, agent.supervisors)
        old = [supervisor for supervisor in agent.supervisors if _is_old(supervisor, order)]
        coming = sum(_is_coming(supervisor, number) for supervisor, number in round_.replaced.items())
        if not old and not coming and self._zygotes.done(order, name):
            return True  # which ends it, with the next look
        found = turn(
            [
                Aged(supervisor.id, len(supervisor.running), _is_outdated(supervisor))
                for supervisor in old
                if _can_end(supervisor)
            ],
            workers=sum(supervisor.worker.wanted for supervisor in agent.supervisors),
            coming=coming,
            slots=agent.spec.resources.max_concurrent_requests,
        )
        self._withhold(agent.supervisors, found.withheld)
        chosen = [supervisor for supervisor in agent.supervisors if supervisor.id in found.replaced]
        for supervisor in chosen:
            round_.replaced[supervisor] = supervisor.worker.incarnation
            supervisor.send(state_machine.Restart(order.reason))
        return bool(chosen)

    def _begin(self, order: Order, before: Round | None, supervisors: Iterable[WorkerSupervisor]) -> Round:
        """Starts the workers that did not come up, or have given up: the new sources may repair them."""
        taken = {} if before is None else before.replaced
        stuck = {k: n for k, n in taken.items() if _is_coming(k, n)}
        stuck |= {each: each.worker.incarnation for each in supervisors if _has_failed(each)}
        for supervisor in stuck:
            supervisor.send(state_machine.Reset())
        return Round(order, stuck)

    def _withhold(self, supervisors: Iterable[WorkerSupervisor], names: frozenset[str]) -> None:
        for supervisor in supervisors:
            is_outdated = supervisor.id in names
            if _is_outdated(supervisor) == is_outdated:
                continue
            if is_outdated:
                supervisor.cordon(Unschedulable.OUTDATED)
            else:
                supervisor.uncordon(Unschedulable.OUTDATED)
                supervisor.publish_change()  # tasks may wait for it


def _is_outdated(supervisor: WorkerSupervisor) -> bool:
    return supervisor.is_cordoned(Unschedulable.OUTDATED)


def _is_old(supervisor: WorkerSupervisor, order: Order) -> bool:
    """Returns True if a worker runs, or is about to run, the earlier sources."""
    life, state = supervisor.life, supervisor.worker.state
    if life is None or life.child is None or (state not in UP and state is not State.STARTING):
        return False
    if life.parent is supervisor.shared.launcher:
        return life.started_at < order.since
    return life.parent in order.old


def _has_failed(supervisor: WorkerSupervisor) -> bool:
    """Returns True if a worker that is wanted rests because it could not start or has died too often."""
    worker = supervisor.worker
    is_resting = worker.state is State.TERMINATED and worker.resume_at is None
    last = worker.last_exit
    is_failed = last is not None and last.result in ("exec-failed", CORRUPTED, "restart-limit")
    return worker.wanted and not worker.waits and is_resting and is_failed


def _can_end(supervisor: WorkerSupervisor) -> bool:
    worker = supervisor.worker
    has_plans = (
        supervisor.is_cordoned(Unschedulable.HIBERNATING)
        or supervisor.is_cordoned(Unschedulable.SURPLUS)
        or supervisor.job.is_waiting
    )
    return worker.state in UP and worker.wanted and not has_plans and worker.paused_at is None


def _is_coming(supervisor: WorkerSupervisor, ended: int) -> bool:
    worker = supervisor.worker
    is_up = worker.state in UP and worker.incarnation > ended
    return worker.wanted and not worker.waits and not is_up
