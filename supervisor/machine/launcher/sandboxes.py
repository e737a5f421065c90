"""Finds the program inside the sandbox of a leader, and reports its end instead of the leader's.

A leader such as bubblewrap starts the first process of a pid namespace, which starts the program. The leader writes when it
has made the namespace; that the program runs is seen in /proc, since nothing else tells an exec of a grandchild. Its
status is the kernel's where that has it (Linux 6.15), else the leader's exit code, in which 128 and more is a signal.
The leader of a program in the sandbox of another unit reports the same, with the program itself in place of a first
process. Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time

from ..linux.kernel import Process, children, exit_status, look_up
from .process_tree import Unit

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    import resource
    from typing import Any

    Ended = tuple[Unit, int, resource.struct_rusage, float]

LOOK_S = 0.001
"""Seconds between two looks whether a program inside runs."""
INIT_S = 0.5
"""Seconds that the exit of a leader waits for the first process of its sandbox, which has the program's usage."""
SIGNALLED = 128
"""Exit codes from here on stand for a signal, as in a shell."""
BY_THE_KERNEL = frozenset((signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT))
"""Signals that go to a leader and all inside alike; every other one is for the program, and would end the leader."""


class Sandboxes:
    """Tracks the units whose leader is a sandbox; a unit is pending until its program runs."""

    def __init__(self) -> None:
        self.pending: set[Unit] = set()
        self.written: dict[Unit, bytes] = {}  # what the leader of a pending unit has written
        self.ended: dict[int, Ended] = {}  # by first process: the leader is dead
        self.reports: dict[Unit, int] = {}  # the leader writes there at its end, and dies of a closed one

    def add(self, unit: Unit) -> None:
        """Takes a unit whose leader was just forked."""
        unit.is_sandboxed = True
        self.pending.add(unit)
        self.written[unit] = b""

    def forget(self, unit: Unit) -> None:
        """Drops a unit that has failed or has become empty."""
        self.pending.discard(unit)
        self.written.pop(unit, None)
        if unit.inner_fd >= 0:
            os.close(unit.inner_fd)
            unit.inner_fd = -1
        if unit in self.reports:
            os.close(self.reports.pop(unit))

    def note(self, unit: Unit, data: bytes) -> bool:
        """Takes what a leader writes, JSON documents on lines; returns False if it is no such thing, but a failed stage."""
        written = self.written[unit] + data
        if not written.startswith(b"{"):
            return False
        self.written[unit] = written
        with contextlib.suppress(ValueError):
            unit.init = json.loads(written.split(b"\n", 1)[0])["child-pid"]
        return True

    def has_run(self, unit: Unit) -> bool:
        """Returns whether a leader that has ended has run its program: only then it writes the exit code."""
        return b'"exit-code"' in self.written.get(unit, b"")

    def running(self) -> list[Unit]:
        """Returns the pending units whose program runs now; they are pending no more."""
        found: list[Unit] = []
        for unit in self.pending:
            program = _program(unit)
            if program is not None and program.has_executed:
                unit.inner = program.pid
                with contextlib.suppress(OSError):  # it has ended: the leader reports it
                    unit.inner_fd = os.pidfd_open(program.pid)
                found.append(unit)
        self.pending.difference_update(found)
        return found

    def hold(self, unit: Unit, status: int, usage: resource.struct_rusage) -> bool:
        """Keeps the exit of a leader until the first process of its sandbox is reaped, too; returns False for no need."""
        init = look_up(unit.init) if unit.init and unit.host is None else None
        if init is None:
            return False
        self.ended[unit.init] = (unit, status, usage, time.monotonic() + INIT_S)
        return True

    def release(self, pid: int) -> Ended | None:
        """Returns the kept exit of the unit whose first process this was."""
        return self.ended.pop(pid, None)

    def overdue(self) -> list[Ended]:
        """Returns the exits that have waited long enough."""
        now = time.monotonic()
        late = [init for init, ended in self.ended.items() if ended[3] <= now]
        return [self.ended.pop(init) for init in late]

    def is_held(self, unit: Unit) -> bool:
        """Returns whether the exit of a unit is kept."""
        return unit.init in self.ended


def host_of(sandbox: Any, units: dict[str, Unit]) -> Unit | None:  # Any: JSON
    """Returns the unit whose sandbox a request asks to join, and adds to the request how; None if it asks for none."""
    if sandbox is None or sandbox["kind"] != "join":
        return None
    host = units.get(sandbox["unit"])
    if host is None or host.inner_fd < 0 or not host.is_alive:
        raise OSError(errno.ESRCH, "the sandbox that it is to join has no program")
    sandbox["pid"], sandbox["pidfd"] = host.inner, host.inner_fd
    return host


def status_of(unit: Unit, status: int) -> int:
    """Returns the wait status of the program, from that of its leader."""
    if not os.WIFEXITED(status):
        return status
    exact = exit_status(unit.inner_fd) if unit.inner_fd >= 0 else None
    if exact is not None:
        return exact
    number = os.WEXITSTATUS(status) - SIGNALLED
    return number if 0 < number < signal.NSIG else status


def _program(unit: Unit) -> Process | None:
    init = look_up(unit.init) if unit.init else None
    if unit.host is not None:
        return init  # in the sandbox of another unit, which has its own first process
    first = children(init) if init is not None else []
    return look_up(first[0]) if first else None
