"""Measures a tree of processes: memory, processor time and descriptors, read from /proc, see proc(5).

A look is cheap without activity: a tree whose processes used no processor time has taken no memory and forked nothing,
and clock_gettime(2) on a process's own clock costs a tenth of reading a file. Shared resident pages count once per
process: their sum is the gate, and the proportional share (PSS) decides, which takes 10 ms per GiB and therefore a
thread. However many processes a tree has, the loop gets its turn after every BATCH of them. The module decides nothing.
"""

import asyncio
import contextlib
import errno
import functools
import os
import resource
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from corral.supervisor.machine.linux import cgroup as groups
from corral.supervisor.machine.linux.kernel import HAS_CHILDREN_FILE, children_by_parent, read_proc

from .limits import GROWTH_BYTES_PER_S

BATCH = 64
"""Number of processes that are read before the loop has its turn: less than 3 ms."""

MAX_PROCESSES = 4096
"""Number of processes counted in one tree; a fork bomb's further ones are not."""

PSS_S = 5.0
"""Seconds to wait for the proportional share: it takes 10 ms per GiB, and forever if a process hangs in the kernel."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


FILES = 5
"""Number of files of a process that are held open at most."""

HELD_SHARE = 8
"""Number of allowed descriptors per held one."""

STAT_BYTES = 4096
"""Bytes to read of /proc/PID/stat: more than its line has."""

VMSTAT_BYTES = 65536
"""Bytes to read of /proc/vmstat: several times its size, so that one read returns all."""

_OWN_CLOCK = time.clock_gettime_ns

NOBODY: Mapping[int, float] = {}
"""The empty mapping, shared by all trees."""


class Process(NamedTuple):
    """Holds the figures of one process at one moment; pid and `started`, in ticks since boot, identify it.

    `own_ns` is its own processor time, `reaped_s` that of all children that it has reaped.
    """

    started: int
    parent: int
    threads: int
    rss_bytes: int
    own_ns: int
    reaped_s: float

    @property
    def total_s(self) -> float:
        """Returns the seconds that its end would add to its parent's `reaped_s`."""
        return self.own_ns / 1e9 + self.reaped_s


class Usage(NamedTuple):
    """Holds the figures of a tree at one moment. `cpu_s` counts from the first look, and never decreases."""

    rss_bytes: int = 0
    cpu_s: float = 0.0
    processes: int = 0
    threads: int = 0


class Signs(NamedTuple):
    """Holds the evidence that a tree of one process was not active: its clock and its roots at the last look."""

    clock: int
    own_ns: int
    roots: Callable[[], Sequence[int]]
    known_roots: Sequence[int]


class Files:
    """Holds open the files of one process that are read repeatedly, which takes a fifth of the time.

    While they are open, its files are never those of another process with the same pid.
    """

    __slots__ = ("_cgroup", "_folder", "_others", "_stat", "pid")

    held = 0
    """Number of descriptors that all instances hold open."""

    def __init__(self, pid: int, cgroup: str | None) -> None:
        if Files.held + FILES > _may_hold():
            raise OSError(errno.EMFILE, "too many descriptors are held open")
        names = [f"/proc/{pid}/stat", f"/proc/{pid}/fd"]
        if cgroup is None:
            names.append(f"/proc/{pid}/task/{pid}/children")
        else:
            names += (f"{cgroup}/cgroup.procs", f"{cgroup}/cpu.stat", cgroup)
        opened: list[int] = []
        try:
            for name in names:
                opened.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        self.pid = pid
        self._stat, self._folder, self._others = opened[:3]
        self._cgroup = opened[3:]
        Files.held += FILES

    def read(self) -> tuple[Process, int, float | None] | None:
        """Returns the process, the number of its descriptors, and its cgroup's processor time, if it has one.

        None unless the process is alone: it has one thread and no children, or is the only one of its cgroup.
        """
        process = _process(self.pid, os.pread(self._stat, STAT_BYTES, 0))
        open_files = os.fstat(self._folder).st_size  # 0 before Linux 6.2
        others = os.pread(self._others, 32, 0)
        if not open_files:
            return None
        if not self._cgroup:
            return (process, open_files, None) if process.threads == 1 and not others else None
        cpu, folder = self._cgroup
        if others != b"%d\n" % self.pid or os.fstat(folder).st_nlink > 2:  # there are some below
            return None
        return process, open_files, _usage_s(os.pread(cpu, 64, 0).decode("ascii"))

    def close(self) -> None:
        """Closes the files."""
        for fd in (self._stat, self._folder, self._others, *self._cgroup):
            os.close(fd)
        Files.held -= FILES


