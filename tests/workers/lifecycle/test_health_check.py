"""One health check: an answer for every phase and event, each rule as a sentence, and long random lives.

`World` plays a worker that lives, dies, is paused, answers well or badly or late, and a daemon that stalls. It keeps its own
books from what it did, and checks after every step. `PYTHONPATH=tests/support python tests/workers/lifecycle/test_health_check.py SEED` prints one life.
"""

import heapq
import inspect
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from corral.mcp.upstream.in_flight import Liveness
from corral.supervisor.config.spec.probe_spec import Check
from corral.supervisor.workers.lifecycle import health_check
from corral.supervisor.workers.lifecycle.health_check import (
    RECHECK_S,
    Acted,
    Action,
    Answer,
    Ask,
    Configure,
    Degrade,
    Down,
    Event,
    Fail,
    Hang,
    Health,
    Pass,
    Phase,
    Recover,
    Rule,
    Tick,
    Up,
)
from seeds import seeds

pytestmark = pytest.mark.core

INTERVAL_S = 10.0
DELAY_S = 4.0
CHECK = Check(name="web", way="tcp", target=("127.0.0.1:1",), interval=INTERVAL_S, timeout=5.0, start_delay=DELAY_S)


def rule(*, degrades_at: int = 3, is_graceful: bool = True, **check: Any) -> Rule:
    # Any: fields of Check
    return Rule(replace(CHECK, **check), degrades_at, is_graceful)


class Course:
    """A check, and the time."""

    def __init__(self, of: Rule | None = None) -> None:
        self.health = Health(of or rule())
        self.now = 100.0

    def send(self, *events: Event) -> list[Action]:
        """What the last of the events makes the shell do."""
        actions: list[Action] = []
        for event in events:
            self.health, actions = health_check.step(self.health, event, self.now)
        return actions

    def due(self) -> list[Action]:
        """The deadline comes."""
        assert self.health.deadline is not None, "somebody has to come back to it"
        self.now = self.health.deadline
        return self.send(Tick())

    def answer(self, is_good: bool, awake_since: float = 0.0) -> list[Action]:
        """It is asked, and answers."""
        if self.health.phase is Phase.WAITING:
            assert self.due() == [Ask(self.health.run)]
        message = "" if is_good else "refused"
        return self.send(Answer(self.health.run, is_good, message, "now", awake_since))

    def act(self) -> list[Action]:
        """The recovery is done."""
        return self.send(Acted(self.health.run))

    @property
    def in_s(self) -> float:
        """When it is asked next."""
        assert self.health.deadline is not None
        return self.health.deadline - self.now


# -- every phase and every event

PHASES: dict[Phase, tuple[Event, ...]] = {
    Phase.RESTING: (),
    Phase.WAITING: (Up(1),),
    Phase.ASKING: (Up(1), Tick()),
    Phase.RECOVERING: (Up(1), Tick(), Answer(1, False, "refused", "now")),
}
EVENTS: dict[str, Event] = {
    "Up": Up(1),
    "Up again": Up(2),
    "Down": Down(),
    "Configure": Configure(rule(recovery="kick")),
    "Configure anew": Configure(rule(recovery="kick", target=("127.0.0.1:2",))),
    "Tick": Tick(),
    "good": Answer(1, True, "", "now"),
    "bad": Answer(1, False, "refused", "now"),
    "good, of another run": Answer(7, True, "", "now"),
    "bad, of another run": Answer(7, False, "refused", "now"),
    "Acted": Acted(1),
    "Acted, of another run": Acted(7),
}
ANSWERS = {
    (Phase.RESTING, "Up"): "waiting",
    (Phase.RESTING, "Up again"): "waiting",
    (Phase.RESTING, "Configure anew"): "resting",
    (Phase.WAITING, "Configure anew"): "waiting",
    (Phase.ASKING, "Configure anew"): "waiting",
    (Phase.RECOVERING, "Configure anew"): "recovering",
    (Phase.WAITING, "Up again"): "waiting",
    (Phase.WAITING, "Down"): "resting",
    (Phase.WAITING, "Tick"): "asking: Ask",
    (Phase.ASKING, "Up again"): "waiting",
    (Phase.ASKING, "Down"): "resting",
    (Phase.ASKING, "good"): "waiting",
    (Phase.ASKING, "bad"): "recovering: Fail, Recover",
    (Phase.RECOVERING, "Up again"): "waiting",
    (Phase.RECOVERING, "Down"): "resting",
    (Phase.RECOVERING, "Acted"): "waiting",
}
"""A pair that is not here changes nothing."""


