"""Dispatches queued tasks to idle workers, and records why a task has to wait.

Which task is next is decided in `queue`, which agent it is for in `routing`; the executor runs it. Guarantees that a
task which has neither dependency nor start time left is queued, executed or ended: none is forgotten.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from corral.supervisor.agents.demand.autoscaler import Queues
from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.workers.lifecycle.state_machine import UP, State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import WorkerFailed
from corral.worker.contract.names import SEPARATOR, tenant_of
from corral.worker.contract.records import Task, TaskKind

from ..rules.availability import Down, free_slots, slot_of, takes_tasks, waits_when_down, wanted_workers, why_down
from ..rules.queue import TaskQueue
from .attempt import Attempt
from .backlog import Dependencies, Entry, JobRun, TaskHandover, waiting_reason
from .budgets import Budgets
from .endings import Endings, agent_gone, not_begun_in_time
from .executor import Executor
from .record_writer import RETRY_AFTER_S, RecordWriter

LOOKED_AT_ONCE = 500
"""Number of waiting tasks that are told the reason of their wait in one turn of the loop."""

SHOWN_CHARS = 100
"""Characters of a question in the reason of a task."""

LOOK_S = 1.0
"""Seconds after which the tasks of an agent that is being changed are looked at again."""


class TaskRunner(Protocol):
    """Runs the tasks of a kind that is no worker's queue."""

    def begin_at_once(self, entry: Entry) -> bool:
        """Begins a new task, before it is accepted; returns False if it has to wait."""
        ...

    def enqueue(self, entry: Entry) -> None:
        """Begins a task as soon as its turn has come."""

    def pause(self) -> None:
        """Begins no task, until `resume`."""
        ...

    def resume(self) -> None:
        """Begins tasks again."""
        ...

    def take_up(self, entry: Entry, run: JobRun) -> None:
        """Goes on with a run that another program of the daemon has left."""
        ...


