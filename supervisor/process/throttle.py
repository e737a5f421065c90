"""When a tree of processes is to be frozen, so that it uses no more of the processors than it may.

A token bucket of processor seconds: it fills with the clock at the rate of the limit, and what the tree
used is taken out. Empty, the tree is frozen until there is enough for a period again. What was found
too late is a debt that the next freeze pays, so that the share holds over seconds however late the
looks come. It decides from two figures, the processor time and the clock, and freezes nobody.
"""

from msgspec import Struct
from msgspec.structs import replace

PERIOD_S = 0.1
"""A freeze is over when the tree may run for as long as it would in this time, evenly spread."""

BURST_S = 0.25
"""What an idle tree may save up: the processor time that its limit is worth in this time."""

SLICE_S = 0.005
"""The shortest run between two freezes: below it, more is spent on signals than on the program."""

IDLE_LOOK_S = 0.1
"""Between two looks at a tree that uses nothing, or less than it may."""

FREEZE_MAX_S = 2.0
"""The longest freeze, whatever the debt: heartbeats and answers get through in between."""

DEBT_MAX_S = 10.0
"""No more debt is kept than the limit is worth in this time."""


class Throttle(Struct, frozen=True):
    """One tree's account, as of the monotonic time `at`.

    `used_s` is the processor time that had been used by then, `balance_s` what may still be used.
    `frozen_at` is None while it runs; `frozen_s` is for how long it was frozen so far, `cores` how many
    processors it kept busy when it last ran.
    """

    limit_percent: int
    used_s: float
    at: float
    balance_s: float
    frozen_at: float | None = None
    frozen_s: float = 0.0
    cores: float = 1.0

    @property
    def is_frozen(self) -> bool:
        """Whether the tree is to stand still."""
        return self.frozen_at is not None


def begin(limit_percent: int, used_s: float, now: float) -> Throttle:
    """The account of a tree that has just been started: it may use what it could have saved up."""
    return Throttle(limit_percent, used_s, now, limit_percent / 100 * BURST_S)


def step(throttle: Throttle, used_s: float, now: float) -> tuple[Throttle, float]:
    """The account after a look, and in how many seconds the next look is due."""
    rate = throttle.limit_percent / 100
    passed_s = max(0.0, now - throttle.at)
    burnt_s = max(0.0, used_s - throttle.used_s)
    balance_s = min(throttle.balance_s + rate * passed_s, rate * BURST_S) - burnt_s
    balance_s = max(balance_s, -rate * DEBT_MAX_S)
    after = replace(throttle, used_s=max(used_s, throttle.used_s), at=now, balance_s=balance_s)
    if throttle.frozen_at is not None:
        after = replace(after, frozen_s=throttle.frozen_s + passed_s)
        left_s = _freeze_s(after, rate, since=throttle.frozen_at)
        if left_s > 0.0:
            return after, left_s
        after = replace(after, frozen_at=None)
    else:
        if passed_s > 0.0 and burnt_s > 0.0:
            after = replace(after, cores=burnt_s / passed_s)
        if balance_s <= 0.0:
            frozen = replace(after, frozen_at=now)
            return frozen, max(SLICE_S, _freeze_s(frozen, rate, since=now))
        if burnt_s == 0.0:
            return after, IDLE_LOOK_S
    return after, _run_s(after, rate)


def _freeze_s(throttle: Throttle, rate: float, *, since: float) -> float:
    """How much longer a frozen tree stays so."""
    missing_s = (rate * PERIOD_S - throttle.balance_s) / rate
    return min(missing_s, since + FREEZE_MAX_S - throttle.at)


def _run_s(throttle: Throttle, rate: float) -> float:
    """When a running tree will have used up what it may, if it goes on as it did."""
    excess = throttle.cores - rate
    if excess <= 0.0:
        return IDLE_LOOK_S
    return min(max(throttle.balance_s / excess, SLICE_S), IDLE_LOOK_S)
