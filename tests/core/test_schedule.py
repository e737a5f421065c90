"""Which task is next, on which worker, what follows an attempt, and which delegation can never end."""

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor import schedule
from corral.supervisor.schedule import AGING_S, Attempted, Limits, Load, Slot
from corral.supervisor.spec import Resources, Spec, Tasks
from corral.worker.schema import Boundaries, Task

EPOCH_S = 1_790_000_000.0
priorities = st.integers(1, 10)
arrivals = st.integers(0, 100_000).map(lambda ms: EPOCH_S + ms / 1000)


# -- the order of a queue


@given(priorities, priorities, arrivals)
def test_of_two_that_came_together_the_more_urgent_is_first(a: int, b: int, at: float) -> None:
    assert (schedule.rank(a, at) < schedule.rank(b, at)) == (a > b)


@given(priorities, arrivals, arrivals)
def test_equals_go_in_order_of_arrival(priority: int, a: float, b: float) -> None:
    assert (schedule.rank(priority, a) < schedule.rank(priority, b)) == (a < b)


@given(priorities, priorities, arrivals, arrivals, st.floats(0, 1e6))
def test_waiting_raises_a_task_by_one_step_a_minute(
    p: int, q: int, a: float, b: float, later_s: float
) -> None:
    """The order is that of priority plus minutes waited, at whatever time one looks."""
    now = EPOCH_S + 100 + later_s
    worth = [p + (now - a) / AGING_S, q + (now - b) / AGING_S]
    if abs(worth[0] - worth[1]) > 1e-5:
        assert (schedule.rank(p, a) < schedule.rank(q, b)) == (worth[0] > worth[1])


def test_the_least_urgent_is_overtaken_by_nobody_for_ever() -> None:
    waits_since = schedule.rank(1, EPOCH_S)
    assert schedule.rank(10, EPOCH_S + 9 * AGING_S - 1) < waits_since
    assert schedule.rank(10, EPOCH_S + 9 * AGING_S + 1) > waits_since


# -- workers and agents


def test_the_least_loaded_worker_is_chosen_then_the_longest_rested() -> None:
    slots = [Slot("a-0", 1, 2, 0.0), Slot("a-1", 0, 2, 9.0), Slot("a-2", 0, 2, 5.0)]
    for _ in range(10):
        random.Random(1).shuffle(slots)
        assert schedule.choose(slots) == "a-2"
    assert schedule.choose(slots[:0]) is None


def test_a_full_worker_is_never_chosen() -> None:
    assert schedule.choose([Slot("a-0", 2, 2, 0.0), Slot("a-1", 5, 2, 0.0)]) is None
    assert schedule.choose([Slot("a-0", 1, 1, 0.0), Slot("a-1", 1, 2, 9.0)]) == "a-1"


def test_a_capability_goes_to_the_agent_with_most_free_workers_then_the_shortest_queue() -> None:
    assert schedule.route([Load("a", 1, 0), Load("b", 2, 9)]) == "b"
    assert schedule.route([Load("a", 0, 3), Load("b", 0, 2)]) == "b"
    assert schedule.route([Load("b", 0, 2), Load("a", 0, 2)]) == "a"
    assert schedule.route([]) is None


def test_capabilities_that_are_announced_count_only_where_the_configuration_is_silent() -> None:
    silent = Spec(name="a", kind="agent", source="test")
    says = Spec(name="a", kind="agent", source="test", capabilities=("search",))
    assert schedule.has_capability(silent, ["sum"], "sum")
    assert not schedule.has_capability(says, ["sum"], "sum")
    assert schedule.has_capability(says, [], "search")


# -- attempts and limits


@pytest.mark.parametrize(
    ("retry_on", "died", "again"),
    [
        ("worker-death", True, True),
        ("worker-death", False, False),
        ("any", True, True),
        ("any", False, True),
        ("never", True, False),
        ("never", False, False),
    ],
)
def test_what_is_tried_again(retry_on: str, died: bool, again: bool) -> None:
    tasks = Tasks(
        max_attempts=3,
        retry_on="any" if retry_on == "any" else "never" if retry_on == "never" else "worker-death",
    )
    assert [schedule.retries(tasks, n, Attempted(died)) for n in (1, 2)] == [again, again]
    assert not schedule.retries(tasks, 3, Attempted(died)), "three attempts are all"
    assert schedule.retries(tasks, 3, Attempted(died, counts=False)), "a stop is not its fault"


def test_the_wait_before_an_attempt_doubles_to_a_minute_and_varies_by_a_fifth() -> None:
    tasks = Tasks(retry_backoff_base=1.0)
    middle = [schedule.retry_delay_s(tasks, attempt, 0.5) for attempt in range(1, 9)]
    assert middle == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert schedule.retry_delay_s(tasks, 2, 0.0) == pytest.approx(1.6)
    assert schedule.retry_delay_s(tasks, 2, 1.0) == pytest.approx(2.4)
    assert schedule.retry_delay_s(tasks, 10_000, 1.0) == pytest.approx(72)


def test_a_task_tightens_the_limits_of_its_agent_and_never_widens_them() -> None:
    resources = Resources(max_task_duration=300.0, max_tool_calls_per_task=50)
    assert schedule.limits(Boundaries(), resources) == Limits(300.0, 50, None)
    tight = Boundaries(timeout_s=5.0, max_tool_calls=0, allowed_tools=["time__*"])
    assert schedule.limits(tight, resources) == Limits(5.0, 0, ("time__*",))
    wide = Boundaries(timeout_s=900.0, max_tool_calls=900)
    assert schedule.limits(wide, resources) == Limits(300.0, 50, None)


