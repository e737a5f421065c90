"""What running tasks do: how far they are, what they use and call, and which tasks they hand to others.

A limit of a task is held here, whatever its worker means to do. This room begins and ends nothing but a task that has
used more than it may.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from ...worker.contract.errors import (
    Cancelled,
    Conflict,
    InvalidParams,
    NotFound,
    ResourceLimitExceeded,
)
from ...worker.contract.records import Task
from ..agents.agents import Agents
from ..supervision.worker_supervisor import WorkerSupervisor
from .admission import Admission, wanted_workers
from .backlog import Entry
from .boundaries import check_child, overspent
from .deadlock import Groups, can_ever_run
from .policy import preferred
from .ports import Budgets
from .record_writer import RecordWriter


class Accounts:
    """What the tasks of one daemon have used, and what is theirs."""

    def __init__(self, ledger: RecordWriter, agents: Agents, admission: Admission) -> None:
        self.ledger = ledger
        self.agents = agents
        self.admission = admission
        self.budgets: Budgets | None = None

    def task_of(self, supervisor: WorkerSupervisor, task_id: str | None) -> Entry | None:
        """The running task of a worker that a message is about; None when it is about none.

        Raises:
            NotFound: the worker does not run that task.
        """
        if task_id is None:
            if len(supervisor.running) != 1:
                return None
            task_id = next(iter(supervisor.running))
        entry = self.ledger.backlog.find(task_id)
        if entry is None or task_id not in supervisor.running:
            raise NotFound(
                f'cannot find task "{task_id}" on worker "{supervisor.id}"', task=task_id
            )
        return entry

    def progressed(self, entry: Entry, fraction: float, total: float | None, message: str) -> None:
        """Notes and tells how far a task has come."""
        self.beaten(entry)
        entry.task = replace(
            entry.task, progress=fraction, progress_total=total, progress_message=message[:1000]
        )
        self.ledger.publish(
            "task.progress",
            entry.task,
            store=False,
            progress=fraction,
            total=total,
            message=message[:1000],
        )
        self.ledger.tell(entry)

    def beaten(self, entry: Entry) -> None:
        """The handler of a task has shown a sign of life, which stall_timeout asks for."""
        if entry.attempt is not None:
            entry.attempt.beat()

    def used(self, entry: Entry, tokens: int, cost_cents: float) -> None:
        """Adds to what a task has used; one that has used more than it may is ended, and so is one that delegated it."""
        task = entry.task
        entry.task = replace(
            task, tokens_used=task.tokens_used + tokens, cost_cents=task.cost_cents + cost_cents
        )
        if self.budgets is not None:
            self.budgets.charge(task.agent, tokens, cost_cents)
        each: Entry | None = entry
        while each is not None:
            if each is not entry:
                each.children_tokens += tokens
                each.children_cost_cents += cost_cents
            self._hold(each)
            each = None if each.task.parent is None else self.ledger.backlog.find(each.task.parent)

    def count_tool_call(self, entry: Entry) -> None:
        """Counts a tool call of a task.

        Raises:
            ResourceLimitExceeded: it would be one more than the task may make.
        """
        allowed = entry.limits.max_tool_calls
        if entry.task.tool_calls >= allowed:
            raise ResourceLimitExceeded(
                f'cannot call a tool in task "{entry.task.id}": it may make {allowed} calls',
                limit="max_tool_calls",
                value=allowed,
                task=entry.task.id,
            )
        entry.task = replace(entry.task, tool_calls=entry.task.tool_calls + 1)

    # -- what it hands to others

    def check_is_no_step(self, key: str) -> None:
        """Refuses a key under which a task of a team or workflow looks for a part of its own.

        Raises:
            InvalidParams: it is one, and that task goes on.
        """
        above = self.ledger.find(key.partition("/")[0])
        if above is not None and above.kind != "task":
            raise InvalidParams(
                f'cannot take the task: idempotency_key "{key[:50]}" is for the parts of task "{above.id}"',
                key="idempotency_key",
                task=above.id,
            )

    def check_can_run(self, child: Task, parent: Task) -> None:
        """Returns when a child, which is not taken yet, could come to run while its parent waits for it.

        Raises:
            Conflict: everybody who could run it waits for the parent, or what it has to come after does.
        """
        backlog = self.ledger.backlog

        def waits(task_id: str) -> list[str]:
            entry = backlog.find(task_id)
            return [] if entry is None else entry.waits

        if not can_ever_run(
            child,
            asking=parent.id,
            find=self.ledger.find,
            waits=waits,
            obstacles=self._obstacles,
        ):
            raise Conflict(
                f'cannot delegate to "{child.agent}": it could begin only after this task, which waits for it',
                agent=child.agent,
                task=parent.id,
            )

    def _obstacles(self, task: Task) -> Groups:
        """What a task that is not running waits for: of each group one has to end."""
        entry = self.ledger.backlog.find(task.id)
        if entry is not None and entry.is_begun:
            return []  # it has its place, and its attempt is being written down
        groups = [[each] for each in task.after]
        agent = None if task.kind != "task" else self.agents.agents.get(task.agent)
        if agent is None:
            return groups
        supervisors = agent.supervisors
        if task.session is not None:
            running = [each for supervisor in supervisors for each in supervisor.running]
            groups.append([each for each in running if self._is_turn(each, task.session)])
        if task.sticky_key is not None:
            place = preferred(task.sticky_key, wanted_workers(agent))
            supervisors = [
                supervisor for supervisor in supervisors if place in (None, supervisor.id)
            ]
        capacity = agent.spec.resources.max_concurrent_requests
        if not any(each.takes_tasks and len(each.running) < capacity for each in supervisors):
            groups.append([each for supervisor in supervisors for each in supervisor.running])
        return groups

    def _is_turn(self, task_id: str, session: str) -> bool:
        task = self.ledger.find(task_id)
        return task is not None and task.session == session

    def check_may_delegate(self, parent: Task, count: int = 1) -> Task:
        """The record of a running task for which so many children may be submitted, with all that was used below it.

        Raises:
            Cancelled: it has ended, or is about to.
            ResourceLimitExceeded: it has too many children, or stands too deep.
        """
        above = self.ledger.backlog.find(parent.id)
        if above is None or above.is_ending or (above.stop is not None and above.stop.done()):
            raise Cancelled(f'cannot delegate for task "{parent.id}": it has ended', task=parent.id)
        owner = self.agents.agents.get(parent.agent)
        section = self.agents.config.defaults.tasks if owner is None else owner.spec.tasks
        check_child(above.task, section, len(above.task.children), count)
        return replace(
            above.task,
            tokens_used=above.task.tokens_used + above.children_tokens,
            cost_cents=above.task.cost_cents + above.children_cost_cents,
        )

    def adopt(self, entry: Entry) -> None:
        """Enters a child with its parent before anything else can happen, so that no circle closes unseen."""
        above = None if entry.task.parent is None else self.ledger.backlog.find(entry.task.parent)
        if above is not None and entry.task.id not in above.waits:
            above.waits.append(entry.task.id)
            if entry.task.id not in above.task.children:
                children = [*above.task.children, entry.task.id]
                above.task = replace(above.task, children=children)

    def recall_children(self, parent: str, children: Sequence[str]) -> None:
        """Enters what a running task delegated under an earlier daemon, which may have ended since."""
        above = self.ledger.backlog.find(parent)
        if above is not None:
            merged = list(dict.fromkeys([*children, *above.task.children]))
            above.task = replace(above.task, children=merged)

    def recall_used(self, task_id: str, tokens: int, cost_cents: float) -> None:
        """Enters what was used below a running task under an earlier daemon; it is ended if that was more than it may."""
        above = self.ledger.backlog.find(task_id)
        if above is None:
            return
        above.children_tokens = max(above.children_tokens, tokens)
        above.children_cost_cents = max(above.children_cost_cents, cost_cents)
        self._hold(above)

    def _hold(self, entry: Entry) -> None:
        """Ends a task that has used more than it may."""
        over = overspent(entry.task, entry.children_tokens, entry.children_cost_cents)
        if over is not None and entry.stop is not None and not entry.stop.done():
            entry.stop.set_result(over)

    def leave_parent(self, entry: Entry, *, is_refused: bool = False) -> None:
        """Takes away that a parent waits for a child; one that was refused has never been its child."""
        above = None if entry.task.parent is None else self.ledger.backlog.find(entry.task.parent)
        if above is not None and entry.task.id in above.waits:
            above.waits.remove(entry.task.id)
            if is_refused:
                children = [each for each in above.task.children if each != entry.task.id]
                above.task = replace(above.task, children=children)
