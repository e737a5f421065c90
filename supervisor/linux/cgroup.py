"""Makes, limits, freezes, kills and removes control groups of version 2: cgroups(7), the kernel's cgroup-v2.rst.

Each unit has one group.  A process that leaves its session, its parents and its environment is still in its group,
which can be killed and frozen as a whole.  A group that is gone counts as an empty one, not as an error.  The choice of
the parent folder is made by `process.containment`.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from .kernel import RETRYABLE, read_proc

CPU_PERIOD_US = 100_000
"""Microseconds of a quota's period, the kernel's default: the quota is processor time of all processes per period."""
CPU_QUOTA_US = 1000
"""Microseconds of the smallest quota that the kernel accepts."""


class Groups:
    """Represents the parent of the units' groups: `path` is its folder, `name` its name in /proc/PID/cgroup."""

    __slots__ = ("controllers", "name", "path")

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self.name = name.rstrip("/") + "/"
        self.controllers = frozenset(read(path, "cgroup.subtree_control").split())

    def of(self, unit: str) -> str:
        """Returns the folder of a unit's group, whether it exists or not."""
        return folder_of(self.path, unit)

    def make(self, unit: str, memory_bytes: int, cpu_percent: int, processes: int) -> str:
        """Makes a unit's group with its limits, as far as the controllers are delegated, and returns its folder.

        A limit of 0 is no limit; `cpu_percent` is in percent of one core.

        Raises:
            OSError: the kernel refuses the group or a limit; nothing of it remains.
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
        """Returns the unit whose group, or a group below it, holds a process, a zombie included; "" if none does."""
        name = name_of(pid)
        if not name.startswith(self.name):
            return ""
        return name[len(self.name) :].partition("/")[0].replace(":", "/")


def folder_of(path: str, unit: str) -> str:
    """Returns the folder of a unit's group below the parent group's folder `path`."""
    return f"{path}/{unit.replace('/', ':')}"  # agents' names have neither


def limits(memory_bytes: int, cpu_percent: int, processes: int) -> list[tuple[str, str]]:
    """Returns the controller files that set these limits, each with its content."""
    found: list[tuple[str, str]] = []
    if memory_bytes:
        # Without swap the limit is one of memory; oom.group: a unit that lost some of its processes is of no use.
        found += [("memory.max", str(memory_bytes)), ("memory.swap.max", "0")]
        found += [("memory.oom.group", "1")]
    if processes:
        found += [("pids.max", str(processes))]
    if cpu_percent:
        quota_us = max(CPU_QUOTA_US, cpu_percent * CPU_PERIOD_US // 100)
        found += [("cpu.max", f"{quota_us} {CPU_PERIOD_US}")]
    return found


def relimit(path: str, memory_bytes: int, cpu_percent: int) -> None:
    """Changes limits of a living group, as far as it has the controllers; 0 is no limit. It may block while the kernel reclaims memory.

    Raises:
        OSError: the kernel refuses a limit.
    """
    none = {"memory.max": "max", "memory.swap.max": "max", "cpu.max": f"max {CPU_PERIOD_US}"}
    for name, value in (none | dict(limits(memory_bytes, cpu_percent, 0))).items():
        _write_if_present(path, name, value)


def name_of(pid: int | str) -> str:
    """Returns the group of a process as /proc/PID/cgroup names it; "" if the process or version 2 is absent."""
    for line in os.fsdecode(read_proc(f"/proc/{pid}/cgroup")).split("\n"):
        if line.startswith("0::"):
            return line[3:]
    return ""


def read(path: str, name: str) -> str:
    """Reads one file of a group; returns "" if the group is gone."""
    try:
        return os.fsdecode(read_proc(f"{path}/{name}"))
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed since it was opened
            raise
        return ""


def write(path: str, name: str, value: str) -> None:
    """Writes one file of a group in one call, so that the kernel's refusal is not lost in a buffer.

    Raises:
        OSError: the kernel refuses it, or there is no such file.
    """
    fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _write_if_present(path: str, name: str, value: str) -> None:
    try:
        write(path, name, value)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def kill(path: str) -> None:
    """Sends SIGKILL to all processes in the group and below it, and to those that they fork meanwhile."""
    _write_if_present(path, "cgroup.kill", "1")


def freeze(path: str, wanted: bool) -> None:
    """Freezes the group and those below it, or thaws them; SIGKILL ends frozen processes too."""
    _write_if_present(path, "cgroup.freeze", "1" if wanted else "0")


def is_populated(path: str) -> bool:
    """Returns True if a process in the group or below it lives; zombies do not count."""
    return "populated 1" in read(path, "cgroup.events")


def processes(path: str) -> set[int]:
    """Returns the pids in the group itself."""
    return {int(pid) for pid in read(path, "cgroup.procs").split()}


def oom_kills(path: str) -> int:
    """Returns the number of processes that the kernel killed because the group exceeded its memory limit."""
    for line in read(path, "memory.events").split("\n"):
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0


def below(path: str) -> list[str]:
    """Returns the folders of the groups directly below this one; none where the path is gone or too long.

    Raises:
        OSError: descriptors or memory have run out.
    """
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:  # gone, or too deep for a path
        if error.errno in RETRYABLE:
            raise
        return []


def remove(path: str) -> bool:
    """Removes the group and those below it, however deep; returns False if a process is still in one."""
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
    """Locks the folder against `remove_unheld`; returns the descriptor, or -1 if the folder has just been removed.

    Raises:
        OSError: the folder cannot be opened.
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
    """Removes the group if it is empty and no daemon, neither ours nor the next, holds it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rmdir(path)
    finally:
        os.close(fd)
