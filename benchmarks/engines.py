"""What do the operations of a cluster's engine cost: NATS with one and three servers, and Redis?

Real servers on the loopback address, in a folder on the disk; a client each. One operation at a time, then 64 at once. A put
renews a key at its revision, as a beat does; a task is appended, taken and settled; a request is answered by a second
client. A raw round trip to a server is not among them: the client library is what a node pays. "on the disk" waits for fsync(2)
before each confirmation (`sync_interval: always`, `appendfsync always`). An engine that is not installed is left out.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Measure

from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.local_servers import Fsync, LocalServers, program_of
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import InvalidParams

Kind = Literal["nats", "redis"]

SETUPS: dict[str, tuple[Kind, int, Fsync]] = {
    "nats": ("nats", 1, "usual"),
    "nats3": ("nats", 3, "usual"),
    "redis": ("redis", 1, "usual"),
    "nats_disk": ("nats", 1, "always"),
    "redis_disk": ("redis", 1, "always"),
}
WORDS = {
    "nats": "NATS",
    "nats3": "NATS, 3 servers",
    "redis": "Redis",
    "nats_disk": "NATS, on the disk",
    "redis_disk": "Redis, on the disk",
}
OPERATIONS = {
    "get": "get a key",
    "put": "put at a revision",
    "append": "append a task",
    "cycle": "append, take and settle a task",
    "request": "a request and its answer",
}

WHOLE = {"rounds": 5, "each": 200, "many": 2_000}
QUICK = {"rounds": 2, "each": 10, "many": 64}
AT_ONCE = 64

Found = dict[str, list[float]]


async def _timed(count: int, work: Callable[[int], Awaitable[object]]) -> list[float]:
    found: list[float] = []
    for number in range(count):
        began = time.perf_counter()
        await work(number)
        found.append((time.perf_counter() - began) * 1e6)
    return found


async def _rate(count: int, work: Callable[[int], Awaitable[object]]) -> list[float]:
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            await work(number)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return [count / (time.perf_counter() - began)]


async def _measured(setup: str, engine: Engine, other: Engine, size: dict[str, int]) -> Found:
    stamp = time.monotonic_ns()
    revisions: dict[int, int] = {}

    async def put(number: int) -> None:
        key = number % AT_ONCE
        revisions[key] = await engine.put(f"bench/{stamp}/{key}", b"x" * 200, revision=revisions.get(key, 0), ttl_s=60)

    async def get(number: int) -> None:
        await engine.get(f"bench/{stamp}/0")

    async def append(number: int) -> None:
        await engine.append(f"put-{stamp}", f"{time.monotonic_ns()}-{number}", b"x" * 200)

    async def cycle(number: int) -> None:
        await engine.append(f"cycle-{stamp}", f"{time.monotonic_ns()}-{number}", b"x" * 200)
        (taken,) = await engine.take(f"cycle-{stamp}", 10.0)
        await engine.settle(taken, "done")

    calls = await other.subscribe(f"bench/{stamp}")

    async def serve() -> None:
        while True:
            message = await calls.next()
            await message.answer(message.payload)

    serving = asyncio.create_task(serve())

    async def request(number: int) -> None:
        await engine.request(f"bench/{stamp}", b"x" * 200, 10.0)

    found: Found = {}
    works = {"put": put, "get": get, "append": append, "cycle": cycle, "request": request}
    for name, work in works.items():
        await work(0)
        found[f"{setup}_{name}_us"] = await _timed(size["each"], work)
    for name in ("append", "cycle", "request"):
        found[f"{setup}_{name}_rate"] = await _rate(size["many"], works[name])
    serving.cancel()
    await calls.close()
    return found


def _measure(setup: str, servers: LocalServers, size: dict[str, int]) -> Found:
    async def whole() -> Found:
        settings = ClusterSettings(engine=servers.kind, url=servers.url)
        engine, other = await open_engine(settings), await open_engine(settings, timeout_s=30.0)
        try:
            return await _measured(setup, engine, other, size)
        finally:
            await engine.close()
            await other.close()

    return asyncio.run(whole())


def _installed(kind: Kind) -> bool:
    try:
        program_of(kind)
        __import__(kind)
    except (InvalidParams, ImportError):
        return False
    return True


def main() -> None:
    """Measures, and reports."""
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    setups = {name: setup for name, setup in SETUPS.items() if _installed(setup[0])}
    notes = [f"{WORDS[name]}: not installed" for name in SETUPS if name not in setups]
    measures = [
        Measure(
            f"{setup}_{name}_us",
            f"{words}: {WORDS[setup]}",
            "µs",
            against=f"nats_{name}_us" if setup != "nats" and "nats" in setups else None,
        )
        for name, words in OPERATIONS.items()
        for setup in setups
    ]
    measures += [
        Measure(f"{setup}_{name}_rate", f"{OPERATIONS[name]}, {AT_ONCE} at once: {WORDS[setup]}", "/s")
        for name in ("append", "cycle", "request")
        for setup in setups
    ]
    with bench.folder() as folder:
        running: dict[str, LocalServers] = {}
        try:
            for name, (kind, count, fsync) in setups.items():
                running[name] = LocalServers(kind, count, folder / name, fsync=fsync).__enter__()
            parts = [
                lambda name=name, servers=servers: _measure(name, servers, size) for name, servers in running.items()
            ]
            rounds = bench.interleaved(size["rounds"], parts)
        finally:
            for servers in running.values():
                servers.stop()
    bench.report("engines", measures, rounds, machine, options, notes=notes)


if __name__ == "__main__":
    main()
