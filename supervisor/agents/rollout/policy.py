"""Decides how the workers of one agent are replaced by those of another spec: `decide(view) -> (action, ...)`.

A view is all that there is to know; it is made again at every change of a worker, so that a stop, a crash, or another
number of workers needs no special case. A slot is a worker id: its former worker and its new one live beside each other
until the new one takes its place.

New workers are brought up beside the former ones, as many as there is room for. Those that are up and healthy take their
places together: from then on the former ones get no task. Where nothing may run beside, or there is no room, one worker
after the other gets no more tasks, finishes those that it has, and is started anew in its place.
"""

import enum
import math
from collections.abc import Sequence

from msgspec import Struct


class Former(enum.StrEnum):
    """Represents the worker of a slot before the change."""

    COMING = "coming"
    """It is being started, and the change waits until it is up, or has failed."""
    SERVING = "serving"
    """It is up."""
    DRAINING = "draining"
    """It is up and gets no more tasks, so that it can be started anew in its place."""
    DOWN = "down"
    """It is wanted, and not up: nothing is lost if it is started anew."""
    GONE = "gone"
    """It is not wanted, or has been replaced: there is nothing to be done for it."""


class New(enum.StrEnum):
    """Represents the worker of a slot after the change."""

    NONE = "none"
    """There is none yet."""
    COMING = "coming"
    """It was started; it is not up, or its health checks have not succeeded yet."""
    SOUND = "sound"
    """It is up and healthy, and gets no task yet."""
    SERVING = "serving"
    """It has the place, and gets tasks."""
    FAILED = "failed"
    """It has not come up, or has ended for good."""


class Smoke(enum.StrEnum):
    """Represents the smoke task: one task on one new worker, before any of them gets another."""

    NONE = "none"
    """None is asked for."""
    DUE = "due"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"


class Slot(Struct, frozen=True):
    """Represents one worker id; `tasks` counts what its former worker runs."""

    number: int
    former: Former = Former.SERVING
    new: New = New.NONE
    tasks: int = 0

    @property
    def is_pending(self) -> bool:
        """Returns True if its former worker is wanted, and nothing has been done for it."""
        return self.new is New.NONE and self.former in (Former.SERVING, Former.DOWN)


class View(Struct, frozen=True):
    """Represents one change under way.

    `beside` is False where the spec permits no two of its workers at a time. `room` is the number of further processes
    that may be started. `share` below 1 is the part of the workers that is replaced until the rest is asked for.
    `is_revoked` means that the change is to be taken back, whatever its state.
    """

    slots: tuple[Slot, ...]
    beside: bool = True
    room: int = 0
    leaving: int = 0
    share: float = 1.0
    smoke: Smoke = Smoke.NONE
    is_revoked: bool = False

    @property
    def has_failed(self) -> bool:
        """Returns True if the change is to be taken back."""
        is_bad = self.is_revoked or self.smoke is Smoke.FAILED
        return is_bad or any(slot.new is New.FAILED for slot in self.slots)


class Begin(Struct, frozen=True):
    """Starts a new worker beside the former one of a slot."""

    number: int


class Drain(Struct, frozen=True):
    """Gives the former worker of a slot no more tasks, so that it can be started anew; `reason` says why not beside."""

    number: int
    reason: str


class Replace(Struct, frozen=True):
    """Starts the worker of a slot anew, in its place; it gets no task before it is sound."""

    number: int


class Try(Struct, frozen=True):
    """Runs the smoke task on the new worker of a slot."""

    number: int


class Switch(Struct, frozen=True):
    """Gives new workers their places, all in the same instant."""

    numbers: tuple[int, ...]


class TakeBack(Struct, frozen=True):
    """Ends the change: the former spec is in force again."""


class Hold(Struct, frozen=True):
    """Reports that the share is replaced: the rest waits to be asked for."""


class Finish(Struct, frozen=True):
    """Ends the change: every worker has the new spec."""


Action = Begin | Drain | Replace | Try | Switch | TakeBack | Hold | Finish

NOT_BESIDE = "no two of its workers may run at a time"
NO_ROOM = "there is no room for a worker beside"


def decide(view: View) -> tuple[Action, ...]:
    """Returns what is to be done now; nothing where the change waits for its workers."""
    if view.has_failed:
        return (TakeBack(),)
    if any(slot.former is Former.COMING for slot in view.slots):
        return ()
    chosen = part(view.slots, view.share)
    if all(slot.new is New.SERVING for slot in chosen):
        return (Hold(),) if chosen and view.share < 1.0 else (Finish(),)
    begun = _begun(view, chosen)
    if begun:
        return begun
    sound = tuple(slot.number for slot in chosen if slot.new is New.SOUND)
    if sound and view.smoke is Smoke.DUE:
        return (Try(sound[0]),)
    is_coming = any(slot.new is New.COMING for slot in chosen)
    if sound and not is_coming and view.smoke in (Smoke.NONE, Smoke.PASSED):
        return (Switch(sound),)
    return ()


def part(slots: Sequence[Slot], share: float) -> tuple[Slot, ...]:
    """Returns the slots that are to be replaced now: a share below 1 leaves at least one former worker, if there are two."""
    concerned = tuple(s for s in slots if s.former is not Former.GONE or s.new is not New.NONE)
    if share >= 1.0:
        return concerned
    return concerned[: min(max(1, len(concerned) - 1), max(1, math.ceil(share * len(concerned))))]


def _begun(view: View, chosen: Sequence[Slot]) -> tuple[Action, ...]:
    """Returns the workers to be brought up now: first in place of those that serve, then in place of those that do not."""
    if not view.beside and view.leaving:
        return ()  # one of an earlier change would run beside them
    ready = tuple(
        Replace(slot.number)
        for slot in chosen
        if slot.former is Former.DRAINING and slot.new is New.NONE and not slot.tasks
    )
    serving = [s.number for s in chosen if s.is_pending and s.former is Former.SERVING]
    if serving and view.beside and view.room > 0:
        return (*ready, *(Begin(number) for number in serving[: view.room]))
    is_busy = any(slot.new in (New.COMING, New.SOUND) for slot in chosen)
    is_busy = is_busy or any(slot.former is Former.DRAINING for slot in chosen)
    is_busy = is_busy or (view.beside and view.leaving > 0 and bool(serving))
    if serving:
        reason = NO_ROOM if view.beside else NOT_BESIDE
        return ready if is_busy else (*ready, Drain(serving[0], reason))
    down = [s.number for s in chosen if s.is_pending and s.former is Former.DOWN]
    return ready if is_busy else (*ready, *map(Replace, down))
