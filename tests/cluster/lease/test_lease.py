"""The lease of a node: single transitions, and lives of two nodes in a hostile world from printed seeds.

In a life node A runs a singleton while it may, and node B starts it when A's lease is over. The engine's clock jumps,
messages are late or lost, daemons freeze. At no instant do both run it.
"""

import heapq
import random
from collections.abc import Callable
from itertools import count

import pytest
from msgspec.structs import replace

from corral.supervisor.cluster.lease import lease as leases
from corral.supervisor.cluster.lease.lease import (
    TIMING,
    Action,
    Arm,
    Beat,
    Cordon,
    Event,
    Failed,
    Granted,
    Lease,
    Observed,
    Run,
    Stop,
    Taken,
    Tick,
    Timing,
    deadline,
    is_over,
    must_kill,
    observed,
    over_at,
    step,
    vanished,
)
from seeds import seeds

pytestmark = pytest.mark.core

Step = Callable[[Lease, Event, float, Timing], tuple[Lease, tuple[Action, ...]]]

LIFE_S = 60.0
SEEDS = 60


def held(at: float = 0.0) -> Lease:
    lease, actions = step(Lease(), Tick(), at)
    assert actions == (Beat(0),)
    lease, actions = step(lease, Granted(at, 5), at + 0.01)
    assert actions == (Arm(at + TIMING.kill_after_s), Run(5))
    return lease


def test_a_lease_is_renewed_every_half_second() -> None:
    lease = held()
    assert step(lease, Tick(), 0.4)[1] == ()
    lease, actions = step(lease, Tick(), 0.5)
    assert actions == (Beat(5),)
    lease, actions = step(lease, Granted(0.5, 5), 0.6)
    assert actions == (Arm(0.5 + TIMING.kill_after_s),)
    assert deadline(lease) == 1.0


def test_a_lease_counts_from_the_beat_and_not_from_its_answer() -> None:
    lease, _ = step(Lease(), Tick(), 0.0)
    _, actions = step(lease, Granted(0.0, 5), 0.4)
    assert actions[0] == Arm(TIMING.kill_after_s)


def test_two_missed_beats_forbid_new_starts_and_an_answer_permits_them_again() -> None:
    lease, _ = step(held(), Tick(), 0.5)
    lease, actions = step(lease, Failed(0.5), 0.6)
    assert (lease.phase, actions) == ("held", ())
    lease, _ = step(lease, Tick(), 1.0)
    lease, actions = step(lease, Failed(1.0), 1.1)
    assert (lease.phase, actions) == ("doubtful", (Cordon(),))
    lease, _ = step(lease, Tick(), 1.5)
    lease, actions = step(lease, Granted(1.5, 5), 1.6)
    assert actions == (Arm(1.5 + TIMING.kill_after_s), Run(5))


def test_the_workers_are_stopped_before_the_lease_ends() -> None:
    lease = held()
    assert deadline(replace(lease, next_at=9.0)) == TIMING.stop_after_s < TIMING.lease_s - 1
    lease, actions = step(lease, Tick(), TIMING.stop_after_s)
    assert lease.phase == "stopped"
    assert isinstance(actions[0], Stop)


def test_a_daemon_that_was_frozen_stops_before_it_does_anything_else() -> None:
    lease, actions = step(held(), Tick(), 60.0)
    assert isinstance(actions[0], Stop)
    assert lease.phase == "stopped"


def test_a_lease_that_another_process_has_stops_the_workers_at_once() -> None:
    lease, _ = step(held(), Tick(), 0.5)
    lease, actions = step(lease, Taken(0.5), 0.6)
    assert (lease.phase, lease.token) == ("stopped", 0)
    assert isinstance(actions[0], Stop)


def test_the_late_answer_to_a_beat_of_an_earlier_lease_grants_nothing() -> None:
    lease, _ = step(held(), Tick(), 0.5)
    assert step(lease, Granted(0.2, 4), 0.6) == (lease, ())
    assert step(lease, Taken(0.2), 0.6) == (lease, ())
    assert step(lease, Failed(0.2), 0.6) == (lease, ())


