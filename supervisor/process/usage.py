"""What a tree of processes uses: memory, processor time, descriptors, read from /proc.

See proc(5). A look is cheap where nothing happened: a tree whose processes used no processor time has
taken no memory and forked nothing, and clock_gettime(2) on a process's own clock costs a tenth of
reading a file. Resident pages that are shared count once per process: their sum is the gate, and the
proportional share (PSS) decides, which takes 10 ms for each GiB and therefore a thread. However many processes a
tree has, the loop is given back after every BATCH of them. It decides nothing.
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

from ..linux import cgroup as groups
from ..linux.kernel import HAS_CHILDREN_FILE, children_by_parent, read_proc
from .limits import GROWTH_BYTES_PER_S

BATCH = 64
"""Processes that are looked at before the loop has its turn: less than 3 ms."""

MAX_PROCESSES = 4096
"""Of one tree: what a fork bomb adds beyond that is not counted."""

PSS_S = 5.0
"""To tell shared pages apart takes 10 ms for each GiB, and for ever where a process hangs in the kernel."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


FILES = 5
"""That are held open, at most, of a process that is looked at again and again."""

HELD_SHARE = 8
"""One descriptor of so many may be for them."""

STAT_BYTES = 4096
"""More than a line of /proc/PID/stat has."""

VMSTAT_BYTES = 65536
"""Several times what /proc/vmstat has: the kernel gives all of it at one read."""

_OWN_CLOCK = time.clock_gettime_ns

NOBODY: Mapping[int, float] = {}
"""One for all trees."""


class Process(NamedTuple):
    """One process at one moment; its identity is its pid with `started`, in ticks since the boot.

    `own_ns` is its own processor time, `reaped_s` that of all children that it has waited for.
    """

    started: int
    parent: int
    threads: int
    rss_bytes: int
    own_ns: int
    reaped_s: float

    @property
    def total_s(self) -> float:
        """What would be added to its parent's `reaped_s` if it ended now."""
        return self.own_ns / 1e9 + self.reaped_s


class Usage(NamedTuple):
    """A tree at one moment. `cpu_s` is since the tree was first looked at, and never decreases."""

    rss_bytes: int = 0
    cpu_s: float = 0.0
    processes: int = 0
    threads: int = 0


class Signs(NamedTuple):
    """By what it shows that nothing has happened in a tree of one process: its clock and its roots are as they were."""

    clock: int
    own_ns: int
    roots: Callable[[], Sequence[int]]
    known_roots: Sequence[int]


class Files:
    """What is read of one process again and again, held open: that takes a fifth of the time. Its pid is then no other's.

    Raises:
        OSError: the process is gone, or hidden from us, or no more descriptors are to be had.
    """

    __slots__ = ("_cgroup", "_folder", "_others", "_stat", "pid")

    held = 0
    """Descriptors that all together have open."""

    def __init__(self, pid: int, cgroup: str | None) -> None:
        if Files.held + FILES > _may_hold():
            raise OSError(errno.EMFILE, "descriptors are for the workers first")
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
        """The process, its open descriptors, and what its cgroup counts, where it has one; None unless it is alone.

        Alone is a process of one thread without children, or the only one of its cgroup.

        Raises:
            OSError: it is gone.
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
        """Lets go of the process."""
        for fd in (self._stat, self._folder, self._others, *self._cgroup):
            os.close(fd)
        Files.held -= FILES


class Tree:
    """The processes below `roots`, or those in `cgroup` where there is one; asked anew at every survey."""

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
        self._surveyed = 0  # when, in ticks since the boot; 0 for never
        self._cpu_s = 0.0
        self._files: Files | None = None
        self._owed = NOBODY
        self._turn: asyncio.Lock | None = None  # while there are surveys
        self._surveys = 0
        self._reading: asyncio.Future[int] | None = None
        self.usage = Usage()
        self.most_files = 0
        self.cost_s = 0.0

    @property
    def pids(self) -> list[int]:
        """The processes of the last survey."""
        return list(self._pids)

    def is_quiet(self) -> bool:
        """Whether nothing has happened since the last survey; False, too, where that takes long to tell."""
        if not self._known or len(self._known) > BATCH or self._roots() != self._known_roots:
            return False
        try:
            for pid, process in zip(self._pids, self._known, strict=True):
                if _OWN_CLOCK((~pid << 3) | 2) != process.own_ns:
                    return False
        except OSError:  # it is gone
            return False
        return True

    def glance(self) -> Usage | None:
        """As `survey`, at once, of a tree that was a single process and still is; None where it is not that simple."""
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
        # As `used_s` has it, where nobody is gone and nobody new.
        reaped_s = process.reaped_s - known.reaped_s - self._owed.get(pid, 0.0)
        if counted_s is None:
            self._cpu_s += max(0, process.own_ns - known.own_ns) / 1e9 + max(0.0, reaped_s)
        else:
            self._cpu_s = max(self._cpu_s, counted_s)
        self._owed = NOBODY
        self.usage = Usage(process.rss_bytes, self._cpu_s, 1, process.threads)
        return self.usage

    def close(self) -> None:
        """Lets go of what `glance` holds open."""
        if self._files is not None:
            self._files.close()
            self._files = None

    @property
    def is_single(self) -> bool:
        """Whether it was one process at the last look."""
        return len(self._known) == 1

    def signs(self) -> Signs:
        """What tells whether something has happened since the last look in a tree that is single."""
        assert self.is_single, "one clock is that of one process"
        clock = (~self._pids[0] << 3) | 2
        return Signs(clock, self._known[0].own_ns, self._roots, self._known_roots)

    async def survey(self) -> Usage:
        """Looks at every process; `cost_s` is then what that took of this thread's time."""
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
            if pid not in inside:  # whose children are listed already
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
        """As `usage.cpu_s`, now; without a survey where that can be had for less."""
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
        """The memory with shared pages divided among all who share them, whoever they are.

        Where that cannot be told, or not within PSS_S, all that a process has counts.
        """
        rss = {pid: process.rss_bytes for pid, process in zip(self._pids, self._known, strict=True)}
        if self._reading is None or self._reading.done():
            self._reading = _in_thread(lambda: _pss_bytes(rss))
        await asyncio.wait({self._reading}, timeout=PSS_S)
        return self._reading.result() if self._reading.done() else sum(rss.values())

    def count_files(self) -> int:
        """How many descriptors the first BATCH processes have open; `most_files` is the most of one."""
        counts = [open_files(pid) for pid in self.pids[:BATCH]]
        self.most_files = max(counts, default=0)
        return sum(counts)


