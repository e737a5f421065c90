"""Decides what the end of a job means: an agent of `type = "oneshot"`, which runs to its end.

Exit status 0 is its success, whatever the restart policy says; every other end is a failure, which the policy answers.
While it runs it is Starting: it is never Ready, and those that require it wait for its success.
"""

from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Recovery, Spec
from corral.worker.contract.records import JobState

from .restart_policy import History
from .state_machine import ASKED_FOR, LastExit, State, Worker

LATE = "task-timeout"
"""Result of a run that took longer than `timeout`."""


STATES: tuple[JobState, ...] = ("running", "waiting", "failed", "stopped", "idle", "succeeded")
"""States of one worker in the order in which they decide about a job of several."""


def state(worker: Worker) -> JobState:
    """Returns the state of one worker of a job."""
    if worker.done:
        return "succeeded"
    if worker.state in (State.STARTING, State.SHUTTING_DOWN):
        return "running"
    if worker.waits or worker.resume_at is not None or worker.deadline is not None:
        return "waiting"
    last = worker.last_exit
    if last is None:
        return "idle"
    return "stopped" if last.result in ASKED_FOR or is_success(worker.spec, last) else "failed"


def is_success(spec: Spec, last: LastExit) -> bool:
    """Returns whether this end is the success of a job."""
    return spec.type == "oneshot" and last.result == "exited" and last.code == 0


def succeeded(worker: Worker, last: LastExit) -> Worker:
    """Returns a job after its success: nothing more is wanted of it, and its failures are forgotten."""
    return replace(worker, wanted=False, history=History(), last_exit=last, done=True)


def stays(worker: Worker) -> bool:
    """Returns whether a start has nothing to do: the job has succeeded, and `remain` keeps that."""
    return worker.done and worker.spec.remain


def policy(spec: Spec) -> Recovery:
    """Returns the restart policy: "always" is for a job the same as "on-failure", since its success ends it."""
    if spec.type == "oneshot" and spec.recovery.restart == "always":
        return replace(spec.recovery, restart="on-failure")
    return spec.recovery


def late_words(spec: Spec) -> str:
    """Returns the reason of the end of a run that took longer than `timeout`."""
    return f"did not end within {spec.timeout:g} s"
