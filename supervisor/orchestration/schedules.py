"""Submits the tasks of schedules when they are due, on a grid of seconds or by cron, and records each run.

Guarantees one task for a run: it has an idempotency key, NAME@TIME, so that a daemon that dies between the task and
the record of the run submits none twice. The times are decided in `cron`. The wall clock is read again every LOOK_S at
least, since it may be set.
"""

import asyncio
import contextlib
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from secrets import token_hex

import msgspec
from msgspec.structs import replace

from ...worker.contract.control_params import ScheduleParams
from ...worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
)
from ...worker.contract.records import Error, ScheduleRecord, Task, TaskParams
from ..agents.agents import Agents
from ..config.values import Refused
from ..events.bus import Bus
from ..store.store import Row, Store
from ..tasks.boundaries import normalised
from ..tasks.tasks import Tasks
from .cron import LATE_S, Due, Times, check, decide, following

MOST_SCHEDULES = 1_000
"""Number of schedules of one daemon."""

MOST_BYTES = 64 * 1024
"""Bytes of a schedule with its task."""

LOOK_S = 2.0
"""Seconds between two looks at the wall clock, which may be set."""

AGAIN_S = 5.0
"""Seconds until a run is retried for which the queue has no room."""

AT_ONCE = 64
"""Number of due runs that are submitted together, and share commits."""

UPCOMING = 5
"""Number of times of `upcoming`."""

logger = logging.getLogger(__name__)


@dataclass
class _Entry:
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


