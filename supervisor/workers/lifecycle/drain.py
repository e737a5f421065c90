"""Decides how long the end of a worker waits for the connections that it serves.

A worker that is replaced gets its stop signal at once, and stops accepting; it may finish the requests that it has accepted,
for at most `process.drain_timeout`. A worker that is stopped for good has the grace period alone.
"""

from msgspec.structs import replace

from .state_machine import Stage, Worker

CHECK_S = 0.5
"""Seconds between two looks at the connections of a worker."""


def until(worker: Worker, now: float, *, replaced: bool) -> float:
    """Returns when the wait of an end that begins now is over at the latest; 0 where there is none."""
    is_awaited = replaced and bool(worker.spec.listen)
    return now + worker.spec.process.drain_timeout if is_awaited else 0.0


def goes_on(worker: Worker, now: float) -> bool:
    """Returns True if a worker that serves connections is given more time."""
    return now < worker.drain_until and worker.stage in (Stage.ASKED, Stage.SIGNALLED)


def put_off(worker: Worker, now: float) -> Worker:
    """Returns the worker with the next stage of its shutdown later; half of the grace period follows the wait."""
    later = min(now + CHECK_S, worker.drain_until)
    return replace(worker, deadline=later, kill_at=later + worker.spec.process.shutdown_grace_period / 2)