def test_an_answer_that_took_longer_than_the_lease_starts_nothing() -> None:
    lease, _ = step(Lease(), Tick(), 0.0)
    lease, actions = step(lease, Granted(0.0, 5), TIMING.stop_after_s)
    assert lease.phase == "joining"
    assert not any(isinstance(action, Run) for action in actions)


def test_an_end_is_believed_when_the_own_clock_agrees() -> None:
    known = observed(None, 7, 10.0)
    assert observed(known, 7, 11.0) == known  # the same beat, seen again
    gone = vanished(known)
    assert not is_over(gone, 10.5)
    assert not is_over(known, 60.0)
    assert is_over(gone, over_at(gone))


def test_the_launcher_kills_at_its_deadline() -> None:
    assert not must_kill(None, 99.0)
    assert not must_kill(5.0, 4.9)
    assert must_kill(5.0, 5.0)


class World:
    """Two nodes, an engine, and everything that goes wrong between them."""

    def __init__(self, seed: int, act: Step = step, *, launcher: bool = True, own: bool = True):
        self.random = random.Random(seed)
        self.act = act
        self.has_launcher = launcher
        self.trusts_own_clock = own
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.now = 0.0
        self.lease = Lease()
        self.revision = 0
        self.token = 0
        self.expires_at: float | None = None  # of the engine, in real time
        self.frozen_until = 0.0
        self.cut_until = 0.0
        self.kill_at: float | None = None
        self.a_runs = False
        self.a_ends_at: float | None = None
        self.b_runs = False
        self.known: Observed | None = None
        self.runs = self.moves = self.stops = self.kills = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.numbers), what))

    def live(self) -> None:
        self.at(0, self.tick)
        self.at(0, self.fate)
        self.at(0, self.observe)
        while self.queue and self.now < LIFE_S:
            self.now, _, what = heapq.heappop(self.queue)
            what()
            assert not (self.a_runs and self.b_runs), f"both run at {self.now:.3f}"

    # -- the engine

    def expire(self) -> None:
        if self.expires_at is not None and self.now >= self.expires_at:
            self.expires_at = None
            self.token = 0

    def stored(self, token: int, sent_at: float) -> None:
        """The beat arrives; its answer goes back, or is lost."""
        self.expire()
        if token == 0 and self.token == 0:
            self.revision += 1
            self.token = self.revision
        is_good = self.token != 0 and token in (0, self.token)
        if is_good and token == 0 and self.token != self.revision:
            is_good = False
        if is_good:
            self.revision += token != 0
            self.expires_at = self.now + TIMING.lease_s - self.random.uniform(0, TIMING.early_s)
        answer: Event = Granted(sent_at, self.token) if is_good else Taken(sent_at)
        if self.now >= self.cut_until and self.random.random() > 0.05:
            self.at(self.now + self.delay(), lambda: self.hear(answer))

    def delay(self) -> float:
        return self.random.choice([0.001, 0.001, 0.01, 0.3, self.random.uniform(0, 2.5)])

    # -- node A

    def tick(self) -> None:
        if self.now >= self.frozen_until:
            self.perform(Tick())
        wake = max(deadline(self.lease), self.frozen_until, self.now + 0.001)
        self.at(wake, self.tick)

    def hear(self, event: Event) -> None:
        if self.now < self.frozen_until:
            self.at(self.frozen_until, lambda: self.hear(event))
        else:
            self.perform(event)

    def perform(self, event: Event) -> None:
        self.lease, actions = self.act(self.lease, event, self.now, TIMING)
        for action in actions:
            match action:
                case Beat(token=token):
                    sent_at = self.now
                    if self.now >= self.cut_until and self.random.random() > 0.05:
                        self.at(self.now + self.delay(), lambda: self.stored(token, sent_at))  # noqa: B023  # one Beat a step
                    else:
                        self.at(self.now + 0.2, lambda: self.hear(Failed(sent_at)))  # noqa: B023
                case Arm(kill_at=kill_at):
                    self.kill_at = kill_at
                    self.at(kill_at, self.launch_deadline)
                case Run():
                    if not self.b_runs:  # the assignment is still A's: B writes it when it starts
                        self.a_runs = True
                        self.a_ends_at = None
                        self.runs += 1
                case Stop():
                    self.stops += 1
                    self.end_workers(TIMING.grace_s + TIMING.kill_s * 0.9)
                case Cordon():
                    pass

    def launch_deadline(self) -> None:
        if self.has_launcher and must_kill(self.kill_at, self.now) and self.a_runs:
            self.kills += 1
            self.end_workers(TIMING.kill_s * 0.9)

    def end_workers(self, within_s: float) -> None:
        when = self.now + self.random.uniform(0, within_s)
        self.a_ends_at = when if self.a_ends_at is None else min(when, self.a_ends_at)

        def ended() -> None:
            if self.a_ends_at is not None and self.now >= self.a_ends_at:
                self.a_runs, self.a_ends_at = False, None

        self.at(when, ended)

    # -- node B

    def observe(self) -> None:
        self.expire()
        if self.token:
            self.known = observed(self.known, self.revision, self.now)
            if self.b_runs and self.random.random() < 0.02:
                self.b_runs = False  # it gives the agent back
        elif self.known is not None:
            self.known = vanished(self.known)
            is_free = is_over(self.known, self.now) if self.trusts_own_clock else True
            if is_free and not self.b_runs:
                self.b_runs = True
                self.moves += 1
        self.at(self.now + 0.05, self.observe)

    # -- fate

    def fate(self) -> None:
        draw = self.random.random()
        if draw < 0.3:
            self.cut_until = self.now + self.random.uniform(0.2, 8)
        elif draw < 0.6:
            self.frozen_until = self.now + self.random.uniform(0.2, 8)
        elif draw < 0.8 and self.expires_at is not None:
            self.expires_at -= self.random.uniform(0, 5)  # the server's clock jumps ahead
        self.at(self.now + self.random.uniform(1, 6), self.fate)