@pytest.mark.parametrize("phase", Phase)
def test_every_event_has_an_answer_while(phase: Phase) -> None:
    found: dict[tuple[Phase, str], str] = {}
    for name, event in EVENTS.items():
        course = Course(rule(recovery="kick"))
        for earlier in PHASES[phase]:
            course.now = max(course.now, course.health.deadline or 0.0)
            course.send(earlier)
        assert course.health.phase is phase
        if name == "Tick":
            course.now = course.health.deadline or course.now
        before = course.health
        actions = ", ".join(type(each).__name__ for each in course.send(event))
        if course.health != before:
            found[phase, name] = ": ".join(filter(None, (course.health.phase, actions)))
        else:
            assert not actions
    assert found == {key: words for key, words in ANSWERS.items() if key[0] is phase}


# -- when it is asked


def test_the_first_question_comes_after_the_start_delay_and_the_next_after_the_interval() -> None:
    course = Course()
    course.send(Up(1))
    assert course.in_s == DELAY_S
    course.answer(True)
    assert course.in_s == INTERVAL_S
    assert course.answer(True) == []


def test_a_tick_that_comes_too_early_asks_nothing() -> None:
    course = Course()
    course.send(Up(1))
    assert course.send(Tick()) == []


def test_a_check_that_is_still_running_is_not_started_again() -> None:
    course = Course()
    course.send(Up(1))
    course.due()
    course.now += 1000.0
    assert course.send(Tick(), Up(1), Tick()) == []
    assert course.health.deadline is None


def test_what_is_not_up_is_not_asked_and_its_late_answer_counts_for_nothing() -> None:
    course = Course()
    course.send(Up(1))
    course.due()
    run = course.health.run
    course.send(Down())
    assert course.health.deadline is None
    assert course.send(Answer(run, False, "refused", "now")) == []
    course.send(Up(2))
    assert course.send(Answer(run, False, "refused", "now")) == []
    assert (course.health.failures, course.health.healthy) == (0, None)


def test_after_a_pause_it_is_asked_an_interval_later_and_earlier_misses_are_forgotten() -> None:
    course = Course(rule(threshold=2))
    course.send(Up(1))
    course.answer(False)
    course.send(Down(), Up(1))
    assert course.in_s == INTERVAL_S
    assert course.answer(False) == []


def test_a_shorter_interval_applies_to_the_wait_under_way() -> None:
    course = Course()
    course.send(Up(1))
    course.answer(True)
    course.send(Configure(rule(interval=1.0)))
    assert course.in_s == 1.0


# -- failures


def test_as_many_bad_answers_in_a_row_as_the_threshold_are_one_failure() -> None:
    course = Course(rule(threshold=3, recovery="kick"))
    course.send(Up(1))
    assert [len(course.answer(False)) for _ in range(2)] == [0, 0]
    assert course.answer(False) == [Fail(1, "refused"), Recover(course.health.run, "kick")]
    course.act()
    assert [len(course.answer(False)) for _ in range(2)] == [0, 0]
    assert course.answer(False)[0] == Fail(2, "refused")


def test_a_good_answer_between_bad_ones_begins_the_count_anew() -> None:
    course = Course(rule(threshold=2))
    course.send(Up(1))
    for is_good in (False, True) * 10:
        assert course.answer(is_good) == []


