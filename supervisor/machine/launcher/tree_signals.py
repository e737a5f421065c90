"""Signals whole trees of processes: a signal, SIGKILL or a freeze reaches every process of a unit.

A process is signalled as a child before it is reaped, or through a pidfd that is opened first and checked afterwards.
Which unit is signalled, and when a round is repeated, is decided by `main_loop`.  Standard library alone: it is part of
the launcher.
"""

from __future__ import annotations

import signal

from ..linux import cgroup
from ..linux.kernel import Process, signal_child, signal_other
from .process_tree import Trees, Unit
from .sandboxes import BY_THE_KERNEL

STOP_ROUNDS = 10
"""Number of looks at one tree that is being stopped before others are served."""
# A tree that was stopped would not see these before it is continued: systemd.kill(5) has SIGCONT follow them, too.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP))


def apply_freeze(trees: Trees, unit: Unit) -> bool:
    """Freezes or thaws a unit; returns False if it needs another look, since a fork may have raced.

    A container is in a group of its engine, so that its processes are stopped one by one.
    """
    if unit.group is not None and not unit.is_contained:
        cgroup.freeze(unit.group, unit.is_frozen)
        return True
    if unit.is_frozen:
        return _is_stopped(trees, unit)
    if unit.is_scattered or not unit.is_alive:
        signal_tree(trees, unit, signal.SIGCONT)
    else:
        signal_child(-unit.pid, signal.SIGCONT)
    return True


def signal_tree(trees: Trees, unit: Unit, signum: int) -> None:
    """Signals the leader's process group at once, and every other process of the unit one by one."""
    members: list[Process] = []
    try:
        if unit.group is not None and signum == signal.SIGKILL:
            cgroup.kill(unit.group)  # first, since it is immediate; processes that left the group remain
        trees.adopt()
        members = trees.members(unit)
    finally:
        _signal_all(trees, unit, members, signum)
    if signum in ENDING:  # whatever its state: it may stop between a look at it and the signal
        _signal_all(trees, unit, members, signal.SIGCONT)


def _signal_all(trees: Trees, unit: Unit, members: list[Process], signum: int) -> None:
    if unit.is_alive and (not unit.inner or signum in BY_THE_KERNEL):
        signal_child(-unit.pid, signum)
        if unit.report >= 0:
            signal_child(unit.pid, signum)  # perhaps not yet in a session of its own
    for process in members:
        if not (unit.is_alive and process.group == unit.pid):
            _signal_one(trees, process, signum)


def _is_stopped(trees: Trees, unit: Unit) -> bool:
    if unit.is_alive:
        signal_child(-unit.pid, signal.SIGSTOP)  # a signal to a process group misses no fork
    seen: set[int] = set()
    for _ in range(STOP_ROUNDS):
        trees.adopt()
        others = [process for process in trees.members(unit) if not (unit.is_alive and process.group == unit.pid)]
        unit.is_scattered = unit.is_scattered or bool(others)
        running = [process for process in others if process.state not in b"Tt"]
        if not running:
            return True
        if seen.issuperset(process.pid for process in running):
            break  # they have the signal, and only need time
        for process in running:
            seen.add(process.pid)
            _signal_one(trees, process, signal.SIGSTOP)
    return False


def _signal_one(trees: Trees, process: Process, signum: int) -> None:
    if process.pid in trees.leaders or process.pid in trees.orphans:
        signal_child(process.pid, signum)
    else:
        signal_other(process, signum)
