"""Connects to the control socket from a blocking program: one connection, blocking calls, streams of notifications.

It decides where the socket is looked for, and gives a reason for every way in which a connection fails. It must not
import asyncio: the start-up time of the `corral` command is that of this module and click. Unix sockets as in
unix(7); the methods are those of `rpc.discover`.
"""

import errno
import os
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType

from ..contract.errors import InvalidRequest, MethodNotFound, Overloaded, Timeout, Unreachable
from ..contract.jsonrpc import Event, Foreign, Id, Notification, Peer, Request, Response

SOCKET_PATH_BYTES_MAX = 107
"""Bytes of the longest socket path: sun_path has 108, the last one is a NUL (unix(7))."""

CONNECT_TIMEOUT_S = 10
"""Seconds that connecting may take: it blocks while the daemon's accept queue is full."""

SEND_TIMEOUT_S = 30.0
"""Seconds that sending one request may take: it blocks while the daemon does not read."""

WAITING_NOTIFICATIONS_MAX = 100_000
"""Number of notifications that may arrive unread while a call waits for its response."""

RECEIVE_BYTES = 65_536
RETRY_FIRST_S, RETRY_LAST_S = 0.05, 0.5

Params = Mapping[str, object]


def default_socket(environ: Mapping[str, str], uid: int, logins: str = "/run/user") -> str:
    """Returns the path of the daemon's socket that applies without a `--socket` option.

    `$CORRAL_SOCKET`; for root `/run/corral/corral.sock`; for others `$XDG_RUNTIME_DIR/corral/corral.sock`,
    without that variable `/run/user/UID/corral/corral.sock` if it is there now, else `/tmp/corral-UID/corral.sock`.
    An empty variable counts as unset, and so does an XDG_RUNTIME_DIR that is not absolute (XDG Base
    Directory Specification). `logins` has the folders that a login makes, one for each uid.
    """
    if environ.get("CORRAL_SOCKET"):
        return environ["CORRAL_SOCKET"]
    if uid == 0:
        return "/run/corral/corral.sock"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return f"{runtime}/corral/corral.sock"
    # MCP clients start `corral mcp serve` with HOME, PATH and a few more variables, not with this one.
    of_login = f"{logins}/{uid}/corral/corral.sock"
    return of_login if os.path.exists(of_login) else f"{shared_folder(uid)}/corral.sock"


def shared_folder(uid: int) -> str:
    """Returns the folder of the socket for a user without a runtime directory; its owner must be checked."""
    return f"/tmp/corral-{uid}"


