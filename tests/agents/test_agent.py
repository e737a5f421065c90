"""Which worker is next: the first of those that can begin a task, whatever happened to the others; in long random lives too."""

import random
from dataclasses import dataclass, field
from typing import cast

import pytest

from corral.supervisor.agents.agent import SLACK, WorkerHeap
from corral.supervisor.supervision.worker_supervisor import WorkerSupervisor

pytestmark = pytest.mark.core


@dataclass(eq=False)
class Hand:
    """A worker, as far as the heap sees one; asked how often whether it takes tasks."""

    id: str
    running: dict[str, float] = field(default_factory=dict[str, float])
    rested_at: float = 0.0
    is_up: bool = True
    is_surplus: bool = False
    asked: int = 0

    @property
    def is_schedulable(self) -> bool:
        self.asked += 1
        return self.is_up and not self.is_surplus


def supervisor(hand: Hand) -> WorkerSupervisor:
    return cast(WorkerSupervisor, hand)  # it is asked for nothing else


def test_of_a_thousand_workers_nobody_is_looked_at_but_the_first() -> None:
    heap, hands = WorkerHeap(), [Hand(f"a-{n}", rested_at=n) for n in range(1000)]
    for hand in hands:
        heap.note(supervisor(hand), 1)
        hand.asked = 0
    for hand in hands[:100]:
        assert heap.first(1) is supervisor(hand)
        hand.running["task"] = 0.0
        heap.note(supervisor(hand), 1)
    assert sum(hand.asked for hand in hands) <= 200


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_least_loaded_and_then_the_longest_rested_of_those_that_can(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    heap, hands, capacity = WorkerHeap(), [Hand(f"a-{n}") for n in range(chance.randint(1, 9))], 2
    for hand in hands:
        heap.note(supervisor(hand), capacity)
    for now in range(1000):
        hand = chance.choice(hands)
        match chance.randint(0, 5):
            case 0:
                hand.is_up = not hand.is_up
            case 1:
                hand.is_surplus = not hand.is_surplus
            case 2 if hand.running:
                hand.running.popitem()
                hand.rested_at = hand.rested_at if hand.running else now
            case 3:
                hand.is_up = False
                heap.note(supervisor(hand), capacity)
                hands[hands.index(hand)] = hand = Hand(hand.id)
            case _:
                found = heap.first(capacity)
                able = [h for h in hands if h.is_up and not h.is_surplus and len(h.running) < 2]
                expected = min(
                    able, key=lambda h: (len(h.running), h.rested_at, h.id), default=None
                )
                assert found is (None if expected is None else supervisor(expected))
                if expected is not None:
                    expected.running[str(now)] = 0.0
                    hand = expected
        heap.note(supervisor(hand), capacity)
        assert heap.size <= 2 * len(hands) + SLACK + 1
