"""Which process of an MCP server takes a call, and how many calls it takes at all: values in, a decision out.

It knows no process, no session and no clock. Where a server is shared by all, the least loaded process is the
one. Where it is not, a process belongs to one sharer for as long as it lives, and goes to another one
only after a new start, so that nobody meets what another has left in it.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal

import msgspec

Share = Literal["all", "tenant", "agent"]
"""Who has processes of its own: nobody, each tenant, or each agent (or client)."""

MINUTE_S = 60.0


class Phase(IntEnum):
    """What can be had of a process: the earlier ones sooner."""

    UP = 0
    """A call can be sent."""
    COMING = 1
    """It is being started, or waits for its next start."""
    DOWN = 2
    """It is started when it is called."""
    LOST = 3
    """It cannot be called: it gave up, is paused, or is leaving."""


class Place(msgspec.Struct, frozen=True):
    """One process of a server, as the choice sees it; places stand in the order of their numbers.

    `load` counts calls that run or wait there; `is_free` says that a call like this one would not have to wait.
    `life` is the number of its incarnation, `leased_in` that in which `sharer` was served last; `rested_at` is
    when it ended its last call, on any clock.
    """

    phase: Phase
    load: int = 0
    is_free: bool = True
    life: int = 0
    sharer: str | None = None
    leased_in: int = -1
    rested_at: float = 0.0

    @property
    def owner(self) -> str | None:
        """Whose it is: whoever has calls there, or was served by this life of it."""
        is_marked = self.phase is Phase.UP and self.life == self.leased_in
        return self.sharer if self.load > 0 or is_marked else None


class Use(msgspec.Struct, frozen=True):
    """The process of this number takes the call, and is started if need be.

    `also` is one that is to be started beside, since there is work for it or nobody is in reserve.
    """

    number: int
    also: int | None = None


class Renew(msgspec.Struct, frozen=True):
    """The process of this number is restarted for the call, since it was another's."""

    number: int


class Grow(msgspec.Struct, frozen=True):
    """One more process takes the call."""


class Wait(msgspec.Struct, frozen=True):
    """All that may be are in use by others."""


Decision = Use | Renew | Grow | Wait


def choose(
    places: Sequence[Place],
    *,
    share: Share,
    sharer: str,
    spares: int,
    maximum: int,
) -> Decision:
    """What to do with one call.

    Args:
        places: the processes that there are.
        share: who has processes of its own.
        sharer: whose call it is; of no meaning where all share.
        spares: how many of the processes are held in reserve while the others are up.
        maximum: how many there may be.
    """
    if share != "all":
        return _leased(places, sharer, maximum)
    return _least_loaded(places, spares)


def _least_loaded(places: Sequence[Place], spares: int) -> Decision:
    """Among as many as are not in reserve: those that are up come first, so that a spare replaces one that is down."""
    usable = [n for n, place in enumerate(places) if place.phase is not Phase.LOST]
    if not usable:
        return Use(0)  # its own error says why
    usable.sort(key=lambda n: places[n].phase)  # of one phase in the order of numbers
    active = usable[: max(1, len(places) - spares)]
    number = min(active, key=lambda n: _cost(places[n]))
    down = [n for n in usable if places[n].phase is Phase.DOWN and n != number]
    if not down:
        return Use(number)
    alive = len(usable) - len(down)
    is_work_left = places[number].load > 0 and down[0] in active
    is_reserve_missing = spares > 0 and alive <= spares
    return Use(number, down[0] if is_work_left or is_reserve_missing else None)


def _cost(place: Place) -> tuple[int, int]:
    """One that is up and takes the call now, then one that has to be started, then one with a queue."""
    if place.phase is Phase.UP:
        return (0 if place.is_free else 2, place.load)
    return (1, place.load)


def _leased(places: Sequence[Place], sharer: str, maximum: int) -> Decision:
    """Its own; else one that is nobody's, else one more, else that of whoever has needed his least of late."""
    usable = [n for n, place in enumerate(places) if place.phase is not Phase.LOST]
    own = [n for n in usable if places[n].owner == sharer]
    if own:
        return Use(min(own, key=lambda n: places[n].load))
    fresh = [n for n in usable if places[n].owner is None]
    if fresh:
        return Use(min(fresh, key=lambda n: places[n].phase))
    if len(places) < maximum:
        return Grow()
    idle = [n for n in usable if places[n].load == 0]
    if idle:
        return Renew(min(idle, key=lambda n: places[n].rested_at))
    return Wait() if usable else Use(0)  # its own error says why


class Allowance(msgspec.Struct, frozen=True):
    """How many calls may be made as of a time on the monotonic clock: a bucket that fills evenly."""

    calls: float
    at: float


def allow(allowance: Allowance | None, per_minute: int, now: float) -> tuple[Allowance, float]:
    """The allowance after one call, and 0; or as it is, and in how many seconds one may be made.

    After a rest the calls of a minute may be made at once, then as many as the bucket has got since.
    """
    rate = per_minute / MINUTE_S
    calls = float(per_minute)
    if allowance is not None:
        calls = min(calls, allowance.calls + max(0.0, now - allowance.at) * rate)
    if calls >= 1.0:
        return Allowance(calls - 1.0, now), 0.0
    return Allowance(calls, now), (1.0 - calls) / rate