class Tree:
    """Measures the processes below `roots`, or those in `cgroup` if given; `roots` is called at every survey."""

    __slots__ = (
        "_cgroup",
        "_cpu_s",
        "_files",
        "_known",
        "_known_roots",
        "_owed",
        "_pids",
        "_reading",
        "_roots",
        "_surveyed",
        "_surveys",
        "_turn",
        "cost_s",
        "most_files",
        "usage",
    )

    def __init__(self, roots: Callable[[], Sequence[int]], cgroup: Path | None = None) -> None:
        self._roots = roots
        self._cgroup = None if cgroup is None else str(cgroup)
        self._known_roots: Sequence[int] = ()
        self._pids: Sequence[int] = ()
        self._known: tuple[Process, ...] = ()  # in the order of `_pids`
        self._surveyed = 0  # time of the last survey in ticks since boot; 0 for never
        self._cpu_s = 0.0
        self._files: Files | None = None
        self._owed = NOBODY
        self._turn: asyncio.Lock | None = None  # exists during surveys
        self._surveys = 0
        self._reading: asyncio.Future[int] | None = None
        self.usage = Usage()
        self.most_files = 0
        self.cost_s = 0.0

    @property
    def pids(self) -> list[int]:
        """Returns the processes of the last survey."""
        return list(self._pids)

    def is_quiet(self) -> bool:
        """Returns True if there was no activity since the last survey; False also where the check would take long."""
        if not self._known or len(self._known) > BATCH or self._roots() != self._known_roots:
            return False
        try:
            for pid, process in zip(self._pids, self._known, strict=True):
                if _OWN_CLOCK((~pid << 3) | 2) != process.own_ns:
                    return False
        except OSError:  # it is gone
            return False
        return True

    def quick_look(self) -> Usage | None:
        """Surveys at once a tree that was and is a single process; returns None for any other."""
        if len(self._known) != 1 or self._surveys:
            return None
        pid, known = self._pids[0], self._known[0]
        if self._known_roots != self._roots():
            return None
        try:
            if self._files is None or self._files.pid != pid:
                self.close()
                self._files = Files(pid, self._cgroup)
            found = self._files.read()
        except OSError:
            self.close()
            return None
        if found is None or found[0].started != known.started:
            return None
        process, self.most_files, counted_s = found
        self._surveyed = int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S)
        self._known = (process,)
        # As `used_s` computes it, where no process has ended or started.
        reaped_s = process.reaped_s - known.reaped_s - self._owed.get(pid, 0.0)
        if counted_s is None:
            self._cpu_s += max(0, process.own_ns - known.own_ns) / 1e9 + max(0.0, reaped_s)
        else:
            self._cpu_s = max(self._cpu_s, counted_s)
        self._owed = NOBODY
        self.usage = Usage(process.rss_bytes, self._cpu_s, 1, process.threads)
        return self.usage

    def close(self) -> None:
        """Closes the files that `quick_look` holds open."""
        if self._files is not None:
            self._files.close()
            self._files = None

    @property
    def is_single(self) -> bool:
        """Returns True if the tree was one process at the last look."""
        return len(self._known) == 1

    def signs(self) -> Signs:
        """Returns the evidence by which activity of a single process since the last look is noticed."""
        assert self.is_single, "a clock belongs to one process"
        clock = (~self._pids[0] << 3) | 2
        return Signs(clock, self._known[0].own_ns, self._roots, self._known_roots)

    async def survey(self) -> Usage:
        """Reads every process of the tree; `cost_s` is then the time that it took of this thread."""
        turn = self._turn = self._turn or asyncio.Lock()
        self._surveys += 1
        try:
            async with turn:
                return await self._survey()
        finally:
            self._surveys -= 1
            if not self._surveys:
                self._turn = None

    async def _survey(self) -> Usage:
        roots = self._roots()
        now: dict[int, Process] = {}
        boot_ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S)
        began = time.perf_counter()
        cost_s = 0.0
        inside: frozenset[int] = frozenset()
        if self._cgroup is not None:
            inside = _members(self._cgroup)
        waiting = [*inside, *roots]
        while waiting and len(now) < MAX_PROCESSES:
            pid = waiting.pop()
            if pid in now:
                continue
            process = read_process(pid)
            if process is None:
                continue
            now[pid] = process
            if pid not in inside:  # children within the cgroup are listed already
                waiting += children(pid, process.threads)
            if len(now) % BATCH == 0:
                cost_s += time.perf_counter() - began
                await asyncio.sleep(0)
                began = time.perf_counter()
        before = dict(zip(self._pids, self._known, strict=True))
        seen_s, owed = used_s(before, now, self._surveyed, self._owed)
        self._owed = owed or NOBODY
        self._count_cpu(seen_s)
        pids = tuple(now)
        self._pids = roots if pids == roots else pids  # of most trees these are the same
        self._known, self._known_roots, self._surveyed = tuple(now.values()), roots, boot_ticks
        self.cost_s = cost_s + time.perf_counter() - began
        self.usage = Usage(
            sum(process.rss_bytes for process in now.values()),
            self._cpu_s,
            len(now),
            sum(process.threads for process in now.values()),
        )
        return self.usage

    async def cpu_s(self) -> float:
        """Returns the present processor time in seconds, without a survey where a cheaper source exists."""
        if self._cgroup is not None and (counted_s := _cgroup_cpu_s(self._cgroup)) is not None:
            return max(self._cpu_s, counted_s)
        return self._cpu_s if self.is_quiet() else (await self.survey()).cpu_s

    def _count_cpu(self, seen_s: float) -> None:
        counted_s = None if self._cgroup is None else _cgroup_cpu_s(self._cgroup)
        if counted_s is None:
            self._cpu_s += seen_s
        else:
            self._cpu_s = max(self._cpu_s, counted_s)

    async def pss_bytes(self) -> int:
        """Returns the memory with shared pages divided among all processes that share them, in bytes.

        Where the share cannot be read, or not within PSS_S, all resident pages of a process count. One that has ended
        since the survey counts nothing.
        """
        rss = {pid: process.rss_bytes for pid, process in zip(self._pids, self._known, strict=True)}
        if self._reading is None or self._reading.done():
            self._reading = _in_thread(lambda: pss_bytes(rss))
        await asyncio.wait({self._reading}, timeout=PSS_S)
        return self._reading.result() if self._reading.done() else sum(rss.values())

    def count_files(self) -> int:
        """Returns the number of open descriptors of the first BATCH processes; `most_files` is the maximum of one."""
        counts = [open_files(pid) for pid in self.pids[:BATCH]]
        self.most_files = max(counts, default=0)
        return sum(counts)


