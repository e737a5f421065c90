"""What each worker uses: memory, CPU and descriptors, sampled from /proc on a timer.

See proc(5): `statm` for resident pages, `stat` for CPU ticks, the entries of `fd` for descriptors.
Figures are of the worker's own process; a process that is gone is simply no longer sampled.
"""

import os
import time
from collections.abc import Iterable

from msgspec import Struct

FRESH_S = 1.0
"""A process that has just started changes fast; what is shown is not older than this."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Sample(Struct, frozen=True):
    """One reading. `cpu_percent` is over the time since the reading before; 100 is one core."""

    rss_bytes: int = 0
    cpu_percent: float = 0.0
    open_files: int = 0
    cpu_ticks: int = 0
    at: float = 0.0


class Metrics:
    """The newest sample of each process that is kept."""

    def __init__(self) -> None:
        self._samples: dict[int, Sample] = {}

    def of(self, pid: int) -> Sample:
        """The newest sample of a process; a new one is taken when that is older than FRESH_S."""
        known = self._samples.get(pid)
        if known is not None and time.monotonic() - known.at < FRESH_S:
            return known
        sample = _read(pid, known)
        if sample is None:
            return Sample()
        self._samples[pid] = sample
        return sample

    def sample(self, pids: Iterable[int]) -> None:
        """Reads all of these processes, and forgets the others."""
        fresh: dict[int, Sample] = {}
        for pid in pids:
            sample = _read(pid, self._samples.get(pid))
            if sample is not None:
                fresh[pid] = sample
        self._samples = fresh


def _read(pid: int, before: Sample | None) -> Sample | None:
    now = time.monotonic()
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            pages = int(statm.read().split()[1])
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()  # the name may hold anything
        open_files = len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, IndexError):
        return None
    ticks = int(fields[11]) + int(fields[12])
    percent = 0.0
    if before is not None and now > before.at:
        percent = 100.0 * (ticks - before.cpu_ticks) / TICKS_PER_S / (now - before.at)
    return Sample(pages * PAGE_BYTES, round(max(0.0, percent), 1), open_files, ticks, now)
