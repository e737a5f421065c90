"""Encodes what one program of the daemon hands over to the next: values in a sealed memfd, and descriptors by their numbers.

A version reads the handovers of its neighbours: keys are only ever added, with a default, and what is unknown is ignored. A
change that this does not cover is another `LAYOUT`.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from corral.supervisor.agents.membership.agents import AgentHandover
from corral.supervisor.faces.http.listener import HttpHandover
from corral.supervisor.faces.socket.unix import ListenerHandover
from corral.supervisor.records.logs.daemon_log import Level
from corral.supervisor.tasks.run.backlog import TaskHandover
from corral.supervisor.workers.listening.sockets import SocketsHandover
from corral.supervisor.workers.process.launcher_client import LauncherHandover
from corral.supervisor.workers.zygote.handover import PoolHandover
from corral.worker.contract.errors import Conflict

LAYOUT = b"corral handover 1\n"
"""What a handover begins with; its SHA-256 follows."""

DIGEST_BYTES = 32

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Program(Struct, frozen=True):
    """Represents a program of the daemon: the interpreter, the options of its command line, and its version."""

    python: str
    arguments: tuple[str, ...]
    version: str

    def command(self, *more: str) -> list[str]:
        """Returns its command line, with more options."""
        return [self.python, "-P", "-m", "corral.supervisor", *self.arguments, *more]


class Handover(Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from.

    `before` is the program that hands over, which gets the process back if the next one cannot go on. `started` is when the
    daemon started and `held_at` since when nothing is answered, on the monotonic clock; `upgrades` counts this one, too.
    """

    before: Program
    started: float
    held_at: float
    upgrades: int
    log_level: Level
    journal_stream: str
    launcher: LauncherHandover
    agents: Mapping[str, AgentHandover]
    listener: ListenerHandover
    tasks: tuple[TaskHandover, ...] = ()
    http: HttpHandover | None = None
    services: Mapping[str, HttpHandover] = {}
    sockets: SocketsHandover = SocketsHandover()
    zygotes: PoolHandover = PoolHandover()
    subscriptions: Mapping[str, tuple[str, ...]] = {}

    @property
    def descriptors(self) -> list[int]:
        """Returns all descriptors that are handed over."""
        workers = [worker for agent in self.agents.values() for worker in agent.workers]
        return [
            *self.launcher.descriptors,
            *self.listener.descriptors,
            *([] if self.http is None else self.http.descriptors),
            *(fd for each in self.services.values() for fd in each.descriptors),
            *self.sockets.descriptors,
            *self.zygotes.descriptors,
            *(fd for each in workers for fd in each.descriptors),
        ]

    @property
    def folders(self) -> frozenset[str]:
        """Returns the folders of the workers and zygotes that live on."""
        lives = [worker.life for agent in self.agents.values() for worker in agent.workers if worker.life is not None]
        own = (path for each in lives for path in (each.temporary, each.container) if path is not None)
        return frozenset([*own, *self.zygotes.folders])


def encode(handover: Handover) -> bytes:
    """Returns the bytes of a handover."""
    data = msgspec.msgpack.encode(handover)
    return LAYOUT + hashlib.sha256(data).digest() + data


def decode(data: bytes) -> Handover:
    """Returns the handover of these bytes.

    Raises:
        Conflict: it is of another layout, or damaged.
    """
    begin = len(LAYOUT) + DIGEST_BYTES
    if not data.startswith(LAYOUT):
        raise Conflict("cannot take up a handover: it has another layout", reason="layout", layout=repr(data[:32]))
    if hashlib.sha256(data[begin:]).digest() != data[len(LAYOUT) : begin]:
        raise Conflict("cannot take up a handover: its checksum is wrong", reason="damaged")
    try:
        return msgspec.msgpack.decode(data[begin:], type=Handover)
    except msgspec.ValidationError as error:
        raise Conflict(f"cannot take up a handover: {error}", reason="layout") from error


def write(handover: Handover) -> int:
    """Returns the descriptor of a sealed file in memory that holds a handover.

    Raises:
        Conflict: no descriptor is free.
    """
    try:
        fd = os.memfd_create("corral-handover", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise Conflict(f"cannot upgrade: no handover can be made: {error.strerror}", reason="descriptor") from error
    try:
        view = memoryview(encode(handover))
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> Handover:
    """Reads a handover.

    Raises:
        Conflict: it is of another layout, damaged, or not sealed.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
        data = os.pread(fd, os.fstat(fd).st_size, 0)
    except OSError as error:
        raise Conflict(f"cannot take up a handover: descriptor {fd}: {error.strerror}", reason="descriptor") from error
    if not sealed:
        raise Conflict("cannot take up a handover: it is not sealed", reason="damaged")
    return decode(data)


def set_inheritable(fds: Iterable[int], is_inheritable: bool) -> None:
    """Decides whether descriptors stay open in the next program, and in children; one of a client may have been closed."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, is_inheritable)
