"""Decides how many workers an agent has between its minimum and maximum: a backlog adds, idleness removes.

Pure: the load of an agent and the time in, a decision out. Tasks that have waited for `up_after_s` without a free
place add as many workers as they need, at most doubling them at once. No worker is removed that was needed at any time
within the last `down_after_s`, so that a load that comes and goes does not move the number with it (hysteresis).
"""

from math import ceil, inf

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Spec

STEP_S = 1.0
"""Seconds between two additions: the effect of one is measured before the next."""


class Bounds(Struct, frozen=True):
    """Holds the configuration: `capacity` is the number of tasks of one worker at once, `down_after_s` 0 means never."""

    minimum: int
    maximum: int
    capacity: int
    up_after_s: float
    down_after_s: float


class Load(Struct, frozen=True):
    """Represents the load of an agent."""

    instances: int
    coming: int
    free: int
    running: int
    ready: int
    offered: int
    failing: str = ""
    room: float = inf
    unable: int = 0


class Scaling(Struct, frozen=True):
    """Holds the history of an agent's load.

    `needed` is the number of workers that it needs now; `peaks` are times until which more were needed, and how many:
    the newest last, the most first. `reported` is the published reason why it could not have more.
    """

    starved_since: float | None = None
    stepped_at: float = -inf
    needed: int = 0
    peaks: tuple[tuple[float, int], ...] = ()
    reported: str = ""


class Decision(Struct, frozen=True):
    """Represents the wanted number of workers, and why; the present number if more are needed but not possible."""

    instances: int
    reason: str


def bounds_of(spec: Spec) -> Bounds:
    """Returns the bounds of an agent's configuration."""
    return Bounds(
        spec.instances.minimum,
        spec.instances.maximum,
        spec.resources.max_concurrent_requests,
        spec.tasks.scale_up_after,
        spec.tasks.scale_down_after,
    )


def decide(scaling: Scaling, bounds: Bounds, load: Load, now: float) -> tuple[Scaling, Decision | None]:
    """Returns the decision for `now`, in seconds of the monotonic clock. One for fewer workers stands until it is carried out or the load is back."""
    scaling = _noted(scaling, bounds, load, now)
    if scaling.starved_since is not None:
        return _more(scaling, bounds, load, now)
    return scaling, _less(scaling, bounds, load) if load.offered == 0 else None


def deadline(scaling: Scaling, bounds: Bounds, load: Load) -> float | None:
    """Returns when `decide` is to be called again though nothing changes; None if a change has to come first."""
    if scaling.starved_since is not None:
        is_stuck = scaling.reported or _lacking(bounds, load) <= 0
        return None if is_stuck else _due(scaling, bounds, scaling.starved_since)
    able = load.instances - load.unable
    if bounds.down_after_s <= 0 or load.offered or able <= bounds.minimum:
        return None
    if scaling.needed >= able:
        return None
    waits = [until for until, needed in scaling.peaks if needed >= able]
    return waits[-1] + bounds.down_after_s if waits else None


def resized(scaling: Scaling, instances: int, now: float) -> Scaling:
    """Returns the state after a manual change of the number: those workers stay as if they had been needed until now."""
    return Scaling(needed=scaling.needed, stepped_at=now, peaks=((now, instances),))


def carried_out(scaling: Scaling) -> Scaling:
    """Returns the state after a decision was carried out: its obstacle is over."""
    return replace(scaling, reported="")


def held_back(scaling: Scaling, why: str = "refused") -> tuple[Scaling, bool]:
    """Returns the state in which no more workers are possible, and whether that is new."""
    return replace(scaling, reported=why), scaling.reported != why


def _noted(scaling: Scaling, bounds: Bounds, load: Load, now: float) -> Scaling:
    needed = min(ceil((load.running + load.ready) / bounds.capacity), bounds.maximum)
    # The number needed before was needed until now; lower peaks that ended earlier do not count beside it.
    least = max(needed, scaling.needed)
    peaks = tuple(
        (until, count)
        for until, count in scaling.peaks
        if count > least and until + bounds.down_after_s > now  # as `deadline` has it, to the last digit
    )
    if scaling.needed > needed:
        peaks = (*peaks, (now, scaling.needed))
    since = None
    if load.ready and not load.free:
        since = now if scaling.starved_since is None else scaling.starved_since
    reported = "" if _is_over(scaling.reported, bounds, load, since is not None) else scaling.reported
    return replace(scaling, starved_since=since, needed=needed, peaks=peaks, reported=reported)


def _is_over(reported: str, bounds: Bounds, load: Load, is_starved: bool) -> bool:
    """Returns True if the obstacle to more workers is over, so that it is reported when it comes again."""
    if reported == "maximum":
        return load.instances < bounds.maximum
    if reported == "failing":
        return load.ready > 0 and not load.failing
    return not is_starved


def _lacking(bounds: Bounds, load: Load) -> int:
    return ceil(load.ready / bounds.capacity) - load.coming


def _due(scaling: Scaling, bounds: Bounds, starved_since: float) -> float:
    return max(starved_since + bounds.up_after_s, scaling.stepped_at + STEP_S)


def _more(scaling: Scaling, bounds: Bounds, load: Load, now: float) -> tuple[Scaling, Decision | None]:
    since, lacking = scaling.starved_since, _lacking(bounds, load)
    assert since is not None, "what is starved is so since some time"
    if lacking <= 0 or now < _due(scaling, bounds, since):
        return scaling, None
    why, words = "", ""
    if load.instances >= bounds.maximum:
        why, words = "maximum", f"instances has max = {bounds.maximum}"
    elif load.failing:
        why, words = "failing", load.failing
    elif load.room < 1:
        why, words = "room", "max_concurrent_processes is reached"
    if why:
        scaling, is_new = held_back(scaling, why)
        reason = f"cannot add to {load.instances} workers for {load.ready} waiting tasks: {words}"
        return scaling, Decision(load.instances, reason) if is_new else None
    more = int(min(lacking, max(load.instances, 1), bounds.maximum - load.instances, load.room))
    tasks = "task has" if load.ready == 1 else "tasks have"
    reason = f"{load.ready} {tasks} waited for {now - since:.1f} s without a free worker"
    return replace(scaling, starved_since=now, stepped_at=now), Decision(load.instances + more, reason)


def _less(scaling: Scaling, bounds: Bounds, load: Load) -> Decision | None:
    if bounds.down_after_s <= 0:
        return None
    peak = max((count for _, count in scaling.peaks), default=0)
    if max(scaling.needed, peak, bounds.minimum) >= load.instances - load.unable:
        return None
    fewer = load.instances - 1
    workers = "worker has" if fewer == 1 else "workers have"
    return Decision(fewer, f"{fewer} {workers} been enough for {bounds.down_after_s:g} s")
