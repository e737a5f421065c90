"""Decides whether an agent can run a task, now or later by itself, and if not why, and which command helps.

An agent that backs off, starts, is replaced, waits for room or for another agent that comes up, or is hibernated can.
Pure: agents in, reasons out; no clock, no queue.
"""

from collections.abc import Mapping

from msgspec import Struct

from corral.supervisor.agents.running.agent import Agent, has_place
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, State, Worker
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict
from corral.worker.contract.records import WhenDown

from .queue import Slot


class Down(Struct, frozen=True):
    """Represents an agent that runs no task until it is started: the reason, the command that helps, the last end.

    `was_up` is False for one that this daemon has not started: tasks that an earlier daemon left wait for it.
    """

    agent: str
    reason: str
    remedy: str
    result: str | None = None
    worker: str | None = None
    was_up: bool = True
    instances: int | None = None

    @property
    def words(self) -> str:
        """Returns reason and remedy, as a refusal and a waiting task show them."""
        return f"{self.reason}; {self.remedy}"

    def refusal(self, task: str | None = None) -> Conflict:
        """Returns the error of a task that is refused, or, with its id, of one that waited."""
        what = f'a task on "{self.agent}"' if task is None else f'task "{task}" on "{self.agent}"'
        return Conflict(
            f"cannot run {what}: {self.words}",
            agent=self.agent,
            reason="down",
            result=self.result,
            worker=self.worker,
            remedy=self.remedy,
            **({} if self.instances is None else {"instances": self.instances}),
        )


def why_down(agent: Agent, agents: Mapping[str, Agent]) -> Down | None:
    """Returns why an agent runs no task until it is started; None while it does, or will."""
    name, supervisors = agent.name, agent.supervisors
    if not supervisors:
        least = max(1, agent.spec.instances.minimum)
        return Down(name, "it is scaled to 0", f"corral scale {name} {least}", "stopped", instances=0)
    blocked: Down | None = None
    for supervisor in supervisors:
        worker = supervisor.worker
        if is_expected(worker):
            is_after_others = worker.waits and supervisor.job.is_waiting  # else it waits for room
            blocked = _blocked(agent, agents) if is_after_others else None
            if blocked is None:
                return None
    if blocked is not None:
        return blocked
    wanted = [supervisor.worker for supervisor in supervisors if supervisor.worker.wanted]
    wanted.sort(key=lambda worker: worker.last_exit is None)
    if not wanted and any(k.is_cordoned(Unschedulable.HIBERNATED) for k in supervisors):
        return None  # a task wakes it
    if wanted:
        return _ended(agent, wanted[0])
    was_up = any(supervisor.worker.state is not State.INITIAL for supervisor in supervisors)
    return Down(name, "it is stopped", f"corral start {name}", "stopped", was_up=was_up)


def is_expected(worker: Worker) -> bool:
    """Returns True if a worker is up, or will be: not one that gave up, until a start is requested."""
    gave_up = worker.state is State.TERMINATED and worker.resume_at is None and not worker.waits
    return worker.wanted and not gave_up


def free_slots(agent: Agent) -> list[Slot]:
    """Returns the workers of an agent that can begin a task now."""
    capacity = agent.spec.resources.max_concurrent_requests
    return [slot_of(agent, supervisor) for supervisor in agent.supervisors if has_place(supervisor, capacity)]


def slot_of(agent: Agent, supervisor: WorkerSupervisor) -> Slot:
    """Returns a worker in the form that the queue decides with."""
    capacity = agent.spec.resources.max_concurrent_requests
    return Slot(supervisor.id, len(supervisor.running), capacity, supervisor.rested_at)


def takes_tasks(agent: Agent) -> bool:
    """Returns True if a worker of an agent can be given tasks, now or when it has ended one."""
    return any(supervisor.takes_tasks for supervisor in agent.supervisors)


def waits_when_down(agent: Agent, own: WhenDown | None) -> bool:
    """Returns True if a task waits for its agent while that is down: by its own word, else by `[tasks] when_down`."""
    return (own or agent.spec.tasks.when_down) == "queue"


def wanted_workers(agent: Agent) -> frozenset[str]:
    """Returns the workers of an agent that are up, or will be: not one that gave up, until a start is requested."""
    return frozenset(supervisor.id for supervisor in agent.supervisors if is_expected(supervisor.worker))


def _ended(agent: Agent, worker: Worker) -> Down:
    last = worker.last_exit
    if last is None:  # a start that the state machine has answered before any life
        return Down(agent.name, "no worker of it is up", f"corral start {agent.name}")
    # A restart-limit says itself that it gave up, and after what.
    is_complete = last.result in last.message or last.message.startswith("gave up")
    reason = last.message if is_complete else f"{last.result}: {last.message}"
    return Down(
        agent.name,
        f"no worker of it is up, and none will start ({reason})",
        f"fix it, then corral reset {agent.name}",
        last.result,
        worker.id,
    )


def _blocked(agent: Agent, agents: Mapping[str, Agent]) -> Down | None:
    for name in agent.spec.requires:
        required = agents.get(name)
        for supervisor in () if required is None else required.supervisors:
            worker = supervisor.worker
            assert required is not None, "it has workers"
            if worker.wanted and worker.waits and supervisor.job.is_waiting:
                found = _blocked(required, agents)
            elif worker.wanted and not is_expected(worker) and _has_failed(worker):
                found = _ended(required, worker)
            else:
                continue
            if found is not None:
                words = f'it waits for "{required.name}": {found.reason}'
                return Down(agent.name, words, found.remedy, found.result, found.worker)
    return None


def _has_failed(worker: Worker) -> bool:
    last = worker.last_exit
    if last is None or last.result in ASKED_FOR:
        return False
    return not (last.result == "exited" and last.code == 0)
