"""Listens on one address, and accepts connections, with TLS where there is a certificate.

It accepts by itself, since a loop's server neither counts connections whose TLS handshake is not over, nor waits when
descriptors run out. It must not know HTTP.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from msgspec import Struct

from corral.worker.contract.errors import InvalidParams, PermissionDenied

ACCEPTS_PER_TURN = 4
"""Number of connections that are accepted before the loop does something else."""

BACKLOG = 128

PAUSE_S = 0.1
"""Seconds that new connections wait when they cannot be accepted at all."""

HANDSHAKE_S = 10.0
"""Seconds that a TLS handshake may take."""

logger = logging.getLogger(__name__)


class HttpHandover(Struct, frozen=True):
    """Holds what the next program goes on from: the listening socket, and the connections that wait for a request."""

    socket_fd: int
    connections: tuple[int, ...]

    @property
    def descriptors(self) -> list[int]:
        """Returns the descriptors that are handed over."""
        return [self.socket_fd, *self.connections]


class Listener:
    """Accepts the connections of one address."""

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        admit: Callable[[int], bool],
        *,
        tls: ssl.SSLContext | None = None,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self.tls = tls
        """TLS context of connections that open from now on; None where HTTP is plain."""
        self._protocol = protocol
        self._admit = admit
        self._handshake_s = handshake_s
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._opening: dict[asyncio.Task[None], None] = {}
        """The oldest first."""
        self._resume: asyncio.TimerHandle | None = None
        self._is_short = False
        """Whether the last connection could not be accepted: it is logged once."""

    async def open(self, host: str, port: int, left: HttpHandover | None = None) -> int:
        """Listens, or goes on with what another program of the daemon has left; returns the port."""
        if left is not None:
            self._socket = socket.socket(fileno=left.socket_fd)
            for fd in left.connections:
                with contextlib.suppress(OSError):  # its client is gone
                    self._begin(socket.socket(fileno=fd))
            self._loop.add_reader(self._socket.fileno(), self._accept)
            return int(self._socket.getsockname()[1])
        place = "127.0.0.1" if host == "localhost" else host
        try:
            found = await self._loop.getaddrinfo(place, port, type=socket.SOCK_STREAM)
            kind, address = found[0][0], found[0][4]
        except OSError as error:
            text = f'cannot serve HTTP at "{host}:{port}": the host has no address: {error.strerror or error}'
            raise InvalidParams(text, key="daemon.http", value=f"{host}:{port}") from error
        is_any = place == "::" and socket.has_dualstack_ipv6()
        try:
            self._socket = socket.create_server(address[:2], family=kind, backlog=BACKLOG, dualstack_ipv6=is_any)
        except OSError as error:
            text = f'cannot serve HTTP at "{host}:{port}": {error.strerror or error}'
            raise PermissionDenied(text, key="daemon.http", value=f"{host}:{port}") from error
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._accept)
        return int(self._socket.getsockname()[1])

    @property
    def is_opening(self) -> bool:
        """Returns whether a connection was accepted that is not served yet."""
        return bool(self._opening)

    @property
    def fd(self) -> int:
        """Returns the descriptor of the listening socket."""
        assert self._socket is not None, "it is open"
        return self._socket.fileno()

    def hold(self) -> None:
        """Accepts nothing more, until `release`: connections wait in the kernel."""
        self._loop.remove_reader(self.fd)
        if self._resume is not None:
            self._resume.cancel()

    def release(self) -> None:
        """Accepts again."""
        self._go_on()

    def stop(self) -> None:
        """Stops listening; connections that were accepted stay, and so do those in the kernel's queue."""
        if self._socket is not None:
            self._accept()
            self._leave()

    def _leave(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Stops listening; connections that were accepted stay."""
        self._leave()
        for task in list(self._opening):
            task.cancel()

    def _accept(self) -> None:
        assert self._socket is not None, "it is read while it is open"
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, _address = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(error)
                return
            self._is_short = False
            if not (self._admit(len(self._opening)) or self._drop_handshake()):
                accepted.close()
                continue
            accepted.setblocking(False)
            self._begin(accepted)

    def _begin(self, accepted: socket.socket) -> None:
        task = self._loop.create_task(self._serve(accepted))
        self._opening[task] = None
        task.add_done_callback(lambda done: self._opening.pop(done, None))

    def _drop_handshake(self) -> bool:
        """Breaks off the oldest TLS handshake: those of honest clients take a few milliseconds."""
        oldest = None if self.tls is None else next(iter(self._opening), None)
        if oldest is None:
            return False
        del self._opening[oldest]
        oldest.cancel()
        return True

    def _pause(self, error: OSError) -> None:
        """Leaves connections in the kernel's queue for PAUSE_S; a loop that tried again at once would spin."""
        assert self._socket is not None, "it is read while it is open"
        self._loop.remove_reader(self._socket.fileno())
        if not self._is_short:
            self._is_short = True
            logger.warning("cannot accept a connection over HTTP: %s", error)
        self._resume = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        assert self._socket is not None, "the timer ends with it"
        self._loop.add_reader(self._socket.fileno(), self._accept)

    async def _serve(self, accepted: socket.socket) -> None:
        tls = self.tls
        # A peer that speaks no TLS, breaks off or is too slow is no concern of the log: any can do so at any time.
        with contextlib.suppress(OSError, TimeoutError):
            with contextlib.suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                self._protocol, accepted, ssl=tls, ssl_handshake_timeout=None if tls is None else self._handshake_s
            )
            return
        accepted.close()
