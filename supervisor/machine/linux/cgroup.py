"""Makes, limits, freezes, kills and removes control groups of version 2: cgroups(7), the kernel's cgroup-v2.rst.

Each unit has one group, and those of a tenant's units are below one of the tenant's, its slice.  A process that leaves its session, its parents and its environment is still in its group,
which can be killed and frozen as a whole.  A group that is gone counts as an empty one, not as an error.  The choice of
the parent folder is made by `process.containment`.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from .kernel import RETRYABLE, read_proc

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Sequence

CPU_PERIOD_US = 100_000
"""Microseconds of a quota's period, the kernel's default: the quota is processor time of all processes per period."""
CPU_QUOTA_US = 1000
"""Microseconds of the smallest quota that the kernel accepts."""


SLICE = "tenant-"
"""The beginning of a slice's folder; the rest is the name of the tenant.  A unit's folder has a "#"."""
MAKE_TRIES = 100
"""Number of attempts to make a group in a slice that is removed, as empty, at the same moment."""


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

    def make(
        self, unit: str, memory_bytes: int, cpu_percent: int, processes: int, tenant_limits: Sequence[int] | None = None
    ) -> str:
        """Makes a unit's group with its limits, as far as the controllers are delegated, and returns its folder.

        A limit of 0 is no limit; `cpu_percent` is in percent of one core.  `tenant_limits` has the same three of the
        unit's tenant, all its units together.
        """
        path = self.of(unit)
        slice_of_it = slice_around(path)
        if slice_of_it:
            self._make_in_slice(path, slice_of_it, tenant_limits or (0, 0, 0))
        else:
            with contextlib.suppress(FileExistsError):  # of a start that failed a moment ago
                os.mkdir(path)
        try:
            self._limit(path, limits(memory_bytes, cpu_percent, processes))
            if slice_of_it and "memory" in self.controllers:
                # Its tenant's limit can have the kernel choose one of its processes: then all of it ends.
                _write_if_present(path, "memory.oom.group", "1")
        except OSError:
            remove(path)
            raise
        return path

    def _make_in_slice(self, path: str, folder: str, tenant_limits: Sequence[int]) -> None:
        """Makes a unit's group, and the slice first where it is missing: the last unit that ends removes it."""
        for _ in range(MAKE_TRIES):
            try:
                if self._make_slice(folder):
                    self._limit(folder, slice_limits(*tenant_limits))
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path)
                return
            except FileNotFoundError:
                continue
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                if error.errno != errno.ENODEV:  # removed while it was written
                    raise
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), folder)

    def _make_slice(self, folder: str) -> bool:
        """Makes a slice whose units may have limits; returns False where it exists already."""
        is_new = True
        try:
            os.mkdir(folder)
        except FileExistsError:
            is_new = False
        missing = self.controllers.difference(read(folder, "cgroup.subtree_control").split())
        for controller in sorted(missing):
            write(folder, "cgroup.subtree_control", f"+{controller}")
        return is_new

    def _limit(self, path: str, files: list[tuple[str, str]]) -> None:
        for name, value in files:
            if name.partition(".")[0] in self.controllers and os.path.exists(f"{path}/{name}"):
                write(path, name, value)

    def unit_of(self, pid: int) -> str:
        """Returns the unit whose group, or a group below it, holds a process, a zombie included; "" if none does."""
        name = name_of(pid)
        if not name.startswith(self.name):
            return ""
        first, _, rest = name[len(self.name) :].partition("/")
        if not is_slice(first):
            return first
        unit = rest.partition("/")[0]
        return f"{first.removeprefix(SLICE)}/{unit}" if unit else ""


def folder_of(path: str, unit: str) -> str:
    """Returns the folder of a unit's group below the parent group's folder `path`: in the slice of its tenant, if it has one."""
    tenant, slash, local = unit.partition("/")
    return f"{slice_of(path, tenant)}/{local}" if slash else f"{path}/{unit}"


def slice_of(path: str, tenant: str) -> str:
    """Returns the folder of a tenant's slice below the parent group's folder `path`, whether it exists or not."""
    return f"{path}/{SLICE}{tenant}"


