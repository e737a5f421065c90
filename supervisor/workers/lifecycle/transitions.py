"""Decides the transitions of one worker: `step(worker, event, now) -> (worker, actions)`.

Everything about it is decided here (when it is started, asked to end, killed, given up) and nothing is done: the
shell performs the actions and turns every outcome into an event. `now` is the monotonic clock.

A Tick of an earlier deadline finds the deadline in the future and changes nothing, so no timer of an earlier
life can act in a later one. Late and repeated events are normal; each is answered below.

A pause belongs to one incarnation: its tree is frozen, there is no deadline, and the time counts neither
as silence nor as time spent Ready. The end of the incarnation ends the pause.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Spec

from . import drain, job
from .readiness import awaited
from .restart_policy import Again, History, after_life, backoff_s, decide
from .state_machine import (
    ASKED_FOR,
    NEEDS_LOGIN,
    TRANSITIONS,
    UP,
    Ask,
    Backoff,
    Emptied,
    Event,
    Exited,
    Freeze,
    Halt,
    Hang,
    Kill,
    LastExit,
    Pause,
    Reconfigure,
    Refused,
    Replace,
    Reset,
    Restart,
    Resume,
    Shaken,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    Stage,
    Start,
    State,
    Step,
    Stop,
    Thaw,
    Tick,
    Transition,
    Want,
    Worked,
    Worker,
)

ABORT_GRACE_S = 2.0
"""Seconds from SIGABRT, on which a Python worker dumps its tracebacks, to SIGKILL."""

KILL_INTERVAL_S = 2.0
"""Seconds between two SIGKILLs, until the tree is empty."""

ALIVE_S = 1.0
"""Seconds after which a program without a protocol is Ready."""

STAYED_UP = f"stayed up for {ALIVE_S:g} s"
"""Reason of such a transition: one string object for all workers."""


def step(worker: Worker, event: Event, now: float) -> Step:
    """Returns the worker after the event, and the actions in order."""
    after, actions = _HANDLERS[type(event)](worker, event, now)
    for action in actions:
        if isinstance(action, Transition):
            assert action.new in TRANSITIONS[action.old], f"{action.old} to {action.new} is illegal"
    return after, actions


def rested(worker: Worker, last: LastExit, *, done: bool = False) -> Worker:
    """Returns a worker whose end an earlier daemon has recorded, before its first event: it rests, a job as `done`."""
    assert worker.state is State.INITIAL, "nothing has happened to it yet"
    return replace(worker, state=State.TERMINATED, last_exit=last, reason=last.message, done=done)


def _move(worker: Worker, state: State, reason: str) -> Step:
    return replace(worker, state=state, reason=reason), [Transition(worker.state, state, reason)]


def _join(first: Step, then: Callable[[Worker], Step]) -> Step:
    after, actions = then(first[0])
    return after, first[1] + actions


# -- requests


def _start(worker: Worker, _: Start, now: float) -> Step:
    if job.stays(worker):
        return worker, []
    return _begin(worker, now)


def _begin(worker: Worker, now: float) -> Step:
    wanted = replace(worker, wanted=True, waits=False, done=False)
    if worker.state is State.INITIAL:
        return _spawn(wanted, "asked to start", now)
    if worker.state is State.TERMINATED:
        if not worker.tree:
            return _initial(_at_once(wanted, now), now, "asked to start", again=0)
        return _at_once(wanted, now), []
    if worker.state is State.SHUTTING_DOWN:
        return _at_once(wanted, now), []
    return wanted, []  # it is up or on its way up


def _want(worker: Worker, event: Want, now: float) -> Step:
    if job.stays(worker):
        return worker, []
    rests = worker.state is State.TERMINATED and worker.resume_at is None
    if worker.wanted and not worker.waits and not rests:
        return worker, []  # it is up, or on its way
    return replace(worker, wanted=True, waits=True, done=False, reason=event.reason), []


def _stop(worker: Worker, event: Stop, now: float) -> Step:
    unwanted = _unwanted(worker)
    if worker.state is State.INITIAL:
        if worker.deadline is None:
            return unwanted, []  # it was never started
        last = LastExit(event.result, message=event.reason)
        done = replace(unwanted, deadline=None, last_exit=worker.last_exit or last)
        return _move(done, State.TERMINATED, event.reason)
    if worker.state in (State.TERMINATED, State.SHUTTING_DOWN):
        return unwanted, []
    return _shut_down(unwanted, event.result, event.reason, now, event.drains)


def _restart(worker: Worker, event: Restart, now: float) -> Step:
    if worker.state in (State.INITIAL, State.TERMINATED):
        return _begin(worker, now)
    wanted = replace(worker, wanted=True, waits=False)
    if worker.state is State.SHUTTING_DOWN:
        return _at_once(wanted, now), []
    return _shut_down(wanted, "stopped", event.reason, now, True)


def _replace(worker: Worker, event: Replace, now: float) -> Step:
    if worker.state not in UP and worker.state is not State.STARTING:
        return worker, []  # it is ending or gone already
    return _kill(worker, event.result, event.reason, now)


def _hang(worker: Worker, event: Hang, now: float) -> Step:
    if worker.state not in UP or worker.paused_at is not None:
        return worker, []  # it is ending already, or paused
    return _abort(worker, event.reason, now)


def _halt(worker: Worker, event: Halt, now: float) -> Step:
    if worker.done:
        return worker, []  # it has nothing left to be ended
    if worker.state in (State.INITIAL, State.TERMINATED):
        return _stop(worker, Stop(reason=event.reason), now)
    if worker.state is State.SHUTTING_DOWN:
        return _escalate(replace(_unwanted(worker), stage=Stage.SIGNALLED), now)
    return _kill(_unwanted(worker), event.result, event.reason, now)


def _pause(worker: Worker, _: Pause, now: float) -> Step:
    runs = worker.pid is not None and (worker.state in UP or worker.state is State.STARTING)
    if not runs or worker.paused_at is not None:
        return worker, []  # there is nothing that could be frozen, or it is
    return replace(worker, paused_at=now, deadline=None), [Freeze()]


def _resume(worker: Worker, _: Resume, now: float) -> Step:
    """Restarts every wait: the part before the pause does not count."""
    if worker.paused_at is None:
        return worker, []
    awake, actions = _awake(worker, now)
    if awake.state is State.STARTING:
        return replace(awake, deadline=_start_deadline(awake, now)), actions
    if awake.idle_at is not None:
        awake = replace(awake, idle_at=now)
    return replace(awake, deadline=_next_check(awake, now)), actions


def _reset(worker: Worker, _: Reset, now: float) -> Step:
    fresh = replace(worker, history=History(), spawn_failures=0, restarts=0)
    is_at_rest = worker.state in (State.INITIAL, State.TERMINATED)
    if worker.wanted and not worker.waits and is_at_rest:
        return _start(fresh, Start(), now)
    return fresh, []


def _reconfigure(worker: Worker, event: Reconfigure, now: float) -> Step:
    changed = replace(worker, spec=event.spec)
    if worker.state in UP and worker.paused_at is None:
        return replace(changed, deadline=now), []  # Tick computes it anew from the new values
    backoff = worker.backoff
    if backoff is None:
        return changed, []
    due = backoff.since + backoff_s(event.spec.recovery, backoff.earlier, backoff.jitter)
    if worker.state is State.INITIAL:
        return replace(changed, deadline=due), []
    return replace(changed, resume_at=due), []


# -- reports of the process


def _spawned(worker: Worker, event: Spawned, now: float) -> Step:
    if worker.pid is not None or worker.exited:
        return worker, []  # reported twice
    up = replace(worker, pid=event.pid, spawn_failures=0)
    if worker.state is State.SHUTTING_DOWN:
        return up, [Kill()]  # it was given up before it ran
    if worker.state is not State.STARTING:
        return worker, []
    return replace(up, deadline=_start_deadline(worker, now)), []


def _spawn_failed(worker: Worker, event: SpawnFailed, now: float) -> Step:
    if worker.state not in (State.STARTING, State.SHUTTING_DOWN):
        return worker, []
    if worker.pid is not None or worker.exited:
        return worker, []  # it was reported as running, which cannot be taken back
    ended = replace(worker, tree=False, stage=None, deadline=None)
    if worker.state is State.SHUTTING_DOWN:
        ended = _conclude(ended, LastExit(worker.cause, at=event.at, message=worker.reason), event.jitter, now)
    else:
        last = LastExit(event.result, at=event.at, message=event.message)
        ended = replace(ended, last_exit=last, resume_at=None)
        if event.retryable and worker.wanted:
            backoff = Backoff(now, worker.spawn_failures, event.jitter)
            delay_s = backoff_s(worker.spec.recovery, backoff.earlier, backoff.jitter)
            failures = worker.spawn_failures + 1
            ended = replace(ended, resume_at=now + delay_s, backoff=backoff, spawn_failures=failures)
    return _join(_move(ended, State.TERMINATED, event.message), lambda dead: _initial(dead, now, event.message))


def _shaken(worker: Worker, _: Shaken, now: float) -> Step:
    if worker.state is not State.STARTING or worker.pid is None:
        return worker, []  # it was slower than its deadline
    return _ready(worker, "ready", now)


def _refused(worker: Worker, event: Refused, now: float) -> Step:
    if worker.state is not State.STARTING or worker.pid is None:
        return worker, []
    return _kill(worker, event.result, event.message, now)


def _worked(worker: Worker, event: Worked, now: float) -> Step:
    if event.busy and worker.state in (State.READY, State.IDLE):
        moved = _move(replace(worker, idle_at=None), State.BUSY, "takes work")
    elif not event.busy and worker.state is State.BUSY:
        moved = _move(replace(worker, idle_at=now), State.IDLE, "has no work")
    else:
        return worker, []
    if worker.deadline is None:
        return _watch(moved, now)
    return moved  # the deadline stands: a silent worker gains no time by being handed work


def _exited(worker: Worker, event: Exited, now: float) -> Step:
    if worker.exited or not worker.tree:
        return worker, []  # reported twice
    worker, _ = _awake(replace(worker, exited=True), now)  # what is left of it is killed as it is
    if worker.state is State.SHUTTING_DOWN:
        return _ended(worker, event, now)
    last = LastExit(
        event.result or ("exited" if event.signal is None else "signaled"),
        code=event.code,
        signal=event.signal,
        at=event.at,
        message=event.message or _words(event),
    )
    dead = _after_death(worker, last, worker.state, event.jitter, now)
    reason = dead.last_exit.message if dead.last_exit else last.message
    after, actions = _move(replace(dead, pid=None), State.TERMINATED, reason)
    return replace(after, deadline=now + KILL_INTERVAL_S), [*actions, Kill()]


def _after_death(worker: Worker, last: LastExit, left: State, jitter: float, now: float) -> Worker:
    """Returns the worker after an unrequested end in the state `left`."""
    if job.is_success(worker.spec, last):
        return job.succeeded(worker, last)
    ready_for_s = None if worker.ready_at is None else now - worker.ready_at
    counts = left is not State.BUSY
    decision = decide(
        job.policy(worker.spec),
        worker.history,
        clean=last.result == "exited" and last.code == 0 and ready_for_s is not None,
        counts=counts,
        ready_for_s=ready_for_s,
        jitter=jitter,
    )
    resume_at = worker.resume_at  # a start was requested while it was ending
    backoff: Backoff | None = None
    if not worker.wanted or worker.waits or resume_at is not None:
        pass  # it is settled what follows
    elif isinstance(decision, Again):
        resume_at = now + decision.delay_s
        if decision.delay_s > 0:
            backoff = Backoff(now, len(decision.history.failures) - counts, jitter)
    elif decision.gave_up:
        attempts = worker.spec.recovery.max_restart_attempts
        window_s = worker.spec.recovery.restart_window
        text = f"gave up after {attempts} restarts within {window_s:g} s: {last.message}"
        last = replace(last, result="restart-limit", message=text)
    return replace(
        worker,
        ready_at=None,
        idle_at=None,
        history=decision.history,
        last_exit=last,
        resume_at=resume_at,
        backoff=backoff,
    )


def _ended(worker: Worker, event: Exited, now: float) -> Step:
    """Handles the requested end of the leader; the rest of its tree may still live."""
    last = LastExit(
        worker.cause,
        code=event.code,
        signal=event.signal,
        forced=worker.stage is Stage.KILLED,
        at=event.at,
        message=worker.reason,
    )
    ended = replace(_conclude(worker, last, event.jitter, now), pid=None)
    if worker.stage is Stage.ASKED:  # the rest of the tree does not know the protocol
        name = worker.spec.process.stop_signal
        return replace(ended, stage=Stage.SIGNALLED, deadline=worker.kill_at), [Signal(name, True)]
    if worker.stage is Stage.ABORTED:
        return replace(ended, stage=Stage.KILLED, deadline=now + KILL_INTERVAL_S), [Kill()]
    return ended, []


def _conclude(worker: Worker, last: LastExit, jitter: float, now: float) -> Worker:
    """Returns the worker after an end that the daemon caused: on request, or because it was unfit."""
    if worker.cause in ASKED_FOR:
        ready_for_s = None if worker.ready_at is None else now - worker.ready_at
        history = after_life(worker.spec.recovery, worker.history, ready_for_s)
        resume_at = now if worker.wanted and not worker.waits else None
        return replace(worker, history=history, ready_at=None, last_exit=last, resume_at=resume_at)
    if worker.cause in ("exec-failed", NEEDS_LOGIN):
        return replace(worker, last_exit=last, ready_at=None)  # it would fail again
    return _after_death(worker, last, worker.left, jitter, now)


def _emptied(worker: Worker, _: Emptied, now: float) -> Step:
    if worker.state is State.SHUTTING_DOWN and worker.exited:
        gone = replace(worker, tree=False, stage=None, deadline=None)
        reason = worker.last_exit.message if worker.last_exit else worker.reason
        return _join(_move(gone, State.TERMINATED, reason), lambda dead: _initial(dead, now, reason))
    if worker.state is State.TERMINATED:
        return _initial(replace(worker, tree=False, deadline=None), now, worker.reason)
    return worker, []


# -- time


def _tick(worker: Worker, event: Tick, now: float) -> Step:
    if worker.deadline is None or now < worker.deadline:
        return worker, []
    if worker.state is State.INITIAL:
        return _spawn(worker, worker.reason, now)
    if worker.state is State.STARTING:
        return _starting_is_over(worker, now)
    if worker.state in UP:
        return _check_heart(worker, max(event.last_message_at, worker.ready_at or 0.0, worker.resumed_at), now)
    if event.serves and drain.goes_on(worker, now):
        return drain.put_off(worker, now), []
    return _escalate(worker, now)


def _starting_is_over(worker: Worker, now: float) -> Step:
    if _is_ready_by_living(worker.spec) and worker.pid is not None:
        return _ready(worker, STAYED_UP, now)
    if worker.spec.type == "oneshot" and worker.pid is not None:
        return _kill(worker, job.LATE, job.late_words(worker.spec), now)
    timeout_s = worker.spec.process.spawn_timeout
    words = f"not ready within {timeout_s:g} s"
    if worker.pid is not None:
        words += f": {awaited(worker.spec)}"
    return _kill(worker, "start-timeout", words, now)


def _check_heart(worker: Worker, last_message_at: float, now: float) -> Step:
    timeout_s = worker.spec.monitoring.heartbeat_timeout
    if worker.spec.speaks == "corral" and now >= last_message_at + timeout_s:
        return _abort(worker, f"sent no heartbeat for {timeout_s:g} s", now)
    if _idle_deadline(worker) <= now:
        return _shut_down(replace(worker, wanted=False), "stopped", "unused", now)
    return replace(worker, deadline=_next_check(worker, last_message_at)), []


def _abort(worker: Worker, reason: str, now: float) -> Step:
    """Moves a hanging worker to ShuttingDown: SIGABRT lets it dump its tracebacks, then it is killed."""
    hung = replace(worker, stage=Stage.ABORTED, cause="hung", left=worker.state)
    hung = replace(hung, deadline=now + ABORT_GRACE_S)
    after, actions = _move(hung, State.SHUTTING_DOWN, reason)
    return after, [*actions, Signal("SIGABRT", False)]


def _escalate(worker: Worker, now: float) -> Step:
    """Begins the next stage of a shutdown."""
    if worker.stage is Stage.ASKED:
        signalled = replace(worker, stage=Stage.SIGNALLED, deadline=worker.kill_at)
        return signalled, [Signal(worker.spec.process.stop_signal, True)]
    last = worker.last_exit
    if worker.state is State.SHUTTING_DOWN and worker.exited and last is not None:
        worker = replace(worker, last_exit=replace(last, forced=True))  # it left others behind
    return replace(worker, stage=Stage.KILLED, deadline=now + KILL_INTERVAL_S), [Kill()]


# -- the moves


def _initial(worker: Worker, now: float, reason: str, again: int = 1) -> Step:
    """Moves from Terminated to the next incarnation, if one is wanted."""
    if not worker.wanted or worker.resume_at is None:
        return worker, []
    waiting = replace(worker, deadline=worker.resume_at, resume_at=None)
    if again and worker.last_exit is not None and worker.last_exit.result in ASKED_FOR:
        waiting = replace(waiting, renewals=worker.renewals + again)
    else:
        waiting = replace(waiting, restarts=worker.restarts + again)
    moved = _move(waiting, State.INITIAL, reason)
    if waiting.deadline is not None and waiting.deadline <= now:
        return _join(moved, lambda fresh: _spawn(fresh, reason, now))
    return moved


def _spawn(worker: Worker, reason: str, now: float) -> Step:
    starting = replace(
        worker,
        incarnation=worker.incarnation + 1,
        tree=True,
        pid=None,
        exited=False,
        stage=None,
        cause="",
        ready_at=None,
        idle_at=None,
        resume_at=None,
        backoff=None,
        paused_s=0.0,
        resumed_at=0.0,
        deadline=now + worker.spec.process.spawn_timeout,
    )
    after, actions = _move(starting, State.STARTING, reason)
    return after, [*actions, Spawn(starting.incarnation)]


def _ready(worker: Worker, reason: str, now: float) -> Step:
    return _watch(_move(replace(worker, ready_at=now, idle_at=now), State.READY, reason), now)


def _watch(moved: Step, now: float) -> Step:
    worker, actions = moved
    return replace(worker, deadline=_next_check(worker, now)), actions


def _next_check(worker: Worker, last_message_at: float) -> float | None:
    if worker.paused_at is not None:
        return None
    checks = [_idle_deadline(worker)]
    if worker.spec.speaks == "corral":
        checks.append(last_message_at + worker.spec.monitoring.heartbeat_timeout)
    soonest = min(checks)
    return None if soonest == float("inf") else soonest


def _idle_deadline(worker: Worker) -> float:
    timeout_s = worker.spec.idle_timeout if worker.spec.kind == "mcp" else 0.0
    if worker.state is State.BUSY or worker.idle_at is None or timeout_s <= 0:
        return float("inf")
    return worker.idle_at + timeout_s


def _shut_down(worker: Worker, cause: str, reason: str, now: float, replaced: bool = False) -> Step:
    grace_s = worker.spec.process.shutdown_grace_period
    if worker.pid is None:
        return _kill(worker, cause, reason, now)  # no process runs yet that could end itself
    awake, thawed = _awake(worker, now)
    asked = replace(
        awake,
        stage=Stage.ASKED,
        cause=cause,
        left=worker.state,
        deadline=now + grace_s / 2,
        kill_at=now + grace_s,
        drain_until=drain.until(worker, now, replaced=replaced),
    )
    after, actions = _move(asked, State.SHUTTING_DOWN, reason)
    return after, [*actions, *thawed, Ask(grace_s)]


def _kill(worker: Worker, cause: str, reason: str, now: float) -> Step:
    """Moves to ShuttingDown without grace, frozen or not: it never became ready, or is unfit."""
    awake, _ = _awake(worker, now)
    killed = replace(
        awake, stage=Stage.KILLED, cause=cause, left=worker.state, kill_at=now, deadline=now + KILL_INTERVAL_S
    )
    after, actions = _move(killed, State.SHUTTING_DOWN, reason)
    return after, [*actions, Kill()]


def _awake(worker: Worker, now: float) -> Step:
    """Ends a pause."""
    if worker.paused_at is None:
        return worker, []
    ready_at = worker.ready_at
    if ready_at is not None:
        ready_at += now - max(ready_at, worker.paused_at)
    awake = replace(worker, paused_at=None, paused_s=worker.frozen_s(now), resumed_at=now, ready_at=ready_at)
    return awake, [Thaw()]


def _unwanted(worker: Worker) -> Worker:
    worker = replace(worker, drain_until=0.0)
    return replace(worker, wanted=False, waits=False, resume_at=None, backoff=None, done=False)


def _at_once(worker: Worker, now: float) -> Worker:
    """Lets it start again as soon as its tree is empty."""
    return replace(worker, resume_at=now, backoff=None)


def _start_deadline(worker: Worker, now: float) -> float | None:
    """Returns when a running program has to be ready, or a job to have ended; None where that may take any time."""
    spec = worker.spec
    if spec.type == "oneshot":
        return now + spec.timeout if spec.timeout > 0 else None
    return now + (ALIVE_S if _is_ready_by_living(spec) else spec.process.spawn_timeout)


def _is_ready_by_living(spec: Spec) -> bool:
    return spec.protocol == "none" and spec.ready is None and spec.type == "service"


def _words(event: Exited) -> str:
    if event.signal is not None:
        return f"killed by {event.signal}"
    return f"exited with status {event.code}"


_HANDLERS: dict[type[Event], Callable[[Worker, Any, float], Step]] = {  # each by its event's type
    Start: _start,
    Want: _want,
    Stop: _stop,
    Restart: _restart,
    Replace: _replace,
    Hang: _hang,
    Halt: _halt,
    Pause: _pause,
    Resume: _resume,
    Reset: _reset,
    Reconfigure: _reconfigure,
    Spawned: _spawned,
    SpawnFailed: _spawn_failed,
    Shaken: _shaken,
    Refused: _refused,
    Worked: _worked,
    Exited: _exited,
    Emptied: _emptied,
    Tick: _tick,
}
