"""Joins the namespaces of another process, and gives up every capability that comes with that: see setns(2), capabilities(7).

A process that joins a user namespace has all capabilities in it, whatever its user is; a sandbox has dropped them. Standard
library alone: the launcher loads it only on request.
"""

from __future__ import annotations

import ctypes
import errno
import os

from .kernel import prctl

FLAGS = {
    "user": 0x10000000,
    "mnt": 0x00020000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "net": 0x40000000,
}
"""By its name in /proc/PID/ns: the flag of each namespace."""
NETWORK = FLAGS["net"]
PR_CAPBSET_DROP, PR_SET_DUMPABLE = 24, 4
CAPABILITIES = 64
"""Number of capabilities that the sets of capset(2) have room for."""
CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """Reports that namespaces cannot be joined: errno, and one line that names the refused step."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


def differing(pid: int) -> int:
    """Returns the flags of the namespaces of a process that are not those of this one."""
    flags = 0
    try:
        for name, flag in FLAGS.items():
            theirs, ours = os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
                flags |= flag
    except OSError as error:
        number = error.errno or errno.ESRCH
        raise Refused(number, f"namespaces: {os.strerror(number).lower()}") from None
    return flags


def join(pidfd: int, flags: int) -> None:
    """Joins namespaces of a process; children from then on are in its pid namespace.

    This process cannot be looked into by others of its user from then on, until its next exec.
    """
    prctl(PR_SET_DUMPABLE, 0)
    if flags and _libc.setns(pidfd, flags) != 0:
        number = ctypes.get_errno()
        raise Refused(number, f"setns: {os.strerror(number).lower()}")


def drop_capabilities() -> None:
    """Gives up every capability for good: no program that is executed later has one, not even for root."""
    for capability in range(CAPABILITIES):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                break  # the kernel has no more
            raise Refused(error.errno or 0, f"capability {capability}: {error.strerror}") from None
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        number = ctypes.get_errno()
        raise Refused(number, f"capset: {os.strerror(number).lower()}")
