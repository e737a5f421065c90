"""How a change rolls: a table of what follows from what, and changes that are played to their end from printed seeds.

`World` plays the workers: new ones come up, fail, have checks; former ones run tasks, crash and are stopped. It keeps its own
count of who serves, and checks it after each action.
"""

import random
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from corral.supervisor.agents.rollout.policy import (
    NO_ROOM,
    NOT_BESIDE,
    Action,
    Begin,
    Drain,
    Finish,
    Former,
    Hold,
    New,
    Replace,
    Slot,
    Smoke,
    Switch,
    TakeBack,
    Try,
    View,
    decide,
)
from seeds import seeds

pytestmark = pytest.mark.core


def view(*slots: Slot, **more: object) -> View:
    return replace(View(slots), **more)


def test_all_new_workers_are_brought_up_beside_the_former_ones_where_there_is_room() -> None:
    assert decide(view(Slot(0), Slot(1), room=5)) == (Begin(0), Begin(1))


def test_where_there_is_room_for_one_it_is_one_at_a_time() -> None:
    assert decide(view(Slot(0), Slot(1), room=1)) == (Begin(0),)
    assert decide(view(Slot(0, new=New.COMING), Slot(1), room=0)) == ()


def test_no_new_worker_gets_a_task_while_another_is_coming() -> None:
    slots = Slot(0, new=New.SOUND), Slot(1, new=New.COMING)
    assert decide(view(*slots)) == ()
    assert decide(view(slots[0], replace(slots[1], new=New.SOUND))) == (Switch((0, 1)),)


def test_the_smoke_task_runs_once_on_a_sound_worker_before_the_switch() -> None:
    sound = Slot(0, new=New.SOUND)
    assert decide(view(sound, smoke=Smoke.DUE)) == (Try(0),)
    assert decide(view(sound, smoke=Smoke.RUNNING)) == ()
    assert decide(view(sound, smoke=Smoke.PASSED)) == (Switch((0,)),)
    assert decide(view(sound, smoke=Smoke.FAILED)) == (TakeBack(),)


def test_one_new_worker_that_fails_takes_the_change_back() -> None:
    assert decide(view(Slot(0, new=New.SOUND), Slot(1, new=New.FAILED), room=3)) == (TakeBack(),)


def test_without_room_one_worker_finishes_its_tasks_and_is_started_anew() -> None:
    assert decide(view(Slot(0, tasks=1), Slot(1))) == (Drain(0, NO_ROOM),)
    draining = Slot(0, Former.DRAINING, tasks=1)
    assert decide(view(draining, Slot(1))) == ()
    assert decide(view(replace(draining, tasks=0), Slot(1))) == (Replace(0),)
    assert decide(view(Slot(0, Former.GONE, New.SERVING), Slot(1))) == (Drain(1, NO_ROOM),)


def test_room_that_former_workers_are_about_to_make_is_waited_for() -> None:
    assert decide(view(Slot(0, Former.GONE, New.SERVING), Slot(1), leaving=1)) == ()


def test_a_spec_that_permits_none_beside_is_replaced_one_after_the_other_whatever_room_there_is() -> None:
    slots = Slot(0), Slot(1)
    assert decide(view(*slots, beside=False, room=9)) == (Drain(0, NOT_BESIDE),)


def test_a_spec_that_permits_none_beside_waits_until_those_of_an_earlier_change_have_ended() -> None:
    for slot in (Slot(0), Slot(0, Former.DOWN), Slot(0, Former.DRAINING)):
        assert decide(view(slot, beside=False, room=9, leaving=1)) == ()
        assert decide(view(slot, beside=False, room=9)) != ()


def test_a_worker_that_is_not_up_is_started_anew_after_those_that_serve() -> None:
    assert decide(view(Slot(0, Former.DOWN), Slot(1), room=2)) == (Begin(1),)
    served = Slot(1, Former.GONE, New.SERVING)
    assert decide(view(Slot(0, Former.DOWN), served, room=2)) == (Replace(0),)
    downs = Slot(0, Former.DOWN), Slot(1, Former.DOWN)
    assert decide(view(*downs)) == (Replace(0), Replace(1))


