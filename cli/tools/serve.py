"""Implements `corral mcp serve`: an MCP server on stdio that relays to the daemon, and answers for it while it is away.

An editor starts one per session, so it must be small: the standard library, one thread, one `poll`. It passes lines on
unchanged and knows of MCP only the parts that it needs to outlive the daemon: the requests that wait for an answer, and
the state of the session (`initialize`, the logging level, subscriptions), to replay it to the next daemon. Nothing but
MCP is written to stdout. Unsent output is bounded: a peer that does not read is not read from either.
"""

import os
import re
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from corral.worker.client import sync, worker_socket
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    CorralError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    NotFound,
    ParseError,
    PermissionDenied,
    ResourceLimitExceeded,
    Timeout,
    Unreachable,
    from_wire,
)
from corral.worker.contract.jsonrpc import HEAD_BYTES, request_id_in
from corral.worker.contract.mcp_info import META

from .serve_offline import ClientRequest, offline_answer, unsupported_version

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Bytes of the longest message, in either direction."""

HIGH_WATER_BYTES = 1024 * 1024
"""Bytes of unsent output above which reading pauses."""

READ_BYTES = 65_536

RETRY_FIRST_S, RETRY_LAST_S = 0.05, 2.0
"""Seconds between two attempts to reach the daemon: doubling, with jitter."""

CONNECT_S = 0.05
"""Seconds that a connection may wait in a full queue before the next attempt."""

ATTACH_S = 5.0
"""Seconds that the daemon may take to accept the client and the replayed session."""

LINGER_S = 0.5
"""Seconds to wait for outstanding answers after EOF on stdin."""

ANNOUNCED = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
"""Key in the filter of `subscriptions/listen` -> notification about the changed list."""

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
CANCELLED = "notifications/cancelled"
UPDATED = "notifications/resources/updated"

HOPELESS = (NotFound, PermissionDenied, InvalidParams, MethodNotFound)
"""Errors of the daemon after which a retry is useless."""

OWN = "corral-serve-"
"""Prefix of the ids of the relay's own requests to the daemon."""

HINT = 'start it with "systemctl start corrald", or "corrald" by hand'

_HEAD = re.compile(rb'\{"jsonrpc":"2\.0","id":(-?\d+|"(?:[^"\\]|\\.)*"),"(result|error|method)":', re.DOTALL)
"""Beginning of the daemon's messages with an id, which corral writes first."""

Key = tuple[bool, object]


def handed_over(arguments: Sequence[str]) -> Callable[[], int] | None:
    """Returns the function for a plain `mcp serve`; None leaves the command line to click: help and errors.

    Parsed here because click takes as much time and memory as all the rest.
    """
    given: dict[str, list[str]] = {"--socket": [], "--only": [], "--deny": [], "--profile": [], "--tools": []}
    words: list[str] = []
    read_only = False
    rest = iter(arguments)
    for argument in rest:
        name, is_joined, value = argument.partition("=")
        if name in given and len(words) in (0, 2):
            word = value if is_joined else next(rest, None)
            if word is None or (name != "--socket" and len(words) < 2):
                return None
            given[name].append(word)
        elif argument == "--read-only" and len(words) == 2:
            read_only = True
        elif len(words) < 2 and argument == ("mcp", "serve")[len(words)]:
            words.append(argument)
        else:
            return None
    if len(words) < 2:
        return None
    socket_path = given["--socket"][-1] if given["--socket"] else None
    profile = given["--profile"][-1] if given["--profile"] else None
    tools = given["--tools"][-1] if given["--tools"] else None
    if tools not in (None, "all", "auto"):
        return None
    return lambda: serve(
        socket_path, only=given["--only"], deny=given["--deny"], read_only=read_only, profile=profile, tools=tools
    )


