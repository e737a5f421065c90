"""What the queue asks of other rooms: who performs a task of many parts, remembers, wakes, and keeps to a budget.

Shapes alone: the daemon puts the rooms in their places, and a queue without one of them goes on without it.
"""

from typing import Protocol

from ...worker.contract.records import Task, TaskKind, TaskParams
from ...worker.contract.worker_messages import TaskResult
from ..agents.agent import Agent
from ..store.store import Statement


class WorkflowEngine(Protocol):
    """Performs the tasks of teams and workflows, which need no worker of their own."""

    def kind(self, name: str) -> TaskKind | None:
        """What a name means, "team" or "workflow"; None for every other name."""
        ...

    def timeout_s(self, name: str) -> float | None:
        """How long a task of that name may take at most, whatever it asks for; None where nothing is said."""
        ...

    def members_for(self, task: Task) -> tuple[str, ...] | None:
        """To whom alone a running task may delegate, because it leads a team; None where it leads none."""
        ...

    def check(self, params: TaskParams) -> None:
        """Looks at a task for a team or workflow before it is taken.

        Raises:
            CorralError: it cannot be performed as it is.
        """
        ...

    async def perform(self, task: Task) -> TaskResult:
        """What a task comes to; also called again for one that a daemon left, `attempt` unchanged.

        It is cancelled when the task is cancelled or timed out; what it submitted is cancelled by the queue.

        Raises:
            CorralError: the task has failed.
        """
        ...


class Sessions(Protocol):
    """What agents remember from one task of a session to the next."""

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        """What is given to the worker as `memory`.

        Raises:
            Corrupted: what was stored cannot be read: the task fails with this.
        """
        ...

    def keep(self, task: Task, said: object) -> tuple[Statement, ...]:
        """What to write with the end of a task that succeeded; `said` is the worker's `memory`, None if it had none.

        Raises:
            ResourceLimitExceeded: it is too much: the task fails with this.
        """
        ...

    def kept(self, task: Task) -> None:
        """What `keep` gave for the task is durable."""
        ...

    def dropped(self, task: Task) -> None:
        """What `keep` gave for the task has not been written, and will not be."""
        ...


class Hibernation(Protocol):
    """Agents whose processes are gone until there is work."""

    def is_hibernated(self, agent: Agent) -> bool:
        """Whether it comes back for a task."""
        ...

    def wake_soon(self, agent: Agent) -> None:
        """There is a task for it."""
        ...


class Budgets(Protocol):
    """What agents may spend."""

    def charge(self, agent: str, tokens: int, cost_cents: float) -> None:
        """Notes what a task of the agent has used."""
        ...

    def holds(self, agent: str) -> str | None:
        """Why the agent takes no task now; None when it may."""
        ...


class Checkpoints(Protocol):
    """What tasks have saved on their way."""

    async def of_task(self, task_id: str) -> dict[str, object]:
        """What a task saved last, as `{"checkpoint": data}`; empty when it saved nothing.

        Raises:
            Corrupted: nothing of it can be read.
        """
        ...
