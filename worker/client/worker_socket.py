"""Finds the control socket of the daemon below whose worker this process runs, where its environment does not name it.

MCP clients start their servers with HOME, PATH and a few more variables: `corral mcp serve` in an agent would look for
the daemon at the standard place. The environment that the kernel keeps of the worker, an ancestor, still has it.
"""

import os
from collections.abc import Mapping

from .sync import default_socket

ANCESTORS_MAX = 16
"""Number of ancestors that are looked at, the nearest first."""

MARK, SOCKET = b"CORRAL_WORKER=", b"CORRAL_SOCKET="


def socket_for_client(environ: Mapping[str, str], uid: int) -> str:
    """Returns the socket for a program that an MCP client has started: see `default_socket`."""
    own = None if environ.get("CORRAL_SOCKET") else socket_of_worker()
    return own or default_socket(environ, uid)


def socket_of_worker(pid: int | None = None) -> str | None:
    """Returns the socket's path as the nearest ancestor that is a worker was given it; None if there is none.

    `pid` is the first ancestor; by default the parent of this process.
    """
    ancestor = os.getppid() if pid is None else pid
    for _ in range(ANCESTORS_MAX):
        if ancestor <= 1:
            return None
        try:
            with open(f"/proc/{ancestor}/environ", "rb") as file:
                variables = file.read().split(b"\0")
            with open(f"/proc/{ancestor}/stat", "rb") as file:
                above = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):  # of another user, hidden by Landlock, or gone
            return None
        if any(each.startswith(MARK) for each in variables):
            found = [each for each in variables if each.startswith(SOCKET)]
            return os.fsdecode(found[0].removeprefix(SOCKET)) or None if found else None
        ancestor = above
    return None