class Client:
    """Holds a connection to the daemon, open from its construction until `close`.

    Not thread-safe. After an Unreachable the connection is unusable; make another one (`await_daemon`).

    Raises:
        Unreachable: no daemon listens at `path`; `data["reason"]` is one of missing, stale, forbidden,
            too-long, not-ours, no-socket, busy, failed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.node: str | None = None
        """The node of the cluster that answers each call from now on; None: as the daemon finds it."""
        self._peer = Peer()
        self._notifications: deque[Notification] = deque()
        self._socket = connect(path)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the daemon drops its pending calls, but not its tasks."""
        self._socket.close()

    def call(
        self,
        method: str,
        params: Params | None = None,
        *,
        timeout_s: float | None = None,
        on_notification: Callable[[Notification], None] | None = None,
    ) -> object:
        """Returns the result of `method`; waits without limit unless `timeout_s` is given.

        Notifications that arrive meanwhile go to `on_notification`; without it they are kept for
        `notifications`. A timeout, or an exception such as KeyboardInterrupt, withdraws the request at the
        daemon, and the connection stays usable.

        Raises:
            Timeout: no answer within `timeout_s`.
            Unreachable: the connection broke, or the listener is not corrald. Whether the call took
                effect is unknown then.
            CorralError: the error that the daemon answered.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if self.node is not None:
            params = {**(params or {}), "node": self.node}
        request_id = self._peer.request(method, params, deadline=deadline)
        try:
            self._send()
            response = self._wait(request_id, on_notification or self._keep)
        except BaseException as error:
            if not isinstance(error, Unreachable):
                self._peer.cancel(request_id, "the caller no longer waits")
                with suppress(Unreachable):  # the first error is the one to raise
                    self._send()
            raise
        if response.error is not None:
            raise response.error
        return response.result

    def notifications(self, timeout_s: float | None = None) -> Iterator[Notification]:
        """Yields the notifications of a `….follow` method in order of arrival; each is waited for `timeout_s` at most.

        Raises:
            Unreachable: the connection ended, reason `closed`.
            Timeout: none has come in that time; the connection stays usable.
        """
        while True:
            until = None if timeout_s is None else time.monotonic() + timeout_s
            while not self._notifications:
                if until is not None and time.monotonic() >= until:
                    raise Timeout(f"cannot wait for a notification longer than {timeout_s:g} s", timeout_s=timeout_s)
                for event in self._receive(until):
                    if isinstance(event, Notification):
                        self._keep(event)
                    else:
                        self._refuse(event)
            yield self._notifications.popleft()

    # -- many calls at once, for a caller that waits for other descriptors too

    def fileno(self) -> int:
        """Returns the descriptor that is readable when `arrived` has something."""
        return self._socket.fileno()

    def ask(self, method: str, params: Params | None = None) -> Id:
        """Sends a request, whose response `arrived` returns under this id.

        Raises:
            Unreachable: the connection broke.
        """
        request_id = self._peer.request(method, params, deadline=None)
        self._send()
        return request_id

    def kept(self) -> list[Notification | Response]:
        """Returns the notifications that arrived during earlier calls."""
        found: list[Notification | Response] = list(self._notifications)
        self._notifications.clear()
        return found

    def arrived(self) -> list[Notification | Response]:
        """Reads once, and returns the notifications and responses in it, in order; waits where nothing has arrived.

        Raises:
            Unreachable: the connection ended, reason `closed`.
        """
        found: list[Notification | Response] = []
        for event in self._receive():
            if isinstance(event, Notification | Response):
                found.append(event)
            else:
                self._refuse(event)
        return found

    def _wait(self, request_id: Id, on_notification: Callable[[Notification], None]) -> Response:
        """Reads until the response to `request_id`; notifications in the same read are delivered too."""
        answer: Response | None = None
        while answer is None:
            for event in self._receive():
                if isinstance(event, Response):
                    answer = event if event.id == request_id else answer
                elif isinstance(event, Notification):
                    on_notification(event)
                elif answer is None:  # an oversized line is first a response, then foreign
                    self._refuse(event)
        return answer

    def _keep(self, notification: Notification) -> None:
        if len(self._notifications) >= WAITING_NOTIFICATIONS_MAX:
            text = f"cannot keep more than {WAITING_NOTIFICATIONS_MAX} notifications"
            raise Overloaded(text, limit=WAITING_NOTIFICATIONS_MAX)
        self._notifications.append(notification)

    def _refuse(self, event: Event) -> None:
        if isinstance(event, Request):
            text = f'cannot call "{event.method}": a client of the control socket has no methods'
            self._peer.fail(event.id, MethodNotFound(text, method=event.method))
            self._send()
        elif isinstance(event, Foreign):
            error = InvalidRequest(event.reason)
            raise _unreachable(self.path, "foreign", "the listener is not corrald") from error

    def _receive(self, until: float | None = None) -> list[Event]:
        """Returns the next events, including those of requests whose deadline has passed; none after `until`.

        Raises:
            Unreachable: the daemon closed the connection, or it broke.
        """
        now = time.monotonic()
        if ended := self._peer.expire(now):
            self._send()
            return list(ended)
        deadline = min([each for each in (self._peer.deadline, until) if each is not None], default=None)
        try:
            self._socket.settimeout(None if deadline is None else max(deadline - now, 0.001))
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            return []
        except OSError as error:
            raise _unreachable(self.path, "closed", _error_text(error)) from error
        if data:
            return self._peer.receive(data)
        events = self._peer.finish()
        if any(not isinstance(event, Foreign) for event in events):
            return events  # a last line without its newline is a line; half of one is not
        raise _unreachable(self.path, "closed", "the daemon closed the connection")

    def _send(self) -> None:
        try:
            self._socket.settimeout(SEND_TIMEOUT_S)
            self._socket.sendall(self._peer.take())
        except TimeoutError as error:
            raise _unreachable(self.path, "closed", f"the daemon did not read for {SEND_TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise _unreachable(self.path, "closed", _error_text(error)) from error
        except BaseException:
            self._socket.close()  # half a line may have left: nothing can follow it
            raise


def await_daemon(path: str, *, patience_s: float) -> Client:
    """Connects to a daemon that may be restarting: retries for `patience_s` seconds.

    Raises:
        Unreachable: it did not listen in time; or waiting cannot help (reason too-long, not-ours).
    """
    give_up_at = time.monotonic() + patience_s
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return Client(path)
        except Unreachable as error:
            hopeless = error.data["reason"] in ("too-long", "not-ours")
            if hopeless or time.monotonic() + pause_s > give_up_at:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_LAST_S)


def connect(path: str, *, wait_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
    """Returns a connected blocking socket; waits up to `wait_s` seconds while the accept queue is full.

    Raises:
        Unreachable: as `Client`.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        text = f"the path is longer than {SOCKET_PATH_BYTES_MAX} bytes"
        raise _unreachable(path, "too-long", text, limit=SOCKET_PATH_BYTES_MAX)
    _check_owner(path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A non-blocking socket gets EAGAIN at once from a full queue; a blocking one waits in it.
        wait = struct.pack("ll", int(wait_s), int(wait_s % 1 * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        connection.connect(path)
    except (OSError, ValueError) as error:
        connection.close()
        raise _unreachable(path, *_why(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_owner(path: str) -> None:
    """Refuses a socket in the user's folder of /tmp if another user owns or can access that folder."""
    uid = os.getuid()
    folder = os.path.dirname(path)
    if folder != shared_folder(uid):
        return
    try:
        found = os.lstat(folder)
    except OSError:
        return  # connecting fails with a better message
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        text = f'"{folder}" is not a folder that only uid {uid} can use'
        raise _unreachable(path, "not-ours", text, uid=found.st_uid, mode=oct(found.st_mode & 0o777))


def _why(error: Exception) -> tuple[str, str]:
    """Returns the reason, and its text, for a failed connection."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EAGAIN:
        return "busy", "the daemon took no connection for too long"
    if number in (errno.ENOENT, errno.ENOTDIR):
        return ("missing", 'there is no such socket (is corrald running? "corrald --detach" starts it)')
    if number == errno.ECONNREFUSED:
        return ("stale", 'nothing listens on it any more (is corrald running? "corrald --detach" starts it)')
    if number in (errno.EACCES, errno.EPERM):
        return "forbidden", "permission denied (the socket belongs to another user)"
    if number in (errno.EPROTOTYPE, errno.ENOTSOCK):
        return "no-socket", "it is not a stream socket"
    if isinstance(error, OSError):
        return "failed", _error_text(error)
    return "failed", str(error)


def _error_text(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _unreachable(path: str, reason: str, text: str, **data: object) -> Unreachable:
    return Unreachable(f'cannot reach the daemon at "{path}": {text}', socket=path, reason=reason, **data)
