"""Reads and signals processes beyond the os module: /proc, pidfds, prctl(2), and the brand that marks descendants.

A signal never reaches an unrelated process: a child is signalled before it is reaped, any other process through a
pidfd that is opened first and checked afterwards.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Iterator

MARK = "CORRAL_WORKER"
"""Environment variable of every worker: its unit."""
BRAND_BITS = 29
"""Bits of a brand that number the daemon's state folder; 32 more number the spawn.

A brand is a resource limit without effect, RLIMIT_RSS (getrlimit(2), since Linux 2.4.30), which every descendant of a
worker inherits and no program removes by accident.  It may only be lowered, so a bit above the number is free for a
daemon that has a brand itself."""
RETRYABLE = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ETXTBSY))
"""Error numbers after which a later attempt may succeed."""

PR_SET_DUMPABLE = 4
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 15, 36, 38
PR_GET_CHILD_SUBREAPER = 37

PF_FORKNOEXEC = 0x40
"""Flag of a process that was forked and has made no exec, see the kernel's include/linux/sched.h."""
PIDFD_GET_INFO, PIDFD_INFO_EXIT, PIDFD_INFO_BYTES = 0xC040FF0B, 1 << 3, 64
"""ioctl(2) of a pidfd, the bit of its mask that asks for an exit status, and the bytes of its first form."""

OWN_CHILDREN = "/proc/thread-self/children"  # which is all, in a process of one thread
HAS_CHILDREN_FILE = os.path.exists(OWN_CHILDREN)
"""False on kernels without CONFIG_PROC_CHILDREN."""

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
_prctl.restype = ctypes.c_int


def sync_file_system(path: str | os.PathLike[str]) -> None:
    """Writes what the file system of a folder has in memory to the disk, see syncfs(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(path))
    finally:
        os.close(fd)


def prctl(option: int, value: int, detail: int = 0) -> None:
    """Sets one attribute of this process by the system call of the same name."""
    if _prctl(option, value, detail, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def timer_descriptor(clock: int) -> int:
    """Returns a descriptor that becomes readable at a time of a clock, see timerfd_create(2)."""
    fd: int = _libc.timerfd_create(clock, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def set_timer(fd: int, flags: int, spec: ctypes.Structure) -> None:
    """Sets the time of such a descriptor, see timerfd_settime(2); `spec` is an itimerspec."""
    if _libc.timerfd_settime(fd, flags, ctypes.byref(spec), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def forbid_inspection() -> None:
    """Keeps processes of the same user from reading the memory and the environment of this one, see PR_SET_DUMPABLE."""
    prctl(PR_SET_DUMPABLE, 0)


class Process:
    """Holds the fields of /proc/PID/stat; pid and starttime together identify a process."""

    __slots__ = ("flags", "group", "parent", "pid", "session", "starttime", "state", "threads")

    def __init__(self, pid: int, line: bytes) -> None:
        fields = line[line.rindex(b")") + 2 :].split(None, 20)
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.flags = fields[6]
        self.threads = int(fields[17])
        self.starttime = int(fields[19])

    @property
    def is_dead(self) -> bool:
        """Returns True for a zombie.  A process whose main thread alone has ended still runs."""
        return self.state in b"ZX" and self.threads < 2

    @property
    def has_executed(self) -> bool:
        """Returns True once it has made an exec since it was forked."""
        return not int(self.flags) & PF_FORKNOEXEC


def read_proc(path: str) -> bytes:
    """Reads a file of /proc; returns b"" if its process is gone or hidden."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    try:
        return read_fd(fd)
    except (ProcessLookupError, PermissionError):
        return b""
    finally:
        os.close(fd)


def read_fd(fd: int) -> bytes:
    """Reads a whole file from its start, without moving its offset."""
    parts: list[bytes] = []
    size = 0
    while part := os.pread(fd, 65536, size):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def look_up(pid: int) -> Process | None:
    """Returns the process that has this pid now, a zombie included; None if there is none."""
    line = read_proc(f"/proc/{pid}/stat")
    return Process(pid, line) if line else None


