"""Identifies the peer of a connection: pid and uid from the kernel, and its ancestors from /proc.

A peer whose descent cannot be determined counts as inside: a worker may let a child connect that is dead when we look. The mark in
the environment is never read, since any process can write it.
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

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.exec.execs import Execs
from corral.supervisor.workers.process.command import Commands
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.names import tenant_of
from corral.worker.control.access import Rights

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


class Peers:
    """Knows the peers of the control socket, and what each may do: by its user, or by the worker in whose tree it is."""

    def __init__(
        self,
        registry: Registry,
        tenants: Tenants,
        commands: Commands,
        execs: Execs,
        group: str | None,
        readers: str | None,
    ) -> None:
        self._registry = registry
        self._tenants = tenants
        self._commands = commands
        self._execs = execs
        self.group = group
        self.readers = readers

    def permission(self, identity: Identity) -> Rights | None:
        """Returns the permission of a peer outside: the owner and root admin, the group's members operate, those of `readers` read."""
        if identity.uid in (0, os.getuid()):
            return "admin"
        if self.group is not None and is_member(identity.uid, self.group):
            return "operate"
        is_reader = self.readers is not None and is_member(identity.uid, self.readers)
        return "read" if is_reader else None

    def granted(self, agent: str | None) -> Rights | None:
        """Returns the permission of a peer inside the tree of an agent's worker, by the spec as it is now."""
        if agent is None or tenant_of(agent):  # a tenant's agent has none, whatever its spec says
            return None
        found = self._registry.agents.get(agent)
        return None if found is None or found.spec.control == "none" else found.spec.control

    def tenant(self, identity: Identity) -> str:
        """Returns the tenant that a peer is bound to, "" for none: that of the agent in whose tree it is, else that whose account it has."""
        if identity.is_inside:
            return tenant_of(identity.agent or "")
        if identity.uid in (0, os.getuid()):
            return ""
        return self._tenants.with_uid(identity.uid)

    def supervisor(self, leader: int | None) -> WorkerSupervisor | None:
        """Returns the supervisor of the worker with this pid."""
        if leader is None:
            return None
        supervisors = self._registry.lives()
        return next((supervisor for supervisor in supervisors if supervisor.worker.pid == leader), None)

    def identify(self, sock: socket.socket) -> Identity:
        """Identifies the peer of a connection."""
        return identify(sock, self._leaders)

    def _leaders(self) -> dict[int, str]:
        """Returns the pids of living workers and of commands beside them, with the names of their agents."""
        found = {
            supervisor.worker.pid: supervisor.spec.name
            for supervisor in self._registry.lives()
            if supervisor.worker.pid is not None
        }
        return found | self._commands.leaders() | self._execs.leaders()


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
