"""What a task asks for in one form, what it may give away, and what is left of a quota."""

import random
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import pytest
from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Resources, Tasks
from corral.supervisor.tasks.rules.boundaries import (
    MAX_NARROWING,
    MAX_OBJECTIVE_CHARS,
    Groups,
    Limits,
    can_ever_run,
    check_child,
    common,
    limits,
    normalised,
    overspent,
    within,
)
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from corral.worker.contract.records import Boundaries, OutputFormat, Retry, Task, TaskParams
from seeds import seeds

pytestmark = pytest.mark.core

# -- one form


@pytest.mark.parametrize(
    ("written", "timeout_s"),
    [
        (TaskParams("x"), None),
        (TaskParams("x", timeout_s=3), 3.0),
        (TaskParams("x", boundaries=Boundaries(timeout="30s")), 30.0),
        (TaskParams("x", boundaries=Boundaries(timeout=7)), 7.0),
        (TaskParams("x", boundaries=Boundaries(timeout="1m", timeout_s=60)), 60.0),
        (TaskParams("x", timeout_s=9, boundaries=Boundaries(timeout="5m")), 9.0),
        (TaskParams("x", timeout_s=9, boundaries=Boundaries(timeout_s=4)), 4.0),
    ],
)
def test_a_timeout_is_in_one_place_however_it_was_written(written: TaskParams, timeout_s: float | None) -> None:
    once = normalised(written)
    assert (once.timeout_s, once.boundaries.timeout) == (None, None)
    assert once.boundaries.timeout_s == timeout_s
    assert normalised(once) == once


@pytest.mark.parametrize(
    "written",
    [
        TaskParams("x", allowed_tools=["time__*", "git__log", "time__*"]),
        TaskParams("x", boundaries=Boundaries(allowed_tools=["time__*", "git__log"])),
        TaskParams(
            "x", allowed_tools=["git__log", "time__*"], boundaries=Boundaries(allowed_tools=["time__*", "git__log"])
        ),
    ],
)
def test_allowed_tools_are_in_one_place_however_they_were_written(written: TaskParams) -> None:
    once = normalised(written)
    assert once.allowed_tools is None
    assert sorted(once.boundaries.allowed_tools or ()) == ["git__log", "time__*"]


def test_no_tools_at_all_is_something_else_than_no_word_of_tools() -> None:
    assert normalised(TaskParams("x", allowed_tools=[])).boundaries.allowed_tools == []
    assert normalised(TaskParams("x")).boundaries.allowed_tools is None


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("objective", {"objective": ""}),
        ("objective", {"objective": " \n"}),
        ("objective", {"objective": "x" * (MAX_OBJECTIVE_CHARS + 1)}),
        ("boundaries.timeout", {"boundaries": Boundaries(timeout="soon")}),
        ("boundaries.timeout", {"boundaries": Boundaries(timeout="0s")}),
        ("boundaries.timeout", {"boundaries": Boundaries(timeout="30s", timeout_s=31)}),
        ("boundaries.allowed_tools[1]", {"boundaries": Boundaries(allowed_tools=["a", "b c"])}),
        ("boundaries.allowed_tools[0]", {"boundaries": Boundaries(allowed_tools=["[a-z]"])}),
        ("boundaries.allowed_tools", {"boundaries": Boundaries(allowed_tools=["a"] * 201)}),
        ("allowed_tools[0]", {"allowed_tools": [""]}),
        ("allowed_tools", {"allowed_tools": ["a"], "boundaries": Boundaries(allowed_tools=["b"])}),
        ("boundaries.constraints[1]", {"boundaries": Boundaries(constraints=["a", ""])}),
        ("boundaries.constraints", {"boundaries": Boundaries(constraints=["a"] * 201)}),
        ("boundaries.constraints", {"boundaries": Boundaries(constraints=["a" * 70_000])}),
        ("boundaries.scope", {"boundaries": Boundaries(scope="a" * 70_000)}),
        ("output_format.description", {"output_format": OutputFormat(description="a" * 70_000)}),
        ("required_capabilities[1]", {"required_capabilities": ["a", "b\n"]}),
        ("required_capabilities[0]", {"required_capabilities": [""]}),
        ("retry.retry_on", {"retry": Retry(retry_on="worker-deth")}),
        ("retry.retry_on", {"retry": Retry(retry_on=["any", "ValueError"])}),
        ("retry.retry_on", {"retry": Retry(retry_on=["any", "never"])}),
        ("retry.retry_on", {"retry": Retry(retry_on=[])}),
    ],
)
def test_what_is_wrong_with_a_request_is_named(key: str, fields: Mapping[str, object]) -> None:
    asked = replace(TaskParams("x"), **fields)
    with pytest.raises(InvalidParams) as refused:
        normalised(asked)
    assert refused.value.data["key"] == key
    assert refused.value.data["reason"]
    assert f'"{key}"' in refused.value.message


