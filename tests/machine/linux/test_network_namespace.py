"""A network of its own, whose listening socket is served from outside."""

import os
import socket

import pytest

from corral.supervisor.machine.linux import network_namespace
from corral.supervisor.machine.linux.kernel import prctl

NOBODY = 65534
PR_SET_DUMPABLE = 4
BOUND_S = 60.0
PORT = 3128


def entered(uid: int | None) -> tuple[int, list[int]]:
    """Exit status of a process that enters a network and connects to its port there, and what it has handed over."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
                prctl(PR_SET_DUMPABLE, 1)  # as in a process that was this user's from its exec on
            network_namespace.enter(theirs.fileno(), [PORT])
            with socket.socket() as sock:
                sock.settimeout(BOUND_S)
                sock.connect(("127.0.0.1", PORT))
                status = 0 if sock.recv(5) == b"hello" else 8
        except network_namespace.Refused:
            status = 7
        finally:
            os._exit(status)
    theirs.close()
    with ours:
        ours.settimeout(BOUND_S)
        _data, fds, _flags, _address = socket.recv_fds(ours, 1, 1)
    for fd in fds:
        with socket.socket(fileno=os.dup(fd)) as listener:
            listener.settimeout(BOUND_S)
            with listener.accept()[0] as accepted:
                accepted.sendall(b"hello")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), fds


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_a_socket_of_a_new_network_is_served_from_outside(uid: int | None) -> None:
    if uid is not None and os.geteuid() != 0:
        pytest.skip("only root may become another user")
    status, fds = entered(uid)
    if status == 7:
        pytest.skip("this machine gives no network namespace")
    for fd in fds:
        os.close(fd)
    assert (status, len(fds)) == (0, 1)