class Dispatcher(Queues):
    """Dispatches the tasks of one daemon's agents."""

    def __init__(
        self,
        writer: RecordWriter,
        endings: Endings,
        agents: Agents,
        executor: Executor,
        runners: Mapping[TaskKind, TaskRunner],
        budgets: Budgets,
        hibernation: Hibernation,
    ) -> None:
        self._backlog = writer.backlog
        self._endings = endings
        self._registry = agents.registry
        self._executor = executor
        self._runners = runners
        self._budgets = budgets
        self._hibernation = hibernation
        self._wait_listeners: list[Callable[[str], None]] = []
        self.dependencies = Dependencies(self._on_ready)
        self._dispatching: set[str] = set()
        self._held: set[str] = set()
        """Agents that are dispatched to when the store is tried again."""
        self._held_until = 0.0
        """Of the loop's clock: the store refuses writes, and nothing begins before."""
        self._is_held = False
        self._later: list[Entry] = []
        """Tasks of teams, workflows and jobs that begin at `resume`."""
        self._early: list[Entry] | None = []
        """Tasks of teams and workflows until `boot`; None from then on."""
        self._looking: dict[str, bool] = {}
        """Agents whose waiting tasks are being looked at; True: once more, from the beginning."""
        self._explained: set[str] = set()
        """Agents with waiting tasks that have a reason."""
        self._questions: dict[str, list[str]] = {}
        """Open questions of running tasks, by agent; the oldest first."""
        self._loop = asyncio.get_running_loop()

        writer.subscribe(self)
        writer.subscribe_to_ends(self._resolve)
        budgets.subscribe(self._freed)

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the name of each agent whose tasks have to wait for a worker."""
        self._wait_listeners.append(listener)

    def started(self, task: Task) -> None:
        """Takes no note of a start."""

    def ended(self, task: Task) -> None:
        """Dispatches the next task of a session."""
        if task.session is not None:
            self.dispatch(task.agent)

    def _resolve(self, entry: Entry) -> None:
        if entry.blockers or entry.due is not None:
            self.dependencies.remove(entry)
        if entry.task.id in self.dependencies.dependants:
            self.dependencies.resolve(entry.task)

    def _freed(self, name: str) -> None:
        """Dispatches the tasks of an agent, or of a tenant with a slash, that has used up its budget no more."""
        tenant = name.removesuffix(SEPARATOR)
        names = [name] if tenant == name else [each for each in self._backlog.queues if tenant_of(each) == tenant]
        for each in names:
            self.dispatch(each)

    def close(self) -> None:
        """Cancels what would begin a task later."""
        self.dependencies.close()
        self._executor.close()
        self._budgets.close()

    def boot(self) -> None:
        """Starts the tasks of teams and workflows: by now it is known which agents are wanted for their steps."""
        early, self._early = self._early, None
        for entry in early or ():
            self.enqueue(entry)
        for name in self._registry.agents:
            self.look_soon(name)

    def pause(self) -> None:
        """Begins nothing, and ends nothing by its time, until `resume`."""
        self._is_held = True
        self._executor.hold()
        for runner in {*self._runners.values()}:
            runner.pause()

    def resume(self) -> None:
        """Begins what has waited since `pause`."""
        self._is_held = False
        self._executor.release()
        for runner in {*self._runners.values()}:
            runner.resume()
        later, self._later = self._later, []
        for entry in later:
            self.enqueue(entry)
        if self._loop.time() >= self._held_until:
            self._go_on()

    def _on_ready(self, entry: Entry) -> None:
        entry.since = self._loop.time()
        if entry.task.reason and entry.dependency_error is None:
            reason = waiting_reason(entry) if entry.blockers else ""
            entry.task = replace(entry.task, reason=reason)
        self.settle(entry)

    def settle(self, entry: Entry) -> None:
        """Ends an accepted task that never can begin, and enqueues one that waits for neither time nor task."""
        if entry.is_ending or entry.stop is not None or entry.accepted is not None:
            return
        if entry.dependency_error is not None:
            self._endings.end_soon(entry, "cancelled", entry.dependency_error)
        elif not self.dependencies.holds(entry):
            self.enqueue(entry)

    def begin_at_once(self, entry: Entry) -> bool:
        """Begins a new task that does not have to wait, before it is accepted; returns False if it has to."""
        task = entry.task
        if entry.only is not None:
            self._executor.begin(entry, entry.only, self)
            return True
        if self._is_held:
            return False
        if task.kind != "task":
            return self._runners[task.kind].begin_at_once(entry)
        agent = self._registry.agents.get(task.agent)
        queue = self._backlog.queues.get(task.agent)
        if agent is None or (queue is not None and queue.waiting):
            return False
        if self._begin_unqueued(entry, agent):
            return True
        if _is_unbound(task, agent):
            return False
        self._backlog.enqueue(entry)
        self.dispatch(task.agent)
        if not entry.is_begun:
            self._backlog.dequeue(entry)
        return entry.is_begun

    def _begin_unqueued(self, entry: Entry, agent: Agent) -> bool:
        """Begins a task past an empty queue, if a worker is free: it would be the next in any case."""
        name = agent.spec.name
        queue = self._backlog.queues.get(name)
        is_next = (queue is None or not queue.waiting) and _is_unbound(entry.task, agent)
        if not is_next or name in self._dispatching or self._is_stopped(name):
            return False
        worker = None if self._is_over_budget(agent) else agent.first()
        if worker is None:
            return False
        self._dispatching.add(name)  # a worker that becomes busy calls `dispatch`
        try:
            self._executor.begin(entry, worker, self)
            agent.note(worker)
        finally:
            self._dispatching.discard(name)
        return True

    def enqueue(self, entry: Entry) -> None:
        """Enters a task into the queue of its agent, and dispatches it if it can begin."""
        task = entry.task
        if entry.is_begun or entry.is_ending:
            return  # it was cancelled while it waited for its next attempt
        if entry.only is not None:
            self._endings.end_soon(entry, "failed", not_begun(entry.only, task))
            return
        if task.kind != "task":
            if self._early is not None:
                self._early.append(entry)
            elif self._is_held:
                self._later.append(entry)
            else:
                self._runners[task.kind].enqueue(entry)
            return
        agent = self._registry.agents.get(task.agent)
        if agent is None:
            self._endings.end_soon(entry, "failed", agent_gone(task))
            return
        if self._begin_unqueued(entry, agent):
            return
        self._backlog.enqueue(entry)
        self.dispatch(task.agent)
        if entry.is_begun:
            return
        limit_s = task.queue_timeout_s or agent.spec.tasks.queue_timeout
        if limit_s > 0 and task.attempt == 0:
            entry.timer = self._loop.call_at(entry.since + limit_s, self._leave_queue, entry, limit_s)
        reason = self._why_not(agent, None)
        if reason and task.reason != reason:
            self._explained.add(task.agent)
            entry.task = replace(task, reason=reason)
            entry.notify()
        if takes_tasks(agent):
            return
        if self._hibernation.is_hibernated(agent):
            self._hibernation.wake_soon(agent)
        self.look_soon(task.agent)

    def _leave_queue(self, entry: Entry, limit_s: float) -> None:
        """Ends a task as timeout that no worker took within queue_timeout."""
        task = entry.task
        if self._is_held:
            entry.timer = self._loop.call_later(LOOK_S, self._leave_queue, entry, limit_s)
        elif task.attempt == 0 and not entry.is_begun:
            self._endings.end_soon(entry, "timeout", not_begun_in_time(task, limit_s, task.reason))

    def abandon(self, name: str) -> None:
        """Ends the tasks that still wait for an agent that was removed."""
        self._backlog.remove_agent(name)
        self._explained.discard(name)
        self._endings.abandon([each for each in self._backlog.of(name) if not each.is_begun])

    @contextlib.contextmanager
    def question(self, entry: Entry, attempt: Attempt, text: str) -> Generator[None]:
        """Says in the record of a running task, and in those behind it, that it waits for a person, while that is so."""
        questions = self._questions.setdefault(entry.task.agent, [])
        questions.append(text)
        try:
            with attempt.question(text):
                self._explain(entry, attempt)
                yield
        finally:
            questions.remove(text)
            if not questions:
                self._questions.pop(entry.task.agent, None)
            self._explain(entry, attempt)

    def _explain(self, entry: Entry, attempt: Attempt) -> None:
        if entry.attempt is attempt and entry.task.state == "running":
            entry.task = replace(entry.task, reason=f"asks: {_shown(attempt.asks)}" if attempt.asks else "")
            entry.notify()
        attempt.supervisor.publish_load()
        self.look_soon(entry.task.agent)

    def look_soon(self, name: str) -> None:
        """Records in the waiting tasks of an agent why no worker takes them, or ends them where none will; in a later turn of the loop.

        Later, because one request may be several events: a restart with dependents is a stop and a start.
        """
        if self._early is not None or not self._backlog.queued(name):
            return  # before `boot` it is not known which agents are wanted
        if name in self._looking:
            self._looking[name] = True
        else:
            self._looking[name] = False
            self._endings.keep(self._look(name))

    async def _look(self, name: str) -> None:
        try:
            is_current = False
            while not is_current:
                self._looking[name] = False
                entries = deque(self._backlog.of(name))
                while entries:
                    some = [entries.popleft() for _ in range(min(LOOKED_AT_ONCE, len(entries)))]
                    if not await self._look_at(name, some):
                        break
                    await asyncio.sleep(0)
                is_current = not self._looking[name]
        finally:
            del self._looking[name]

    async def _look_at(self, name: str, entries: Sequence[Entry]) -> bool:
        """Records the reason in some tasks of an agent, or ends them; returns False where no other one needs to be looked at."""
        agent, registry = self._registry.agents.get(name), self._registry
        if agent is None or registry.draining:
            return False  # they are ended, or left to the next daemon
        if not registry.leaving.isdisjoint(agent.supervisors):
            self._loop.call_later(LOOK_S, self.look_soon, name)
            return False
        down = why_down(agent, registry.agents)
        reason = self._why_not(agent, down)
        if not reason and name not in self._explained:
            return False
        if reason:
            self._explained.add(name)
        else:
            self._explained.discard(name)
        waiting = [entry for entry in entries if self._is_waiting(entry)]
        if down is not None:
            doomed = [entry for entry in waiting if _is_in_vain(entry.task, agent, down)]
            await self._endings.end_each(doomed, "failed", lambda task: down.refusal(task.id))
        for entry in waiting:
            if not entry.is_begun and entry.task.reason != reason:
                entry.task = replace(entry.task, reason=reason)
                entry.notify()
        return True

    def _is_waiting(self, entry: Entry) -> bool:
        is_free = not entry.is_begun and not entry.is_ending and entry.accepted is None
        return is_free and entry.task.state == "queued" and not self.dependencies.holds(entry)

    def _why_not(self, agent: Agent, down: Down | None) -> str:
        """Returns why no worker of an agent takes its next task; empty where each of them is busy, or about to be up."""
        if down is not None:
            return down.words
        if held := self._budgets.holds(agent.spec):
            return held
        if not takes_tasks(agent) and agent.is_paused:
            return f"it is paused; corral resume {agent.name}"
        questions = self._questions.get(agent.name)
        return f"{agent.name} waits for an answer: {_shown(questions[0])}" if questions else ""

    def dispatch(self, name: str) -> None:
        """Gives waiting tasks to the free workers of an agent."""
        queue = self._backlog.queues.get(name)
        if queue is None or not queue.waiting or name in self._dispatching:
            return
        agent = self._registry.agents.get(name)
        if agent is None or self._is_stopped(name):
            return
        self._dispatching.add(name)  # a worker that becomes busy calls this again
        try:
            while queue.waiting and not self._is_over_budget(agent):
                found = self._next(agent, queue)
                if found is None:
                    return
                entry, supervisor = found
                self._executor.begin(entry, supervisor, self)
                agent.note(supervisor)
        finally:
            self._dispatching.discard(name)
            if queue.waiting:
                for listener in self._wait_listeners:
                    listener(name)

    def _is_stopped(self, name: str) -> bool:
        """Returns True while the daemon stops or the store refuses writes; in that case `_go_on` dispatches."""
        if self._is_held or (self._held_until and self._loop.time() < self._held_until):
            self._held.add(name)
            return True
        return self._registry.draining

    def _is_over_budget(self, agent: Agent) -> bool:
        return self._budgets.holds(agent.spec) is not None

    def _next(self, agent: Agent, queue: TaskQueue) -> tuple[Entry, WorkerSupervisor] | None:
        """Returns the next task and its worker; all workers are compared only where the rule needs that."""
        routing = agent.spec.tasks.routing
        if queue.sticky_count or routing == "round-robin":
            wanted = wanted_workers(agent) if queue.sticky_count else frozenset[str]()
            found = queue.next(free_slots(agent), wanted, routing)
            worker = next((k for k in agent.supervisors if found is not None and k.id == found[1]), None)
        else:
            worker = agent.first()
            found = None if worker is None else queue.next([slot_of(agent, worker)])
        if found is None or worker is None:
            return None
        entry = self._backlog.find(found[0])
        assert entry is not None, "an ended task waits no more"
        return entry, worker

    def take_up(self, entry: Entry, supervisor: WorkerSupervisor, left: TaskHandover) -> None:
        """Goes on with an attempt, or the run of a job, that another program of the daemon has left."""
        if left.attempt is not None:
            self._executor.take_up(entry, supervisor, self, left.attempt)
        elif left.life_before is not None:
            self._runners["job"].take_up(entry, JobRun(supervisor, left.life_before))

    def release(self, supervisor: WorkerSupervisor, task: Task) -> None:
        """Frees the place of a task on a worker, and dispatches the next."""
        supervisor.end(task.id)
        self.note(supervisor)
        self.dispatch(task.agent)

    def hold_off(self, agent: str) -> None:
        """Begins nothing for RETRY_AFTER_S, since the store refuses writes: each waiting task would try in vain."""
        self._held.add(agent)
        if self._loop.time() >= self._held_until:
            self._held_until = self._loop.time() + RETRY_AFTER_S
            self._loop.call_at(self._held_until, self._go_on)

    def _go_on(self) -> None:
        if self._is_held:
            return  # `resume` does it
        names, self._held = self._held, set()
        self._held_until = 0.0
        for name in names:
            self.dispatch(name)

    def note(self, supervisor: WorkerSupervisor) -> None:
        """Notes that a worker may be able to begin a task, or one more, or no longer; `dispatch` gives it one."""
        agent = self._registry.agents.get(supervisor.worker.spec.name)
        if agent is not None:
            agent.note(supervisor)

    def worker_changed(self, supervisor: WorkerSupervisor) -> None:
        """Dispatches tasks to a worker that is up, and records why tasks wait where it takes none."""
        worker = supervisor.worker
        if worker.spec.type == "oneshot":
            return
        self.note(supervisor)
        if worker.state in UP or worker.state is State.TERMINATED:
            # One that is gone for good leaves the tasks routed to it by a sticky key to the others.
            self.dispatch(supervisor.spec.name)
        if worker.state not in UP or worker.paused_at is not None:
            self.look_soon(supervisor.spec.name)

    def pressure(self, agent: Agent) -> tuple[int, int]:
        """Returns the number of tasks that one more worker could begin, none while they are held back, and of those that wait for any worker."""
        queue = self._backlog.queues.get(agent.name)
        if queue is None or not queue.waiting:
            return 0, 0
        if self._is_over_budget(agent) or self._loop.time() < self._held_until:
            return 0, queue.offered
        return queue.ready(len(agent.supervisors)), queue.offered


def _shown(question: str) -> str:
    line = question.strip().partition("\n")[0]
    return f"{line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + '…'} (corral approvals)"


def _is_unbound(task: Task, agent: Agent) -> bool:
    """Returns True if neither a session, a sticky key nor the order of workers decides where a task runs."""
    is_free = task.session is None and task.sticky_key is None
    return is_free and agent.spec.tasks.routing != "round-robin"


def _is_in_vain(task: Task, agent: Agent, down: Down) -> bool:
    """Returns True if a waiting task fails because its agent is down.

    It waits where it may, where this daemon has not started the agent yet, and where a stop has interrupted it: it
    keeps the work that it has done.
    """
    if not down.was_up or waits_when_down(agent, task.when_down):
        return False
    return down.result != "stopped" or task.delivery == 0


def not_begun(supervisor: WorkerSupervisor, task: Task) -> WorkerFailed:
    """Returns why a task for one worker alone was not executed by it."""
    return WorkerFailed(f'cannot run task "{task.id}": worker "{supervisor.id}" has not taken it', worker=supervisor.id)
