"""Counts durations in buckets of a constant relative width, so that histograms of any times and subjects can be added.

Eight buckets double the duration: a quantile is the middle of its bucket, at most 4.5 % from the exact one. Only buckets
that hold something take room.
"""

from collections.abc import Iterable, Mapping
from math import log2

LEAST_MS = 0.001
"""Milliseconds below which all durations are in bucket 0."""

PER_DOUBLING = 8
"""Number of buckets from one duration to its double."""

LAST = PER_DOUBLING * 36
"""Number of the last bucket, which has all durations from about 19 hours on."""

Buckets = dict[int, int]
"""Number of durations by bucket."""


def bucket_of(duration_ms: float) -> int:
    """Returns the bucket of a duration in milliseconds."""
    if duration_ms < LEAST_MS:
        return 0
    return min(LAST, int(log2(duration_ms / LEAST_MS) * PER_DOUBLING) + 1)


def upper_ms(bucket: int) -> float:
    """Returns the duration in milliseconds below which those of a bucket are; infinite for the last one."""
    return float("inf") if bucket >= LAST else LEAST_MS * 2.0 ** (bucket / PER_DOUBLING)


def merged(histograms: Iterable[Mapping[int, int]]) -> Buckets:
    """Returns the sum of histograms."""
    found: Buckets = {}
    for each in histograms:
        for bucket, count in each.items():
            found[bucket] = found.get(bucket, 0) + count
    return found


def difference(later: Mapping[int, int], earlier: Mapping[int, int]) -> Buckets:
    """Returns what a histogram has gained since `earlier`."""
    gained = {bucket: count - earlier.get(bucket, 0) for bucket, count in later.items()}
    return {bucket: count for bucket, count in gained.items() if count > 0}


def quantile_ms(buckets: Mapping[int, int], percent: float) -> float | None:
    """Returns the duration that `percent` of all do not exceed, by the nearest rank; None where there is none."""
    count = sum(buckets.values())
    if not count:
        return None
    rank = max(1, -int(-percent * count // 100))
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            return round(_middle_ms(bucket), 4)
    raise AssertionError("the rank is at most the number of durations")


def _middle_ms(bucket: int) -> float:
    return LEAST_MS * 2.0 ** ((bucket - 0.5) / PER_DOUBLING) if bucket else LEAST_MS / 2
