"""How the workers of one agent are to start, as a function: `step(warmth, event, now) -> (warmth, actions)`.

A zygote is loaded once somebody wants a worker; while it loads, the workers wait; when it is fit, they are its
forks. What cannot be forked, or cannot be imported, starts cold, and it is said why. A renewal loads a new zygote
beside the old one: forks come from the old one until the new one is loaded, and from then on workers of earlier
zygotes are replaced, as `turn` says, while the old one forks no more and ends with its last worker.

Zygotes are numbers here, which rise and never repeat. What is told of one that is neither `current` nor `coming`
came too late, and changes nothing.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

LOSSES = 5
"""A zygote that was lost so often in a row is not started again by itself."""

STEADY_S = 60.0
"""A zygote that has lived for so long forgets the losses before it, and a quiet agent its renewals."""

AGAIN_S = (1.0, 30.0)
"""Before a lost zygote is loaded again, for the second time and at most; the first time it is at once."""

FAILURES = 3
"""So many loads in a row that failed: that a cold worker came up is no reason to try again any more."""

DAMPING_S = (0.5, 15.0)
"""Between two renewals for which nobody asked: the first pause, doubled with each, to the last."""

SPARE_S = (0.5, 30.0)
"""Before a spare is forked in place of one that died: the first pause, doubled with each, to the last."""

SHARE = 4
"""Of so many workers one is replaced at a time."""


class Phase(enum.StrEnum):
    """How workers start now."""

    ABSENT = "absent"
    """Nobody wants one."""
    LOADING = "loading"
    """They wait for a zygote."""
    WARM = "warm"
    """As forks."""
    RENEWING = "renewing"
    """As forks, and another zygote is being loaded."""
    RESTING = "resting"
    """Cold, since the zygote was lost; another is loaded when that is due."""
    COLD = "cold"
    """Cold, until there is a reason to try again."""


class Warmth(Struct, frozen=True):
    """What one agent's workers start from.

    `serial` is the number that was given last; forks come from `current`, `coming` is being loaded. `reason` says
    why the workers start cold or, while there is a `current`, why the last renewal failed. `cause` is what has
    changed since earlier workers began, `again` what has changed since `coming` was started or `due` was set, ""
    for nothing. `hopes` says that a cold worker that comes up is a reason to load again. `losses` and `failures`
    are counted in a row. `loaded_at` is when `current` was loaded, `settled_at` when it last was clear how a load
    went, `pause_s` the pause between two renewals, `due` when the next Tick is.
    """

    phase: Phase = Phase.ABSENT
    serial: int = 0
    current: int | None = None
    coming: int | None = None
    reason: str = ""
    cause: str = ""
    again: str = ""
    hopes: bool = False
    losses: int = 0
    failures: int = 0
    loaded_at: float = 0.0
    settled_at: float = 0.0
    pause_s: float = 0.0
    due: float | None = None

    @property
    def is_looking(self) -> bool:
        """Whether `current` is asked if it has read what has changed while it was loaded."""
        return self.phase is Phase.WARM and bool(self.again) and self.due is None

    @property
    def is_settled(self) -> bool:
        """Whether nothing is being read."""
        return self.coming is None and not self.is_looking


# -- events


class Wanted(Struct, frozen=True):
    """Somebody wants a worker."""


class Unwanted(Struct, frozen=True):
    """Nobody wants a worker, and none is left."""


class OptedOut(Struct, frozen=True):
    """Its workers are to start cold from now on; those that are forks live on."""


class Loaded(Struct, frozen=True):
    """A zygote has imported all; `unfit` says what of that forbids to fork, "" for nothing."""

    number: int
    unfit: str = ""


class Failed(Struct, frozen=True):
    """A zygote could not be started, or could not import; `lacking` when the machine lacked something for now."""

    number: int
    reason: str
    lacking: bool = False


class Lost(Struct, frozen=True):
    """A zygote has died."""

    number: int
    reason: str


class Changed(Struct, frozen=True):
    """What was imported is another now; `urgent` when somebody waits for it, and no pause is made."""

    reason: str
    urgent: bool = False


class Unchanged(Struct, frozen=True):
    """A zygote has read what is there now; the answer to Look."""

    number: int


class Remade(Struct, frozen=True):
    """A zygote would be started differently now, so that no worker may be forked from those there are."""


class ColdUp(Struct, frozen=True):
    """A worker that was started cold is up."""


class Tick(Struct, frozen=True):
    """It may be due."""


Event = (
    Wanted
    | Unwanted
    | OptedOut
    | Loaded
    | Failed
    | Lost
    | Changed
    | Unchanged
    | Remade
    | ColdUp
    | Tick
)

# -- actions


class Load(Struct, frozen=True):
    """Start a zygote; answer with Loaded, Failed or Lost."""

    number: int


class Look(Struct, frozen=True):
    """Find out whether it has read what is there now; answer with Changed or Unchanged."""

    number: int


class Retire(Struct, frozen=True):
    """It forks no more, and ends with its last worker."""

    number: int


class End(Struct, frozen=True):
    """It is killed at once: it has no worker."""

    number: int


class Roll(Struct, frozen=True):
    """The workers that are not of `number`, or that began cold before it was loaded, are replaced one after the other."""

    number: int
    reason: str


class Tell(Struct, frozen=True):
    """Publish it: forks from now on, cold starts from now on, or how a renewal went."""

    what: Literal["warm", "cold", "renewed", "kept"]
    reason: str


Action = Load | Look | Retire | End | Roll | Tell

Step = tuple[Warmth, list[Action]]


def step(warmth: Warmth, event: Event, now: float) -> Step:
    """What there is after the event, and what is to be done, in order."""
    return _HANDLERS[type(event)](warmth, event, now)


def doubled_s(bounds: tuple[float, float], earlier: int) -> float:
    """The wait in seconds after so many failures in a row: it doubles up to the last bound."""
    return min(bounds[0] * 2.0 ** min(earlier, 32), bounds[1])


# -- what is wanted


def _wanted(warmth: Warmth, _: Wanted, now: float) -> Step:
    if warmth.phase is not Phase.ABSENT:
        return warmth, []
    return _load(warmth)


def _unwanted(warmth: Warmth, _: Unwanted, now: float) -> Step:
    ends: list[Action] = [End(n) for n in (warmth.coming, warmth.current) if n is not None]
    return Warmth(serial=warmth.serial), ends


def _opted_out(warmth: Warmth, _: OptedOut, now: float) -> Step:
    return Warmth(serial=warmth.serial), _let_go(warmth)


def _let_go(warmth: Warmth) -> list[Action]:
    actions: list[Action] = []
    if warmth.coming is not None:
        actions.append(End(warmth.coming))
    if warmth.current is not None:
        actions.append(Retire(warmth.current))
    return actions


def _load(warmth: Warmth, cause: str = "") -> Step:
    number = warmth.serial + 1
    phase = Phase.LOADING if warmth.current is None else Phase.RENEWING
    loading = replace(
        warmth,
        phase=phase,
        serial=number,
        coming=number,
        cause=cause or warmth.cause,
        again="",
        due=None,
    )
    return loading, [Load(number)]


# -- what becomes of a zygote


def _loaded(warmth: Warmth, event: Loaded, now: float) -> Step:
    if event.number != warmth.coming:
        return warmth, []
    if event.unfit:
        return _unfit(warmth, event, now)
    warm = replace(
        warmth,
        phase=Phase.WARM,
        current=event.number,
        coming=None,
        reason="",
        cause="",
        failures=0,
        hopes=False,
        loaded_at=now,
    )
    actions: list[Action] = []
    if warmth.current is not None:
        actions.append(Retire(warmth.current))
    actions.append(Tell("renewed", warmth.cause) if warmth.cause else Tell("warm", ""))
    if warmth.cause or warmth.again:  # who began earlier has not read it
        actions.append(Roll(event.number, warmth.cause or warmth.again))
    if warmth.again:  # perhaps it has read that already
        actions.append(Look(event.number))
    return replace(warm, settled_at=now), actions


def _unfit(warmth: Warmth, event: Loaded, now: float) -> Step:
    actions: list[Action] = [End(event.number)]
    if warmth.current is not None:  # its workers run what was read before
        actions.append(Retire(warmth.current))
    actions.append(Tell("cold", event.unfit))
    if warmth.cause or warmth.again:
        actions.append(Roll(event.number, warmth.cause or warmth.again))
    cold = replace(warmth, phase=Phase.COLD, current=None, coming=None, reason=event.unfit)
    return _settle(replace(cold, cause="", failures=0, hopes=False), actions, now)


def _failed(warmth: Warmth, event: Failed, now: float) -> Step:
    if event.number != warmth.coming:
        return warmth, []
    failures = warmth.failures + 1
    failed = replace(warmth, coming=None, reason=event.reason, failures=failures)
    due = now + doubled_s(AGAIN_S, failures - 1)
    if warmth.current is not None:
        kept = replace(failed, phase=Phase.WARM, settled_at=now)
        if event.lacking:  # nothing is wrong with what was to be read
            again = warmth.again or warmth.cause
            return replace(kept, again=again, due=due), _told(warmth, "kept", event.reason)
        return _settle(kept, [Tell("kept", event.reason)], now)
    if event.lacking:
        resting = replace(failed, phase=Phase.RESTING, due=due)
        return _settle(resting, _told(warmth, "cold", event.reason), now)
    cold = replace(failed, phase=Phase.COLD, hopes=failures < FAILURES)
    return _settle(cold, _told(warmth, "cold", event.reason), now)


def _told(before: Warmth, what: Literal["cold", "kept"], reason: str) -> list[Action]:
    """One event for all that fail in a row for one reason."""
    return [] if before.failures and before.reason == reason else [Tell(what, reason)]


def _settle(warmth: Warmth, actions: list[Action], now: float) -> Step:
    """After a load that came to nothing: what has changed meanwhile is loaded."""
    settled = replace(warmth, settled_at=now)
    if not warmth.again:
        return settled, actions
    after, more = _changed(replace(settled, again=""), Changed(warmth.again), now)
    return after, actions + more


def _lost(warmth: Warmth, event: Lost, now: float) -> Step:
    if event.number == warmth.coming:
        return _failed(warmth, Failed(event.number, event.reason), now)
    if event.number != warmth.current:
        return warmth, []
    steady = now - warmth.loaded_at >= STEADY_S
    losses = 1 if steady else warmth.losses + 1
    lost = replace(warmth, current=None, losses=losses)
    if warmth.phase is Phase.RENEWING:
        return replace(lost, phase=Phase.LOADING), []  # the workers wait for what is coming
    cause = warmth.again or warmth.cause
    lost = replace(lost, reason=event.reason, cause=cause, again="", due=None)
    if losses == 1:
        return _load(lost)
    if losses < LOSSES:
        due = now + doubled_s(AGAIN_S, losses - 2)
        return replace(lost, phase=Phase.RESTING, due=due), [Tell("cold", event.reason)]
    reason = f"its zygote died {losses} times in a row: {event.reason}"
    cold = replace(lost, phase=Phase.COLD, reason=reason, hopes=False)
    return cold, [Tell("cold", reason)]


# -- reasons to load again


def _changed(warmth: Warmth, event: Changed, now: float) -> Step:
    if warmth.phase is Phase.ABSENT:
        return warmth, []
    if warmth.coming is not None:
        # It may have read what was there before. Who waits for it is not to wait for a pause, too.
        pause_s = 0.0 if event.urgent else warmth.pause_s
        return replace(warmth, again=event.reason, pause_s=pause_s), []
    fresh = replace(warmth, losses=0, failures=0)
    if warmth.current is None:
        return _load(fresh, event.reason)
    since_s = now - warmth.settled_at
    if event.urgent or since_s >= STEADY_S + warmth.pause_s:
        return _load(replace(fresh, pause_s=0.0), event.reason)
    if since_s < warmth.pause_s:
        return replace(warmth, again=event.reason, due=warmth.settled_at + warmth.pause_s), []
    return _renew_by_itself(fresh, event.reason)


def _unchanged(warmth: Warmth, event: Unchanged, now: float) -> Step:
    if event.number != warmth.current or not warmth.is_looking:
        return warmth, []
    return replace(warmth, again=""), []


def _renew_by_itself(warmth: Warmth, cause: str) -> Step:
    longer_s = min(max(DAMPING_S[0], 2 * warmth.pause_s), DAMPING_S[1])
    return _load(replace(warmth, pause_s=longer_s), cause)


def _remade(warmth: Warmth, _: Remade, now: float) -> Step:
    if warmth.phase is Phase.ABSENT:
        return warmth, []
    # Who runs what was written before is of none that is known from now on.
    after, actions = _load(Warmth(serial=warmth.serial), warmth.again or warmth.cause)
    return after, _let_go(warmth) + actions


def _cold_up(warmth: Warmth, _: ColdUp, now: float) -> Step:
    if warmth.phase is not Phase.COLD or not warmth.hopes:
        return warmth, []
    return _load(warmth)


def _tick(warmth: Warmth, _: Tick, now: float) -> Step:
    if warmth.due is None or now < warmth.due:
        return warmth, []
    if warmth.phase is Phase.RESTING:
        return _load(warmth)
    assert warmth.phase is Phase.WARM, "nothing else has a time"
    return _renew_by_itself(warmth, warmth.again)


_HANDLERS: dict[type[Event], Callable[[Warmth, Any, float], Step]] = {  # each by its event's type
    Wanted: _wanted,
    Unwanted: _unwanted,
    OptedOut: _opted_out,
    Loaded: _loaded,
    Failed: _failed,
    Lost: _lost,
    Changed: _changed,
    Unchanged: _unchanged,
    Remade: _remade,
    ColdUp: _cold_up,
    Tick: _tick,
}

# -- one worker after the other


class Aged(Struct, frozen=True):
    """A worker that is to be replaced. `tasks` is how many it has, `withheld` that it is given no more."""

    id: str
    tasks: int
    withheld: bool = False


class Turn(Struct, frozen=True):
    """Who is to be replaced now, and who is to be given no more tasks until it can be."""

    replaced: tuple[str, ...]
    withheld: frozenset[str]


def turn(aged: Sequence[Aged], *, workers: int, coming: int, slots: int) -> Turn:
    """Whose turn it is: who has no task goes first, and no task is cut.

    Args:
        aged: those that are left to be replaced, and could be.
        workers: of the agent, in all.
        coming: how many were replaced, and are not up yet: a new one that does not come up holds up the others.
        slots: how many tasks one worker has at a time.
    """
    room = max(1, workers // SHARE) - coming
    if room <= 0:
        return Turn((), frozenset())
    idle = tuple(each.id for each in aged if not each.tasks)[:room]
    busy = [each for each in aged if each.tasks]
    # One that takes one task at a time is no loss before it has ended; of the others not all run dry at once.
    most = len(busy) if slots == 1 else max(1, workers // 2)
    first = sorted(busy, key=lambda each: (not each.withheld, each.tasks))
    withheld = {each.id for each in first[: max(0, most - len(idle))]}
    return Turn(idle, frozenset(withheld) | frozenset(idle))
