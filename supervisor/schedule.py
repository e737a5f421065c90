"""Which task runs next, on which worker, what follows an attempt, and which delegation can never end.

Pure: records and times in, decisions out. `now` and `created` are seconds of the Unix epoch, since a
queue survives the daemon; nothing here reads a clock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from ..worker.schema import Boundaries, Task
from .spec import Resources, Spec, Tasks

AGING_S = 60.0
"""Waiting this long is worth one step of priority."""


def rank(priority: int, created: float) -> float:
    """The place of a task in its queue; the least comes first.

    Priority 10 is the most urgent, equals go in order of arrival, and a task rises by one step for
    each minute that it waits. Since all waiting tasks age alike, their order never changes
    with time, and a heap of these numbers is always right.
    """
    return created / AGING_S - priority


class Attempted(Struct, frozen=True):
    """How an attempt ended: by the worker's death (`died`) or by an error that the agent returned."""

    died: bool
    counts: bool = True


def retries(tasks: Tasks, attempt: int, ended: Attempted) -> bool:
    """Whether a task is tried again after its attempt number `attempt` failed."""
    if not ended.counts:
        return True  # a stop that somebody asked for is not the task's fault
    if attempt >= tasks.max_attempts or tasks.retry_on == "never":
        return False
    return ended.died or "any" in tasks.retry_on


def retry_delay_s(tasks: Tasks, attempt: int, jitter: float) -> float:
    """The wait before the next attempt: the base, doubled each time, ±20 %, a minute at most."""
    doubled = tasks.retry_backoff_base * 2.0 ** min(attempt - 1, 16)
    return min(doubled, 60.0) * (0.8 + 0.4 * jitter)


class Limits(Struct, frozen=True):
    """What one task may use: its own boundaries within those of its agent."""

    timeout_s: float
    max_tool_calls: int
    allowed_tools: tuple[str, ...] | None


def limits(boundaries: Boundaries, resources: Resources) -> Limits:
    """The limits in force for a task."""
    timeout_s = resources.max_task_duration
    if boundaries.timeout_s is not None:
        timeout_s = min(timeout_s, boundaries.timeout_s) if timeout_s else boundaries.timeout_s
    calls = resources.max_tool_calls_per_task
    if boundaries.max_tool_calls is not None:
        calls = min(calls, boundaries.max_tool_calls)
    allowed = boundaries.allowed_tools
    return Limits(timeout_s, calls, None if allowed is None else tuple(allowed))


class Slot(Struct, frozen=True):
    """A worker as the scheduler sees it: how much it does now, and since when it has done less."""

    worker: str
    running: int
    capacity: int
    rested_at: float


def choose(slots: Iterable[Slot]) -> str | None:
    """The worker for the next task: the least loaded, then the longest rested; None if all are full."""
    free = [slot for slot in slots if slot.running < slot.capacity]
    if not free:
        return None
    return min(free, key=lambda slot: (slot.running, slot.rested_at, slot.worker)).worker


class Load(Struct, frozen=True):
    """An agent as routing by capability sees it."""

    agent: str
    free: int
    queued: int


def route(loads: Sequence[Load]) -> str | None:
    """The agent for a task that only names a capability: most free workers, then the shortest queue."""
    if not loads:
        return None
    return min(loads, key=lambda load: (-load.free, load.queued, load.agent)).agent


def can_ever_run(
    agent: str,
    *,
    asking: str,
    tasks: Mapping[str, Task],
    waits: Mapping[str, Sequence[str]],
    free: Callable[[str], int],
) -> bool:
    """Whether a task that `asking` delegates to `agent` can come to run while `asking` waits for it.

    It can when a worker of the agent is free, or when some task that holds one can end without it. A
    task that waits for others can end only when each of those can. `waits` maps a running task to
    the tasks whose ends it waits for; `free` tells an agent's free places.
    """
    if free(agent) > 0:
        return True
    holders: dict[str, list[str]] = {}
    for task in tasks.values():
        if task.state == "running":
            holders.setdefault(task.agent, []).append(task.id)
    can_end: set[str] = set()

    def agent_can(name: str) -> bool:
        if free(name) > 0 or name not in holders:
            return True  # without holders its workers are not up yet: nobody stands against it
        return not can_end.isdisjoint(holders[name])

    def child_can(child_id: str) -> bool:
        child = tasks.get(child_id)
        if child is None or child.state not in ("queued", "running"):
            return True
        return child_id in can_end if child.state == "running" else agent_can(child.agent)

    # The least set that is closed under the rule: who waits in a circle never comes into it.
    doubted = [each for held in holders.values() for each in held if each != asking]
    while True:
        ends = [each for each in doubted if all(map(child_can, waits.get(each, ())))]
        if not ends or agent_can(agent):
            return agent_can(agent)
        can_end.update(ends)
        doubted = [each for each in doubted if each not in can_end]


def has_capability(spec: Spec, announced: Iterable[str], capability: str) -> bool:
    """Whether an agent offers a capability: what its configuration says, else what it announced."""
    return capability in (spec.capabilities or tuple(announced))
