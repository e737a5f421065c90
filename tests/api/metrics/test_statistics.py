"""The arithmetic of the statistics: windows, percentiles, shares; against the plain definition."""

import math
import random

import pytest

from corral.supervisor.api.metrics.statistics import WINDOW, Count, Window

pytestmark = pytest.mark.core


def plain_percentile(durations: list[float], percent: int) -> float:
    """The least value that at least so many per cent do not exceed."""
    ordered = sorted(durations)
    return next(v for n, v in enumerate(ordered, 1) if n * 100 >= percent * len(ordered))


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 1_000])
def test_percentiles_are_those_of_the_definition(count: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    durations = [random.Random(seed + n).expovariate(0.1) for n in range(count)]
    window = Window()
    for each in durations:
        window.add(each)
    told = window.figures().record()
    assert told["p50_ms"] == round(plain_percentile(durations, 50), 3)
    assert told["p99_ms"] == round(plain_percentile(durations, 99), 3)
    average = told["average_ms"]
    assert average is not None
    assert math.isclose(average, sum(durations) / count, abs_tol=0.001)


def test_percentiles_forget_what_has_left_the_window_and_the_average_does_not() -> None:
    window = Window()
    for _ in range(WINDOW // 2):
        window.add(1000.0)
    for _ in range(WINDOW):
        window.add(1.0)
    told = window.figures().record()
    assert (told["p50_ms"], told["p99_ms"]) == (1.0, 1.0)
    assert told["average_ms"] == 334.0
    window.add(7.0)
    assert window.figures().record()["p99_ms"] == 1.0
    assert len(window.figures().kept) == WINDOW


def test_what_was_reported_does_not_change_later() -> None:
    window = Window()
    window.add(1.0)
    figures = window.figures()
    window.add(9.0)
    assert figures.record() == {"average_ms": 1.0, "p50_ms": 1.0, "p99_ms": 1.0}


def test_where_nothing_ended_there_is_no_figure() -> None:
    count = Count()
    assert count.window.figures().record() == {"average_ms": None, "p50_ms": None, "p99_ms": None}
    assert (count.ended, count.success_rate) == (0, None)


def test_a_cancelled_task_is_neither_a_success_nor_a_failure() -> None:
    count = Count()
    for _ in range(3):
        count.end("ok", 1.0)
    count.end("failed", 1.0)
    count.end("cancelled", None)
    assert (count.ended, count.ok, count.failed, count.cancelled) == (5, 3, 1, 1)
    assert count.success_rate == 0.75
    assert count.window.count == 4
