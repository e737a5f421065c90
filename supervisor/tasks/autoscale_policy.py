"""How many workers an agent has between its least and its most: a backlog adds, idleness removes.

Pure: what is seen of the agent and the time go in, a decision comes out. Tasks that have waited for `up_after_s` without a free
place bring as many workers as they need, never more than double at once. Of what was needed at any time within the last
`down_after_s` nothing is taken away: that is what keeps a load that comes and goes from moving the number with it.
"""

from math import ceil, inf

from msgspec import Struct
from msgspec.structs import replace

from ..config.spec import Spec

STEP_S = 1.0
"""Between two additions: what the last one brought is seen before more comes."""


class Bounds(Struct, frozen=True):
    """What the configuration says; `capacity` is how many tasks one worker does at once, `down_after_s` 0 is never."""

    minimum: int
    maximum: int
    capacity: int
    up_after_s: float
    down_after_s: float


class Load(Struct, frozen=True):
    """An agent as it is now.

    Args:
        instances: workers that there are, whatever they do.
        coming: those of them that are on their way up; 0 where nothing is ready.
        free: places for tasks that are not taken; 0 where nothing is ready.
        running: tasks that are being done.
        ready: tasks that one more worker could begin at once.
        offered: tasks that wait for any worker, or for one of their own.
        failing: why a worker of it does not come up; "" where none fails, or nothing is ready.
        room: how many more processes the daemon may have.
        unable: workers before the last that somebody has stopped, or that do not come up: without it they are not enough.
    """

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
    """What is remembered of an agent's load.

    `needed` is how many workers it takes now; `peaks` are times until which more were needed, and how many:
    the newest last, the most first. `told` is why it could not have more, once somebody was told.
    """

    starved_since: float | None = None
    stepped_at: float = -inf
    needed: int = 0
    peaks: tuple[tuple[float, int], ...] = ()
    told: str = ""


class Decision(Struct, frozen=True):
    """So many workers are to be there, and why; as many as there are: more would be needed and cannot be had."""

    instances: int
    reason: str


def bounds_of(spec: Spec) -> Bounds:
    """What the configuration of an agent says."""
    return Bounds(
        spec.instances.minimum,
        spec.instances.maximum,
        spec.resources.max_concurrent_requests,
        spec.tasks.scale_up_after,
        spec.tasks.scale_down_after,
    )


def decide(
    scaling: Scaling, bounds: Bounds, load: Load, now: float
) -> tuple[Scaling, Decision | None]:
    """What is to be done now. A decision for less stands until it is carried out or the load comes back.

    `now` is in seconds of the monotonic clock.
    """
    scaling = _noted(scaling, bounds, load, now)
    if scaling.starved_since is not None:
        return _more(scaling, bounds, load, now)
    return scaling, _less(scaling, bounds, load) if load.offered == 0 else None


def deadline(scaling: Scaling, bounds: Bounds, load: Load) -> float | None:
    """When time alone brings a decision after `decide` had none; None when something else has to happen first."""
    if scaling.starved_since is not None:
        is_stuck = scaling.told or _lacking(bounds, load) <= 0
        return None if is_stuck else _due(scaling, bounds, scaling.starved_since)
    able = load.instances - load.unable
    if bounds.down_after_s <= 0 or load.offered or able <= bounds.minimum:
        return None
    if scaling.needed >= able:
        return None
    waits = [until for until, needed in scaling.peaks if needed >= able]
    return waits[-1] + bounds.down_after_s if waits else None


def resized(scaling: Scaling, instances: int, now: float) -> Scaling:
    """Somebody has given it so many workers: they stay as long as if they had been needed until now."""
    return Scaling(needed=scaling.needed, stepped_at=now, peaks=((now, instances),))


def carried_out(scaling: Scaling) -> Scaling:
    """A decision was carried out: what stood in its way is over."""
    return replace(scaling, told="")


def held_back(scaling: Scaling, why: str = "refused") -> tuple[Scaling, bool]:
    """More cannot be had; and whether that is new."""
    return replace(scaling, told=why), scaling.told != why


def _noted(scaling: Scaling, bounds: Bounds, load: Load, now: float) -> Scaling:
    """What is remembered, with what is seen now."""
    needed = min(ceil((load.running + load.ready) / bounds.capacity), bounds.maximum)
    # What was needed before was needed until now; lower peaks that ended earlier say nothing beside it.
    least = max(needed, scaling.needed)
    peaks = tuple(
        (until, count)
        for until, count in scaling.peaks
        if count > least
        and until + bounds.down_after_s > now  # as `deadline` has it, to the last digit
    )
    if scaling.needed > needed:
        peaks = (*peaks, (now, scaling.needed))
    since = None
    if load.ready and not load.free:
        since = now if scaling.starved_since is None else scaling.starved_since
    told = "" if _is_over(scaling.told, bounds, load, since is not None) else scaling.told
    return replace(scaling, starved_since=since, needed=needed, peaks=peaks, told=told)


def _is_over(told: str, bounds: Bounds, load: Load, is_starved: bool) -> bool:
    """Whether what kept it from having more is over, so that it is told of when it comes again."""
    if told == "maximum":
        return load.instances < bounds.maximum
    if told == "failing":
        return load.ready > 0 and not load.failing
    return not is_starved


def _lacking(bounds: Bounds, load: Load) -> int:
    return ceil(load.ready / bounds.capacity) - load.coming


def _due(scaling: Scaling, bounds: Bounds, starved_since: float) -> float:
    return max(starved_since + bounds.up_after_s, scaling.stepped_at + STEP_S)


def _more(
    scaling: Scaling, bounds: Bounds, load: Load, now: float
) -> tuple[Scaling, Decision | None]:
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
    stepped = replace(scaling, starved_since=now, stepped_at=now)
    return stepped, Decision(load.instances + more, reason)


def _less(scaling: Scaling, bounds: Bounds, load: Load) -> Decision | None:
    if bounds.down_after_s <= 0:
        return None
    peak = max((count for _, count in scaling.peaks), default=0)
    if max(scaling.needed, peak, bounds.minimum) >= load.instances - load.unable:
        return None
    fewer = load.instances - 1
    workers = "worker has" if fewer == 1 else "workers have"
    return Decision(fewer, f"{fewer} {workers} been enough for {bounds.down_after_s:g} s")
