"""Chooses the resolution that fits a question about the history, and puts its rows together. Pure.

A step in which no daemon collected has no point. One in which the daemon collected and the subject has no row is a step
in which nothing happened to it: its gauges are those of its last row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from corral.supervisor.config.spec.spec import Metrics
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import tenant_of

from .step import DAEMON, PERIOD_MS, Step, Tier, added, beside


class Ranking(NamedTuple):
    """Holds names, the first in each list before the others."""

    best: list[str]
    worst: list[str]
    slowest: list[str]
    expensive: list[str]


def ranking(steps: Mapping[str, Step], limit: int) -> Ranking:
    """Returns the first `limit` of each kind; a list has only subjects to which it applies."""

    def first(names: Iterable[str], key: Callable[[str], tuple[float, ...]]) -> list[str]:
        return sorted(names, key=lambda name: (*key(name), name))[:limit]

    judged = {name: rate for name, step in steps.items() if (rate := step.error_rate) is not None}
    averages = {name: each for name, step in steps.items() if (each := step.average_ms) is not None}
    failing = [name for name, rate in judged.items() if rate > 0]
    paid = [name for name, step in steps.items() if step.cost_cents or step.tokens]
    return Ranking(
        best=first(judged, lambda name: (judged[name], -steps[name].ok)),
        worst=first(failing, lambda name: (-judged[name], -steps[name].failed)),
        slowest=first(averages, lambda name: (-averages[name],)),
        expensive=first(paid, lambda name: (-steps[name].cost_cents, -steps[name].tokens)),
    )


def by_tenant(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Returns the sums of subjects by tenant, "" for the owner, the most expensive first; empty without any tenant."""
    found: dict[str, Step] = {}
    for name, step in steps.items():
        tenant = tenant_of(name)
        found[tenant] = beside(found[tenant], step) if tenant in found else step
    if not any(found):
        return {}
    return dict(sorted(found.items(), key=lambda it: (-it[1].cost_cents, -it[1].executed, it[0])))


def problems(step: Step, asked: Metrics) -> list[str]:
    """Returns the reasons why a subject is a problem, as text; empty if it is none."""
    found: list[str] = []
    rate, average_ms = step.error_rate, step.average_ms
    judged = step.ok + step.failed
    is_enough = judged >= asked.problem_error_tasks
    if rate is not None and is_enough and rate * 100 > asked.problem_error_percent:
        found.append(f"{step.failed} of {judged} failed: {rate:.0%}")
    is_slow = average_ms is not None and average_ms > asked.problem_average * 1000
    if average_ms is not None and is_slow and step.timed >= asked.problem_average_tasks:
        found.append(f"{average_ms / 1000:.3g} s on average")
    return found


POINTS = 720
"""Number of points that are returned at most where no step is asked for."""

POINTS_MAX = 5_000
"""Number of points that are returned at most."""


class Range(NamedTuple):
    """Describes the points of an answer: those of steps that begin from `since_ms` on, and before `until_ms`."""

    tier: Tier
    since_ms: int
    until_ms: int
    step_ms: int


class Point(NamedTuple):
    """Represents one step of an answer. `span_ms` is the time in it for which the daemon collected."""

    at_ms: int
    span_ms: int
    step: Step


def chosen_range(
    since_ms: int,
    until_ms: int,
    step_ms: int | None,
    *,
    now_ms: int,
    interval_ms: int,
    retention_ms: Mapping[Tier, int],
) -> Range:
    """Returns the finest range that has what is asked for, within the limits of points."""
    if until_ms <= since_ms:
        raise InvalidParams("cannot show the history: since is not before until", key="since")
    tiers = [each for each in Tier if since_ms >= now_ms - retention_ms[each]] or [Tier.HOUR]
    periods = {each: PERIOD_MS.get(each, interval_ms) for each in tiers}
    length_ms = until_ms - since_ms
    if step_ms is None:
        fitting = [each for each in tiers if length_ms <= periods[each] * POINTS]
        tier = fitting[0] if fitting else tiers[-1]
        step_ms = periods[tier] * -(-length_ms // (periods[tier] * POINTS))
    else:
        tier = next((each for each in reversed(tiers) if periods[each] <= step_ms), tiers[0])
        step_ms = periods[tier] * -(-step_ms // periods[tier])
        if length_ms > step_ms * POINTS_MAX:
            text = f"cannot show {length_ms // step_ms} points: the limit is {POINTS_MAX}"
            raise InvalidParams(text, key="step_s", limit=POINTS_MAX)
    return Range(tier, since_ms - since_ms % step_ms, until_ms, step_ms)


RANKED_ROWS = 200_000
"""Number of rows that a ranking reads, about."""


def ranking_tier(
    since_ms: int, until_ms: int, subjects: int, *, interval_ms: int, retention_ms: Mapping[Tier, int]
) -> Tier:
    """Returns the finest tier that is still there and has at most RANKED_ROWS rows of so many subjects."""
    for tier in Tier:
        rows = (until_ms - since_ms) // PERIOD_MS.get(tier, interval_ms) * subjects
        if since_ms >= until_ms - retention_ms[tier] and rows <= RANKED_ROWS:
            return tier
    return Tier.HOUR


def points(
    chosen: Range,
    subject: str,
    daemon_rows: Sequence[tuple[int, Step]],
    subject_rows: Sequence[tuple[int, Step]],
    before: Step | None,
) -> list[Point]:
    """Returns the points of a subject."""
    found: list[Point] = []
    held = before
    index = 0
    for at_ms, daemon in daemon_rows:
        if subject == DAEMON:
            here: Step | None = daemon
        else:
            if daemon.begins:
                held = None
            while index < len(subject_rows) and subject_rows[index][0] < at_ms:
                index += 1  # the daemon has no row of that time: a part of a step was lost
            here = None
            if index < len(subject_rows) and subject_rows[index][0] == at_ms:
                here = subject_rows[index][1]
                index += 1
            elif held is not None:
                here = held.gauges_alone()
            held = here
        if here is None:
            continue
        begin_ms = at_ms - (at_ms - chosen.since_ms) % chosen.step_ms
        if found and found[-1].at_ms == begin_ms:
            last = found[-1]
            found[-1] = Point(begin_ms, last.span_ms + daemon.span_ms, added(last.step, here))
        else:
            found.append(Point(begin_ms, daemon.span_ms, here))
    return found


def together(series: Iterable[Sequence[Point]]) -> list[Point]:
    """Returns the points of several subjects of one range as those of one."""
    found: dict[int, Point] = {}
    for point in chain.from_iterable(series):
        other = found.get(point.at_ms)
        found[point.at_ms] = point if other is None else point._replace(step=beside(other.step, point.step))
    return [found[at_ms] for at_ms in sorted(found)]
