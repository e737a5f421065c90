"""Decides which process of an MCP server takes a call, and whether the rate limit permits it.

Values in, a decision out: it must not know a process, a session or a clock. Where a server is shared by all, the least
loaded process is chosen. Where it is not, a process is leased to one sharer for its incarnation, and to another one
only after a restart, so that no sharer sees the state of another.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal

import msgspec

Share = Literal["all", "tenant", "agent"]
"""The unit that has processes of its own: none, each tenant, or each agent (or client)."""

MINUTE_S = 60.0


class Phase(IntEnum):
    """Orders the states of a process by its availability."""

    UP = 0  # a call can be sent
    COMING = 1  # it is being started, or waits for its next start
    DOWN = 2  # it is started by a call
    HELD = 3  # it finishes its calls and is replaced in its place: others wait for that
    LOST = 4  # it cannot be called: it has failed for good, is paused, or is being removed


class Place(msgspec.Struct, frozen=True):
    """Represents one process of a server as input of `choose`, in the order of the process numbers.

    `load` counts calls that run or wait there; `is_free` is True if this call would not have to wait.
    `life` is the number of its incarnation, `leased_in` the one in which `sharer` was served last; `rested_at` is
    the time at which its last call ended, on any clock.
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
        """Returns the sharer that has calls there or was served by this incarnation; None if it is unleased."""
        is_marked = self.phase in (Phase.UP, Phase.HELD) and self.life == self.leased_in
        return self.sharer if self.load > 0 or is_marked else None


class Use(msgspec.Struct, frozen=True):
    """Assigns the call to the process of this number, which is started if needed.

    `also` is another process to start, because there is work for it or no spare process is up.
    """

    number: int
    also: int | None = None


class Renew(msgspec.Struct, frozen=True):
    """Assigns the call to the process of this number after a restart, because it was leased to another sharer."""

    number: int


class Grow(msgspec.Struct, frozen=True):
    """Assigns the call to an additional process."""


class Wait(msgspec.Struct, frozen=True):
    """Makes the call wait: all permitted processes are in use by others."""


Decision = Use | Renew | Grow | Wait


def choose(places: Sequence[Place], *, share: Share, sharer: str, spares: int, maximum: int) -> Decision:
    """Decides which process takes a call."""
    if share != "all":
        return _leased(places, sharer, maximum)
    return _least_loaded(places, spares)


def _least_loaded(places: Sequence[Place], spares: int) -> Decision:
    """Chooses among the processes not in reserve; those that are up come first, so that a spare replaces one that is down."""
    usable = _usable(places)
    if not usable:
        return _nothing(places)
    usable.sort(key=lambda n: places[n].phase)  # stable: by number within a phase
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
    """Orders processes: one that takes the call now, then one that has to be started, then one with a queue."""
    if place.phase is Phase.UP:
        return (0 if place.is_free else 2, place.load)
    return (1, place.load)


def _leased(places: Sequence[Place], sharer: str, maximum: int) -> Decision:
    """Prefers the sharer's process, then an unleased one, then a new one, then the least recently used lease."""
    usable = _usable(places)
    own = [n for n in usable if places[n].owner == sharer]
    if own:
        return Use(min(own, key=lambda n: places[n].load))
    if any(place.phase is Phase.HELD and place.owner == sharer for place in places):
        return Wait()
    fresh = [n for n in usable if places[n].owner is None]
    if fresh:
        return Use(min(fresh, key=lambda n: places[n].phase))
    if len(places) < maximum:
        return Grow()
    idle = [n for n in usable if places[n].load == 0]
    if idle:
        return Renew(min(idle, key=lambda n: places[n].rested_at))
    return Wait() if usable else _nothing(places)


def _usable(places: Sequence[Place]) -> list[int]:
    return [n for n, place in enumerate(places) if place.phase not in (Phase.HELD, Phase.LOST)]


def _nothing(places: Sequence[Place]) -> Decision:
    """Decides where no process can take a call now: one that is held is waited for."""
    is_held = any(place.phase is Phase.HELD for place in places)
    return Wait() if is_held else Use(0)  # its own error states the cause


class Allowance(msgspec.Struct, frozen=True):
    """Represents a token bucket: the calls permitted at a time on the monotonic clock."""

    calls: float
    at: float


def allow(allowance: Allowance | None, per_minute: int, now: float) -> tuple[Allowance, float]:
    """Returns the allowance after one call, and 0; or the unchanged one, and the seconds until a call is permitted.

    After a pause the calls of a whole minute are permitted at once, then as many as the bucket has gained since.
    """
    calls = float(per_minute) if allowance is None else gained(allowance, per_minute, now)
    if calls >= 1.0:
        return Allowance(calls - 1.0, now), 0.0
    return Allowance(calls, now), (1.0 - calls) * MINUTE_S / per_minute


def gained(allowance: Allowance, per_minute: int, now: float) -> float:
    """Returns the number of calls that are permitted now."""
    return min(float(per_minute), allowance.calls + max(0.0, now - allowance.at) * per_minute / MINUTE_S)