def test_data_can_state_the_task_in_place_of_words() -> None:
    assert normalised(TaskParams("", input={"a": 1})).objective == ""
    assert normalised(TaskParams("", context=[1])).objective == ""


# -- children


def parent(**fields: object) -> Task:
    return replace(Task(id="above", agent="a", state="running"), **fields)


def test_a_task_delegates_neither_too_deep_nor_too_often() -> None:
    tasks = Tasks(max_delegation_depth=2, max_children=3)
    check_child(parent(depth=1), tasks, 2)
    check_child(parent(depth=1), tasks, 0, 3)
    for where, children, count, limit, value in (
        (parent(depth=2), 0, 1, "max_delegation_depth", 2),
        (parent(depth=1), 3, 1, "max_children", 3),
        (parent(depth=0), 1, 3, "max_children", 3),
    ):
        with pytest.raises(ResourceLimitExceeded) as refused:
            check_child(where, tasks, children, count)
        assert (refused.value.data["limit"], refused.value.data["value"]) == (limit, value)


def test_a_child_has_the_boundaries_of_its_parent_where_it_has_none() -> None:
    upper = Boundaries(timeout_s=10.0, max_tool_calls=3, allowed_tools=["time__*"], max_tokens=100, max_cost_cents=5.0)
    assert within(Boundaries(), parent(boundaries=upper)) == upper
    assert within(upper, parent()) == upper


def test_a_child_is_never_freer_than_its_parent() -> None:
    upper = Boundaries(
        timeout_s=10.0, max_tool_calls=3, allowed_tools=["time__*", "git__log"], max_tokens=100, max_cost_cents=5.0
    )
    asked = Boundaries(
        timeout_s=20.0,
        max_tool_calls=9,
        allowed_tools=["*__now", "git__*", "x"],
        max_tokens=1000,
        max_cost_cents=50.0,
        scope="words",
    )
    given = within(asked, parent(boundaries=upper))
    assert (given.timeout_s, given.max_tool_calls) == (10.0, 3)
    assert (given.max_tokens, given.max_cost_cents) == (100, 5.0)
    assert given.scope == "words"
    assert given.allowed_tools is not None
    assert set(given.allowed_tools) >= {"git__log", "time__*__now"}
    admitted = {
        name
        for name in ("time__now", "time__x", "git__log", "git__rm", "x", "a__now", "time__a__now")
        if any(fnmatchcase(name, pattern) for pattern in given.allowed_tools)
    }
    assert admitted == {"time__now", "git__log", "time__a__now"}


