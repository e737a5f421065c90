"""When a worker that has ended is started again, and when it has been tried often enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.config.spec.spec import Recovery
from corral.supervisor.workers.lifecycle.restart_policy import (
    JITTER,
    Again,
    History,
    Rest,
    after_life,
    backoff_s,
    decide,
)

pytestmark = pytest.mark.core

DEFAULT = Recovery()


def end(
    recovery: Recovery,
    history: History,
    ready_for_s: float | None,
    *,
    clean: bool = False,
    counts: bool = True,
    jitter: float = 0.5,
) -> Again | Rest:
    return decide(recovery, history, clean=clean, counts=counts, ready_for_s=ready_for_s, jitter=jitter)


def ends(recovery: Recovery, *ready_for_s: float | None, counts: bool = True) -> list[Again | Rest]:
    """The decisions after ends in a row, each after it had been Ready for so long."""
    history, decisions = History(), list[Again | Rest]()
    for each in ready_for_s:
        decision = end(recovery, history, each, counts=counts)
        decisions.append(decision)
        history = decision.history
    return decisions


def again(decisions: list[Again | Rest]) -> list[bool]:
    return [isinstance(decision, Again) for decision in decisions]


def delays(decisions: list[Again | Rest]) -> list[float]:
    return [decision.delay_s for decision in decisions if isinstance(decision, Again)]


@pytest.mark.parametrize(
    ("restart", "after_clean", "after_failure"),
    [("always", True, True), ("on-failure", False, True), ("never", False, False)],
)
def test_the_policy(restart: str, after_clean: bool, after_failure: bool) -> None:
    recovery = Recovery(restart="always" if restart == "always" else "never" if restart == "never" else "on-failure")
    off = Recovery(restart=recovery.restart, enable_auto_restart=False)
    for clean, expected in ((True, after_clean), (False, after_failure)):
        assert isinstance(end(recovery, History(), 5.0, clean=clean), Again) is expected
        rest = end(off, History(), 5.0, clean=clean)
        assert isinstance(rest, Rest)
        assert not rest.gave_up


def test_three_attempts_are_three_restarts_and_four_starts() -> None:
    decisions = ends(DEFAULT, None, None, None, None)
    assert again(decisions) == [True, True, True, False]
    last = decisions[-1]
    assert isinstance(last, Rest)
    assert last.gave_up


def test_without_attempts_the_first_end_is_the_last() -> None:
    assert again(ends(Recovery(max_restart_attempts=0), None)) == [False]


def test_the_window_runs_over_time_spent_ready() -> None:
    """Ends 25 s of Ready apart: never more than two restarts in 60 s of it."""
    assert all(again(ends(DEFAULT, *[25.0] * 50)))
    assert again(ends(DEFAULT, *[15.0] * 4)) == [True, True, True, False]


def test_a_start_that_never_got_ready_always_counts_however_slow() -> None:
    """No time passes for the window while it is not Ready, so there is no argument for it."""
    assert again(ends(DEFAULT, 1.0, None, None, None)) == [True, True, True, False]


def test_a_death_while_busy_counts_for_the_task_alone() -> None:
    assert all(again(ends(DEFAULT, *[2.0] * 20, counts=False)))


def test_a_healthy_life_forgets_all_failures() -> None:
    decisions = ends(DEFAULT, None, None, None, 60.0, None, None, None)
    assert again(decisions) == [True, True, True, True, True, True, False]


def test_a_healthy_life_forgets_though_it_is_shorter_than_the_window() -> None:
    recovery = Recovery(healthy_after=5.0, restart_window=1000.0)
    assert again(ends(recovery, None, None, None, 4.9)) == [True, True, True, False]
    assert again(ends(recovery, None, None, None, 5.0)) == [True, True, True, True]


def test_a_life_that_was_ended_on_request_forgets_too() -> None:
    history = ends(DEFAULT, None, None, None)[-1].history
    assert after_life(DEFAULT, history, None) == history
    assert len(after_life(DEFAULT, history, 59.0).failures) == 3
    assert after_life(DEFAULT, history, 60.0).failures == ()


def test_a_shorter_window_applies_to_the_past_at_once() -> None:
    history = History(ready_s=100.0, failures=(50.0, 60.0, 90.0))
    assert isinstance(end(DEFAULT, history, None), Rest)
    assert isinstance(end(Recovery(restart_window=20.0), history, None), Again)


def test_more_attempts_apply_at_once() -> None:
    history = ends(DEFAULT, None, None, None)[-1].history
    assert isinstance(end(DEFAULT, history, None), Rest)
    assert isinstance(end(Recovery(max_restart_attempts=4), history, None), Again)


def test_the_backoff_doubles_from_the_base_to_the_maximum() -> None:
    recovery = Recovery(max_restart_attempts=1000)
    assert delays(ends(recovery, *[None] * 8)) == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30])
    assert backoff_s(recovery, 10**9, 0.5) == pytest.approx(30)


def test_ready_for_as_long_as_the_base_starts_again_at_once() -> None:
    assert delays(ends(DEFAULT, 0.9)) == pytest.approx([1.0])
    assert delays(ends(DEFAULT, 1.0)) == [0.0]
    assert delays(ends(DEFAULT, None, None, 1.0)) == pytest.approx([1.0, 2.0, 0.0])


@given(st.integers(0, 40), st.floats(0, 1))
def test_the_jitter_is_a_fifth_to_either_side(earlier: int, jitter: float) -> None:
    plain = min(2.0**earlier, 30.0)
    delay_s = backoff_s(DEFAULT, earlier, jitter)
    assert delay_s == pytest.approx(plain * (1 + JITTER * (2 * jitter - 1)))
    assert 0.8 * plain - 1e-9 <= delay_s <= 1.2 * plain + 1e-9


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=60), st.integers(0, 5), st.floats(1, 200))
def test_the_intensity_is_never_exceeded(lives: list[float | None], attempts: int, window_s: float) -> None:
    """In no stretch of the window's length, on the clock of time Ready, more restarts than allowed."""
    recovery = Recovery(max_restart_attempts=attempts, restart_window=window_s, healthy_after=1e9)
    clock, restarts, history = 0.0, list[float](), History()
    for ready_for_s in lives:
        clock += ready_for_s or 0.0
        decision = end(recovery, history, ready_for_s)
        history = decision.history
        if isinstance(decision, Again):
            restarts.append(clock)
    for at in restarts:
        assert sum(each <= at and at - each < window_s for each in restarts) <= attempts


def test_the_history_does_not_grow_without_bound() -> None:
    recovery = Recovery(max_restart_attempts=1000, restart_window=60.0)
    assert len(ends(recovery, *[0.5] * 5000)[-1].history.failures) <= 1000
