"""The control socket: taken with a lock, each peer known by its credentials, each with what it may do.

The socket file is 0600 (0660 with a group), and every connection is checked again by SO_PEERCRED
(unix(7)), since a mode says nothing about a descriptor that was passed on. A peer inside a worker's
process tree has only the rights that its agent's spec grants, by default none: an agent does not steer
its keeper. A few descriptors are held in reserve, so that a daemon that is out of them still answers.
"""

import asyncio
import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import select
import socket
import struct
from collections.abc import Awaitable, Container, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

from .. import __version__
from ..mcp.caller import Caller
from ..mcp.face import Face
from ..worker.channel import Channel
from ..worker.errors import (
    Conflict,
    CorralError,
    InternalError,
    InvalidParams,
    Overloaded,
    PermissionDenied,
    ShuttingDown,
)
from ..worker.schema import AttachParams
from ..worker.wire import Notification, Peer, Request
from .control import Control, Permission
from .keeper import Keeper
from .offering import Client, ClientOffering

MAX_PATH_BYTES = 107
"""`sun_path` holds 108 bytes with the final NUL (unix(7))."""

MAX_CONNECTIONS = 4096

MAX_REQUESTS = 1000
"""Requests in flight on one connection."""

BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn."""

ACCEPTS_PER_TURN = 64
"""Connections that are accepted before the loop does something else."""

RESERVE = 4
"""Descriptors that are held for control alone: so many connections are served when there are no others."""

PAUSE_S = 0.1
"""How long new connections wait when they cannot be accepted at all."""

LOAN_S = 1.0
"""A connection at the cost of the reserve ends when it has nothing to do for so long…"""

LOAN_MAX_S = 10.0
"""…and after this time in any case: the reserve is for whoever comes next."""

FIRST_INHERITED_FD = 3
"""Where sockets from the service manager begin; see sd_listen_fds(3)."""

SO_PEERPIDFD = getattr(socket, "SO_PEERPIDFD", 77)
"""A pidfd of the peer: Linux 6.5; Python has no name for it before 3.14."""

logger = logging.getLogger(__name__)


def inherited_socket(environ: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """The listening socket that the service manager has passed to us, if any; see sd_listen_fds(3).

    The variables that say so are removed: they are meant for us, and for nobody whom we start.

    Raises:
        InvalidParams: it is not one listening unix stream socket with a path.
    """
    meant_for, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if meant_for != str(pid) or not count.isdecimal() or count == "0":
        return None
    fds = range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fds[0])
    is_ours = (
        len(fds) == 1
        and (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        and str(sock.getsockname()).startswith("/")
    )
    if not is_ours:
        sock.detach()  # not ours to close
        raise InvalidParams(
            f"cannot listen on what the service manager has passed: {count} descriptors, where one listening"
            " unix stream socket with a path is expected",
            key="LISTEN_FDS",
            value=count,
            reason="no socket for control",
        )
    sock.setblocking(False)
    return sock


class SocketLock:
    """The right to listen at a path: one daemon has it, and a dead one has left it.

    With `inherited`, a socket that the service manager bound there, the file is the manager's: it is
    neither replaced nor removed, and its owner, group and mode are what the manager gave it.

    Raises:
        Conflict: another daemon has it; `data["pid"]` is its.
        InvalidParams: the path is too long.
        PermissionDenied: its folder cannot be used.
    """

    def __init__(self, path: Path, inherited: socket.socket | None = None) -> None:
        self.inherited = inherited
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
        if inherited is None:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()  # nobody listens there: we have the lock

    def listen(self, group: str | None) -> socket.socket:
        """A listening socket at the path, of the mode that `group` asks for; or the inherited one as it is.

        Raises:
            InvalidParams: the group does not exist any more.
            PermissionDenied: it cannot be bound.
        """
        if self.inherited is not None:
            return self.inherited
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(str(self.path))
            os.chmod(self.path, 0o600)
            if group is not None:
                os.chown(self.path, -1, group_id(group))
                os.chmod(self.path, 0o660)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise PermissionDenied(
                f'cannot listen on "{self.path}": {error.strerror}', path=str(self.path)
            ) from error
        except BaseException:
            sock.close()
            raise
        return sock

    def release(self) -> None:
        """Gives the path up. The lock file stays: removing it would race with the next daemon."""
        if self.inherited is None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        else:
            self.inherited.close()  # the manager has it open, too: who connects now waits
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


class Reserve:
    """Descriptors that are spent when there are no others, and taken back as soon as there are."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._fds: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Takes back what was spent, as far as that can be had."""
        with contextlib.suppress(OSError):
            while len(self._fds) < self._size:
                self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it is spent."""
        return len(self._fds) == self._size

    def spend(self) -> bool:
        """Frees one descriptor; False when none is left."""
        if not self._fds:
            return False
        os.close(self._fds.pop())
        return True

    def close(self) -> None:
        """Gives all of them up."""
        while self.spend():
            pass


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
        self._loop = control.loop
        self._socket: socket.socket | None = None
        self._reserve = Reserve(RESERVE)
        self._spare = Reserve(1)
        self._resume: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._loans: dict[Connection, float] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self.closing = False

    def open(self) -> None:
        """Starts to listen.

        Raises:
            InvalidParams: the group does not exist any more.
            PermissionDenied: the socket cannot be bound.
        """
        self._socket = self._lock.listen(self._group)
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        """Accepts what waits; out of descriptors, at the cost of the reserve."""
        assert self._socket is not None, "it is read while it is open"
        is_loan = False
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, _address = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._reserve.spend():
                    is_loan = True
                    continue
                self._pause(error)
                return
            task = self._loop.create_task(self._serve(accepted, is_loan))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            is_loan = False

    async def _serve(self, accepted: socket.socket, is_loan: bool) -> None:
        try:
            _, connection = await self._loop.connect_accepted_socket(self._connection, accepted)
        except OSError as error:
            accepted.close()
            logger.warning("cannot serve a connection: %s", error)
            return
        if is_loan and not connection.is_closed:
            self._loans[connection] = self._loop.time()
        self._await_refill()

    def _pause(self, error: OSError) -> None:
        """Connections wait in the kernel's queue meanwhile; a loop that asked again at once would spin."""
        assert self._socket is not None, "it is read while it is open"
        self._loop.remove_reader(self._socket.fileno())
        self._resume = self._loop.call_later(PAUSE_S, self._go_on)
        if self._tick is None:
            logger.warning("cannot accept a connection: %s", error)
            self._await_refill()

    def _go_on(self) -> None:
        assert self._socket is not None, "the timer ends with it"
        self._resume = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _await_refill(self) -> None:
        if self._tick is None and not self.closing and not self._refill():
            self._tick = self._loop.call_later(LOAN_S, self._collect)

    def _collect(self) -> None:
        """Ends loans as long as the reserve is not whole."""
        self._tick = None
        now = self._loop.time()
        if not self._refill():
            for connection, since in list(self._loans.items()):
                if connection.is_idle or now - since > LOAN_MAX_S:
                    connection.close(
                        Overloaded("cannot keep a connection: no descriptors are left")
                    )
        self._await_refill()

    def _refill(self) -> bool:
        """Takes the reserve back; whole, it makes a connection of every loan."""
        self._spare.refill()
        self._reserve.refill()
        if self._reserve.is_whole:
            self._loans.clear()
        return self._reserve.is_whole

    def _connection(self) -> "Connection":
        connection = Connection(self._control, self)
        self._connections.add(connection)
        return connection

    @property
    def is_full(self) -> bool:
        """Whether a further connection is one too many."""
        return len(self._connections) > MAX_CONNECTIONS

    def forget(self, connection: "Connection") -> None:
        """A connection has ended, and its descriptor is free in the next turn."""
        self._connections.discard(connection)
        self._loans.pop(connection, None)
        if not self.closing:
            self._loop.call_soon(self._return)

    def _return(self) -> None:
        if not self.closing:
            self._refill()

    def permission(self, identity: "Identity") -> Permission | None:
        """What a peer may do that no worker has started: the owner and root everything, the group's members operate."""
        if identity.uid in (0, os.getuid()):
            return "admin"
        return (
            "operate" if self._group is not None and _is_member(identity.uid, self._group) else None
        )

    def granted(self, agent: str | None) -> Permission | None:
        """What a peer inside the tree of an agent's worker may do, by the spec as it is now."""
        found = None if agent is None else self._control.agents.agents.get(agent)
        return None if found is None or found.spec.control == "none" else found.spec.control

    def keeper(self, leader: int | None) -> Keeper | None:
        """The keeper of the worker with this pid."""
        if leader is None:
            return None
        keepers = self._control.agents.all_keepers()
        return next((keeper for keeper in keepers if keeper.worker.pid == leader), None)

    def identify(self, sock: socket.socket) -> "Identity":
        """Who is at the other end of a connection."""
        leaders = {
            keeper.worker.pid: keeper.spec.name
            for keeper in self._control.agents.all_keepers()
            if keeper.worker.pid is not None
        } | self._control.shared.probes.commands.leaders()
        self._spare.spend()  # /proc can be read also when there are no other descriptors
        try:
            return identify(sock, leaders)
        finally:
            self._spare.refill()

    async def close(self) -> None:
        """Stops listening and closes every connection, after what is queued for it was sent."""
        self.closing = True
        for timer in (self._resume, self._tick):
            if timer is not None:
                timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            if self._socket is not self._lock.inherited:
                self._socket.close()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._connections):
            connection.close()
        self._reserve.close()
        self._spare.close()