def test_the_recovery_is_run_once_per_failure_and_then_it_is_asked_again_soon() -> None:
    course = Course(rule(recovery="kick"))
    course.send(Up(1))
    assert course.answer(False)[1:] == [Recover(course.health.run, "kick")]
    assert course.health.deadline is None, "not while the recovery runs"
    assert course.send(Tick()) == []
    course.act()
    assert course.in_s == RECHECK_S
    assert course.answer(True) == [Pass(was_degraded=False)]
    assert course.in_s == INTERVAL_S


def test_a_recheck_is_never_later_than_the_interval() -> None:
    course = Course(rule(recovery="kick", interval=0.2))
    course.send(Up(1))
    course.answer(False)
    course.act()
    assert course.in_s == pytest.approx(0.2)


def test_without_a_recovery_it_is_asked_again_after_the_interval() -> None:
    course = Course()
    course.send(Up(1))
    assert course.answer(False) == [Fail(1, "refused")]
    assert course.in_s == INTERVAL_S


def test_failures_in_a_row_degrade_and_the_next_good_answer_recovers_once_each() -> None:
    course = Course(rule(degrades_at=2))
    course.send(Up(1))
    assert course.answer(False) == [Fail(1, "refused")]
    assert course.answer(False) == [Fail(2, "refused"), Degrade(2, "refused")]
    assert course.answer(False) == [Fail(3, "refused")]
    assert course.health.degraded
    assert course.answer(True) == [Pass(was_degraded=True)]
    assert course.answer(True) == []
    assert (course.health.degraded, course.health.failures) == (False, 0)


def test_failures_are_counted_over_restarts() -> None:
    course = Course(rule(degrades_at=2, recovery="restart"))
    course.send(Up(1))
    assert course.answer(False)[-1] == Recover(course.health.run, "restart")
    course.send(Down(), Up(2))
    assert Degrade(2, "refused") in course.answer(False)


def test_without_graceful_degradation_the_worker_is_replaced_and_has_a_new_budget() -> None:
    course = Course(rule(degrades_at=2, is_graceful=False, recovery="kick"))
    course.send(Up(1))
    assert isinstance(course.answer(False)[-1], Recover)
    course.act()
    actions = course.answer(False)
    assert [type(each) for each in actions] == [Fail, Hang]
    assert not course.health.degraded
    course.send(Down(), Up(2))
    assert isinstance(course.answer(False)[-1], Recover)


def test_a_server_that_is_silent_is_always_replaced() -> None:
    course = Course(rule(way="mcp", target=()))
    course.send(Up(1))
    assert [type(each) for each in course.answer(False)] == [Fail, Hang]


def test_a_bad_answer_over_a_stall_of_the_daemon_does_not_count() -> None:
    course = Course(rule(degrades_at=1))
    course.send(Up(1))
    course.due()
    assert course.answer(False, awake_since=course.now + 1.0) == []
    assert course.in_s == RECHECK_S
    assert course.answer(False, awake_since=course.now) != []


# -- servers: whose silence counts


def test_a_call_in_flight_is_an_excuse_until_it_ends() -> None:
    live = Liveness(30.0)
    call = live.began(1.0)
    assert live.is_excused
    live.ended(call, 5.0, is_answered=True)
    assert (live.is_excused, live.rested_at) == (False, 5.0)


def test_a_server_that_proved_silent_has_no_excuse_however_often_it_is_called() -> None:
    live = Liveness(30.0)
    first = live.began(0.0)
    live.ended(first, 30.0, is_answered=False)
    live.began(30.0)
    assert (live.is_excused, live.rested_at) == (False, 30.0)


def test_short_calls_without_an_answer_prove_silence_together() -> None:
    live = Liveness(30.0)
    for at in range(35):
        call = live.began(float(at))
        live.ended(call, at + 1.0, is_answered=False)
    live.began(35.0)
    assert not live.is_excused


