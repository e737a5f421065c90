"""What an agent's workers start from: a table of what follows what, and long random lives from a printed seed.

`World` plays the machine: zygotes that load, fail, are unfit, die, sources that change while they are read, and
people. It keeps its own books of who lives and of what was read, and checks after every step. A life is its seed:
`PYTHONPATH=tests/support python tests/workers/zygote/test_policy.py SEED` prints one whole.
"""

import inspect
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from corral.supervisor.workers.zygote import policy
from corral.supervisor.workers.zygote.policy import (
    LOSSES,
    STEADY_S,
    Aged,
    Announce,
    Changed,
    ColdUp,
    End,
    Event,
    Failed,
    Load,
    Loaded,
    Look,
    Lost,
    OptedOut,
    Phase,
    Remade,
    Retire,
    Roll,
    Tick,
    Unchanged,
    Unwanted,
    Wanted,
    Warmth,
    turn,
)
from seeds import seeds

pytestmark = pytest.mark.core

SEEDS = 100
EVENTS = 400
IMPORT_S_MAX = 3.0
RENEWALS_A_MINUTE = 11
"""With the pauses of `DAMPING_S`: 0.5 + 1 + 2 + 4 + 8 s, then 15 s each, and the first without one."""


def lived(*events: Event, now: float = 0.0) -> tuple[Warmth, list[policy.Action]]:
    """What follows from events in a row, from the beginning: the state, and what the last one asks for."""
    state, actions = Warmth(), list[policy.Action]()
    for event in events:
        state, actions = policy.step(state, event, now)
    return state, actions


WARM = (Wanted(), Loaded(1))


# -- the table


def test_the_first_worker_that_is_wanted_has_a_zygote_loaded() -> None:
    state, actions = lived(Wanted())
    assert (state.phase, actions) == (Phase.LOADING, [Load(1)])


def test_a_zygote_that_is_fit_is_forked_from() -> None:
    state, actions = lived(*WARM)
    assert (state.phase, state.current, actions) == (Phase.WARM, 1, [Announce("warm", "")])


def test_one_that_is_unfit_is_ended_and_the_workers_start_cold() -> None:
    state, actions = lived(Wanted(), Loaded(1, "a thread"))
    assert (state.phase, state.reason) == (Phase.COLD, "a thread")
    assert actions == [End(1), Announce("cold", "a thread")]


def test_an_import_that_fails_is_tried_again_when_a_cold_worker_came_up() -> None:
    state, actions = lived(Wanted(), Failed(1, "no module"))
    assert (state.phase, actions) == (Phase.COLD, [Announce("cold", "no module")])
    assert policy.step(state, ColdUp(), 1.0)[1] == [Load(2)]


def test_an_import_that_keeps_failing_is_not_tried_for_ever() -> None:
    state, _ = lived(Wanted(), Failed(1, "x"), ColdUp(), Failed(2, "x"), ColdUp(), Failed(3, "x"))
    assert policy.step(state, ColdUp(), 1.0)[1] == []
    assert policy.step(state, Changed("asked to restart", urgent=True), 1.0)[1] == [Load(4)]


def test_an_unfit_one_is_not_tried_again_because_cold_workers_come_up() -> None:
    state, _ = lived(Wanted(), Loaded(1, "a socket"))
    assert policy.step(state, ColdUp(), 1.0)[1] == []


def test_what_the_machine_lacks_for_now_is_tried_again_after_a_while() -> None:
    state, _ = lived(Wanted(), Failed(1, "no memory", lacking=True))
    assert state.phase is Phase.RESTING
    assert state.due is not None
    assert policy.step(state, Tick(), state.due - 0.1)[1] == []
    assert policy.step(state, Tick(), state.due)[1] == [Load(2)]


def test_what_changed_is_loaded_beside_the_old_one_which_retires_then() -> None:
    state, actions = lived(*WARM, Changed("a.py"))
    assert (state.phase, state.current, actions) == (Phase.RENEWING, 1, [Load(2)])
    state, actions = policy.step(state, Loaded(2), 1.0)
    assert (state.phase, state.current) == (Phase.WARM, 2)
    assert actions == [Retire(1), Announce("renewed", "a.py"), Roll(2, "a.py")]


