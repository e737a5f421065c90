"""Opens, keeps and hands out the listening sockets of agents.

A socket is kept while its agent listens at its address, or a life that was handed it has processes: a changed address that
is taken back finds its former socket. Here nobody ever accepts.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from corral.supervisor.config.spec.listen import ListenAddress
from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, PermissionDenied, SpawnFailed

from .connections import serves
from .owner import owner_of

BACKLOG = 1 << 16
"""Number of connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn."""

MODE = "0600"
"""Mode of a unix socket that names none."""

TRY_S = 0.5
"""Seconds in which the owner of a unix socket has to answer, or it counts as one."""


class Place(Struct, frozen=True):
    """Names where a life accepts connections: the address, and the port of TCP."""

    address: ListenAddress
    port: int = 0


class SocketHandover(Struct, frozen=True):
    """Holds what the next program goes on from: a socket, with the inode of its path."""

    fd: int
    place: Place
    inode: tuple[int, int] | None


class SocketsHandover(Struct, frozen=True):
    """Holds the sockets by agent, and by unit what the lives were handed."""

    agents: Mapping[str, tuple[SocketHandover, ...]] = {}
    lives: Mapping[str, tuple[str, tuple[Place, ...]]] = {}

    @property
    def descriptors(self) -> list[int]:
        """Returns the descriptors that are handed over."""
        return [each.fd for held in self.agents.values() for each in held]


@dataclass(frozen=True, eq=False)
class ListenSocket:
    """Represents a listening socket; `port` is that of TCP, `inode` that of a unix socket's path: device and number."""

    address: ListenAddress
    socket: socket.socket
    port: int = 0
    inode: tuple[int, int] | None = None

    @property
    def bound(self) -> str:
        """Returns the address that is listened at, with the port that the kernel chose for port 0."""
        if self.address.path is not None:
            return self.address.address
        return f"{self.address.address.rpartition(':')[0]}:{self.port}"

    @property
    def place(self) -> Place:
        """Returns where it listens."""
        return Place(self.address, self.port)

    @property
    def is_in_place(self) -> bool:
        """Returns False if the path of a unix socket was removed, or is another's: nobody can connect any more."""
        if self.address.path is None:
            return True
        return _inode(self.address.path) == self.inode

    def close(self) -> None:
        """Closes the socket, and removes the path of a unix socket that is still its own."""
        if self.address.path is not None and self.is_in_place:
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)
        self.socket.close()


