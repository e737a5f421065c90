"""Whether a new task is taken, by whom, and what its record says: everything before it is in the queue.

Who is refused learns the reason and, where it is the queue's length, when to come again.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ...worker.contract.errors import (
    Conflict,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
)
from ...worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from ...worker.contract.records import Boundaries, Task, TaskKind, TaskParams
from ..agents.agent import Agent, has_place
from ..agents.agents import Agents
from ..events.bus import rfc3339
from ..lifecycle.state_machine import State, Worker
from ..supervision.worker_supervisor import WorkerSupervisor
from .attempt import RECORD_MARGIN_BYTES, words_bytes
from .backlog import Backlog, Entry
from .policy import (
    RATE_S,
    Limits,
    Load,
    Slot,
    has_capability,
    limits,
    preferred,
    retry_after_s,
    route,
)
from .ports import Hibernation

ENDS_KEPT = 1_000
"""Ends that tell how fast the tasks go."""

ROOM = 0.05
"""Who is refused may come again when this share of the places is likely to be free."""


class Admission:
    """The gate of one daemon's queue.

    Args:
        agents: those that may take tasks.
        backlog: what has not ended.
        hibernation: who sleeps and comes back for a task, once somebody knows.
    """

    def __init__(
        self, agents: Agents, backlog: Backlog, hibernation: Callable[[], Hibernation | None]
    ) -> None:
        self._agents = agents
        self._backlog = backlog
        self._hibernation = hibernation
        self._loop = asyncio.get_running_loop()
        self._ids = _Ids()
        self._began = self._loop.time()
        self._ends: deque[tuple[float, str]] = deque(maxlen=ENDS_KEPT)

    # -- whose it is

    def candidates(self, params: TaskParams) -> list[Agent]:
        """The agents that a task may be for: the named one, or those that offer what is asked for.

        Raises:
            InvalidParams: it is for nobody, or for a name and a capability.
            NotFound: there is no agent of the name, or none with the capabilities.
            Conflict: the named one does not offer what is required.
        """
        required = [*params.required_capabilities]
        if params.agent is not None and params.capability is not None:
            raise InvalidParams(
                "cannot tell whom the task is for: give agent or capability", key="agent"
            )
        if params.agent is not None:
            agent = self._agents.of(params.agent)
            missing = [each for each in required if not _offers(agent, each)]
            if missing:
                raise Conflict(
                    f'cannot run a task on "{agent.name}": it does not offer "{missing[0]}"',
                    agent=agent.name,
                    capability=missing[0],
                )
            return [agent]
        if params.capability is not None:
            required.insert(0, params.capability)
        if not required:
            raise InvalidParams(
                "cannot tell whom the task is for: give agent or capability", key="agent"
            )
        able = [
            agent
            for agent in self._agents.agents.values()
            if agent.spec.protocol == "corral" and all(_offers(agent, each) for each in required)
        ]
        if not able:
            raise _nobody(required)
        return able

    def chosen(self, able: Sequence[Agent], params: TaskParams) -> Agent:
        """The one of them that takes the task: least loaded, or whom the sticky key or the session sticks to.

        Raises:
            NotFound: none of them is up.
        """
        if params.agent is not None:
            return able[0]
        up = {agent.name: agent for agent in able if self._is_there(agent)}
        key = params.sticky_key or params.session
        if key is not None:
            name = preferred(key, up)
        else:
            name = route([Load(each, self.free(each), self._backlog.queued(each)) for each in up])
        if name is None:
            raise _nobody([*filter(None, [params.capability]), *params.required_capabilities])
        return up[name]

    def free(self, name: str) -> int:
        """How many tasks the workers of an agent could begin now."""
        agent = self._agents.agents.get(name)
        if agent is None:
            return 0
        return sum(slot.capacity - slot.running for slot in free_slots(agent))

    def _is_there(self, agent: Agent) -> bool:
        hibernation = self._hibernation()
        return agent.wanted or (hibernation is not None and hibernation.is_hibernated(agent))

    # -- whether there is room

    def check(self, agent: Agent) -> None:
        """Returns when the agent takes tasks, and there is room for one.

        Raises:
            Conflict: it speaks no protocol that takes tasks, or is stopped.
            Overloaded: too many are waiting.
        """
        name = agent.name
        if agent.spec.protocol != "corral":
            raise Conflict(
                f'cannot run a task on "{name}": it speaks protocol "{agent.spec.protocol}", which has none',
                agent=name,
            )
        if not agent.supervisors:
            least = max(1, agent.spec.instances.minimum)
            raise Conflict(
                f'cannot run a task on "{name}": it is scaled to 0; corral scale {name} {least}',
                agent=name,
                instances=0,
            )
        if not self._is_there(agent):
            raise Conflict(
                f'cannot run a task on "{name}": it is stopped; corral start {name}', agent=name
            )
        limit = agent.spec.tasks.max_queue_size
        if self._backlog.queued(name) >= limit:
            raise Overloaded(
                f'cannot queue a task for "{name}": {limit} are waiting',
                limit="max_queue_size",
                value=limit,
                agent=name,
                retry_after_s=self._retry_after_s(limit, name),
            )

    def check_totals(self, size_bytes: int) -> None:
        """Returns when there is room for one more task of this size among all that wait.

        Raises:
            Overloaded: too many are waiting, or their words take too much memory.
        """
        section = self._agents.config.defaults.tasks
        waiting = self._backlog.count("queued") + self._backlog.composite
        if waiting >= section.max_total_queue_size:
            limit = section.max_total_queue_size
            raise Overloaded(
                f"cannot queue a task: {waiting} are waiting for all agents together",
                limit="max_total_queue_size",
                value=limit,
                retry_after_s=self._retry_after_s(limit, None),
            )
        queued_bytes = self._backlog.queued_bytes
        if queued_bytes + size_bytes > section.max_total_queue_bytes:
            raise Overloaded(
                f"cannot queue a task of {size_bytes} bytes: those that wait take {queued_bytes}",
                limit="max_total_queue_bytes",
                value=section.max_total_queue_bytes,
                retry_after_s=self._retry_after_s(self._backlog.count("queued"), None),
            )

    def note_end(self, agent: str) -> None:
        """A task of the agent has ended: so fast do they go."""
        self._ends.append((self._loop.time(), agent))

    def _retry_after_s(self, limit: int, agent: str | None) -> float:
        now = self._loop.time()
        since = max(now - RATE_S, self._began)
        if len(self._ends) == ENDS_KEPT:
            since = max(since, self._ends[0][0])
        ends = sum(at >= since and agent in (None, name) for at, name in self._ends)
        return retry_after_s(max(1, int(limit * ROOM)), ends, now - since)

    # -- what its record says

    def entry(
        self,
        name: str,
        params: TaskParams,
        boundaries: Boundaries,
        *,
        kind: TaskKind = "task",
        parent: Task | None = None,
        step: str = "",
        schedule: str | None = None,
        retry_of: str | None = None,
    ) -> Entry:
        """A task that has just come.

        Raises:
            ResourceLimitExceeded: no message could hold its record.
            Overloaded: there is no room for it.
        """
        agent = self._agents.agents.get(name) if kind == "task" else None
        section = self._agents.config.defaults.tasks if agent is None else agent.spec.tasks
        now = time.time()
        task = Task(
            id=self._ids.next(),
            agent=name,
            kind=kind,
            priority=params.priority or section.default_priority,
            objective=params.objective,
            input=params.input,
            context=params.context,
            boundaries=boundaries,
            output_format=params.output_format,
            required_capabilities=params.required_capabilities,
            idempotency_key=params.idempotency_key,
            after=list(dict.fromkeys(params.after)),
            scheduled_at=None if params.at is None else rfc3339(params.at),
            sticky_key=params.sticky_key,
            session=params.session,
            durable=params.durable,
            retry=params.retry,
            created_at=rfc3339(now),
            parent=None if parent is None else parent.id,
            depth=0 if parent is None else parent.depth + 1,
            step=step,
            schedule=schedule,
            retry_of=retry_of,
        )
        size = words_bytes(task)
        _check_size(name, size, agent)
        self.check_totals(size)
        return Entry(
            task,
            now,
            limits_of(task, agent),
            self._loop.time(),
            size_bytes=size,
            due=params.at,
        )


class _Ids:
    """Random ids of 12 digits. The kernel is asked for many at once: each time costs as much as taking a task."""

    def __init__(self) -> None:
        self._digits = ""
        self._next = 0

    def next(self) -> str:
        """One that has not been given."""
        if self._next == len(self._digits):
            self._digits, self._next = secrets.token_hex(6 * 256), 0
        self._next += 12
        return self._digits[self._next - 12 : self._next]


def limits_of(task: Task, agent: Agent | None) -> Limits:
    """The limits in force for a task; those of a team's or workflow's task are its own alone."""
    if agent is not None:
        return limits(task.boundaries, agent.spec.resources)
    allowed = task.boundaries.allowed_tools
    return Limits(task.boundaries.timeout_s or 0.0, 0, None if allowed is None else tuple(allowed))


def free_slots(agent: Agent) -> list[Slot]:
    """The workers of an agent that can begin a task now."""
    capacity = agent.spec.resources.max_concurrent_requests
    return [
        slot_of(agent, supervisor)
        for supervisor in agent.supervisors
        if has_place(supervisor, capacity)
    ]


def slot_of(agent: Agent, supervisor: WorkerSupervisor) -> Slot:
    """A worker as the scheduler sees it."""
    capacity = agent.spec.resources.max_concurrent_requests
    return Slot(supervisor.id, len(supervisor.running), capacity, supervisor.rested_at)


def takes_tasks(agent: Agent) -> bool:
    """Whether a worker of an agent can be given tasks, now or when it has ended one."""
    return any(supervisor.takes_tasks for supervisor in agent.supervisors)


def wanted_workers(agent: Agent) -> frozenset[str]:
    """The workers of an agent that are up, or will be: one that was given up is not, until somebody starts it."""
    return frozenset(
        supervisor.id for supervisor in agent.supervisors if _is_to_come(supervisor.worker)
    )


def _is_to_come(worker: Worker) -> bool:
    gave_up = worker.state is State.TERMINATED and worker.resume_at is None and not worker.waits
    return worker.wanted and not gave_up


def _check_size(name: str, size: int, agent: Agent | None) -> None:
    """Refuses what, together with its output, would be too long for a message to hold."""
    output = MAX_MESSAGE_BYTES // 2
    if agent is not None:
        output = min(agent.spec.resources.max_output_size_bytes, output)
    limit = MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - output
    if size > limit:
        raise ResourceLimitExceeded(
            f'cannot take a task for "{name}": {size} bytes of objective, input and context are'
            f" more than {limit}",
            limit="message",
            value=size,
        )


def _nobody(required: Iterable[str]) -> NotFound:
    names = list(required)
    text = '", "'.join(names)
    return NotFound(
        f'cannot find an agent with capability "{text}" that is up',
        capability=names[0],
        capabilities=names,
    )


def _offers(agent: Agent, capability: str) -> bool:
    announced: Sequence[str] = next((k.announced for k in agent.supervisors if k.announced), ())
    return has_capability(agent.spec, announced, capability)
