"""Hostile input on the HTTP port of a real daemon: each is answered or closed in time, and the control socket answers meanwhile."""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

MANY = 700
"""More connections than are served at once."""


FLOOD_BYTES = 64 * 1024 * 1024
"""Far more bytes than the buffers of a connection hold."""


class Target:
    """The HTTP port of a daemon."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.address = str(daemon.call("daemon.status", names=[])["daemon"]["http"])
        host, _, port = self.address.rpartition(":")
        self.place = (host, int(port))
        token = (daemon.state_dir / "http.token").read_text().strip()
        self.auth = f"Authorization: Bearer {token}\r\n".encode()
        self.host = f"Host: {self.address}\r\n".encode()
        assert daemon.process is not None
        self.fds = Path(f"/proc/{daemon.process.pid}/fd")
        self.ping()
        self.sockets_before = self.sockets()

    def sockets(self) -> int:
        """The number of sockets that the daemon has open."""
        found = 0
        for fd in self.fds.iterdir():
            with contextlib.suppress(OSError):
                found += os.readlink(fd).startswith("socket:")
        return found

    def ping(self) -> None:
        """Fails unless the daemon answers: within the bound of a call, however busy the machine is."""
        self.daemon.call("daemon.ping")

    def connect(self) -> socket.socket:
        return socket.create_connection(self.place, timeout=BOUND_S)

    def send(self, data: bytes) -> bytes:
        """Sends bytes on a connection of its own, and returns all that is answered until the daemon closes it."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return received(connection)

    def await_sockets(self) -> None:
        """Waits until every connection is gone."""
        end = time.monotonic() + BOUND_S
        while (found := self.sockets()) > self.sockets_before:
            assert time.monotonic() < end, (found, self.sockets_before)
            threading.Event().wait(0.01)


def received(connection: socket.socket) -> bytes:
    """All that is answered until the other side closes."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            data += part
    return data


def one(connection: socket.socket) -> bytes:
    """The head of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        assert part, data
        data += part
    return data


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("hostile"), '[daemon]\nhttp = "127.0.0.1:0"\n') as process:
        yield process


@pytest.fixture
def target(daemon: DaemonProcess) -> Iterator[Target]:
    found = Target(daemon)
    yield found
    found.ping()
    found.await_sockets()
    assert "Traceback" not in daemon.log.read_text()


