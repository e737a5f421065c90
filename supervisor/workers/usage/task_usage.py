"""Measures what a worker uses while a task runs on it: processor time, and the peak of its memory.

Guarantees that no figure is more than what the worker has used in that time, and that a task of a millisecond pays a
microsecond for it. Processor time of the worker's own process is exact, by its clock in the kernel; that of processes which
it started is known by samples, and counts from tasks of TREE_S on. Of memory there are the samples before, during and
after the task; a task of READ_S and more is measured once more at its end, and has the kernel's own peak where that
has risen during the task. Several tasks of one worker at a time cannot be told apart: each has the figures of the worker.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from corral.supervisor.machine.linux.kernel import read_proc

READ_S = 0.02
"""Seconds from which on a task is measured at its end: reading takes 30 µs."""

TREE_S = 1.0
"""Seconds from which on the processes that a worker has started count: those of shorter tasks may be of earlier ones."""

PAUSE_S = 0.005
"""Seconds at least between two readings before tasks, of all workers together."""

MOST_KNOWN = 10_000
"""Number of incarnations whose last peak is remembered."""


class Meters:
    """Measures the tasks of one daemon; belongs to the loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, int] = {}
        """The peak of each incarnation that has run no task since it was read."""
        self._read_at = -PAUSE_S

    def begin(self, unit: str, pid: int, peak: Callable[[], int | None], rss_bytes: int, tree_cpu_s: float) -> "Meter":
        """Begins to measure a task."""
        now = self._clock()
        before = self._known.get(unit)
        if before is None and now - self._read_at >= PAUSE_S:
            self._read_at = now
            before = peak()
        return Meter(unit, pid, peak, rss_bytes, tree_cpu_s, now, before)

    def end(self, meter: "Meter", rss_bytes: int, tree_cpu_s: float) -> None:
        """Ends a measurement, with the last samples; `meter` has the figures then. A second time is harmless."""
        if meter.is_over:
            return
        meter.is_over = True
        meter.note(rss_bytes)
        took_s = self._clock() - meter.began
        meter.cpu_ns = max(0, own_ns(meter.pid) - meter.own_ns)
        found = None
        if took_s >= TREE_S:
            meter.cpu_ns = max(meter.cpu_ns, int((tree_cpu_s - meter.tree_cpu_s) * 1e9))
        if took_s >= READ_S:
            found = meter.peak()
        if found is None:
            self._known.pop(meter.unit, None)  # it may have risen in this task
            return
        if meter.before_bytes is not None and found > meter.before_bytes:
            meter.note(found)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[meter.unit] = found


class Meter:
    """Measures one attempt of a task.

    Attributes:
        cpu_ns: processor time, once it is over.
        most_bytes: the most memory that was seen; 0 where none was.
    """

    __slots__ = (
        *("before_bytes", "began", "cpu_ns", "is_over", "most_bytes"),
        *("own_ns", "peak", "pid", "tree_cpu_s", "unit"),
    )

    def __init__(
        self,
        unit: str,
        pid: int,
        peak: Callable[[], int | None],
        rss_bytes: int,
        tree_cpu_s: float,
        began: float,
        before_bytes: int | None,
    ) -> None:
        self.unit = unit
        self.pid = pid
        self.peak = peak
        self.most_bytes = rss_bytes
        self.tree_cpu_s = tree_cpu_s
        self.began = began
        self.before_bytes = before_bytes
        self.own_ns = own_ns(pid)
        self.cpu_ns = 0
        self.is_over = False

    def note(self, rss_bytes: int) -> None:
        """Takes another sample of its worker's memory."""
        if rss_bytes > self.most_bytes:
            self.most_bytes = rss_bytes


def own_ns(pid: int) -> int:
    """Returns the processor time of a process with its threads, in ns; 0 if it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def peak_bytes(pid: int, cgroup: Path | None) -> int | None:
    """Returns the most memory that a control group has used, where it counts that, else that of the process alone."""
    if cgroup is not None:
        with contextlib.suppress(OSError, ValueError):
            return int((cgroup / "memory.peak").read_bytes())
    _, _, rest = read_proc(f"/proc/{pid}/status").partition(b"VmHWM:")
    number = rest[:32].split(b"\n", 1)[0].split()
    return int(number[0]) * 1024 if number and number[0].isdigit() else None