class Connection(Channel):
    """One client."""

    def __init__(self, control: Control, listener: Listener) -> None:
        token = os.urandom(6).hex()
        super().__init__(
            # Ids of what an MCP client is asked are never those of an earlier connection of its `corral mcp serve`.
            Peer(token, answer_foreign=True, max_requests=MAX_REQUESTS),
            name="client",
            on_request=self._call,
            on_notification=self._hear,
            on_closed=self._closed,
        )
        self.permission: Permission = "read"
        self.who: Mapping[str, object] = {}
        self._control = control
        self._listener = listener
        self._identity = Identity(0, 0, is_inside=True, agent=None)
        self._outside: Permission | None = None
        self._token = token
        self.keeper: Keeper | None = None
        self._face: Face | None = None
        self._refusal: Overloaded | None = None
        self._following: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Finds out who it is."""
        self._identity = self._listener.identify(transport.get_extra_info("socket"))
        self.name = f"uid {self._identity.uid} pid {self._identity.pid}"
        self.who = self._identity.who
        if not self._identity.is_inside:
            self._outside = self._listener.permission(self._identity)
        else:
            self.keeper = self._listener.keeper(self._identity.leader)
        if self._listener.is_full:
            self._refusal = Overloaded(
                f"cannot take a connection beyond {MAX_CONNECTIONS}", retry_after_s=1.0
            )
        super().connection_made(transport)

    @property
    def is_idle(self) -> bool:
        """Whether no call of it is under way; following is no call."""
        return not self._serving

    async def _call(self, request: Request) -> object:
        if self._face is not None and not self._listener.closing:
            return await self._face.request(request.id, request.method, request.params, self)
        permission = self._granted()
        if permission is None and request.method == "mcp.attach" and self._identity.agent:
            permission = "read"  # the tools of its agent are a worker's without any control
        if permission is None:
            hint = (
                f'; "control" of agent "{who}" grants none' if (who := self._identity.agent) else ""
            )
            error = PermissionDenied(f"cannot serve {self.name}: it has no rights here{hint}")
            self._control.note_refused(request.method, request.params, self, error)
            raise error
        if self._refusal is not None:
            raise self._refusal
        if self._listener.closing:
            raise ShuttingDown(f'cannot call "{request.method}": the daemon is stopping')
        self.permission = permission
        return await self._control.call(request.method, request.params, self)

    def _granted(self) -> Permission | None:
        """What it may do: inside a tree only the spec counts, whoever the user is, and as it is now."""
        if self._identity.is_inside:
            return self._listener.granted(self._identity.agent)
        return self._outside

    # -- as an MCP client

    def attach(self, view: AttachParams) -> None:
        """Speaks MCP from now on.

        Raises:
            NotFound: there is no such profile.
        """
        sharer = self._identity.agent or f"client {self._token}"
        client = Client(self.name, sharer, self.who, self._granted, self.keeper)
        offering = ClientOffering(self._control, client, view)
        caller = Caller(name=self.name, sharer=sharer)
        self._face = Face(offering, version=__version__, caller=caller, notify=self.notify)

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        """What an MCP client answers to a request of ours; whoever asks bounds the wait.

        Raises:
            CorralError: it refuses, or is gone.
        """
        return await self.request(method, params, timeout_s=None)

    def _hear(self, notification: Notification) -> None:
        if self._face is not None:
            self._face.hear(notification.method, notification.params)

    def follow(self, following: Awaitable[None]) -> None:
        """Goes on until the client hangs up; one that reads slowly is skipped ahead, and never given up."""
        self.is_patient = True

        async def run() -> None:
            try:
                await following
            except CorralError as error:
                if not self.is_closed:  # else it hung up, which is how following ends
                    self.close(error)
            except Exception as error:
                logger.exception("cannot go on following for %s", self.name)
                self.close(InternalError(f"cannot go on: {type(error).__name__}"))

        task = asyncio.get_running_loop().create_task(run())
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    def _closed(self, _: object) -> None:
        if self._face is not None:
            self._face.close()
            self._face = None  # it holds this connection, as the way back to its client
        for task in self._following:
            task.cancel()
        self._listener.forget(self)


class Identity(NamedTuple):
    """A peer as the kernel knew it when it connected.

    `is_inside` says that it descends from this daemon, or that this cannot be told; `agent` is whose
    worker it descends from, None where that is unknown: it has left its tree, or the worker is dead;
    `leader` is the pid of that worker.
    """

    pid: int
    uid: int
    is_inside: bool
    agent: str | None
    leader: int | None = None

    @property
    def who(self) -> dict[str, object]:
        """As the audit names it; `agent` is there for whoever is inside, and null where it is unknown."""
        who: dict[str, object] = {"uid": self.uid, "pid": self.pid}
        return {**who, "agent": self.agent} if self.is_inside else who


def identify(sock: socket.socket, leaders: Mapping[int, str]) -> Identity:
    """Who is at the other end; `leaders` are the pids of living workers and the names of their agents."""
    size = struct.calcsize("3i")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", raw)
    is_inside, leader = _descent(pid, os.getpid(), leaders)
    if _is_gone(sock):  # so that the pid may have been another's when we looked
        is_inside, leader = True, None
    return Identity(pid, uid, is_inside, None if leader is None else leaders[leader], leader)


def _is_gone(sock: socket.socket) -> bool:
    """Whether the process that connected has ended; False where the kernel cannot tell."""
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


def _descent(pid: int, ancestor: int, leaders: Container[int]) -> tuple[bool, int | None]:
    """Whether a process descends from `ancestor`, and through which leader, by /proc/PID/stat (proc(5)).

    It does where that cannot be told: a worker may let a child connect that is dead when we look.
    """
    for _ in range(1000):
        if pid == ancestor:
            return True, None
        if pid in leaders:
            return True, pid
        if pid <= 1:
            return False, None
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                pid = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return True, None
    return True, None


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


def _is_member(uid: int, group: str) -> bool:
    try:
        user = pwd.getpwuid(uid)
        entry = grp.getgrnam(group)
    except KeyError:
        return False
    return user.pw_name in entry.gr_mem or user.pw_gid == entry.gr_gid