def status(answer: bytes) -> int:
    """The status of an answer; 0 where the connection was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


CLOSE = b"Connection: close\r\n"
JSON = b"Content-Type: application/json\r\n"

SHAPES: dict[str, bytes] = {
    "no host": b"GET /mcp HTTP/1.1\r\nAUTH\r\n",
    "two hosts": b"GET /mcp HTTP/1.1\r\nHOSTHOSTAUTH\r\n",
    "another host": b"GET /mcp HTTP/1.1\r\nHost: example.org\r\nAUTH\r\n",
    "another port": b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAUTH\r\n",
    "an empty host": b"GET /mcp HTTP/1.1\r\nHost: \r\nAUTH\r\n",
    "a host that is no text": b"GET /mcp HTTP/1.1\r\nHost: \xff\xfe\r\nAUTH\r\n",
    "a foreign origin": b"GET /mcp HTTP/1.1\r\nHOSTAUTHOrigin: https://example.org\r\n\r\n",
    "no origin at all": b"GET /mcp HTTP/1.1\r\nHOSTAUTHOrigin: null\r\n\r\n",
    "no token": b"GET /mcp HTTP/1.1\r\nCLOSEHOST\r\n",
    "a token that is no text": b"GET /mcp HTTP/1.1\r\nCLOSEHOSTAuthorization: Bearer \xff\xfe\xfd\r\n\r\n",
    "length and chunks": b"POST /mcp HTTP/1.1\r\nHOSTAUTHContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "two lengths": b"POST /mcp HTTP/1.1\r\nHOSTAUTHContent-Length: 5\r\nContent-Length: 6\r\n\r\nhelloSMUGGLED",
    "two equal lengths": b"POST /mcp HTTP/1.1\r\nHOSTAUTHContent-Length: 5\r\nContent-Length: 5\r\n\r\nhelloSMUGGLED",
    "a length with a sign": b"POST /mcp HTTP/1.1\r\nHOSTAUTHContent-Length: +5\r\n\r\nhelloSMUGGLED",
    "a negative length": b"POST /mcp HTTP/1.1\r\nHOSTAUTHContent-Length: -1\r\n\r\n",
    "a length beyond all": b"POST /mcp HTTP/1.1\r\nHOSTAUTHContent-Length: 99999999999999999999999\r\n\r\n",
    "a bad chunk": b"POST /mcp HTTP/1.1\r\nHOSTAUTHJSONTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\nSMUGGLED",
    "a chunk with a sign": b"POST /mcp HTTP/1.1\r\nHOSTAUTHJSONTransfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\nSMUGGLED",
    "a chunk of another length": b"POST /mcp HTTP/1.1\r\nHOSTAUTHJSONTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\nSMUGGLED",
    "an odd transfer encoding": b"POST /mcp HTTP/1.1\r\nHOSTAUTHTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "chunks twice": b"POST /mcp HTTP/1.1\r\nHOSTAUTHTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "a space before the colon": b"POST /mcp HTTP/1.1\r\nHOSTAUTHTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "a folded header": b"GET /mcp HTTP/1.1\r\nHOSTAUTHX-One: a\r\n b\r\n\r\n",
    "NUL in a header": b"GET /mcp HTTP/1.1\r\nHOSTAUTHX-One: a\0b\r\n\r\n",
    "NUL in the name of a header": b"GET /mcp HTTP/1.1\r\nHOSTAUTHX\0One: a\r\n\r\n",
    "a header without a colon": b"GET /mcp HTTP/1.1\r\nHOSTAUTHhello\r\n\r\n",
    "bare CR": b"GET /mcp HTTP/1.1\r\nHOSTAUTHX-One: a\rX-Two: b\r\n\r\n",
    "bare LF": b"GET /mcp HTTP/1.1\nHost: HERE\nX-One: a\n\n",
    "an absolute target": b"GET http://HERE/mcp HTTP/1.1\r\nHOSTAUTH\r\n",
    "an authority as target": b"CONNECT HERE HTTP/1.1\r\nHOSTAUTH\r\n",
    "an asterisk as target": b"OPTIONS * HTTP/1.1\r\nHOSTAUTH\r\n",
    "no target": b"GET HTTP/1.1\r\nHOSTAUTH\r\n",
    "an unknown verb": b"BREW /mcp HTTP/1.1\r\nHOSTAUTH\r\n",
    "a verb that is not served": b"TRACE /mcp HTTP/1.1\r\nCLOSEHOSTAUTH\r\n",
    "a verb in lower case": b"get /mcp HTTP/1.1\r\nHOSTAUTH\r\n",
    "NUL in the path": b"GET /mcp%00 HTTP/1.1\r\nHOSTAUTH\r\n",
    "a slash in the path": b"GET /mcp%2f HTTP/1.1\r\nHOSTAUTHCLOSE\r\n",
    "a path of dots": b"GET /mcp/../healthz HTTP/1.1\r\nHOSTAUTH\r\n",
    "a path of escaped dots": b"GET /mcp/%2e%2e/healthz HTTP/1.1\r\nHOSTAUTH\r\n",
    "a path that is no UTF-8": b"GET /mcp%ff HTTP/1.1\r\nHOSTAUTH\r\n",
    "a path of raw bytes": b"GET /mcp\xff\xfe HTTP/1.1\r\nHOSTAUTH\r\n",
    "a path of two slashes": b"GET //mcp HTTP/1.1\r\nHOSTAUTHCLOSE\r\n",
    "a long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHOSTAUTH\r\n",
    "a long header": b"GET /mcp HTTP/1.1\r\nHOSTAUTHX-One: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /mcp HTTP/1.1\r\nHOSTAUTH" + b"X-One: a\r\n" * 10_000 + b"\r\n",
    "an old protocol": b"GET /mcp HTTP/0.9\r\nHOSTAUTH\r\n",
    "another protocol": b"GET /mcp HTTP/2.0\r\nHOSTAUTH\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\xff" * 500,
    "noise": bytes(range(256)) * 64,
    "a body that is no JSON": b"POST /mcp HTTP/1.1\r\nHOSTAUTHJSONCLOSEContent-Length: 3\r\n\r\n\xff\xfe{",
    "a deep body": b"POST /mcp HTTP/1.1\r\nHOSTAUTHJSONCLOSEContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
    "a compressed body": b"POST /mcp HTTP/1.1\r\nHOSTAUTHJSONCLOSEContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\0",
    "an upgrade": b"GET /mcp HTTP/1.1\r\nHOSTAUTHCLOSEUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "an expectation": b"POST /mcp HTTP/1.1\r\nHOSTAUTHJSONCLOSEExpect: the-unexpected\r\nContent-Length: 2\r\n\r\n{}",
}  # fmt: skip
"""Requests that are no good; SMUGGLED stands for one behind another, and must never be served."""


def shaped(target: Target, shape: bytes) -> bytes:
    smuggled = b"GET /healthz HTTP/1.1\r\n" + target.host + b"\r\n"
    words = {b"HOST": target.host, b"AUTH": target.auth, b"JSON": JSON, b"CLOSE": CLOSE}
    words |= {b"HERE": target.address.encode(), b"SMUGGLED": smuggled}
    for word, text in words.items():
        shape = shape.replace(word, text)
    return shape


@pytest.mark.parametrize("name", SHAPES)
def test_a_request_that_is_no_good_is_refused_once_and_the_connection_ends(target: Target, name: str) -> None:
    with target.connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(shaped(target, SHAPES[name]))
        answer = received(connection)
    assert 400 <= status(answer) < 500, answer
    assert answer.count(b"HTTP/1.") <= 1, answer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (b"Content-Length: 20000000\r\n\r\n", 413),
        (b"Expect: 100-continue\r\nContent-Length: 20000000\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\n", 413),
    ],
)
def test_a_body_above_the_limit_is_refused(target: Target, headers: bytes, expected: int) -> None:
    def body() -> Iterator[bytes]:
        chunk = b" " * 100_000
        for _ in range(200):
            yield b"%x\r\n%s\r\n" % (len(chunk), chunk) if b"chunked" in headers else chunk

    with target.connect() as connection:
        connection.sendall(b"POST /mcp HTTP/1.1\r\n" + target.host + target.auth + JSON + headers)
        if b"Expect" not in headers:
            with contextlib.suppress(ConnectionError):
                for part in body():
                    connection.sendall(part)
        assert status(one(connection)) == expected


def test_heads_and_bodies_that_never_end_keep_nobody_waiting(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        for beginning in (b"GET /mcp HT", b"POST /mcp HTTP/1.1\r\n" + target.host + target.auth + JSON + b"Content-Length: 100\r\n\r\n{"):  # fmt: skip
            for _ in range(50):
                stack.enter_context(target.connect()).sendall(beginning)
        target.ping()
        assert status(target.send(b"GET /healthz HTTP/1.1\r\n" + target.host + CLOSE + b"\r\n")) == 200  # fmt: skip


def test_connections_without_a_token_are_closed_first_beyond_the_limit(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        known = stack.enter_context(target.connect())
        request = b"DELETE /mcp HTTP/1.1\r\n" + target.host + target.auth + b"\r\n"
        known.sendall(request)
        assert status(one(known)) == 400
        for _ in range(MANY):
            stack.enter_context(target.connect())
        target.ping()
        known.sendall(request)
        assert status(one(known)) == 400
        assert status(target.send(b"GET /healthz HTTP/1.1\r\n" + target.host + CLOSE + b"\r\n")) == 200  # fmt: skip
        assert target.sockets() - target.sockets_before <= 520


def test_a_flood_of_pipelined_requests_is_read_no_faster_than_it_is_answered(target: Target) -> None:
    request = b"GET /healthz HTTP/1.1\r\n" + target.host + b"\r\n"
    flood = request * 1000
    sent = 0
    with target.connect() as connection:
        connection.setblocking(False)
        # Nothing of the answers is read: the daemon stops to read when what it may send is full.
        while select.select([], [connection], [], 1.0)[1]:
            with contextlib.suppress(BlockingIOError):
                sent += connection.send(flood)
            assert sent < FLOOD_BYTES
        target.ping()


def test_half_a_connection_is_answered_and_ended(target: Target) -> None:
    request = b"GET /healthz HTTP/1.1\r\n" + target.host + b"\r\n"
    with target.connect() as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        assert status(received(connection)) in (0, 200)
    for data in (b"", b"GET /he", request):  # and one that is broken off
        with target.connect() as connection:
            connection.sendall(data)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