def test_a_change_that_cannot_be_imported_keeps_the_old_one_and_says_so() -> None:
    state, actions = lived(*WARM, Changed("a.py"), Failed(2, "SyntaxError"))
    assert (state.phase, state.current, state.reason) == (Phase.WARM, 1, "SyntaxError")
    assert actions == [Announce("kept", "SyntaxError")]
    assert policy.step(state, Changed("a.py"), 99.0)[1] == [Load(3)]


def test_a_renewal_for_which_the_machine_lacks_something_for_now_is_tried_again() -> None:
    state, actions = lived(*WARM, Changed("a.py"), Failed(2, "no memory", lacking=True))
    assert (state.phase, state.current, actions) == (Phase.WARM, 1, [Announce("kept", "no memory")])
    assert state.due is not None
    state, actions = policy.step(state, Tick(), state.due)
    assert actions == [Load(3)]
    state, actions = policy.step(state, Failed(3, "no memory", lacking=True), 5.0)
    assert (state.phase, actions) == (Phase.WARM, [])


def test_who_began_before_a_change_is_replaced_whatever_becomes_of_the_first_to_read_it() -> None:
    for between in (
        (Remade(), Loaded(3)),
        (Failed(2, "SyntaxError"), Remade(), Loaded(3)),
        (Remade(), Lost(3, "x"), ColdUp(), Loaded(4)),
        (Loaded(2, "a thread"), Changed("b", urgent=True), Failed(3, "x"), ColdUp(), Loaded(4)),
    ):
        _, actions = lived(*WARM, Changed("a"), *between)
        assert [type(action) for action in actions if isinstance(action, Roll)] == [Roll], between


def test_a_change_that_makes_it_unfit_has_its_workers_start_cold_one_after_the_other() -> None:
    state, actions = lived(*WARM, Changed("a.py"), Loaded(2, "a thread"))
    assert (state.phase, state.current) == (Phase.COLD, None)
    assert actions == [End(2), Retire(1), Announce("cold", "a thread"), Roll(2, "a.py")]


def test_a_burst_of_changes_during_a_renewal_gives_one_more() -> None:
    state, actions = lived(*WARM, Changed("a"), Changed("b"), Changed("c"))
    assert (actions, state.again) == ([], "c")
    state, actions = policy.step(state, Loaded(2), 1.0)
    assert (actions[-1], state.is_settled) == (Look(2), False)
    assert policy.step(state, Unchanged(2), 1.0)[0].is_settled
    state, _ = policy.step(state, Changed("c"), 1.0)
    assert state.due is not None
    assert policy.step(state, Tick(), state.due)[1] == [Load(3)]


def test_who_waits_for_a_renewal_does_not_wait_for_a_pause() -> None:
    state, actions = lived(*WARM, Changed("a"), Changed("b", urgent=True), Loaded(2), Changed("b"))
    assert actions == [Load(3)]
    assert state.phase is Phase.RENEWING


def test_a_zygote_that_died_is_loaded_again_at_once_and_then_after_longer_and_longer() -> None:
    state, actions = lived(*WARM, Lost(1, "SIGSEGV"))
    assert (state.phase, actions) == (Phase.LOADING, [Load(2)])
    waits = list[float]()
    for number in range(2, LOSSES):
        state, _ = policy.step(state, Loaded(number), 0.0)
        state, actions = policy.step(state, Lost(number, "SIGSEGV"), 0.0)
        assert state.phase is Phase.RESTING
        assert state.due is not None
        waits.append(state.due)
        state, actions = policy.step(state, Tick(), state.due)
        assert actions == [Load(number + 1)]
    assert waits == sorted(set(waits))


