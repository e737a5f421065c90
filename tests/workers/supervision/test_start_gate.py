"""Who may begin, and who waits."""

from functools import partial

import pytest

from corral.supervisor.workers.supervision.start_gate import StartGate

pytestmark = pytest.mark.shell


def test_so_many_begin_and_each_that_leaves_lets_the_next_one_in() -> None:
    begun: list[int] = []
    gate = StartGate(2)
    for number in range(4):
        gate.enter(number, partial(begun.append, number))
    assert begun == [0, 1]
    gate.leave()
    assert begun == [0, 1, 2]
    gate.leave()
    gate.leave()
    assert begun == [0, 1, 2, 3]
    gate.leave()
    gate.enter(4, lambda: begun.append(4))
    gate.enter(5, lambda: begun.append(5))
    gate.enter(6, lambda: begun.append(6))
    assert begun == [0, 1, 2, 3, 4, 5], "no place was lost, and none was won"


def test_who_withdraws_while_it_waits_never_begins_and_costs_no_place() -> None:
    begun: list[int] = []
    gate = StartGate(1)
    for number in range(3):
        gate.enter(number, partial(begun.append, number))
    gate.withdraw(1)
    gate.withdraw(0)  # it has begun, and is to leave
    assert begun == [0]
    gate.leave()
    gate.leave()
    gate.enter(3, partial(begun.append, 3))
    assert begun == [0, 2, 3]
