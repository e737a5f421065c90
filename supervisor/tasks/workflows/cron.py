"""Decides when a schedule is due: on a grid of seconds, or by a cron expression (crontab(5)) in a time zone.

Pure: times in, times out, all in seconds of the Unix epoch; no clock. Every question is "the next time after", so
that a clock that jumps, however far, never makes more than one run due.
"""

from datetime import UTC, datetime, tzinfo
from math import floor

from msgspec import Struct

from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.config.spec import job

LATE_S = 60.0
"""Seconds after which a run was missed: the daemon was down, or the clock was set."""

JUMP_S = 600.0
"""Seconds by which the clock has to be set back to be followed; by less, nothing runs until it is where it was."""

LAST = 253_402_300_799.0
"""Seconds of the Unix epoch at the end of the year 9999, the last one of `datetime`."""


class Times(Struct, frozen=True):
    """Represents times: `anchor` and every `every_s` seconds before and after it, or those of `cron` in `timezone`.

    A `timezone` of None is UTC. Nothing is due before `start`, where there is one, and a grid has it as its anchor.
    With `at` there is that one time.
    """

    anchor: float
    every_s: float | None = None
    cron: str | None = None
    timezone: str | None = None
    start: float | None = None
    at: float | None = None


class Due(Struct, frozen=True):
    """Represents a decision: the time `run` that is due now, if any, and the next one.

    `next_at` None means never. `missed`: the run comes late, since no daemon ran when it was due.
    """

    run: float | None
    next_at: float | None
    missed: bool = False


def check(times: Times) -> None:
    """Returns if the times can be computed."""
    if [times.every_s, times.cron, times.at].count(None) != 2:
        raise Refused("give every_s, cron or at", "every_s")
    if times.timezone is not None and times.cron is None:
        raise Refused("a time zone is for cron: other times are the same everywhere", "timezone")
    _zone(times.timezone)
    if times.cron is not None and following(times, times.anchor) is None:
        raise Refused("no day is like that", "cron")


def following(times: Times, after: float) -> float | None:
    """Returns the first time after `after`; None when there is none."""
    if times.at is not None:
        return times.at if after < times.at else None
    if times.start is not None and after < times.start:
        if times.every_s is not None:
            return times.start
        after = times.start - 1e-6  # it may be due right then
    if times.every_s is not None:
        steps = floor((after - times.anchor) / times.every_s) + 1
        due = times.anchor + steps * times.every_s
        if due <= after:  # the division has rounded it away
            due = times.anchor + (steps + 1) * times.every_s
        return due if due <= LAST else None
    assert times.cron is not None, "a schedule has one of the two"
    return _by_cron(times.cron, _zone(times.timezone), after)


def decide(times: Times, next_at: float | None, last_due: float | None, now: float) -> Due:
    """Returns the run that is due now, if `next_at` was to be the next time and `last_due` the time of the last run.

    However many times have passed, they are one run, for the first of them. When the clock was set back, the times
    between are due again, unless that is so little that each run would be made twice.
    """
    if next_at is None:
        return Due(None, None)
    if now >= next_at:
        return Due(next_at, following(times, now), missed=now - next_at > LATE_S)
    if last_due is not None and now < last_due - JUMP_S:
        return Due(None, following(times, now))
    return Due(None, next_at)


def _by_cron(expression: str, zone: tzinfo, after: float) -> float | None:
    due = job.following(expression, datetime.fromtimestamp(after, zone))
    return None if due is None else due.astimezone(UTC).timestamp()


def _zone(name: str | None) -> tzinfo:
    return UTC if name is None else job.zone(name)
