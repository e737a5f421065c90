"""Decides about one health check of one worker: `step(health, event, now) -> (health, actions)`.

This module decides when the check runs, when bad results are a failure, which recovery follows, and
when the agent counts as degraded. It performs nothing: the shell performs the actions, answers every Ask and
every Recover once, and bounds how long that takes. `now` is the monotonic clock.

`threshold` bad results in a row are one failure. For each failure the recovery runs once, and the check is
repeated soon. At `failure_threshold` failures in a row the check is degraded, until it passes; with graceful
degradation switched off, the worker is replaced instead. Failures in a row are counted over all
incarnations, because a recovery may be a restart; bad results are counted within one.

The one `deadline` is the time of the next run. Only a worker that is up and not paused is checked. A
result belongs to a `run`; that of an earlier one, from before an end or a pause, changes nothing.
"""

import enum
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.spec.probe_spec import Check

RECHECK_S = 1.0
"""Seconds from a recovery, or a result that did not count, to the next run; at most the interval."""


class Phase(enum.StrEnum):
    """Represents the present activity of the check."""

    RESTING = "resting"
    WAITING = "waiting"
    ASKING = "asking"
    RECOVERING = "recovering"


class Rule(Struct, frozen=True):
    """Holds the configuration: the check with all defaults filled in, and the consequence of its failures."""

    check: Check
    failure_threshold: int
    is_graceful: bool

    @property
    def interval_s(self) -> float:
        """Returns the seconds between a result and the next run."""
        assert self.check.interval is not None, "Spec.checks fills it in"
        return self.check.interval

    @property
    def start_delay_s(self) -> float:
        """Returns the seconds from Ready to the first run."""
        assert self.check.start_delay is not None, "Spec.checks fills it in"
        return self.check.start_delay


class Health(Struct, frozen=True):
    """Holds the state of one check of one worker.

    `healthy` is None until it has passed or failed once. `misses` are bad results in a row, `failures` failures in
    a row; `message` describes the last result, "" if it was good, and `at` is its wall-clock
    time.
    """

    rule: Rule
    phase: Phase = Phase.RESTING
    incarnation: int = 0
    run: int = 0
    deadline: float | None = None
    asked_at: float = 0.0
    misses: int = 0
    failures: int = 0
    healthy: bool | None = None
    degraded: bool = False
    message: str = ""
    at: str = ""

    @property
    def name(self) -> str:
        """Returns the name of the check."""
        return self.rule.check.name


# -- events


class Up(Struct, frozen=True):
    """Reports that the worker is up in this incarnation, and may be checked."""

    incarnation: int


class Down(Struct, frozen=True):
    """Reports that the worker must not be checked: it is starting, ending, dead, or paused."""


class Configure(Struct, frozen=True):
    """Reports a change of the configuration."""

    rule: Rule


class Tick(Struct, frozen=True):
    """Reports that the deadline may have come."""


class Answer(Struct, frozen=True):
    """Reports the result of a run. `awake_since` is the time when the daemon last woke from a stall."""

    run: int
    is_good: bool
    message: str
    at: str
    awake_since: float = 0.0


class Hurry(Struct, frozen=True):
    """Requests the first run of an incarnation at once."""


class Acted(Struct, frozen=True):
    """Reports that the recovery of a run has ended, with or without success."""

    run: int


Event = Up | Down | Configure | Tick | Hurry | Answer | Acted


# -- actions


class Ask(Struct, frozen=True):
    """Requests one run of the check; the shell answers with Answer."""

    run: int


class Recover(Struct, frozen=True):
    """Requests one run of the recovery; the shell answers with Acted."""

    run: int
    recovery: str


class Hang(Struct, frozen=True):
    """Requests the replacement of the worker, like one without heartbeats."""

    reason: str


class Fail(Struct, frozen=True):
    """Requests an event about one more failure."""

    failures: int
    message: str


class Degrade(Struct, frozen=True):
    """Requests an event and an alert: the check degrades the agent."""

    failures: int
    message: str


class Pass(Struct, frozen=True):
    """Requests an event: the check passes after failures; also an alert if that ends a degradation."""

    was_degraded: bool


Action = Ask | Recover | Hang | Fail | Degrade | Pass

Step = tuple[Health, list[Action]]


def step(health: Health, event: Event, now: float) -> Step:
    """Returns the check after the event, and the actions in order."""
    return _HANDLERS[type(event)](health, event, now)