def test_a_child_has_what_its_parent_has_left() -> None:
    upper = Boundaries(max_tokens=100, max_cost_cents=5.0)
    given = within(Boundaries(), parent(boundaries=upper, tokens_used=60, cost_cents=4.5))
    assert given.max_tokens == 40
    assert given.max_cost_cents == pytest.approx(0.5)
    spent = within(Boundaries(), parent(boundaries=upper, tokens_used=160, cost_cents=9))
    assert spent.max_tokens == 1
    assert spent.max_cost_cents is not None
    assert 0 < spent.max_cost_cents < 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_the_common_patterns_admit_what_both_lists_admit_and_nothing_else(seed: int) -> None:
    print("seed", seed)
    luck = random.Random(seed)

    def text(alphabet: str, most: int) -> str:
        return "".join(luck.choice(alphabet) for _ in range(luck.randint(1, most)))

    for _ in range(60):
        one = [text("ab*?", 6) for _ in range(luck.randint(0, 3))]
        other = [text("ab*?", 6) for _ in range(luck.randint(0, 3))]
        both = common(one, other)
        for name in {text("ab", 8) for _ in range(80)}:
            admitted = all(any(fnmatchcase(name, each) for each in patterns) for patterns in (one, other))
            assert any(fnmatchcase(name, each) for each in both) == admitted, (one, other, name)


def test_patterns_that_would_take_for_ever_are_refused() -> None:
    hostile = "*a" * 60 + "*"
    with pytest.raises(ResourceLimitExceeded) as refused:
        within(Boundaries(allowed_tools=["*b" * 60 + "*"]), parent(boundaries=Boundaries(allowed_tools=[hostile])))
    assert refused.value.data["limit"] == "allowed_tools"
    assert refused.value.data["value"] == MAX_NARROWING


def test_two_long_lists_of_names_are_soon_made_one() -> None:
    names = [f"server__tool_{number}" for number in range(200)]
    assert common(names, [*names[100:], "server__tool_1?"]) == sorted(names[100:] + names[10:20])


# -- what is used


@pytest.mark.parametrize(
    ("tokens", "cost_cents", "children", "limit"),
    [
        (100, 5.0, (0, 0.0), None),
        (101, 0.0, (0, 0.0), "max_tokens"),
        (0, 5.1, (0, 0.0), "max_cost_cents"),
        (60, 0.0, (41, 0.0), "max_tokens"),
        (0, 3.0, (0, 2.5), "max_cost_cents"),
        (60, 3.0, (40, 2.0), None),
    ],
)
def test_a_task_that_has_used_more_than_it_may_goes_on_no_more(
    tokens: int, cost_cents: float, children: tuple[int, float], limit: str | None
) -> None:
    bounds = Boundaries(max_tokens=100, max_cost_cents=5.0)
    found = overspent(parent(boundaries=bounds, tokens_used=tokens, cost_cents=cost_cents), *children)
    assert (None if found is None else found.data["limit"]) == limit


def test_a_task_without_limits_may_use_what_it_likes() -> None:
    assert overspent(parent(tokens_used=10**12, cost_cents=1e12)) is None


def test_sums_of_small_costs_are_not_beyond_a_limit_by_their_rounding() -> None:
    assert 0.1 + 0.2 > 0.3
    bounds = Boundaries(max_cost_cents=0.3)
    assert overspent(parent(boundaries=bounds, cost_cents=0.1 + 0.2)) is None
    assert overspent(parent(boundaries=bounds, cost_cents=0.1), 0, 0.2) is None


# -- limits in force


def test_a_task_tightens_the_limits_of_its_agent_and_never_widens_them() -> None:
    resources = Resources(max_task_duration=300.0, max_tool_calls_per_task=50)
    assert limits(Boundaries(), resources) == Limits(300.0, 50, None)
    tight = Boundaries(timeout_s=5.0, max_tool_calls=0, allowed_tools=["time__*"])
    assert limits(tight, resources) == Limits(5.0, 0, ("time__*",))
    wide = Boundaries(timeout_s=900.0, max_tool_calls=900)
    assert limits(wide, resources) == Limits(300.0, 50, None)


