"""Identifies the peer of a connection: pid and uid from the kernel, and its ancestors from /proc.

A peer whose descent cannot be determined counts as inside: a worker may let a child connect that is dead when we look. The mark in
the environment is never read, since any process can write it. Permissions are not decided here.
"""

import errno
import grp
import os
import pwd
import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

SO_PEERPIDFD = getattr(socket, "SO_PEERPIDFD", 77)
"""Number of the socket option for a pidfd of the peer: Linux 6.5; Python has no name for it before 3.14."""


class Identity(NamedTuple):
    """Represents a peer as the kernel knew it when it connected.

    `is_inside`: it descends from this daemon, or that cannot be determined; `agent` is the agent of the
    worker that it descends from, None where that is unknown: it has left its tree, or the worker is dead;
    `leader` is the pid of that worker.
    """

    pid: int
    uid: int
    is_inside: bool
    agent: str | None
    leader: int | None = None

    @property
    def who(self) -> dict[str, object]:
        """Returns the peer as the audit names it; `agent` is there for a peer inside, and null where it is unknown."""
        who: dict[str, object] = {"uid": self.uid, "pid": self.pid}
        return {**who, "agent": self.agent} if self.is_inside else who


def identify(sock: socket.socket, leaders: Callable[[], Mapping[int, str]]) -> Identity:
    """Identifies the peer; `leaders` returns the pids of living workers and the names of their agents, and is asked for a peer inside."""
    size = struct.calcsize("3i")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", raw)
    path, is_inside = _descent(pid, os.getpid())
    if _is_gone(sock):  # so that the pid may have been another's when we looked
        return Identity(pid, uid, is_inside=True, agent=None)
    if not is_inside:
        return Identity(pid, uid, is_inside=False, agent=None)
    known = leaders()
    leader = next((each for each in path if each in known), None)
    return Identity(pid, uid, True, None if leader is None else known[leader], leader)


def _is_gone(sock: socket.socket) -> bool:
    """Returns whether the process that connected has ended; False where the kernel cannot tell."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4)
    except OSError as error:
        return error.errno in (errno.ESRCH, errno.EINVAL)
    (pidfd,) = struct.unpack("i", raw)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(0))
    finally:
        os.close(pidfd)


def _descent(pid: int, ancestor: int) -> tuple[list[int], bool]:
    """Returns a process with its ancestors below `ancestor`, and whether it descends from that, by /proc/PID/stat (proc(5)).

    It does where that cannot be determined: a worker may let a child connect that is dead when we look.
    """
    path: list[int] = []
    for _ in range(1000):
        if pid == ancestor:
            return path, True
        if pid <= 1:
            return path, False
        path.append(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                pid = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return path, True
    return path, True


def is_member(uid: int, group: str) -> bool:
    """Returns whether a user is in a group, by its own entry or by the group's list."""
    try:
        user = pwd.getpwuid(uid)
        entry = grp.getgrnam(group)
    except KeyError:
        return False
    return user.pw_name in entry.gr_mem or user.pw_gid == entry.gr_gid