def silent_at(*, asked_at: float, last_message_at: float, rested_at: float, timeout_s: float) -> float:
    """Returns the time from which a server without any message counts as silent.

    Time in which it had an excuse, until `rested_at`, does not count.
    """
    return max(asked_at, last_message_at, rested_at) + timeout_s


def _up(health: Health, event: Up, now: float) -> Step:
    if health.phase is not Phase.RESTING and health.incarnation == event.incarnation:
        return health, []  # it was up before
    is_new = health.incarnation != event.incarnation
    delay_s = health.rule.start_delay_s if is_new else health.rule.interval_s
    fresh = replace(health, incarnation=event.incarnation)
    return replace(fresh, phase=Phase.WAITING, misses=0, deadline=now + delay_s), []


def _down(health: Health, _: Down, now: float) -> Step:
    if health.phase is Phase.RESTING:
        return health, []
    return replace(health, phase=Phase.RESTING, misses=0, deadline=None), []


def _configure(health: Health, event: Configure, now: float) -> Step:
    changed = replace(health, rule=event.rule)
    if health.rule == event.rule:
        return health, []
    if health.phase is Phase.ASKING:
        return _again_soon(changed, now)  # it was another check
    if health.phase is not Phase.WAITING:
        return changed, []
    assert health.deadline is not None, "a waiting check has a deadline"
    return replace(changed, deadline=min(health.deadline, now + event.rule.interval_s)), []


def _tick(health: Health, _: Tick, now: float) -> Step:
    if health.phase is not Phase.WAITING or health.deadline is None or now < health.deadline:
        return health, []
    run = health.run + 1
    return replace(health, phase=Phase.ASKING, run=run, asked_at=now, deadline=None), [Ask(run)]


def _hurry(health: Health, _: Hurry, now: float) -> Step:
    is_first = health.phase is Phase.WAITING and not health.at
    return (replace(health, deadline=now) if is_first else health), []


def _answer(health: Health, event: Answer, now: float) -> Step:
    if health.phase is not Phase.ASKING or event.run != health.run:
        return health, []  # of an earlier life, or reported twice
    if event.is_good:
        return _passed(replace(health, message="", at=event.at), now)
    if event.awake_since > health.asked_at:
        return _again_soon(health, now)  # the daemon stood still meanwhile: not the fault of the worker
    missed = replace(health, message=event.message, at=event.at, misses=health.misses + 1)
    if missed.misses < health.rule.check.threshold:
        return _wait(missed, health.rule.interval_s, now), []
    return _failed(replace(missed, misses=0), now)


def _acted(health: Health, event: Acted, now: float) -> Step:
    if health.phase is not Phase.RECOVERING or event.run != health.run:
        return health, []
    return _again_soon(health, now)


def _passed(health: Health, now: float) -> Step:
    actions: list[Action] = []
    if health.failures or health.degraded:
        actions.append(Pass(health.degraded))
    well = replace(health, misses=0, failures=0, healthy=True, degraded=False)
    return _wait(well, health.rule.interval_s, now), actions


def _failed(health: Health, now: float) -> Step:
    rule, check = health.rule, health.rule.check
    failures = health.failures + 1
    failed = replace(health, failures=failures, healthy=False)
    actions: list[Action] = [Fail(failures, health.message)]
    is_beyond = failures >= rule.failure_threshold
    if is_beyond and rule.is_graceful and not health.degraded:
        failed = replace(failed, degraded=True)
        actions.append(Degrade(failures, health.message))
    given_up = is_beyond and not rule.is_graceful
    if check.way == "mcp" or given_up:
        if given_up:
            failed = replace(failed, failures=0)  # the next life has its own
        actions.append(Hang(f'health check "{check.name}" has failed: {health.message}'))
    elif check.recovery != "none":
        actions.append(Recover(health.run, check.recovery))
        return replace(failed, phase=Phase.RECOVERING, deadline=None), actions
    return _wait(failed, rule.interval_s, now), actions


def _again_soon(health: Health, now: float) -> Step:
    return _wait(health, min(health.rule.interval_s, RECHECK_S), now), []


def _wait(health: Health, wait_s: float, now: float) -> Health:
    return replace(health, phase=Phase.WAITING, deadline=now + wait_s)


_HANDLERS: dict[type[Event], Callable[[Health, Any, float], Step]] = {  # each by its event's type
    Up: _up,
    Down: _down,
    Configure: _configure,
    Tick: _tick,
    Hurry: _hurry,
    Answer: _answer,
    Acted: _acted,
}