def test_a_zygote_that_dies_again_and_again_ends_in_cold_starts_with_the_reason() -> None:
    state, actions = lived(Wanted())
    for number in range(1, LOSSES + 1):
        state, _ = policy.step(state, Loaded(number), 0.0)
        state, actions = policy.step(state, Lost(number, "killed by SIGSEGV"), 0.0)
        state, _ = policy.step(state, Tick(), 1e3) if state.due is not None else (state, [])
    assert state.phase is Phase.COLD
    assert "SIGSEGV" in state.reason
    assert isinstance(actions[-1], Announce)


def test_a_zygote_that_ran_for_long_has_died_for_the_first_time() -> None:
    state = lived(Wanted())[0]
    now = 0.0
    for number in range(1, 3 * LOSSES):
        state, _ = policy.step(state, Loaded(number), now)
        now += STEADY_S
        state, actions = policy.step(state, Lost(number, "x"), now)
        assert actions == [Load(number + 1)]


def test_when_the_old_one_dies_during_a_renewal_workers_wait_for_the_new_one() -> None:
    state, actions = lived(*WARM, Changed("a"), Lost(1, "x"))
    assert (state.phase, state.coming, actions) == (Phase.LOADING, 2, [])


@pytest.mark.parametrize(
    ("events", "ends"),
    [
        ((Wanted(),), [End(1)]),
        (WARM, [End(1)]),
        ((*WARM, Changed("a")), [End(2), End(1)]),
        ((Wanted(), Failed(1, "x")), []),
    ],
)
def test_nothing_is_left_of_what_nobody_waits_for(events: tuple[Event, ...], ends: list[policy.Action]) -> None:
    state, actions = lived(*events, Unwanted())
    assert (state.phase, actions) == (Phase.ABSENT, ends)


def test_workers_that_are_forks_live_on_when_the_next_ones_are_to_start_cold() -> None:
    state, actions = lived(*WARM, Changed("a"), OptedOut())
    assert (state.phase, actions) == (Phase.ABSENT, [End(2), Retire(1)])


def test_no_worker_is_forked_from_a_zygote_that_would_be_started_differently_now() -> None:
    state, actions = lived(*WARM, Remade())
    assert (state.phase, state.current) == (Phase.LOADING, None)
    assert actions == [Retire(1), Load(2)]


def test_a_report_about_a_zygote_that_has_ended_changes_nothing() -> None:
    state, _ = lived(*WARM, Changed("a"), Loaded(2))
    for event in (Loaded(1), Failed(1, "x"), Lost(1, "x"), Loaded(9), Lost(9, "x")):
        assert policy.step(state, event, 1.0) == (state, [])


# -- long lives


Step = Callable[[Warmth, Event, float], policy.Step]


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Zygote:
    """One on the machine: which version of the sources it reads, when it is done, and whether it has a worker."""

    number: int
    version: int
    due: float
    is_loaded: bool = False
    is_retired: bool = False