class Quiet:
    """Checks several quiet trees together, which takes a third of the time."""

    __slots__ = ("_clocks", "_known_roots", "_own_ns", "_roots")

    def __init__(self, trees: Sequence[Tree]) -> None:
        """Takes trees that are single processes."""
        signs = [tree.signs() for tree in trees]
        self._clocks = array("q", [sign.clock for sign in signs])
        self._own_ns = [sign.own_ns for sign in signs]
        self._roots = [sign.roots for sign in signs]
        self._known_roots = [sign.known_roots for sign in signs]

    def is_so(self) -> bool:
        """Returns True if none of the trees was active since."""
        try:
            own_ns = list(map(_OWN_CLOCK, self._clocks))
        except OSError:  # one is gone
            return False
        return own_ns == self._own_ns and [of() for of in self._roots] == self._known_roots

    def leave_out(self, place: int) -> None:
        """Removes the tree at an index; the following ones move up."""
        for each in (self._clocks, self._own_ns, self._roots, self._known_roots):
            del each[place]


def allocated_bytes() -> int:
    """Returns the bytes that the kernel has allocated since boot, for any purpose; the figure never decreases.

    It includes all memory that processes take, except pages that existed before: of files, and shared ones. Where the
    kernel does not report it, the figure grows as if a process took memory all the time, as fast as it can.
    """
    pages = 0
    text = _vmstat()
    at = text.find(b"\npgalloc_") + 1
    while at and text.startswith(b"pgalloc_", at):
        end = text.find(b"\n", at)
        pages += int(text[text.find(b" ", at) : end])
        at = end + 1
    return pages * PAGE_BYTES or int(time.monotonic() * GROWTH_BYTES_PER_S)


def _vmstat() -> bytes:
    """Reads /proc/vmstat, which is held open since it is read several times a second."""
    try:
        return os.pread(_open_vmstat(), VMSTAT_BYTES, 0)
    except OSError:
        return b""


@functools.cache
def _open_vmstat() -> int:
    return os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)


def read_process(pid: int) -> Process | None:
    """Returns the process, a zombie included; None if it is gone or hidden."""
    line = read_proc(f"/proc/{pid}/stat")
    return _process(pid, line) if line else None


