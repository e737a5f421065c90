"""Defines the conditions that callers wait for: a worker is up, is not coming up, rests, has ended, or is gone.

Each is a predicate on the present state of a worker, to be evaluated again at every change. Nothing is waited for here, and
nothing is changed.
"""

from collections.abc import Callable

from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, UP, LastExit, State, Worker
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor


def rests(worker: Worker) -> bool:
    """Returns True if it has given up, or must not start again: only a start brings it up."""
    return worker.state is State.TERMINATED and worker.resume_at is None and not worker.waits


def needs_a_start(supervisor: WorkerSupervisor) -> bool:
    """Returns True if only a start brings it up, or it is about to end; a job that has succeeded needs none."""
    if supervisor.worker.done:
        return False
    is_leaving = supervisor.job.is_to_end or not supervisor.worker.wanted
    return is_leaving or not supervisor.takes_room or rests(supervisor.worker)


def can_pause(worker: Worker) -> bool:
    """Returns True if it has a running process."""
    return worker.pid is not None and (worker.state in UP or worker.state is State.STARTING)


def has_ended(incarnation: int) -> Callable[[Worker], bool]:
    """Returns True if no process of that life is left."""
    return lambda worker: not worker.tree or worker.incarnation != incarnation


def is_gone(supervisor: WorkerSupervisor) -> Callable[[Worker], bool]:
    """Returns True if no process of it is left, or it was started again."""
    return lambda worker: not worker.tree or (worker.wanted and not supervisor.job.is_to_end)


def is_repeated(worker: Worker) -> bool:
    """Returns True if it is a job that has succeeded, and runs again when a start of those that require it is requested."""
    return worker.done and not worker.spec.remain


def is_down(worker: Worker) -> bool:
    """Returns True if those that require it have to wait for it."""
    return not worker.is_satisfied


def has_settled(before: LastExit | None) -> Callable[[Worker], bool]:
    """Returns True if it is up, or is not coming up: not wanted, paused, or failed since `before`.

    A job has settled when it has succeeded, or failed for good: while it is retried it may succeed yet.
    """
    tried = (State.TERMINATED, State.INITIAL, State.STARTING)

    def check(worker: Worker) -> bool:
        last = worker.last_exit  # a requested end is none of its failures
        has_failed = last is not None and last is not before and last.result not in ASKED_FOR
        has_failed = has_failed and worker.spec.type == "service"
        stands = not worker.wanted or worker.paused_at is not None or rests(worker)
        return worker.is_satisfied or stands or (has_failed and worker.state in tried)

    return check


def is_up_after(incarnation: int) -> Callable[[Worker], bool]:
    """Returns True if it is up, in a later life than that."""
    return lambda worker: worker.is_satisfied and worker.incarnation > incarnation


def has_moved_on(supervisor: WorkerSupervisor, incarnation: int) -> Callable[[Worker], bool]:
    """Returns True if it is in a new life, or the restart was revoked."""

    def check(worker: Worker) -> bool:
        is_kept = worker.state in UP and not supervisor.job.is_waiting
        return worker.incarnation > incarnation or not worker.wanted or is_kept

    return check


def last_exit_until(supervisor: WorkerSupervisor, incarnation: int) -> LastExit | None:
    """Returns the exit of its newest life that is no later than that; None if unknown."""
    return next((last for number, last in supervisor.exits if number <= incarnation), None)
