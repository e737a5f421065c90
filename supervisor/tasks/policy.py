"""Which task runs next, on which worker, and what follows an attempt.

Pure: records and times in, decisions out; nothing here reads a clock.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from ...worker.contract.records import Boundaries, Retry
from ..config.spec import Resources, Spec, Tasks

AGING_S = 60.0
"""Waiting this long is worth one step of priority."""


def rank(priority: int, since: float) -> float:
    """The place of a task in its queue; the least comes first. `since` is when it began to wait, in seconds of any clock.

    Priority 10 is the most urgent, equals go in order of arrival, and a task rises by one step for
    each minute that it waits. Since all waiting tasks age alike, their order never changes
    with time, and a heap of these numbers is always right.
    """
    return since / AGING_S - priority


class Policy(Struct, frozen=True):
    """What a task is tried again after, how often, and how long it waits before that."""

    max_attempts: int
    retry_on: frozenset[str]
    base_s: float
    max_s: float


def policy(tasks: Tasks, own: Retry | None) -> Policy:
    """The policy in force: what the task says itself, else its agent's `[tasks]`."""
    said = Retry() if own is None else own
    reasons = tasks.retry_on if said.retry_on is None else said.retry_on
    base_s = said.retry_backoff_base_s
    return Policy(
        tasks.max_attempts if said.max_attempts is None else said.max_attempts,
        frozenset((reasons,) if isinstance(reasons, str) else reasons),
        tasks.retry_backoff_base if base_s is None else base_s,
        tasks.retry_backoff_max,
    )


class Attempted(Struct, frozen=True):
    """How an attempt ended: by the worker's death (`died`), late, or by an error of a name that the agent returned.

    What does not count is a stop that somebody asked for: that is not the task's fault.
    """

    died: bool
    counts: bool = True
    late: bool = False
    error: str = ""


def retries(policy: Policy, attempt: int, ended: Attempted) -> bool:
    """Whether a task is tried again after its attempt number `attempt` failed.

    "any" is every error but the task's own timeout: that is the caller's deadline, and goes on being it
    unless somebody names Timeout.
    """
    if not ended.counts:
        return True
    if attempt >= policy.max_attempts:
        return False
    if ended.late:
        return "Timeout" in policy.retry_on
    if "any" in policy.retry_on or ended.error in policy.retry_on:
        return True
    return ended.died and "worker-death" in policy.retry_on


def retry_delay_s(policy: Policy, attempt: int, jitter: float) -> float:
    """The wait before the next attempt: the base, doubled each time up to the longest, ±20 %."""
    doubled = policy.base_s * 2.0 ** min(attempt - 1, 64)
    return min(doubled, policy.max_s) * (0.8 + 0.4 * jitter)


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


def choose(
    slots: Iterable[Slot],
    routing: Literal["least-load", "round-robin"] = "least-load",
    last: str = "",
) -> str | None:
    """The worker for the next task; None if all are full.

    The least loaded, then the longest rested; or, round robin, the one that comes after `last` by its number.
    """
    free = [slot for slot in slots if slot.running < slot.capacity]
    if not free:
        return None
    if routing == "round-robin":
        after = _number(last)
        return min(
            free, key=lambda slot: (_number(slot.worker) <= after, _number(slot.worker))
        ).worker
    if len(free) == 1:
        return free[0].worker
    return min(free, key=lambda slot: (slot.running, slot.rested_at, slot.worker)).worker


def _number(worker: str) -> int:
    digits = worker.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def preferred(key: str, names: Iterable[str]) -> str | None:
    """Which of the names a key sticks to: the one with the highest hash of both.

    When a name goes, its keys alone move, and each of the others gets some of them; when one comes, it takes
    keys from all.
    """
    return max(names, key=lambda name: (_weight(key, name), name), default=None)


def _weight(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{name}/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


RATE_S = 60.0
"""The ends of so many seconds tell how fast a queue moves."""


def retry_after_s(places: int, ends: int, window_s: float) -> float:
    """When somebody who was refused may come again: when `places` will be free, at the rate of the last ends.

    `ends` happened in the last `window_s` seconds; between one second and a minute.
    """
    return min(max(round(places * window_s / max(ends, 1), 1), 1.0), RATE_S)


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


def has_capability(spec: Spec, announced: Iterable[str], capability: str) -> bool:
    """Whether an agent offers a capability: what its configuration says, else what it announced."""
    return capability in (spec.capabilities or tuple(announced))
