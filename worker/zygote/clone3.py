"""Forks a process directly into a control group by clone3(2), so that it need not be moved there.

Moving a process into another group takes the kernel 8 to 25 ms, in which it waits until no processor uses an old state
(cgroup_threadgroup_rwsem); a new process can begin in a group at once (CLONE_INTO_CGROUP, since Linux 5.7). No library
offers such a fork, so the work of glibc's own is done here: Python's hooks, the thread's id and its list of robust
futexes. The handlers of pthread_atfork(3) cannot be called from here: where a loaded library has some, or any other part
is unavailable, forks are moved as before. docs/decisions/0006-fork-into-a-group.md has the reasons. Standard library
alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import sys
import threading

from corral.supervisor.machine.linux import cgroup

CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_INTO_CGROUP = 0x00200000, 0x01000000, 0x200000000
CLONE3 = 435
ROBUST_LISTS = {"x86_64": (273, 274), "aarch64": (99, 100)}
"""The system calls set_robust_list and get_robust_list by machine."""
PR_GET_TID_ADDRESS = 40
PT_DYNAMIC, DT_NULL, DT_STRTAB, DT_STRSZ = 2, 0, 5, 10
HOOK = b"_atfork"
"""The common end of __register_atfork and pthread_atfork, in the names that an object refers to."""
HOSTS = ("libc.so", "libpthread.so")
"""The libraries that define these functions, and register nothing."""
TRIED, TRIAL_S = 3, 5
"""Exit status of a trial fork, and the seconds that it may take."""

_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, as a fork has to
_libc.syscall.restype = ctypes.c_long


class Impossible(Exception):
    """Reports why this process cannot fork into groups."""


class Clone3:
    """Forks this process, which must have one thread, into control groups."""

    def __init__(self) -> None:
        """Checks whether it is possible here, and tries it."""
        calls = ROBUST_LISTS.get(os.uname().machine)
        if calls is None or struct.calcsize("P") != 8 or sys.implementation.name != "cpython":
            raise Impossible(f"nothing is known of {os.uname().machine}")
        if not getattr(sys, "_is_gil_enabled", lambda: True)() or not _is_glibc():
            raise Impossible("the steps of a fork are not known here")
        if name := atfork_user():
            raise Impossible(f"{name} has handlers for forks")
        self._set_robust_list, get_robust_list = calls
        thread, head, size = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
        if _libc.prctl(PR_GET_TID_ADDRESS, ctypes.byref(thread), 0, 0, 0) or _libc.syscall(
            get_robust_list, 0, ctypes.byref(head), ctypes.byref(size)
        ):
            raise Impossible(os.strerror(ctypes.get_errno()))
        self._thread, self._robust_list = thread.value, (head, size)
        try:
            self._try()
        except OSError as error:
            raise Impossible(str(error)) from error

    def fork(self, group: int | None) -> int:
        """Forks as os.fork does; the child begins in the group whose folder is open as `group`."""
        flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        flags |= 0 if group is None else CLONE_INTO_CGROUP
        arguments = struct.pack("=11Q", flags, 0, self._thread, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, group or 0)
        sys.audit("os.fork")
        python = ctypes.pythonapi
        python.PyOS_BeforeFork()
        pid: int = _libc.syscall(CLONE3, arguments, ctypes.c_size_t(len(arguments)))
        if pid == 0:
            _libc.syscall(self._set_robust_list, *self._robust_list)
            python.PyOS_AfterFork_Child()
            return 0
        number = ctypes.get_errno()
        python.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(number, os.strerror(number))
        return pid

    def _try(self) -> None:
        """Forks once for trial: a filter of system calls may kill for one of them, and a child must be able to start threads."""
        pid = self.fork(None)
        if pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
                signal.alarm(TRIAL_S)
                thread = threading.Thread(target=os.getpid, daemon=True)
                thread.start()
                thread.join(TRIAL_S)
                if not thread.is_alive() and threading.get_native_id() == os.getpid():
                    status = TRIED
            finally:
                os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != TRIED:
            raise OSError(errno.ENOTSUP, "a trial fork did not do what it should")


def found() -> Clone3 | None:
    """Returns a Clone3 if this process is in a group and can use it, else None."""
    if cgroup.name_of("self") in ("", "/"):
        return None
    with contextlib.suppress(Impossible):
        return Clone3()
    return None


def is_alone() -> bool:
    """Returns True if this process has one thread."""
    return os.stat("/proc/self/task").st_nlink == 3  # itself, its parent, and a folder for each


def atfork_user() -> str:
    """Returns the name of a loaded object that refers to pthread_atfork(3), or ""."""
    found: list[str] = []

    def look(place: int, _size: int, _data: object) -> int:
        loaded = _Loaded.from_address(place)
        name = os.path.basename(os.fsdecode(loaded.name or b""))
        if HOOK in _names(loaded) and not name.startswith(HOSTS):
            found.append(name or "the program")
        return len(found)

    kind = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
    _libc.dl_iterate_phdr(kind(look), None)
    return found[0] if found else ""


class _Loaded(ctypes.Structure):
    """Mirrors the begin of struct dl_phdr_info, see dl_iterate_phdr(3)."""

    _fields_ = (
        ("base", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_size_t),
        ("count", ctypes.c_uint16),
    )


def _names(loaded: _Loaded) -> bytes:
    """Returns the table of names that a loaded object defines or refers to, see elf(5)."""
    for each in range(loaded.count):
        header = ctypes.string_at(loaded.headers + 56 * each, 24)
        kind, _flags, _offset, address = struct.unpack("=IIQQ", header)
        if kind == PT_DYNAMIC:
            facts: dict[int, int] = {}
            place = loaded.base + address
            while True:
                tag, value = struct.unpack("=qQ", ctypes.string_at(place, 16))
                if tag == DT_NULL:
                    break
                facts.setdefault(tag, value)
                place += 16
            table = facts.get(DT_STRTAB, 0)
            table += loaded.base if table < loaded.base else 0  # the kernel's own is not relocated
            return ctypes.string_at(table, facts.get(DT_STRSZ, 0))
    return b""


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False
