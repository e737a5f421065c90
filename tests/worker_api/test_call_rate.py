"""Tool calls per minute: no minute has more than the limit, and a refusal says when the next one is taken."""

import random

import pytest

from corral.supervisor.worker_api.call_rate import MINUTE_S, SLOT_S, CallRates

pytestmark = pytest.mark.core


def test_no_minute_has_more_calls_than_the_limit_and_waiting_helps() -> None:
    for seed in range(30):
        draw = random.Random(seed)
        rates, limit, now = CallRates(), draw.randrange(1, 20), 1000.0 + draw.random()
        taken: list[float] = []
        for _ in range(300):
            now += draw.expovariate(1.0)
            wait_s = rates.take("a", limit, now)
            if wait_s:
                assert wait_s <= MINUTE_S + SLOT_S
                now += wait_s + 1e-6
                assert rates.take("a", limit, now) == 0, "after the wait it is taken"
            taken.append(now)
            assert sum(now - MINUTE_S < each <= now for each in taken) <= limit, seed


def test_agents_are_counted_apart_and_without_a_limit_too() -> None:
    rates = CallRates()
    for _ in range(5):
        assert rates.take("a", 0, 10.0) == 0
    assert rates.take("b", 1, 10.5) == 0
    assert rates.take("b", 1, 10.6) > 0
    assert (rates.last_minute("a", 11.0), rates.last_minute("b", 11.0)) == (5, 1)
    assert (rates.last_minute("c", 11.0), rates.total(11.0)) == (0, 6)
    assert rates.total(100.0) == 0
    assert rates.take("a", 3, 100.0) == 0, "a limit that is set meanwhile counts what was before"
