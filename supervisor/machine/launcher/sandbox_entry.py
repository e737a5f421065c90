"""Takes a new process into the sandbox of a running unit: it joins that one's namespaces, and forks the program inside.

A process changes its pid namespace only for what it forks (pid_namespaces(7)), so that two are needed: the leader stays
outside, waits for the program, and reports as the leader of a sandbox does (`sandboxes`). Both give up every capability.
A program of the sandbox cannot see the leader, nor look into the other before it has executed. Nothing is imported once
the files of the sandbox are in place: they may have been written inside. Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

from ..linux import joining
from ..linux.kernel import PR_SET_PDEATHSIG, prctl
from .sandboxes import SIGNALLED

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from typing import NoReturn

REPORT_BYTES = 4096
LEADER_GONE = 125
"""Exit code of a program whose leader died before it could be told so by a signal."""


def join_network(pid: int, pidfd: int) -> None:
    """Joins the network of the process alone, where this one may: a network that root has made no other user can join.

    Where it may not, as root without capabilities, `enter` joins the network with the user namespace, or says why not.
    """
    with contextlib.suppress(joining.Refused):
        joining.join(pidfd, joining.differing(pid) & joining.NETWORK)


def enter(pid: int, pidfd: int, report: int, launcher: int) -> None:
    """Joins the other namespaces of the process, and returns in a child inside them; the leader never returns.

    In the child the descriptor `report` leads to the leader, which passes on what is written there.
    """
    flags = joining.differing(pid)
    sys.meta_path.clear()
    joining.join(pidfd, flags)
    joining.drop_capabilities()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a process that changes its user namespace loses it
    if os.getppid() != launcher:
        os._exit(LEADER_GONE)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    program = os.fork()
    if program:
        _lead(program, reading, report)
    os.close(reading)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    poller = select.poll()
    poller.register(writing, 0)
    if poller.poll(0):  # POLLERR: nobody reads, so that the leader died before the line above
        os._exit(LEADER_GONE)
    os.dup2(writing, report, inheritable=False)
    os.close(writing)
    os.setsid()


def _lead(program: int, reading: int, report: int) -> NoReturn:
    """Waits until the program runs and until it ends, reports both, and ends as it did."""
    kept = sorted((reading, report))
    os.closerange(0, kept[0])
    os.closerange(kept[0] + 1, kept[1])
    os.closerange(kept[1] + 1, 2**31 - 1)
    failure = b""
    while part := os.read(reading, REPORT_BYTES):
        failure += part
    if failure:
        os.waitpid(program, 0)
        os.write(report, failure)
        os._exit(LEADER_GONE)
    os.write(report, b'{"child-pid": %d}\n' % program)
    status = os.waitpid(program, 0)[1]
    code = os.WTERMSIG(status) + SIGNALLED if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    os.write(report, b'{"exit-code": %d}\n' % code)
    os._exit(code)