def serve(
    socket_path: str | None,
    *,
    login: Mapping[str, object] | None = None,
    only: Sequence[str] = (),
    deny: Sequence[str] = (),
    read_only: bool = False,
    profile: str | None = None,
    tools: str | None = None,
) -> int:
    """Relays between stdin and stdout and the daemon until EOF; returns the exit status, which is 0.

    Without `socket_path` the standard path is determined anew at each attempt, because it depends on existing files.
    """
    attach: dict[str, object] = {"read_only": read_only}
    if only:
        attach["only"] = list(only)
    if deny:
        attach["deny"] = list(deny)
    if profile is not None:
        attach["profile"] = profile
    if tools is not None:
        attach["tools"] = tools
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:  # closed: the next file that is opened must not get this number
            os.open(os.devnull, os.O_RDWR)
    relay = Relay(socket_path, attach, login_of(os.environ) if login is None else login)
    with suppress(BrokenPipeError):  # the client no longer reads: the same as EOF
        relay.run()
    return 0


def login_of(environ: Mapping[str, str]) -> dict[str, object]:
    """Returns the params of `auth.login` that the environment gives; none where it restricts nothing."""
    given = {"token": environ.get("CORRAL_TOKEN"), "tenant": environ.get("CORRAL_TENANT")}
    return {key: value for key, value in given.items() if value}


class TruncatedLine(NamedTuple):
    """Holds the beginning of a line that was too long."""

    head: bytes


