"""Defines what the history keeps of one subject in one step of time, and how steps are added and rolled up to minutes and hours.

A counter has what came in this step. A gauge has its value at the end of the step, a peak the highest. A step belongs to the
minute in which it ended, which is complete when a step of another one comes; the hour likewise. Pure: times are arguments, in
milliseconds since 1970.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .histogram import Buckets, difference
from .histogram import merged as merged_buckets

DAEMON = ""
"""The subject that stands for the whole daemon; each other one is the name of an agent or MCP server."""


class Step(Struct, frozen=True, array_like=True):
    """Holds the figures of one subject in one step. New fields are appended: the store has it as an array.

    `begins` is true in the first step of a daemon: gauges of earlier steps hold no longer. `storage` has bytes by part.
    """

    span_ms: int = 0
    begins: bool = False
    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost_cents: float = 0.0
    cpu_ms: float = 0.0
    restarts: int = 0
    failed_checks: int = 0
    limit_hits: int = 0
    hung: int = 0
    duration_ms: float = 0.0
    durations: Buckets = {}
    up: int = 0
    processes: int = 0
    memory_bytes: int = 0
    open_files: int = 0
    queued: int = 0
    running: int = 0
    memory_peak_bytes: int = 0
    queued_peak: int = 0
    storage: dict[str, int] | None = None

    @property
    def executed(self) -> int:
        """Returns the number of tasks, or of calls of a server, that ended."""
        return self.ok + self.failed + self.cancelled

    @property
    def timed(self) -> int:
        """Returns the number of durations."""
        return sum(self.durations.values())

    @property
    def error_rate(self) -> float | None:
        """Returns the share that failed of those that were not cancelled; None without any."""
        judged = self.ok + self.failed
        return self.failed / judged if judged else None

    @property
    def average_ms(self) -> float | None:
        """Returns the average duration; None without any."""
        return self.duration_ms / self.timed if self.durations else None

    def gauges_alone(self) -> "Step":
        """Returns a step of the same gauges in which nothing happened."""
        held = {gauge: getattr(self, gauge) for gauge in GAUGES}
        return Step(**held, memory_peak_bytes=self.memory_bytes, queued_peak=self.queued)


COUNTERS = (
    *("ok", "failed", "cancelled", "tool_calls", "tokens"),
    *("restarts", "failed_checks", "limit_hits", "hung"),
)

AMOUNTS = ("cost_cents", "cpu_ms", "duration_ms")
"""Counters that are no whole numbers."""

DIGITS = 6
"""Digits after the point of an amount."""

GAUGES = ("up", "processes", "memory_bytes", "open_files", "queued", "running")

PEAKS = ("memory_peak_bytes", "queued_peak")


def added(earlier: Step, later: Step) -> Step:
    """Returns two steps of one subject, the later one after the earlier, as one."""
    sums = {key: getattr(earlier, key) + getattr(later, key) for key in COUNTERS}
    sums |= {key: round(getattr(earlier, key) + getattr(later, key), DIGITS) for key in AMOUNTS}
    peaks = {key: max(getattr(earlier, key), getattr(later, key)) for key in PEAKS}
    return replace(
        later,
        span_ms=earlier.span_ms + later.span_ms,
        begins=earlier.begins or later.begins,
        durations=_sum_of(earlier.durations, later.durations),
        storage=earlier.storage if later.storage is None else later.storage,
        **sums,
        **peaks,
    )


def beside(one: Step, other: Step) -> Step:
    """Returns the steps of two subjects over the same time as one: counters, gauges and peaks are added."""
    sums = {key: getattr(one, key) + getattr(other, key) for key in (*GAUGES, *PEAKS)}
    return replace(added(one, other), span_ms=max(one.span_ms, other.span_ms), **sums)


def gained(later: Step, earlier: Step, span_ms: int, *, begins: bool = False) -> Step:
    """Returns what came between two readings of a subject, whose counters are those since the daemon's start."""
    more = {key: _more(getattr(later, key), getattr(earlier, key)) for key in COUNTERS}
    more |= {key: round(max(0.0, getattr(later, key) - getattr(earlier, key)), DIGITS) for key in AMOUNTS}
    return replace(
        later,
        span_ms=span_ms,
        begins=begins,
        durations=difference(later.durations, earlier.durations),
        memory_peak_bytes=later.memory_bytes,
        queued_peak=later.queued,
        **more,
    )


def _more(later: int, earlier: int) -> int:
    """Returns the difference of a counter; the whole of one that has begun anew."""
    return later - earlier if later >= earlier else later


CPU_LEAST_MS = 50.0
"""Milliseconds of processor time that are worth a row; less is gathered until it is as much."""

MEMORY_LEAST_BYTES = 1024 * 1024
"""Bytes by which the memory has to change, at least, to be worth a row."""

MEMORY_LEAST_SHARE = 16
"""Number of such parts of the memory of which one has to change."""


