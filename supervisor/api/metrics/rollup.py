"""Rolls steps up to minutes, and minutes to hours. Pure: times are arguments, in milliseconds since 1970.

A step belongs to the minute in which it ended. The minute is complete when a step of another one comes, and the hour
likewise; `partial` returns the one that is not complete yet.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from .step import Step, added


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
