"""Which worker of an agent is given the next task: the least loaded, then the one that has rested the longest.

Of a thousand workers nobody is looked at but the first. A place here is what was so when its worker was noted, and is checked
when its turn comes: so whatever lets a worker take more than before has to be noted, and nothing else.
"""

import heapq

from ..supervision.worker_supervisor import Keeper

SLACK = 64
"""How many places that hold no more there may be, beside as many as there are workers."""

Place = tuple[int, float, str, int, Keeper]
"""How many tasks it does, when it last did none, its id, a number that tells places apart, and who it is."""


class Bench:
    """The workers of one agent that may be able to begin a task."""

    def __init__(self) -> None:
        self._heap: list[Place] = []
        self._places: dict[Keeper, Place] = {}  # of each the newest: others hold no more
        self._count = 0

    @property
    def size(self) -> int:
        """How many places it remembers."""
        return len(self._heap)

    def note(self, keeper: Keeper, capacity: int) -> None:
        """A worker may be able to begin a task, or one more; or no longer."""
        before = self._places.pop(keeper, None)
        if not has_place(keeper, capacity):
            return
        key = (len(keeper.running), keeper.rested_at)
        if before is not None and before[:2] == key:
            self._places[keeper] = before
            return
        self._count += 1
        place = self._places[keeper] = (*key, keeper.id, self._count, keeper)
        heapq.heappush(self._heap, place)
        if len(self._heap) > 2 * len(self._places) + SLACK:
            self._heap = sorted(self._places.values())

    def first(self, capacity: int) -> Keeper | None:
        """The worker for the next task; None if there is none."""
        while self._heap:
            place = self._heap[0]
            keeper = place[4]
            if self._places.get(keeper) is place:
                if has_place(keeper, capacity):
                    return keeper
                del self._places[keeper]
            heapq.heappop(self._heap)
        return None


def has_place(keeper: Keeper, capacity: int) -> bool:
    """Whether a worker can begin a task now."""
    return len(keeper.running) < capacity and keeper.takes_tasks and not keeper.is_surplus