def test_an_empty_list_of_tools_is_none_and_an_absent_one_is_all() -> None:
    assert schedule.limits(Boundaries(allowed_tools=[]), Resources()).allowed_tools == ()


# -- delegations


def can(
    agent: str,
    running: Mapping[str, str],
    *,
    waits: Mapping[str, Sequence[str]] | None = None,
    queued: Mapping[str, str] | None = None,
    ended: Mapping[str, str] | None = None,
    free: Mapping[str, int] | None = None,
) -> bool:
    """Whether `asking` may delegate to `agent`; tasks are given as {id: agent}."""
    tasks = {each: Task(id=each, agent=of, state="running") for each, of in running.items()}
    tasks |= {each: Task(id=each, agent=of) for each, of in (queued or {}).items()}
    tasks |= {each: Task(id=each, agent=of, state="failed") for each, of in (ended or {}).items()}
    places = free or {}
    return schedule.can_ever_run(
        agent,
        asking="asking",
        tasks=tasks,
        waits=waits or {},
        free=lambda name: places.get(name, 0),
    )


def test_an_agent_with_one_worker_cannot_delegate_to_itself() -> None:
    assert not can("a", {"asking": "a"})


def test_an_agent_with_a_free_worker_can_delegate_to_itself() -> None:
    assert can("a", {"asking": "a"}, free={"a": 1})


def test_an_agent_can_delegate_to_itself_when_its_other_worker_will_end() -> None:
    assert can("a", {"asking": "a", "other": "a"})
    assert not can("a", {"asking": "a", "other": "a"}, waits={"other": ["asking"]})


def test_a_circle_of_two_agents_is_refused() -> None:
    assert not can("a", {"first": "a", "asking": "b"}, waits={"first": ["asking"]})


def test_a_circle_of_two_agents_is_allowed_with_a_free_worker_on_it() -> None:
    assert can("a", {"first": "a", "asking": "b"}, waits={"first": ["asking"]}, free={"a": 1})


def test_a_circle_through_a_queue_is_refused() -> None:
    """The task that holds c waits for a queued one of b, and b's one worker asks."""
    running = {"asking": "b", "holder": "c"}
    assert not can("c", running, waits={"holder": ["child"]}, queued={"child": "b"})


def test_a_busy_agent_that_waits_for_nobody_stands_in_nobodys_way() -> None:
    assert can("c", {"asking": "b", "unrelated": "c"})


def test_an_agent_whose_workers_are_not_up_yet_is_no_circle() -> None:
    assert can("c", {"asking": "b"})


def test_a_task_that_waits_for_several_can_end_only_when_all_of_them_can() -> None:
    running = {"asking": "b", "holder": "c", "quick": "d"}
    waits = {"holder": ["quick", "asking"]}
    assert not can("c", running, waits=waits)
    assert can("c", running, waits={"holder": ["quick"]})


def test_parallel_children_of_one_agent_are_no_circle() -> None:
    """Two children in one queue: that the first can run does not speak against the second."""
    running = {"asking": "b", "holder": "c", "unrelated": "d"}
    queued = {"one": "d", "two": "d"}
    assert can("c", running, waits={"holder": ["one", "two"]}, queued=queued)


def test_children_that_wait_for_the_same_task_are_no_circle() -> None:
    running = {"asking": "b", "holder": "c", "left": "d", "right": "e", "both": "f"}
    waits = {"holder": ["left", "right"], "left": ["both"], "right": ["both"]}
    assert can("c", running, waits=waits)


def test_a_child_that_has_ended_is_waited_for_no_more() -> None:
    running = {"asking": "b", "holder": "c"}
    assert can("c", running, waits={"holder": ["gone", "unknown"]}, ended={"gone": "b"})


@pytest.mark.parametrize("closed", [False, True])
def test_a_chain_of_two_thousand_delegations_is_answered(closed: bool) -> None:
    running = {f"t{n}": f"agent{n}" for n in range(2000)}
    waits = {f"t{n}": [f"t{n + 1}"] for n in range(1999)}
    if closed:
        waits["t1999"] = ["asking"]
    assert can("agent0", running | {"asking": "z"}, waits=waits) is not closed


@pytest.mark.parametrize("seed", range(100))
def test_what_is_refused_would_have_stood_still_and_what_is_allowed_not(seed: int) -> None:
    """Played out: tasks that wait for nobody end, their places are taken, until nothing moves."""
    luck = random.Random(seed)
    agents = [f"a{n}" for n in range(luck.randint(2, 5))]
    names = [f"t{n}" for n in range(luck.randint(1, 7))]
    running = {name: luck.choice(agents) for name in names} | {"asking": luck.choice(agents)}
    queued = {f"q{n}": luck.choice(agents) for n in range(luck.randint(0, 4))}
    others = [*running, *queued]
    waits = {name: luck.sample(others, luck.randint(0, min(2, len(others)))) for name in names}
    free = {name: luck.choice([0, 0, 0, 1]) for name in agents}
    target = luck.choice(agents)
    held = set(running)
    left = held | set(queued)
    moved = True
    while moved:
        moved = False
        for name in sorted(left - {"asking"}):
            of = running.get(name) or queued[name]
            place = free[of] > 0 or of not in running.values()
            place = place or any(running[h] == of and h not in left for h in held)
            if (name in held or place) and not left.intersection(waits.get(name, ())):
                left.discard(name)
                moved = True
    open_now = free[target] > 0 or target not in running.values()
    expected = open_now or any(running[h] == target and h not in left for h in held)
    assert can(target, running, waits=waits, queued=queued, free=free) is expected
