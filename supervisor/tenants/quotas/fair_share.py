"""Shares one thing between tenants: places of a queue, turns, and a rate. Decides and does nothing."""

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

QUEUE_SHARE = 4
"""Ratio of the places that one party may hold to those that are free: alone it gets four fifths of all."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def has_room(limit: int, taken: int, own: int) -> bool:
    """Returns whether a party that holds `own` of the `taken` places of a queue may take one more.

    The threshold moves with the free places, so that some are always left for a party that has none: one flood leaves a
    fifth of all, two leave a ninth.
    """
    return taken < limit and own < QUEUE_SHARE * (limit - taken)


class Turns(Generic[K, T]):
    """Queues items of several parties, and returns them by deficit round robin.

    Each party gets `quantum` of cost a round, and may save up nothing while it has no items. An item of a party waits for at
    most one item of each other party where all cost the same.
    """

    def __init__(self, quantum: float = 1.0) -> None:
        assert quantum > 0, "a party without cost never gets a turn"
        self._quantum = quantum
        self._items: dict[K, deque[tuple[float, T]]] = {}
        self._order: deque[K] = deque()
        self._deficit: dict[K, float] = {}
        self._is_new_turn = True

        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def parties(self) -> int:
        """Returns the number of parties that have items."""
        return len(self._items)

    def waiting(self, party: K) -> int:
        """Returns the number of items of a party."""
        return len(self._items.get(party, ()))

    def put(self, party: K, item: T, cost: float = 1.0) -> None:
        """Appends an item of a party."""
        items = self._items.get(party)
        if items is None:
            items = self._items[party] = deque()
            self._order.append(party)
            self._deficit[party] = 0.0
        items.append((cost, item))
        self._count += 1

    def next(self) -> tuple[K, T] | None:
        """Removes and returns the item whose turn it is, with its party; None if there is none."""
        while self._order:
            party = self._order[0]
            if self._is_new_turn:
                self._deficit[party] += self._quantum
                self._is_new_turn = False
            items = self._items[party]
            if items[0][0] <= self._deficit[party]:
                cost, item = items.popleft()
                self._deficit[party] -= cost
                self._count -= 1
                if not items:
                    self._leave(party)
                return party, item
            self._order.rotate(-1)
            self._is_new_turn = True
        return None

    def drop(self, party: K) -> list[T]:
        """Removes and returns all items of a party."""
        items = self._items.get(party)
        if items is None:
            return []
        found = [item for _, item in items]
        self._count -= len(found)
        if self._order[0] == party:
            self._leave(party)
        else:
            self._order.remove(party)
            del self._items[party], self._deficit[party]
        return found

    def _leave(self, party: K) -> None:
        """Ends the turn of the first party, which has no items."""
        self._order.popleft()
        del self._items[party], self._deficit[party]
        self._is_new_turn = True


def shares(total: float, wanted: Mapping[K, float]) -> dict[K, float]:
    """Returns the share of each party in `total`, max-min fair: a party that wants less than an equal share gets all of it.

    The rest is divided equally among the others. The sum is `total`, or less where all get what they want.
    """
    found: dict[K, float] = {}
    left, parties = total, len(wanted)
    for party in sorted(wanted, key=lambda each: wanted[each]):
        found[party] = min(wanted[party], left / parties)
        left -= found[party]
        parties -= 1
    return found
