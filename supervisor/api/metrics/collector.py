"""Reads, every `metrics_interval`, what each agent and server did and uses, and keeps it as steps of the history.

Nothing is counted here: counters are those of `statistics`, gauges those of the sampler and the queues, all in memory. A
subject to which nothing happened has no row, but for the first step of a daemon, so that thousands of sleeping agents
cost a look each. A step that the store does not take is lost, and counted.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.records.store.store import Store, number_of
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.worker.contract.errors import CorralError
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import copied

from .statistics import Count, Statistics
from .step import DAEMON, RollUp, Row, Step, Tier, gained, is_worth_a_row, total
from .table import MetricTable, storage_bytes

LEAST_S = 0.1
"""Seconds between two steps at least."""

STORAGE_S = 300.0
"""Seconds between two measurements of the state folder."""

AT_ONCE = 100
"""Number of agents that are read before the loop has its turn: less than a millisecond."""

EARLY = 4
"""Number of such parts of the interval of which one may lie between a step and its time."""

EARLY_MS = 50
"""Milliseconds by which a timer may be early: no step is labelled further ahead."""

RECENT_MS = 60_000
"""Milliseconds of the steps that make the figures of the last minute."""

PRESENT_MS = 1_000
"""Milliseconds that the present figures are old at most, however long a step is."""

logger = logging.getLogger(__name__)


class Reading(Struct, frozen=True):
    """Holds what was read last of a subject.

    `level` has its counters since the daemon's start and its gauges; `recent` the steps that ended lately, with their times.
    """

    level: Step
    recent: tuple[tuple[int, Step], ...]

    def last_minute(self, now_ms: int) -> Step:
        """Returns what came within RECENT_MS before a time, and the present gauges."""
        steps = [step for at_ms, step in self.recent if at_ms > now_ms - RECENT_MS]
        return total((*steps, self.level.gauges_alone()))


class Snapshot(Struct, frozen=True):
    """Holds the readings of one moment. Those of subjects to which nothing happened are of an earlier one, and still true."""

    at_ms: int
    span_ms: int
    readings: Mapping[str, Reading]


class _Subject:
    __slots__ = ("count", "level", "mark", "recent", "written")

    def __init__(self, level: Step) -> None:
        self.level = level
        """The last reading."""
        self.written = level
        """The reading up to which rows are written."""
        self.count: Count | None = None
        self.mark: tuple[object, ...] = ()
        """Figures of which one has to differ, so that a subject without processes is read again."""
        self.recent: deque[tuple[int, Step]] = deque()


class Collector:
    """Collects for one daemon."""

    def __init__(
        self,
        statistics: Statistics,
        limits: LimitEnforcer,
        agents: Agents,
        tasks: Tasks,
        store: Store,
        state_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._statistics = statistics
        self._limits = limits
        self._agents = agents
        self._tasks = tasks
        self._store = store
        self._state_dir = state_dir
        self._clock = clock
        self._subjects: dict[str, _Subject] = {}
        self._storage: dict[str, int] | None = None
        self._present = Snapshot(0, 0, {})
        self._before_ms: int | None = None
        self._turning = asyncio.Lock()
        self._reloaded = asyncio.Event()
        self.table = MetricTable(store)
        self.roll_up = RollUp()
        self.lost = 0
        """Number of steps that the store did not take."""
        self.steps = 0
        """Number of steps that were collected."""

    @property
    def is_enabled(self) -> bool:
        """Returns whether the history is kept."""
        return self._agents.config.defaults.monitoring.enable_metrics

    @property
    def interval_s(self) -> float:
        """Returns the seconds between two steps."""
        return max(LEAST_S, self._agents.config.defaults.monitoring.metrics_interval)

    def reloaded(self) -> None:
        """Takes note of another configuration, so that a shorter interval, or the switch, takes effect at once."""
        self._reloaded.set()

    async def run(self) -> None:
        """Collects until it is cancelled."""
        with contextlib.suppress(CorralError):
            rows = self.roll_up.seed(*await self.table.unfinished())
            if rows:
                await self.table.write(rows)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure_storage())
            while True:
                self._reloaded.clear()
                wait_s = wait_until_next(self._clock(), self.interval_s)
                try:
                    async with asyncio.timeout(wait_s):
                        await self._reloaded.wait()
                except TimeoutError:
                    await self._turn()
                if not self.is_enabled:
                    self._subjects.clear()
                    self._before_ms = None
                    await self._reloaded.wait()

    def forget(self, tenant: str) -> None:
        """Forgets the subjects of a tenant that is removed: no row of them follows."""
        for name in [each for each in self._subjects if tenant_of(each) == tenant]:
            del self._subjects[name]

    async def close(self) -> None:
        """Keeps what came since the last step, with a time of its own: the row of that step stays."""
        await self._turn(is_last=True)

    async def _turn(self, *, is_last: bool = False) -> None:
        if not self.is_enabled:
            return
        async with self._turning:
            at_ms = label_ms(self._clock(), self._interval_ms)
            if is_last and at_ms == self._before_ms:
                at_ms += 1
            try:
                await self.step(at_ms)
            except CorralError as error:
                if not self.lost:
                    logger.warning("cannot keep metrics: %s", error)
                self.lost += 1
            except Exception:  # an error of ours must not end the daemon's other work
                logger.exception("cannot collect metrics")

    async def step(self, at_ms: int) -> None:
        """Reads all, and writes a row for each subject to which something happened since the last step."""
        begins = self._before_ms is None
        span_ms = self._interval_ms if self._before_ms is None else at_ms - self._before_ms
        if span_ms <= 0:  # the clock was set back
            span_ms = self._interval_ms
        self._before_ms = at_ms
        steps = await self._steps(at_ms, span_ms, begins=begins)
        rows = self.roll_up.feed(at_ms, steps)
        rows += [Row(Tier.RAW, at_ms, subject, step) for subject, step in steps.items()]
        self.steps += 1
        await self.table.write(rows)

    @property
    def _interval_ms(self) -> int:
        return max(1, round(self.interval_s * 1000))

    @property
    def last_ms(self) -> int:
        """Returns the time of the last step; 0 before the first."""
        return self._before_ms or 0

    def snapshot(self) -> Snapshot:
        """Returns the last readings; without any where nothing is collected."""
        if self._before_ms is None:
            return Snapshot(0, 0, {})
        readings = {name: Reading(each.level, tuple(each.recent)) for name, each in self._subjects.items()}
        return Snapshot(self._before_ms, self._interval_ms, readings)

    async def present(self) -> Snapshot:
        """Returns readings of this second; those between two steps are made only while somebody looks, and become no rows."""
        newest = max(self.snapshot(), self._present, key=lambda each: each.at_ms)
        now_ms = int(self._clock() * 1000)
        if self._before_ms is None or now_ms - newest.at_ms < PRESENT_MS:
            return newest
        readings: dict[str, Reading] = {}
        sums = Step()
        for number, agent in enumerate([*self._agents.agents.values()]):
            level = self._read(agent)
            sums = _together(sums, level)
            if agent.spec.monitoring.enable_metrics:
                readings[agent.name] = self._reading(agent.name, level, now_ms)
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        readings[DAEMON] = self._reading(DAEMON, self._level_of_daemon(sums), now_ms)
        self._present = Snapshot(now_ms, self._interval_ms, readings)
        return self._present

    def _reading(self, name: str, level: Step, at_ms: int) -> Reading:
        known = self._subjects.get(name)
        before, recent = (Step(), ()) if known is None else (known.written, tuple(known.recent))
        return Reading(level, (*recent, (at_ms, gained(level, before, max(1, at_ms - self.last_ms)))))

    async def _steps(self, at_ms: int, span_ms: int, *, begins: bool) -> dict[str, Step]:
        found: dict[str, Step] = {}
        sums = Step()
        seen: set[str] = set()
        for number, agent in enumerate([*self._agents.agents.values()]):
            level = self._level_of(agent)
            sums = _together(sums, level)
            if agent.spec.monitoring.enable_metrics:
                seen.add(agent.name)
                self._note(found, agent.name, level, at_ms, span_ms, begins=begins)
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        for name in self._subjects.keys() - seen - {DAEMON}:
            gone = self._subjects.pop(name)
            if gone.level.up or gone.level.processes or gone.level.queued:
                found[name] = Step(span_ms=span_ms)
        level = self._level_of_daemon(sums)
        self._note(found, DAEMON, level, at_ms, span_ms, begins=begins, always=True)
        return found

    def _note(
        self,
        found: dict[str, Step],
        name: str,
        level: Step,
        at_ms: int,
        span_ms: int,
        *,
        begins: bool,
        always: bool = False,
    ) -> None:
        """Enters the step of a subject, if it is worth a row."""
        subject = self._subjects.get(name)
        if subject is None:
            # Of an agent that is new, all counts; where collecting begins again, what came meanwhile does not.
            resumes = begins and self.steps > 0
            subject = self._subjects[name] = _Subject(level if resumes else Step())
        elif level is subject.level and not always:
            return
        count = None if name == DAEMON else self._statistics.find(name)
        if count is not subject.count:  # another of the same name
            subject.written = Step() if subject.count is not None else subject.written
            subject.count = count
        step = gained(level, subject.written, span_ms, begins=begins)
        subject.level = level
        if always or begins or is_worth_a_row(step, subject.written):
            subject.written = level
            found[name] = step
            while subject.recent and subject.recent[0][0] <= at_ms - RECENT_MS:
                subject.recent.popleft()
            subject.recent.append((at_ms, step))

    def _level_of(self, agent: Agent) -> Step:
        """Returns the reading of an agent; the one before, where it has no process and nothing was counted."""
        known = self._subjects.get(agent.name)
        if known is None:
            return self._read(agent)
        mark: tuple[object, ...] = ()
        if not any(each.worker.pid is not None for each in agent.lives):
            count, queued = self._statistics.find(agent.name), self._tasks.queued(agent.name)
            mark = (count, queued) if count is None else (count, queued, *_counters(count))
            if known.mark == mark:
                return known.level
        known.mark = mark
        return self._read(agent)

    def _read(self, agent: Agent) -> Step:
        count = self._statistics.find(agent.name)
        lives = [each for each in agent.lives if each.worker.pid is not None]
        up = memory_bytes = open_files = running = 0
        cpu_s = 0.0 if count is None else count.cpu_s
        for supervisor in lives:
            sample = self._limits.sample(supervisor)
            memory_bytes += sample.rss_bytes
            open_files += sample.open_files
            cpu_s += self._limits.cpu_s(supervisor)
            running += len(supervisor.running)
            up += supervisor.worker.state in UP
        return replace(
            Step() if count is None else _counted(count),
            cpu_ms=round(cpu_s * 1000, 3),
            up=up,
            processes=len(lives),
            memory_bytes=memory_bytes,
            open_files=open_files,
            queued=self._tasks.queued(agent.name),
            running=running,
        )

    def _level_of_daemon(self, sums: Step) -> Step:
        """Returns the reading of the whole: the sums of all agents and servers, and corral's own processes."""
        own = self._statistics.overhead().values()
        ended_ms = sum(count.cpu_s for count in self._ended()) * 1000
        totals = self._tasks.totals()
        return replace(
            _counted(self._statistics.total),
            cpu_ms=round(
                sums.cpu_ms - ended_ms + self._statistics.total.cpu_s * 1000 + sum(each["cpu_ms"] for each in own), 3
            ),
            up=sums.up,
            processes=sums.processes + sum(int(each["active"]) for each in own),
            memory_bytes=sums.memory_bytes + sum(int(each["memory_bytes"]) for each in own),
            open_files=sums.open_files,
            queued=totals["queued"],
            running=totals["running"],
            storage=self._storage,
        )

    def _ended(self) -> list[Count]:
        """Returns the counters of all agents, whose ended processes the total has as well."""
        found = (self._statistics.find(name) for name in self._agents.agents)
        return [count for count in found if count is not None]

    async def _measure_storage(self) -> None:
        while True:
            if self.is_enabled:
                found = await asyncio.to_thread(storage_bytes, self._state_dir)
                with contextlib.suppress(CorralError):
                    rows = await self._store.read(
                        "SELECT COALESCE(SUM(size_bytes + session_bytes), 0) FROM memory_usage"
                    )
                    found["memory"] += max(0, number_of(rows[0][0]))
                self._storage = found
            await asyncio.sleep(STORAGE_S)


