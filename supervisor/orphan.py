"""What a dead launcher leaves behind: it becomes ours, and is killed and reaped until none is left.

It knows processes only: our children, their sessions, marks and parents.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
from collections.abc import Callable, Container, Iterator
from itertools import islice

from . import kernel

PATIENCE_S = 5.0
"""After so long it is said what does not end; the rounds go on, unless the daemon is closing."""
ROUND_S = (0.002, 0.1)
"""First and last pause between two rounds of killing."""
ROUND_PROCESSES = 200
"""So many in one round, so that the loop turns."""

log = logging.getLogger(__name__)

# Attributes of this process, and so not of one launcher:
launchers: set[int] = set()
"""The pids of all of its launchers, none of which is another's orphan."""
_made_subreaper: set[int] = set()  # its own pid, while it is a subreaper for our sake


class Family:
    """The processes that were below one launcher.

    Where other parts of this process have children too, only those are known to be the launcher's
    that are in one of `sessions`, have the mark of one of `units`, or were seen below one of these.
    `sole_parent` promises that there are no others, so that all are.
    """

    def __init__(self, sessions: set[int], units: Container[str], sole_parent: bool) -> None:
        self._sessions = sessions
        self._units = units
        self._sole_parent = sole_parent
        self._known: set[tuple[int, int]] = set()

    async def end(self, is_closing: Callable[[], bool]) -> None:
        """Kill and reap all of it, in rounds, until none is left or we are closing and patience ends."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        pause_s = ROUND_S[0]
        is_told = False
        while orphans := list(islice(self._orphans(), ROUND_PROCESSES)):
            for orphan in orphans:
                self._kill(orphan)
            waited_s = loop.time() - started_s
            if waited_s > PATIENCE_S and not is_told:
                pids = [orphan.pid for orphan in orphans]
                log.error("cannot end what the launcher left after %.0f s: pids %s", waited_s, pids)
                is_told = True
            if waited_s > PATIENCE_S and is_closing():
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, ROUND_S[1])

    def _orphans(self) -> Iterator[kernel.Process]:
        """Our children that were below the launcher when it died."""
        ourselves = kernel.look_up(os.getpid())
        assert ourselves is not None, "we run"
        for pid in kernel.children(ourselves):
            process = None if pid in launchers else kernel.look_up(pid)
            if process is None:
                continue
            is_known = process.session in self._sessions or (pid, process.starttime) in self._known
            if self._sole_parent or is_known or kernel.mark(pid) in self._units:
                yield process

    def _kill(self, orphan: kernel.Process) -> None:
        self._known.add((orphan.pid, orphan.starttime))
        for process in kernel.walk(orphan.pid):
            self._known.add((process.pid, process.starttime))
            kernel.signal_other(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(orphan.pid, os.WNOHANG)


def become_subreaper() -> None:
    """What a dead launcher leaves becomes ours; a process that is one already stays one."""
    was = ctypes.c_int()
    kernel.prctl(kernel.PR_GET_CHILD_SUBREAPER, ctypes.addressof(was))
    if not was.value:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        _made_subreaper.add(os.getpid())


def undo_subreaper() -> None:
    """After our last launcher nothing more is to be adopted, where others run in this process too."""
    if not launchers and os.getpid() in _made_subreaper:
        _made_subreaper.clear()
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)
