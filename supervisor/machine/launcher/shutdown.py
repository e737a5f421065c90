"""Ends everything below the launcher once its daemon is gone: processes, containers, groups of the kernel.

It guarantees that nothing is left that may be ended, and that its end is not held up by what may not: a process that
a debugger holds, a container that its engine does not remove.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from ..linux import cgroup
from ..linux.kernel import kill_below, look_up, signal_child
from .process_tree import KILL_AGAIN_S, Trees
from .tree_signals import apply_freeze

REMOVE_S = 1.0
"""Seconds that the launcher stays to remove its groups."""
CONTAINERS_S = 5.0
"""Seconds that monitors have to remove their containers: those of docker are below another process."""


def kill_all(trees: Trees, wake: int, abandoned: set[str]) -> None:
    """Kills everything below this process, again and again, until nothing is left.

    Groups of other units, and the parent folder, may belong to the next daemon already: they are not touched.
    """
    groups = {unit.group for unit in trees.units.values() if unit.group is not None}
    monitors = _end_containers(trees)
    spared_until_s = time.monotonic() + CONTAINERS_S
    pause_s = KILL_AGAIN_S[0]
    dead: list[int] = []
    while True:
        with contextlib.suppress(OSError):  # the rounds below need no descriptor
            for group in groups - set(monitors.values()):
                cgroup.kill(group)
        try:
            while pid := os.wait4(-1, os.WNOHANG)[0]:
                monitors.pop(pid, None)
        except ChildProcessError:
            break
        left = trees.own_children()
        if left == dead:
            break  # a debugger keeps them from being reaped
        dead = left if _are_dead(left) else []
        if time.monotonic() >= spared_until_s:
            monitors.clear()
        for pid in left:
            if pid not in monitors:
                kill_below(pid)
        select.select([wake], [], [], pause_s)
        drain(wake)
        pause_s = min(2 * pause_s, KILL_AGAIN_S[1])
    if trees.groups is not None:
        with contextlib.suppress(OSError):  # else the next daemon removes them
            _remove_groups(trees.groups.path, groups | abandoned)


def _end_containers(trees: Trees) -> dict[int, str | None]:
    """Makes each monitor end and remove its container; returns their pids and groups."""
    monitors: dict[int, str | None] = {}
    for unit in trees.units.values():
        if unit.is_contained and unit.is_alive:
            with contextlib.suppress(OSError):
                if unit.is_frozen:
                    unit.is_frozen = False
                    apply_freeze(trees, unit)
            signal_child(unit.pid, signal.SIGRTMIN)  # `containers.monitor` has it as REMOVE
            monitors[unit.pid] = unit.group
    return monitors


def _remove_groups(path: str, left: set[str]) -> None:
    deadline_s = time.monotonic() + REMOVE_S
    while time.monotonic() < deadline_s:
        left = {group for group in left if not cgroup.remove(group)}
        if not left:
            try:
                cgroup.remove_unheld(path)
                return
            except BlockingIOError:
                pass  # by the next daemon; or ours has not closed everything yet, dying
        time.sleep(KILL_AGAIN_S[0])


def _are_dead(pids: list[int]) -> bool:
    """Returns True if none of these processes lives; False where that cannot be read."""
    try:
        processes = [look_up(pid) for pid in pids]
    except OSError:
        return False
    return all(process is None or process.is_dead for process in processes)


def drain(fd: int) -> None:
    """Empties a non-blocking pipe."""
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass
