"""Accepts connections on the control socket, identifies each peer by its credentials, and grants its permission.

Every connection is checked by SO_PEERCRED (unix(7)), since the mode of the socket file says nothing about a
descriptor that was passed on. A peer inside a worker's process tree has only the rights that its agent's spec
grants, by default none: an agent does not operate its supervisor. A few descriptors are held in reserve, so that a daemon that is out of them still answers.
"""

import asyncio
import contextlib
import errno
import inspect
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from corral import __version__
from corral.mcp.endpoint.server import McpEndpoint
from corral.mcp.protocol.messages import Caller
from corral.supervisor.api.table.handlers import GOES_ON_AS
from corral.supervisor.api.table.table import Control
from corral.supervisor.tasks.run.buffer import METHOD as PART
from corral.supervisor.tenants.quotas.connections import Clients, allowed
from corral.supervisor.tenants.tokens.scope import bound, lesser
from corral.supervisor.tenants.tokens.tokens import Tokens
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.channel import Channel, ChannelHandover
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InternalError,
    Overloaded,
    PermissionDenied,
    ShuttingDown,
)
from corral.worker.contract.jsonrpc import Notification, Peer, Request
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams

from ..mcp.client_tools import ToolSources
from ..mcp.tool_caller import Client
from .peer import Identity, Peers
from .socket_lock import SocketLock

MAX_CONNECTIONS = 4096

MAX_REQUESTS = 1000
"""Number of requests in flight on one connection."""

MAX_STREAMS = 100
"""Number of streams that one connection follows."""

ACCEPTS_PER_TURN = 4
"""Number of connections that are accepted before the loop does something else."""

RESERVE = 4
"""Number of descriptors held for control alone: so many connections are served when there are no others."""

PAUSE_S = 0.1
"""Seconds that new connections wait when they cannot be accepted at all."""

LOAN_S = 1.0
"""Seconds without a call after which a connection at the cost of the reserve ends."""

LOAN_MAX_S = 10.0
"""Seconds after which such a connection ends in any case: the reserve is for the next one."""

logger = logging.getLogger(__name__)


class ConnectionHandover(Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: the descriptor, the peer, what it logged in with, and its calls."""

    fd: int
    identity: Identity
    digest: bytes | None
    tenant: str
    has_logged_in: bool
    channel: ChannelHandover


class ListenerHandover(Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: the listening socket, the lock of its path, and the connections."""

    socket_fd: int
    lock_fd: int
    is_inherited: bool
    connections: tuple[ConnectionHandover, ...]

    @property
    def descriptors(self) -> list[int]:
        """Returns the descriptors that are handed over."""
        return [self.socket_fd, self.lock_fd, *(each.fd for each in self.connections)]


class Reserve:
    """Holds descriptors that are spent when there are no others, and taken back as soon as there are."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._fds: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Takes spent descriptors back, as far as the limit allows."""
        with contextlib.suppress(OSError):
            while len(self._fds) < self._size:
                self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def is_whole(self) -> bool:
        """Returns whether none of it is spent."""
        return len(self._fds) == self._size

    def spend(self) -> bool:
        """Frees one descriptor; False when none is left."""
        if not self._fds:
            return False
        os.close(self._fds.pop())
        return True

    def close(self) -> None:
        """Closes all of them."""
        while self.spend():
            pass


class Listener:
    """Accepts connections and hands their requests to the method table."""

    def __init__(
        self,
        control: Control,
        sources: ToolSources,
        tokens: Tokens,
        peers: Peers,
        lock: SocketLock,
        *,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.control = control
        self.sources = sources
        self.tokens = tokens
        self.peers = peers
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._reserve = Reserve(RESERVE)
        self._spare = Reserve(1)
        self._resume: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._loans: dict[Connection, float] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self.clients = Clients(allowed(max_connections))
        """Whose connections they are."""
        self.closing = False

    def open(self) -> None:
        """Starts to listen."""
        self._socket = self._lock.listen(self.peers.group, self.peers.readers)
        self._loop.add_reader(self._socket.fileno(), self._accept)

    # -- from one program of the daemon to the next

    def hold(self) -> None:
        """Accepts and reads nothing more, until `release`: what clients send stays in the kernel."""
        assert self._socket is not None, "it is open"
        self._loop.remove_reader(self._socket.fileno())
        if self._resume is not None:
            self._resume.cancel()
        for connection in self._connections:
            connection.hold()

    def release(self) -> None:
        """Accepts and reads again."""
        for connection in self._connections:
            connection.release()
        self._go_on()

    def obstacles(self) -> list[str]:
        """Returns the calls that no other program can go on with, each in words."""
        opening = ["a connection is being opened"] if self._opening else []
        return opening + [words for each in self._connections if (words := each.obstacle)]

    def hand_over(self) -> ListenerHandover:
        """Returns what the next program goes on from, without the connections that their clients have to open anew."""
        assert self._socket is not None, "it is open"
        return ListenerHandover(
            socket_fd=self._socket.fileno(),
            lock_fd=self._lock.fd,
            is_inherited=self._lock.inherited is not None,
            connections=tuple(each.left() for each in self._connections if each.is_carried),
        )

    def leave(self) -> None:
        """Sends nothing more to the clients whose connections were handed over."""
        for connection in self._connections:
            if connection.is_carried:
                connection.leave()

    async def take_up(self, left: ListenerHandover) -> None:
        """Goes on with the connections that the program before has left."""
        for each in left.connections:
            with contextlib.suppress(OSError):  # its client is gone
                sock = socket.socket(fileno=each.fd)
                _, connection = await self._loop.connect_accepted_socket(self._connection_of(each), sock)
                connection.resume(each)

    def _connection_of(self, left: ConnectionHandover) -> "Callable[[], Connection]":
        def make() -> Connection:
            connection = Connection(self, left.identity)
            self._connections.add(connection)
            return connection

        return make

    def _accept(self) -> None:
        """Accepts waiting connections; out of descriptors, at the cost of the reserve."""
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
        """Leaves connections in the kernel's queue for PAUSE_S; a loop that tried again at once would spin."""
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
                    connection.close(Overloaded("cannot keep a connection: no descriptors are left"))
        self._await_refill()

    def _refill(self) -> bool:
        """Takes the reserve back; once whole, makes an ordinary connection of every loan."""
        self._spare.refill()
        self._reserve.refill()
        if self._reserve.is_whole:
            self._loans.clear()
        return self._reserve.is_whole

    def _connection(self) -> "Connection":
        connection = Connection(self)
        self._connections.add(connection)
        return connection

    def forget(self, connection: "Connection") -> None:
        """Forgets a connection that has ended; its descriptor is free in the next turn."""
        self._connections.discard(connection)
        self.clients.forget(connection)
        self._loans.pop(connection, None)
        if not self.closing:
            self._loop.call_soon(self._return)

    def _return(self) -> None:
        if not self.closing:
            self._refill()

    def identify(self, sock: socket.socket) -> Identity:
        """Identifies the peer of a connection."""
        self._spare.spend()  # /proc can be read also when there are no other descriptors
        try:
            return self.peers.identify(sock)
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
    """Represents the connection of one client."""

    def __init__(self, listener: Listener, identity: Identity | None = None) -> None:
        """Takes a connection of this `identity`, if that is known already."""
        token = os.urandom(6).hex()
        super().__init__(
            # Ids of requests to an MCP client are never those of an earlier connection of its `corral mcp serve`.
            Peer(token, answer_foreign=True, max_requests=MAX_REQUESTS),
            name="client",
            on_request=self._call,
            on_notification=self._on_notification,
            on_closed=self._closed,
        )
        self.permission: Rights = "read"
        self.who: Mapping[str, object] = {}
        self.agents: Sequence[str] | None = None
        self.tenant = ""
        self._bound = ""
        self._digest: bytes | None = None
        self._has_logged_in = False
        self._control = listener.control
        self._tokens = listener.tokens
        self._peers = listener.peers
        self._listener = listener
        self._identity = identity or Identity(0, 0, is_inside=True, agent=None)
        self._is_identified = identity is not None
        self._outside: Rights | None = None
        self._token = token
        self.supervisor: WorkerSupervisor | None = None
        self._endpoint: McpEndpoint | None = None
        self._refusal: Overloaded | None = None
        self._following: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Identifies the peer."""
        if not self._is_identified:
            self._identity = self._listener.identify(transport.get_extra_info("socket"))
        self.name = f"uid {self._identity.uid} pid {self._identity.pid}"
        self.who = self._identity.who
        if not self._identity.is_inside:
            self._outside = self._peers.permission(self._identity)
        else:
            self.supervisor = self._peers.supervisor(self._identity.leader)
        self._bound = self.tenant = self._peers.tenant(self._identity)
        if self.tenant:
            self.who = {**self.who, "tenant": self.tenant}
        self._take_place()
        super().connection_made(transport)

    def _take_place(self) -> None:
        """Takes a place among the connections of its client; without one it is served nothing, and ends."""
        grant = None if self._digest is None else self._tokens.permitted(self._digest)
        if self._bound:
            owner = f'tenant "{self._bound}"'
        elif grant is not None:
            owner = f'token "{grant.name}"'
        elif self._identity.is_inside:
            owner = f'agent "{self._identity.agent}"'
        else:
            owner = "" if self._outside == "admin" else f"uid {self._identity.uid}"
        try:
            self._listener.clients.note(self, owner)
        except Overloaded as error:
            self._refusal = error
            self._loop.call_later(LOAN_S, self.close, error)

    # -- from one program of the daemon to the next

    @property
    def obstacle(self) -> str:
        """Returns a call of it, in words, that no other program can go on with; empty where there is none."""
        for request in self.requests:
            if self._endpoint is not None or not self._control.goes_on(request.method):
                return f'"{request.method}" for {self.name} is under way'
        return ""

    @property
    def is_carried(self) -> bool:
        """Returns whether the next program goes on with it; else its client connects anew: it follows, or reads slowly."""
        return self._endpoint is None and not self._following and self.is_drained and self._refusal is None

    def left(self) -> ConnectionHandover:
        """Returns what the next program goes on from."""
        return ConnectionHandover(
            fd=self._write_fd,
            identity=self._identity,
            digest=self._digest,
            tenant=self._bound if self._has_logged_in else "",
            has_logged_in=self._has_logged_in,
            channel=self.hand_over(),
        )

    def resume(self, left: ConnectionHandover) -> None:
        """Goes on from what the program before has left; ends where the token has expired meanwhile."""
        if left.has_logged_in:
            try:
                self.log_in(left.digest, left.tenant)
            except CorralError as error:
                self.close(error)
                return
        self.take_up(left.channel)

    @property
    def is_idle(self) -> bool:
        """Returns whether no call of it is under way; following is no call."""
        return not self._serving

    async def _call(self, request: Request) -> object:
        if self._endpoint is not None and not self._listener.closing:
            return await self._endpoint.request(request.id, request.method, request.params, self)
        permission = self._granted()
        is_agent = self._identity.agent is not None and self._digest is None
        if permission is None and request.method == "mcp.attach" and is_agent:
            permission = "read"  # the tools of its agent are a worker's without any control
        if permission is None:
            if self._digest is not None and self._tokens.permitted(self._digest) is None:
                raise PermissionDenied(
                    f"cannot serve {self.name}: the token has expired or was removed", reason="token"
                )
            hint = f'; "control" of agent "{who}" grants none' if (who := self._identity.agent) else ""
            error = PermissionDenied(f"cannot serve {self.name}: it has no rights here{hint}")
            self._control.note_refused(request.method, request.params, self, error)
            raise error
        if self._refusal is not None:
            raise self._refusal
        if self._listener.closing:
            raise ShuttingDown(f'cannot call "{request.method}": the daemon is stopping')
        self.permission = permission
        self.tenant = self._bound
        self.agents = self._agents()
        GOES_ON_AS.set(lambda method, params: self.go_on_as(Request(request.id, method, dict(params))))
        return await self._control.call(request.method, request.params, self)

    def _granted(self) -> Rights | None:
        """Returns its permission: inside a tree only the spec counts, as it is now, and not the user; a token only restricts it."""
        own = self._peers.granted(self._identity.agent) if self._identity.is_inside else self._outside
        if self._digest is None:
            return own
        grant = self._tokens.permitted(self._digest)
        return None if own is None or grant is None else lesser(own, grant.rights)

    def _agents(self) -> Sequence[str] | None:
        """Returns the globs of the agents that it may know, of its tenant alone where it has one; None for all."""
        if self._digest is None:
            return bound(None, self._bound)
        grant = self._tokens.permitted(self._digest)
        return () if grant is None else bound(grant.agents, self._bound)

    def log_in(self, digest: bytes | None, tenant: str) -> None:
        """Restricts the connection to what the token of a digest permits, at each call as it is then, and to a tenant."""
        grant = None if digest is None else self._tokens.permitted(digest)
        if self._has_logged_in or (digest is not None and grant is None):
            raise Conflict("cannot log in: this connection has logged in already")
        self._has_logged_in = True
        self._digest, self._bound = digest, tenant
        self.tenant, self.agents = tenant, self._agents()
        if tenant:
            self.who = {**self.who, "tenant": tenant}
            self.name = f'tenant "{tenant}" of {self.name}'
        if grant is not None:
            self.permission = lesser(self.permission, grant.rights)
            self.who = {**self.who, "token": grant.name}
            self.name = f'token "{grant.name}" of {self.name}'
        self._take_place()
        if self._refusal is not None:
            raise self._refusal

    def notify(self, method: str, params: Mapping[str, object] | None = None) -> None:
        """Sends a notification; a connection whose token has expired or was removed ends instead."""
        if self._digest is not None and self._tokens.permitted(self._digest) is None:
            self.close(PermissionDenied("cannot go on: the token has expired or was removed", reason="token"))
            return
        if method == PART:  # a reader of parts that is slow is told what it lost
            self.wait_patiently()
        super().notify(method, params)

    # -- as an MCP client

    def attach(self, view: AttachParams) -> None:
        """Switches the connection to MCP."""
        sharer = self._identity.agent or f"client {self._token}"
        client = Client(self.name, sharer, self.who, self._granted, self.supervisor, self._agents, self._bound)
        client_tools = self._listener.sources.tools_of(client, view)
        caller = Caller(name=self.name, sharer=sharer)
        self._endpoint = McpEndpoint(
            client_tools, version=__version__, caller=caller, notify=self.notify, tasks=client_tools.tasks
        )

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        """Returns an MCP client's answer to a request of ours; the caller bounds the wait."""
        return await self.request(method, params, timeout_s=None)

    def _on_notification(self, notification: Notification) -> None:
        if self._endpoint is not None:
            self._endpoint.handle_notification(notification.method, notification.params)

    def follow(self, following: Awaitable[None]) -> None:
        """Runs `following` until the client hangs up; one that reads slowly is skipped ahead, and never disconnected."""
        if len(self._following) >= MAX_STREAMS:
            if inspect.iscoroutine(following):
                following.close()
            text = f"cannot follow more than {MAX_STREAMS} streams on one connection"
            raise Overloaded(text, limit="streams", value=MAX_STREAMS)
        self.wait_patiently()

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
        if self.is_closed:
            self._loop.call_soon(task.cancel)  # after its first step: it has to clean up

    def _closed(self, _: object) -> None:
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None  # it holds this connection, as the way back to its client
        for task in self._following:
            self._loop.call_soon(task.cancel)  # as in `follow`
        self._listener.forget(self)
