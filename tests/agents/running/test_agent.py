"""Which worker is next: the first of those that can begin a task, whatever happened to the others; in long random lives too."""

import random
import weakref
from dataclasses import dataclass, field
from typing import cast

import pytest

from corral.supervisor.agents.running.agent import SLACK, WorkerHeap
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor

pytestmark = pytest.mark.core


@dataclass(eq=False)
class StubWorker:
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


def supervisor(stub: StubWorker) -> WorkerSupervisor:
    return cast(WorkerSupervisor, stub)  # it is asked for nothing else


def test_only_the_first_of_a_thousand_workers_is_looked_at() -> None:
    heap, stubs = WorkerHeap(), [StubWorker(f"a-{n}", rested_at=n) for n in range(1000)]
    for stub in stubs:
        heap.note(supervisor(stub), 1)
        stub.asked = 0
    for stub in stubs[:100]:
        assert heap.first(1) is supervisor(stub)
        stub.running["task"] = 0.0
        heap.note(supervisor(stub), 1)
    assert sum(stub.asked for stub in stubs) <= 200


@pytest.mark.parametrize("seed", range(20))
def test_the_least_loaded_worker_is_chosen_then_the_longest_idle(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    heap, stubs, capacity = (WorkerHeap(), [StubWorker(f"a-{n}") for n in range(chance.randint(1, 9))], 2)
    for stub in stubs:
        heap.note(supervisor(stub), capacity)
    for now in range(1000):
        stub = chance.choice(stubs)
        match chance.randint(0, 5):
            case 0:
                stub.is_up = not stub.is_up
            case 1:
                stub.is_surplus = not stub.is_surplus
            case 2 if stub.running:
                stub.running.popitem()
                stub.rested_at = stub.rested_at if stub.running else now
            case 3:
                stub.is_up = False
                heap.note(supervisor(stub), capacity)
                stubs[stubs.index(stub)] = stub = StubWorker(stub.id)
            case _:
                found = heap.first(capacity)
                able = [h for h in stubs if h.is_up and not h.is_surplus and len(h.running) < 2]
                expected = min(able, key=lambda h: (len(h.running), h.rested_at, h.id), default=None)
                assert found is (None if expected is None else supervisor(expected))
                if expected is not None:
                    expected.running[str(now)] = 0.0
                    stub = expected
        heap.note(supervisor(stub), capacity)
        assert heap.size <= 2 * len(stubs) + SLACK + 1


def test_a_worker_that_has_ended_is_not_kept_in_memory_by_its_place() -> None:
    heap, gone = WorkerHeap(), StubWorker("a-0")
    heap.note(supervisor(gone), 1)
    seen = weakref.ref(gone)
    gone.is_up = False
    heap.note(supervisor(gone), 1)
    del gone
    assert (heap.size, seen()) == (1, None)
