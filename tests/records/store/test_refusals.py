"""A disk that refuses now and then refuses; one that has taken writes for a while is sound."""

import pytest

from corral.supervisor.records.store.store import QUIET_S, Refusals

pytestmark = pytest.mark.core


def test_writes_between_refusals_do_not_end_the_state() -> None:
    found = Refusals()
    for second in range(100):
        found = found.refused(float(second), "disk-full").written().at(second + 0.9)
        assert found.reason == "disk-full"
    assert found.at(99 + QUIET_S).reason is None


def test_without_a_write_nothing_says_that_there_is_room() -> None:
    found = Refusals().refused(1.0, "disk-full")
    assert found.at(1_000.0).reason == "disk-full"
    assert found.at(1_000.0).written().at(1_000.0).reason is None
