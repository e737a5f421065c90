"""`python -P -m corral.supervisor.workers.egress.program`: the proxy of the daemon, an HTTP proxy for plain requests and CONNECT.

stdin is one end of a SOCK_SEQPACKET pair whose other end the daemon holds (see `launcher.protocol`):

    → open {unit, agent, hosts} + the listening socket in the network of a worker    → close {unit}
    ← refused {agent, host, port, reason, count}: at the first, and once a minute for those that follow

It ends with its daemon. It guarantees that header, number and duration of connections are bounded, and that names are
looked up here, outside of the worker's network.
"""

import asyncio
import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from corral.supervisor.machine.launcher import protocol

from .rules import Rule, rule_of, why_address_refused, why_refused

HEADER_BYTES = 32 * 1024
"""Bytes of a request's header."""
HEADER_S, CONNECT_S, IDLE_S = 10.0, 15.0, 600.0
"""Seconds for a header, for a connection to a host, and without any data in either direction."""
UNIT_CONNECTIONS, ALL_CONNECTIONS = 128, 4096
"""Numbers of connections of one worker, and of all."""
CHUNK_BYTES = 64 * 1024
REPORT_S = 60.0
"""Seconds between two reports of refusals of one host to one agent."""
HOSTS = 100
"""Number of refused hosts of one agent that are reported by name within REPORT_S; the others are "other hosts"."""
HOST_CHARS = 255

REQUEST = re.compile(rb"([A-Z]{1,32}) (\S{1,8192}) (HTTP/1\.[01])")
DROPPED = (b"proxy-", b"connection:", b"keep-alive:", b"host:")
"""Beginnings of header lines that are the proxy's own affair, or are written anew."""