@dataclass
class World:
    """A machine with one agent on it, and people who change its sources."""

    seed: int
    step: Step = policy.step
    tells: bool = False
    state: Warmth = field(default_factory=Warmth)
    now: float = 0.0
    version: int = 0
    broken: set[int] = field(default_factory=set[int])
    unfit: set[int] = field(default_factory=set[int])
    zygotes: dict[int, Zygote] = field(default_factory=dict[int, Zygote])
    given: int = 0
    wanted: bool = False
    unasked: list[float] = field(default_factory=list[float])
    """When renewals began for which nobody had asked."""
    asked_at: float = -1.0
    replaced: int = 0
    """Forks of zygotes before this one are replaced, or may stay."""
    looks: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """When a zygote says whether it has read what is there now."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def send(self, event: Event) -> None:
        before = self.state
        self.state, actions = self.step(before, event, self.now)
        if self.tells:
            print(f"{self.now:8.2f} {event} -> {self.state.phase} {actions}")
        for action in actions:
            self._perform(action, before)
        self._check()

    def _perform(self, action: policy.Action, before: Warmth) -> None:
        if isinstance(action, Load):
            self._expect(action.number > self.given, "a number came twice")
            self.given = action.number
            due = self.now + self.random.uniform(0.1, IMPORT_S_MAX)
            self.zygotes[action.number] = Zygote(action.number, self.version, due)
            if self.state.phase is Phase.RENEWING and self.asked_at != self.now:
                self.unasked.append(self.now)
        elif isinstance(action, Retire):
            zygote = self.zygotes.get(action.number)
            self._expect(zygote is not None and zygote.is_loaded, "what retires was forked from")
            assert zygote is not None
            self._expect(not zygote.is_retired, "it retired twice")
            zygote.is_retired = True
        elif isinstance(action, End):
            zygote = self.zygotes.pop(action.number, None)
            self._expect(zygote is not None, "what ends was there")
            assert zygote is not None
            self._expect(not self.wanted or action.number != before.current, "a worker was cut")
        elif isinstance(action, Roll):
            self.replaced = action.number
        elif isinstance(action, Look):
            self.looks.append((self.now + self.random.uniform(0.0, 0.2), action.number))

    def _expect(self, holds: bool, words: str) -> None:
        if not holds:
            raise Broken(f"seed {self.seed} at {self.now:.2f}: {words}; {self.state}")

    def _check(self) -> None:
        alive = {z.number for z in self.zygotes.values() if not z.is_retired}
        known = {n for n in (self.state.current, self.state.coming) if n is not None}
        self._expect(alive == known, f"{alive} live, {known} are known")
        loading = {z.number for z in self.zygotes.values() if not z.is_loaded}
        self._expect(loading == {self.state.coming} - {None}, f"{loading} load")
        has = (self.state.current is not None, self.state.coming is not None)
        fits = {
            Phase.ABSENT: (False, False),
            Phase.LOADING: (False, True),
            Phase.WARM: (True, False),
            Phase.RENEWING: (True, True),
            Phase.RESTING: (False, False),
            Phase.COLD: (False, False),
        }
        self._expect(has == fits[self.state.phase], "the phase says something else")
        self._expect(self.state.phase is not Phase.COLD or bool(self.state.reason), "cold without a reason")
        if self.state.phase is Phase.WARM and self.state.is_settled and self.state.current:
            newest = self.zygotes[self.state.current].version
            stay = [z.number for z in self.zygotes.values() if self.replaced <= z.number]
            old = [n for n in stay if self.zygotes[n].version < newest]
            self._expect(not old, f"forks of {old} stay, which have read what was before")
        recent = [at for at in self.unasked if at > self.now - 60.0]
        self._expect(len(recent) <= RENEWALS_A_MINUTE, f"{len(recent)} renewals in a minute")

    def pass_time(self, until: float) -> None:
        """What happens by itself up to then: loads end, ticks come."""
        while True:
            dues = [(z.due, z.number) for z in self.zygotes.values() if not z.is_loaded]
            tick = [(self.state.due, 0)] if self.state.due is not None else []
            due, number = min([*dues, *tick, *self.looks], default=(until + 1, 0))
            if due > until:
                break
            self.now = max(self.now, due)
            if (due, number) in self.looks:
                self.looks.remove((due, number))
                self._answer(number)
            elif number == 0:
                self.send(Tick())
            else:
                self._finish(self.zygotes[number])
        self.now = until

    def _answer(self, number: int) -> None:
        zygote = self.zygotes.get(number)
        if zygote is None or number != self.state.current or zygote.version == self.version:
            self.send(Unchanged(number))
        else:
            self.send(Changed(f"version {self.version}"))

    def _finish(self, zygote: Zygote) -> None:
        if zygote.version in self.broken:
            del self.zygotes[zygote.number]
            self.send(Failed(zygote.number, f"version {zygote.version} is broken"))
            return
        zygote.is_loaded = True
        is_unfit = zygote.version in self.unfit
        self.send(Loaded(zygote.number, "a thread" if is_unfit else ""))

    # -- what may happen

    def change(self, *, urgent: bool = False) -> None:
        self.version += 1
        if self.random.random() < 0.2:
            self.broken.add(self.version)
        elif self.random.random() < 0.1:
            self.unfit.add(self.version)
        if urgent:
            self.asked_at = self.now
        # A zygote that has not begun to read may read it; whoever watches tells all the same.
        for zygote in self.zygotes.values():
            if not zygote.is_loaded and self.random.random() < 0.3:
                zygote.version = self.version
        self.send(Changed(f"version {self.version}", urgent))

    def want(self) -> None:
        self.wanted = True
        self.send(Wanted())

    def leave(self) -> None:
        self.wanted = False
        for zygote in [z for z in self.zygotes.values() if z.is_retired]:
            del self.zygotes[zygote.number]
        self.send(Unwanted())

    def opt_out(self) -> None:
        self.send(OptedOut())
        self.replaced = self.given + 1  # nobody renews any more

    def remake(self) -> None:
        self.send(Remade())

    def cold_up(self) -> None:
        self.send(ColdUp())

    def die(self) -> None:
        if self.zygotes:
            zygote = self.zygotes.pop(self.random.choice(list(self.zygotes)))
            self.send(Lost(zygote.number, "killed by SIGSEGV"))

    def retire_ends(self) -> None:
        for zygote in [z for z in self.zygotes.values() if z.is_retired]:
            del self.zygotes[zygote.number]
            self.send(Lost(zygote.number, "its last worker has ended"))

    def repeat(self) -> None:
        """Something is told once more, or too late."""
        number = self.random.randint(0, self.given)
        if number != self.state.coming and number != self.state.current:
            late = self.random.choice((Loaded(number), Failed(number, "x"), Lost(number, "x")))
            self.send(late)

    def live(self) -> None:
        happen: list[tuple[Callable[[], None], int]] = [
            (self.want, 20),
            (self.change, 20),
            (lambda: self.change(urgent=True), 4),
            (self.leave, 2),
            (self.opt_out, 1),
            (self.remake, 2),
            (self.cold_up, 5),
            (self.die, 6),
            (self.retire_ends, 10),
            (self.repeat, 5),
        ]
        acts, weights = zip(*happen, strict=True)
        for _ in range(EVENTS):
            pace_s = self.random.choice((0.01, 0.5, 5.0, 100.0))
            self.pass_time(self.now + self.random.expovariate(1 / pace_s))
            self.random.choices(acts, weights)[0]()
        self.end()

    def storm(self) -> None:
        """For a minute a program writes its own sources again and again."""
        for _ in range(200):
            self.version += 1
            self.send(Changed(f"version {self.version}"))
            self.pass_time(self.now + 0.3)
        self.pass_time(self.now + 1000.0)

    def end(self) -> None:
        """Left alone and wanted, it runs what was written last, or says why it does not."""
        self.broken.discard(self.version)
        self.unfit.discard(self.version)
        self.want()
        self.change(urgent=True)
        self.broken.discard(self.version)
        self.unfit.discard(self.version)
        self.pass_time(self.now + 1000.0)
        self._expect(self.state.phase is Phase.WARM, "it does not come to rest")
        self.storm()
        current = self.state.current
        assert current is not None
        self._expect(self.zygotes[current].version == self.version, "it runs an old version")
        self.version += 1
        self.broken.add(self.version)
        self.send(Changed("the last"))
        self.pass_time(self.now + 1000.0)
        self._expect(self.state.current == current, "what works was given up for what does not")
        self._expect("broken" in self.state.reason, "it does not say why")
        self.leave()
        self._expect(not self.zygotes, "something is left")


@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_every_zygote_is_accounted_for_whatever_happens(seed: int) -> None:
    World(seed).live()


FAULTS = {
    "the old one is not retired": (
        'actions.append(Retire(warmth.current))\n    actions.append(Announce("renewed',
        'pass\n    actions.append(Announce("renewed',
    ),
    "what is told too late counts": (
        "    if event.number != warmth.coming:\n        return warmth, []\n    if event.unfit:",
        "    if event.unfit:",
    ),
    "a change during a load is forgotten": ("again=event.reason, pause_s=pause_s), []", "pause_s=pause_s), []"),
    "what was changed during a load is taken for read": (
        "    if warmth.again:  # it may have imported that already",
        "    if False:",
    ),
    "forks of what was read before are forgotten": (
        "if warmth.cause or warmth.again:  # earlier",
        "if warmth.cause:  # earlier",
    ),
    "there is no pause between renewals": ("if since_s < warmth.pause_s:", "if False:"),
    "a renewal that fails gives up what works": (
        "    if warmth.current is not None:\n        kept",
        "    if False:\n        kept",
    ),
    "one that died in a renewal is still forked from": (
        "return replace(lost, phase=Phase.LOADING), []",
        "return lost, []",
    ),
    "what is coming is left when nobody wants it": (
        "for n in (warmth.coming, warmth.current)",
        "for n in (warmth.current,)",
    ),
}


def planted(old: str, new: str) -> Step:
    """`warmth.step` as it would be if the text `old` of its functions were `new`."""
    source = inspect.getsource(policy)
    text = "from __future__ import annotations\ndef " + source.split("\ndef ", 1)[1]
    assert text.count(old) == 1, f"not one place: {old}"
    functions: dict[str, Any] = dict(vars(policy))  # Any: the contents of a module
    exec(text.replace(old, new), functions)
    step: Step = functions["step"]
    return step


@pytest.mark.parametrize("fault", FAULTS)
def test_the_lives_see_when(fault: str) -> None:
    step = planted(*FAULTS[fault])
    for seed in range(SEEDS):
        try:
            World(seed, step).live()
        except (AssertionError, KeyError):
            return
    pytest.fail(f"nobody notices that {fault}")


# -- whose turn it is


@dataclass
class Worker:
    """One of several, with what it does."""

    id: str
    is_old: bool = True
    ends: list[float] = field(default_factory=list[float])
    up_at: float = 0.0


@pytest.mark.parametrize("seed", seeds(60))
def test_under_load_each_worker_is_replaced_and_no_task_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    count, slots = chance.choice((1, 1, 2, 3, 8, 20)), chance.choice((1, 1, 2, 5))
    length_s = chance.choice((0.01, 0.5, 5.0))
    workers = [Worker(f"w-{n}") for n in range(count)]
    withheld = frozenset[str]()
    now, done, most_down = 0.0, 0, max(1, count // policy.SHARE)
    queue = 10_000
    while any(worker.is_old for worker in workers):
        assert now < 2_000.0 * length_s + 600.0, f"seed {seed}: it never ends"
        up = [worker for worker in workers if worker.up_at <= now]
        assert len(up) >= count - most_down, f"seed {seed}: too many are down"
        for worker in up:
            done += sum(end <= now for end in worker.ends)
            worker.ends = [end for end in worker.ends if end > now]
        aged = [Aged(w.id, len(w.ends), w.id in withheld) for w in up if w.is_old]
        coming = sum(worker.up_at > now for worker in workers)
        found = turn(aged, workers=count, coming=coming, slots=slots)
        withheld = found.withheld
        for worker in workers:
            if worker.id in found.replaced:
                assert not worker.ends, f"seed {seed}: a task was cut"
                worker.is_old, worker.up_at = False, now + chance.uniform(0.01, 2.0)
        for worker in up:
            while queue and worker.id not in withheld and worker.up_at <= now:
                if len(worker.ends) >= slots:
                    break
                worker.ends.append(now + chance.expovariate(1 / length_s))
                queue -= 1
        moments = [end for w in workers for end in w.ends]
        moments += [w.up_at for w in workers if w.up_at > now]
        now = min((moment for moment in moments if moment > now), default=now + 0.01)


def test_one_that_does_not_come_up_holds_up_the_others_which_go_on() -> None:
    aged = [Aged("a", 0), Aged("b", 1, withheld=True)]
    assert turn(aged, workers=3, coming=1, slots=1) == policy.Turn((), frozenset())


def test_workers_with_several_slots_are_not_all_drained_at_once() -> None:
    aged = [Aged(f"w-{n}", 2) for n in range(4)]
    assert len(turn(aged, workers=4, coming=0, slots=4).withheld) == 2


if __name__ == "__main__":
    World(int(sys.argv[1]), tells=True).live()
