"""The newest figures of each tree that is watched, and when it is looked at next.

A tree where nothing has happened since the last look costs a microsecond or two, one of a single process
some ten; any other is surveyed in a task of its own, so that one with thousands of processes, or one whose shared pages take long to
be told apart, delays neither the looks at the others nor the daemon. What follows from the figures, and
when to look again, is for each tree's judge to say.

No tree can have taken more memory than the whole machine was given since the tree was last looked at.
So one figure is read as often as the tree that is nearest to its limit asks for, and the trees
themselves only when that has grown by what one of them may still take.
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
from .usage import Quiet, Tree, Usage, allocated_bytes

WINDOW_S = 1.0
"""The least time over which a share of the processors is told: over less it says little."""

FIRST_WINDOW_S = 0.05
"""The same until the first window is full: something is to be shown soon after a start."""

GRID_FROM_S = 0.1
"""Waits of this and more may be shortened, so that many end together: a wake-up costs as much as 50 quiet looks."""

TICK_S = 0.001
"""The loop's clock counts milliseconds: what is due within this one is due."""

AHEAD_BYTES = (int(GROWTH_BYTES_PER_S * MIN_LOOK_S), int(GROWTH_BYTES_PER_S * 0.1))
"""Trees that could pass their limits after so much more are looked at together: least and most."""

LOOKS_PER_TURN = 32
"""Trees that are looked at before the loop does something else: thousands are due together, and a start must not wait for them."""

COHORT_LEAST = 8
"""Quiet trees that are asked after together, at least; at most it is those of one turn."""

GATE_STEP_BYTES = 1024 * 1024
"""Trees that could pass their limits after as much more, but for this, are asked after together: those of one program."""

AGAIN_S = 5.0
"""After a look that failed for a reason of ours."""

logger = logging.getLogger(__name__)


class Judge(Protocol):
    """Who decides about one tree."""

    async def judge(self, usage: Usage) -> None:
        """Takes what the tree uses."""
        ...

    def is_fine(self, usage: Usage) -> bool:
        """Takes what the tree uses, if there is nothing to be done about it; else `judge` takes it."""
        ...

    def wait_s(self) -> float:
        """In how many seconds to look again, whatever memory is taken meanwhile."""
        ...

    def pause_s(self) -> float:
        """How many seconds to let pass, however much is taken."""
        ...

    def room_bytes(self) -> int | None:
        """How much more memory the tree may have than at the last look; None where it need not be watched."""
        ...

    def attend(self) -> Coroutine[None, None, None] | None:
        """What runs for as long as the tree is watched."""
        ...


class Sample(Struct, frozen=True):
    """What `status` shows of a tree. `cpu_percent` is over the last WINDOW_S or more; 100 is one core."""

    rss_bytes: int = 0
    cpu_percent: float = 0.0
    open_files: int = 0


NOTHING = Sample()

_sample = functools.lru_cache(maxsize=256)(Sample)
"""One for all trees that use the same: of thousands of one program most do."""

NO_TASKS: frozenset[asyncio.Task[None]] = frozenset()
"""One for all: there may be thousands, and an empty one takes 216 bytes."""


def _ignore(_: object) -> None:
    return


@dataclass(eq=False, slots=True, kw_only=True)
class Resting:
    """What is looked at when its time has come, or when the machine has given out so much memory."""

    due: float = 0.0
    rests_until: float = 0.0
    seen_bytes: int = 0
    """What the machine had given out before the last look."""
    gate_bytes: float = math.inf
    """When the machine has given out so much, a tree may have passed its limit."""
    waits_for_bytes: float = math.inf
    """At how much it is asked after: less than `gate_bytes`, where it was looked at meanwhile."""
    wait_s: float = 0.0
    """What its judge said last."""
    is_gone: bool = False
    is_surveyed: bool = False
    """Whether a survey is on its way."""

    def note_quiet(self, given_bytes: int, now: float) -> None:
        """Nothing has happened: what may still be taken has not changed."""
        self.gate_bytes += given_bytes - self.seen_bytes
        self.seen_bytes = given_bytes
        self.rests_until = now


