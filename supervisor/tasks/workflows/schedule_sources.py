"""Makes entries of schedules of the configuration file and of the cluster, and runs of their tasks.

Pure: the time is an argument.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from corral.supervisor.config.spec.job import Schedule
from corral.worker.contract.records import Run, ScheduleRecord, Task

from .cron import LATE_S, following
from .schedule_table import Entry, seconds_of, stamp, stamp_of, times_of

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
    """Returns the entry of a schedule of the file; with the same times as before it goes on as it stood.

    The grid of its seconds begins at `made`.
    """
    before = ScheduleRecord(name=schedule.name, task=schedule.task) if earlier is None else earlier.record
    record = replace(
        before,
        task=schedule.task,
        every_s=schedule.every,
        cron=schedule.cron,
        at=stamp_of(schedule.at),
        timezone=None if schedule.cron is None else schedule.timezone,
        catch_up=schedule.catch_up,
        overlap=schedule.overlap,
        start_at=None,
        source=schedule.source,
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