def children_by_parent(pid: int) -> list[int]:
    """Returns the children of `pid` by reading every process, for kernels without CONFIG_PROC_CHILDREN."""
    others = (look_up(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [other.pid for other in others if other is not None and other.parent == pid]


def children(process: Process) -> list[int]:
    """Returns the pids of a process's children, zombies included.

    The kernel may skip some while children of that process are being reaped.  The launcher alone reaps its own, so
    for the launcher itself the list is exact.
    """
    pid = process.pid
    if not HAS_CHILDREN_FILE:
        return children_by_parent(pid)
    threads = [str(pid)]
    if process.threads != 1:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return []
    lists = (read_proc(f"/proc/{pid}/task/{thread}/children") for thread in threads)
    return [int(child) for child in b" ".join(lists).split()]


def walk(pid: int) -> Iterator[Process]:
    """Yields the process and all its living descendants, parents first."""
    waiting = [pid]
    seen = {pid}
    while waiting:
        process = look_up(waiting.pop())
        if process is None or process.is_dead:
            continue
        yield process
        fresh = [child for child in children(process) if child not in seen]
        seen.update(fresh)
        waiting += fresh


def mark(pid: int) -> str:
    """Returns the unit named in the process's environment, or "": a hint only, since a process may change it."""
    environ = b"\0" + read_proc(f"/proc/{pid}/environ")
    return os.fsdecode(environ.partition(f"\0{MARK}=".encode())[2].partition(b"\0")[0])


def brand_for(state: int, seq: int) -> int | None:
    """Returns the value of RLIMIT_RSS for a spawn; None if the limit of this process is too low for one."""
    _soft, ceiling = resource.getrlimit(resource.RLIMIT_RSS)
    number = state << 32 | seq & 0xFFFFFFFF
    for top in (BRAND_BITS + 33, BRAND_BITS + 32):
        if ceiling == resource.RLIM_INFINITY or 1 << top | number <= ceiling:
            return 1 << top | number
    return None


def brand(pid: int, *, is_nested: bool = False) -> tuple[int, int]:
    """Returns the numbers of the state folder and of the spawn that a process inherited, or (-1, -1).

    A launcher sets the hard limit; a zygote within it (`is_nested`) the soft one.
    """
    for line in read_proc(f"/proc/{pid}/limits").split(b"\n"):
        if line.startswith(b"Max resident set"):
            limit = line.split()[3 if is_nested else 4]
            if limit.isdigit() and int(limit) >> BRAND_BITS + 32:
                return int(limit) >> 32 & (1 << BRAND_BITS) - 1, int(limit) & 0xFFFFFFFF
    return -1, -1


def exit_status(pidfd: int) -> int | None:
    """Returns the wait status of a process that has been reaped, child or not; None before Linux 6.15."""
    info = bytearray(PIDFD_INFO_BYTES)
    info[:8] = PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask = int.from_bytes(info[:8], sys.byteorder)
    if not mask & PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(info[60:64], sys.byteorder, signed=True)


def signal_other(process: Process, signum: int) -> None:
    """Signals exactly this process; does nothing if its pid belongs to another one by now."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = look_up(process.pid)
        if now is not None and now.starttime == process.starttime:
            signal.pidfd_send_signal(fd, signum)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or a set-uid program of another user: the next round looks again
    finally:
        os.close(fd)


def signal_child(pid: int, signum: int) -> None:
    """Signals a child, or with -pid its process group; it must not have been reaped, so that the pid is its own."""
    # No such group yet, or a set-uid program of another user: not an error.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


def kill_below(pid: int) -> None:
    """Sends SIGKILL to a child and all its descendants; a missed one is reparented to this process afterwards."""
    try:
        for process in walk(pid):
            if process.pid != pid:
                signal_other(process, signal.SIGKILL)
    except OSError as error:
        if error.errno not in RETRYABLE:
            raise
    signal_child(pid, signal.SIGKILL)
