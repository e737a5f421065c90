"""Replaces an agent's workers one after the other after a renewal: no task is interrupted, and none is refused.

`policy.turn` selects the next ones. It is evaluated again whenever a worker changes, so that a stop, a pause, a
scaling or another renewal in between need no special case: a worker that is gone or began anew needs no replacement.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from corral.supervisor.workers.lifecycle import state_machine
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import CORRUPTED, UP, State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.zygote.agent_record import Order
from corral.supervisor.workers.zygote.policy import Aged, turn

from ..running.running_agents import RunningAgents


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
