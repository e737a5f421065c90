"""Who may begin, and who waits."""

from functools import partial

from corral.supervisor.turnstile import Turnstile


def test_so_many_begin_and_each_that_leaves_lets_the_next_one_in() -> None:
    begun: list[int] = []
    gate = Turnstile(2)
    for number in range(4):
        gate.enter(partial(begun.append, number))
    assert begun == [0, 1]
    gate.leave()
    assert begun == [0, 1, 2]
    gate.leave()
    gate.leave()
    assert begun == [0, 1, 2, 3]
    gate.leave()
    gate.enter(lambda: begun.append(4))
    gate.enter(lambda: begun.append(5))
    gate.enter(lambda: begun.append(6))
    assert begun == [0, 1, 2, 3, 4, 5], "no place was lost, and none was won"