def is_worth_a_row(step: Step, before: Step) -> bool:
    """Returns whether a step says something that its gauges before do not; an idle worker has none for hours."""
    least_bytes = max(MEMORY_LEAST_BYTES, before.memory_bytes // MEMORY_LEAST_SHARE)
    return (
        any(getattr(step, key) for key in (*COUNTERS, "cost_cents"))
        or step.cpu_ms >= CPU_LEAST_MS
        or any(getattr(step, key) != getattr(before, key) for key in ("up", "processes", "queued", "running"))
        or abs(step.memory_bytes - before.memory_bytes) > least_bytes
    )


def total(steps: Iterable[Step]) -> Step:
    """Returns steps of one subject, in the order of time, as one."""
    found: Step | None = None
    for each in steps:
        found = each if found is None else added(found, each)
    return Step() if found is None else found


def _sum_of(one: Buckets, other: Buckets) -> Buckets:
    if not one or not other:
        return one or other
    return merged_buckets((one, other))


encoded = msgspec.msgpack.Encoder().encode
"""Encodes a step for the store."""

_decode = msgspec.msgpack.Decoder(Step).decode


def decoded(value: object) -> Step | None:
    """Returns a step of the store; None where a byte of it is damaged."""
    try:
        return _decode(value) if isinstance(value, bytes) else None
    except msgspec.MsgspecError:
        return None


class Tier(IntEnum):
    """Names the resolutions of the history, as the store has them."""

    RAW = 0
    MINUTE = 1
    HOUR = 2


PERIOD_MS: Mapping[Tier, int] = {Tier.MINUTE: 60_000, Tier.HOUR: 3_600_000}
"""Milliseconds of one row of a tier; those of the raw one are `[monitoring] metrics_interval`."""


class Row(NamedTuple):
    """Represents one row: the step of a subject that begins at `at_ms`, or of the raw tier ends there."""

    tier: Tier
    at_ms: int
    subject: str
    step: Step


class RollUp:
    """Holds the minute and the hour that are not complete."""

    def __init__(self) -> None:
        self._minute_ms: int | None = None
        self._minutes: dict[str, Step] = {}
        self._hour_ms: int | None = None
        self._hours: dict[str, Step] = {}

    def feed(self, at_ms: int, steps: Mapping[str, Step]) -> list[Row]:
        """Takes the steps that end at `at_ms`, and returns the rows of minutes and hours that are complete with that."""
        rows = self._turn(at_ms - at_ms % PERIOD_MS[Tier.MINUTE])
        for subject, step in steps.items():
            _add(self._minutes, subject, step)
        return rows

    def seed(self, minutes: Iterable[Row], raw: Iterable[Row]) -> list[Row]:
        """Takes the rows of an earlier daemon that are in no complete hour, or minute; returns rows as `feed` does."""
        rows: list[Row] = []
        for row in minutes:
            rows += self._take_minute(row.at_ms, {row.subject: row.step})
        for row in raw:
            rows += self.feed(row.at_ms, {row.subject: row.step})
        return rows

    def partial(self, tier: Tier) -> tuple[int, Mapping[str, Step]]:
        """Returns the beginning of the minute, or hour, that is not complete, and its steps so far."""
        if tier is Tier.MINUTE:
            return self._minute_ms or 0, self._minutes
        minute_ms = self._minute_ms or 0
        hour_ms = self._hour_ms
        if hour_ms is None:
            hour_ms = minute_ms - minute_ms % PERIOD_MS[Tier.HOUR]
        found = dict(self._hours)
        for subject, step in self._minutes.items():
            _add(found, subject, step)
        return hour_ms, found

    def _turn(self, minute_ms: int) -> list[Row]:
        """Begins a minute, and returns what was complete with the one before."""
        if minute_ms == self._minute_ms:
            return []
        rows: list[Row] = []
        if self._minute_ms is not None:
            before_ms, complete = self._minute_ms, self._minutes
            rows = [Row(Tier.MINUTE, before_ms, each, step) for each, step in complete.items()]
            rows += self._take_minute(before_ms, complete)
        self._minute_ms, self._minutes = minute_ms, {}
        if self._hour_ms is not None and minute_ms - minute_ms % PERIOD_MS[Tier.HOUR] != (self._hour_ms):
            rows += self._end_hour()
        return rows

    def _take_minute(self, at_ms: int, steps: Mapping[str, Step]) -> list[Row]:
        hour_ms = at_ms - at_ms % PERIOD_MS[Tier.HOUR]
        rows = self._end_hour() if self._hour_ms not in (None, hour_ms) else []
        self._hour_ms = hour_ms
        for subject, step in steps.items():
            _add(self._hours, subject, step)
        return rows

    def _end_hour(self) -> list[Row]:
        assert self._hour_ms is not None, "only an hour that has begun can end"
        rows = [Row(Tier.HOUR, self._hour_ms, each, step) for each, step in self._hours.items()]
        self._hour_ms, self._hours = None, {}
        return rows


def _add(steps: dict[str, Step], subject: str, step: Step) -> None:
    before = steps.get(subject)
    steps[subject] = step if before is None else added(before, step)
