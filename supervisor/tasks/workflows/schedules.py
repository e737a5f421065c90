"""Submits the tasks of schedules when they are due, on a grid of seconds or by cron, and records each run.

Guarantees one task for a run: it has an idempotency key, NAME@TIME, so that a daemon that dies between the task and
the record of the run submits none twice. The times are decided in `cron`. The wall clock is read again every LOOK_S at
least, since it may be set.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from secrets import token_hex

import msgspec
from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.config.spec.job import Schedule, job_task
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    Corrupted,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
)
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Error, Run, ScheduleRecord, Task, TaskParams, copied
from corral.worker.control.params import ScheduleParams, TaskListParams

from ..rules.boundaries import normalised
from ..run.backlog import Origin
from ..run.cluster import Cluster
from ..run.tasks import Tasks
from . import schedule_table as table
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

RECENT = 10
"""Number of runs of `recent`."""

UPCOMING = 5
"""Number of times of `upcoming`."""

logger = logging.getLogger(__name__)


class Schedules:
    """Keeps the schedules of one daemon."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        agents: Agents,
        tasks: Tasks,
        cluster: Cluster,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._table = table.ScheduleTable(store)
        self._bus = bus
        self._agents = agents
        self._tasks = tasks
        self._clock = clock
        self._entries: dict[str, table.Entry] = {}
        self._hidden: dict[str, table.Entry] = {}
        """Those that were added at run time, and whose names the configuration file has, too."""
        self._cancelling: set[asyncio.Task[Task]] = set()
        self._changed = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self.is_busy = False
        """Runs are being submitted, or their ends noted."""

    def hold(self) -> None:
        """Submits nothing more, until `release`."""
        self._released.clear()

    def release(self) -> None:
        """Submits again."""
        self._released.set()

    async def load(self) -> None:
        """Loads the schedules of an earlier daemon and of the file, which go on where they stood; an unreadable one does not run."""
        self._cluster.schedules.subscribe(self._follow_shared)
        schedules = self._agents.config.schedules
        earlier: dict[str, table.Entry] = {}
        for row in await self._table.rows():
            try:
                entry = table.entry_of(row)
            except (ValueError, TypeError) as error:
                logger.error('cannot read schedule "%s": %s', row[0], error)
                reason = f"its record in the store is damaged: {error}"[:300]
                self._bus.publish("schedule.corrupted", schedule=str(row[0]), reason=reason)
                continue
            if entry.is_shared and not self._cluster.is_joined:
                continue  # the daemon has left its cluster
            if not entry.is_of_file:
                self._entries[entry.record.name] = entry
            elif entry.record.name in schedules:
                earlier[entry.record.name] = entry
            else:
                self._table.forget(entry.key)
        self._adopt(schedules, earlier)

    def follow(self, config: Config) -> None:
        """Adopts the schedules of a configuration that was read again."""
        here = {name: entry for name, entry in self._entries.items() if entry.is_of_file}
        for name in here.keys() - config.schedules.keys():
            entry = self._entries.pop(name)
            self._table.forget(entry.key)
            self._publish("schedule.removed", entry.record)
            if name in self._hidden:
                self._entries[name] = self._hidden.pop(name)
        self._adopt(config.schedules, here)
        self._changed.set()

    def _adopt(self, schedules: Mapping[str, Schedule], earlier: Mapping[str, table.Entry]) -> None:
        """Takes in the schedules of the file; `earlier` are their entries under an earlier daemon or file."""
        now = round(self._clock(), 3)
        for name, schedule in schedules.items():
            known = self._entries.get(name)
            if known is not None and not known.is_of_file:
                self._hidden[name] = known
                self._bus.publish("config.shadowed", agent=name, reason="the configuration file names it too, and wins")
            before = None if name not in earlier else earlier[name].record
            made = 0.0 if self._is_placed(schedule.task) else now  # one grid on all nodes
            entry = self._entries[name] = table.adopted(schedule, earlier.get(name), now, made)
            if before is None:
                self._publish("schedule.added", entry.record, next_at=entry.record.next_at)
            if entry.record != before:
                self._table.post(entry)

    def _follow_shared(self) -> None:
        """Adopts the schedules of the cluster as they are now; one whose name this daemon has itself is left out."""
        found = self._cluster.schedules.known()
        if found is None:
            return
        for name, entry in list(self._entries.items()):
            if entry.is_shared and name not in found:
                del self._entries[name]
                self._table.forget(entry.key)
                self._publish("schedule.removed", entry.record)
        for name, record in found.items():
            known = self._entries.get(name)
            if known is not None and not known.is_shared:
                continue
            before = None if known is None else known.record
            if before is None or before.created_at != record.created_at:
                self._entries[name] = known = table.shared_entry(record, self._clock())
                self._publish("schedule.added", known.record, next_at=known.record.next_at)
            elif known is not None and before.paused != record.paused:
                table.set_paused(known, self._clock(), paused=record.paused)
                self._publish_paused(known)
            else:
                continue
            self._table.post(known)
        self._changed.set()

    async def run(self) -> None:
        """Submits tasks when they are due, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._released.wait()
            self._changed.clear()
            self.is_busy = True
            try:
                await self._note_ends()
                await self._turn(self._clock(), loop.time())
            finally:
                self.is_busy = False
            now = self._clock()
            waits_s = LOOK_S
            for entry in self._entries.values():
                if entry.next_at is not None:
                    waits_s = min(waits_s, max(entry.next_at - now, entry.not_before - loop.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, waits_s)):
                    await self._changed.wait()

    async def add(self, params: ScheduleParams, *, command: list[str] | None = None) -> ScheduleRecord:
        """Adds a schedule, and returns it when it is in the store; `command` is that of the job of its name."""
        now = round(self._clock(), 3)  # as the record has it for the next daemon
        start = None if params.start_at is None else round(params.start_at, 3)
        at = None if params.at is None else round(params.at, 3)
        times = Times(now if start is None else start, params.every_s, params.cron, params.timezone, start, at)
        try:
            check(times)
        except Refused as error:
            key = str(error.item)
            value = getattr(params, key, None)
            what = "" if value is None else f' with {key} "{value}"'
            raise InvalidParams(f"cannot make a schedule{what}: {error.reason}", key=key, value=value) from error
        task = self._checked_task(normalised(self._complete(params.task)))
        name = params.name or self._free_name(params)
        self.check_free(name)
        if len(self._entries) >= MOST_SCHEDULES:
            words = f'cannot add schedule "{name}": there are {MOST_SCHEDULES}'
            raise ResourceLimitExceeded(words, limit="schedules", value=MOST_SCHEDULES)
        if at is not None and at < now - LATE_S:
            raise InvalidParams(f"cannot make a schedule: {table.stamp(at)} is past", key="at", value=params.at)
        # A start at the present time means now, although the call took a moment.
        is_now = start is not None and params.every_s is not None and start <= now <= start + LATE_S
        next_at = start if is_now else following(times, now)
        if at is not None and next_at is None:
            next_at = at
        record = ScheduleRecord(
            name=name,
            task=task,
            **copied(params, "every_s cron timezone catch_up overlap"),
            start_at=table.stamp_of(start),
            created_at=table.stamp(now),
            next_at=table.stamp_of(next_at),
            at=table.stamp_of(at),
            command=command,
        )
        size = len(msgspec.json.encode(record))
        if size > MOST_BYTES:
            words = f'cannot add schedule "{name}": {size} bytes are more than {MOST_BYTES}'
            raise ResourceLimitExceeded(words, limit="schedule", value=size)
        if self._is_placed(task):
            await self._cluster.schedules.add(record := replace(record, source=table.CLUSTER))
            self._follow_shared()
            return self._entries[name].record if name in self._entries else record
        entry = table.Entry(record, times, now, next_at)
        self._entries[name] = entry
        try:
            await self._table.save(entry)
        except BaseException:
            self._entries.pop(name, None)
            raise
        self._publish("schedule.added", record, next_at=record.next_at)
        self._changed.set()
        return record

    def _complete(self, task: TaskParams) -> TaskParams:
        agent = self._agents.agents.get(task.agent or "")
        if agent is None or agent.spec.type != "oneshot" or task.objective:
            return task
        return replace(task, objective=job_task(agent.name, agent.spec.command).objective)

    def _checked_task(self, task: TaskParams) -> TaskParams:
        for key, value in (("at", task.at), ("after", task.after or None), ("idempotency_key", task.idempotency_key)):
            if value is not None:
                words = f"cannot make a schedule of a task with {key}: each run has its own"
                raise InvalidParams(words, key=f"task.{key}", value=value)
        if (task.agent is None) == (task.capability is None):
            words = "cannot choose an agent for the schedule's task: give agent or capability"
            raise InvalidParams(words, key="task.agent")
        if task.agent is not None and self._tasks.kind(task.agent) == "task":
            self._agents.of(task.agent)
        return task

    def check_free(self, name: str) -> None:
        """Refuses a name that a schedule has."""
        entry = self._entries.get(name)
        if entry is None:
            return
        words = f'cannot add schedule "{name}": there is one; corral schedule rm {name}'
        if entry.is_of_file:
            words = f'cannot add schedule "{name}": the configuration file has one'
        raise Conflict(words, name=name)

    def _free_name(self, params: ScheduleParams) -> str:
        stem = (params.task.agent or "task")[:40]
        while (name := f"{stem}-{token_hex(3)}") in self._entries:
            pass
        return name

    def list(self) -> list[ScheduleRecord]:
        """Returns all schedules, by name."""
        return [self._entries[name].record for name in sorted(self._entries)]

    def show(self, name: str) -> ScheduleRecord:
        """Returns a schedule."""
        return self._of(name).record

    def upcoming(self, name: str) -> Sequence[str]:
        """Returns the next UPCOMING times of a schedule; none while it is paused."""
        entry = self._of(name)

        def times() -> Iterator[float]:
            at = entry.next_at
            while at is not None:
                yield at
                at = following(entry.times, at)

        return [table.stamp(at) for at in islice(times(), UPCOMING)]

    async def recent(self, name: str) -> Sequence[Run]:
        """Returns the last runs of a schedule, the newest first, also those that are under way."""
        self._of(name)
        page = await self._tasks.list(TaskListParams(schedule=name, limit=RECENT))
        return [table.run_of(task) for task in page.tasks]

    async def remove(self, name: str) -> ScheduleRecord:
        """Removes a schedule; the tasks that it submitted stay."""
        entry = self._of(name)
        if entry.is_of_file:
            words = f'cannot remove schedule "{name}": it is in the configuration file; corral schedule pause {name}'
            raise Conflict(words, name=name, source=entry.record.source)
        if entry.is_shared:
            await self._cluster.schedules.remove(name)
            self._follow_shared()
            return entry.record
        del self._entries[name]  # first: the record of a run that ends now would write it again
        try:
            await self._table.remove(entry.key)
        except BaseException:
            self._entries.setdefault(name, entry)
            raise
        self._publish("schedule.removed", entry.record)
        return entry.record

    async def pause(self, name: str) -> ScheduleRecord:
        """Pauses a schedule; runs that are due meanwhile are left out for good."""
        return await self._set_paused(name, paused=True)

    async def resume(self, name: str) -> ScheduleRecord:
        """Resumes a schedule, from its next time on."""
        return await self._set_paused(name, paused=False)

    async def _set_paused(self, name: str, *, paused: bool) -> ScheduleRecord:
        entry = self._of(name)
        if entry.record.paused is paused:
            return entry.record
        if entry.is_shared:
            await self._cluster.schedules.set_paused(name, paused=paused)
            self._follow_shared()
            return self._of(name).record
        before = entry.next_at
        table.set_paused(entry, self._clock(), paused=paused)
        try:
            await self._table.save(entry)
        except BaseException:  # a second call must not be answered as if it were so already
            entry.next_at = before
            entry.record = replace(entry.record, paused=not paused, next_at=table.stamp_of(before))
            self._changed.set()
            raise
        self._publish_paused(entry)
        self._changed.set()
        return entry.record

    def _publish_paused(self, entry: table.Entry) -> None:
        if entry.record.paused:
            self._publish("schedule.paused", entry.record)
        else:
            self._publish("schedule.resumed", entry.record, next_at=entry.record.next_at)

    async def run_now(self, name: str) -> Task:
        """Submits the task of a schedule at once, beside its times, and returns it."""
        entry = self._of(name)
        task = await self._tasks.submit(entry.record.task, Origin(schedule=name, tenant=tenant_of(name)))
        entry.record = replace(entry.record, last_task=task.id, runs=entry.record.runs + 1)
        await self._note(entry)
        return task

    def _of(self, name: str) -> table.Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f'cannot find schedule "{name}"', name=name, known=sorted(self._entries)[:100])
        return entry

    async def _turn(self, now: float, loop_s: float) -> None:
        due: list[tuple[table.Entry, Due]] = []
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
            await asyncio.gather(*(self._perform(entry, what) for entry, what in due[start : start + AT_ONCE]))

    async def _perform(self, entry: table.Entry, due: Due) -> None:
        """Submits the task of a run, or skips it; either way the schedule goes on."""
        try:
            why_not = self._why_not(entry, due)
            claim = "run" if why_not is not None else await self._claimed(entry, due)
            if claim == "later":
                entry.not_before = asyncio.get_running_loop().time() + AGAIN_S
                return
            if claim == "busy":
                why_not = "its last task, of another node, has not ended"
            if why_not is None:
                if claim == "run":
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
        entry.record = replace(entry.record, last_due_at=table.stamp_of(due.run))
        self._put_off(entry, due.next_at)
        await self._note(entry)

    def _is_placed(self, task: TaskParams) -> bool:
        return self._cluster.runner.is_placed(task.agent)

    async def _claimed(self, entry: table.Entry, due: Due) -> str:
        """Returns whether this daemon submits a run; of an agent of its own it always does."""
        record = entry.record
        at = table.stamp_of(due.run)
        if not self._is_placed(record.task) or at is None:
            return "run"
        agent, may_overlap = record.task.agent or "", record.overlap != "skip"
        return await self._cluster.runner.claim(record.name, agent, at, may_overlap=may_overlap)

    def _why_not(self, entry: table.Entry, due: Due) -> str | None:
        record = entry.record
        if due.missed and not record.catch_up:
            return f"it was due at {table.stamp_of(due.run)}, when no daemon ran"
        last = None if record.last_task is None else self._tasks.find(record.last_task)
        if record.overlap == "skip" and last is not None:
            return f"its last task {last.id} is still {last.state}"
        if record.overlap == "replace" and last is not None:
            work = asyncio.create_task(self._tasks.cancel(last.id, "replaced by the next run"))
            self._cancelling.add(work)
            work.add_done_callback(self._cancelling.discard)
        return None

    async def _note_ends(self) -> None:
        """Records how the last runs have ended, also those that ended when no daemon ran."""
        for entry in list(self._entries.values()):
            task_id, run = entry.record.last_task, entry.record.last_run
            if task_id is None or (run is not None and run.task == task_id):
                continue
            if self._tasks.find(task_id) is None:
                run = await self._ended(task_id)
                entry.record = replace(entry.record, last_run=run)
                await self._note(entry)
                self._publish("schedule.ended", entry.record, **{"task": task_id, "state": run.state, "code": run.code})

    async def _ended(self, task_id: str) -> Run:
        try:
            return table.run_of(await self._tasks.show(task_id))
        except (NotFound, Corrupted):
            return Run(task=task_id, state="unknown")

    async def _submit(self, entry: table.Entry, due: Due) -> None:
        record = entry.record
        key = f"{record.name}@{table.stamp_of(due.run)}"
        task: Task | None = None
        if entry.is_loaded and record.task.capability is not None and due.run is not None:
            # Routing may choose another agent than before, where the key means nothing.
            task = await self._tasks.records.find_by_key(key, None, since=due.run)
        if task is None or tenant_of(task.agent) != tenant_of(record.name):  # another's key
            params = replace(record.task, idempotency_key=key)
            task = await self._tasks.submit(params, Origin(schedule=record.name, tenant=tenant_of(record.name)))
        entry.is_loaded = False
        entry.record = replace(entry.record, last_task=task.id, runs=entry.record.runs + 1)

    def _refuse(self, entry: table.Entry, error: CorralError) -> None:
        entry.record = replace(entry.record, last_error=Error.of(error), refused=entry.record.refused + 1)
        logger.warning('schedule "%s": %s', entry.record.name, error)
        self._publish("schedule.refused", entry.record, error=error.name, reason=error.message[:1000])

    def _put_off(self, entry: table.Entry, next_at: float | None) -> None:
        if not entry.record.paused:
            entry.next_at = next_at
            entry.record = replace(entry.record, next_at=table.stamp_of(next_at))

    async def _note(self, entry: table.Entry) -> None:
        """Records a run. When the store refuses that, the idempotency key of the task still prevents a second one."""
        if self._entries.get(entry.record.name) is not entry:
            return  # removed meanwhile
        try:
            await self._table.save(entry)
        except CorralError as error:
            logger.warning('cannot note a run of schedule "%s": %s', entry.record.name, error)

    def _publish(self, what: str, record: ScheduleRecord, **facts: object) -> None:
        self._bus.publish(
            what, agent=record.task.agent, worker=None, incarnation=None, store=True, schedule=record.name, **facts
        )
