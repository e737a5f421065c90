"""Controls the processes of a zygote's forks from outside of it: their cgroups, and their pids as the kernel reports them.

Guarantees that a group is removed as soon as it is empty, and that a pid from a message of the zygote counts only if
the kernel shows a child of the zygote behind it. Must not know the messages' order, nor when a unit ends.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence

from corral.supervisor.machine.linux import cgroup, kernel, pid_namespace
from corral.worker.contract.errors import Overloaded

from ..process.launcher_link import PING_S
from ..process.parent import Launch, Unit, failed
from .protocol import Spawned, check


class ForkCgroups:
    """Makes, freezes, kills and removes the cgroups of the forks of one zygote, if there are cgroups."""

    def __init__(self, groups: cgroup.Groups | None) -> None:
        self._groups = groups
        self._frozen: set[str] = set()
        self._abandoned: set[str] = set()  # to be removed as soon as they are empty

    def hand_over(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns what the next program goes on from: the frozen groups, and the abandoned ones."""
        return tuple(self._frozen), tuple(self._abandoned)

    def take_up(self, frozen: Iterable[str], abandoned: Iterable[str]) -> None:
        """Goes on from what the program before has left."""
        self._frozen, self._abandoned = set(frozen), set(abandoned)

    def make(self, launch: Launch, unit: Unit) -> list[int]:
        """Makes a group if there are cgroups; returns the descriptor through which a process joins it."""
        if self._groups is None:
            return []
        limits = launch.memory_bytes, launch.cpu_percent, launch.processes
        try:
            unit.group = self._groups.make(launch.unit, *limits, launch.tenant_limits)
            self._abandoned.discard(unit.group)
            return [os.open(f"{unit.group}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)]
        except OSError as error:
            self.abandon(unit)
            raise failed(launch.unit, "cgroup", error.errno or 0, str(error.strerror)) from error

    def is_frozen(self, unit: Unit) -> bool:
        """Returns True if the unit's group was frozen here."""
        return unit.group in self._frozen

    def set_frozen(self, unit: Unit, is_frozen: bool) -> None:
        """Freezes or thaws the unit's group, which it has."""
        assert unit.group is not None, "the caller has checked it"
        try:
            cgroup.freeze(unit.group, is_frozen)
        except OSError as error:
            what = "freeze" if is_frozen else "thaw"
            text = f'cannot {what} "{unit.key}": {str(error.strerror).lower()}'
            raise Overloaded(text, retry_after_s=PING_S) from error
        if is_frozen:
            self._frozen.add(unit.group)
        else:
            self._frozen.discard(unit.group)

    def kill(self, unit: Unit) -> None:
        """Kills the processes in the unit's group, if it has one."""
        if unit.group is not None:
            self._frozen.discard(unit.group)
            with contextlib.suppress(OSError):  # no descriptor now: its parent and the launcher do it, too
                cgroup.kill(unit.group)

    def abandon(self, unit: Unit) -> None:
        """Removes the unit's group, now or when it is empty."""
        if unit.group is not None:
            self._frozen.discard(unit.group)
            self._abandoned.add(unit.group)
            self.sweep()

    def sweep(self) -> None:
        """Removes the abandoned groups that are empty."""
        if self._abandoned:
            self._abandoned = {group for group in self._abandoned if not cgroup.remove(group)}


class ForkPids:
    """Translates and verifies pids that a zygote reports; `is_inside` says that it has a pid namespace of its own."""

    def __init__(self, zygote: int, *, is_inside: bool) -> None:
        self._zygote = zygote
        self._is_inside = is_inside

    def ours(self, pids: list[int]) -> Sequence[int]:
        """Translates pids to our pid namespace; leaves out those that are gone."""
        if not self._is_inside:
            return pids
        return list(pid_namespace.ours(self._zygote, pids).values())

    def is_child(self, pid: int) -> bool:
        """Returns True if a process with this pid of ours is a child of the zygote, living or a zombie."""
        process = kernel.look_up(pid)
        return process is not None and process.parent == self._zygote

    def identity(self, message: Spawned) -> tuple[int, int] | None:
        """Returns pid and starttime of a new fork in our pid namespace; None if it has ended already."""
        pid = self.ours([message.pid])
        process = kernel.look_up(pid[0]) if pid else None
        if process is None:
            return None
        check(process.parent == self._zygote, f"pid {message.pid} is none of its children")
        if not self._is_inside and process.starttime != message.starttime:
            return None
        return process.pid, process.starttime
