"""A worker that tries each way to another process of its own user, and prints what came of it as one line of JSON.

Nothing harmful is done where it is let in: values are set to what they are, or to what has no effect. Standard library
alone. Arguments: the pids of the daemon and of another worker.
"""

import ctypes
import errno
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
MACHINE = os.uname().machine
KEYS: tuple[str, ...] = (
    *("prlimit64", "process_vm_readv", "process_vm_writev", "kcmp", "tgkill", "rt_sigqueueinfo"),
    *("migrate_pages", "move_pages", "ioprio_set", "ptrace", "perf_event_open"),
)
X86 = (302, 310, 311, 312, 234, 129, 256, 279, 251, 101, 298)
GENERIC = (261, 270, 271, 272, 131, 138, 238, 239, 30, 117, 241)
NUMBERS: dict[str, int] = dict(zip(KEYS, X86 if MACHINE == "x86_64" else GENERIC, strict=True))
PIDFD_GETFD, PTRACE_SEIZE = 438, 0x4206
DAEMON, NEIGHBOUR = int(sys.argv[1]), int(sys.argv[2])
RLIMIT_CPU, SCHED_OTHER, IOPRIO_BEST_EFFORT = 0, 0, 2 << 13


def call(name: str, *arguments: object) -> int:
    """Makes a system call by its name; raises OSError."""
    number = NUMBERS[name]
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = int(LIBC.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def limits(pid: int) -> None:
    """Sets the limit of processor time to what it is: with (1, 1) the kernel would end the process soon."""
    held = ctypes.create_string_buffer(16)
    call("prlimit64", pid, RLIMIT_CPU, None, held)
    call("prlimit64", pid, RLIMIT_CPU, held, None)


def reads_memory(pid: int) -> None:
    with open(f"/proc/{pid}/maps", "rb") as maps:
        start = int(maps.readline().split(b"-")[0], 16)
    into = ctypes.create_string_buffer(8)
    local = struct.pack("@PN", ctypes.addressof(into), 8)
    call("process_vm_readv", pid, local, 1, struct.pack("@PN", start, 8), 1, 0)


def writes_memory(pid: int) -> None:
    word = ctypes.create_string_buffer(8)
    local = struct.pack("@PN", ctypes.addressof(word), 8)
    try:
        call("process_vm_writev", pid, local, 1, struct.pack("@PN", 1, 8), 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:  # it may, though not there
            raise


def writes(path: str) -> None:
    """Writes to a file of /proc what is in it."""
    fd = os.open(path, os.O_RDWR)
    try:
        value = os.read(fd, 100)
        os.write(fd, b"0x" + value if path.endswith("coredump_filter") else value)
    finally:
        os.close(fd)


def debugs(pid: int) -> None:
    """Attaches by a child, whose end detaches it: what is attached to takes no signal."""
    child = os.fork()
    if child == 0:
        try:
            call("ptrace", PTRACE_SEIZE, pid, 0, 0)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number:
        raise OSError(number, os.strerror(number))


def takes_descriptor(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    if LIBC.syscall(PIDFD_GETFD, pidfd, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "")


def measures(pid: int) -> None:
    """Counts the instructions of a process in user space."""
    attributes = struct.pack("=IIQQQQQ", 1, 112, 1, 0, 0, 0, 0b1100001).ljust(112, b"\0")
    call("perf_event_open", attributes, pid, -1, -1, 0)


def schedules(pid: int) -> None:
    os.sched_setscheduler(pid, SCHED_OTHER, os.sched_param(0))


WAYS: dict[str, Callable[[int], object]] = {
    "kill": lambda pid: os.kill(pid, signal.SIGWINCH),
    "tgkill": lambda pid: call("tgkill", pid, pid, int(signal.SIGWINCH)),
    "sigqueue": lambda pid: call("rt_sigqueueinfo", pid, int(signal.SIGWINCH), struct.pack("=iii", 28, 0, -1).ljust(128, b"\0")),
    "pidfd_send_signal": lambda pid: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGWINCH),
    "ptrace": debugs,
    "process_vm_readv": reads_memory,
    "process_vm_writev": writes_memory,
    "pidfd_getfd": takes_descriptor,
    "kcmp": lambda pid: call("kcmp", os.getpid(), pid, 0, 0, 0),
    "move_pages": lambda pid: call("move_pages", pid, 0, None, None, None, 0),
    "migrate_pages": lambda pid: call("migrate_pages", pid, 64, struct.pack("=Q", 1), struct.pack("=Q", 1)),
    "perf_event_open": measures,
    "/proc/PID/mem": lambda pid: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
    "/proc/PID/environ": lambda pid: os.close(os.open(f"/proc/{pid}/environ", os.O_RDONLY)),
    "/proc/PID/fd": lambda pid: os.listdir(f"/proc/{pid}/fd"),
    "/proc/PID/coredump_filter": lambda pid: writes(f"/proc/{pid}/coredump_filter"),
    "/proc/PID/oom_score_adj": lambda pid: writes(f"/proc/{pid}/oom_score_adj"),
    "prlimit": limits,
    "setpriority": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid)),
    "sched_setscheduler": schedules,
    "sched_setaffinity": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
    "ioprio_set": lambda pid: call("ioprio_set", 1, pid, IOPRIO_BEST_EFFORT | 4),
}  # fmt: skip


def outcome(way: Callable[[int], object], pid: int) -> str:
    try:
        way(pid)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


found = {name: [outcome(way, DAEMON), outcome(way, NEIGHBOUR)] for name, way in WAYS.items()}
own = {
    "set by 0": outcome(limits, 0),
    "set by pid": outcome(limits, os.getpid()),
    "asked of others": outcome(lambda pid: call("prlimit64", pid, RLIMIT_CPU, None, None), DAEMON),
}
print(json.dumps({"others": found, "limits": own}), flush=True)
time.sleep(1000)