def test_a_call_that_runs_out_of_a_short_time_takes_no_excuse_from_a_long_one() -> None:
    live = Liveness(30.0)
    live.ended(live.began(0.0), 0.1, is_answered=False)
    long = live.began(0.2)
    live.ended(live.began(50.0), 51.0, is_answered=False)
    assert live.is_excused, "the long call began before it had proved silent"
    live.ended(long, 100.0, is_answered=False)
    assert (live.is_excused, live.rested_at) == (False, 100.0)


def test_any_message_makes_every_call_an_excuse_again() -> None:
    live = Liveness(30.0)
    live.ended(live.began(0.0), 30.0, is_answered=False)
    live.began(30.0)
    live.received(31.0)
    assert (live.is_excused, live.last_message_at) == (True, 31.0)


@pytest.mark.parametrize("latest", ["asked_at", "last_message_at", "rested_at"])
def test_silence_counts_from_the_latest_sign(latest: str) -> None:
    signs = dict.fromkeys(("asked_at", "last_message_at", "rested_at"), 1.0)
    assert health_check.silent_at(**{**signs, latest: 50.0}, timeout_s=30.0) == 80.0


# -- long random lives

SEEDS = 120
STEPS = 400
Step = Callable[[Health, Event, float], health_check.Step]


class Broken(AssertionError):
    """A promise was broken."""