class Refused(Exception):
    """Reports that a request is not passed on: the status of the answer, and the reason."""

    def __init__(self, status: str, reason: str, *, is_recorded: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.is_recorded = is_recorded


class Refusals:
    """Counts refusals, and passes on one record for each agent, host and minute."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._counts: dict[tuple[str, str, int, str], int] = {}  # since the last record
        self._timer: asyncio.TimerHandle | None = None

    def add(self, agent: str, host: str, port: int, reason: str) -> None:
        """Counts one; the first of its kind is passed on at once."""
        key = (agent, host[:HOST_CHARS], port, reason)
        if key not in self._counts and sum(known[0] == agent for known in self._counts) >= HOSTS:
            key = (agent, "other hosts", 0, "more hosts were refused than are recorded by name")
        if key in self._counts:
            self._counts[key] += 1
            return
        self._counts[key] = 0
        self._pass_on(key, 1)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REPORT_S, self.flush)

    def flush(self) -> None:
        """Passes on the counts since then, and forgets hosts that were not refused again."""
        counts, self._counts = self._counts, {}
        self._timer = None
        for key, count in counts.items():
            if count:
                self._counts[key] = 0
                self._pass_on(key, count)
        if self._counts:
            self._timer = asyncio.get_running_loop().call_later(REPORT_S, self.flush)

    def _pass_on(self, key: tuple[str, str, int, str], count: int) -> None:
        agent, host, port, reason = key
        self._send(op="refused", agent=agent, host=host, port=port, reason=reason, count=count)


class Gate:
    """Serves the connections of one worker."""

    def __init__(self, proxy: "Proxy", agent: str, rules: Sequence[Rule]) -> None:
        self._proxy = proxy
        self._agent = agent
        self._rules = rules
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self, sock: socket.socket) -> None:
        """Begins to accept connections."""
        self._server = await asyncio.start_server(self._accept, sock=sock, limit=HEADER_BYTES)

    def close(self) -> None:
        """Ends every connection: its worker is gone."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        self._proxy.connections += 1
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._proxy.connections -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            host, port = "", 0
            try:
                method, target, lines = await self._header(reader)
                host, port, path = _destination(method, target)
                upstream = await self._connect(host, port)
            except Refused as refused:
                if refused.is_recorded:
                    self._proxy.refusals.add(self._agent, host, port, refused.reason)
                await _answer(writer, refused)
                return
            try:
                if method == b"CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    upstream[1].write(_request(method, host, port, path, lines))
                await _relay((reader, writer), upstream)
            finally:
                upstream[1].close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # either side is gone
        finally:
            writer.close()

    async def _header(self, reader: asyncio.StreamReader) -> tuple[bytes, bytes, list[bytes]]:
        if len(self._tasks) > UNIT_CONNECTIONS or self._proxy.connections > ALL_CONNECTIONS:
            raise Refused("503 Service Unavailable", "too many connections at a time")
        try:
            async with asyncio.timeout(HEADER_S):
                header = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            raise Refused("408 Request Timeout", f"no header within {HEADER_S:g} s") from None
        except asyncio.LimitOverrunError:
            reason = f"the header has more than {HEADER_BYTES} bytes"
            raise Refused("431 Request Header Fields Too Large", reason) from None
        first, *lines = header[:-4].split(b"\r\n")
        found = REQUEST.fullmatch(first)
        if found is None:
            raise Refused("400 Bad Request", "this is no request to an HTTP proxy")
        return found[1], found[2], lines

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reason = why_refused(host, port, self._rules)
        if reason:
            raise Refused("403 Forbidden", reason, is_recorded=True)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
                # All are judged before one is used: which one answers must not decide.
                for address in addresses:
                    reason = why_address_refused(host, address, port, self._rules)
                    if reason:
                        raise Refused("403 Forbidden", reason, is_recorded=True)
                return await self._first_of(addresses, port)
        except TimeoutError:
            raise Refused("504 Gateway Timeout", f"{host} did not answer within {CONNECT_S:g} s") from None
        except OSError as error:
            raise Refused("502 Bad Gateway", f"cannot reach {host} at port {port}: {error.strerror or error}") from None

    async def _first_of(self, addresses: Sequence[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failure: OSError = OSError("it has no address")
        for address in addresses:
            try:
                return await asyncio.open_connection(address, port, limit=CHUNK_BYTES)
            except OSError as error:
                failure = error
        raise failure


class Proxy:
    """Holds the gates of all workers."""

    def __init__(self, send: Callable[..., None]) -> None:
        self.refusals = Refusals(send)
        self.connections = 0
        self._gates: dict[str, Gate] = {}

    async def perform(self, message: Any, fds: list[int]) -> None:  # Any: JSON
        """Carries out a request of the daemon."""
        match message["op"]:
            case "open" if fds:
                sock = socket.socket(fileno=fds.pop(0))
                sock.setblocking(False)
                gate = Gate(self, message["agent"], [rule_of(host) for host in message["hosts"]])
                self._gates[message["unit"]] = gate
                await gate.open(sock)
            case "close":
                gate_or_none = self._gates.pop(message["unit"], None)
                if gate_or_none is not None:
                    gate_or_none.close()
            case _:
                pass
        for fd in fds:
            os.close(fd)


def _destination(method: bytes, target: bytes) -> tuple[str, int, str]:
    """Returns host, port and path of a request to a proxy."""
    text = target.decode("latin-1")
    try:
        url = urlsplit(f"//{text}" if method == b"CONNECT" else text)
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, urlsplit("")
    if method == b"CONNECT" and host and port:
        return host, port, ""
    if method != b"CONNECT" and host and url.scheme == "http":
        path = url.path or "/"
        return host, port or 80, f"{path}?{url.query}" if url.query else path
    raise Refused("400 Bad Request", "write an http:// URL, or CONNECT HOST:PORT")


def _request(method: bytes, host: str, port: int, path: str, lines: Sequence[bytes]) -> bytes:
    """Returns the header for the host itself; each connection serves one request."""
    name = f"[{host}]" if ":" in host else host
    own = f"{method.decode()} {path} HTTP/1.1\r\nHost: {name}{'' if port == 80 else f':{port}'}\r\n"
    kept = [line for line in lines if not line.lower().startswith(DROPPED)]
    return own.encode("latin-1") + b"\r\n".join([*kept, b"Connection: close", b"", b""])


async def _answer(writer: asyncio.StreamWriter, refused: Refused) -> None:
    body = f"corral: {refused.reason}\n".encode()
    head = f"HTTP/1.1 {refused.status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    head += f"X-Corral-Reason: {refused.reason}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode("latin-1", "replace") + body)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(HEADER_S):
            await writer.drain()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(one: Stream, other: Stream) -> None:
    """Passes data both ways until both sides have ended, or neither has sent any for IDLE_S."""
    seen = [time.monotonic()]
    ways = [asyncio.ensure_future(_pass(one[0], other[1], seen)), asyncio.ensure_future(_pass(other[0], one[1], seen))]
    running = set(ways)
    try:
        while running:
            left_s = max(0.0, seen[0] + IDLE_S - time.monotonic())
            done, running = await asyncio.wait(running, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if any(way.exception() is not None for way in done):
                return
            if not done and time.monotonic() >= seen[0] + IDLE_S:
                return
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[float]) -> None:
    while data := await reader.read(CHUNK_BYTES):
        seen[0] = time.monotonic()
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def serve(channel: socket.socket) -> None:
    """Serves until the daemon closes its end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    channel.setblocking(False)

    def send(**message: object) -> None:
        with contextlib.suppress(OSError):  # the daemon does not keep up: a record is lost, never a request
            channel.send(protocol.encode(message)[0])

    proxy = Proxy(send)
    requests: asyncio.Queue[tuple[Any, list[int]]] = asyncio.Queue()  # Any: JSON

    def receive() -> None:
        try:
            requests.put_nowait(protocol.receive(channel))
        except BlockingIOError:
            pass
        except (EOFError, OSError):
            loop.remove_reader(channel.fileno())
            ended.set()

    async def perform() -> None:
        while True:
            await proxy.perform(*await requests.get())

    loop.add_reader(channel.fileno(), receive)
    send(op="ready")
    performing = asyncio.ensure_future(perform())
    await ended.wait()
    performing.cancel()


def main() -> None:
    """Serves the daemon at the other end of stdin."""
    asyncio.run(serve(socket.socket(fileno=os.dup(sys.stdin.fileno()))))
    os._exit(0)


if __name__ == "__main__":
    main()