def is_slice(name: str) -> bool:
    """Returns True if a folder's name is that of a slice."""
    return name.startswith(SLICE) and "#" not in name


def slice_around(path: str) -> str:
    """Returns the folder of the slice that a unit's folder is in; "" if it is in none."""
    folder = os.path.dirname(path)
    return folder if is_slice(os.path.basename(folder)) else ""


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
    """Changes limits of a living group, as far as it has the controllers; 0 is no limit. It may block while the kernel reclaims memory."""
    none = {"memory.max": "max", "memory.swap.max": "max", "cpu.max": f"max {CPU_PERIOD_US}"}
    for name, value in (none | dict(limits(memory_bytes, cpu_percent, 0))).items():
        _write_if_present(path, name, value)


def slice_limits(memory_bytes: int, cpu_percent: int, processes: int) -> list[tuple[str, str]]:
    """Returns the controller files that set these limits of a slice, each with its content; 0 is no limit.

    When its memory is used up, the kernel ends one unit of the tenant, not all.
    """
    none = {"memory.max": "max", "memory.swap.max": "max", "cpu.max": f"max {CPU_PERIOD_US}"}
    wanted = none | {"pids.max": "max"} | dict(limits(memory_bytes, cpu_percent, processes))
    return [(name, value) for name, value in wanted.items() if name != "memory.oom.group"]


def relimit_slice(path: str, memory_bytes: int, cpu_percent: int, processes: int) -> None:
    """Changes the limits of a slice that differ, as far as it has the controllers. It may block while the kernel reclaims memory."""
    for name, value in slice_limits(memory_bytes, cpu_percent, processes):
        try:
            is_so = read(path, name).strip() == value
        except FileNotFoundError:
            continue
        if not is_so:
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
    """Writes one file of a group in one call, so that the kernel's refusal is not lost in a buffer."""
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


def figure(path: str, name: str, key: str) -> int:
    """Returns one figure of a file of `key figure` lines; 0 if the group, the file or the line is absent."""
    for line in read(path, name).split("\n"):
        word, _, count = line.partition(" ")
        if word == key:
            return int(count)
    return 0


def oom(path: str) -> dict[str, int | str]:
    """Returns what the kernel's OOM killer did to a unit: `kills` is the number of its processes that were killed.

    `of` says whose memory was used up: the `unit`'s, its `tenant`'s, or `above`: the machine's, or that of a group above
    ours. `limit_bytes` is that limit and `peak_bytes` the most that was used of it; 0 where it is not known.
    """
    kills = figure(path, "memory.events", "oom_kill")
    found: dict[str, int | str] = {"kills": kills, "of": "", "limit_bytes": 0, "peak_bytes": 0}
    if not kills:
        return found
    # Each limit that is hit counts as `oom` in its own group and those above, a kill in the group of the killed one.
    if figure(path, "memory.events", "oom"):
        group, of = path, "unit"
    elif figure(os.path.dirname(path), "memory.events.local", "oom"):
        group, of = os.path.dirname(path), "tenant"
    else:
        return found | {"of": "above"}
    limit, peak = read(group, "memory.max").strip(), read(group, "memory.peak").strip()
    limit_bytes = int(limit) if limit.isdecimal() else 0
    return found | {"of": of, "limit_bytes": limit_bytes, "peak_bytes": int(peak or 0)}


def below(path: str) -> list[str]:
    """Returns the folders of the groups directly below this one; none where the path is gone or too long."""
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:  # gone, or too deep for a path
        if error.errno in RETRYABLE:
            raise
        return []


def remove(path: str) -> bool:
    """Removes the group and those below it, however deep; returns False if a process is still in one.

    A slice goes with its last unit.
    """
    if not _remove(path):
        return False
    if slice_of_it := slice_around(path):
        with contextlib.suppress(OSError):  # there are others in it
            os.rmdir(slice_of_it)
    return True


def _remove(path: str) -> bool:
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
    """Locks the folder against `remove_unheld`; returns the descriptor, or -1 if the folder has just been removed."""
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
