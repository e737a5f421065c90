"""Finds out whether processes serve connections that came in at given addresses."""

from collections.abc import Iterable

from corral.supervisor.machine.linux import kernel, sock_diag
from corral.supervisor.machine.linux.sock_diag import CLOSE_WAIT, ESTABLISHED

OPEN = (ESTABLISHED, CLOSE_WAIT)


def serves(roots: Iterable[int], ports: Iterable[int], paths: Iterable[str]) -> bool:
    """Returns True if a process of the trees below `roots` has a connection that came in at one of these ports or paths.

    A connection that nobody has accepted yet is no one's. False where the kernel does not tell.
    """
    try:
        open_ones = {each.inode for port in ports for each in sock_diag.inet_sockets(port, OPEN)}
        open_ones |= {each.inode for path in paths for each in sock_diag.unix_sockets(path, OPEN)}
    except OSError:
        return False
    open_ones.discard(0)
    if not open_ones:
        return False
    return any(
        not open_ones.isdisjoint(sock_diag.inodes_of(process.pid)) for root in roots for process in kernel.walk(root)
    )
