"""Samples the usage of every watched tree, and schedules the next look at each.

A tree without activity since the last look costs a microsecond or two, a tree of a single process some ten; any other is
surveyed in a task of its own, so that a tree with thousands of processes, or one whose shared pages take long to
attribute, delays neither the looks at the others nor the daemon. The consequences of the figures, and the time of the
next look, are decided by each tree's judge.

No tree can have taken more memory than the kernel has allocated to the whole machine since the tree's last look. So that
one figure is read as often as the tree nearest to its limit requires, and the trees themselves only when the figure has
grown by as much as one of them may still take.
"""

import asyncio
import functools
import heapq
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from .limits import GROWTH_BYTES_PER_S, MIN_LOOK_S
from .tree import Quiet, Tree, Usage, allocated_bytes

WINDOW_S = 1.0
"""Seconds at least over which a share of the processors is averaged."""

FIRST_WINDOW_S = 0.05
"""Seconds of the same until the first window is full, so that a figure appears soon after a start."""

GRID_FROM_S = 0.1
"""Seconds from which on waits may be shortened, so that many end together: a wake-up costs as much as 50 quiet looks."""

TICK_S = 0.001
"""Seconds of the loop's clock resolution: a look due within them is due."""

AHEAD_BYTES = (int(GROWTH_BYTES_PER_S * MIN_LOOK_S), int(GROWTH_BYTES_PER_S * 0.1))
"""Bytes, least and most, within which trees that could pass their limits are looked at together."""

LOOKS_PER_TURN = 32
"""Number of looks per turn of the loop: thousands may be due together, and a start must not wait for them."""

COHORT_LEAST = 8
"""Number of quiet trees at least that form a cohort."""

GATE_STEP_BYTES = 1024 * 1024
"""Bytes to which thresholds are rounded, so that trees of one program are checked together."""

AGAIN_S = 5.0
"""Seconds until the next look after one that failed by an error of corral."""

logger = logging.getLogger(__name__)


class Judge(Protocol):
    """Decides about the usage of one tree."""

    async def judge(self, usage: Usage) -> None:
        """Acts on the usage of the tree."""
        ...

    def is_fine(self, usage: Usage) -> bool:
        """Returns True if the usage needs no action, and takes it; else `judge` has to be called."""
        ...

    def wait_s(self) -> float:
        """Returns the seconds until the next look, apart from memory."""
        ...

    def pause_s(self) -> float:
        """Returns the seconds that must pass before the next look, whatever memory is allocated."""
        ...

    def room_bytes(self) -> int | None:
        """Returns the bytes by which the tree may still grow; None if its memory need not be watched."""
        ...

    def attend(self) -> Coroutine[None, None, None] | None:
        """Returns a coroutine to run for as long as the tree is watched, if there is one."""
        ...


class Sample(Struct, frozen=True):
    """Holds the figures that `status` shows of a tree. `cpu_percent` is over the last WINDOW_S or more; 100 is one core."""

    rss_bytes: int = 0
    cpu_percent: float = 0.0
    open_files: int = 0


NOTHING = Sample()

_sample = functools.lru_cache(maxsize=256)(Sample)
"""Shares equal samples: most of thousands of trees of one program use the same."""

NO_TASKS: frozenset[asyncio.Task[None]] = frozenset()
"""The empty set, shared by all trees: each of its own would take 216 bytes."""


def _ignore(_: object) -> None:
    return


@dataclass(eq=False, slots=True, kw_only=True)
class Resting:
    """Holds when a tree or a cohort is looked at next: at a time, or at an amount of memory allocated by the machine."""

    due: float = 0.0
    rests_until: float = 0.0
    seen_bytes: int = 0
    """Bytes that the machine had allocated before the last look."""
    gate_bytes: float = math.inf
    """Bytes allocated by the machine at which a tree may have passed its limit."""
    waits_for_bytes: float = math.inf
    """Bytes at which it is checked: less than `gate_bytes`, where it was looked at meanwhile."""
    wait_s: float = 0.0
    """Seconds that its judge returned last."""
    is_gone: bool = False
    is_surveyed: bool = False
    """True while a survey is running."""

    def note_quiet(self, given_bytes: int, now: float) -> None:
        """Notes a look without activity: the room until the limit has not changed."""
        self.gate_bytes += given_bytes - self.seen_bytes
        self.seen_bytes = given_bytes
        self.rests_until = now


