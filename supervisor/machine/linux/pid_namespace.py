"""Enters a PID namespace for the launcher, and translates the pids of its processes to those outside.

Every process inside is killed by the kernel when the namespace's first process ends: pid_namespaces(7),
user_namespaces(7).  Standard library alone: the launcher loads it only on request.
"""

from __future__ import annotations

import ctypes
import os

from .kernel import children, look_up, read_proc, walk

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 2, 4, 8, 0x4000, 0x80000


class Refused(Exception):
    """Reports that this machine gives no namespace: errno, and one line that names the refused step."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


def enter(announce: Callable[[int], None]) -> None:
    """Continues as the first process of a new PID namespace, with a /proc of its own.

    The function returns in a child.  The calling process passes the child's outer pid to `announce`, for which the
    child waits, and then ends itself with the child.
    """
    uid, gid = os.geteuid(), os.getegid()
    _check("unshare", ctypes.CDLL(None, use_errno=True).unshare(_flags(uid)))
    if uid != 0:
        _map("setgroups", "deny")
        _map("uid_map", f"{uid} {uid} 1")
        _map("gid_map", f"{gid} {gid} 1")
    answer, answered = os.pipe()
    leave, left = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(left)
        try:
            _mount()
        except Refused as refused:
            os.write(answered, f"{refused.errno}\n{refused}".encode())
            os._exit(1)
        os.setsid()
        os.write(answered, b"0\n")
        os.read(leave, 1)  # the end of the file
        for fd in (answer, answered, leave):
            os.close(fd)
        return
    os.close(answered)
    number, _, message = os.read(answer, 4096).decode().partition("\n")
    if number != "0":
        raise Refused(int(number or 0), message or "the first process died")
    announce(pid)
    os._exit(0)


def _flags(uid: int) -> int:
    flags = CLONE_NEWPID | CLONE_NEWNS
    return flags if uid == 0 else flags | CLONE_NEWUSER  # in which anybody may do the rest


def _map(name: str, value: str) -> None:
    try:
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise Refused(error.errno or 0, f"{name}: {str(error.strerror).lower()}") from None


def _mount() -> None:
    """Mounts a /proc of this namespace; mounts from outside still propagate in, those made here do not leave."""
    mount = ctypes.CDLL(None, use_errno=True).mount
    mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_void_p)
    _check("mount /", mount(None, b"/", None, MS_REC | MS_SLAVE, None))
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _check("mount /proc", mount(b"proc", b"/proc", b"proc", flags, None))


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise Refused(number, f"{what}: {os.strerror(number).lower()}")


def ours(first: int, inner: Iterable[int], *, deep: bool = False) -> dict[int, int]:
    """Returns the outer pid of each inner one; processes that are gone are left out.

    `first` is the outer pid of the namespace's first process.  Its children are looked at, or with `deep` all of its
    descendants.
    """
    wanted = set(inner)
    found: dict[int, int] = {}
    depth = len(_numbers(first)) - 1
    for _ in range(2):  # the kernel may skip a child while another is being reaped
        process = look_up(first)
        if process is None:
            break
        pids = [each.pid for each in walk(first)] if deep else children(process)
        for pid in reversed(pids):  # the newest, which are asked for most, come last
            if not wanted - found.keys():
                return found
            pid_there = _inner(pid, depth)
            if pid_there in wanted:
                found[pid_there] = pid
    return found


def _inner(pid: int, depth: int) -> int:
    """Returns the pid in the namespace at a depth: a process in a sandbox has one more below it."""
    numbers = _numbers(pid)
    return numbers[depth] if 0 <= depth < len(numbers) else 0


def _numbers(pid: int) -> list[int]:
    """Returns the pids of a process in each namespace from ours on, the outermost first."""
    for line in read_proc(f"/proc/{pid}/status").split(b"\n"):
        if line.startswith(b"NSpid:"):
            return [int(number) for number in line.split()[1:]]
    return []
