"""Decides, from figures alone, which limit of `[resources]` a tree has passed, when to look again, and when to freeze it.

The first part judges readings of a tree and exits. The kernel reports some limits only by the way a process ends
(SIGXCPU, SIGXFSZ, its OOM killer); others it reports to the program alone (EMFILE, EAGAIN, ENOMEM), and from outside only
a full table can be seen.

The second part, `Throttle`, is a token bucket of processor seconds: it fills with the clock at the rate of the limit, and
the usage of the tree is taken out. Empty, the tree is frozen until there is enough for a period again. Usage that was
noticed late is a debt, which the next freeze pays, so that the share holds over seconds however late the looks come.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Resources

GROWTH_BYTES_PER_S = 4 * 1024**3
"""Bytes per second that a tree can take at worst; one process that touches new pages was measured at 2.4 GiB/s."""

MIN_LOOK_S = 0.02
"""Seconds at least between two looks at one tree, however near its limit."""

YOUNG_S = 0.1
"""Seconds of the first wait of a tree that has just been started: its usage changes fast, then ever less."""

SHARE = 0.02
"""Ratio of one processor that the looks at one tree may take: a tree of thousands of processes is looked at less often."""

CPU_MARGIN_S = 1
"""Seconds beyond max_cpu_seconds in which the kernel's own limit, RLIMIT_CPU, may act first."""

TICKS_ARE_TRUE = 0.7
"""Ratio of real to counted processor time to allow for: the kernel counts ticks, on a busy machine up to 1.3 of the truth."""

EVENTS = {
    "max_memory_bytes": "limit.memory",
    "max_cpu_seconds": "limit.cpu_seconds",
    "max_file_size_bytes": "limit.file_size",
    "max_file_descriptors": "limit.file_descriptors",
    "max_processes": "limit.worker_processes",
    "max_tokens_per_minute": "limit.tokens",
    "max_cost_cents_per_day": "limit.cost",
}
"""The type of the event for each key of `[resources]` or `[tasks]`."""


class Oom(Struct, frozen=True, kw_only=True):
    """Reports what the kernel's OOM killer did to a unit, see `cgroup.oom`; `kills` is 0 where that is not known."""

    kills: int = 0
    of: str = ""
    limit_bytes: int = 0
    peak_bytes: int = 0


NO_OOM = Oom()


def oom_of(report: Mapping[str, int | str] | None) -> Oom:
    """Returns the figures of `cgroup.oom`; one for all where nothing was killed."""
    return Oom(**report) if report and report["kills"] else NO_OOM  # type: ignore[arg-type] # its keys are the fields


class Excess(Struct, frozen=True):
    """Describes a limit that was reached or passed: its key, its value, and the usage.

    `used` is None where the kernel does not report the amount. `result` is the reason of the worker's end, None where the
    worker lives on.
    """

    key: str
    limit: int
    used: float | None
    message: str
    result: str | None = None

    @property
    def event(self) -> str:
        """Returns the type of the event for this limit."""
        return EVENTS[self.key]

    @property
    def facts(self) -> dict[str, object]:
        """Returns the fields of the event."""
        return {"key": self.key, "limit": self.limit, "used": self.used, "reason": self.message}


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes} bytes"


def memory(used_bytes: int, resources: Resources) -> Excess | None:
    """Returns the excess if a tree uses more memory than allowed."""
    limit = resources.max_memory_bytes
    if not limit or used_bytes <= limit:
        return None
    text = f"its process tree uses {_mib(used_bytes)} of max_memory_bytes = {_mib(limit)}"
    return Excess("max_memory_bytes", limit, used_bytes, text, "oom")


def cpu_seconds(used_s: float, resources: Resources) -> Excess | None:
    """Returns the excess if all processes of a tree together have used more processor time than allowed."""
    limit = resources.max_cpu_seconds
    if not limit or used_s <= limit + CPU_MARGIN_S:
        return None
    text = f"its process tree has used {used_s:.1f} s of max_cpu_seconds = {limit}"
    return Excess("max_cpu_seconds", limit, round(used_s, 3), text, "cpu-time")


def file_descriptors(open_files: int, resources: Resources) -> Excess | None:
    """Returns the excess if one process can open no more files: open(2) fails with EMFILE."""
    limit = resources.max_file_descriptors
    if open_files < limit:
        return None
    text = f"one of its processes has {open_files} of max_file_descriptors = {limit} open"
    return Excess("max_file_descriptors", limit, open_files, text)


