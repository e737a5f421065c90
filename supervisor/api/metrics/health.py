"""Scores the health of an agent from 0 to 100 by what happened to it within a window. Pure; docs/reference/metrics.md has the formula."""

from collections.abc import Iterable, Mapping

FULL = 100

ERRORS_MOST = 60
"""Number of points that failed tasks take at most: all of at least ERRORS_LEAST."""

ERRORS_LEAST = 5
"""Number of tasks by which the failed ones are divided at least, so that one failure alone takes few points."""

POINTS: Mapping[str, tuple[int, int]] = {
    "restarts": (10, 40),
    "failed_checks": (5, 30),
    "limit_hits": (5, 20),
    "hung": (20, 40),
}
"""Numbers of points: of each incident of a kind, and of all of the kind at most."""


def health_score(
    ends: Iterable[tuple[float, bool]],
    incidents: Iterable[tuple[float, str]],
    *,
    since: float,
    has_given_up: bool = False,
) -> int:
    """Returns the score: 100 is an agent to which nothing bad happened."""
    if has_given_up:
        return 0
    outcomes = [ok for at, ok in ends if at > since]
    failed = len(outcomes) - sum(outcomes)
    taken = ERRORS_MOST * failed / max(len(outcomes), ERRORS_LEAST)
    kinds = [kind for at, kind in incidents if at > since]
    for kind in set(kinds):
        each, most = POINTS[kind]
        taken += min(each * kinds.count(kind), most)
    return max(0, round(FULL - taken))