@dataclass(eq=False, slots=True)
class Watched(Resting):
    """Represents a watched tree."""

    tree: Tree
    judge: Judge
    window: tuple[float, float] | None = None
    """The begin of the window of `cpu_percent`, and the processor time used by then, both in seconds."""
    is_settled: bool = False
    """True once a whole window has passed."""
    cpu_percent: float = 0.0
    open_files: int = 0
    sample: Sample = NOTHING
    has_pace: bool = False
    """True if its judge returned the same wait twice: it does so for as long as there is no activity."""
    is_known: bool = False
    cohort: "Cohort | None" = None
    """The cohort that it belongs to, which is looked at in its place."""
    tasks: frozenset[asyncio.Task[None]] = NO_TASKS


class Cohort(Resting):
    """Groups quiet trees that are due together and checked as one, which saves most of the cost of each."""

    __slots__ = ("_quiet", "members")

    def __init__(self, members: list[Watched]) -> None:
        """Takes trees that were found quiet in this turn and have the same wait."""
        first = members[0]
        super().__init__(
            due=first.due,
            rests_until=first.rests_until,
            seen_bytes=first.seen_bytes,
            gate_bytes=min(member.gate_bytes for member in members),
            wait_s=first.wait_s,
        )
        self.members = members
        self._quiet = Quiet([member.tree for member in members])
        for member in members:
            member.cohort = self

    def is_quiet(self) -> bool:
        """Returns True if no member was active, and there are enough members."""
        return len(self.members) >= COHORT_LEAST and self._quiet.is_so()

    def woken(self) -> list[Watched]:
        """Removes and returns the active members; all of them, if few would be left."""
        woken = [each for each in self.members if not each.tree.is_single or not each.tree.is_quiet()]
        if len(self.members) - len(woken) < COHORT_LEAST:
            woken = [*self.members]
        for member in woken:
            self.leave(member)
        self._quiet = Quiet([member.tree for member in self.members])
        return woken

    def leave(self, member: Watched) -> None:
        """Removes one member, which continues as if it had been watched alone."""
        place = self.members.index(member)
        del self.members[place]
        self._quiet.leave_out(place)
        member.cohort = None
        member.note_quiet(self.seen_bytes, self.rests_until)
        member.window = (self.rests_until, member.tree.usage.cpu_s)
        member.due = self.due
        self.is_gone = not self.members


