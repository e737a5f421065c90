"""A number for each minute: no minute has more, and a wait is enough; with a clock that the test turns."""

import random

import pytest

from corral.supervisor.tenants.quotas.spending import MINUTE_S, Minute
from seeds import seeds

SLOT_S = 1.0
"""Seconds that an event may count longer: events of one second are held together."""

pytestmark = pytest.mark.core


@pytest.mark.parametrize("seed", seeds(30))
def test_no_minute_has_more_than_the_limit_and_a_wait_is_enough(seed: int) -> None:
    draw = random.Random(seed)
    minute, limit, now = Minute(), draw.randrange(1, 20), 1000.0 + draw.random()
    taken: list[float] = []
    for _ in range(300):
        now += draw.choice((0.0, 0.01, draw.expovariate(1.0), 5.0))
        wait_s = minute.take(limit, now)
        if wait_s:
            assert wait_s <= MINUTE_S + SLOT_S
            assert len([at for at in taken if at > now - MINUTE_S - 2 * SLOT_S]) >= limit
            now += wait_s + 1e-6
            assert minute.take(limit, now) == 0
        taken.append(now)
        assert sum(now - MINUTE_S < each <= now for each in taken) <= limit
