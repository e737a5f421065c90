"""When tasks of an agent fail again and again: the decision, as a table of moments."""

import random

import pytest

from corral.supervisor.workers.supervision.task_failures import Failures

pytestmark = pytest.mark.core

WINDOW_S = 60.0


class Life:
    """The failures of one agent, and the events that were published."""

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self.failures = Failures()
        self.events: list[tuple[float, str]] = []
        self.due: float | None = None

    def fail(self, now: float) -> None:
        self.advance(now)
        self.failures = self.failures.plus(now, self.limit)
        self._decide(now)

    def advance(self, now: float) -> None:
        while self.due is not None and self.due <= now:
            self._decide(self.due)

    def _decide(self, now: float) -> None:
        self.failures, event, self.due = self.failures.decided(now, self.limit, WINDOW_S)
        assert self.due is None or self.due > now, "a timer that is due at once would never end"
        if event:
            self.events.append((now, event))


def test_the_third_failure_within_the_window_is_published_once_and_its_end_once() -> None:
    life = Life()
    for now in (0.0, 10.0, 20.0, 30.0):
        life.fail(now)
    life.advance(1000.0)
    assert life.events == [(20.0, "failing"), (70.0, "recovered")]
    life.fail(1001.0)
    life.advance(5000.0)
    assert len(life.events) == 2, "one failure is no repeated one"


def test_failures_that_are_far_apart_are_never_published() -> None:
    life = Life()
    for number in range(100):
        life.fail(number * 31.0)
    assert life.events == []


def test_what_goes_on_failing_is_published_once_in_each_window() -> None:
    life = Life()
    for second in range(0, 300, 5):
        life.fail(float(second))
    life.advance(1000.0)
    failing = [at for at, event in life.events if event == "failing"]
    assert failing == [10.0, 70.0, 130.0, 190.0, 250.0, 310.0]
    assert life.events[-1] == (295.0 - 10.0 + WINDOW_S, "recovered")


def test_a_limit_of_zero_publishes_the_end_and_nothing_more() -> None:
    life = Life()
    for now in (0.0, 1.0, 2.0):
        life.fail(now)
    life.limit = 0
    life.failures, event, due = life.failures.decided(3.0, 0, WINDOW_S)
    assert (event, due) == ("recovered", None)


def test_in_long_random_lives_failing_and_recovered_take_turns() -> None:
    for seed in range(50):
        draw = random.Random(seed)
        life = Life(draw.randrange(1, 6))
        now = 0.0
        at: list[float] = []
        for _ in range(200):
            now += draw.expovariate(1 / 15.0)
            at.append(now)
            life.fail(now)
        life.advance(now + 10 * WINDOW_S)
        assert life.events[-1][1] == "recovered", seed
        last = ""
        for moment, event in life.events:
            count = sum(each <= moment < each + WINDOW_S for each in at)
            assert (event == "failing") == (count >= life.limit), (seed, moment, event)
            assert last or event == "failing"
            last = event
