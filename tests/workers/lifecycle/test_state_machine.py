"""The life of one worker: an answer for every situation and event, and each rule as a sentence.

The tables of docs/reference/lifecycle.md are generated: `python tests/workers/lifecycle/test_state_machine.py --write` after a
change of lifecycle.TRANSITIONS or of ANSWERS below.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from corral.supervisor.config.spec.probe_spec import Readiness
from corral.supervisor.config.spec.spec import Monitoring, Process, Recovery, Spec
from corral.supervisor.workers.lifecycle import state_machine, transitions
from corral.supervisor.workers.lifecycle.state_machine import (
    TRANSITIONS,
    Action,
    Ask,
    Emptied,
    Event,
    Exited,
    Freeze,
    Halt,
    Hang,
    Kill,
    Pause,
    Reconfigure,
    Refused,
    Replace,
    Reset,
    Restart,
    Resume,
    Shaken,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    State,
    Stop,
    Thaw,
    Tick,
    Transition,
    Want,
    Worked,
    Worker,
)
from corral.supervisor.workers.lifecycle.transitions import ABORT_GRACE_S, ALIVE_S, KILL_INTERVAL_S

pytestmark = pytest.mark.core

DOC = Path(__file__).parents[3] / "docs" / "reference" / "lifecycle.md"
SPEC = Spec(name="a", kind="agent", source="test", command=("a",))
FAILED = Exited(1, None, at="", jitter=0.5)
CLEAN = Exited(0, None, at="", jitter=0.5)


class Life:
    """A worker, and the time."""

    def __init__(self, spec: Spec = SPEC) -> None:
        self.worker = Worker("a-0", spec)
        self.now = 100.0

    def send(self, *events: Event) -> list[Action]:
        """What the last of the events, all of which come now, makes the shell do."""
        actions: list[Action] = []
        for event in events:
            self.worker, actions = transitions.step(self.worker, event, self.now)
        return actions

    def wait(self, wait_s: float) -> "Life":
        self.now += wait_s
        return self

    def tick(self, last_message_at: float = 0.0) -> list[Action]:
        """The deadline comes."""
        assert self.worker.deadline is not None, "somebody has to come back to it"
        self.now = max(self.now, self.worker.deadline)
        return self.send(Tick(last_message_at))

    def up(self) -> "Life":
        self.send(Start(), Spawned(7), Shaken())
        assert self.worker.state is State.READY
        return self

    def fail(self, event: Event = FAILED) -> "Life":
        self.send(event, Emptied())
        return self

    @property
    def state(self) -> State:
        return self.worker.state

    @property
    def result(self) -> str:
        assert self.worker.last_exit is not None
        return self.worker.last_exit.result

    @property
    def starts_in_s(self) -> float:
        assert self.worker.state is State.INITIAL
        assert self.worker.deadline is not None
        return self.worker.deadline - self.now


def agent(protocol: Literal["corral", "mcp", "none"] = "corral", **recovery: Any) -> Spec:
    # Any: the keys of [recovery]
    kind: Literal["agent", "mcp"] = "mcp" if protocol == "mcp" else "agent"
    return replace(SPEC, protocol=protocol, kind=kind, recovery=Recovery(**recovery))


# -- every situation and every event

SITUATIONS: dict[str, tuple[Event, ...]] = {
    "never started": (),
    "waits for others": (Want("waits for b"),),
    "backing off": (Start(), Spawned(7), FAILED, Emptied()),
    "being launched": (Start(),),
    "shaking hands": (Start(), Spawned(7)),
    "Ready": (Start(), Spawned(7), Shaken()),
    "Busy": (Start(), Spawned(7), Shaken(), Worked(True)),
    "Idle": (Start(), Spawned(7), Shaken(), Worked(True), Worked(False)),
    "paused at its start": (Start(), Spawned(7), Pause()),
    "paused": (Start(), Spawned(7), Shaken(), Pause()),
    "stopped before it ran": (Start(), Stop()),
    "asked to end": (Start(), Spawned(7), Shaken(), Stop()),
    "ended, tree left": (Start(), Spawned(7), Shaken(), Stop(), CLEAN),
    "died, tree left": (Start(), Spawned(7), Shaken(), FAILED),
    "stopped": (Start(), Spawned(7), Shaken(), Stop(), CLEAN, Emptied()),
    "cannot run": (Start(), SpawnFailed("ENOENT", False, "", 0.5)),
}
EVENTS: dict[str, Event] = {
    "Start": Start(),
    "Want": Want("waits for b"),
    "Stop": Stop(),
    "Restart": Restart(),
    "Replace": Replace("task-timeout", "does not let go"),
    "Hang": Hang("does not answer"),
    "Halt": Halt("an emergency"),
    "Pause": Pause(),
    "Resume": Resume(),
    "Reset": Reset(),
    "Reconfigure": Reconfigure(SPEC),
    "Spawned": Spawned(7),
    "SpawnFailed": SpawnFailed("ENOENT", False, "", 0.5),
    "SpawnFailed, retryable": SpawnFailed("EAGAIN", True, "", 0.5),
    "Shaken": Shaken(),
    "Refused": Refused("speaks another protocol"),
    "Worked, busy": Worked(True),
    "Worked, done": Worked(False),
    "Exited": FAILED,
    "Emptied": Emptied(),
    "Tick, early": Tick(),
    "Tick, due": Tick(),
}
ANSWERS = """
Start                    never started          → Starting, Spawn
Start                    waits for others       → Starting, Spawn
Start                    backing off            → Starting, Spawn
Start                    stopped                → Initial, → Starting, Spawn
Start                    cannot run             → Initial, → Starting, Spawn
Stop                     backing off            → Terminated
Stop                     being launched         → ShuttingDown, Kill
Stop                     shaking hands          → ShuttingDown, Ask
Stop                     Ready                  → ShuttingDown, Ask
Stop                     Busy                   → ShuttingDown, Ask
Stop                     Idle                   → ShuttingDown, Ask
Stop                     paused at its start    → ShuttingDown, Thaw, Ask
Stop                     paused                 → ShuttingDown, Thaw, Ask
Restart                  never started          → Starting, Spawn
Restart                  waits for others       → Starting, Spawn
Restart                  backing off            → Starting, Spawn
Restart                  being launched         → ShuttingDown, Kill
Restart                  shaking hands          → ShuttingDown, Ask
Restart                  Ready                  → ShuttingDown, Ask
Restart                  Busy                   → ShuttingDown, Ask
Restart                  Idle                   → ShuttingDown, Ask
Restart                  paused at its start    → ShuttingDown, Thaw, Ask
Restart                  paused                 → ShuttingDown, Thaw, Ask
Restart                  stopped                → Initial, → Starting, Spawn
Restart                  cannot run             → Initial, → Starting, Spawn
Replace                  being launched         → ShuttingDown, Kill
Replace                  shaking hands          → ShuttingDown, Kill
Replace                  Ready                  → ShuttingDown, Kill
Replace                  Busy                   → ShuttingDown, Kill
Replace                  Idle                   → ShuttingDown, Kill
Replace                  paused at its start    → ShuttingDown, Kill
Replace                  paused                 → ShuttingDown, Kill
Hang                     Ready                  → ShuttingDown, SIGABRT to leader
Hang                     Busy                   → ShuttingDown, SIGABRT to leader
Hang                     Idle                   → ShuttingDown, SIGABRT to leader
Halt                     backing off            → Terminated
Halt                     being launched         → ShuttingDown, Kill
Halt                     shaking hands          → ShuttingDown, Kill
Halt                     Ready                  → ShuttingDown, Kill
Halt                     Busy                   → ShuttingDown, Kill
Halt                     Idle                   → ShuttingDown, Kill
Halt                     paused at its start    → ShuttingDown, Kill
Halt                     paused                 → ShuttingDown, Kill
Halt                     stopped before it ran  Kill
Halt                     asked to end           Kill
Halt                     ended, tree left       Kill
Pause                    shaking hands          Freeze
Pause                    Ready                  Freeze
Pause                    Busy                   Freeze
Pause                    Idle                   Freeze
Resume                   paused at its start    Thaw
Resume                   paused                 Thaw
Reset                    backing off            → Starting, Spawn
Reset                    cannot run             → Initial, → Starting, Spawn
Spawned                  stopped before it ran  Kill
SpawnFailed              being launched         → Terminated
SpawnFailed              stopped before it ran  → Terminated
SpawnFailed, retryable   being launched         → Terminated, → Initial
SpawnFailed, retryable   stopped before it ran  → Terminated
Shaken                   shaking hands          → Ready
Shaken                   paused at its start    → Ready
Refused                  shaking hands          → ShuttingDown, Kill
Refused                  paused at its start    → ShuttingDown, Kill
Worked, busy             Ready                  → Busy
Worked, busy             Idle                   → Busy
Worked, busy             paused                 → Busy
Worked, done             Busy                   → Idle
Exited                   being launched         → Terminated, Kill
Exited                   shaking hands          → Terminated, Kill
Exited                   Ready                  → Terminated, Kill
Exited                   Busy                   → Terminated, Kill
Exited                   Idle                   → Terminated, Kill
Exited                   paused at its start    → Terminated, Kill
Exited                   paused                 → Terminated, Kill
Exited                   asked to end           SIGTERM to tree
Emptied                  ended, tree left       → Terminated
Emptied                  died, tree left        → Initial
Tick, due                backing off            → Starting, Spawn
Tick, due                being launched         → ShuttingDown, Kill
Tick, due                shaking hands          → ShuttingDown, Kill
Tick, due                Ready                  → ShuttingDown, SIGABRT to leader
Tick, due                Busy                   → ShuttingDown, SIGABRT to leader
Tick, due                Idle                   → ShuttingDown, SIGABRT to leader
Tick, due                stopped before it ran  Kill
Tick, due                asked to end           SIGTERM to tree
Tick, due                ended, tree left       Kill
Tick, due                died, tree left        Kill
"""
"""A pair that is not here makes no transition and needs no action."""


def answer(situation: str, name: str) -> str:
    """The states that are entered and what is done, as the table writes it; "" for nothing."""
    life = Life()
    life.send(*SITUATIONS[situation])
    if name == "Tick, due" and life.worker.deadline is not None:
        life.now = life.worker.deadline
    words = list[str]()
    for action in life.send(EVENTS[name]):
        if isinstance(action, Transition):
            words.append(f"→ {action.new}")
        elif isinstance(action, Signal):
            words.append(f"{action.name} to {'tree' if action.tree else 'leader'}")
        else:
            words.append(type(action).__name__)
    return ", ".join(words)


def expected() -> dict[tuple[str, str], str]:
    """ANSWERS, by situation and event."""
    table: dict[tuple[str, str], str] = {}
    for line in ANSWERS.strip().splitlines():
        name, situation, words = (part.strip() for part in re.split(r" {2,}", line))
        table[situation, name] = words
    return table


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_event_has_an_answer_in(situation: str) -> None:
    answers = {name: words for name in EVENTS if (words := answer(situation, name))}
    assert answers == {name: words for (of, name), words in expected().items() if of == situation}


def test_the_situations_cover_all_states_and_the_events_all_types() -> None:
    states = set[State]()
    for events in SITUATIONS.values():
        life = Life()
        life.send(*events)
        states.add(life.state)
    assert states == set(State)
    assert {type(event) for event in EVENTS.values()} == set(state_machine.Event.__args__)


def test_every_state_has_its_row_and_terminated_is_the_only_way_back() -> None:
    assert set(TRANSITIONS) == set(State)
    assert [old for old, news in TRANSITIONS.items() if State.INITIAL in news] == [State.TERMINATED]


# -- starting


def test_three_restarts_are_four_starts_and_then_it_gives_up() -> None:
    life = Life()
    life.send(Start())
    for _ in range(3):
        life.send(Spawned(7))
        life.fail()
        assert life.state is State.INITIAL
        life.tick()
    life.send(Spawned(7))
    life.fail()
    assert life.state is State.TERMINATED
    assert life.result == "restart-limit"
    assert life.worker.incarnation == 4
    assert (life.worker.wanted, life.worker.deadline) == (True, None)


def test_reset_after_giving_up_starts_with_a_fresh_budget() -> None:
    life = Life(agent(max_restart_attempts=0))
    life.send(Start(), Spawned(7))
    life.fail()
    assert life.result == "restart-limit"
    life.send(Reconfigure(agent(max_restart_attempts=1)))
    assert Spawn(2) in life.send(Reset())
    life.send(Spawned(8))
    life.fail()
    assert life.state is State.INITIAL


def test_reset_of_what_nobody_wants_starts_nothing() -> None:
    life = Life().up()
    life.send(Stop(), CLEAN, Emptied())
    assert life.send(Reset()) == []


def test_the_waits_of_a_crash_loop_double() -> None:
    life, waits = Life(agent(max_restart_attempts=7)), list[float]()
    life.send(Start())
    for _ in range(7):
        life.send(Spawned(7))
        waits.append(life.fail().starts_in_s)
        life.tick()
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30])


@pytest.mark.parametrize(("jitter", "wait_s"), [(0.0, 0.8), (1.0, 1.2)])
def test_the_waits_vary_by_a_fifth(jitter: float, wait_s: float) -> None:
    life = Life()
    life.send(Start(), Spawned(7), Exited(1, None, at="", jitter=jitter), Emptied())
    assert life.starts_in_s == pytest.approx(wait_s)


def test_what_was_ready_for_the_base_starts_again_at_once() -> None:
    life = Life().up()
    life.wait(1.0).fail()
    assert life.state is State.STARTING


def test_time_that_its_tree_takes_to_die_is_part_of_the_wait() -> None:
    life = Life()
    life.send(Start(), Spawned(7), FAILED)
    life.wait(0.75).send(Emptied())
    assert life.starts_in_s == pytest.approx(0.25)


def test_exit_0_before_ready_is_a_failure() -> None:
    life = Life()
    life.send(Start(), Spawned(7))
    assert life.fail(CLEAN).state is State.INITIAL


@pytest.mark.parametrize(
    ("policy", "event", "again"),
    [
        ("on-failure", CLEAN, False),
        ("on-failure", FAILED, True),
        ("on-failure", Exited(None, "SIGKILL", at="", jitter=0.5), True),
        ("always", CLEAN, True),
        ("never", FAILED, False),
    ],
)
def test_the_policy_says_what_starts_again(policy: str, event: Event, again: bool) -> None:
    life = Life(agent(restart=policy)).up()
    life.wait(5.0).fail(event)
    assert (life.state is State.STARTING) is again
    assert life.result in ("exited", "signaled"), "an end of its own is no giving up"


def test_deaths_while_busy_never_make_it_give_up() -> None:
    life = Life(agent(max_restart_attempts=0)).up()
    for _ in range(10):
        life.send(Worked(True))
        life.wait(2.0).fail()
        life.send(Spawned(7), Shaken())
    assert life.state is State.READY
    life.fail()
    assert life.result == "restart-limit"


def test_a_healthy_life_forgets_even_when_somebody_ended_it() -> None:
    life = Life(agent(max_restart_attempts=1))
    life.send(Start(), Spawned(7))
    life.fail().tick()
    life.send(Spawned(7), Shaken())
    life.wait(60.0).send(Restart(), CLEAN, Emptied(), Spawned(8))
    assert life.fail().state is State.INITIAL


def test_a_missing_program_is_not_tried_again() -> None:
    life = Life()
    life.send(Start(), SpawnFailed("ENOENT", False, "", 0.5))
    assert (life.state, life.result, life.worker.deadline) == (State.TERMINATED, "exec-failed", None)


def test_a_machine_that_lacks_something_is_tried_for_ever_with_backoff() -> None:
    life, waits = Life(agent(max_restart_attempts=0)), list[float]()
    life.send(Start())
    for _ in range(50):
        life.send(SpawnFailed("EAGAIN", True, "", 0.5))
        waits.append(life.starts_in_s)
        life.tick()
    assert waits[:6] == pytest.approx([1, 2, 4, 8, 16, 30])
    life.send(Spawned(7), Shaken())
    assert life.worker.history.failures == ()


def test_a_program_that_speaks_another_protocol_is_ended_and_not_tried_again() -> None:
    life = Life()
    life.send(Start(), Spawned(7))
    assert Kill() in life.send(Refused("another protocol"))
    life.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
    assert (life.state, life.result) == (State.TERMINATED, "exec-failed")


def test_a_program_that_shows_when_it_is_ready_is_ready_then_and_not_by_living() -> None:
    life = Life(replace(agent("none"), ready=Readiness(way="log", target=("listening",))))
    life.send(Start(), Spawned(7))
    life.wait(ALIVE_S * 5).send(Tick())
    assert life.state is State.STARTING
    life.send(Shaken())
    assert (life.state, life.worker.deadline) == (State.READY, None)
    late = Life(life.worker.spec)
    late.send(Start(), Spawned(7))
    assert Kill() in late.tick()
    assert late.now == 130.0


def test_what_is_beyond_recovery_is_aborted_as_hung_and_started_again() -> None:
    life = Life(agent("none"))
    life.send(Start(), Spawned(7))
    life.tick()
    assert Signal("SIGABRT", False) in life.send(Hang("fails its check"))
    assert life.worker.deadline == life.now + ABORT_GRACE_S
    life.fail(Exited(None, "SIGABRT", at="", jitter=0.5))
    assert (life.result, life.state) == ("hung", State.INITIAL)


def test_what_stands_still_on_purpose_does_not_hang() -> None:
    life = Life().up()
    life.send(Pause())
    assert life.send(Hang("does not answer")) == []
    assert life.state is State.READY


def test_silence_at_the_start_is_a_start_timeout_and_a_crash_is_not() -> None:
    silent = Life()
    silent.send(Start(), Spawned(7))
    assert Kill() in silent.tick()
    assert silent.now == 130.0
    silent.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
    assert silent.result == "start-timeout"
    assert silent.state is State.INITIAL, "it counts, and is tried again"
    crashed = Life()
    crashed.send(Start(), Spawned(7))
    assert crashed.fail().result == "exited"


@pytest.mark.parametrize(
    ("spec", "awaited"),
    [
        (agent("corral"), 'protocol = "none"'),
        (replace(agent("none"), ready=Readiness(way="log", target=("listening",))), "listening"),
        (replace(agent("none"), ready=Readiness(way="tcp", target=("h:1",))), "tcp"),
    ],
)
def test_a_start_timeout_reports_what_was_waited_for(spec: Spec, awaited: str) -> None:
    life = Life(spec)
    life.send(Start(), Spawned(7))
    life.tick()
    assert awaited in life.worker.reason


def test_a_launch_that_never_answers_times_out_too() -> None:
    life = Life()
    life.send(Start())
    assert Kill() in life.tick()
    life.send(SpawnFailed("was stopped first", False, "", 0.5))
    assert (life.state, life.result) == (State.INITIAL, "start-timeout")


def test_a_handshake_that_comes_after_its_deadline_is_dropped() -> None:
    life = Life()
    life.send(Start(), Spawned(7))
    life.tick()
    assert life.send(Shaken()) == []


def test_a_program_without_a_protocol_is_ready_after_a_second() -> None:
    life = Life(agent("none"))
    life.send(Start())
    life.wait(5.0).send(Spawned(7))
    assert life.worker.deadline == life.now + ALIVE_S
    life.tick()
    assert life.state is State.READY
    assert life.worker.deadline is None, "nothing is waited for"


def test_what_waits_for_others_starts_only_when_they_are_ready() -> None:
    life = Life()
    life.send(Want("waits for b"))
    assert life.send(Reset()) == []
    assert Spawn(1) in life.send(Start())


def test_what_is_to_start_after_others_does_not_when_its_end_is_over() -> None:
    life = Life().up()
    life.send(Stop(), Want("waits for b"), CLEAN, Emptied())
    assert (life.state, life.worker.wanted) == (State.TERMINATED, True)
    assert Spawn(2) in life.send(Start())


def test_what_gave_up_waits_for_others_like_what_was_stopped() -> None:
    life = Life(agent("corral", restart="never")).up()
    life.send(Exited(None, "SIGKILL", at="", jitter=0.5), Emptied())
    assert (life.state, life.worker.wanted) == (State.TERMINATED, True)
    life.send(Want("waits for b"))
    assert life.send(Reset()) == []
    assert Spawn(2) in life.send(Start())


def test_a_wish_for_what_is_up_changes_nothing() -> None:
    life = Life().up()
    before = life.worker
    assert life.send(Want("waits for b")) == []
    assert life.worker == before


# -- stopping


def test_a_stop_that_is_ignored_ends_in_a_kill_that_is_repeated() -> None:
    life = Life().up()
    assert life.send(Stop())[-1] == Ask(10.0)
    assert life.tick() == [Signal("SIGTERM", True)]
    assert life.now == 105.0
    assert life.tick() == [Kill()]
    assert life.now == 110.0
    assert life.tick() == [Kill()]
    assert life.now == 110.0 + KILL_INTERVAL_S
    life.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
    assert (life.state, life.result) == (State.TERMINATED, "stopped")
    assert life.worker.last_exit is not None
    assert life.worker.last_exit.forced


def test_the_stop_signal_is_that_of_the_configuration() -> None:
    life = Life(replace(SPEC, process=Process(stop_signal="SIGINT", shutdown_grace_period=2.0))).up()
    life.send(Stop())
    assert life.tick() == [Signal("SIGINT", True)]
    assert life.now == 101.0


def test_when_the_leader_goes_first_its_tree_is_reported_at_once_and_killed_in_time() -> None:
    life = Life().up()
    life.send(Stop())
    assert life.wait(1.0).send(CLEAN) == [Signal("SIGTERM", True)]
    assert life.state is State.SHUTTING_DOWN, "the stop is over when the tree is empty"
    assert life.tick() == [Kill()]
    assert life.now == 110.0
    life.send(Emptied())
    assert life.worker.last_exit is not None
    assert (life.state, life.worker.last_exit.forced) == (State.TERMINATED, True)


def test_a_stop_that_is_obeyed_is_not_forced() -> None:
    life = Life().up()
    life.send(Stop())
    life.fail(CLEAN)
    assert life.worker.last_exit is not None
    assert not life.worker.last_exit.forced
    assert (life.worker.wanted, life.worker.deadline, life.worker.tree) == (False, None, False)


def test_a_stop_before_anything_ran_lets_nothing_run() -> None:
    life = Life()
    life.send(Start())
    assert Kill() in life.send(Stop())
    assert life.send(Spawned(7)) == [Kill()]
    life.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
    assert (life.state, life.result) == (State.TERMINATED, "stopped")


def test_a_kill_before_it_ran_leaves_the_story_of_its_earlier_life_alone() -> None:
    life = Life()
    life.send(Start(), Spawned(7))
    earlier = life.fail().worker.last_exit
    life.tick()
    life.send(Stop())
    life.tick()
    assert life.worker.last_exit is earlier


def test_a_stop_during_the_backoff_starts_nothing_and_keeps_the_reason_of_the_crash() -> None:
    life = Life()
    life.send(Start(), Spawned(7))
    life.fail().send(Stop())
    assert (life.state, life.result, life.worker.deadline) == (State.TERMINATED, "exited", None)


def test_a_stop_while_it_ends_for_a_restart_wins() -> None:
    life = Life().up()
    life.send(Restart(), Stop(), CLEAN, Emptied())
    assert (life.state, life.worker.wanted) == (State.TERMINATED, False)


@pytest.mark.parametrize("event", [Start(), Restart()])
def test_a_start_while_it_stops_brings_it_back_when_the_tree_is_empty(event: Event) -> None:
    life = Life().up()
    life.send(Stop(), event, CLEAN)
    assert life.state is State.SHUTTING_DOWN
    assert Spawn(2) in life.send(Emptied())


def test_a_crashed_worker_is_not_started_before_its_tree_is_empty() -> None:
    life = Life().up()
    assert life.wait(5.0).send(FAILED)[-1] == Kill()
    assert life.send(Start()) == []
    assert life.tick() == [Kill()], "until it is empty"
    assert Spawn(2) in life.send(Emptied())


def test_a_stop_while_the_tree_of_a_crash_is_left_starts_nothing() -> None:
    life = Life().up()
    life.wait(5.0).send(FAILED, Stop())
    assert life.tick() == [Kill()]
    assert life.send(Emptied()) == []


def test_a_restart_does_not_count_as_a_failure() -> None:
    life = Life(agent(max_restart_attempts=0)).up()
    for _ in range(5):
        life.send(Restart(), CLEAN, Emptied(), Spawned(7), Shaken())
    assert (life.state, life.worker.restarts, life.worker.renewals) == (State.READY, 0, 5)


def test_a_failure_after_a_renewal_is_counted_as_what_it_is() -> None:
    life = Life(agent(max_restart_attempts=3)).up()
    life.send(Restart(), CLEAN, Emptied(), Spawned(7), Shaken())
    life.wait(5.0).send(FAILED, Emptied(), Spawned(8), Shaken())
    assert (life.worker.restarts, life.worker.renewals) == (1, 1)
    life.send(Stop(), CLEAN, Emptied(), Start(), Spawned(9), Shaken())
    assert (life.worker.restarts, life.worker.renewals) == (1, 1), "a start is neither"
    life.send(Reset())
    assert (life.worker.restarts, life.worker.renewals) == (0, 1)


def test_a_worker_that_does_not_let_go_is_replaced_without_grace() -> None:
    life = Life().up()
    life.send(Worked(True))
    assert life.wait(5.0).send(EVENTS["Replace"])[-1] == Kill()
    life.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
    assert (life.result, life.state) == ("task-timeout", State.STARTING)
    assert life.worker.history.failures == (), "the task is to blame"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_an_emergency_leaves_nothing_that_is_wanted_and_waits_for_nobody(situation: str) -> None:
    life = Life()
    life.send(*SITUATIONS[situation])
    had_a_tree = life.worker.tree
    actions = life.send(Halt("an emergency"))
    assert not life.worker.wanted
    if had_a_tree and not life.worker.exited:
        assert actions[-1] == Kill()
        life.send(Spawned(7))  # what was being launched may still come
        life.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
    life.send(Emptied())
    assert life.state in (State.TERMINATED, State.INITIAL)
    assert (life.worker.tree, life.worker.deadline) == (False, None)


def test_an_emergency_is_reported_as_a_stop_that_was_forced() -> None:
    for stop in ((), (Stop(),)):
        life = Life().up()
        life.send(*stop, Halt("an emergency"))
        life.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
        assert (life.state, life.result) == (State.TERMINATED, "stopped")
        assert life.worker.last_exit is not None
        assert life.worker.last_exit.forced


# -- pauses


def test_a_paused_worker_has_no_deadline_and_is_never_hung() -> None:
    life = Life().up()
    assert life.send(Pause()) == [Freeze()]
    assert life.worker.deadline is None
    assert life.wait(3600.0).send(Tick()) == []
    assert life.send(Resume()) == [Thaw()]
    assert life.worker.deadline == life.now + 30.0, "its silence begins with the resume"
    assert life.tick()[-1] == Signal("SIGABRT", False)


def test_a_resumed_worker_has_its_whole_silence_even_for_a_tick_that_comes_at_once() -> None:
    life = Life().up()
    life.send(Pause())
    life.wait(3600.0).send(Resume(), Reconfigure(SPEC))
    assert life.tick(last_message_at=100.0) == []
    assert life.state is State.READY


@pytest.mark.parametrize("protocol", ["corral", "none"])
def test_a_start_that_is_paused_does_not_time_out(protocol: Literal["corral", "none"]) -> None:
    life = Life(agent(protocol))
    life.send(Start(), Spawned(7), Pause())
    assert life.worker.deadline is None
    assert life.wait(3600.0).send(Tick()) == []
    life.send(Resume())
    assert life.state is State.STARTING
    assert life.worker.deadline == life.now + (30.0 if protocol == "corral" else ALIVE_S)


@pytest.mark.parametrize("event", [Reconfigure(SPEC), Worked(True), Shaken(), Start(), Want("x"), Reset(), Pause()])
@pytest.mark.parametrize("situation", ["paused", "paused at its start"])
def test_nothing_but_an_end_ends_a_pause(situation: str, event: Event) -> None:
    life = Life()
    life.send(*SITUATIONS[situation])
    assert not {Thaw(), Freeze()} & set(life.send(event))
    assert (life.worker.paused_at, life.worker.deadline) == (life.now, None)


@pytest.mark.parametrize("event", [Stop(), Restart()])
def test_what_is_paused_is_thawed_before_it_is_asked_to_end(event: Event) -> None:
    life = Life().up()
    life.send(Pause())
    actions = life.send(event)
    assert actions[-2:] == [Thaw(), Ask(10.0)]
    assert life.worker.paused_at is None
    life.fail(CLEAN)
    assert life.result == "stopped"


@pytest.mark.parametrize("event", [Halt("an emergency"), Replace("oom", "too much")])
def test_what_is_killed_is_not_thawed_for_it(event: Event) -> None:
    life = Life().up()
    life.send(Pause())
    actions = life.send(event)
    assert actions[-1] == Kill()
    assert Thaw() not in actions
    assert life.worker.paused_at is None


def test_what_dies_while_it_is_paused_comes_back_unpaused() -> None:
    life = Life().up()
    life.wait(5.0).send(Pause())
    assert life.wait(5.0).fail(Exited(None, "SIGKILL", at="", jitter=0.5)).state is State.STARTING
    assert (life.result, life.worker.paused_at) == ("signaled", None)
    assert life.worker.deadline is not None


def test_time_in_a_pause_is_not_time_spent_ready() -> None:
    life = Life().up()
    life.wait(0.5).send(Pause())
    life.wait(3600.0).send(Resume())
    assert life.wait(0.25).fail().starts_in_s == pytest.approx(1.0), "it was Ready for 0.75 s"
    again = Life().up()
    again.wait(0.5).send(Pause())
    assert again.wait(3600.0).fail().starts_in_s == pytest.approx(1.0)


def test_the_time_of_the_pauses_of_one_life_is_known() -> None:
    life = Life().up()
    for _ in range(2):
        life.wait(1.0).send(Pause())
        life.wait(10.0).send(Resume())
    life.wait(1.0).send(Pause())
    assert life.wait(5.0).worker.frozen_s(life.now) == pytest.approx(25.0)
    life.fail(FAILED).send(Start(), Spawned(8))
    assert life.worker.frozen_s(life.now) == 0.0


def test_the_unused_time_of_a_server_begins_anew_with_the_resume() -> None:
    life = Life(agent("mcp")).up()
    life.wait(299.0).send(Pause())
    life.wait(1000.0).send(Resume())
    assert life.tick()[-1] == Ask(10.0)
    assert life.now == 100.0 + 299.0 + 1000.0 + 300.0


def test_a_stop_during_a_failed_end_is_reported_as_that_end_and_not_as_giving_up() -> None:
    life = Life(agent(max_restart_attempts=0)).up()
    life.tick()
    life.send(Stop())
    life.fail(Exited(None, "SIGABRT", at="", jitter=0.5))
    assert (life.state, life.result) == (State.TERMINATED, "hung")
    assert life.worker.resume_at is None


def test_a_start_during_a_failed_end_is_no_giving_up_either() -> None:
    life = Life(agent(max_restart_attempts=0)).up()
    life.tick()
    life.send(Start())
    life.fail(Exited(None, "SIGABRT", at="", jitter=0.5))
    assert (life.state, life.result) == (State.STARTING, "hung")


# -- silence


def test_a_silent_worker_is_aborted_then_killed_then_started_again() -> None:
    life = Life().up()
    assert life.tick()[-1] == Signal("SIGABRT", False)
    assert life.now == 130.0
    assert life.tick() == [Kill()]
    assert life.now == 130.0 + ABORT_GRACE_S
    life.fail(Exited(None, "SIGKILL", at="", jitter=0.5))
    assert (life.result, life.state) == ("hung", State.STARTING)


def test_what_an_aborted_worker_leaves_behind_is_killed() -> None:
    life = Life().up()
    life.tick()
    assert life.send(Exited(None, "SIGABRT", at="", jitter=0.5)) == [Kill()]


def test_the_deadline_of_a_silence_is_its_end_whatever_floats_round_to() -> None:
    """Else the tick finds nothing to do, and its deadline in the past: it would spin."""
    last_message_at = 2045.2233047177763
    life = Life().up()
    life.now = 2072.0
    life.send(Tick(last_message_at))
    assert life.tick(last_message_at)[-1] == Signal("SIGABRT", False)


def test_a_worker_that_speaks_is_left_alone() -> None:
    life = Life().up()
    for _ in range(20):
        assert life.tick(last_message_at=life.now + 25.0) == []
    assert life.state is State.READY


def test_the_stall_of_the_daemon_counts_against_nobody() -> None:
    """The shell names the moment when it woke up as the least `last_message_at`."""
    life = Life().up()
    assert life.wait(3600.0).send(Tick(last_message_at=life.now)) == []
    assert life.worker.deadline == life.now + 30.0


def test_work_that_is_handed_to_a_silent_worker_buys_it_no_time() -> None:
    life = Life().up()
    life.wait(20.0).send(Worked(True))
    assert life.worker.deadline == 130.0
    life.wait(5.0).send(Worked(False))
    assert life.tick()[-1] == Signal("SIGABRT", False)


@pytest.mark.parametrize("protocol", ["mcp", "none"])
def test_who_does_not_beat_is_not_called_hung(protocol: Literal["mcp", "none"]) -> None:
    life = Life(replace(agent(protocol), idle_timeout=0.0))
    life.send(Start(), Spawned(7), Shaken())
    assert (life.state, life.worker.deadline) == (State.READY, None)


def test_an_unused_mcp_server_is_stopped_and_a_busy_one_is_not() -> None:
    life = Life(agent("mcp")).up()
    life.send(Worked(True))
    assert life.tick() == []
    assert life.worker.deadline is None
    life.now = 1100.0
    life.send(Worked(False))
    assert life.tick()[-1] == Ask(10.0)
    assert life.now == 1100.0 + 300.0
    assert not life.worker.wanted
    life.fail(CLEAN)
    assert life.result == "stopped"


def test_a_shorter_timeout_applies_at_once() -> None:
    life = Life().up()
    quick = replace(SPEC, monitoring=Monitoring(heartbeat_interval=1.0, heartbeat_timeout=3.0))
    life.wait(2.0).send(Reconfigure(quick))
    assert life.tick(last_message_at=100.0) == []
    assert life.worker.deadline == 103.0
    assert life.tick(last_message_at=100.0)[-1] == Signal("SIGABRT", False)


def test_a_new_backoff_applies_to_a_wait_that_lasts() -> None:
    life = Life(agent(restart_backoff_base=20.0))
    life.send(Start(), Spawned(7))
    assert life.fail().starts_in_s == pytest.approx(20.0)
    life.wait(2.0).send(Reconfigure(agent(restart_backoff_base=5.0)))
    assert life.starts_in_s == pytest.approx(3.0), "5 s after it ended"
    life.send(Reconfigure(agent(restart_backoff_base=1.0)))
    assert Spawn(2) in life.tick(), "that time is over"
    assert life.now == 102.0


def test_a_new_backoff_applies_while_the_tree_of_the_dead_is_left() -> None:
    life = Life(agent(restart_backoff_base=20.0))
    life.send(Start(), Spawned(7), FAILED, Reconfigure(agent(restart_backoff_base=5.0)), Emptied())
    assert life.starts_in_s == pytest.approx(5.0)


def test_a_new_backoff_applies_to_what_could_not_be_spawned() -> None:
    life = Life()
    life.send(Start(), SpawnFailed("EAGAIN", True, "", 0.5))
    life.send(Reconfigure(agent(restart_backoff_base=4.0)))
    assert life.starts_in_s == pytest.approx(4.0)


def test_a_new_backoff_does_not_take_back_a_start_that_somebody_asked_for() -> None:
    life = Life(agent(restart_backoff_base=20.0))
    life.send(Start(), Spawned(7), FAILED, Start(), Reconfigure(agent(restart_backoff_base=9.0)))
    assert Spawn(2) in life.send(Emptied())


def test_new_values_of_the_intensity_count_at_the_next_end() -> None:
    life = Life(agent(max_restart_attempts=5)).up()
    for _ in range(2):
        life.wait(10.0).fail()
        life.send(Spawned(7), Shaken())
    life.send(Reconfigure(agent(max_restart_attempts=2)))
    life.wait(10.0).fail()
    assert life.result == "restart-limit"
    other = Life(agent(max_restart_attempts=1)).up()
    other.wait(10.0).fail()
    other.send(Spawned(7), Shaken())
    other.send(Reconfigure(agent(max_restart_attempts=1, restart_window=5.0)))
    assert other.wait(10.0).fail().state is State.STARTING, "the failure is older than the window"


def test_more_attempts_do_not_start_what_gave_up() -> None:
    life = Life(agent(max_restart_attempts=0))
    life.send(Start(), Spawned(7))
    life.fail()
    assert life.send(Reconfigure(agent(max_restart_attempts=9))) == []
    assert life.state is State.TERMINATED
    assert Spawn(2) in life.send(Reset())


# -- what comes late, or twice


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_tick_of_an_earlier_deadline_changes_nothing(situation: str) -> None:
    life = Life()
    life.send(*SITUATIONS[situation])
    before = life.worker
    assert life.send(Tick()) == []
    assert life.worker == before


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", ["Spawned", "SpawnFailed", "Exited", "Emptied"])
def test_what_a_process_did_is_counted_once(situation: str, name: str) -> None:
    """Told a second time before anything else happened, it changes nothing."""
    life = Life()
    life.send(*SITUATIONS[situation], EVENTS[name])
    once = life.worker
    if answer(situation, name) == "Kill" or once.state is State.STARTING:
        return  # the first was the one that let it run
    assert life.send(EVENTS[name]) == []
    assert life.worker == once


def test_a_program_that_runs_cannot_have_failed_to_start() -> None:
    life = Life()
    life.send(Start(), Spawned(7))
    assert life.send(SpawnFailed("late", False, "", 0.5)) == []
    assert life.worker.tree


def test_empty_is_not_believed_of_a_tree_whose_leader_lives() -> None:
    for situation in ("Ready", "asked to end", "stopped before it ran"):
        life = Life()
        life.send(*SITUATIONS[situation], Emptied())
        assert life.worker.tree


# -- the manual


def _diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> Initial"]
    lines += [f"    {old} --> {new}" for old in State for new in State if new in TRANSITIONS[old]]
    return "\n".join([*lines, "```"])


def _transitions() -> str:
    rows = ["| from | to |", "| --- | --- |"]
    rows += [f"| {old} | {', '.join(new for new in State if new in TRANSITIONS[old])} |" for old in State]
    return "\n".join(rows)


def _answers() -> str:
    rows = ["| event | in the situation | what follows |", "| --- | --- | --- |"]
    table = expected()
    for name in EVENTS:
        answers: dict[str, list[str]] = {}
        for (situation, event), words in table.items():
            if event == name:
                answers.setdefault(words, []).append(situation)
        rows += [f"| {name} | {'; '.join(found)} | {words} |" for words, found in answers.items()]
        if not answers:
            rows.append(f"| {name} | any | no transition, no action |")
    return "\n".join(rows)


def with_tables(page: str) -> str:
    """The page with its generated parts as the code has them now."""
    parts: Iterable[tuple[str, str]] = (
        ("diagram", _diagram()),
        ("transitions", _transitions()),
        ("answers", _answers()),
    )
    for name, text in parts:
        found = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        assert len(found.findall(page)) == 1, f"the page has one place for the {name}"
        before, after = found.findall(page)[0]
        page = found.sub(f"{before}{text}\n{after}", page)
    return page


def test_the_manual_shows_the_tables_of_the_code() -> None:
    page = DOC.read_text("utf-8")
    assert page == with_tables(page), "python tests/workers/lifecycle/test_state_machine.py --write"


def test_the_manual_names_every_result_that_the_lifecycle_gives_by_itself() -> None:
    page = DOC.read_text("utf-8")
    source = Path(transitions.__file__).read_text("utf-8")
    named = {"stopped", "exited", "signaled", "hung", "start-timeout", "exec-failed", "restart-limit"}
    assert all(f'"{result}"' in source for result in named)
    (table,) = re.findall(r"## Results\n(.*?)\n## ", page, re.S)
    assert all(f"`{result}`" in table for result in named | {"task-timeout", "hibernated", "oom"})


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        DOC.write_text(with_tables(DOC.read_text("utf-8")), "utf-8")
    elif sys.argv[1:] == ["--answers"]:
        for name in EVENTS:
            for situation in SITUATIONS:
                if words := answer(situation, name):
                    print(f"{name:23} {situation:22} {words}".replace(f"{name:23} ", f"{name:23}  "))
    else:
        sys.exit("usage: test_lifecycle.py --write | --answers")


# -- jobs


def job(**keys: Any) -> Life:  # Any: keys of the agent's table
    recovery = Recovery(**keys.pop("recovery", {}))
    return Life(replace(SPEC, protocol="none", type="oneshot", recovery=recovery, **keys))


@pytest.mark.parametrize("restart", ["always", "on-failure", "never"])
def test_exit_0_is_the_success_of_a_job_and_nothing_is_wanted_of_it_then(restart: str) -> None:
    life = job(recovery={"restart": restart})
    life.send(Start(), Spawned(7))
    life.wait(3600.0)
    assert (life.state, life.worker.deadline) == (State.STARTING, None)
    assert not life.worker.is_satisfied
    life.fail(CLEAN)
    assert (life.state, life.result, life.worker.restarts) == (State.TERMINATED, "exited", 0)
    assert life.worker.is_satisfied
    assert not life.worker.wanted


def test_a_job_that_fails_is_tried_again_as_its_policy_says_and_then_succeeds() -> None:
    life = job(recovery={"max_restart_attempts": 1})
    life.send(Start(), Spawned(7))
    life.fail()
    life.tick()
    life.send(Spawned(8))
    life.fail(CLEAN)
    assert life.worker.done
    life.send(Start(), Spawned(9))
    assert not life.worker.done
    life.fail()
    assert life.state is State.INITIAL  # its success has forgiven the failure before
    life.tick()
    life.send(Spawned(10))
    life.fail()
    assert (life.state, life.result) == (State.TERMINATED, "restart-limit")
    assert not life.worker.is_satisfied


def test_a_job_of_restart_never_fails_once() -> None:
    life = job(recovery={"restart": "never"})
    life.send(Start(), Spawned(7))
    life.fail()
    assert (life.state, life.result, life.worker.done) == (State.TERMINATED, "exited", False)


def test_a_success_that_remains_is_left_by_a_start_and_not_by_a_restart_or_a_stop() -> None:
    life = job(remain=True)
    life.send(Start(), Spawned(7))
    life.fail(CLEAN)
    assert life.send(Want("waits for b")) == []
    assert life.send(Start()) == []
    assert life.worker.done
    assert Spawn(2) in life.send(Restart())
    life.send(Spawned(8))
    life.fail(CLEAN)
    life.send(Halt("an emergency"))
    assert life.worker.done
    life.send(Stop())
    assert not life.worker.done
    assert Spawn(3) in life.send(Start())


def test_a_run_of_a_job_that_takes_too_long_is_killed() -> None:
    life = job(timeout=60.0, recovery={"restart": "never"})
    life.send(Start(), Spawned(7))
    assert life.worker.deadline == life.now + 60.0
    assert Kill() in life.tick()
    life.send(Exited(None, "SIGKILL", at="", jitter=0.5), Emptied())
    assert (life.state, life.result) == (State.TERMINATED, "task-timeout")


if __name__ == "__main__":
    main()
