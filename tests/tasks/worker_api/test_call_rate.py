"""Tool calls per minute, by agent; `quotas.spending` counts."""

import pytest

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.tasks.worker_api.call_records import CallRates

pytestmark = pytest.mark.core


def test_agents_are_counted_apart_and_without_a_limit_too() -> None:
    rates = CallRates(Bus(1))
    for _ in range(5):
        assert rates.take("a", 0, 10.0) == 0
    assert rates.take("b", 1, 10.5) == 0
    assert rates.take("b", 1, 10.6) > 0
    assert (rates.last_minute("a", 11.0), rates.last_minute("b", 11.0)) == (5, 1)
    assert (rates.last_minute("c", 11.0), rates.total(11.0)) == (0, 6)
    assert rates.total(100.0) == 0
    assert rates.take("a", 3, 100.0) == 0, "a limit that is set meanwhile counts what was before"
