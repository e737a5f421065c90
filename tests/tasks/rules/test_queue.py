"""Whose turn it is: rank, sessions and sticky keys together, in tables and in long random lives from printed seeds."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.tasks.rules.queue import AGING_S, SLACK, Slot, TaskQueue, choose, preferred, rank
from seeds import seeds

pytestmark = pytest.mark.core


def slot(worker: str, running: int = 0, capacity: int = 1) -> Slot:
    return Slot(worker, running, capacity, 0.0)


ONE = [slot("a-0")]
BOTH = frozenset({"a-0", "a-1"})


def key_of(worker: str) -> str:
    """A key that sticks to one of the two workers."""
    return next(k for k in map(str, range(100)) if preferred(k, BOTH) == worker)


def test_the_least_rank_goes_first_and_equals_in_order_of_arrival() -> None:
    queue = TaskQueue()
    for task, place in (("late", 5.0), ("one", 3.0), ("two", 3.0), ("first", 1.0)):
        queue.add(task, place)
    order = [queue.next(ONE) for _ in range(5)]
    assert order == [("first", "a-0"), ("one", "a-0"), ("two", "a-0"), ("late", "a-0"), None]


def test_nobody_goes_on_while_all_workers_are_full() -> None:
    queue = TaskQueue()
    queue.add("one", 1.0)
    assert queue.next([slot("a-0", 1)]) is None
    assert queue.next([]) is None
    assert queue.next(ONE) == ("one", "a-0")


def test_one_task_of_a_session_runs_at_a_time_and_delays_no_other() -> None:
    queue = TaskQueue()
    queue.add("first", 1.0, session="s")
    queue.add("second", 2.0, session="s")
    queue.add("other", 3.0)
    assert queue.next(ONE) == ("first", "a-0")
    assert queue.is_behind("second")
    assert queue.next(ONE) == ("other", "a-0")
    assert queue.next(ONE) is None
    queue.end("first", "s")
    assert queue.next(ONE) == ("second", "a-0")


def test_others_of_a_session_wait_for_a_task_that_runs_from_before() -> None:
    queue = TaskQueue()
    queue.note_begun("runs", "s")
    queue.add("next", 0.0, session="s")
    assert (queue.next(ONE), queue.offered) == (None, 0)
    queue.end("runs", "s")
    assert queue.next(ONE) == ("next", "a-0")


def test_a_task_that_is_tried_again_keeps_its_place_in_front_of_its_session() -> None:
    queue = TaskQueue()
    queue.add("first", 1.0, session="s")
    queue.add("second", 0.5, session="s")
    assert queue.next(ONE) == ("second", "a-0")
    queue.add("urgent", 0.1, session="s")
    assert queue.next(ONE) is None, "its session has one that waits for its next attempt"
    queue.add("second", 0.5, session="s")
    assert queue.next(ONE) == ("second", "a-0")
    queue.end("second", "s")
    assert queue.next(ONE) == ("urgent", "a-0")


def test_a_more_urgent_task_of_a_session_goes_first_while_none_is_out() -> None:
    queue = TaskQueue()
    queue.add("calm", 5.0, session="s")
    queue.add("urgent", 1.0, session="s")
    assert queue.next(ONE) == ("urgent", "a-0")
    queue.end("urgent", "s")
    assert queue.next(ONE) == ("calm", "a-0")


def test_who_leaves_before_its_turn_lets_the_next_of_its_session_go_on() -> None:
    queue = TaskQueue()
    for task in ("first", "second", "third"):
        queue.add(task, 1.0, session="s")
    queue.end("second", "s")
    queue.end("first", "s")
    assert queue.next(ONE) == ("third", "a-0")
    queue.end("third", "s")
    assert len(queue) == 0


def test_what_sticks_waits_for_its_worker_and_holds_up_nobody() -> None:
    queue = TaskQueue()
    queue.add("stuck", 1.0, sticky=key_of("a-1"))
    queue.add("free", 2.0)
    assert queue.next([slot("a-0")], BOTH) == ("free", "a-0")
    assert queue.next([slot("a-0")], BOTH) is None
    assert queue.next([slot("a-0"), slot("a-1")], BOTH) == ("stuck", "a-1")


def test_what_sticks_to_a_worker_that_is_gone_moves_to_another() -> None:
    queue = TaskQueue()
    queue.add("stuck", 1.0, sticky=key_of("a-1"))
    assert queue.next([slot("a-0")], BOTH) is None, "its worker is wanted and will be back"
    assert queue.next([slot("a-0")], frozenset({"a-0"})) == ("stuck", "a-0")


def test_between_a_stuck_and_a_common_task_the_rank_decides() -> None:
    queue = TaskQueue()
    key = key_of("a-0")
    queue.add("common", 2.0)
    queue.add("stuck", 1.0, sticky=key)
    queue.add("last", 3.0, sticky=key)
    assert [queue.next([slot("a-0")], BOTH) for _ in range(3)] == [("stuck", "a-0"), ("common", "a-0"), ("last", "a-0")]


def test_round_robin_is_kept_over_an_empty_queue() -> None:
    queue = TaskQueue()
    slots = [slot("a-0"), slot("a-1"), slot("a-2")]
    found = list[str]()
    for n in range(6):
        queue.add(f"t{n}", 1.0)
        picked = queue.next(slots, routing="round-robin")
        assert picked is not None
        found.append(picked[1])
    assert found == ["a-0", "a-1", "a-2"] * 2


def test_tasks_that_come_and_go_leave_nothing_behind() -> None:
    queue = TaskQueue()
    queue.add("first", 0.0)
    queue.add("front", 0.0, session="s")
    for n in range(10_000):
        queue.add(f"t{n}", 1.0, session="s" if n % 3 == 0 else None)
        queue.end(f"t{n}", "s" if n % 3 == 0 else None)
    sizes = [len(queue._common), len(queue._sessions["s"].heap)]  # pyright: ignore[reportPrivateUsage]  what it holds is the point
    assert max(sizes) <= 2 * len(queue) + SLACK + 1


# -- long lives


@dataclass
class Job:
    """A task of the model."""

    name: str
    rank: float
    arrival: int
    sticky: str | None
    session: str | None
    state: str = "waiting"
    has_begun: bool = False
    worker: str = ""


@dataclass
class Life:
    """A queue, and beside it what ought to be so, looked up the slow way."""

    luck: random.Random
    queue: TaskQueue = field(default_factory=TaskQueue)
    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    workers: list[str] = field(default_factory=lambda: [f"a-{n}" for n in range(3)])
    arrivals: int = 0
    now: float = 0.0

    def of(self, state: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.state == state]

    def submit(self) -> None:
        self.arrivals += 1
        job = Job(
            f"t{self.arrivals}",
            rank(self.luck.randint(1, 10), self.now),
            self.arrivals,
            self.luck.choice([None, None, "k1", "k2", "k3"]),
            self.luck.choice([None, None, "s1", "s2"]),
        )
        self.jobs[job.name] = job
        self.queue.add(job.name, job.rank, sticky=job.sticky, session=job.session)

    def slots(self) -> list[Slot]:
        busy = [job.worker for job in self.of("running")]
        return [Slot(each, busy.count(each), 2, 0.0) for each in self.workers]

    def may_go(self, job: Job) -> bool:
        """Whether a waiting task could begin now, by the three rules."""
        free = {s.worker for s in self.slots() if s.running < s.capacity}
        has_place = preferred(job.sticky, self.workers) in free if job.sticky else bool(free)
        return has_place and self.is_offered(job)

    def is_offered(self, job: Job) -> bool:
        """Whether a waiting task waits for a worker alone."""
        if job.session is not None:
            mates = [j for j in self.jobs.values() if j.session == job.session and j is not job]
            if any(j.has_begun for j in mates):
                return False
            if not job.has_begun and any((j.rank, j.arrival) < (job.rank, job.arrival) for j in mates):
                return False
        return True

    def check_counts(self) -> None:
        waiting = self.of("waiting")
        offered = list(filter(self.is_offered, waiting))
        keys = len({job.sticky for job in waiting if job.sticky})
        assert self.queue.offered == len(offered)
        common = sum(job.sticky is None for job in offered)
        assert self.queue.ready(2) == common + max(0, keys - 2)

    def step(self) -> None:
        able = sorted(filter(self.may_go, self.of("waiting")), key=lambda j: (j.rank, j.arrival))
        found = self.queue.next(self.slots(), frozenset(self.workers))
        if found is None:
            assert not able, f"{able[0]} could have begun"
            return
        job = self.jobs[found[0]]
        assert job is able[0], f"{job} went before {able[0]}"
        if job.sticky is not None:
            assert found[1] == preferred(job.sticky, self.workers)
        job.state, job.worker, job.has_begun = "running", found[1], True

    def end(self, job: Job) -> None:
        job.state = "ended"
        self.queue.end(job.name, job.session)
        del self.jobs[job.name]

    def change(self) -> None:
        self.now += self.luck.expovariate(1 / 5)
        what = self.luck.random()
        if what < 0.4:
            self.submit()
        elif what < 0.7 and self.of("running"):
            self.end(self.luck.choice(self.of("running")))
        elif what < 0.75 and self.of("running"):
            job = self.luck.choice(self.of("running"))
            job.state = "paused"  # its attempt failed: it waits for the next
        elif what < 0.85 and self.of("paused"):
            job = self.luck.choice(self.of("paused"))
            self.arrivals += 1
            job.state, job.arrival = "waiting", self.arrivals
            self.queue.add(job.name, job.rank, sticky=job.sticky, session=job.session)
        elif what < 0.9 and self.of("waiting"):
            self.end(self.luck.choice(self.of("waiting")))
        elif what < 0.95:
            self.workers = [f"a-{n}" for n in range(self.luck.randint(1, 4))]


@pytest.mark.parametrize("seed", seeds(60))
def test_in_a_long_life_it_is_always_the_right_ones_turn(seed: int) -> None:
    """No two of a session at once, each on the worker that it sticks to, in order, and nobody held up for nothing."""
    print("seed", seed)
    life = Life(random.Random(seed))
    for _ in range(400):
        life.change()
        life.step()
        life.check_counts()
    while life.jobs:  # nobody is forgotten
        for job in life.of("running"):
            life.end(job)
        for job in life.of("paused"):
            life.end(job)
        life.step()
        assert life.of("running") or not life.jobs
    assert len(life.queue) == 0


@pytest.mark.parametrize("seed", range(10))
def test_under_a_flood_of_urgent_tasks_the_least_urgent_goes_on_in_time(seed: int) -> None:
    """One worker, a task a second, more come than it can do: nobody waits longer than aging allows."""
    print("seed", seed)
    luck = random.Random(seed)
    queue = TaskQueue()
    came: dict[str, tuple[float, int]] = {}
    longest = {1: 0.0, 10: 0.0}
    for second in range(3200):
        if second % 100 == 0 and second < 3000:
            came[f"low{second}"] = (second, 1)
            queue.add(f"low{second}", rank(1, second), session=luck.choice([None, "s"]))
        for n in range(2 if second < 1500 else 0):
            name = f"high{second}-{n}"
            came[name] = (second, 10)
            queue.add(name, rank(10, second))
        found = queue.next(ONE)
        assert found is not None or not len(queue)
        if found is not None:
            queue.end(found[0], "s" if found[0].startswith("low") else None)
            since, priority = came.pop(found[0])
            longest[priority] = max(longest[priority], second - since)
    assert not came
    assert longest[1] <= longest[10] + 9 * 60 + 1


# -- what waits for a worker


def test_what_one_more_worker_could_begin_is_not_what_waits_behind_its_session() -> None:
    queue = TaskQueue()
    for task in ("first", "second", "third"):
        queue.add(task, 1.0, session="s")
    queue.add("other", 2.0)
    assert (queue.offered, queue.ready(1)) == (2, 2)
    assert queue.next(ONE) == ("first", "a-0")
    assert (queue.offered, queue.ready(1)) == (1, 1)
    queue.remove("third")
    queue.end("first", "s")
    assert (queue.offered, queue.ready(1)) == (2, 2)
    queue.add("urgent", 0.5, session="s")
    assert (queue.offered, queue.ready(1)) == (2, 2), "it has taken the place of the second"


def test_only_sticky_keys_beyond_one_per_worker_may_move() -> None:
    queue = TaskQueue()
    for n in range(6):
        queue.add(f"t{n}", 1.0, sticky=f"key {n % 3}")
    assert (queue.offered, queue.ready(1), queue.ready(3)) == (6, 2, 0)
    queue.add("later", 1.0, sticky="key 0", session="s")
    queue.add("behind", 2.0, sticky="key 9", session="s")
    assert queue.offered == 7
    for n in (0, 3):
        queue.remove(f"t{n}")
    queue.remove("later")
    assert queue.ready(1) == 2
    for task in ("t1", "t2", "t4", "t5", "behind"):
        queue.remove(task)
    assert (queue.offered, queue.ready(0)) == (0, 0)


# -- the order, and the choice of a worker


EPOCH_S = 1_790_000_000.0
priorities = st.integers(1, 10)
arrivals = st.integers(0, 100_000).map(lambda ms: EPOCH_S + ms / 1000)


@given(priorities, priorities, arrivals)
def test_the_more_urgent_of_two_tasks_that_came_together_is_first(a: int, b: int, at: float) -> None:
    assert (rank(a, at) < rank(b, at)) == (a > b)


@given(priorities, arrivals, arrivals)
def test_equals_go_in_order_of_arrival(priority: int, a: float, b: float) -> None:
    assert (rank(priority, a) < rank(priority, b)) == (a < b)


@given(priorities, priorities, arrivals, arrivals, st.floats(0, 1e6))
def test_waiting_raises_a_task_by_one_step_a_minute(p: int, q: int, a: float, b: float, later_s: float) -> None:
    """The order is that of priority plus minutes waited, at whatever time one looks."""
    now = EPOCH_S + 100 + later_s
    worth = [p + (now - a) / AGING_S, q + (now - b) / AGING_S]
    if abs(worth[0] - worth[1]) > 1e-5:
        assert (rank(p, a) < rank(q, b)) == (worth[0] > worth[1])


def test_the_least_urgent_is_overtaken_by_nobody_for_ever() -> None:
    waits_since = rank(1, EPOCH_S)
    assert rank(10, EPOCH_S + 9 * AGING_S - 1) < waits_since
    assert rank(10, EPOCH_S + 9 * AGING_S + 1) > waits_since


def test_the_least_loaded_worker_is_chosen_then_the_longest_rested() -> None:
    slots = [Slot("a-0", 1, 2, 0.0), Slot("a-1", 0, 2, 9.0), Slot("a-2", 0, 2, 5.0)]
    for _ in range(10):
        random.Random(1).shuffle(slots)
        assert choose(slots) == "a-2"
    assert choose(slots[:0]) is None


def test_round_robin_goes_on_after_the_worker_that_was_last() -> None:
    slots = [Slot("a-0", 0, 1, 0.0), Slot("a-2", 0, 1, 9.0), Slot("a-10", 0, 1, 5.0)]
    chosen, last = list[str](), ""
    for _ in range(6):
        last = choose(slots, "round-robin", last) or ""
        chosen.append(last)
    assert chosen == ["a-0", "a-2", "a-10"] * 2
    busy = [Slot("a-0", 0, 1, 0.0), Slot("a-2", 1, 1, 9.0), Slot("a-10", 0, 1, 5.0)]
    assert choose(busy, "round-robin", "a-0") == "a-10"
    assert choose([], "round-robin", "a-0") is None


def test_a_key_sticks_to_its_worker_and_moves_only_when_that_goes() -> None:
    workers = [f"a-{n}" for n in range(8)]
    keys = [f"key {n}" for n in range(2000)]
    before = {key: preferred(key, workers) for key in keys}
    share = [list(before.values()).count(worker) for worker in workers]
    assert min(share) > 150, share
    after = {key: preferred(key, workers[:-1]) for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == "a-7"}
    assert preferred("key", []) is None


def test_a_full_worker_is_never_chosen() -> None:
    assert choose([Slot("a-0", 2, 2, 0.0), Slot("a-1", 5, 2, 0.0)]) is None
    assert choose([Slot("a-0", 1, 1, 0.0), Slot("a-1", 1, 2, 9.0)]) == "a-1"