class ListenSockets:
    """Holds the sockets of all agents of one daemon."""

    def __init__(self) -> None:
        self._by_agent: dict[str, dict[str, ListenSocket]] = {}
        self._lives: dict[str, tuple[str, tuple[Place, ...]]] = {}  # by unit

    def hand_over(self) -> SocketsHandover:
        """Returns what the next program of the daemon goes on from."""
        agents = {
            name: tuple(SocketHandover(each.socket.fileno(), each.place, each.inode) for each in held.values())
            for name, held in self._by_agent.items()
        }
        return SocketsHandover(agents, self._lives)

    def take_up(self, left: SocketsHandover) -> None:
        """Goes on from what another program of the daemon has left."""
        self._lives = dict(left.lives)
        for name, held in left.agents.items():
            self._by_agent[name] = {
                each.place.address.address: ListenSocket(
                    each.place.address, socket.socket(fileno=each.fd), each.place.port, each.inode
                )
                for each in held
            }

    def of(self, agent: str) -> list[ListenSocket]:
        """Returns the sockets that are held for an agent."""
        return list(self._by_agent.get(agent, {}).values())

    def open(self, spec: Spec) -> list[ListenSocket]:
        """Opens the addresses of a spec that are not open yet; returns the sockets of all, in the order of the spec."""
        held = self._by_agent.setdefault(spec.name, {})
        for address in spec.listen:
            found = held.get(address.address)
            if found is not None and not found.is_in_place:  # it is cut off from every client
                found.socket.close()
                del held[address.address]
                found = None
            try:
                if found is None:
                    held[address.address] = _open(address)
                elif found.address != address:
                    held[address.address] = _renamed(found, address)
            except OSError as error:
                raise self._refused(spec, address, error) from error
        return [held[address.address] for address in spec.listen]

    def _refused(self, spec: Spec, address: ListenAddress, error: OSError) -> CorralError:
        words = f'cannot listen at "{address.address}" for "{spec.name}"'
        facts = {"agent": spec.name, "address": address.address, "errno": error.errno or 0}
        if error.errno == errno.EADDRINUSE:
            other = next((n for n, held in self._by_agent.items() if address.address in held), "")
            owner = f'agent "{other}"' if other else owner_of(address)
            return Conflict(f"{words}: it is in use by {owner}", owner=owner, **facts)
        reason = (error.strerror or str(error)).lower()
        if error.errno in (errno.EACCES, errno.EPERM):
            if address.path is None:
                reason = f"uid {os.geteuid()} may not use this port: below 1024 it takes privileges"
            return PermissionDenied(f"{words}: {reason}", **facts)
        return InvalidParams(f"{words}: {reason}", **facts)

    def hand_out(self, spec: Spec, unit: str) -> list[int]:
        """Returns a descriptor of each socket of a spec for a new life, which the caller has to close; opens what is missing."""
        try:
            sockets = self.open(spec)
            made: list[int] = []
            try:
                made.extend(os.dup(each.socket.fileno()) for each in sockets)
            except OSError as error:
                for fd in made:
                    os.close(fd)
                words = f'cannot start "{unit}": no descriptor is free for its sockets'
                raise SpawnFailed(words, errno=error.errno or 0, retryable=True) from error
        except CorralError as error:
            facts = {"retryable": False, **error.data, "unit": unit, "stage": "listen"}
            raise SpawnFailed(error.message, result="exec-failed", **facts) from error
        self._lives[unit] = spec.name, tuple(each.place for each in sockets)
        return made

    def ended(self, unit: str) -> str | None:
        """Takes note that no process of a life is left; returns its agent, None for a life that was handed nothing."""
        return self._lives.pop(unit, (None, ()))[0]

    def keep(self, spec: Spec) -> None:
        """Closes the sockets of addresses that the spec has no more, and that no life has."""
        held = self._by_agent.get(spec.name, {})
        wanted = {address.address for address in spec.listen}
        in_use = {each.address.address for name, places in self._lives.values() if name == spec.name for each in places}
        self._close(spec.name, [each for each in held if each not in wanted | in_use])

    def close(self, agent: str) -> None:
        """Closes all sockets of an agent: connections are refused from now on, once no worker of it listens either."""
        self._close(agent, list(self._by_agent.get(agent, ())))
        self._by_agent.pop(agent, None)

    def _close(self, agent: str, addresses: Iterable[str]) -> None:
        held = self._by_agent.get(agent, {})
        for address in addresses:
            held.pop(address).close()

    def close_all(self) -> None:
        """Closes everything."""
        for agent in list(self._by_agent):
            self.close(agent)

    def is_serving(self, unit: str, roots: Iterable[int]) -> bool:
        """Returns True if a process below `roots` has a connection that came in at a socket that this life was handed."""
        _agent, places = self._lives.get(unit, ("", ()))
        ports = {each.port for each in places if each.port}
        paths = {each.address.path for each in places if each.address.path is not None}
        return bool(places) and serves(roots, ports, paths)


def _renamed(found: ListenSocket, address: ListenAddress) -> ListenSocket:
    """Returns the same socket with another name or mode."""
    if address.path is not None:
        os.chmod(address.path, int(address.mode or MODE, 8))
    return ListenSocket(address, found.socket, found.port, found.inode)


def _open(address: ListenAddress) -> ListenSocket:
    """Opens one address."""
    if address.path is not None:
        return _open_path(address, address.path)
    host, port = address.place
    domain = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as undo:
        made = undo.enter_context(socket.socket(domain, socket.SOCK_STREAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger
        made.bind((host, port))
        made.listen(BACKLOG)
        undo.pop_all()
    return ListenSocket(address, made, made.getsockname()[1])


def _open_path(address: ListenAddress, path: str) -> ListenSocket:
    _remove_stale(path)
    with contextlib.ExitStack() as undo:
        made = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        made.bind(path)  # with the daemon's umask, 077: nobody else connects before the mode is set
        undo.callback(os.unlink, path)
        inode = _inode(path)
        os.chmod(path, int(address.mode or MODE, 8))
        made.listen(BACKLOG)
        undo.pop_all()
    return ListenSocket(address, made, inode=inode)


def _remove_stale(path: str) -> None:
    """Removes a socket that nobody listens at any more: its process was killed."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_socket:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(TRY_S)
            try:
                asked.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink(missing_ok=True)
                return
            except OSError:
                pass  # full, or not ours to look at: it is in use
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
