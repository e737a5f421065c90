"""Decides how the workers of one agent start: `step(warmth, event, now) -> (warmth, actions)`.

A zygote is loaded once a worker is wanted; while it loads, the workers wait; when it is fit, they are its
forks. Code that cannot be forked, or cannot be imported, starts cold, with the reason. A renewal loads a new zygote
beside the old one: forks come from the old one until the new one is loaded, and from then on workers of earlier
zygotes are replaced, as `turn` says, while the old one forks no more and ends with its last worker.

Zygotes are numbers here, which rise and never repeat. An event about one that is neither `current` nor `coming`
is late, and changes nothing.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

LOSSES = 5
"""Number of losses in a row after which a zygote is not loaded again by itself."""

STEADY_S = 60.0
"""Seconds of life that clear the losses before a zygote; seconds of quiet that clear the pause between renewals."""

AGAIN_S = (1.0, 30.0)
"""Seconds before a lost zygote is loaded again, for the second time and at most; the first time it is at once."""

FAILURES = 3
"""Number of failed loads in a row after which a cold worker that comes up causes no further attempt."""

DAMPING_S = (0.5, 15.0)
"""Seconds between two automatic renewals: the first pause, doubled with each, to the last."""

SPARE_S = (0.5, 30.0)
"""Seconds before a spare is forked in place of one that died: the first pause, doubled with each, to the last."""

SHARE = 4
"""One worker of so many is replaced at a time."""


class Phase(enum.StrEnum):
    """Represents the way in which workers start now."""

    ABSENT = "absent"
    """No worker is wanted."""
    LOADING = "loading"
    """Workers wait for a zygote."""
    WARM = "warm"
    """Workers start as forks."""
    RENEWING = "renewing"
    """Workers start as forks, and another zygote is being loaded."""
    RESTING = "resting"
    """Workers start cold, because the zygote was lost; another is loaded when that is due."""
    COLD = "cold"
    """Workers start cold, until there is a reason to try again."""


class Warmth(Struct, frozen=True):
    """Holds the state of the zygotes of one agent.

    `serial` is the last number given; forks come from `current`, `coming` is being loaded. `reason` tells
    why the workers start cold or, while there is a `current`, why the last renewal failed. `cause` is the change
    since earlier workers began, `again` the change since `coming` was started or `due` was set, ""
    for none. `hopes` means that a cold worker that comes up is a reason to load again. `losses` and `failures`
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
        """Returns True while `current` is checked for changes during its load."""
        return self.phase is Phase.WARM and bool(self.again) and self.due is None

    @property
    def is_settled(self) -> bool:
        """Returns True if no load or check is under way."""
        return self.coming is None and not self.is_looking


# -- events


class Wanted(Struct, frozen=True):
    """Reports that a worker is wanted."""


class Unwanted(Struct, frozen=True):
    """Reports that no worker is wanted, and none is left."""


class OptedOut(Struct, frozen=True):
    """Requests that workers start cold from now on; existing forks live on."""


class Loaded(Struct, frozen=True):
    """Reports that a zygote has imported everything; `unfit` names obstacles to forking, "" for none."""

    number: int
    unfit: str = ""


class Failed(Struct, frozen=True):
    """Reports that a zygote could not start or import; `lacking` for a temporary lack of resources."""

    number: int
    reason: str
    lacking: bool = False


class Lost(Struct, frozen=True):
    """Reports that a zygote has died."""

    number: int
    reason: str


class Changed(Struct, frozen=True):
    """Reports that imported sources have changed; `urgent` if a caller waits, so that no pause is made."""

    reason: str
    urgent: bool = False


class Unchanged(Struct, frozen=True):
    """Reports that a zygote has imported the present sources; answers Look."""

    number: int


class Remade(Struct, frozen=True):
    """Reports that a zygote would start differently now, so that the existing ones must not fork."""


class ColdUp(Struct, frozen=True):
    """Reports that a worker that was started cold is up."""


class Tick(Struct, frozen=True):
    """Reports that `due` may have come."""


Event = Wanted | Unwanted | OptedOut | Loaded | Failed | Lost | Changed | Unchanged | Remade | ColdUp | Tick

# -- actions


class Load(Struct, frozen=True):
    """Starts a zygote; the shell answers with Loaded, Failed or Lost."""

    number: int


class Look(Struct, frozen=True):
    """Compares its imports with the present sources; the shell answers with Changed or Unchanged."""

    number: int


class Retire(Struct, frozen=True):
    """Retires a zygote: it forks no more, and ends with its last worker."""

    number: int


class End(Struct, frozen=True):
    """Kills a zygote at once: it has no worker."""

    number: int


class Roll(Struct, frozen=True):
    """Replaces workers that are no forks of `number`, or began cold before it was loaded, one after the other."""

    number: int
    reason: str


