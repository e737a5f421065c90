"""Decides which task of one agent's queue runs next, and on which worker.

Three rules, together: the task with the least rank goes first; of the tasks of one session only one is out at a time,
and the others wait in order behind it; a task with a sticky key waits for its worker while that is wanted. A
task that waits for one of these holds up no other. Pure: names and numbers in, names out; no clock.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

AGING_S = 60.0
"""Seconds of waiting that are worth one step of priority."""

SLACK = 64
"""Number of removed tasks that a heap may hold, beside as many as wait."""

KEYS_KEPT = 10_000
"""Number of sticky keys whose workers are remembered; those of others are computed again."""

Place = tuple[float, int, str]
"""Rank, arrival, task."""

Routing = Literal["least-load", "round-robin"]


def rank(priority: int, since: float) -> float:
    """Returns the rank of a task in its queue, the least first; `since`: when it began to wait, in seconds of any clock.

    Priority 10 is the most urgent, equals go in order of arrival, and a task rises by one step for
    each minute that it waits. Since all waiting tasks age alike, their order never changes
    with time, and a heap of these numbers is always right.
    """
    return since / AGING_S - priority


class Slot(Struct, frozen=True):
    """Represents a worker: the number of its tasks, how many it may have, and since when it has had fewer."""

    worker: str
    running: int
    capacity: int
    rested_at: float


def choose(slots: Iterable[Slot], routing: Routing = "least-load", last: str = "") -> str | None:
    """Returns the worker for the next task, None if all are full: the least loaded, then longest rested; round robin the one after `last`."""
    free = [slot for slot in slots if slot.running < slot.capacity]
    if not free:
        return None
    if routing == "round-robin":
        after = _number(last)
        return min(free, key=lambda slot: (_number(slot.worker) <= after, _number(slot.worker))).worker
    if len(free) == 1:
        return free[0].worker
    return min(free, key=lambda slot: (slot.running, slot.rested_at, slot.worker)).worker


def _number(worker: str) -> int:
    digits = worker.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def preferred(key: str, names: Iterable[str]) -> str | None:
    """Returns the name that a key sticks to, by rendezvous hashing: when a name goes, its keys alone move, to all others."""
    return max(names, key=lambda name: (_weight(key, name), name), default=None)


def _weight(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{name}/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Waiting(Struct, frozen=True):
    """Represents a waiting task; `arrival` counts up, and tells equals and earlier places of the same task apart."""

    task: str
    rank: float
    arrival: int
    sticky: str | None
    session: str | None

    @property
    def place(self) -> Place:
        """Returns its place in a heap."""
        return (self.rank, self.arrival, self.task)


class _Session:
    """Holds the tasks of a session: the front one, which stays so once it has `begun`; the others wait."""

    __slots__ = ("begun", "front", "heap")

    def __init__(self) -> None:
        self.front: str | None = None
        self.begun = False
        self.heap: list[Place] = []


class TaskQueue:
    """Holds the waiting tasks of one agent."""

    def __init__(self) -> None:
        self.waiting: dict[str, Waiting] = {}
        """By task; changed by the methods alone."""
        self.sticky_count = 0
        """Number of waiting tasks with a sticky key: if there are any, `next` needs the wanted workers."""
        self._arrivals = 0
        self._common: list[Place] = []
        self._heaps: dict[str, list[Place]] = {}  # of sticky tasks, by worker
        self._workers: frozenset[str] = frozenset()
        self._worker_of: dict[str, str] = {}  # by sticky key
        self._sessions: dict[str, _Session] = {}
        self._sticky_keys = Counter[str]()
        self._behind = 0  # how many wait behind another one of their session
        self._behind_sticky = 0  # and have a sticky key, too
        self._last = ""

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def offered(self) -> int:
        """Returns the number of tasks that wait for a worker, and for no other task."""
        return len(self.waiting) - self._behind

    def ready(self, workers: int) -> int:
        """Returns the number of tasks that one more worker could begin beside `workers`; of sticky ones, of keys that have no worker to themselves."""
        common = len(self.waiting) - self.sticky_count - self._behind + self._behind_sticky
        return common + max(0, len(self._sticky_keys) - workers)

    def add(self, task: str, rank: float, *, sticky: str | None = None, session: str | None = None) -> None:
        """Adds a task, for the first time or once more: then it is still in front of its session."""
        assert task not in self.waiting, "a task waits once"
        self._arrivals += 1
        waiting = Waiting(task, rank, self._arrivals, sticky, session)
        self.waiting[task] = waiting
        if sticky is not None:
            self.sticky_count += 1
            self._sticky_keys[sticky] += 1
        if session is None:
            self._offer(waiting)
            return
        of = self._sessions.setdefault(session, _Session())
        if of.front in (None, task):
            of.front = task
            self._offer(waiting)
        elif not of.begun and waiting.place < self.waiting[of.front].place:
            heapq.heappush(of.heap, self.waiting[of.front].place)
            self._count_behind(self.waiting[of.front], +1)
            of.front = task
            self._offer(waiting)
        else:
            heapq.heappush(of.heap, waiting.place)
            self._count_behind(waiting, +1)
            if len(of.heap) > 2 * len(self.waiting) + SLACK:
                of.heap = [place for place in of.heap if self._is_waiting(place)]
                heapq.heapify(of.heap)

    def next(
        self, slots: Sequence[Slot], wanted: frozenset[str] = frozenset(), routing: Routing = "least-load"
    ) -> tuple[str, str] | None:
        """Removes the next task, and returns it with its worker; None when none can go on. `wanted` are the ids of workers that are or will be up."""
        if not self.waiting:
            return None
        if self.sticky_count:
            self._place_sticky(wanted)
        best: Place | None = self._first(self._common)
        worker = choose(slots, routing, self._last) if best is not None else None
        if worker is None:
            best = None
        if self.sticky_count:
            for slot in slots:
                heap = self._heaps.get(slot.worker)
                if heap is None or slot.running >= slot.capacity:
                    continue
                first = self._first(heap)
                if first is not None and (best is None or first < best):
                    best, worker = first, slot.worker
        if best is None or worker is None:
            return None
        task = best[2]
        waiting = self._remove(task)
        if waiting.session is not None:
            self._sessions[waiting.session].begun = True
        if waiting.sticky is None:
            self._last = worker
        return task, worker

    def note_begun(self, task: str, session: str) -> None:
        """Notes that a task runs that has never waited here: the others of its session wait for its end."""
        of = self._sessions.setdefault(session, _Session())
        of.front, of.begun = task, True

    def remove(self, task: str) -> None:
        """Removes a waiting task; harmless when it does not wait."""
        if task not in self.waiting:
            return
        session = self._remove(task).session
        of = None if session is None else self._sessions[session]
        if session is not None and of is not None and of.front == task and not of.begun:
            self._advance(session, of)

    def end(self, task: str, session: str | None) -> None:
        """Removes a task that has ended, and brings the next of its session to the front."""
        self.remove(task)
        of = None if session is None else self._sessions.get(session)
        if session is not None and of is not None and of.front == task:
            self._advance(session, of)

    def _advance(self, session: str, of: _Session) -> None:
        of.front, of.begun = None, False
        while of.heap:
            place = heapq.heappop(of.heap)
            if self._is_waiting(place):
                of.front = place[2]
                self._count_behind(self.waiting[of.front], -1)
                self._offer(self.waiting[of.front])
                return
        del self._sessions[session]

    def is_behind(self, task: str) -> bool:
        """Returns True if a task waits for another one of its session."""
        waiting = self.waiting.get(task)
        return waiting is not None and not self._is_offered(waiting)

    def _offer(self, waiting: Waiting) -> None:
        heap = self._common
        if waiting.sticky is not None:
            worker = self._worker_of.get(waiting.sticky)
            if worker is None:
                if len(self._worker_of) >= KEYS_KEPT:
                    self._worker_of.clear()
                worker = self._worker_of[waiting.sticky] = preferred(waiting.sticky, self._workers) or ""
            heap = self._heaps.setdefault(worker, [])
        heapq.heappush(heap, waiting.place)
        if len(heap) > 2 * len(self.waiting) + SLACK:
            heap[:] = {place for place in heap if self._is_current(place)}
            heapq.heapify(heap)

    def _place_sticky(self, wanted: frozenset[str]) -> None:
        """Moves the tasks of workers that are gone to others, and some of the tasks to workers that came."""
        if self._workers == wanted:
            return
        self._workers = wanted
        places = {place for heap in self._heaps.values() for place in heap if self._is_current(place)}
        self._heaps.clear()
        self._worker_of.clear()
        for place in places:
            self._offer(self.waiting[place[2]])

    def _first(self, heap: list[Place]) -> Place | None:
        while heap:
            if self._is_current(heap[0]):
                return heap[0]
            heapq.heappop(heap)
        return None

    def _is_current(self, place: Place) -> bool:
        return self._is_waiting(place) and self._is_offered(self.waiting[place[2]])

    def _is_waiting(self, place: Place) -> bool:
        waiting = self.waiting.get(place[2])
        return waiting is not None and waiting.arrival == place[1]

    def _is_offered(self, waiting: Waiting) -> bool:
        return waiting.session is None or self._sessions[waiting.session].front == waiting.task

    def _count_behind(self, waiting: Waiting, step: int) -> None:
        self._behind += step
        if waiting.sticky is not None:
            self._behind_sticky += step

    def _remove(self, task: str) -> Waiting:
        waiting = self.waiting.pop(task)
        if not self._is_offered(waiting):
            self._count_behind(waiting, -1)
        if waiting.sticky is not None:
            self.sticky_count -= 1
            self._sticky_keys[waiting.sticky] -= 1
            if not self._sticky_keys[waiting.sticky]:
                del self._sticky_keys[waiting.sticky]
        if not self.sticky_count:
            self._heaps.clear()
            self._worker_of.clear()
        return waiting