def test_a_change_that_goes_on_after_a_start_waits_for_the_former_workers_and_not_for_failed_ones() -> None:
    assert decide(view(Slot(0, Former.COMING), Slot(1), room=5)) == ()
    assert decide(view(Slot(0, Former.COMING), is_revoked=True)) == (TakeBack(),)
    assert decide(view(Slot(0), Slot(1), room=5)) == (Begin(0), Begin(1))


def test_a_share_holds_until_the_rest_is_asked_for() -> None:
    slots = tuple(map(Slot, range(4)))
    assert decide(view(*slots, room=9, share=0.5)) == (Begin(0), Begin(1))
    new = tuple(Slot(n, Former.GONE, New.SERVING) for n in range(2))
    assert decide(view(*new, *slots[2:], room=9, share=0.5)) == (Hold(),)
    assert decide(view(*new, *slots[2:], room=9)) == (Begin(2), Begin(3))


def test_a_share_leaves_a_former_worker_and_takes_at_least_one() -> None:
    slots = tuple(map(Slot, range(3)))
    assert decide(view(*slots, room=9, share=0.99)) == (Begin(0), Begin(1))
    assert decide(view(*slots, room=9, share=0.01)) == (Begin(0),)


def test_a_change_of_workers_that_are_all_stopped_is_finished() -> None:
    assert decide(view(Slot(0, Former.GONE), share=0.5)) == (Finish(),)


# -- whole changes


@dataclass
class World:
    """The workers of one agent. `bad` is the slot whose new worker fails, `chance` decides what happens next."""

    chance: random.Random
    state: View
    total_room: int
    bad: int | None
    fails_smoke: bool
    leaving: list[int] = field(default_factory=list[int])
    """Tasks of each former worker that has been replaced."""
    log: list[object] = field(default_factory=list[object])
    tried: int = 0
    crashed: bool = False

    def room(self) -> int:
        beside = sum(
            slot.new in (New.COMING, New.SOUND) and slot.former in (Former.SERVING, Former.DRAINING, Former.DOWN)
            for slot in self.state.slots
        )
        return self.total_room - beside - len(self.leaving)

    def look(self) -> View:
        return replace(self.state, room=max(0, self.room()), leaving=len(self.leaving))

    def serving(self) -> int:
        return sum(slot.new is New.SERVING or slot.former is Former.SERVING for slot in self.state.slots)

    def put(self, number: int, **changes: object) -> None:
        slots = [replace(s, **changes) if s.number == number else s for s in self.state.slots]
        self.state = replace(self.state, slots=tuple(slots))

    def of(self, number: int) -> Slot:
        return next(slot for slot in self.state.slots if slot.number == number)

    def act(self, action: Action) -> None:
        self.log.append(action)
        if isinstance(action, Begin):
            slot = self.of(action.number)
            assert slot.former is Former.SERVING, "beside one that serves"
            assert slot.new is New.NONE, "never two new ones in a slot"
            assert self.state.beside
            self.put(action.number, new=New.COMING)
            assert self.room() >= 0, "more processes than there is room for"
        elif isinstance(action, Drain):
            assert not self.state.beside or self.room() <= 0, "it could have stayed"
            assert sum(s.former is Former.DRAINING for s in self.state.slots) == 0
            self.put(action.number, former=Former.DRAINING)
        elif isinstance(action, Replace):
            slot = self.of(action.number)
            assert slot.former is Former.DOWN or not slot.tasks, "a task was cut"
            self.put(action.number, former=Former.GONE, new=New.COMING)
        elif isinstance(action, Try):
            assert self.of(action.number).new is New.SOUND
            assert not self.tried, "it is tried once"
            self.tried += 1
            self.state = replace(self.state, smoke=Smoke.RUNNING)
        elif isinstance(action, Switch):
            assert self.state.smoke in (Smoke.NONE, Smoke.PASSED), "not tried"
            for number in action.numbers:
                slot = self.of(number)
                assert slot.new is New.SOUND, "a task for a worker that is not sound"
                if slot.former is not Former.GONE:
                    self.leaving.append(slot.tasks)
                self.put(number, former=Former.GONE, new=New.SERVING)

    def live(self) -> None:
        """One thing happens that does not depend on the change."""
        chances: list[tuple[str, int]] = []
        for slot in self.state.slots:
            if slot.new is New.COMING:
                chances.append(("up", slot.number))
            if slot.tasks and slot.former is not Former.GONE:
                chances.append(("done", slot.number))
            if slot.former is Former.SERVING and not slot.tasks:
                chances.append(("task", slot.number))
        if self.state.smoke is Smoke.RUNNING:
            chances.append(("smoked", 0))
        chances += [("left", n) for n in range(len(self.leaving))]
        if not chances:
            return
        what, number = self.chance.choice(chances)
        self.log.append((what, number))
        if what == "up":
            new = New.FAILED if number == self.bad else New.SOUND
            self.put(number, new=new)
        elif what == "done":
            self.put(number, tasks=0)
        elif what == "task":
            if self.chance.random() < 0.25:
                self.put(number, tasks=1)
        elif what == "smoked":
            self.state = replace(self.state, smoke=Smoke.FAILED if self.fails_smoke else Smoke.PASSED)
        else:
            del self.leaving[number]

    def crash(self) -> None:
        """A former worker dies, or is stopped by somebody."""
        candidates = [s.number for s in self.state.slots if s.former is Former.SERVING]
        if candidates:
            number = self.chance.choice(candidates)
            if self.of(number).new is not New.NONE:
                return  # what has a new worker is about to be switched
            is_stopped = self.chance.random() < 0.5
            self.crashed = True
            self.put(number, former=Former.GONE if is_stopped else Former.DOWN, tasks=0)