class Quiet:
    """Trees where nothing had happened, asked after together: that takes a third of the time."""

    __slots__ = ("_clocks", "_known_roots", "_own_ns", "_roots")

    def __init__(self, trees: Sequence[Tree]) -> None:
        """All are single processes."""
        signs = [tree.signs() for tree in trees]
        self._clocks = array("q", [sign.clock for sign in signs])
        self._own_ns = [sign.own_ns for sign in signs]
        self._roots = [sign.roots for sign in signs]
        self._known_roots = [sign.known_roots for sign in signs]

    def is_so(self) -> bool:
        """Whether nothing has happened in any of them since."""
        try:
            own_ns = list(map(_OWN_CLOCK, self._clocks))
        except OSError:  # one is gone
            return False
        return own_ns == self._own_ns and [of() for of in self._roots] == self._known_roots

    def leave_out(self, place: int) -> None:
        """Asks after one of them no more; those behind it move up."""
        for each in (self._clocks, self._own_ns, self._roots, self._known_roots):
            del each[place]


def allocated_bytes() -> int:
    """The memory that the kernel has ever given out, to whomever and for whatever; it never decreases.

    What a process takes is in it, but for pages that were there already: of files, and shared ones. Where the
    kernel does not tell, it is as if a process had taken memory all the time, as fast as it can.
    """
    pages = 0
    told = _vmstat()
    at = told.find(b"\npgalloc_") + 1
    while at and told.startswith(b"pgalloc_", at):
        end = told.find(b"\n", at)
        pages += int(told[told.find(b" ", at) : end])
        at = end + 1
    return pages * PAGE_BYTES or int(time.monotonic() * GROWTH_BYTES_PER_S)


def _vmstat() -> bytes:
    """The file as it is now; it is read several times a second, and so held open."""
    try:
        return os.pread(_open_vmstat(), VMSTAT_BYTES, 0)
    except OSError:
        return b""


@functools.cache
def _open_vmstat() -> int:
    return os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)


def read_process(pid: int) -> Process | None:
    """The process, a zombie included; None when it is gone or hidden from us."""
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
    """How many descriptors may be held open; asked once, when our own limit has been raised as far as it goes."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // HELD_SHARE


def _members(cgroup: str) -> frozenset[int]:
    """The processes of a cgroup and of those that its own processes have made below it."""
    found = frozenset(groups.processes(cgroup))
    with contextlib.suppress(FileNotFoundError):
        if os.stat(cgroup).st_nlink > 2:
            found = found.union(*map(_members, groups.below(cgroup)))
    return found


def _cgroup_cpu_s(cgroup: str) -> float | None:
    """What all processes of a cgroup have used, the dead ones included; see the kernel's cgroup-v2.rst."""
    return _usage_s(groups.read(cgroup, "cpu.stat"))


def _usage_s(cpu_stat: str) -> float | None:
    name, _, rest = cpu_stat.partition(" ")
    return int(rest.partition("\n")[0]) / 1e6 if name == "usage_usec" else None


def _own_ns(pid: int) -> int:
    """The processor time of all threads of a process; -1 when it is gone."""
    try:
        # What clock_getcpuclockid(3) makes of a pid; anybody may read it.
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return -1


def children(pid: int, threads: int) -> list[int]:
    """The pids of a process's children, zombies included."""
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
    """How many descriptors a process has open; 0 when it is gone or hidden from us."""
    try:
        told = os.stat(f"/proc/{pid}/fd").st_size  # since Linux 6.2, also of other users' processes
        return told or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def used_s(
    before: Mapping[int, Process],
    now: Mapping[int, Process],
    since: int,
    owed: Mapping[int, float],
) -> tuple[float, dict[int, float]]:
    """The processor time that a tree used between two surveys, the first one at `since` (ticks).

    A process that ended is in what its parent has reaped, as far as the parent is of the tree; what had
    been counted of it is not counted again. Where the parent was read before it reaped, that is owed, by the
    parent's pid, until the next survey: what is returned is to be passed then. A process that is not
    new, but was not seen before, brings nothing: whoever has lost sight of it had counted it.
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
    """What `read` returns, from a thread that nothing waits for at the end, since it may never return."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[int] = loop.create_future()

    def tell(found: int) -> None:
        if not answer.done():
            answer.set_result(found)

    def run() -> None:
        found = read()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=run, name="pss", daemon=True).start()
    return answer


def _pss_bytes(rss_bytes: Mapping[int, int]) -> int:
    """See `Tree.pss_bytes`: where the share of a process cannot be told, all that it has counts."""
    total = 0
    for pid, resident in rss_bytes.items():
        share = resident
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    share = int(line.split()[1]) * 1024
                    break
        total += share
    return total