class World:
    """A worker with one check, and the books of what should follow."""

    def __init__(self, seed: int, step: Step = health_check.step, *, talk: bool = False) -> None:
        self.random = random.Random(seed)
        self.step = step
        self.talk = talk
        self.now = 1000.0
        self.woke_at = 0.0
        self.health = Health(self._rule())
        self.incarnation: int | None = None
        self.next_incarnation = 1
        self.asked: int | None = None
        self.last_run = 0
        self.acting: int | None = None
        self.misses = self.failures = 0
        self.degraded = False
        self.asked_at = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._change_later()

    def _rule(self) -> Rule:
        return rule(
            degrades_at=self.random.choice([1, 2, 3]),
            is_graceful=self.random.random() < 0.8,
            threshold=self.random.choice([1, 1, 3]),
            interval=self.random.choice([0.5, 5.0, 30.0]),
            start_delay=self.random.choice([0.0, 5.0]),
            recovery=self.random.choice(["none", "kick", "restart"]),
            way=self.random.choice(["tcp", "tcp", "tcp", "mcp"]),
        )

    def live(self, steps: int = STEPS) -> None:
        for _ in range(steps):
            deadline = self.health.deadline
            at = self._queue[0][0]
            if deadline is not None and deadline <= at:
                self.now = max(self.now, deadline)
                self.send(Tick())
            else:
                at, _, happen = heapq.heappop(self._queue)
                self.now = max(self.now, at)
                happen()
            self._check()

    def _after(self, delay_s: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._order, happen))

    def _change_later(self) -> None:
        self._after(self.random.expovariate(1 / 20.0), self._change)

    def _change(self) -> None:
        """Something happens to the worker."""
        self._change_later()
        luck = self.random.random()
        if luck < 0.35:
            self._up(is_new=self.incarnation is None or self.random.random() < 0.5)
        elif luck < 0.6:
            self._down()
        elif luck < 0.7:
            self.send(Answer(self.random.randrange(50), False, "forged", "now"))
        elif luck < 0.8:
            self.send(Acted(self.random.randrange(50)))
        elif luck < 0.85:
            self.send(Tick())
        elif luck < 0.9:
            changed = self._rule()
            if changed != self.health.rule:
                self.asked = None  # it was another question
            self.send(Configure(changed))
        else:
            self.now += 60.0
            self.woke_at = self.now  # the daemon was stopped

    def _up(self, *, is_new: bool) -> None:
        if is_new:
            if self.incarnation is not None:
                self._down(is_told=self.random.random() < 0.5)
            self.incarnation = self.next_incarnation
            self.next_incarnation += 1
        if self.incarnation is not None:
            self.send(Up(self.incarnation))

    def _down(self, *, is_told: bool = True) -> None:
        self.incarnation = None
        self.asked = self.acting = None
        self.misses = 0
        if is_told:
            self.send(Down())

    def send(self, event: Event) -> None:
        counts = isinstance(event, Answer) and event.run == self.asked
        stalled = isinstance(event, Answer) and not event.is_good and self.woke_at > self.asked_at
        if isinstance(event, Acted) and event.run == self.acting:
            self.acting = None
        if counts:
            self.asked = None
        self.health, actions = self.step(self.health, event, self.now)
        if self.talk:
            print(f"{self.now:9.2f} {self.health.phase:10} {event} {actions}")
        expected = self._expected(event) if counts and not stalled else None
        told = [each for each in actions if not isinstance(each, Ask | Recover | Hang)]
        self._demand(told == (expected or []), f"it tells {told}, not {expected}")
        for action in actions:
            self._perform(action, event)

    def _expected(self, event: Event) -> list[Action]:
        """What an answer that counts should make it tell, by the books."""
        assert isinstance(event, Answer)
        of = self.health.rule
        if event.is_good:
            had, self.degraded, was = bool(self.failures), False, self.degraded
            self.misses = self.failures = 0
            return [Pass(was)] if had or was else []
        self.misses += 1
        if self.misses < of.check.threshold:
            return []
        self.misses = 0
        self.failures += 1
        told: list[Action] = [Fail(self.failures, event.message)]
        if self.failures >= of.failure_threshold:
            if not of.is_graceful:
                self.failures = 0
                self.due = "hang"
                return told
            if not self.degraded:
                self.degraded = True
                told.append(Degrade(self.failures, event.message))
        self.due = "hang" if of.check.way == "mcp" else of.check.recovery
        return told

    due = "none"

    def _perform(self, action: Action, event: Event) -> None:
        if isinstance(action, Ask):
            self._demand(self.incarnation is not None, "what is not up is asked")
            self._demand(self.asked is None, "it is asked twice at a time")
            self._demand(self.acting is None, "it is asked while its recovery runs")
            self._demand(action.run > self.last_run, "two questions have one number")
            self.asked, self.asked_at, self.last_run = action.run, self.now, action.run
            late_s = self.random.choice([0.0, 0.1, 3.0, 70.0])
            is_good, incarnation = self.random.random() < 0.5, self.incarnation
            self._after(late_s, lambda: self._answer(action.run, is_good, incarnation))
        elif isinstance(action, Recover):
            self._demand(self.due == action.recovery, "a recovery nobody needs")
            self.due = "none"
            self.acting = action.run
            if action.recovery == "restart":
                self._after(0.0, lambda: self._up(is_new=True))
            self._after(self.random.choice([0.0, 20.0]), lambda: self.send(Acted(action.run)))
        elif isinstance(action, Hang):
            self._demand(self.due == "hang", "a worker is replaced that is well enough")
            self.due = "none"
            self._after(0.0, self._down)
            self._after(2.0, lambda: self._up(is_new=True))

    def _answer(self, run: int, is_good: bool, _incarnation: int | None) -> None:
        message = "" if is_good else "refused"
        self.send(Answer(run, is_good, message, "now", self.woke_at))

    def _check(self) -> None:
        state = self.health
        self._demand(self.due == "none" or self.health.phase is not Phase.WAITING or self.due != "kick", "a failure without its recovery")  # fmt: skip
        self._demand((state.deadline is not None) == (state.phase is Phase.WAITING), "a wait without end")  # fmt: skip
        is_busy = self.asked is not None or self.acting is not None
        should_wait = self.incarnation is not None and not is_busy
        self._demand(should_wait == (state.phase is Phase.WAITING), "a worker is forgotten")
        if state.deadline is not None:
            self._demand(state.deadline <= self.now + 30.0, "its turn never comes")
        self._demand(state.degraded == self.degraded, "degraded, or not, for no reason")
        self._demand(state.failures == self.failures, "failures are counted wrongly")

    def _demand(self, holds: bool, promise: str) -> None:
        if not holds:
            raise Broken(f"{promise}\n{self.now} {self.health} {self.due}")


