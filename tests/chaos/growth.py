"""Says from samples of what a process holds whether it leaks.

    leak      it grew by more than is allowed, and still did in the second half
    plateau   it grew by more than is allowed, and no longer did in the second half: a cache that has filled
    none      it did not grow by more than is allowed
    short     too little time after the warm-up to say

The samples of one moment depend on each other, so that the time is cut into blocks, and the median of each counts. A
line through the medians by least squares has an interval of 95 %; growth counts by the lower bound.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WARM_UP_SHARE, WARM_UP_H_MAX = 0.25, 0.5

LEAST_H = 0.25
"""Hours after the warm-up from which on there is a verdict: caches fill meanwhile."""

BLOCKS = 12

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""The 97.5 % point of Student's t for 1 to 10 degrees of freedom."""

ALLOWED = {
    "daemon RSS": 256 * 1024,
    "daemon PSS": 256 * 1024,
    "launcher RSS": 128 * 1024,
    "launcher PSS": 128 * 1024,
    "blocks": 3000,
    "tasks": 2,
    "threads": 1,
    "descriptors": 2,
    "launcher descriptors": 2,
    "processes": 2,
    "files": 10,
    "database": 1024 * 1024,
}
"""Growth in an hour that is none, by measure: bytes or numbers."""


class Row(NamedTuple):
    """One sample: hours and operations since the begin, and what was held, by measure."""

    hours: float
    operations: int
    held: Mapping[str, float]


class Slope(NamedTuple):
    """Growth in one unit of x, with the bounds of its interval."""

    low: float
    best: float
    high: float


def slope(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """The slope of a line through three points or more."""
    best, base = statistics.linear_regression(xs, ys)
    freedom = len(xs) - 2
    rest = sum((y - base - best * x) ** 2 for x, y in zip(xs, ys, strict=True)) / freedom
    margin = STUDENT[min(freedom, len(STUDENT)) - 1] * (rest / statistics.variance(xs) / (len(xs) - 1)) ** 0.5
    return Slope(best - margin, best, best + margin)


def verdict(hours: Sequence[float], held: Sequence[float], allowed: float) -> str:
    """What the growth of a measure is."""
    if hours[-1] - hours[0] < LEAST_H:
        return "short"
    if slope(hours, held).low < allowed:
        return "none"
    half = len(hours) // 2
    return "leak" if slope(hours[half:], held[half:]).low > 0 else "plateau"


def table(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The lines of a table of all measures, and the names of those that leak."""
    warm_up_h = min(WARM_UP_SHARE * rows[-1].hours, WARM_UP_H_MAX)
    warm = [row for row in rows if row.hours >= warm_up_h]
    size = len(warm) // BLOCKS
    blocks = [warm[size * at : size * (at + 1)] for at in range(BLOCKS)]
    hours = [statistics.median(row.hours for row in block) for block in blocks]
    operations = [statistics.median(row.operations for row in block) for block in blocks]
    lines = [f"{'':22}{'warm':>13}{'end':>13}{'per hour':>13}{'95 %':>28}{'per operation':>15}  verdict"]
    leaking: list[str] = []
    for measure, allowed in ALLOWED.items():
        held = [statistics.median(row.held[measure] for row in block) for block in blocks]
        low, best, high = slope(hours, held)
        found = verdict(hours, held, allowed)
        lines.append(
            f"{measure:22}{held[0]:13,.0f}{held[-1]:13,.0f}{best:13,.0f}{f'{low:,.0f} to {high:,.0f}':>28}"
            f"{slope(operations, held).best:15.4f}  {found}"
        )
        if found == "leak":
            leaking.append(measure)
    return lines, leaking