def test_an_empty_list_of_tools_is_none_and_an_absent_one_is_all() -> None:
    assert limits(Boundaries(allowed_tools=[]), Resources()).allowed_tools == ()


# -- delegations that could never run


def can(
    agent: str,
    running: Mapping[str, str],
    *,
    waits: Mapping[str, Sequence[str]] | None = None,
    queued: Mapping[str, str] | None = None,
    ended: Mapping[str, str] | None = None,
    free: Mapping[str, int] | None = None,
    after: Mapping[str, list[str]] | None = None,
    sessions: Mapping[str, str] | None = None,
) -> bool:
    """Whether `asking` may delegate "new" to `agent`; tasks are given as {id: agent}."""
    tasks = {each: Task(id=each, agent=of, state="running") for each, of in running.items()}
    tasks |= {each: Task(id=each, agent=of) for each, of in (queued or {}).items()}
    tasks |= {each: Task(id=each, agent=of, state="failed") for each, of in (ended or {}).items()}
    places = free or {}
    names = sessions or {}

    def obstacles(task: Task) -> Groups:
        holders = [each for each, of in running.items() if of == task.agent]
        groups = [[] if places.get(task.agent, 0) else holders]
        groups += [[each] for each in (after or {}).get(task.id, ())]
        if task.id in names:
            groups.append([each for each in holders if names.get(each) == names[task.id]])
        return groups

    return can_ever_run(
        Task(id="new", agent=agent),
        asking="asking",
        find=tasks.get,
        waits=lambda task_id: (waits or {}).get(task_id, ()),
        obstacles=obstacles,
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


def test_the_children_that_a_task_has_already_are_not_looked_at_for_the_next() -> None:
    looked_at: list[str] = []

    def find(task_id: str) -> Task:
        looked_at.append(task_id)
        return Task(id=task_id, agent="a", state="running" if task_id in ("asking", "other") else "queued")

    children = [f"child{n}" for n in range(1000)]
    assert can_ever_run(
        Task(id="new", agent="a"),
        asking="asking",
        find=find,
        waits=lambda task_id: children if task_id == "asking" else [],
        obstacles=lambda _: [["asking", "other"]],
    )
    assert len(looked_at) <= 2


@pytest.mark.parametrize("seed", seeds(100))
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


def test_a_turn_of_a_session_cannot_wait_for_a_later_turn_of_it() -> None:
    """There is a free worker, but turns of one session go one after the other."""
    free = {"a": 1}
    assert can("a", {"asking": "a"}, free=free)
    assert can("a", {"asking": "a"}, free=free, sessions={"asking": "s", "new": "other"})
    assert not can("a", {"asking": "a"}, free=free, sessions={"asking": "s", "new": "s"})


def test_a_turn_that_is_in_the_way_may_end() -> None:
    running = {"asking": "b", "turn": "a"}
    sessions = {"turn": "s", "new": "s"}
    assert can("a", running, free={"a": 1}, sessions=sessions)
    assert not can("a", running, free={"a": 1}, sessions=sessions, waits={"turn": ["asking"]})


def test_a_child_cannot_come_after_what_waits_for_its_parent() -> None:
    assert not can("a", {"asking": "b"}, after={"new": ["asking"]})
    assert not can("a", {"asking": "b"}, after={"new": ["q"], "q": ["asking"]}, queued={"q": "c"})
    assert can("a", {"asking": "b"}, after={"new": ["q"]}, queued={"q": "c"})
    assert can("a", {"asking": "b"}, after={"new": ["gone"]}, ended={"gone": "c"})


def test_a_task_of_many_parts_holds_no_place_and_ends_with_its_parts() -> None:
    """A lead delegates to a team, whose part goes to the lead's own agent: nobody is left to do it."""
    running = {"holder": "lead", "asking": "team"}
    waits = {"holder": ["asking"]}
    assert not can("lead", running, waits=waits)
    assert can("writer", running, waits=waits)
