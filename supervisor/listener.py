"""The control socket: taken with a lock, each peer known by its credentials, each with what it may do.

The socket file is 0600 (0660 with a group), and every connection is checked again by SO_PEERCRED
(unix(7)), since a mode says nothing about a descriptor that was passed on. A peer inside a worker's
process tree has no rights: an agent does not steer its keeper.
"""

import asyncio
import contextlib
import fcntl
import grp
import os
import pwd
import socket
import struct
from collections.abc import Awaitable
from pathlib import Path

from ..worker.channel import Channel
from ..worker.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    Overloaded,
    PermissionDenied,
    ShuttingDown,
)
from ..worker.wire import Peer, Request
from .control import Control, Permission

MAX_PATH_BYTES = 107
"""`sun_path` holds 108 bytes with the final NUL (unix(7))."""

MAX_CONNECTIONS = 4096

MAX_REQUESTS = 1000
"""Requests in flight on one connection."""


class SocketLock:
    """The right to listen at a path: one daemon has it, and a dead one has left it.

    Raises:
        Conflict: another daemon has it; `data["pid"]` is its.
        InvalidParams: the path is too long.
        PermissionDenied: its folder cannot be used.
    """

    def __init__(self, path: Path) -> None:
        size = len(os.fsencode(path))
        if size > MAX_PATH_BYTES:
            raise InvalidParams(
                f'cannot listen on "{path}": the path has {size} bytes, and a socket\'s has {MAX_PATH_BYTES}'
                " at most",
                key="socket",
                value=str(path),
                reason="too long",
            )
        self.path = path
        self._file = Path(f"{path}.lock")
        try:
            make_private_folder(path.parent)
            self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PermissionDenied(
                f'cannot listen on "{path}": {error.strerror}: {error.filename}', path=str(path)
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise Conflict(
                f'cannot listen on "{path}": a daemon with pid {pid} does already',
                pid=int(pid) if pid.isdigit() else None,
                path=str(path),
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # nobody listens there: we have the lock

    def release(self) -> None:
        """Gives the path up. The lock file stays: removing it would race with the next daemon."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self._fd)


def make_private_folder(folder: Path) -> None:
    """Makes a folder for the socket, 0700; one in /tmp has to be ours, since anybody can make it first.

    Raises:
        OSError: it cannot be made.
        PermissionDenied: it belongs to somebody else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.parent == Path("/tmp") and folder.name.startswith("corral-"):
        owner = folder.lstat().st_uid
        if owner != os.getuid() or folder.is_symlink():
            raise PermissionDenied(
                f'cannot use folder "{folder}": it belongs to uid {owner}', path=str(folder)
            )


class Listener:
    """Accepts connections and hands their requests to the method table."""

    def __init__(
        self,
        control: Control,
        lock: SocketLock,
        *,
        group: str | None,
    ) -> None:
        self._control = control
        self._lock = lock
        self._group = group
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self.closing = False

    async def open(self) -> None:
        """Starts to listen.

        Raises:
            InvalidParams: the group does not exist any more.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connection, str(self._lock.path))
        os.chmod(self._lock.path, 0o600)
        if self._group is not None:
            os.chown(self._lock.path, -1, group_id(self._group))
            os.chmod(self._lock.path, 0o660)

    def _connection(self) -> "Connection":
        connection = Connection(self._control, self)
        self._connections.add(connection)
        return connection

    @property
    def is_full(self) -> bool:
        """Whether a further connection is one too many."""
        return len(self._connections) > MAX_CONNECTIONS

    def forget(self, connection: "Connection") -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def permission(self, pid: int, uid: int) -> Permission | None:
        """What a peer may do: the owner and root everything, the group's members operate, others nothing."""
        if _is_inside(pid, os.getpid()):  # also what a launcher that died has left to us
            return None
        if uid in (0, os.getuid()):
            return "admin"
        return "operate" if self._group is not None and _is_member(uid, self._group) else None

    async def close(self) -> None:
        """Stops listening and closes every connection, after what is queued for it was sent."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.close()


class Connection(Channel):
    """One client."""

    def __init__(self, control: Control, listener: Listener) -> None:
        super().__init__(
            Peer(answer_foreign=True, max_requests=MAX_REQUESTS),
            name="client",
            on_request=self._call,
            on_closed=self._closed,
        )
        self.permission: Permission = "read"
        self._control = control
        self._listener = listener
        self._refusal: PermissionDenied | Overloaded | None = None
        self._following: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Finds out who it is."""
        sock: socket.socket = transport.get_extra_info("socket")
        size = struct.calcsize("3i")
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _ = struct.unpack("3i", raw)
        self.name = f"uid {uid} pid {pid}"
        permission = self._listener.permission(pid, uid)
        if self._listener.is_full:
            self._refusal = Overloaded(
                f"cannot take a connection beyond {MAX_CONNECTIONS}", retry_after_s=1.0
            )
        elif permission is None:
            self._refusal = PermissionDenied(f"cannot serve {self.name}: it has no rights here")
        else:
            self.permission = permission
        super().connection_made(transport)

    async def _call(self, request: Request) -> object:
        if self._refusal is not None:
            raise self._refusal
        if self._listener.closing:
            raise ShuttingDown(f'cannot call "{request.method}": the daemon is stopping')
        return await self._control.call(request.method, request.params, self)

    def follow(self, following: Awaitable[None]) -> None:
        """Goes on until the client hangs up."""

        async def run() -> None:
            try:
                await following
            except CorralError as error:
                if not self.is_closed:  # else it hung up, which is how following ends
                    self.close(error)

        task = asyncio.get_running_loop().create_task(run())
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    def _closed(self, _: object) -> None:
        for task in self._following:
            task.cancel()
        self._listener.forget(self)


def group_id(name: str) -> int:
    """The id of the group whose members operate.

    Raises:
        InvalidParams: it does not exist.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidParams(
            f'cannot give the socket to group "{name}": there is none',
            key="daemon.group",
            value=name,
            reason="unknown group",
        ) from None


def _is_inside(pid: int, ancestor: int) -> bool:
    """Whether a process descends from `ancestor`, by /proc/PID/stat (proc(5)); yes where it cannot be told.

    A worker may let a child connect that is dead by the time when we look.
    """
    for _ in range(1000):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                pid = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return True
    return True


def _is_member(uid: int, group: str) -> bool:
    try:
        user = pwd.getpwuid(uid)
        entry = grp.getgrnam(group)
    except KeyError:
        return False
    return user.pw_name in entry.gr_mem or user.pw_gid == entry.gr_gid