def _process(pid: int, line: bytes) -> Process:
    fields = line[line.rindex(b")") + 2 :].split()  # the name may hold anything
    own_ns = _own_ns(pid)
    if own_ns < 0:
        own_ns = (int(fields[11]) + int(fields[12])) * (10**9 // TICKS_PER_S)
    return Process(
        started=int(fields[19]),
        parent=int(fields[1]),
        threads=int(fields[17]),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
        own_ns=own_ns,
        reaped_s=(int(fields[13]) + int(fields[14])) / TICKS_PER_S,
    )


@functools.cache
def _may_hold() -> int:
    """Returns the number of descriptors that may be held open; read once, after the daemon has raised its own limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // HELD_SHARE


def _members(cgroup: str) -> frozenset[int]:
    """Returns the processes of a cgroup and of the groups below it."""
    found = frozenset(groups.processes(cgroup))
    with contextlib.suppress(FileNotFoundError):
        if os.stat(cgroup).st_nlink > 2:
            found = found.union(*map(_members, groups.below(cgroup)))
    return found


def _cgroup_cpu_s(cgroup: str) -> float | None:
    """Returns the processor time of all processes of a cgroup, dead ones included; see the kernel's cgroup-v2.rst."""
    return _usage_s(groups.read(cgroup, "cpu.stat"))


def _usage_s(cpu_stat: str) -> float | None:
    name, _, rest = cpu_stat.partition(" ")
    return int(rest.partition("\n")[0]) / 1e6 if name == "usage_usec" else None


def _own_ns(pid: int) -> int:
    """Returns the processor time of all threads of a process in nanoseconds; -1 if it is gone."""
    try:
        # The clock id that clock_getcpuclockid(3) returns for a pid; every user may read it.
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return -1


def children(pid: int, threads: int) -> list[int]:
    """Returns the pids of a process's children, zombies included."""
    if not HAS_CHILDREN_FILE:
        return children_by_parent(pid)
    if threads == 1:
        return [int(child) for child in read_proc(f"/proc/{pid}/task/{pid}/children").split()]
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, read_proc(f"/proc/{pid}/task/{thread}/children").split())
    return found


def open_files(pid: int) -> int:
    """Returns the number of open descriptors of a process; 0 if it is gone or hidden."""
    try:
        size = os.stat(f"/proc/{pid}/fd").st_size  # since Linux 6.2, also of other users' processes
        return size or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def used_s(
    before: Mapping[int, Process], now: Mapping[int, Process], since: int, owed: Mapping[int, float]
) -> tuple[float, dict[int, float]]:
    """Returns the seconds of processor time that a tree used between two surveys, the first one at `since` (ticks).

    The time of an ended process is included in its parent's `reaped_s`, if the parent is in the tree; the part that was
    counted before is not counted again. Where the parent was read before it reaped, that part is owed, by the parent's
    pid, until the next survey, to which the second result has to be passed. A process that is not new, but was not seen
    before, adds nothing: its time was counted before it was lost from sight.
    """
    gone_s: dict[int, float] = {}
    for pid, process in before.items():
        left = now.get(pid)
        if left is None or left.started != process.started:
            gone_s[process.parent] = gone_s.get(process.parent, 0.0) + process.total_s
    total_s = 0.0
    still_owed: dict[int, float] = {}
    for pid, process in now.items():
        known = before.get(pid)
        if known is None or known.started != process.started:
            if process.started >= since:
                total_s += process.total_s
            continue
        total_s += max(0, process.own_ns - known.own_ns) / 1e9
        counted_s = gone_s.get(pid, 0.0)
        reaped_s = process.reaped_s - known.reaped_s - counted_s - owed.get(pid, 0.0)
        total_s += max(0.0, reaped_s)
        if reaped_s < 0.0 < counted_s:
            still_owed[pid] = min(-reaped_s, counted_s)
    return total_s, still_owed


def _in_thread(read: Callable[[], int]) -> asyncio.Future[int]:
    """Calls `read` in a daemon thread, for whose end nothing waits, since it may never return."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[int] = loop.create_future()

    def resolve(found: int) -> None:
        if not answer.done():
            answer.set_result(found)

    def run() -> None:
        found = read()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(resolve, found)

    threading.Thread(target=run, name="pss", daemon=True).start()
    return answer


def pss_bytes(rss_bytes: Mapping[int, int]) -> int:
    """Returns the sum of proportional shares.

    A process that has ended counts nothing; one whose share cannot be read counts with all its resident pages.
    """
    import psutil  # noqa: PLC0415  # it costs 1 MB: only who needs a share pays

    total = 0
    for pid, resident in rss_bytes.items():
        try:
            total += psutil.Process(pid).memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
        except (psutil.AccessDenied, OSError):
            total += resident
    return total
