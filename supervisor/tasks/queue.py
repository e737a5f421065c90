"""Whose turn it is in the queue of one agent, and on which worker.

Three rules, together: the least rank goes first; of the tasks of one session only one is out at a time, and
the others wait in order behind it; what sticks to a worker waits for that worker while it is wanted.
Whoever has to wait for one of these holds up nobody else. Pure: it holds names and numbers, and waits for nothing.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from .policy import Slot, choose, preferred

SLACK = 64
"""How many places of tasks that are gone a heap may hold, beside as many as there are tasks."""

KEYS_KEPT = 10_000
"""Sticky keys whose workers are remembered; of others it is found out again."""

Place = tuple[float, int, str]
"""Rank, arrival, task."""


class Waiting(Struct, frozen=True):
    """A task that waits; `arrival` counts up, and tells equals and earlier places of the same task apart."""

    task: str
    rank: float
    arrival: int
    sticky: str | None
    session: str | None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return (self.rank, self.arrival, self.task)


class _Session:
    """The tasks of a session: one is in front, and stays there once it has `begun`; the others wait."""

    __slots__ = ("begun", "front", "heap")

    def __init__(self) -> None:
        self.front: str | None = None
        self.begun = False
        self.heap: list[Place] = []


class TaskQueue:
    """The queue of one agent."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}
        self._arrivals = 0
        self._common: list[Place] = []
        self._lanes: dict[str, list[Place]] = {}
        self._workers: frozenset[str] = frozenset()
        self._lane_of: dict[str, str] = {}  # by sticky key
        self._sessions: dict[str, _Session] = {}
        self._stuck = 0  # how many of those that wait stick to a worker
        self._stuck_keys = Counter[str]()
        self._behind = 0  # how many wait behind another one of their session
        self._behind_stuck = 0  # and stick to a worker, too
        self._last = ""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_stuck(self) -> bool:
        """Whether somebody waits for one worker alone: then `next` has to be told who is wanted."""
        return self._stuck > 0

    @property
    def offered(self) -> int:
        """How many wait for a worker, and for nothing else."""
        return len(self._waiting) - self._behind

    def ready(self, workers: int) -> int:
        """How many one more worker could begin at once, beside so many that there are.

        Of what sticks to workers it is those keys that cannot have one to themselves now.
        """
        common = len(self._waiting) - self._stuck - self._behind + self._behind_stuck
        return common + max(0, len(self._stuck_keys) - workers)

    # -- in and out

    def line_up(
        self, task: str, rank: float, *, sticky: str | None = None, session: str | None = None
    ) -> None:
        """A task begins to wait, for the first time or once more: then it is still in front of its session."""
        assert task not in self._waiting, "a task waits once"
        self._arrivals += 1
        waiting = Waiting(task, rank, self._arrivals, sticky, session)
        self._waiting[task] = waiting
        if sticky is not None:
            self._stuck += 1
            self._stuck_keys[sticky] += 1
        if session is None:
            self._offer(waiting)
            return
        of = self._sessions.setdefault(session, _Session())
        if of.front in (None, task):
            of.front = task
            self._offer(waiting)
        elif not of.begun and waiting.place < self._waiting[of.front].place:
            heapq.heappush(of.heap, self._waiting[of.front].place)
            self._stand_behind(self._waiting[of.front], +1)
            of.front = task
            self._offer(waiting)
        else:
            heapq.heappush(of.heap, waiting.place)
            self._stand_behind(waiting, +1)
            if len(of.heap) > 2 * len(self._waiting) + SLACK:
                of.heap = [place for place in of.heap if self._waits(place)]
                heapq.heapify(of.heap)

    def next(
        self,
        slots: Sequence[Slot],
        wanted: frozenset[str] = frozenset(),
        routing: Literal["least-load", "round-robin"] = "least-load",
    ) -> tuple[str, str] | None:
        """The next task and its worker, taken out of the queue; None when nobody can go on now.

        `slots` are the workers that take tasks, `wanted` the ids of those that are or will be up.
        """
        if not self._waiting:
            return None
        if self._stuck:
            self._place_lanes(wanted)
        best: Place | None = self._first(self._common)
        worker = choose(slots, routing, self._last) if best is not None else None
        if worker is None:
            best = None
        if self._stuck:
            for slot in slots:
                lane = self._lanes.get(slot.worker)
                if lane is None or slot.running >= slot.capacity:
                    continue
                first = self._first(lane)
                if first is not None and (best is None or first < best):
                    best, worker = first, slot.worker
        if best is None or worker is None:
            return None
        task = best[2]
        waiting = self._forget(task)
        if waiting.session is not None:
            self._sessions[waiting.session].begun = True
        if waiting.sticky is None:
            self._last = worker
        return task, worker

    def leave(self, task: str) -> None:
        """A task that waits does so no more, for now or for ever; harmless when it does not wait."""
        if task not in self._waiting:
            return
        session = self._forget(task).session
        of = None if session is None else self._sessions[session]
        if session is not None and of is not None and of.front == task and not of.begun:
            self._advance(session, of)

    def close(self, task: str, session: str | None) -> None:
        """A task has ended: it waits no more, and the next of its session may go on."""
        self.leave(task)
        of = None if session is None else self._sessions.get(session)
        if session is not None and of is not None and of.front == task:
            self._advance(session, of)

    def _advance(self, session: str, of: _Session) -> None:
        """The next of a session comes to the front."""
        of.front, of.begun = None, False
        while of.heap:
            place = heapq.heappop(of.heap)
            if self._waits(place):
                of.front = place[2]
                self._stand_behind(self._waiting[of.front], -1)
                self._offer(self._waiting[of.front])
                return
        del self._sessions[session]

    def is_behind(self, task: str) -> bool:
        """Whether a task waits for another one of its session."""
        waiting = self._waiting.get(task)
        return waiting is not None and not self._is_offered(waiting)

    # -- lanes

    def _offer(self, waiting: Waiting) -> None:
        heap = self._common
        if waiting.sticky is not None:
            heap = self._lanes.setdefault(self._lane(waiting.sticky), [])
        heapq.heappush(heap, waiting.place)
        if len(heap) > 2 * len(self._waiting) + SLACK:
            heap[:] = {place for place in heap if self._stands(place)}
            heapq.heapify(heap)

    def _lane(self, sticky: str) -> str:
        """The worker that a key sticks to; "" while nobody is wanted."""
        lane = self._lane_of.get(sticky)
        if lane is None:
            if len(self._lane_of) >= KEYS_KEPT:
                self._lane_of.clear()
            lane = self._lane_of[sticky] = preferred(sticky, self._workers) or ""
        return lane

    def _place_lanes(self, wanted: frozenset[str]) -> None:
        """What sticks to a worker that is gone moves to others, and some of it to those that came."""
        if self._workers == wanted:
            return
        self._workers = wanted
        places = {place for lane in self._lanes.values() for place in lane if self._stands(place)}
        self._lanes.clear()
        self._lane_of.clear()
        for place in places:
            self._offer(self._waiting[place[2]])

    def _first(self, heap: list[Place]) -> Place | None:
        while heap:
            if self._stands(heap[0]):
                return heap[0]
            heapq.heappop(heap)
        return None

    def _stands(self, place: Place) -> bool:
        """Whether a place is that of a task that still waits, and may go on."""
        return self._waits(place) and self._is_offered(self._waiting[place[2]])

    def _waits(self, place: Place) -> bool:
        waiting = self._waiting.get(place[2])
        return waiting is not None and waiting.arrival == place[1]

    def _is_offered(self, waiting: Waiting) -> bool:
        return waiting.session is None or self._sessions[waiting.session].front == waiting.task

    def _stand_behind(self, waiting: Waiting, step: int) -> None:
        self._behind += step
        if waiting.sticky is not None:
            self._behind_stuck += step

    def _forget(self, task: str) -> Waiting:
        waiting = self._waiting.pop(task)
        if not self._is_offered(waiting):
            self._stand_behind(waiting, -1)
        if waiting.sticky is not None:
            self._stuck -= 1
            self._stuck_keys[waiting.sticky] -= 1
            if not self._stuck_keys[waiting.sticky]:
                del self._stuck_keys[waiting.sticky]
        if not self._stuck:
            self._lanes.clear()
            self._lane_of.clear()
        return waiting