@pytest.mark.parametrize("seed", seeds(500))
def test_every_change_ends_and_nothing_is_cut_on_the_way(seed: int) -> None:
    chance = random.Random(seed)
    count, room = chance.randint(1, 6), chance.randint(0, 8)
    beside, crashes = chance.random() < 0.7, chance.random() < 0.3
    fault = chance.choice(["none", "none", "bad", "smoke", "bad smoke"])
    slots = tuple(Slot(n, tasks=chance.randint(0, 1)) for n in range(count))
    smoke = Smoke.DUE if "smoke" in fault or chance.random() < 0.5 else Smoke.NONE
    bad = chance.randrange(count) if "bad" in fault else None
    world = World(chance, View(slots, beside, smoke=smoke), room, bad, "smoke" in fault)
    end, switches = played(world, crashes)
    assert end is not None, world.log
    if isinstance(end, Finish):
        assert all(s.former is Former.GONE for s in world.state.slots)
        if beside and room >= count and not world.crashed:
            assert switches == 1, "two specs got tasks at a time"
    else:
        assert isinstance(end, TakeBack)
        assert bad is not None or world.fails_smoke
    if fault == "none":
        assert isinstance(end, Finish)


def played(world: World, crashes: bool) -> tuple[Action | None, int]:
    """Plays a change to its end; returns that, and the number of switches. Who serves is counted after each action."""
    count, switches = len(world.state.slots), 0
    is_beside = world.state.beside and world.total_room >= 1
    for _ in range(400):
        while actions := decide(world.look()):
            for action in actions:
                world.act(action)
                switches += isinstance(action, Switch)
                if isinstance(action, Finish | TakeBack | Hold):
                    return action, switches
            if not world.crashed:
                assert world.serving() >= count - (not is_beside), world.log
        if crashes and world.chance.random() < 0.1:
            world.crash()
        world.live()
    return None, switches