class Schedules:
    """Keeps the schedules of one daemon.

    Args:
        store: where they are kept.
        bus: publishes their changes and runs.
        agents: those that tasks are for.
        tasks: accepts the tasks.
        clock: seconds of the Unix epoch.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        agents: Agents,
        tasks: Tasks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._bus = bus
        self._agents = agents
        self._tasks = tasks
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._changed = asyncio.Event()

    async def load(self) -> None:
        """Loads the schedules of an earlier daemon; an unreadable one stays in the store, and does not run."""
        rows = await self._store.read(
            "SELECT name, created_at, next_at, record, checksum FROM schedule ORDER BY name"
        )
        for row in rows:
            try:
                entry = _entry(row)
            except (ValueError, TypeError) as error:
                logger.error('cannot read schedule "%s": %s', row[0], error)
                reason = f"its record in the store is damaged: {error}"[:300]
                self._bus.publish("schedule.corrupted", schedule=str(row[0]), reason=reason)
                continue
            self._entries[entry.record.name] = entry

    async def run(self) -> None:
        """Submits tasks when they are due, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            await self._turn(self._clock(), loop.time())
            now = self._clock()
            waits_s = LOOK_S
            for entry in self._entries.values():
                if entry.next_at is not None:
                    due_s = max(entry.next_at - now, entry.not_before - loop.time())
                    waits_s = min(waits_s, due_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, waits_s)):
                    await self._changed.wait()

    # -- the methods

    async def add(self, params: ScheduleParams) -> ScheduleRecord:
        """Adds a schedule, and returns it when it is in the store.

        Raises:
            InvalidParams: its times, or a param of its task that a schedule cannot have.
            NotFound: there is no agent, team or workflow of the name that its task is for.
            Conflict: there is one of this name.
            ResourceLimitExceeded: there are too many, or it is too long.
        """
        now = round(self._clock(), 3)  # as the record has it for the next daemon
        start = None if params.start_at is None else round(params.start_at, 3)
        anchor = now if start is None else start
        times = Times(anchor, params.every_s, params.cron, params.timezone, start)
        try:
            check(times)
        except Refused as error:
            key = str(error.item)
            value = getattr(params, key, None)
            what = "" if value is None else f' with {key} "{value}"'
            words = f"cannot make a schedule{what}: {error.reason}"
            raise InvalidParams(words, key=key, value=value) from error
        task = self._checked_task(normalised(params.task))
        name = params.name or self._free_name(params)
        if name in self._entries:
            words = f'cannot add schedule "{name}": there is one; corral schedule rm {name}'
            raise Conflict(words, name=name)
        if len(self._entries) >= MOST_SCHEDULES:
            words = f'cannot add schedule "{name}": there are {MOST_SCHEDULES}'
            raise ResourceLimitExceeded(words, limit="schedules", value=MOST_SCHEDULES)
        # A start at the present time means now, although the call took a moment.
        is_now = start is not None and params.every_s is not None and start <= now <= start + LATE_S
        next_at = start if is_now else following(times, now)
        record = ScheduleRecord(
            name=name,
            task=task,
            every_s=params.every_s,
            cron=params.cron,
            timezone=params.timezone,
            catch_up=params.catch_up,
            overlap=params.overlap,
            start_at=_stamp_of(start),
            created_at=_stamp(now),
            next_at=_stamp_of(next_at),
        )
        size = len(msgspec.json.encode(record))
        if size > MOST_BYTES:
            words = f'cannot add schedule "{name}": {size} bytes are more than {MOST_BYTES}'
            raise ResourceLimitExceeded(words, limit="schedule", value=size)
        entry = _Entry(record, times, now, next_at)
        self._entries[name] = entry
        try:
            await self._save(entry)
        except BaseException:
            self._entries.pop(name, None)
            raise
        self._publish("schedule.added", record, next_at=record.next_at)
        self._changed.set()
        return record

    def _checked_task(self, task: TaskParams) -> TaskParams:
        for key, value in (
            ("at", task.at),
            ("after", task.after or None),
            ("idempotency_key", task.idempotency_key),
        ):
            if value is not None:
                words = f"cannot make a schedule of a task with {key}: each run has its own"
                raise InvalidParams(words, key=f"task.{key}", value=value)
        if (task.agent is None) == (task.capability is None):
            words = "cannot choose an agent for the schedule's task: give agent or capability"
            raise InvalidParams(words, key="task.agent")
        if task.agent is not None and self._tasks.kind(task.agent) == "task":
            self._agents.of(task.agent)
        return task

    def _free_name(self, params: ScheduleParams) -> str:
        stem = (params.task.agent or "task")[:40]
        while (name := f"{stem}-{token_hex(3)}") in self._entries:
            pass
        return name

    def list(self) -> list[ScheduleRecord]:
        """Returns all schedules, by name."""
        return [self._entries[name].record for name in sorted(self._entries)]

    def show(self, name: str) -> ScheduleRecord:
        """Returns a schedule.

        Raises:
            NotFound: there is none of this name.
        """
        return self._of(name).record

    def upcoming(self, name: str) -> Sequence[str]:
        """Returns the next UPCOMING times of a schedule; none while it is paused.

        Raises:
            NotFound: there is none of this name.
        """
        entry = self._of(name)

        def times() -> Iterator[float]:
            at = entry.next_at
            while at is not None:
                yield at
                at = following(entry.times, at)

        return [_stamp(at) for at in islice(times(), UPCOMING)]

    async def remove(self, name: str) -> ScheduleRecord:
        """Removes a schedule; the tasks that it submitted stay.

        Raises:
            NotFound: there is none of this name.
            Overloaded: the store takes nothing now.
        """
        entry = self._of(name)
        del self._entries[name]  # first: the record of a run that ends now would write it again
        try:
            await self._store.write(("DELETE FROM schedule WHERE name = ?", (name,)))
        except BaseException:
            self._entries.setdefault(name, entry)
            raise
        self._publish("schedule.removed", entry.record)
        return entry.record

    async def pause(self, name: str) -> ScheduleRecord:
        """Pauses a schedule; runs that are due meanwhile are left out for good.

        Raises:
            NotFound: there is none of this name.
        """
        entry = self._of(name)
        if not entry.record.paused:
            await self._set_paused(entry, paused=True, next_at=None)
            self._publish("schedule.paused", entry.record)
        return entry.record

    async def resume(self, name: str) -> ScheduleRecord:
        """Resumes a schedule, from its next time on.

        Raises:
            NotFound: there is none of this name.
        """
        entry = self._of(name)
        if entry.record.paused:
            next_at = following(entry.times, self._clock())
            await self._set_paused(entry, paused=False, next_at=next_at)
            self._publish("schedule.resumed", entry.record, next_at=entry.record.next_at)
            self._changed.set()
        return entry.record

    async def _set_paused(self, entry: _Entry, *, paused: bool, next_at: float | None) -> None:
        before, entry.next_at = entry.next_at, next_at
        entry.record = replace(entry.record, paused=paused, next_at=_stamp_of(next_at))
        try:
            await self._save(entry)
        except BaseException:  # a second call must not be answered as if it were so already
            entry.next_at = before
            entry.record = replace(entry.record, paused=not paused, next_at=_stamp_of(before))
            self._changed.set()
            raise

    async def run_now(self, name: str) -> Task:
        """Submits the task of a schedule at once, beside its times, and returns it.

        Raises:
            NotFound: there is none of this name.
            CorralError: the task is not accepted.
        """
        entry = self._of(name)
        task = await self._tasks.submit(entry.record.task, schedule=name)
        entry.record = replace(entry.record, last_task=task.id, runs=entry.record.runs + 1)
        await self._note(entry)
        return task

    def _of(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            known = sorted(self._entries)[:100]
            raise NotFound(f'cannot find schedule "{name}"', name=name, known=known)
        return entry

    # -- what is due

    async def _turn(self, now: float, loop_s: float) -> None:
        due: list[tuple[_Entry, Due]] = []
        for entry in list(self._entries.values()):
            if entry.not_before > loop_s:
                continue
            try:
                what = decide(entry.times, entry.next_at, entry.last_due, now)
            except Refused as error:  # its time zone is no longer on this machine
                self._refuse(entry, NotFound(f"cannot tell when it is due: {error.reason}"))
                entry.not_before = loop_s + LATE_S
                continue
            if what.run is not None:
                due.append((entry, what))
            elif what.next_at != entry.next_at:  # the clock was set back
                self._put_off(entry, what.next_at)
                await self._note(entry)
        for start in range(0, len(due), AT_ONCE):
            some = due[start : start + AT_ONCE]
            await asyncio.gather(*(self._perform(entry, what) for entry, what in some))

    async def _perform(self, entry: _Entry, due: Due) -> None:
        """Submits the task of a run, or skips it; either way the schedule goes on."""
        try:
            why_not = self._why_not(entry, due)
            if why_not is None:
                await self._submit(entry, due)
            else:
                entry.record = replace(entry.record, skipped=entry.record.skipped + 1)
                self._publish("schedule.skipped", entry.record, reason=why_not)
        except (Overloaded, ShuttingDown) as error:
            if entry.not_before == 0.0:
                self._refuse(entry, error)
            entry.not_before = asyncio.get_running_loop().time() + AGAIN_S
            return
        except CorralError as error:
            self._refuse(entry, error)
        except Exception as error:  # one schedule must not keep the others from their times
            logger.exception('cannot run schedule "%s"', entry.record.name)
            self._refuse(entry, CorralError(f"cannot run the schedule: {error!r}"))
        entry.not_before = 0.0
        entry.last_due = due.run
        entry.record = replace(entry.record, last_due_at=_stamp_of(due.run))
        self._put_off(entry, due.next_at)
        await self._note(entry)

    def _why_not(self, entry: _Entry, due: Due) -> str | None:
        record = entry.record
        if due.missed and not record.catch_up:
            return f"it was due at {_stamp_of(due.run)}, when no daemon ran"
        last = None if record.last_task is None else self._tasks.find(record.last_task)
        if record.overlap == "skip" and last is not None:
            return f"its last task {last.id} is still {last.state}"
        return None

    async def _submit(self, entry: _Entry, due: Due) -> None:
        record = entry.record
        key = f"{record.name}@{_stamp_of(due.run)}"
        task: Task | None = None
        if entry.is_loaded and record.task.capability is not None and due.run is not None:
            # Routing may choose another agent than before, where the key means nothing.
            task = await self._tasks.records.find_by_key(key, None, since=due.run)
        if task is None:
            params = replace(record.task, idempotency_key=key)
            task = await self._tasks.submit(params, schedule=record.name)
        entry.is_loaded = False
        entry.record = replace(entry.record, last_task=task.id, runs=entry.record.runs + 1)

    def _refuse(self, entry: _Entry, error: CorralError) -> None:
        last_error = Error(error.code, error.name, error.message, error.data)
        refused = entry.record.refused + 1
        entry.record = replace(entry.record, last_error=last_error, refused=refused)
        logger.warning('schedule "%s": %s', entry.record.name, error)
        reason = error.message[:1000]
        self._publish("schedule.refused", entry.record, error=error.name, reason=reason)

    def _put_off(self, entry: _Entry, next_at: float | None) -> None:
        """Sets the next time, unless it was paused meanwhile."""
        if not entry.record.paused:
            entry.next_at = next_at
            entry.record = replace(entry.record, next_at=_stamp_of(next_at))

    # -- the store

    async def _note(self, entry: _Entry) -> None:
        """Records a run. When the store refuses that, the idempotency key of the task still prevents a second one."""
        if self._entries.get(entry.record.name) is not entry:
            return  # removed meanwhile
        try:
            await self._save(entry)
        except CorralError as error:
            logger.warning('cannot note a run of schedule "%s": %s', entry.record.name, error)

    async def _save(self, entry: _Entry) -> None:
        record = msgspec.json.encode(entry.record)
        await self._store.write(
            (
                "INSERT OR REPLACE INTO schedule (name, created_at, next_at, record, checksum)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    entry.record.name,
                    entry.created,
                    entry.next_at,
                    record,
                    zlib.crc32(record),
                ),
            )
        )

    def _publish(self, what: str, record: ScheduleRecord, **facts: object) -> None:
        self._bus.publish(
            what,
            agent=record.task.agent,
            worker=None,
            incarnation=None,
            store=True,
            schedule=record.name,
            **facts,
        )


def _entry(row: Row) -> _Entry:
    """Returns the schedule of a row of the store.

    Raises:
        ValueError, TypeError: it is not what was written.
    """
    _, created, next_at, blob, checksum = row
    if not isinstance(blob, bytes) or zlib.crc32(blob) != checksum:
        raise ValueError("its checksum is another")
    record = msgspec.json.decode(blob, type=ScheduleRecord)
    start, made = _seconds(record.start_at), _seconds(record.created_at)
    if made is None or not isinstance(created, float):
        raise ValueError("its time of creation is missing")
    anchor = made if start is None else start
    times = Times(anchor, record.every_s, record.cron, record.timezone, start)
    check(times)
    return _Entry(
        record,
        times,
        created,
        float(str(next_at)) if next_at is not None else None,
        _seconds(record.last_due_at),
        is_loaded=True,
    )


def _stamp(seconds: float) -> str:
    """Returns a time as RFC 3339 in UTC, to the millisecond."""
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")


def _stamp_of(seconds: float | None) -> str | None:
    return None if seconds is None else _stamp(seconds)


def _seconds(stamp: str | None) -> float | None:
    return None if stamp is None else datetime.fromisoformat(stamp).timestamp()