class Sampler:
    """Looks at trees when they are due, and holds their newest figures."""

    def __init__(self, on_sample: Callable[[Judge], None] = _ignore) -> None:
        """Makes an empty sampler; `on_sample` is called with a tree's judge when the figures of the tree have changed."""
        self._loop = asyncio.get_running_loop()
        self._on_sample = on_sample
        self._watched: dict[str, Watched] = {}
        self._new: list[Watched] = []
        self._due: list[float] = []
        self._due_at: dict[float, list[Watched | Cohort]] = {}
        self._gate: list[float] = []
        self._waiting_at: dict[float, list[Watched | Cohort]] = {}
        self._gate_at = math.inf
        self._quiet: list[Watched] = []
        self._changed = asyncio.Event()
        self._sleeps_until = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._given_bytes, self._read_at = allocated_bytes(), self._loop.time()

    def watch(self, unit: str, tree: Tree, judge: Judge) -> None:
        """Watches a tree from now on."""
        watched = Watched(tree, judge, seen_bytes=self._given_bytes)
        self._watched[unit] = watched
        self._new.append(watched)
        self._changed.set()

    def forget(self, unit: str) -> None:
        """Stops watching a tree; does nothing if it is not watched."""
        watched = self._watched.pop(unit, None)
        if watched is not None:
            watched.is_gone = True
            if watched.cohort is not None:
                watched.cohort.leave(watched)
            watched.tree.close()
            for task in watched.tasks:
                task.cancel()

    def of(self, unit: str) -> Sample:
        """Returns the newest figures of a tree without reading any, zeros if there are none."""
        watched = self._watched.get(unit)
        return NOTHING if watched is None else watched.sample

    def stir(self, unit: str) -> None:
        """Notes that a tree's judge may decide differently from now on, although the tree was not active."""
        watched = self._watched.get(unit)
        if watched is not None:
            watched.has_pace = False
            if watched.cohort is not None:
                watched.cohort.leave(watched)
                self._look_at(watched, watched.due)
                self._wait_at_gate(watched)

    async def run(self) -> None:
        """Looks at trees until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for watched in self._new:
                    if not watched.is_gone:
                        self._again(watched)
                        attending = watched.judge.attend()
                        if attending is not None:
                            self._begin(group, watched, _attend(attending))
                self._new.clear()
                if self._gate_at <= self._loop.time() + TICK_S:
                    self._open_gate()
                if not self._turn(group):
                    await asyncio.sleep(0)
                    continue
                self._sleeps_until = min(self._gate_at, self._due[0] if self._due else math.inf)
                if self._sleeps_until < math.inf:
                    self._timer = self._loop.call_at(self._sleeps_until, self._wake_early)
                try:
                    await self._changed.wait()
                finally:
                    if self._timer is not None:
                        self._timer.cancel()
                        self._timer = None

    def _wake_early(self) -> None:
        """Ends a sleep, or prolongs it at a third of the cost if the machine has allocated too little memory."""
        self._timer = None
        soon = self._loop.time() + TICK_S
        is_for_gate = self._gate_at <= soon and not self._new
        try:
            if is_for_gate and (not self._due or self._due[0] > soon):
                self._open_gate()
                due = min(self._gate_at, self._due[0] if self._due else math.inf)
                if soon < due < math.inf:
                    self._sleeps_until = due
                    self._timer = self._loop.call_at(due, self._wake_early)
        finally:
            if self._timer is None:
                self._changed.set()

    def _open_gate(self) -> None:
        """Schedules the trees that may have passed their limits by the memory allocated meanwhile."""
        self._given_bytes, self._read_at = allocated_bytes(), self._loop.time()
        until_bytes = self._given_bytes
        if self._gate:
            nearest = self._waiting_at[self._gate[0]][0]
            half_bytes = int(nearest.gate_bytes - nearest.seen_bytes) // 2
            until_bytes += min(max(half_bytes, AHEAD_BYTES[0]), AHEAD_BYTES[1])
        while self._gate and self._gate[0] <= until_bytes:
            at_bytes = heapq.heappop(self._gate)
            for watched in self._waiting_at.pop(at_bytes):
                if watched.waits_for_bytes != at_bytes:
                    continue  # it waits for another amount by now
                watched.waits_for_bytes = math.inf
                if watched.is_gone or watched.is_surveyed:
                    continue  # after the survey it comes back
                if isinstance(watched, Watched) and watched.cohort is not None:
                    continue  # the cohort waits in its place
                if _gate_step(watched.gate_bytes) > until_bytes:  # it has been looked at meanwhile
                    self._wait_at_gate(watched)
                else:
                    self._look_at(watched, min(watched.due, watched.rests_until))
        self._gate_at = math.inf
        if self._gate:
            self._read_gate_before(self._gate[0])

    def _wait_at_gate(self, watched: Watched | Cohort) -> None:
        if watched.waits_for_bytes <= watched.gate_bytes:
            return
        at_bytes = watched.waits_for_bytes = _gate_step(watched.gate_bytes)
        others = self._waiting_at.get(at_bytes)
        if others is None:
            self._waiting_at[at_bytes] = [watched]
            heapq.heappush(self._gate, at_bytes)
        else:
            others.append(watched)
        self._read_gate_before(at_bytes)

    def _read_gate_before(self, given_bytes: float) -> None:
        """Schedules the next reading before one tree can have been given so much."""
        wait_s = max(MIN_LOOK_S, (given_bytes - self._given_bytes) / GROWTH_BYTES_PER_S)
        self._gate_at = min(self._gate_at, self._read_at + wait_s)

    def _turn(self, group: asyncio.TaskGroup) -> bool:
        """Looks at the trees that are due by now; returns False if some have to wait for the next turn."""
        now = self._loop.time()
        looks = 0
        while self._due and self._due[0] <= now + TICK_S:
            due = heapq.heappop(self._due)
            those = self._due_at.pop(due)
            while those:
                if looks >= LOOKS_PER_TURN:
                    self._put_back(due, those)
                    self._gather()
                    return False
                watched = those.pop()
                if watched.is_gone or watched.is_surveyed or watched.due != due:
                    continue
                looks += 1
                if isinstance(watched, Cohort):
                    looks += self._rest_together(group, watched, now)
                elif watched.cohort is None:
                    self._look(group, watched, now)
        self._gather()
        return True

    def _put_back(self, due: float, those: list[Watched | Cohort]) -> None:
        if due in self._due_at:
            self._due_at[due] += those
        else:
            self._due_at[due] = those
            heapq.heappush(self._due, due)

    def _rest(self, watched: Watched, now: float) -> None:
        """Notes a look at a tree that was not active."""
        if watched.has_pace and not watched.sample.cpu_percent:
            watched.window = (now, watched.tree.usage.cpu_s)
            watched.note_quiet(self._given_bytes, now)
            watched.due = _on_grid(now, watched.wait_s)
            self._quiet.append(watched)
        else:
            watched.seen_bytes = self._given_bytes
            self._note_cpu(watched, watched.tree.usage.cpu_s)
            self._again(watched)

    def _gather(self) -> None:
        """Schedules the trees that were quiet in this turn, as cohorts where possible."""
        together: dict[float, list[Watched]] = {}
        for watched in self._quiet:
            together.setdefault(watched.due if watched.tree.is_single else 0.0, []).append(watched)
        self._quiet.clear()
        for due, those in together.items():
            resting: Sequence[Watched | Cohort] = those
            if due and len(those) >= COHORT_LEAST:
                resting = [Cohort(those)]
            for each in resting:
                self._look_at(each, each.due)
                self._wait_at_gate(each)

    def _rest_together(self, group: asyncio.TaskGroup, cohort: Cohort, now: float) -> int:
        """Checks a cohort, and returns its cost in looks. With thousands of quiet trees, most of the daemon's time is here."""
        looks = len(cohort.members) // COHORT_LEAST
        if not cohort.is_quiet():
            looks = LOOKS_PER_TURN
            for watched in cohort.woken():
                self._look(group, watched, now)
        if not cohort.is_gone:
            cohort.note_quiet(self._given_bytes, now)
            self._look_at(cohort, _on_grid(now, cohort.wait_s))
            self._wait_at_gate(cohort)
        return looks

    def _look(self, group: asyncio.TaskGroup, watched: Watched, now: float) -> None:
        """Looks at a tree: at once where that is quick, else in a task."""
        if watched.is_known and watched.tree.is_quiet():
            self._rest(watched, now)
            return
        watched.seen_bytes = self._given_bytes
        usage = watched.tree.quick_look() if watched.is_known else None
        if usage is None or not watched.judge.is_fine(usage):
            watched.is_surveyed = True
            self._begin(group, watched, self._survey(watched))
            return
        watched.open_files = watched.tree.most_files
        self._note_cpu(watched, usage.cpu_s)
        self._again(watched)

    def _begin(self, group: asyncio.TaskGroup, watched: Watched, work: Coroutine[None, None, None]) -> None:
        def forget(done: asyncio.Task[None]) -> None:
            watched.tasks = watched.tasks - {done} or NO_TASKS

        task = group.create_task(work)
        watched.tasks |= {task}
        task.add_done_callback(forget)

    def _again(self, watched: Watched) -> None:
        """Schedules the next look at a tree, by time and by memory."""
        now, judge = self._loop.time(), watched.judge
        before_s, watched.wait_s = watched.wait_s, judge.wait_s()
        watched.has_pace = watched.wait_s == before_s
        self._look_at(watched, _on_grid(now, watched.wait_s))
        room_bytes = judge.room_bytes()
        if room_bytes is not None:
            watched.rests_until = now + judge.pause_s()
            watched.gate_bytes = watched.seen_bytes + max(0, room_bytes)
            self._wait_at_gate(watched)

    def _look_at(self, watched: Watched | Cohort, due: float) -> None:
        watched.due = due
        others = self._due_at.get(due)
        if others is None:
            self._due_at[due] = [watched]
            heapq.heappush(self._due, due)
        else:
            others.append(watched)

    async def _survey(self, watched: Watched) -> None:
        try:
            usage = await watched.tree.survey()
            watched.open_files = watched.tree.count_files()
            self._note_cpu(watched, usage.cpu_s)
            await watched.judge.judge(usage)
            watched.is_known = True
            self._again(watched)
        except Exception:  # an error with one tree must not leave the others unwatched
            logger.exception("cannot look at the processes of a worker")
            self._look_at(watched, self._loop.time() + AGAIN_S)
        watched.is_surveyed = False
        if min(watched.due, self._gate_at) < self._sleeps_until:
            self._changed.set()

    def _note_cpu(self, watched: Watched, cpu_s: float) -> None:
        now = self._loop.time()
        if watched.window is None:
            watched.window = (now, cpu_s)  # usage before the first look belongs to no known time
        since, before_s = watched.window
        passed_s = now - since
        if passed_s >= (WINDOW_S if watched.is_settled else FIRST_WINDOW_S):
            watched.cpu_percent = 100.0 * (cpu_s - before_s) / passed_s
        if passed_s >= WINDOW_S:
            watched.window = (now, cpu_s)
            watched.is_settled = True
        sample = _sample(watched.tree.usage.rss_bytes, round(watched.cpu_percent, 1), watched.open_files)
        if sample != watched.sample:
            watched.sample = sample
            self._on_sample(watched.judge)


def _gate_step(size_bytes: float) -> float:
    return size_bytes - size_bytes % GATE_STEP_BYTES


@functools.lru_cache(maxsize=8)
def _on_grid(now: float, wait_s: float) -> float:
    """Returns when a look is due, rounded down so that many looks are due together."""
    due = now + wait_s
    return due - due % 2.0 ** math.floor(math.log2(wait_s / 2)) if wait_s >= GRID_FROM_S else due


async def _attend(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except Exception:  # an error with one tree must not leave the others unwatched
        logger.exception("cannot attend to the processes of a worker")