@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_whatever_happens_never_do_two_nodes_run_a_singleton(seed: int) -> None:
    print(f"seed {seed}")
    World(seed).live()


def test_the_lives_contain_runs_moves_stops_and_kills() -> None:
    worlds = [World(seed) for seed in range(SEEDS)]
    for world in worlds:
        world.live()
    assert sum(world.runs for world in worlds) > 60
    assert sum(world.moves for world in worlds) > 60
    assert sum(world.stops for world in worlds) > 60
    assert sum(world.kills for world in worlds) > 20


def counted_from_the_answer(lease: Lease, event: Event, now: float, timing: Timing) -> tuple[Lease, tuple[Action, ...]]:
    after, actions = step(lease, event, now, timing)
    if isinstance(event, Granted) and after.phase == "held":
        after = replace(after, good_at=now)
        actions = tuple(Arm(now + timing.kill_after_s) if type(a) is Arm else a for a in actions)
    return after, actions


def without_the_margin(lease: Lease, event: Event, now: float, timing: Timing) -> tuple[Lease, tuple[Action, ...]]:
    return step(lease, event, now, replace(timing, early_s=0.0, kill_s=0.0, grace_s=0.0))


BROKEN: dict[str, Callable[[int], World]] = {
    "from the answer": lambda seed: World(seed, counted_from_the_answer),
    "no margin": lambda seed: World(seed, without_the_margin),
    "no launcher": lambda seed: World(seed, launcher=False),
    "engine's clock alone": lambda seed: World(seed, own=False),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_lives_find_each_planted_defect(name: str) -> None:
    def lives() -> None:
        for seed in range(SEEDS):
            BROKEN[name](seed).live()

    with pytest.raises(AssertionError, match="both run"):
        lives()


def test_every_phase_answers_every_event() -> None:
    for phase in ("joining", "held", "doubtful", "stopped"):
        for event in (Tick(), Granted(1.0, 5), Taken(1.0), Failed(1.0)):
            for now in (1.1, 9.0):
                lease = Lease(phase=phase, token=5, good_at=0.9, next_at=1.4, sent_at=1.0)
                after, actions = leases.step(lease, event, now)
                runs = after.phase in ("held", "doubtful")
                assert runs or not any(isinstance(action, Run) for action in actions)
