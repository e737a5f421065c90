"""What each worker's process tree uses, sampled from /proc, and which tree has more memory than it may.

See proc(5): `statm` for resident pages, `stat` for CPU ticks, the entries of `fd` for descriptors,
`task/TID/children` for the tree, `smaps_rollup` for the proportional share (PSS). The sum of resident
pages counts shared pages once per process: it is the gate, and PSS decides. A tree is looked at the
sooner the nearer it is to its limit, so that one that grows by GROWTH_BYTES_PER_S is found before
it has passed the limit by more than what it takes in MIN_LOOK_S. What has left the tree (a double
fork) is not counted here.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable

from msgspec import Struct

GROWTH_BYTES_PER_S = 1024**3
"""How fast memory is taken at worst, by one process that touches new pages."""

MIN_LOOK_S = 0.1
"""Between two looks at one tree, however near its limit."""

FRESH_S = 1.0
"""A process that has just started changes fast; what is shown is not older than this."""

MAX_PROCESSES = 4096
"""Of one tree: what a fork bomb adds beyond that is not counted."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Sample(Struct, frozen=True):
    """One reading of a tree. `cpu_percent` is over the time since the one before; 100 is one core."""

    rss_bytes: int = 0
    cpu_percent: float = 0.0
    open_files: int = 0
    cpu_ticks: int = 0
    at: float = 0.0


class Watched(Struct, frozen=True):
    """A tree by its leader's pid; `limit_bytes` 0 means no limit; sampled every `interval_s` at least."""

    pid: int
    limit_bytes: int
    interval_s: float


class Excess(Struct, frozen=True):
    """A tree that has more memory than it may."""

    pid: int
    used_bytes: int
    limit_bytes: int


class Metrics:
    """The newest sample of each tree that is watched."""

    def __init__(self) -> None:
        self._samples: dict[int, Sample] = {}
        self._due: dict[int, float] = {}

    def of(self, pid: int) -> Sample:
        """The newest sample of a tree; a new one is taken when that is older than FRESH_S."""
        known = self._samples.get(pid)
        if known is not None and time.monotonic() - known.at < FRESH_S:
            return known
        sample = read(pid, known)
        if sample is None:
            return Sample()
        self._samples[pid] = sample
        return sample

    async def run(
        self, watched: Callable[[], Iterable[Watched]], on_excess: Callable[[Excess], None]
    ) -> None:
        """Samples until it is cancelled; `watched` is asked at each turn whom."""
        while True:
            now = time.monotonic()
            soonest = now + 1.0
            living: set[int] = set()
            for each in watched():
                living.add(each.pid)
                if self._due.get(each.pid, 0.0) <= now:
                    self._due[each.pid] = now + self._look(each, on_excess)
                soonest = min(soonest, self._due[each.pid])
            for pid in self._due.keys() - living:
                del self._due[pid]
                self._samples.pop(pid, None)
            await asyncio.sleep(max(soonest - time.monotonic(), MIN_LOOK_S / 2))

    def _look(self, watched: Watched, on_excess: Callable[[Excess], None]) -> float:
        """Samples a tree, and returns how long it may be left alone."""
        sample = read(watched.pid, self._samples.get(watched.pid))
        if sample is None:
            return watched.interval_s
        self._samples[watched.pid] = sample
        limit = watched.limit_bytes
        if not limit:
            return watched.interval_s
        used = sample.rss_bytes
        if used > limit:
            used = pss_bytes(watched.pid) or used
            if used > limit:
                on_excess(Excess(watched.pid, used, limit))
        return max(MIN_LOOK_S, min(watched.interval_s, (limit - used) / GROWTH_BYTES_PER_S))


def tree(pid: int) -> list[int]:
    """The process and all that descends from it; empty when it is gone."""
    found = [pid]
    for each in found:  # which grows meanwhile
        if len(found) >= MAX_PROCESSES:
            break
        try:
            threads = os.listdir(f"/proc/{each}/task")
        except OSError:
            if each == pid:
                return []
            continue
        for thread in threads:
            try:
                with open(f"/proc/{each}/task/{thread}/children", "rb") as children:
                    found += [int(child) for child in children.read().split()]
            except OSError:
                continue
    return found


def read(pid: int, before: Sample | None) -> Sample | None:
    """A new sample of a tree; None when its leader is gone."""
    now = time.monotonic()
    pages = ticks = open_files = 0
    pids = tree(pid)
    if not pids:
        return None
    for each in pids:
        try:
            with open(f"/proc/{each}/statm", "rb") as statm:
                pages += int(statm.read().split()[1])
            with open(f"/proc/{each}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()  # the name may hold anything
            ticks += int(fields[11]) + int(fields[12])
            open_files += len(os.listdir(f"/proc/{each}/fd"))
        except (OSError, IndexError):
            continue  # it ended just now, or its descriptors are not ours to see
    percent = 0.0
    if before is not None and now > before.at:
        percent = 100.0 * (ticks - before.cpu_ticks) / TICKS_PER_S / (now - before.at)
    return Sample(pages * PAGE_BYTES, round(max(0.0, percent), 1), open_files, ticks, now)


def pss_bytes(pid: int) -> int:
    """The memory of a tree with shared pages divided among those who share them; 0 if it cannot be told."""
    total = 0
    for each in tree(pid):
        try:
            with open(f"/proc/{each}/smaps_rollup", "rb") as rollup:
                for line in rollup:
                    if line.startswith(b"Pss:"):
                        total += int(line.split()[1]) * 1024
                        break
        except OSError:
            continue
    return total