class Lines:
    """Splits data into lines; keeps only the beginning of a line that is too long."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._is_skipping = False

    def feed(self, data: bytes) -> list[bytes | TruncatedLine]:
        """Returns the lines that end in `data`."""
        *ends, rest = data.split(b"\n")
        found: list[bytes | TruncatedLine] = []
        for piece in ends:
            self._keep(piece)
            line = bytes(self._partial)
            found.append(TruncatedLine(line) if self._is_skipping else line)
            self._partial.clear()
            self._is_skipping = False
        self._keep(rest)
        return found

    def _keep(self, piece: bytes) -> None:
        if not self._is_skipping:
            self._partial += piece
            if len(self._partial) > MAX_LINE_BYTES:
                self._is_skipping = True
                del self._partial[HEAD_BYTES:]


class Link:
    """Manages one connection to the daemon: it attaches, replays the session, then is ready."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.socket = connection
        self.fd = connection.fileno()
        self.deadline = deadline
        self.is_ready = False
        self.unsent = bytearray()
        self.lines = Lines()
        self._number = 0
        self.own: dict[str, str] = {}
        """Id of an own request -> its method."""

    def send(self, line: bytes) -> None:
        """Queues a line, and sends as much as the socket takes."""
        self.unsent += line
        self.unsent += b"\n"
        self.flush()

    def ask(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a request of the relay itself."""
        self._number += 1
        request_id = f"{OWN}{self._number}"
        self.own[request_id] = method
        self.send(codec.encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}))

    def flush(self) -> None:
        """Sends as much as the socket takes; a broken connection is noticed by reading."""
        try:
            while self.unsent:
                with memoryview(self.unsent) as view:
                    sent = self.socket.send(view[:READ_BYTES])
                del self.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()


class Relay:
    """Relays between one client on stdin and stdout and the daemon, present or not."""

    def __init__(self, path: str | None, attach: Mapping[str, object], login: Mapping[str, object]) -> None:
        self._login = login
        self._given_path = path
        self._path = ""
        self._attachment = ("mcp.attach", attach)
        self._link: Link | None = None
        self._tried_at = 0.0
        self._try_at = 0.0
        self._pause_s = RETRY_FIRST_S
        self._absence: CorralError = Unreachable("cannot reach the daemon: no attempt was made yet")
        self._input = Lines()
        self._pending: deque[bytes | TruncatedLine] = deque()
        self._unsent = bytearray()
        self._end_at: float | None = None
        self._poller = select.poll()
        # The state of the session.
        self._has_begun = False
        self._initialize: dict[str, object] | None = None
        self._is_initialized = False
        self._level: object = None
        self._subscribed: dict[str, None] = {}
        self._listening: dict[Key, ClientRequest] = {}
        # Requests without an answer yet.
        self._in_flight: dict[Key, ClientRequest] = {}
        self._asks: dict[Key, object] = {}

    def run(self) -> None:
        """Runs until EOF on stdin and the answers to earlier requests, or LINGER_S after EOF."""
        while True:
            now = time.monotonic()
            link = self._link
            if link is None and now >= self._try_at:
                self._connect(now)
            elif link is not None and not link.is_ready and now >= link.deadline:
                self._lose(Timeout(f'cannot reach the daemon at "{self._path}": it does not answer', socket=self._path))
            self._take_pending(now)
            if self._end_at is not None and self._is_done(now):
                return
            self._wait(now)

    def _is_done(self, now: float) -> bool:
        """Returns True if no answer or output is outstanding after EOF, or time is up."""
        is_quiet = not self._pending and not self._in_flight and not self._unsent
        return is_quiet or (self._end_at is not None and now >= self._end_at)

    def _wait(self, now: float) -> None:
        """Waits for readable or writable files or the next deadline, and reads and writes."""
        link = self._link
        is_full = len(self._unsent) > HIGH_WATER_BYTES
        poller = self._poller
        if self._end_at is None:
            poller.register(0, 0 if self._pending or is_full else select.POLLIN)
        poller.register(1, select.POLLOUT if self._unsent else 0)
        due = [self._end_at] if self._end_at is not None else []
        if link is None:
            due.append(self._try_at)
        else:
            reading = 0 if is_full else select.POLLIN
            poller.register(link.fd, reading | (select.POLLOUT if link.unsent else 0))
            if not link.is_ready:
                due.append(link.deadline)
        wait_ms = max(0, int((min(due) - now) * 1000) + 1) if due else None
        for fd, events in poller.poll(wait_ms):
            if fd == 0:
                self._read_client(events)
            elif fd == 1:
                self._write_client(events)
            elif link is not None and link is self._link:
                if events & select.POLLOUT:
                    link.flush()
                if events & ~select.POLLOUT:
                    self._read_daemon(link)

    # -- the client

    def _read_client(self, events: int) -> None:
        is_wanted = not self._pending and len(self._unsent) <= HIGH_WATER_BYTES
        # No waiting for a client that is gone, even with output unread or requests unanswered.
        data = os.read(0, READ_BYTES) if is_wanted and events & ~select.POLLNVAL else b""
        if not data:
            self._end_at = time.monotonic() + LINGER_S
            self._poller.unregister(0)
            data = b"\n"  # the last line may be without one
        self._pending.extend(self._input.feed(data))

    def _write_client(self, events: int) -> None:
        if events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise BrokenPipeError
        # Stdout may be shared, so it stays blocking: a writable pipe takes PIPE_BUF bytes without blocking.
        with memoryview(self._unsent) as view:
            written = os.write(1, view[: select.PIPE_BUF])
        del self._unsent[:written]

    def _send(self, line: bytes) -> None:
        self._unsent += line
        self._unsent += b"\n"

    def _notify(self, method: str, params: Mapping[str, object] | None = None) -> None:
        message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
        self._send(codec.encode(message if params is None else {**message, "params": params}))

    def _fail(self, request_id: object, error: CorralError) -> None:
        self._send(codec.encode({"jsonrpc": "2.0", "id": request_id, "error": error.to_wire()}))

    def _take_pending(self, now: float) -> None:
        """Handles the lines of the client, as far as they can be passed on or answered."""
        while self._pending and len(self._unsent) <= HIGH_WATER_BYTES:
            if self._link is None and now - self._tried_at >= RETRY_FIRST_S:
                self._connect(now)  # a request waits: the daemon may just have started
            link = self._link
            if link is not None and (not link.is_ready or len(link.unsent) > HIGH_WATER_BYTES):
                return
            line = self._pending.popleft()
            if isinstance(line, TruncatedLine):
                text = f"cannot take a message of more than {MAX_LINE_BYTES} bytes"
                self._fail(request_id_in(line.head), ResourceLimitExceeded(text, limit=MAX_LINE_BYTES))
            elif line and not line.isspace():
                self._take(line)

    def _take(self, line: bytes) -> None:
        line = line.removeprefix(codec.BYTE_ORDER_MARK)
        try:
            message = codec.as_object(codec.decode(line))
        except ValueError as error:
            self._fail(request_id_in(line), ParseError(f"cannot read the line as JSON: {error}"))
            return
        if message is None:
            self._fail(None, InvalidRequest("cannot read the line as a message: it is no object"))
        elif "method" not in message:
            if self._asks.pop(_key(message.get("id")), None) is not None and self._link is not None:
                self._link.send(line)
        elif "id" not in message:
            self._take_notification(line, message)
        elif _is_id(message["id"]) and isinstance(message["method"], str):
            self._take_request(ClientRequest(message, line))
        else:
            self._fail(None, InvalidRequest("cannot read the request: its id is no string and no integer"))

    def _take_notification(self, line: bytes, message: Mapping[str, object]) -> None:
        if message["method"] == "notifications/initialized":
            self._is_initialized = True
        elif message["method"] == CANCELLED:
            params = codec.as_object(message.get("params")) or {}
            key = _key(params.get("requestId"))
            self._in_flight.pop(key, None)  # a cancelled request gets no answer
            self._listening.pop(key, None)
        if self._link is not None:
            self._link.send(line)

    def _take_request(self, asked: ClientRequest) -> None:
        self._has_begun = True
        if asked.method == "initialize":
            self._initialize = asked.params
        elif asked.method == "logging/setLevel":
            self._level = asked.params.get("level")
        elif asked.method == "resources/unsubscribe":
            self._subscribed.pop(str(asked.params.get("uri")), None)
        elif asked.method == "subscriptions/listen" and asked.is_modern:
            self._listening[_key(asked.id)] = asked
        if self._link is None:
            self._answer(asked, self._absence)
            return
        if asked.method != "subscriptions/listen":
            self._in_flight[_key(asked.id)] = asked
        self._link.send(asked.line)
        if asked.method != "subscriptions/listen":
            asked.forget()

    # -- the daemon

    def _connect(self, now: float) -> None:
        self._tried_at = now
        self._path = self._given_path or worker_socket.socket_for_client(os.environ, os.getuid())
        try:
            connection = sync.connect(self._path, wait_s=CONNECT_S)
        except Unreachable as error:
            self._absence = Unreachable(f"{error.message}; {HINT}", **error.data)
            self._wait_longer(now)
            return
        connection.setblocking(False)
        self._link = Link(connection, now + ATTACH_S)
        first = ("auth.login", self._login) if self._login else self._attachment
        self._link.ask(*first)

    def _wait_longer(self, now: float) -> None:
        jitter = 0.5 + os.urandom(1)[0] / 510
        self._try_at = now + self._pause_s * jitter
        self._pause_s = min(self._pause_s * 2, RETRY_LAST_S)

    def _lose(self, absence: CorralError) -> None:
        """Handles the loss of the daemon: answers outstanding requests in its place, and cancels its own."""
        link = self._link
        if link is None:
            return
        self._poller.unregister(link.fd)
        link.socket.close()
        self._link = None
        self._absence = absence
        if link.is_ready:
            self._pause_s = RETRY_FIRST_S
        self._wait_longer(time.monotonic())
        for request_id in self._asks.values():
            self._notify(CANCELLED, {"requestId": request_id, "reason": "the daemon is gone"})
        self._asks.clear()
        lost = list(self._in_flight.values())
        self._in_flight.clear()
        for asked in lost:
            self._answer(asked, absence)

    def _read_daemon(self, link: Link) -> None:
        try:
            data = link.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            text = f'cannot reach the daemon at "{self._path}": it has closed the connection; {HINT}'
            self._lose(Unreachable(text, socket=self._path, reason="closed"))
            return
        for line in link.lines.feed(data):
            if not isinstance(line, TruncatedLine) and link is self._link:
                self._take_daemon_line(link, line)

    def _take_daemon_line(self, link: Link, line: bytes) -> None:
        """Handles a line of the daemon: passes it to the client unless it answers a request of the relay."""
        found = _HEAD.match(line)
        if found is None:
            if ACKNOWLEDGED.encode() in line[:256] and not self._note_acknowledged(line):
                return
            if CANCELLED.encode() in line[:256]:
                params = codec.as_object((codec.as_object(codec.decode(line)) or {}).get("params"))
                self._asks.pop(_key((params or {}).get("requestId")), None)
            if link.is_ready:
                self._send(line)
            return
        request_id = codec.decode(found[1])
        key = _key(request_id)
        if found[2] == b"method":
            self._asks[key] = request_id
            self._send(line)
            return
        method = link.own.pop(request_id, None) if isinstance(request_id, str) else None
        if method is not None:
            self._take_own_answer(link, method, codec.as_object(codec.decode(line)) or {})
            return
        asked = self._in_flight.pop(key, None) or self._listening.pop(key, None)
        if asked is None:
            return  # it was cancelled: its answer is dropped
        if found[2] == b"result" and asked.method == "resources/subscribe":
            self._subscribed[str(asked.params.get("uri"))] = None
        elif found[2] == b"error" and asked.method == "initialize":
            self._initialize = None
        self._send(line)

    def _note_acknowledged(self, line: bytes) -> bool:
        """Returns True if the client gets this acknowledgement: one for each subscription."""
        params = codec.as_object((codec.as_object(codec.decode(line)) or {}).get("params")) or {}
        meta = codec.as_object(params.get("_meta")) or {}
        asked = self._listening.get(_key(meta.get(META + "subscriptionId")))
        if asked is None or asked.is_acknowledged:
            return False
        asked.is_acknowledged = True
        return True

    def _take_own_answer(self, link: Link, method: str, message: Mapping[str, object]) -> None:
        if method in ("auth.login", "mcp.attach"):
            if message.get("error") is not None:
                error = from_wire(message["error"])
                if isinstance(error, HOPELESS) and not self._has_begun:
                    raise error
                self._lose(error)
            elif method == "auth.login":
                link.ask(*self._attachment)
            elif self._initialize is not None and not self._has_asked("initialize"):
                link.ask("initialize", self._initialize)
            else:
                self._resume(link)
        elif method == "initialize":
            if message.get("error") is not None:
                self._lose(from_wire(message["error"]))
            else:
                self._resume(link)
        # Other own requests are best effort: a resource may be gone by now.

    def _has_asked(self, method: str) -> bool:
        return any(asked.method == method for asked in self._in_flight.values())

    def _resume(self, link: Link) -> None:
        """Replays the rest of the session, and notifies the client of possible changes."""
        link.is_ready = True
        self._pause_s = RETRY_FIRST_S
        if not self._has_begun:
            return
        if self._is_initialized:
            link.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        if self._level is not None:
            link.ask("logging/setLevel", {"level": self._level})
        for uri in self._subscribed:
            link.ask("resources/subscribe", {"uri": uri})
        for asked in self._listening.values():
            link.send(asked.line)
        if self._is_initialized:
            for method in ANNOUNCED.values():
                self._notify(method)
            for uri in self._subscribed:
                self._notify(UPDATED, {"uri": uri})
        for asked in self._listening.values():
            self._announce(asked)

    def _announce(self, asked: ClientRequest) -> None:
        """Notifies one subscription of 2026-07-28 that everything in its filter may have changed."""
        if not asked.is_acknowledged:
            return  # it has received nothing yet
        stamp = {META + "subscriptionId": asked.id}
        for key, method in ANNOUNCED.items():
            if asked.filter.get(key) is True:
                self._notify(method, {"_meta": stamp})
        for uri in codec.as_array(asked.filter.get("resourceSubscriptions")) or []:
            self._notify(UPDATED, {"_meta": stamp, "uri": uri})

    # -- in place of the daemon

    def _answer(self, asked: ClientRequest, absence: CorralError) -> None:
        if (refusal := unsupported_version(asked)) is not None:
            self._fail(asked.id, refusal)
            return
        if asked.method == "subscriptions/listen" and asked.is_modern:
            if not asked.is_acknowledged:
                asked.is_acknowledged = True
                stamp = {META + "subscriptionId": asked.id}
                self._notify(ACKNOWLEDGED, {"_meta": stamp, "notifications": asked.filter})
            return
        result = offline_answer(asked, absence)
        if result is None:
            if asked.method == "resources/subscribe":
                self._subscribed.pop(str(asked.params.get("uri")), None)
            self._fail(asked.id, absence)
            return
        self._send(codec.encode({"jsonrpc": "2.0", "id": asked.id, "result": result}))


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _key(request_id: object) -> Key:
    """Returns an id as a key: 1 and "1" differ, and true is no id."""
    return isinstance(request_id, str), request_id if _is_id(request_id) else None
