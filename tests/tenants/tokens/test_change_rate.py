"""The number of changes that a caller may make within a minute, with a clock that the test turns."""

import pytest

from corral.supervisor.tenants.tokens.change_rate import MAX_CALLERS, ChangeRate


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
    assert len(rate._minutes) == MAX_CALLERS  # pyright: ignore[reportPrivateUsage]  # the bound itself
    assert rate.take(f"caller {MAX_CALLERS}", 1, 1.0) > 0
