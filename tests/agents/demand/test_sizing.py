"""How many workers an agent has: what adds, what takes away, and long random loads from printed seeds."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

import pytest
from msgspec.structs import replace

from corral.supervisor.agents.demand import sizing as policy
from corral.supervisor.agents.demand.sizing import STEP_S, Bounds, Decision, Load, Scaling, decide

pytestmark = pytest.mark.core

BOUNDS = Bounds(1, 8, 1, up_after_s=1.0, down_after_s=60.0)
IDLE = Load(instances=1, coming=0, free=1, running=0, ready=0, offered=0)


def starved(ready: int, instances: int = 1, **more: object) -> Load:
    busy = Load(instances, 0, free=0, running=instances, ready=ready, offered=ready)
    return replace(busy, **more)


def after(*seen: tuple[float, Load], bounds: Bounds = BOUNDS) -> tuple[Scaling, Decision | None]:
    """What was decided last."""
    state, decision = Scaling(), None
    for now, load in seen:
        state, decision = decide(state, bounds, load, now)
    return state, decision


def target(decision: Decision | None) -> int | None:
    return None if decision is None else decision.instances


# -- more


def test_tasks_that_wait_without_a_free_worker_bring_more_after_a_while() -> None:
    assert after((5.0, starved(1)))[1] is None
    assert after((5.0, starved(1)), (5.9, starved(1)))[1] is None
    assert target(after((5.0, starved(1)), (6.0, starved(1)))[1]) == 2


def test_a_queue_that_was_empty_meanwhile_has_waited_anew() -> None:
    seen = ((5.0, starved(1)), (5.5, IDLE), (5.6, starved(1)))
    assert after(*seen, (6.5, starved(1)))[1] is None
    assert target(after(*seen, (6.6, starved(1)))[1]) == 2


def test_tasks_that_wait_although_a_worker_is_free_bring_nobody() -> None:
    waiting = replace(starved(3), free=1)
    assert after((0.0, waiting), (9.0, waiting))[1] is None


@pytest.mark.parametrize(
    ("instances", "ready", "capacity", "expected"),
    [(1, 1, 1, 2), (1, 50, 1, 2), (2, 50, 1, 4), (3, 2, 1, 5), (6, 50, 1, 8), (2, 3, 4, 3)],
)
def test_a_step_is_what_the_backlog_needs_and_at_most_double(
    instances: int, ready: int, capacity: int, expected: int
) -> None:
    load = starved(ready, instances, running=instances * capacity)
    bounds = replace(BOUNDS, capacity=capacity)
    assert target(after((0.0, load), (1.0, load), bounds=bounds)[1]) == expected


def test_workers_on_their_way_up_are_counted_on() -> None:
    load = starved(2, 3, coming=2)
    assert after((0.0, load), (9.0, load))[1] is None
    load = starved(3, 3, coming=2)
    assert target(after((0.0, load), (9.0, load))[1]) == 4


def test_there_is_one_step_a_second_at_most() -> None:
    hasty = replace(BOUNDS, up_after_s=0.0)
    state, first = decide(Scaling(), hasty, starved(9), 0.0)
    assert target(first) == 2
    load = starved(9, 2)
    state, second = decide(state, hasty, load, STEP_S / 2)
    assert second is None
    assert policy.deadline(state, hasty, load) == STEP_S
    assert target(decide(state, hasty, load, STEP_S)[1]) == 4


# -- not more


@pytest.mark.parametrize(
    ("load", "word"),
    [
        (starved(5, 8), "max = 8"),
        (starved(5, 2, failing="a-1 has given up"), "a-1 has given up"),
        (starved(5, 2, room=0), "max_concurrent_processes"),
    ],
)
def test_an_obstacle_to_more_workers_is_reported_once(load: Load, word: str) -> None:
    state, decision = after((0.0, load), (1.0, load))
    assert decision is not None
    assert decision.instances == load.instances
    assert word in decision.reason
    assert policy.deadline(state, BOUNDS, load) is None, "time alone changes nothing"
    for now in range(2, 50):
        state, again = decide(state, BOUNDS, load, float(now))
        assert again is None


def test_an_obstacle_is_reported_again_after_it_was_over() -> None:
    failing = starved(5, 2, failing="a-1 has given up")
    state, first = after((0.0, failing), (1.0, failing))
    assert first is not None
    state, more = decide(state, BOUNDS, starved(5, 2), 2.0)
    assert target(more) == 4
    state, again = decide(state, BOUNDS, replace(failing, instances=4), 9.0)
    assert target(again) == 4


def test_as_many_come_as_there_is_room_for() -> None:
    load = starved(50, 4, room=1)
    assert target(after((0.0, load), (1.0, load))[1]) == 5


def test_a_refusal_is_reported_once_while_the_backlog_lasts() -> None:
    state, _ = after((0.0, starved(1)), (1.0, starved(1)))
    state, is_new = policy.held_back(state)
    assert is_new
    state, again = decide(state, BOUNDS, starved(1), 9.0)
    assert target(again) == 2, "it is tried again"
    assert policy.held_back(state)[1] is False
    state, _ = decide(state, BOUNDS, IDLE, 10.0)
    assert policy.held_back(state)[1] is True


# -- less


def idle(instances: int) -> Load:
    return replace(IDLE, instances=instances, free=instances)


def test_what_was_needed_within_the_window_stays() -> None:
    busy = replace(idle(3), running=3, free=0)
    state, _ = after((0.0, busy), (10.0, idle(3)))
    assert policy.deadline(state, BOUNDS, idle(3)) == 70.0
    assert decide(state, BOUNDS, idle(3), 69.9)[1] is None
    state, decision = decide(state, BOUNDS, idle(3), 70.0)
    assert target(decision) == 2
    assert target(decide(state, BOUNDS, idle(2), 70.1)[1]) == 1
    assert decide(state, BOUNDS, idle(1), 70.2)[1] is None, "it has at least one"


def test_a_smaller_peak_later_on_lets_the_others_go() -> None:
    busy = replace(idle(4), running=4, free=0)
    two = replace(idle(4), running=2, free=2)
    seen = ((0.0, busy), (10.0, idle(4)), (40.0, two), (50.0, idle(4)))
    state, _ = after(*seen)
    assert policy.deadline(state, BOUNDS, idle(4)) == 70.0
    assert target(decide(state, BOUNDS, idle(4), 70.0)[1]) == 3
    assert target(decide(state, BOUNDS, idle(3), 70.0)[1]) == 2
    state, at_two = decide(state, BOUNDS, idle(2), 70.0)
    assert at_two is None, "two were needed 20 seconds ago"
    assert policy.deadline(state, BOUNDS, idle(2)) == 110.0


def test_nobody_goes_while_something_waits_or_removal_is_off() -> None:
    waits = replace(idle(3), offered=1)
    assert after((0.0, idle(3)), (900.0, waits))[1] is None
    off = replace(BOUNDS, down_after_s=0.0)
    state, decision = after((0.0, idle(3)), (900.0, idle(3)), bounds=off)
    assert decision is None
    assert policy.deadline(state, off, idle(3)) is None


def test_nobody_goes_whom_those_that_are_stopped_or_fail_could_not_replace() -> None:
    three = replace(IDLE, instances=3, free=1)
    state = decide(policy.resized(Scaling(), 3, 0.0), BOUNDS, replace(three, unable=2), 99.0)
    assert state[1] is None
    assert policy.deadline(state[0], BOUNDS, replace(three, unable=2)) is None
    assert target(decide(state[0], BOUNDS, replace(three, unable=1), 99.0)[1]) == 2


def test_a_number_that_somebody_gave_stays_as_if_it_had_been_needed() -> None:
    state = policy.resized(Scaling(), 5, 100.0)
    assert decide(state, BOUNDS, idle(5), 159.9)[1] is None
    assert target(decide(state, BOUNDS, idle(5), 160.0)[1]) == 4


# -- long lives


@dataclass
class Fleet:
    """An agent whose tasks take some time, on a clock of its own; looked at as the daemon does it."""

    bounds: Bounds
    now: float = 0.0
    instances: int = 1
    queue: int = 0
    ends: list[float] = field(default_factory=list[float])
    up_at: list[float] = field(default_factory=list[float])
    start_s: float = 0.0
    state: Scaling = field(default_factory=Scaling)
    decisions: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])

    def __post_init__(self) -> None:
        self.instances = self.bounds.minimum

    def load(self) -> Load:
        coming = sum(at > self.now for at in self.up_at)
        places = (self.instances - coming) * self.bounds.capacity
        while self.queue and len(self.ends) < places:
            self.queue -= 1
            self.ends.append(self.now + self.take())
        free = max(0, places - len(self.ends))
        return Load(self.instances, coming, free, len(self.ends), self.queue, self.queue)

    take: Callable[[], float] = lambda: 1.0

    def look(self) -> None:
        for _ in range(2 * self.bounds.maximum):
            load = self.load()
            self.state, decision = decide(self.state, self.bounds, load, self.now)
            if decision is None:
                return
            wanted = decision.instances
            assert self.bounds.minimum <= wanted <= self.bounds.maximum, decision
            if wanted == self.instances:
                return
            if wanted < self.instances and len(self.ends) > wanted * self.bounds.capacity:
                raise AssertionError("a worker that is needed was to go")
            if wanted > self.instances:
                self.up_at += [self.now + self.start_s] * (wanted - self.instances)
                assert wanted <= 2 * max(1, self.instances)
            self.decisions.append((self.now, self.instances, wanted))
            self.instances = wanted
            self.state = policy.carried_out(self.state)
        raise AssertionError("it decides for ever")

    def run(self, until: float, arrivals: list[float]) -> None:
        """Lets tasks come at their times, and looks at each change and at each deadline."""
        arrivals = sorted(arrivals, reverse=True)
        while self.now < until:
            self.look()
            due = policy.deadline(self.state, self.bounds, self.load())
            coming = [at for at in self.up_at if at > self.now]
            times = [*self.ends, *coming, *arrivals[-1:], *([] if due is None else [due]), until]
            self.now = max(self.now, min(times))
            self.ends = [at for at in self.ends if at > self.now]
            while arrivals and arrivals[-1] <= self.now:
                arrivals.pop()
                self.queue += 1


def poisson(rng: random.Random, rate: float, begin: float, end: float) -> list[float]:
    found = list[float]()
    at = begin + rng.expovariate(rate)
    while at < end:
        found.append(at)
        at += rng.expovariate(rate)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_random_load_moves_the_number_within_its_bounds_and_seldom(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    least = rng.randint(1, 3)
    bounds = Bounds(
        least,
        least + rng.randint(1, 8),
        rng.choice([1, 1, 2]),
        up_after_s=rng.choice([0.0, 0.5, 1.0, 5.0]),
        down_after_s=rng.choice([10.0, 20.0, 60.0]),
    )
    mean_s = rng.choice([0.5, 1.0, 4.0])
    fleet = Fleet(bounds, start_s=rng.choice([0.0, 0.01, 4.0]))
    fleet.take = lambda: rng.expovariate(1 / mean_s)
    places = bounds.maximum * bounds.capacity
    # A steady load that fits, after it has settled: nothing but what a rare burst asks for.
    steady = rng.uniform(0.1, 0.6) * places / mean_s
    fleet.run(240.0, poisson(rng, steady, 0.0, 240.0))
    settled = [each for each in fleet.decisions if each[0] > 60.0]
    assert len(settled) <= 2 * ceil(180.0 / bounds.down_after_s), settled
    for (at, old, new), (later, _, newer) in pairwise(settled):
        if new > old and newer < new:
            assert later - at >= bounds.down_after_s, "taken away again at once"
    # A backlog that lasts brings the most.
    fleet.run(300.0, poisson(rng, 3 * places / mean_s, 240.0, 300.0))
    assert fleet.instances == bounds.maximum
    # When all is done, the least is left, one after the other.
    fleet.queue = 0
    begun = len(fleet.decisions)
    fleet.run(300.0 + 100 * mean_s + bounds.down_after_s, [])
    assert fleet.instances == bounds.minimum
    gone = fleet.decisions[begun:]
    assert [old - new for _, old, new in gone] == [1] * (bounds.maximum - bounds.minimum)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_remembered_of_a_load_stays_small(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    bounds = replace(BOUNDS, maximum=20)
    state = Scaling()
    for n in range(500):
        running = rng.randint(0, 40)
        load = Load(20, 0, 40 - running, running, 0, 0)
        state, _ = decide(state, bounds, load, n * rng.random() / 10)
        assert len(state.peaks) <= bounds.maximum
        assert [count for _, count in state.peaks] == sorted({count for _, count in state.peaks}, reverse=True)
