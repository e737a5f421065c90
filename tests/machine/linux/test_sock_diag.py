"""What the kernel tells of sockets, against sockets of this process."""

import os
import socket
from pathlib import Path

import pytest

from corral.supervisor.machine.linux import sock_diag
from corral.supervisor.machine.linux.sock_diag import CLOSE_WAIT, ESTABLISHED, LISTEN

pytestmark = pytest.mark.shell

ANY = (ESTABLISHED, CLOSE_WAIT, LISTEN)


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize(("domain", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_has_no_inode_before_it_is_accepted(domain: int, host: str) -> None:
    with socket.socket(domain) as listening:
        listening.bind((host, 0))
        listening.listen()
        port = listening.getsockname()[1]
        with socket.create_connection((host, port)) as client:
            found = {each.state: each for each in sock_diag.inet_sockets(port, ANY)}
            assert found[LISTEN] == (LISTEN, host, port, inode(listening))
            assert found[ESTABLISHED].inode == 0
            accepted, _ = listening.accept()
            with accepted:
                (only,) = sock_diag.inet_sockets(port, (ESTABLISHED,))
                assert only == (ESTABLISHED, host, port, inode(accepted))
                assert {inode(accepted), inode(client)} <= sock_diag.inodes_of(os.getpid())
                client.shutdown(socket.SHUT_WR)
                assert accepted.recv(1) == b""
                (half,) = sock_diag.inet_sockets(port, (CLOSE_WAIT,))
                assert half.inode == inode(accepted)


def test_the_path_of_a_unix_socket_is_that_of_its_connections(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(path)
        listening.listen()
        client.connect(path)
        accepted, _ = listening.accept()
        with accepted:
            found = {each.state: each.inode for each in sock_diag.unix_sockets(path, ANY)}
            assert found == {LISTEN: inode(listening), ESTABLISHED: inode(accepted)}
    assert not list(sock_diag.unix_sockets(path, ANY))


def test_a_process_that_is_gone_has_none() -> None:
    assert sock_diag.inodes_of(2**22 + 1) == set()
