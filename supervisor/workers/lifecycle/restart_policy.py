"""Decides whether and when a worker that has ended is started again.

Intensity is counted as Erlang's supervisors do (https://www.erlang.org/doc/system/sup_princ: at most
MaxR restarts in MaxT seconds), with two differences: there is a backoff, and the window runs over
the time that the worker spent Ready. A crash loop of slow starters therefore ends as surely as one of
fast ones, and a clock that jumps, or a machine that sleeps, changes nothing.
"""

from msgspec import Struct

from corral.supervisor.config.spec.spec import Recovery

JITTER = 0.2
"""Fraction by which delays vary to either side, so that workers that died together do not return together."""


class History(Struct, frozen=True):
    """Summarizes the earlier lives of a worker.

    `ready_s` is the time spent Ready over all lives; `failures` are the counted ends, as points on
    that clock, oldest first.
    """

    ready_s: float = 0.0
    failures: tuple[float, ...] = ()


class Again(Struct, frozen=True):
    """Requests a start, `delay_s` seconds after the end."""

    delay_s: float
    history: History


class Rest(Struct, frozen=True):
    """Requests no further start: by the policy, or (`gave_up`) after too many attempts."""

    gave_up: bool
    history: History


def decide(
    recovery: Recovery, history: History, *, clean: bool, counts: bool, ready_for_s: float | None, jitter: float
) -> Again | Rest:
    """Decides what follows an unrequested end of a worker."""
    lived = after_life(recovery, history, ready_for_s)
    earlier = len(lived.failures)
    if not _wants_restart(recovery, clean):
        return Rest(False, lived)
    if counts and earlier >= recovery.max_restart_attempts:
        return Rest(True, lived)
    if counts:
        lived = History(lived.ready_s, (*lived.failures, lived.ready_s))
    if ready_for_s is not None and ready_for_s >= recovery.restart_backoff_base:
        return Again(0.0, lived)
    return Again(backoff_s(recovery, earlier, jitter), lived)


def after_life(recovery: Recovery, history: History, ready_for_s: float | None) -> History:
    """Returns the history after one more life, however it ended: failures expire with time spent Ready.

    A life that never was Ready (None) adds no time, so failures of starts do not grow old by themselves.
    """
    clock = history.ready_s + (ready_for_s or 0.0)
    if ready_for_s is not None and ready_for_s >= recovery.healthy_after:
        return History(clock)
    window_s = recovery.restart_window
    return History(clock, tuple(at for at in history.failures if clock - at < window_s))


def backoff_s(recovery: Recovery, earlier: int, jitter: float) -> float:
    """Returns the seconds to wait after `earlier` ends of the same kind: base, doubled each time, up to the maximum, ±20 %."""
    doubled = recovery.restart_backoff_base * 2.0 ** min(earlier, 32)
    return min(doubled, recovery.restart_backoff_max) * (1 + JITTER * (2 * jitter - 1))


def _wants_restart(recovery: Recovery, clean: bool) -> bool:
    if not recovery.enable_auto_restart or recovery.restart == "never":
        return False
    return recovery.restart == "always" or not clean
