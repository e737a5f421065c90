"""Finds out which process has an address that is in use, for the error that says so."""

import os
from pathlib import Path

from corral.supervisor.config.spec.listen import ListenAddress
from corral.supervisor.machine.linux import sock_diag
from corral.supervisor.machine.linux.sock_diag import LISTEN

PROCESSES_MAX = 20_000
"""Number of processes that are looked through."""


def owner_of(address: ListenAddress) -> str:
    """Returns the process that listens at an address, for people: `pid 42 (nginx)`; "another process" where that is hidden."""
    inodes = _listening(address)
    if inodes:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
        for name in names[:PROCESSES_MAX]:
            if inodes & sock_diag.inodes_of(int(name)):
                return f"pid {name} ({_command(name)})"
    return "another process"


def _listening(address: ListenAddress) -> set[int]:
    try:
        if address.path is not None:
            return {each.inode for each in sock_diag.unix_sockets(address.path, (LISTEN,))}
        return {each.inode for each in sock_diag.inet_sockets(address.place[1], (LISTEN,))}
    except OSError:
        return set()


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "?"