def processes(threads: int, resources: Resources) -> Excess | None:
    """Returns the excess if a tree can start no more processes and threads: fork(2) fails with EAGAIN."""
    limit = resources.max_processes
    if not limit or threads < limit:
        return None
    text = f"its process tree has {threads} of max_processes = {limit} processes and threads"
    return Excess("max_processes", limit, threads, text)


def refused_forks(refused: int, resources: Resources) -> Excess | None:
    """Returns the excess if the kernel has refused forks of a tree since the last look."""
    limit = resources.max_processes
    if not limit or not refused:
        return None
    text = (
        f"{refused} forks were refused: its process tree had {limit} of max_processes = {limit} processes and threads"
    )
    return Excess("max_processes", limit, limit, text)


def at_end(code: int | None, signal: str | None, cpu_s: float, oom: Oom, resources: Resources) -> Excess | None:
    """Returns the limit that ended a leader, as far as its exit shows; None for any other end.

    `cpu_s` is the processor time of the leader and the children that it reaped, `oom` what the kernel's OOM killer did to
    the tree.
    """
    if oom.kills and code != 0:
        return _out_of_memory(oom)
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


def _out_of_memory(oom: Oom) -> Excess:
    text = f"the kernel ended {oom.kills} of its processes: "
    if oom.of == "above":
        text += "the memory of the machine, or of a control group above the daemon's, is used up"
        return Excess("max_memory_bytes", 0, None, text, "oom")
    whose = "all processes of its tenant use" if oom.of == "tenant" else "its process tree uses"
    limit = f"max_memory_bytes = {_mib(oom.limit_bytes)}"
    text += f"{whose} {_mib(oom.peak_bytes)} of {limit}" if oom.peak_bytes else limit
    text += " of the tenant" if oom.of == "tenant" else ""
    return Excess("max_memory_bytes", oom.limit_bytes, oom.peak_bytes or None, text, "oom")


def look_in_s(cpu_s: float, resources: Resources, *, age_s: float, interval_s: float, processors: int) -> float:
    """Returns the seconds until a tree must be looked at again, before it could pass a limit other than memory.

    `interval_s` applies to a tree that is old and far from any limit.
    """
    wait_s = min(interval_s, max(YOUNG_S, age_s))
    if resources.max_cpu_seconds:
        left_s = resources.max_cpu_seconds + CPU_MARGIN_S - cpu_s
        wait_s = min(wait_s, left_s / processors)
    return wait_s


def pause_s(cost_s: float) -> float:
    """Returns the least seconds between two looks at one tree; `cost_s` is the duration of the last one."""
    return max(MIN_LOOK_S, cost_s / SHARE)


PERIOD_S = 0.1
"""Seconds whose worth of the limit ends a freeze."""

BURST_S = 0.25
"""Seconds whose worth of the limit an idle tree may save up."""

SLICE_S = 0.005
"""Seconds of the shortest run between two freezes: below it, signals cost more than the program."""

IDLE_LOOK_S = 0.1
"""Seconds between two looks at a tree that uses nothing, or less than allowed."""

FREEZE_MAX_S = 2.0
"""Seconds of the longest freeze, whatever the debt, so that heartbeats and answers get through in between."""

DEBT_MAX_S = 10.0
"""Seconds whose worth of the limit bounds the debt."""


class Throttle(Struct, frozen=True):
    """Represents the token bucket of one tree at the monotonic time `at`.

    `used_s` is the processor time used by then, `balance_s` the time that may still be used. `frozen_at` is None while the
    tree runs; `frozen_s` is the total time frozen, `cores` the number of processors kept busy during the last run.
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
        """Returns True if the tree has to be frozen."""
        return self.frozen_at is not None


def begin(limit_percent: int, used_s: float, now: float) -> Throttle:
    """Returns the bucket of a tree that has just been started, filled for one burst."""
    return Throttle(limit_percent, used_s, now, limit_percent / 100 * BURST_S)


def step(throttle: Throttle, used_s: float, now: float) -> tuple[Throttle, float]:
    """Returns the bucket after a look, and the seconds until the next look."""
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
    """Returns the seconds for which a frozen tree stays frozen."""
    return min((rate * PERIOD_S - throttle.balance_s) / rate, since + FREEZE_MAX_S - throttle.at)


def _run_s(throttle: Throttle, rate: float) -> float:
    """Returns the seconds after which a running tree will have emptied the bucket, at its present pace."""
    excess = throttle.cores - rate
    if excess <= 0.0:
        return IDLE_LOOK_S
    return min(max(throttle.balance_s / excess, SLICE_S), IDLE_LOOK_S)