def wait_until_next(now: float, interval_s: float) -> float:
    """Returns the seconds until the next multiple of the interval; a timer may have fired a little before the last one."""
    left_s = interval_s - now % interval_s
    return left_s if left_s > interval_s / EARLY else left_s + interval_s


def label_ms(now: float, interval_ms: int) -> int:
    """Returns the time of a step in milliseconds: a multiple of the interval where one is near, so that steps are even."""
    now_ms = round(now * 1000)
    late_ms = now_ms % interval_ms
    early_ms = interval_ms - late_ms
    if early_ms <= min(EARLY_MS, interval_ms // EARLY):
        return now_ms + early_ms
    return now_ms - late_ms if late_ms <= interval_ms // EARLY else now_ms


def _counted(count: Count) -> Step:
    """Returns the counters of a subject since the daemon's start."""
    figures = copied(count, "ok failed cancelled tool_calls tokens cost_cents restarts failed_checks limit_hits hung")
    return Step(**figures, duration_ms=count.window.total_ms, durations=dict(count.durations))


def _counters(count: Count) -> tuple[float, ...]:
    incidents = count.restarts + count.failed_checks + count.limit_hits + count.hung
    return (count.ended, count.tool_calls, count.tokens, count.cost_cents, incidents, count.cpu_s)


def _together(sums: Step, level: Step) -> Step:
    keys = ("cpu_ms", "up", "processes", "memory_bytes", "open_files")
    return Step(**{key: getattr(sums, key) + getattr(level, key) for key in keys})
