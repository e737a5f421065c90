"""Which delegation would wait for its own end: circles of tasks, through queues, sessions and dependencies."""

import random
from collections.abc import Mapping, Sequence

import pytest

from corral.supervisor.tasks.boundaries import Groups, can_ever_run
from corral.worker.contract.records import Task

pytestmark = pytest.mark.core


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
