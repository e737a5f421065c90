"""Stores schedules with the results of their runs: one row each, with a checksum; makes entries of those of the file and the cluster.

A schedule of the configuration file has a row for its results alone, under another key than one of the same name that was
added at run time. Decides nothing about times.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.job import Schedule
from corral.supervisor.records.store.store import Row, Statement, Store
from corral.worker.contract.records import Run, ScheduleRecord, Task, copied

from .cron import LATE_S, Times, check, following

CLUSTER = "cluster"
"""The source of a schedule that the engine of the cluster has for all nodes."""

OF_CLUSTER = "cluster:"
"""Begin of the key of a schedule of the cluster."""

FILE = "file:"
"""Begin of the key of a schedule of the configuration file: no name has a colon."""


@dataclass
class Entry:
    """Holds a schedule and its run-time state."""

    record: ScheduleRecord
    times: Times
    created: float
    next_at: float | None
    last_due: float | None = None
    not_before: float = 0.0
    """On the loop's clock: a run that was not accepted is not retried before."""
    is_loaded: bool = False
    """True if an earlier daemon had it, and may have submitted the task that is due."""

    @property
    def is_of_file(self) -> bool:
        """Returns whether the configuration file has it."""
        return self.record.source not in (STORE, CLUSTER)

    @property
    def is_shared(self) -> bool:
        """Returns whether the engine of the cluster has it, for all nodes."""
        return self.record.source == CLUSTER

    @property
    def key(self) -> str:
        """Returns the key of its row."""
        if self.is_shared:
            return f"{OF_CLUSTER}{self.record.name}"
        return f"{FILE}{self.record.name}" if self.is_of_file else self.record.name


class ScheduleTable:
    """Reads and writes the table `schedule`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def rows(self) -> list[Row]:
        """Returns all rows, for `entry_of`."""
        return await self._store.read("SELECT name, created_at, next_at, record, checksum FROM schedule ORDER BY name")

    async def save(self, entry: Entry) -> None:
        """Writes a schedule; returns when it is on disk."""
        await self._store.write(_insertion(entry))

    def post(self, entry: Entry) -> None:
        """Writes a schedule with the next commit."""
        self._store.post(_insertion(entry))

    async def remove(self, key: str) -> None:
        """Deletes a row."""
        await self._store.write(("DELETE FROM schedule WHERE name = ?", (key,)))

    def forget(self, key: str) -> None:
        """Deletes a row with the next commit."""
        self._store.post(("DELETE FROM schedule WHERE name = ?", (key,)))


def _insertion(entry: Entry) -> Statement:
    record = msgspec.json.encode(entry.record)
    return (
        "INSERT OR REPLACE INTO schedule (name, created_at, next_at, record, checksum) VALUES (?, ?, ?, ?, ?)",
        (entry.key, entry.created, entry.next_at, record, zlib.crc32(record)),
    )


def entry_of(row: Row) -> Entry:
    """Returns the schedule of a row."""
    _, created, next_at, blob, checksum = row
    if not isinstance(blob, bytes) or zlib.crc32(blob) != checksum:
        raise ValueError("its checksum is another")
    record = msgspec.json.decode(blob, type=ScheduleRecord)
    made = seconds_of(record.created_at)
    if made is None or not isinstance(created, float):
        raise ValueError("its time of creation is missing")
    times = times_of(record, made)
    check(times)
    return Entry(
        record,
        times,
        created,
        float(str(next_at)) if next_at is not None else None,
        seconds_of(record.last_due_at),
        is_loaded=True,
    )


def times_of(record: ScheduleRecord, made: float) -> Times:
    """Returns the times of a schedule that was made at a time."""
    start = seconds_of(record.start_at)
    anchor = made if start is None else start
    at = seconds_of(record.at)
    return Times(anchor, record.every_s, record.cron, record.timezone, start, at)


def stamp(seconds: float) -> str:
    """Returns a time as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def stamp_of(seconds: float | None) -> str | None:
    """Returns a time as `stamp`; None for None."""
    return None if seconds is None else stamp(seconds)


def seconds_of(text: str | None) -> float | None:
    """Returns the seconds of the Unix epoch of a stamp."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


MESSAGE_CHARS = 300
"""Characters of an error's message in the record of a run."""


def run_of(task: Task) -> Run:
    """Returns a task as a run of its schedule, with the exit of its command."""
    error = task.error
    facts: Mapping[str, object] = error.data if error is not None else {}
    if error is None and isinstance(task.output, dict) and task.kind == "job":
        facts = task.output
    numbers = {key: facts.get(key) for key in ("code", "incarnation")}
    name = facts.get("signal")
    return Run(
        task=task.id,
        state=task.state,
        started_at=task.started_at,
        finished_at=task.finished_at,
        duration_s=task.duration_s,
        signal=name if isinstance(name, str) else None,
        error=None if error is None else error.message[:MESSAGE_CHARS],
        **{key: value for key, value in numbers.items() if isinstance(value, int)},
    )


def adopted(schedule: Schedule, earlier: Entry | None, now: float, made: float) -> Entry:
    """Returns the entry of a schedule of the file; with the same times it goes on as it stood. A grid of seconds begins at `made`."""
    before = ScheduleRecord(name=schedule.name, task=schedule.task) if earlier is None else earlier.record
    record = replace(
        before,
        **copied(schedule, "task cron catch_up overlap source"),
        every_s=schedule.every,
        at=stamp_of(schedule.at),
        timezone=None if schedule.cron is None else schedule.timezone,
        start_at=None,
        command=list(schedule.command) or None,
    )
    if earlier is not None and times_of(record, now) == times_of(before, now):
        earlier.record = record  # in place: a run of it may be on its way
        if made != now:
            earlier.times = times_of(record, made)
        return earlier
    times = times_of(record, made)
    next_at = None if record.paused else following(times, now)
    return Entry(replace(record, created_at=stamp(now), next_at=stamp_of(next_at)), times, now, next_at)


def shared_entry(record: ScheduleRecord, now: float) -> Entry:
    """Returns the entry of a schedule of the cluster: the same grid on all nodes, from its next time on."""
    made = seconds_of(record.created_at) or 0.0
    times = times_of(record, made)
    first = seconds_of(record.next_at)
    is_ahead = first is not None and first >= now - LATE_S
    next_at = first if is_ahead else following(times, now)
    next_at = None if record.paused else next_at
    return Entry(replace(record, next_at=stamp_of(next_at)), times, made, next_at)


def set_paused(entry: Entry, now: float, *, paused: bool) -> None:
    """Gives an entry the next time of a paused schedule, or of one that goes on now."""
    entry.next_at = None if paused else following(entry.times, now)
    entry.record = replace(entry.record, paused=paused, next_at=stamp_of(entry.next_at))
