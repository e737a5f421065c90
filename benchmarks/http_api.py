"""What does the HTTP face cost beside the control socket: calls, tasks, followers of events, and nothing while it is off?

One daemon with a crowd of workers that do nothing (`protocol = "none"`) and one agent that returns its input. Each call is made over
both on an open connection, from this process: a line of JSON there, a request there; both answers are decoded. A rate is that of eight
connections whose requests are under way at once. The fan-out is from the answer to `event.publish`, sent over the socket, to the moment
in which the last follower has read the event.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Daemon, Measure


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    workers: int
    statuses: int
    tasks: int
    followers: int
    events: int


WHOLE = Size(rounds=5, workers=1000, statuses=60, tasks=300, followers=200, events=20)
QUICK = Size(rounds=1, workers=20, statuses=5, tasks=10, followers=10, events=3)

CONNECTIONS = 8
"""Requests under way at once, for a rate."""

AGENT = """
from corral.worker import Agent
agent = Agent("echo")
@agent.task
async def run(task):
    return task.input
"""

CONFIG = """
process.max_concurrent_processes = {processes}
{http}
[agents.crowd]
command = ["sleep", "inf"]
protocol = "none"
instances = {workers}
[agents.echo]
entrypoint = "echoing:agent"
resources.max_concurrent_requests = 8
"""

TASK: dict[str, object] = {"agent": "echo", "objective": "echo", "durable": False}

LIMIT = 1 << 26
"""Bytes of one line: a status of a thousand workers is half a megabyte."""

Found = dict[str, list[float]]
Ask = Callable[[str, Mapping[str, object]], Awaitable[Any]]  # Any: JSON


def measures(size: Size) -> list[Measure]:
    """The rows: each of HTTP beside that of the socket."""
    n, many = f"{size.workers:,}", f"{size.followers} followers"
    rows: list[Measure] = []
    for name, what, unit in (
        ("ping", "`daemon.ping`", "ms"),
        ("status", f"`daemon.status` of {n} workers", "ms"),
        ("run", "`task.run` of an empty task that is not durable", "ms"),
        ("ping_rate", f"`daemon.ping`, {CONNECTIONS} at once", "calls/s"),
        ("status_rate", f"`daemon.status` of {n} workers, {CONNECTIONS} at once", "calls/s"),
        ("run_rate", f"`task.run`, {CONNECTIONS} at once", "calls/s"),
        ("fanout", f"an event to the last of {many}", "ms"),
    ):
        rows.append(Measure(f"socket_{name}", f"{what}, socket", unit))
        rows.append(Measure(f"http_{name}", f"{what}, HTTP", unit, f"socket_{name}"))
    return [
        *rows,
        Measure("off_rss", "RSS of corrald, HTTP off", "MB"),
        Measure("on_rss", "RSS of corrald, HTTP on and not used", "MB", "off_rss"),
        Measure("off_aiohttp", "files of aiohttp in the memory of corrald, HTTP off", "files"),
    ]


# --- the two ways --------------------------------------------------------------------------------


class Line:
    """A connection to the control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, path: str) -> "Line":
        """A connection."""
        return cls(*await asyncio.open_unix_connection(path, limit=LIMIT))

    async def ask(self, method: str, params: Mapping[str, object]) -> Any:  # JSON
        """The result of a call."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._writer.write(msgspec.json.encode(call) + b"\n")
        while True:
            answer = msgspec.json.decode(await self._reader.readline())
            if "id" in answer:
                return answer["result"]

    async def read_until(self, mark: bytes) -> None:
        """Reads the events up to the one that has the mark."""
        while mark not in await self._reader.readline():
            pass

    def close(self) -> None:
        """Hangs up."""
        self._writer.close()


ROUTES = {
    "daemon.ping": ("GET", "/api/v1/ping"),
    "daemon.status": ("GET", "/api/v1/status"),
    "task.run": ("POST", "/api/v1/run"),
}


class Http:
    """A connection to the HTTP face, with no more of HTTP than its answers need."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, token: str) -> None:
        self._reader, self._writer = reader, writer
        self._head = f"Host: {address}\r\nAuthorization: Bearer {token}\r\n"

    @classmethod
    async def open(cls, address: str, token: str) -> "Http":
        """A connection."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=LIMIT)
        return cls(reader, writer, address, token)

    async def ask(self, method: str, params: Mapping[str, object]) -> Any:  # JSON
        """The result of a call."""
        verb, path = ROUTES[method]
        body = b"" if verb == "GET" else msgspec.json.encode(params)
        head = f"{verb} {path} HTTP/1.1\r\n{self._head}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        status, headers = await self._headers()
        answer = msgspec.json.decode(await self._reader.readexactly(int(headers["content-length"])))
        assert status == 200, answer
        return answer

    async def follow(self, path: str) -> None:
        """Begins a stream; its first bytes have come."""
        head = f"GET {path} HTTP/1.1\r\n{self._head}Accept: text/event-stream\r\n\r\n"
        self._writer.write(head.encode())
        status, _ = await self._headers()
        assert status == 200, "it is followed"
        await self._reader.readline()

    async def _headers(self) -> tuple[int, dict[str, str]]:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {key.lower(): value for key, _, value in pairs}

    async def read_until(self, mark: bytes) -> None:
        """Reads the events up to the one that has the mark."""
        while mark not in await self._reader.readline():
            pass

    def close(self) -> None:
        """Hangs up."""
        self._writer.close()


# --- the parts -----------------------------------------------------------------------------------


async def one_by_one(ask: Ask, method: str, count: int) -> list[float]:
    """What each of so many calls took, in ms."""
    params = TASK if method == "task.run" else {}
    await ask(method, params)
    found: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await ask(method, params)
        found.append((time.perf_counter() - began) * 1000)
    return found


async def rate(connections: list[Line] | list[Http], method: str, count: int) -> float:
    """Calls per second over several connections."""
    params = TASK if method == "task.run" else {}

    async def caller(connection: Line | Http) -> None:
        for _ in range(count):
            await connection.ask(method, params)

    began = time.perf_counter()
    await asyncio.gather(*(caller(each) for each in connections))
    return count * len(connections) / (time.perf_counter() - began)


async def fanout(followers: list[Line] | list[Http], socket: str, count: int) -> list[float]:
    """How long events took from the answer of their publisher to the last follower, in ms."""
    publisher = await Line.open(socket)
    found: list[float] = []
    for number in range(count):
        mark = f"mark-{number}-end"
        reading = [asyncio.ensure_future(each.read_until(mark.encode())) for each in followers]
        began = time.perf_counter()
        await publisher.ask("event.publish", {"type": "bench.mark", "data": mark})
        await asyncio.gather(*reading)
        found.append((time.perf_counter() - began) * 1000)
    publisher.close()
    return found


async def whole(name: str, opened: Callable[[], Awaitable[Any]], size: Size) -> Found:
    """The rows of one way: `opened` returns a connection of it."""
    found: Found = {}
    connections: Any = [await opened() for _ in range(CONNECTIONS)]
    ask: Ask = connections[0].ask
    for method, row, count in (
        ("daemon.ping", "ping", size.tasks),
        ("daemon.status", "status", size.statuses),
        ("task.run", "run", size.tasks),
    ):
        found[f"{name}_{row}"] = await one_by_one(ask, method, count)
        found[f"{name}_{row}_rate"] = [await rate(connections, method, count)]
    for each in connections:
        each.close()
    return found


async def followed(name: str, size: Size, socket: str, http: Callable[[], Awaitable[Http]]) -> Found:
    """The row of the followers of one way."""
    followers: Any = []
    for _ in range(size.followers):
        if name == "http":
            stream = await http()
            await stream.follow("/api/v1/events?types=bench.mark&n=0")
            followers.append(stream)
        else:
            line = await Line.open(socket)
            await line.ask("event.follow", {"types": ["bench.mark"], "n": 0})
            followers.append(line)
    try:
        return {f"{name}_fanout": await fanout(followers, socket, size.events)}
    finally:
        for each in followers:
            each.close()


def idle(folder: Path, size: Size) -> Found:
    """What a daemon has in memory, with HTTP and without."""
    found: Found = {}
    for name, http in (("off", ""), ("on", 'daemon.http = "127.0.0.1:0"')):
        daemon = Daemon(folder / name, http)
        pid = daemon.process.pid
        found[f"{name}_rss"] = [bench.memory_mb(pid)[0]]
        if name == "off":
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            found["off_aiohttp"] = [float(len({m.split()[-1] for m in maps if "aiohttp" in m}))]
        daemon.stop_ms()
    return found


def main() -> None:
    """Measures, and prints the table."""
    options = bench.arguments(str(__doc__).partition("\n")[0])
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    with bench.folder() as folder:
        (folder / "daemon").mkdir()
        (folder / "daemon" / "echoing.py").write_text(AGENT)
        config = CONFIG.format(processes=size.workers + 10, http='daemon.http = "127.0.0.1:0"', workers=size.workers)
        daemon = Daemon(folder / "daemon", config)
        daemon.await_ready()
        with Client(daemon.socket) as client:
            status: Any = client.call("daemon.status", timeout_s=bench.BOUND_S)
        address = status["daemon"]["http"]
        token = (folder / "daemon" / "state" / "http.token").read_text().strip()

        def over_http() -> Awaitable[Http]:
            return Http.open(address, token)

        def over_socket() -> Awaitable[Line]:
            return Line.open(daemon.socket)

        rounds = bench.interleaved(
            size.rounds,
            [
                lambda: asyncio.run(whole("socket", over_socket, size)),
                lambda: asyncio.run(whole("http", over_http, size)),
                lambda: asyncio.run(followed("socket", size, daemon.socket, over_http)),
                lambda: asyncio.run(followed("http", size, daemon.socket, over_http)),
                lambda: idle(folder, size),
            ],
        )
        daemon.stop_ms()
    bench.report("http_api", measures(size), rounds, machine, options)


if __name__ == "__main__":
    os.umask(0o022)
    main()
