"""Which task is next, on which worker, what follows an attempt, and which delegation can never end."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.config.spec import Resources, Spec, Tasks
from corral.supervisor.tasks import policy
from corral.supervisor.tasks.policy import AGING_S, Attempted, Limits, Load, Policy, Slot
from corral.worker.contract.records import Boundaries, Retry

pytestmark = pytest.mark.core

EPOCH_S = 1_790_000_000.0
priorities = st.integers(1, 10)
arrivals = st.integers(0, 100_000).map(lambda ms: EPOCH_S + ms / 1000)


# -- the order of a queue


@given(priorities, priorities, arrivals)
def test_of_two_that_came_together_the_more_urgent_is_first(a: int, b: int, at: float) -> None:
    assert (policy.rank(a, at) < policy.rank(b, at)) == (a > b)


@given(priorities, arrivals, arrivals)
def test_equals_go_in_order_of_arrival(priority: int, a: float, b: float) -> None:
    assert (policy.rank(priority, a) < policy.rank(priority, b)) == (a < b)


@given(priorities, priorities, arrivals, arrivals, st.floats(0, 1e6))
def test_waiting_raises_a_task_by_one_step_a_minute(
    p: int, q: int, a: float, b: float, later_s: float
) -> None:
    """The order is that of priority plus minutes waited, at whatever time one looks."""
    now = EPOCH_S + 100 + later_s
    worth = [p + (now - a) / AGING_S, q + (now - b) / AGING_S]
    if abs(worth[0] - worth[1]) > 1e-5:
        assert (policy.rank(p, a) < policy.rank(q, b)) == (worth[0] > worth[1])


def test_the_least_urgent_is_overtaken_by_nobody_for_ever() -> None:
    waits_since = policy.rank(1, EPOCH_S)
    assert policy.rank(10, EPOCH_S + 9 * AGING_S - 1) < waits_since
    assert policy.rank(10, EPOCH_S + 9 * AGING_S + 1) > waits_since


# -- workers and agents


def test_the_least_loaded_worker_is_chosen_then_the_longest_rested() -> None:
    slots = [Slot("a-0", 1, 2, 0.0), Slot("a-1", 0, 2, 9.0), Slot("a-2", 0, 2, 5.0)]
    for _ in range(10):
        random.Random(1).shuffle(slots)
        assert policy.choose(slots) == "a-2"
    assert policy.choose(slots[:0]) is None


def test_round_robin_goes_on_after_the_worker_that_was_last() -> None:
    slots = [Slot("a-0", 0, 1, 0.0), Slot("a-2", 0, 1, 9.0), Slot("a-10", 0, 1, 5.0)]
    chosen, last = list[str](), ""
    for _ in range(6):
        last = policy.choose(slots, "round-robin", last) or ""
        chosen.append(last)
    assert chosen == ["a-0", "a-2", "a-10"] * 2
    busy = [Slot("a-0", 0, 1, 0.0), Slot("a-2", 1, 1, 9.0), Slot("a-10", 0, 1, 5.0)]
    assert policy.choose(busy, "round-robin", "a-0") == "a-10"
    assert policy.choose([], "round-robin", "a-0") is None


def test_a_key_sticks_to_its_worker_and_moves_only_when_that_goes() -> None:
    workers = [f"a-{n}" for n in range(8)]
    keys = [f"key {n}" for n in range(2000)]
    before = {key: policy.preferred(key, workers) for key in keys}
    share = [list(before.values()).count(worker) for worker in workers]
    assert min(share) > 150, share
    after = {key: policy.preferred(key, workers[:-1]) for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {
        key for key in keys if before[key] == "a-7"
    }
    assert policy.preferred("key", []) is None


def test_a_full_worker_is_never_chosen() -> None:
    assert policy.choose([Slot("a-0", 2, 2, 0.0), Slot("a-1", 5, 2, 0.0)]) is None
    assert policy.choose([Slot("a-0", 1, 1, 0.0), Slot("a-1", 1, 2, 9.0)]) == "a-1"


def test_a_capability_goes_to_the_agent_with_most_free_workers_then_the_shortest_queue() -> None:
    assert policy.route([Load("a", 1, 0), Load("b", 2, 9)]) == "b"
    assert policy.route([Load("a", 0, 3), Load("b", 0, 2)]) == "b"
    assert policy.route([Load("b", 0, 2), Load("a", 0, 2)]) == "a"
    assert policy.route([]) is None


def test_capabilities_that_are_announced_count_only_where_the_configuration_is_silent() -> None:
    silent = Spec(name="a", kind="agent", source="test")
    says = Spec(name="a", kind="agent", source="test", capabilities=("search",))
    assert policy.has_capability(silent, ["sum"], "sum")
    assert not policy.has_capability(says, ["sum"], "sum")
    assert policy.has_capability(says, [], "search")


# -- attempts and limits


DEATH = Attempted(died=True, error="WorkerFailed")
RAISED = Attempted(died=False, error="TaskFailed")
LATE = Attempted(died=False, late=True, error="Timeout")
TOOL = Attempted(died=False, error="ToolFailed")


@pytest.mark.parametrize(
    ("retry_on", "again"),
    [
        ("worker-death", [DEATH]),
        ("any", [DEATH, RAISED, TOOL]),
        ("never", []),
        ("Timeout", [LATE]),
        ("WorkerFailed", [DEATH]),
        (("worker-death", "ToolFailed"), [DEATH, TOOL]),
        (("any", "Timeout"), [DEATH, RAISED, TOOL, LATE]),
    ],
)
def test_what_is_tried_again(retry_on: str | tuple[str, ...], again: Sequence[Attempted]) -> None:
    """The word any does not mean the task's own timeout: that is the caller's deadline."""
    rule = policy.policy(Tasks(max_attempts=3, retry_on=retry_on), None)
    for ended in (DEATH, RAISED, LATE, TOOL):
        expected = ended in again
        assert [policy.retries(rule, n, ended) for n in (1, 2)] == [expected, expected]
        assert not policy.retries(rule, 3, ended), "three attempts are all"
        asked_for = Attempted(ended.died, counts=False)
        assert policy.retries(rule, 3, asked_for), "a stop is not its fault"


def test_what_a_task_says_of_its_retries_goes_before_what_its_agent_says() -> None:
    tasks = Tasks(max_attempts=3, retry_on="any", retry_backoff_base=1.0, retry_backoff_max=9.0)
    assert policy.policy(tasks, None) == Policy(3, frozenset({"any"}), 1.0, 9.0)
    assert policy.policy(tasks, Retry(max_attempts=7)).max_attempts == 7
    assert policy.policy(tasks, Retry(retry_on="never")).retry_on == {"never"}
    named = Retry(retry_on=["Timeout", "worker-death"], retry_backoff_base_s=0.0)
    rule = policy.policy(tasks, named)
    assert rule == Policy(3, frozenset({"Timeout", "worker-death"}), 0.0, 9.0)


def test_the_wait_before_an_attempt_doubles_to_its_most_and_varies_by_a_fifth() -> None:
    rule = policy.policy(Tasks(retry_backoff_base=1.0), None)
    middle = [policy.retry_delay_s(rule, attempt, 0.5) for attempt in range(1, 9)]
    assert middle == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert policy.retry_delay_s(rule, 2, 0.0) == pytest.approx(1.6)
    assert policy.retry_delay_s(rule, 2, 1.0) == pytest.approx(2.4)
    assert policy.retry_delay_s(rule, 10_000, 1.0) == pytest.approx(72)
    short = policy.policy(Tasks(retry_backoff_base=1.0, retry_backoff_max=3.0), None)
    assert policy.retry_delay_s(short, 5, 0.5) == pytest.approx(3.0)


def test_who_is_refused_comes_again_when_a_place_is_likely_to_be_free() -> None:
    assert policy.retry_after_s(500, ends=1000, window_s=10.0) == 5.0
    assert policy.retry_after_s(1, ends=1000, window_s=10.0) == 1.0
    assert policy.retry_after_s(500, ends=1, window_s=60.0) == 60.0
    assert policy.retry_after_s(1, ends=0, window_s=0.0) == 1.0


def test_a_task_tightens_the_limits_of_its_agent_and_never_widens_them() -> None:
    resources = Resources(max_task_duration=300.0, max_tool_calls_per_task=50)
    assert policy.limits(Boundaries(), resources) == Limits(300.0, 50, None)
    tight = Boundaries(timeout_s=5.0, max_tool_calls=0, allowed_tools=["time__*"])
    assert policy.limits(tight, resources) == Limits(5.0, 0, ("time__*",))
    wide = Boundaries(timeout_s=900.0, max_tool_calls=900)
    assert policy.limits(wide, resources) == Limits(300.0, 50, None)


def test_an_empty_list_of_tools_is_none_and_an_absent_one_is_all() -> None:
    assert policy.limits(Boundaries(allowed_tools=[]), Resources()).allowed_tools == ()