@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_whatever_happens_the_promises_hold(seed: int) -> None:
    print(f"seed {seed}")
    World(seed).live()


def test_the_lives_pass_every_phase_and_perform_every_action() -> None:
    seen: set[object] = set()

    def step(state: Health, event: Event, now: float) -> health_check.Step:
        after, actions = health_check.step(state, event, now)
        seen.update([after.phase, *map(type, actions)])
        return after, actions

    for seed in range(SEEDS):
        World(seed, step).live()
    assert seen == {*Phase, *health_check.Action.__args__}


FAULTS = {
    "a late answer of an earlier life counts": (
        "or event.run != health.run:\n        return health, []  # of an earlier life",
        "or False:\n        return health, []  # of an earlier life",
    ),
    "what is down is still asked": ("misses=0, deadline=None), []", "misses=0), []"),
    "a new incarnation is not noticed": (
        "if health.phase is not Phase.RESTING and health.incarnation == event.incarnation:",
        "if health.phase is not Phase.RESTING:",
    ),
    "a tick asks again while it is asked": (
        "if health.phase is not Phase.WAITING or health.deadline is None or now < health.deadline:",
        "if health.phase is Phase.RESTING:",
    ),
    "a stall of the daemon counts": ("if event.awake_since > health.asked_at:", "if False:"),
    "a question has the number of the one before": ("run = health.run + 1", "run = health.run"),
    "the answer to a question that has changed counts": (
        "if health.phase is Phase.ASKING:\n        return _again_soon",
        "if False:\n        return _again_soon",
    ),
    "the threshold is one too many": ("if missed.misses < health", "if missed.misses <= health"),
    "misses are not forgotten after a failure": ("replace(missed, misses=0), now", "missed, now"),
    "a pass does not forget": ("misses=0, failures=0, healthy=True", "healthy=True"),
    "it is degraded again and again": ("is_graceful and not health.degraded:", "is_graceful:"),
    "it never recovers": ("healthy=True, degraded=False", "healthy=True"),
    "it is not asked again after a recovery": (
        "return _again_soon(health, now)\n\n\ndef _passed",
        "return health, []\n\n\ndef _passed",
    ),
    "the recovery is not run": ('elif check.recovery != "none":', "elif False:"),
    "it is asked while its recovery runs": (
        "phase=Phase.RECOVERING, deadline=None), actions",
        "phase=Phase.WAITING, deadline=now + 1.0), actions",
    ),
    "a silent server stays": ('if check.way == "mcp" or given_up:', "if given_up:"),
}


def planted(old: str, new: str) -> Step:
    """`health.step` as it would be if the text `old` of its functions were `new`."""
    text = inspect.getsource(health_check).split("\ndef ", 1)[1]
    assert text.count(old) == 1, f"not one place: {old}"
    rules: dict[str, Any] = dict(vars(health_check))  # Any: the contents of a module
    exec("from __future__ import annotations\ndef " + text.replace(old, new), rules)
    step: Step = rules["step"]
    return step


@pytest.mark.parametrize("fault", FAULTS)
def test_the_lives_see_when(fault: str) -> None:
    step = planted(*FAULTS[fault])
    for seed in range(SEEDS):
        try:
            World(seed, step).live()
        except AssertionError:
            return
    pytest.fail(f"nobody notices that {fault}")


if __name__ == "__main__":
    World(int(sys.argv[1]), talk=True).live()
