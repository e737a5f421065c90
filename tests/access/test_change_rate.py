"""The number of changes that a caller may make within a minute, with a clock that the test turns."""

import random

import pytest

from corral.supervisor.access.change_rate import MAX_CALLERS, ChangeRate

SEED = 4711


def test_no_minute_has_more_changes_than_the_limit_and_a_wait_is_enough() -> None:
    chance = random.Random(SEED)
    for limit in (1, 3, 20):
        rate, now, done = ChangeRate(), 1000.0, list[float]()
        for _ in range(2000):
            now += chance.choice((0.0, 0.01, 0.7, 5.0))
            wait_s = rate.take("a", limit, now)
            if wait_s:
                assert len([at for at in done if at > now - 62]) >= limit
                now += wait_s
                assert rate.take("a", limit, now) == 0
            done.append(now)
            assert len([at for at in done if at > now - 60]) <= limit


def test_callers_are_counted_apart_and_no_limit_counts_nothing() -> None:
    rate = ChangeRate()
    assert rate.take("a", 1, 0.0) == 0
    assert rate.take("a", 1, 1.0) > 0
    assert rate.take("b", 1, 1.0) == 0
    assert all(rate.take("a", 0, 1.0) == 0 for _ in range(10))


@pytest.mark.long
def test_the_number_of_callers_in_memory_is_bounded() -> None:
    rate = ChangeRate()
    for number in range(MAX_CALLERS + 100):
        assert rate.take(f"caller {number}", 1, 0.0) == 0
    assert len(rate._slots) == MAX_CALLERS  # pyright: ignore[reportPrivateUsage]  # the bound itself
    assert rate.take(f"caller {MAX_CALLERS}", 1, 1.0) > 0