@dataclass(eq=False, slots=True)
class Watched(Resting):
    """A tree that is watched."""

    tree: Tree
    judge: Judge
    window: tuple[float, float] | None = None
    """When the window of `cpu_percent` began, and what had been used by then."""
    is_settled: bool = False
    """Whether a whole window has passed."""
    cpu_percent: float = 0.0
    open_files: int = 0
    sample: Sample = NOTHING
    has_pace: bool = False
    """Whether its judge said twice the same wait: then it says so for as long as nothing happens."""
    is_known: bool = False
    cohort: "Cohort | None" = None
    """Those that it rests with: when they are due, so is it."""
    tasks: frozenset[asyncio.Task[None]] = NO_TASKS


class Cohort(Resting):
    """Trees where nothing happens, due together and asked after as one: the most that each alone costs is Python's."""

    __slots__ = ("_quiet", "members")

    def __init__(self, members: list[Watched]) -> None:
        """All have been found quiet in this turn, and may rest for as long."""
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
        """Whether nothing has happened in any, and they are enough."""
        return len(self.members) >= COHORT_LEAST and self._quiet.is_so()

    def woken(self) -> list[Watched]:
        """Those where something has happened, who have left; all, where few are left."""
        woken = [
            each for each in self.members if not each.tree.is_single or not each.tree.is_quiet()
        ]
        if len(self.members) - len(woken) < COHORT_LEAST:
            woken = [*self.members]
        for member in woken:
            self.leave(member)
        self._quiet = Quiet([member.tree for member in self.members])
        return woken

    def leave(self, member: Watched) -> None:
        """Lets one of them go, which is from now on as if it had rested alone."""
        place = self.members.index(member)
        del self.members[place]
        self._quiet.leave_out(place)
        member.cohort = None
        member.note_quiet(self.seen_bytes, self.rests_until)
        member.window = (self.rests_until, member.tree.usage.cpu_s)
        member.due = self.due
        self.is_gone = not self.members


