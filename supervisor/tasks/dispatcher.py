"""Whose turn it is, and on which worker: tasks that wait are given to workers that are free, and say why where none is.

What is next is decided in `turns`, who is taken in `admission`; how a task is performed is `performance`.
"""

from abc import ABC
from collections.abc import Callable

from msgspec.structs import replace

from ...worker.contract.errors import Timeout
from ..agents.agent import Agent
from ..agents.agents import Agents
from ..lifecycle.state_machine import UP, State
from ..supervision.worker_supervisor import WorkerSupervisor
from .admission import Admission, free_slots, slot_of, takes_tasks, wanted_workers
from .backlog import Entry
from .dependencies import Dependencies, reason_of
from .executor import Executor, gone
from .ports import Hibernation
from .queue import TaskQueue
from .record_writer import RecordWriter


class Assignment(Executor, ABC):
    """The queues of one daemon's agents."""

    def __init__(self, ledger: RecordWriter, agents: Agents, admission: Admission) -> None:
        super().__init__(ledger, agents, admission)
        self.hibernation: Hibernation | None = None
        self.on_waiting: Callable[[str], None] = _overlook
        """Called with the name of an agent for which tasks wait, after each attempt to give them to workers."""
        self._waitlist = Dependencies(self._on_ready)
        self._dispatching: set[str] = set()
        self._early: list[Entry] | None = None
        """Tasks of teams and workflows until `boot`; None from then on."""

    def boot(self) -> None:
        """Lets teams and workflows go on: by now it is known which agents are wanted for their steps."""
        early, self._early = self._early, None
        for entry in early or ():
            self._enqueue(entry)

    def queued(self, agent: str) -> int:
        """How many tasks wait for a worker of the agent."""
        return self._backlog.queued(agent)

    def _on_ready(self, entry: Entry) -> None:
        """A task waits for no time and no other task any more, or for ever."""
        entry.since = self._loop.time()
        if entry.task.reason and entry.doom is None:
            entry.task = replace(entry.task, reason=reason_of(entry) if entry.blockers else "")
        self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        """Lets a task that is taken go on to where it belongs."""
        if entry.is_ending or entry.is_begun or entry.accepted is not None:
            return
        if entry.doom is not None:
            self._end_soon(entry, "cancelled", entry.doom)
        elif not self._waitlist.holds(entry):
            self._enqueue(entry)

    def _enqueue(self, entry: Entry) -> None:
        task = entry.task
        if entry.is_begun or entry.is_ending:
            return  # it was cancelled while it waited for its next attempt
        if task.kind != "task":
            if self._early is None:
                self._perform_soon(entry)
            else:
                self._early.append(entry)
            return
        agent = self.agents.agents.get(task.agent)
        if agent is None:
            self._end_soon(entry, "failed", gone(task))
            return
        self._backlog.line_up(entry)
        self.dispatch(task.agent)
        if entry.is_begun:
            return
        if agent.spec.tasks.queue_timeout > 0 and task.attempt == 0:
            waits_until = entry.since + agent.spec.tasks.queue_timeout
            entry.timer = self._loop.call_at(waits_until, self._leave_queue, entry)
        reason = self._why_not(agent)
        if reason is not None and task.reason != reason:
            entry.task = replace(task, reason=reason)
            self.ledger.tell(entry)
        hibernation = self.hibernation
        if hibernation is None or takes_tasks(agent):
            return
        if hibernation.is_hibernated(agent):
            hibernation.wake_soon(agent)

    def _leave_queue(self, entry: Entry) -> None:
        """A task that no worker took within queue_timeout ends as timeout."""
        if entry.task.attempt == 0 and not entry.is_begun:
            text = f'cannot start task "{entry.task.id}" within queue_timeout'
            self._end_soon(entry, "timeout", Timeout(text, limit="queue_timeout"))

    def abandon(self, name: str) -> None:
        """Ends what still waits for an agent that was removed."""
        self._backlog.retire(name)
        waiting = [entry for entry in self._backlog.of(name) if not entry.is_begun]
        for entry in waiting:
            self._put_down(entry, gone(entry.task))
        if waiting:
            self._keep(self.ledger.end_each(waiting, "failed"))

    def say_why(self, name: str) -> None:
        """Tells waiting tasks that no worker takes them, when their agent has given up or is paused."""
        if not self._backlog.queued(name):
            return
        agent = self.agents.agents.get(name)
        reason = None if agent is None else self._why_not(agent)
        if reason is None:
            return
        for entry in self._backlog.of(name):
            if entry.task.state != "queued" or entry.task.reason == reason:
                continue
            if not self._waitlist.holds(entry):  # that one waits for something else
                entry.task = replace(entry.task, reason=reason)
                self.ledger.tell(entry)

    def _is_held(self, name: str) -> bool:
        return self.budgets is not None and self.budgets.holds(name) is not None

    def _why_not(self, agent: Agent) -> str | None:
        held = None if self.budgets is None else self.budgets.holds(agent.name)
        return held or _why_no_worker(agent)

    def dispatch(self, name: str) -> None:
        """Gives waiting tasks to free workers of an agent."""
        turns = self._backlog.turns(name)
        if not turns or name in self._dispatching or self.agents.draining:
            return
        if self._loop.time() < self._refused_until:
            self._refused.add(name)  # `_rest` goes on with it
            return
        agent = self.agents.agents.get(name)
        if agent is None:
            return
        self._dispatching.add(name)  # a worker that becomes busy calls this again
        try:
            while turns and not self._is_held(name):
                found = self._next(agent, turns)
                if found is None:
                    return
                entry, supervisor = found
                self._begin(entry, supervisor)
                agent.note(supervisor)
        finally:
            self._dispatching.discard(name)
            if turns:
                self.on_waiting(name)

    def _next(self, agent: Agent, turns: TaskQueue) -> tuple[Entry, WorkerSupervisor] | None:
        """The next task of an agent, and its worker. All of them are looked at only where it matters who else there is."""
        routing = agent.spec.tasks.routing
        if turns.has_stuck or routing == "round-robin":
            wanted = wanted_workers(agent) if turns.has_stuck else frozenset[str]()
            found = turns.next(free_slots(agent), wanted, routing)
            worker = next(
                (k for k in agent.supervisors if found is not None and k.id == found[1]), None
            )
        else:
            worker = agent.first()
            found = None if worker is None else turns.next([slot_of(agent, worker)])
        if found is None or worker is None:
            return None
        entry = self._backlog.find(found[0])
        assert entry is not None, "what has ended waits no more"
        return entry, worker

    def note(self, supervisor: WorkerSupervisor) -> None:
        """A worker may be able to begin a task, or one more; or no longer. `dispatch` gives it one."""
        agent = self.agents.agents.get(supervisor.spec.name)
        if agent is not None:
            agent.note(supervisor)

    def worker_changed(self, supervisor: WorkerSupervisor) -> None:
        """Dispatches tasks to a worker that is up, and notes why tasks wait where it takes none."""
        worker = supervisor.worker
        self.note(supervisor)
        if worker.state in UP or worker.state is State.TERMINATED:
            # One that is gone for good leaves the tasks routed to it by a sticky key to the others.
            self.dispatch(supervisor.spec.name)
            if worker.state is State.TERMINATED or worker.paused_at is not None:
                self.say_why(supervisor.spec.name)

    def pressure(self, agent: Agent) -> tuple[int, int]:
        """How many tasks one more worker of an agent could begin, and how many wait for whatever worker.

        None could begin while its budget holds them, or the store takes nothing.
        """
        turns = self._backlog.turns(agent.name)
        if not turns:
            return 0, 0
        if self._is_held(agent.name) or self._loop.time() < self._refused_until:
            return 0, turns.offered
        return turns.ready(len(agent.supervisors)), turns.offered


def _overlook(_agent: str) -> None:
    pass


def _why_no_worker(agent: Agent) -> str | None:
    """Why no worker of an agent takes a task, where that does not change by itself."""
    if takes_tasks(agent):
        return None
    if agent.is_paused:
        return f"it is paused; corral resume {agent.name}"
    if agent.state is not State.TERMINATED:
        return None
    exits = [k.worker.last_exit for k in agent.supervisors if k.worker.last_exit is not None]
    return f"no worker is up: {exits[0].message}" if exits else None
