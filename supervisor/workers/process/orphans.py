"""Kills and reaps the processes that a dead launcher or daemon leaves behind, until none is left.

It knows processes only: children of this process, and their sessions, groups, brands, marks and parents.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable, Container, Iterator
from itertools import islice

from corral.supervisor.machine.linux import kernel
from corral.supervisor.machine.linux.cgroup import Groups

PATIENCE_S = 5.0
"""Seconds until processes that do not end are logged; the rounds go on, unless the daemon is closing."""
ROUND_S = (0.002, 0.1)
"""Seconds of the first and of the longest pause between two rounds of killing."""
ROUND_PROCESSES = 200
"""Number of processes in one round, so that the loop turns."""

log = logging.getLogger(__name__)

# Attributes of this process, and so not of one launcher:
launchers: set[int] = set()
"""The pids of all launchers of this process, none of which counts as an orphan."""
_made_subreaper: set[int] = set()  # its own pid, while this module has made it a subreaper


class OrphanedTree:
    """Represents the processes that were below one dead launcher.

    Where other parts of this process have children too, those count as the launcher's that are in one of `sessions` or
    `groups`, have the brand of `state` or the mark of one of `units`, or were seen below one of these.  `sole_parent`
    promises that there are no other children, so that all count.
    """

    def __init__(
        self, *, sessions: set[int], groups: Groups | None, state: int, units: Container[str], sole_parent: bool
    ) -> None:
        self._sessions = sessions
        self._groups = groups
        self._state = state
        self._units = units
        self._sole_parent = sole_parent
        self._known: set[tuple[int, int]] = set()
        self._held: set[int] = set()  # dead, and kept from being reaped by a debugger

    async def end(self, is_closing: Callable[[], bool]) -> None:
        """Kills and reaps all of them, in rounds, until none is left; while closing for at most PATIENCE_S."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        pause_s = ROUND_S[0]
        is_reported = False
        while orphans := list(islice(self._orphans(), ROUND_PROCESSES)):
            for orphan in orphans:
                self._kill(orphan)
            waited_s = loop.time() - started_s
            if waited_s > PATIENCE_S and not is_reported:
                pids = [orphan.pid for orphan in orphans]
                log.error("cannot end what the launcher left after %.0f s: pids %s", waited_s, pids)
                is_reported = True
            if waited_s > PATIENCE_S and is_closing():
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, ROUND_S[1])

    def _orphans(self) -> Iterator[kernel.Process]:
        """Yields the children of this process that were below the launcher when it died."""
        this = kernel.look_up(os.getpid())
        assert this is not None, "this process runs"
        for pid in kernel.children(this):
            process = None if pid in launchers else kernel.look_up(pid)
            if process is None or (process.is_dead and pid in self._held):
                continue
            if self._sole_parent or self._is_known(process):
                yield process

    def _is_known(self, process: kernel.Process) -> bool:
        pid = process.pid
        return (
            process.session in self._sessions
            or (pid, process.starttime) in self._known
            or (self._groups is not None and self._groups.unit_of(pid) != "")
            or kernel.brand(pid)[0] == self._state
            or kernel.mark(pid) in self._units
        )

    def _kill(self, orphan: kernel.Process) -> None:
        self._known.add((orphan.pid, orphan.starttime))
        for process in kernel.walk(orphan.pid):
            self._known.add((process.pid, process.starttime))
            kernel.signal_other(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(orphan.pid, os.WNOHANG)[0] == 0 and orphan.is_dead:
                self._held.add(orphan.pid)


async def sweep(state: int) -> int:
    """Kills the processes that a dead daemon of the same state folder left, and returns their number.

    They are all processes with its brand, and those below them; another daemon has another brand.  This process and its
    ancestors may have the brand themselves: these are spared.
    """
    kept = set(_ancestors(os.getpid()))
    met: set[tuple[int, int]] = set()
    deadline_s = time.monotonic() + PATIENCE_S
    pause_s = ROUND_S[0]
    while left := _left_by(state, kept):
        for process in left.values():
            met.add((process.pid, process.starttime))
            kernel.signal_other(process, signal.SIGKILL)
        if time.monotonic() > deadline_s:
            log.error("cannot end what an earlier daemon left: pids %s", [*left])
            break
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, ROUND_S[1])
    return len(met)


def _left_by(state: int, kept: set[int]) -> dict[int, kernel.Process]:
    found: dict[int, kernel.Process] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in found or int(name) in kept:
            continue
        # First the identity, then the brand: another process that gets the pid meanwhile is not killed for it.
        process = kernel.look_up(int(name))
        if process is None or process.is_dead:  # its new parent has not reaped it yet
            continue
        if kernel.brand(process.pid)[0] == state:
            found[process.pid] = process
            found |= {each.pid: each for each in kernel.walk(process.pid) if each.pid not in kept}
    return found


def _ancestors(pid: int) -> Iterator[int]:
    while (process := kernel.look_up(pid)) is not None:
        yield pid
        pid = process.parent


def become_subreaper() -> None:
    """Makes this process a child subreaper, so that a dead launcher's processes are reparented to it, see prctl(2)."""
    was = ctypes.c_int()
    kernel.prctl(kernel.PR_GET_CHILD_SUBREAPER, ctypes.addressof(was))
    if not was.value:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        _made_subreaper.add(os.getpid())


def undo_subreaper() -> None:
    """Ends the subreaper role after the last launcher, where this module has begun it."""
    if not launchers and os.getpid() in _made_subreaper:
        _made_subreaper.clear()
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)