class Sampler:
    """Looks at trees when they are due."""

    def __init__(self, on_sample: Callable[[Judge], None] = _ignore) -> None:
        """`on_sample` is called when what `of` says of a tree has changed, with its judge."""
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
        """Looks at a tree from now on."""
        watched = Watched(tree, judge, seen_bytes=self._given_bytes)
        self._watched[unit] = watched
        self._new.append(watched)
        self._changed.set()

    def forget(self, unit: str) -> None:
        """Looks at a tree no more; nothing happens when it is not watched."""
        watched = self._watched.pop(unit, None)
        if watched is not None:
            watched.is_gone = True
            if watched.cohort is not None:
                watched.cohort.leave(watched)
            watched.tree.close()
            for task in watched.tasks:
                task.cancel()

    def of(self, unit: str) -> Sample:
        """The newest figures of a tree, zeros when there are none; it reads nothing."""
        watched = self._watched.get(unit)
        return NOTHING if watched is None else watched.sample

    def stir(self, unit: str) -> None:
        """A tree's judge may say something else from now on, although nothing happened to the tree."""
        watched = self._watched.get(unit)
        if watched is not None:
            watched.has_pace = False
            if watched.cohort is not None:
                watched.cohort.leave(watched)
                self._look_at(watched, watched.due)
                self._wait_at_gate(watched)

    async def run(self) -> None:
        """Looks until it is cancelled."""
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
                    self._timer = self._loop.call_at(self._sleeps_until, self._glance)
                try:
                    await self._changed.wait()
                finally:
                    if self._timer is not None:
                        self._timer.cancel()
                        self._timer = None

    def _glance(self) -> None:
        """At the end of a sleep: mostly the machine has given out too little, and it is slept on at a third of the cost."""
        self._timer = None
        soon = self._loop.time() + TICK_S
        is_for_gate = self._gate_at <= soon and not self._new
        try:
            if is_for_gate and (not self._due or self._due[0] > soon):
                self._open_gate()
                due = min(self._gate_at, self._due[0] if self._due else math.inf)
                if soon < due < math.inf:
                    self._sleeps_until = due
                    self._timer = self._loop.call_at(due, self._glance)
        finally:
            if self._timer is None:
                self._changed.set()

    def _open_gate(self) -> None:
        """Finds the trees that may have passed their limits by what was given out meanwhile."""
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
                    continue  # it waits for less, or has waited for it already
                watched.waits_for_bytes = math.inf
                if watched.is_gone or watched.is_surveyed:
                    continue  # after the survey it comes back
                if isinstance(watched, Watched) and watched.cohort is not None:
                    continue  # which waits for it
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
        """Reads again before so much can have been given to one tree."""
        wait_s = max(MIN_LOOK_S, (given_bytes - self._given_bytes) / GROWTH_BYTES_PER_S)
        self._gate_at = min(self._gate_at, self._read_at + wait_s)

    def _turn(self, group: asyncio.TaskGroup) -> bool:
        """Looks at those that are due by now; False when some of them have to wait for the next turn."""
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
        """Nothing has happened in a tree."""
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
        """Has those that were found quiet in this turn rest, together where they may."""
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
        """Returns how many looks it was as long as. With thousands of quiet trees it is what the daemon spends its time with."""
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
        """Looks at a tree: at once where that is soon done."""
        if watched.is_known and watched.tree.is_quiet():
            self._rest(watched, now)
            return
        watched.seen_bytes = self._given_bytes
        usage = watched.tree.glance() if watched.is_known else None
        if usage is None or not watched.judge.is_fine(usage):
            watched.is_surveyed = True
            self._begin(group, watched, self._survey(watched))
            return
        watched.open_files = watched.tree.most_files
        self._note_cpu(watched, usage.cpu_s)
        self._again(watched)

    def _begin(
        self, group: asyncio.TaskGroup, watched: Watched, work: Coroutine[None, None, None]
    ) -> None:
        def forget(done: asyncio.Task[None]) -> None:
            watched.tasks = watched.tasks - {done} or NO_TASKS

        task = group.create_task(work)
        watched.tasks |= {task}
        task.add_done_callback(forget)

    def _again(self, watched: Watched) -> None:
        """Says when a tree that has just been looked at is due again, by time and by memory."""
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
        except Exception:  # a fault of ours with one tree must not leave the others unwatched
            logger.exception("cannot look at the processes of a worker")
            self._look_at(watched, self._loop.time() + AGAIN_S)
        watched.is_surveyed = False
        if min(watched.due, self._gate_at) < self._sleeps_until:
            self._changed.set()

    def _note_cpu(self, watched: Watched, cpu_s: float) -> None:
        now = self._loop.time()
        if watched.window is None:
            watched.window = (now, cpu_s)  # what was used before the first look has no time to it
        since, before_s = watched.window
        passed_s = now - since
        if passed_s >= (WINDOW_S if watched.is_settled else FIRST_WINDOW_S):
            watched.cpu_percent = 100.0 * (cpu_s - before_s) / passed_s
        if passed_s >= WINDOW_S:
            watched.window = (now, cpu_s)
            watched.is_settled = True
        usage = watched.tree.usage
        sample = _sample(usage.rss_bytes, round(watched.cpu_percent, 1), watched.open_files)
        if sample != watched.sample:
            watched.sample = sample
            self._on_sample(watched.judge)


def _gate_step(size_bytes: float) -> float:
    return size_bytes - size_bytes % GATE_STEP_BYTES


@functools.lru_cache(maxsize=8)
def _on_grid(now: float, wait_s: float) -> float:
    """One for all that rest in the same turn: of thousands most wait for as long."""
    due = now + wait_s
    return due - due % 2.0 ** math.floor(math.log2(wait_s / 2)) if wait_s >= GRID_FROM_S else due


async def _attend(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except Exception:  # a fault of ours with one tree must not leave the others unwatched
        logger.exception("cannot attend to the processes of a worker")
