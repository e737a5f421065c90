"""Namespaces of another process, joined by a real one; each test runs in a process of its own."""

import ctypes
import os
import signal
from collections.abc import Callable

import pytest

from corral.supervisor.machine.linux import joining

PR_GET_DUMPABLE = 3


def in_a_child(act: Callable[[], bool]) -> bool:
    """Whether it is so in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def test_a_process_differs_from_itself_in_nothing() -> None:
    assert joining.differing(os.getpid()) == 0


def test_a_process_that_is_gone_is_refused() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(joining.Refused):
        joining.differing(pid)
    assert in_a_child(lambda: refused(lambda: joining.join(fd, joining.FLAGS["uts"])))
    os.close(fd)


def refused(act: Callable[[], None]) -> bool:
    try:
        act()
    except joining.Refused:
        return True
    return False


def test_others_of_its_user_cannot_look_into_a_process_that_has_joined() -> None:
    """It has the memory of the launcher until it executes, with what other workers were given."""

    def joined() -> bool:
        joining.join(-1, 0)
        return bool(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)

    assert in_a_child(joined)


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user has no capability to drop")
def test_no_capability_is_left() -> None:
    def dropped() -> bool:
        joining.drop_capabilities()
        with open("/proc/self/status") as file:
            sets = [line.split()[1] for line in file if line.startswith("Cap")]
        return {int(each, 16) for each in sets} == {0}

    assert in_a_child(dropped)
