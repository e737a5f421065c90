"""Control groups of version 2, one for each unit: cgroups(7) and the kernel's cgroup-v2.rst.

What leaves its session, its parents and its environment behind is still in its group, which can be
killed and frozen as a whole.  A group that is gone is no error here: then nothing is in it.  Which
folder is ours to use, `containment` decides.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from .kernel import RETRYABLE, read_proc

CPU_PERIOD_US = 100_000
"""The kernel's default: a quota is the processor time of all processes in each such period."""
CPU_QUOTA_US = 1000
"""The least that the kernel takes."""


class Groups:
    """The group whose children are the units' groups: `path` is its folder, `name` is what /proc calls it."""

    __slots__ = ("controllers", "name", "path")

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self.name = name.rstrip("/") + "/"
        self.controllers = frozenset(read(path, "cgroup.subtree_control").split())

    def of(self, unit: str) -> str:
        """The folder of a unit's group, whether there is one or not."""
        return folder_of(self.path, unit)

    def make(self, unit: str, memory_bytes: int, cpu_percent: int, processes: int) -> str:
        """A new group and its limits, as far as it has the controllers; 0 is no limit.

        Raises:
            OSError: there can be none; nothing is left.
        """
        path = self.of(unit)
        with contextlib.suppress(FileExistsError):  # of a start that failed a moment ago
            os.mkdir(path)
        try:
            for name, value in limits(memory_bytes, cpu_percent, processes):
                if name.partition(".")[0] in self.controllers and os.path.exists(f"{path}/{name}"):
                    write(path, name, value)
        except OSError:
            remove(path)
            raise
        return path

    def unit_of(self, pid: int) -> str:
        """The unit in whose group, or in a group below it, a process is, a zombie included; or ""."""
        name = name_of(pid)
        if not name.startswith(self.name):
            return ""
        return name[len(self.name) :].partition("/")[0].replace(":", "/")


def folder_of(path: str, unit: str) -> str:
    """The folder of a unit's group below that of all."""
    return f"{path}/{unit.replace('/', ':')}"  # agents' names have neither


def limits(memory_bytes: int, cpu_percent: int, processes: int) -> list[tuple[str, str]]:
    """The files of the controllers and what is written to them."""
    found: list[tuple[str, str]] = []
    if memory_bytes:
        # What does not fit is not swapped out; and a unit without some of its processes is no use.
        found += [("memory.max", str(memory_bytes)), ("memory.swap.max", "0")]
        found += [("memory.oom.group", "1")]
    if processes:
        found += [("pids.max", str(processes))]
    if cpu_percent:
        quota_us = max(CPU_QUOTA_US, cpu_percent * CPU_PERIOD_US // 100)
        found += [("cpu.max", f"{quota_us} {CPU_PERIOD_US}")]
    return found


def name_of(pid: int | str) -> str:
    """The group of a process as /proc calls it; "" when it is gone or there is no version 2."""
    for line in os.fsdecode(read_proc(f"/proc/{pid}/cgroup")).split("\n"):
        if line.startswith("0::"):
            return line[3:]
    return ""


def read(path: str, name: str) -> str:
    """One file of a group, or ""."""
    try:
        return os.fsdecode(read_proc(f"{path}/{name}"))
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed since it was opened
            raise
        return ""


def write(path: str, name: str, value: str) -> None:
    """Write one file of a group at once, so that a refusal is seen.

    Raises:
        OSError: the kernel refuses it, or there is no such file.
    """
    fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _tell(path: str, name: str, value: str) -> None:
    try:
        write(path, name, value)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def kill(path: str) -> None:
    """SIGKILL all that is in the group and below it, and what they fork meanwhile."""
    _tell(path, "cgroup.kill", "1")


def freeze(path: str, wanted: bool) -> None:
    """Let nothing in the group and below it run, or let it run again; a kill reaches what is frozen."""
    _tell(path, "cgroup.freeze", "1" if wanted else "0")


def is_populated(path: str) -> bool:
    """Something in the group or below it lives; zombies do not count."""
    return "populated 1" in read(path, "cgroup.events")


def processes(path: str) -> set[int]:
    """The pids in the group itself."""
    return {int(pid) for pid in read(path, "cgroup.procs").split()}


def oom_kills(path: str) -> int:
    """How many of its processes the kernel has killed because the group had too much memory."""
    for line in read(path, "memory.events").split("\n"):
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0


def below(path: str) -> list[str]:
    """The folders of the groups right below this one, as far as they can be named.

    Raises:
        OSError: no descriptor or memory to look.
    """
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:  # gone, or too deep for a path
        if error.errno in RETRYABLE:
            raise
        return []


def remove(path: str) -> bool:
    """Remove the group and those below it, however deep; False when something is in it yet."""
    with contextlib.suppress(OSError):  # as a rule there are none below it
        os.rmdir(path)
        return True
    groups = [path]
    for group in groups:
        groups += below(group)
    is_empty = True
    for group in reversed(groups):
        try:
            os.rmdir(group)
        except FileNotFoundError:
            continue
        except OSError:  # EBUSY, as a rule
            is_empty = False
    return is_empty


def hold(path: str) -> int:
    """A descriptor that keeps the folder from `remove_unheld`, or -1 when that has just been faster.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == os.stat(path).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return -1


def remove_unheld(path: str) -> None:
    """Remove the group if it is empty and no daemon, ours or the next, holds it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rmdir(path)
    finally:
        os.close(fd)