class Announce(Struct, frozen=True):
    """Publishes a change: forks or cold starts from now on, or the result of a renewal."""

    change: Literal["warm", "cold", "renewed", "kept"]
    reason: str


Action = Load | Look | Retire | End | Roll | Announce

Step = tuple[Warmth, list[Action]]


def step(warmth: Warmth, event: Event, now: float) -> Step:
    """Returns the state after the event, and the actions in order."""
    return _HANDLERS[type(event)](warmth, event, now)


def doubled_s(bounds: tuple[float, float], earlier: int) -> float:
    """Returns the seconds to wait after a number of failures in a row: doubled each time, up to the last bound."""
    return min(bounds[0] * 2.0 ** min(earlier, 32), bounds[1])


# -- wanted workers


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
        warmth, phase=phase, serial=number, coming=number, cause=cause or warmth.cause, again="", due=None
    )
    return loading, [Load(number)]


# -- reports about a zygote


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
    actions.append(Announce("renewed", warmth.cause) if warmth.cause else Announce("warm", ""))
    if warmth.cause or warmth.again:  # earlier workers have not imported it
        actions.append(Roll(event.number, warmth.cause or warmth.again))
    if warmth.again:  # it may have imported that already
        actions.append(Look(event.number))
    return replace(warm, settled_at=now), actions


def _unfit(warmth: Warmth, event: Loaded, now: float) -> Step:
    actions: list[Action] = [End(event.number)]
    if warmth.current is not None:  # its workers run the earlier sources
        actions.append(Retire(warmth.current))
    actions.append(Announce("cold", event.unfit))
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
        if event.lacking:  # the sources are not at fault
            again = warmth.again or warmth.cause
            return replace(kept, again=again, due=due), _announced(warmth, "kept", event.reason)
        return _settle(kept, [Announce("kept", event.reason)], now)
    if event.lacking:
        resting = replace(failed, phase=Phase.RESTING, due=due)
        return _settle(resting, _announced(warmth, "cold", event.reason), now)
    cold = replace(failed, phase=Phase.COLD, hopes=failures < FAILURES)
    return _settle(cold, _announced(warmth, "cold", event.reason), now)


def _announced(before: Warmth, change: Literal["cold", "kept"], reason: str) -> list[Action]:
    """Returns one announcement for all failures in a row for one reason."""
    return [] if before.failures and before.reason == reason else [Announce(change, reason)]


def _settle(warmth: Warmth, actions: list[Action], now: float) -> Step:
    """Concludes a load without a result: changes since its start cause another load."""
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
        return replace(lost, phase=Phase.LOADING), []  # the workers wait for the coming zygote
    cause = warmth.again or warmth.cause
    lost = replace(lost, reason=event.reason, cause=cause, again="", due=None)
    if losses == 1:
        return _load(lost)
    if losses < LOSSES:
        due = now + doubled_s(AGAIN_S, losses - 2)
        return replace(lost, phase=Phase.RESTING, due=due), [Announce("cold", event.reason)]
    reason = f"its zygote died {losses} times in a row: {event.reason}"
    return replace(lost, phase=Phase.COLD, reason=reason, hopes=False), [Announce("cold", reason)]


# -- reasons to load again


def _changed(warmth: Warmth, event: Changed, now: float) -> Step:
    if warmth.phase is Phase.ABSENT:
        return warmth, []
    if warmth.coming is not None:
        # It may have imported the earlier sources. A caller that waits must not wait for a pause, too.
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
    # Workers with the earlier settings belong to none of the zygotes known from now on.
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
    """A worker to be replaced, with the number of its `tasks`; a `withheld` one gets no more."""

    id: str
    tasks: int
    withheld: bool = False


class Turn(Struct, frozen=True):
    """Names the workers to be replaced now, and those that get no more tasks until they are."""

    replaced: tuple[str, ...]
    withheld: frozenset[str]


def turn(aged: Sequence[Aged], *, workers: int, coming: int, slots: int) -> Turn:
    """Selects the workers to be replaced next: idle ones first, so that no task is interrupted."""
    room = max(1, workers // SHARE) - coming
    if room <= 0:
        return Turn((), frozenset())
    idle = tuple(each.id for each in aged if not each.tasks)[:room]
    busy = [each for each in aged if each.tasks]
    # A worker with one slot costs no capacity before its task has ended; of others, at most half run dry at once.
    most = len(busy) if slots == 1 else max(1, workers // 2)
    first = sorted(busy, key=lambda each: (not each.withheld, each.tasks))
    withheld = {each.id for each in first[: max(0, most - len(idle))]}
    return Turn(idle, frozenset(withheld) | frozenset(idle))
