"""Which limit of `[resources]` was passed, what that is called, and how soon a tree has to be looked at again.

It decides from figures: readings of a tree, or what the kernel says of an end. The kernel tells of some
limits only by how a process ends (SIGXCPU, SIGXFSZ, its OOM killer); others it tells to the program alone
(EMFILE, EAGAIN, ENOMEM), and from outside only a full table can be seen.
"""

from msgspec import Struct
from msgspec.structs import replace

from ..config.spec import Resources

GROWTH_BYTES_PER_S = 4 * 1024**3
"""How fast a tree takes memory at worst; one process that touches new pages was measured at 2.4 GiB/s."""

MIN_LOOK_S = 0.02
"""Between two looks at one tree, however near its limit."""

YOUNG_S = 0.1
"""The first wait of a tree that has just been started: what it uses changes fast, then ever less."""

SHARE = 0.02
"""Of one processor at most for the looks at one tree: one of thousands of processes is looked at less often."""

CPU_MARGIN_S = 1
"""Beyond max_cpu_seconds: so long the kernel's own limit, RLIMIT_CPU, may act first, as with its hard limit."""

TICKS_ARE_TRUE = 0.7
"""The kernel ends a process by a count of its clock's ticks; on a busy machine that was seen to be 1.3 of the truth."""

EVENTS = {
    "max_memory_bytes": "limit.memory",
    "max_cpu_seconds": "limit.cpu_seconds",
    "max_file_size_bytes": "limit.file_size",
    "max_file_descriptors": "limit.file_descriptors",
    "max_processes": "limit.worker_processes",
    "max_tokens_per_minute": "limit.tokens",
    "max_cost_cents_per_day": "limit.cost",
}
"""The event that tells of it, by the key in `[resources]` or `[tasks]`."""


class Excess(Struct, frozen=True):
    """A limit that was reached or passed: its key, its value, and what was found.

    `used` is None where the kernel says that, but not how much. `result` is what the end of the worker is
    called on account of it, None where it lives on.
    """

    key: str
    limit: int
    used: float | None
    message: str
    result: str | None = None

    @property
    def event(self) -> str:
        """The type of the event that tells of it."""
        return EVENTS[self.key]

    @property
    def facts(self) -> dict[str, object]:
        """What the event says."""
        return {
            "key": self.key,
            "limit": self.limit,
            "used": self.used,
            "reason": self.message,
        }


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes} bytes"


def memory(used_bytes: int, resources: Resources) -> Excess | None:
    """Whether a tree has more memory than it may."""
    limit = resources.max_memory_bytes
    if not limit or used_bytes <= limit:
        return None
    text = f"its process tree uses {_mib(used_bytes)} of max_memory_bytes = {_mib(limit)}"
    return Excess("max_memory_bytes", limit, used_bytes, text, "oom")


def cpu_seconds(used_s: float, resources: Resources) -> Excess | None:
    """Whether a tree, all processes together, has used more processor time than it may."""
    limit = resources.max_cpu_seconds
    if not limit or used_s <= limit + CPU_MARGIN_S:
        return None
    text = f"its process tree has used {used_s:.1f} s of max_cpu_seconds = {limit}"
    return Excess("max_cpu_seconds", limit, round(used_s, 3), text, "cpu-time")


def file_descriptors(open_files: int, resources: Resources) -> Excess | None:
    """Whether one process can open no more: it has been told EMFILE, or is about to be."""
    limit = resources.max_file_descriptors
    if open_files < limit:
        return None
    text = f"one of its processes has {open_files} of max_file_descriptors = {limit} open"
    return Excess("max_file_descriptors", limit, open_files, text)


def processes(threads: int, resources: Resources) -> Excess | None:
    """Whether a tree can start no more processes and threads: fork(2) says EAGAIN."""
    limit = resources.max_processes
    if not limit or threads < limit:
        return None
    text = f"its process tree has {threads} of max_processes = {limit} processes and threads"
    return Excess("max_processes", limit, threads, text)


def at_end(
    code: int | None, signal: str | None, cpu_s: float, oom_kills: int, resources: Resources
) -> Excess | None:
    """The limit on account of which a leader has ended, as far as the kernel tells.

    `cpu_s` is what it and the children that it waited for had used, `oom_kills` how many processes of the
    tree the kernel's OOM killer has ended.
    """
    if oom_kills and code != 0:
        limit = resources.max_memory_bytes
        text = f"the kernel ended {oom_kills} of its processes: max_memory_bytes = {_mib(limit)}"
        return Excess("max_memory_bytes", limit, None, text, "oom")
    limit = resources.max_cpu_seconds
    was_killed = signal == "SIGKILL" and limit and cpu_s > TICKS_ARE_TRUE * (limit + CPU_MARGIN_S)
    if signal == "SIGXCPU" or was_killed:
        text = f"killed by {signal} after {cpu_s:.1f} s: max_cpu_seconds = {limit}"
        return Excess("max_cpu_seconds", limit, round(cpu_s, 3), text, "cpu-time")
    if signal == "SIGXFSZ":
        limit = resources.max_file_size_bytes
        text = f"killed by SIGXFSZ, writing a file: max_file_size_bytes = {limit}"
        return Excess("max_file_size_bytes", limit, None, text, "file-size")
    return None


def look_in_s(
    cpu_s: float, resources: Resources, *, age_s: float, interval_s: float, processors: int
) -> float:
    """In how many seconds a tree is due again, whatever memory is taken: before it could have passed a limit.

    `interval_s` is for a tree that is old and far from any limit.
    """
    wait_s = min(interval_s, max(YOUNG_S, age_s))
    if resources.max_cpu_seconds:
        left_s = resources.max_cpu_seconds + CPU_MARGIN_S - cpu_s
        wait_s = min(wait_s, left_s / processors)
    return wait_s


def pause_s(cost_s: float) -> float:
    """The least between two looks at one tree; `cost_s` is what the last one took."""
    return max(MIN_LOOK_S, cost_s / SHARE)


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
