"""Appends and takes tasks on an engine while its servers are hurt, and counts what became of them.

Each task is run by whoever takes it, and ends by a record that can be made once. `accepted` are tasks whose append
returned; `lost` those of them that have no record in the end; `rerun` those that were run more than once.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.local_servers import LocalServers
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import Conflict, Timeout

DRAIN_S = 30.0


class Load:
    """The load of one engine, and its counts."""

    def __init__(self, servers: LocalServers) -> None:
        self.settings = ClusterSettings(engine=servers.kind, url=servers.url, token=servers.token)
        self.accepted: set[str] = set()
        self.tried: set[str] = set()
        self.runs: Counter[str] = Counter()
        self.ended: set[str] = set()
        self.twice = 0
        self.longest_s = 0.0
        self.stopping = asyncio.Event()

    async def append(self, engine: Engine, who: int) -> None:
        number = 0
        while not self.stopping.is_set():
            name = f"t{who}-{number}"
            self.tried.add(name)
            began = time.monotonic()
            while True:
                try:
                    await engine.append("load", name, b"x" * 200)
                    break
                except Timeout:
                    await asyncio.sleep(0.05)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.accepted.add(name)
            number += 1
            await asyncio.sleep(0.002)

    async def take(self, engine: Engine) -> None:
        while True:
            try:
                found = await engine.take("load", 1.0)
                if not found:
                    continue
                (taken,) = found
                self.runs[taken.id] += 1
                await self.end(engine, taken.id)
                await engine.settle(taken, "done")
            except Timeout:
                await asyncio.sleep(0.05)

    async def end(self, engine: Engine, name: str) -> None:
        """Makes the record. A put that was not answered may have been done: that is read before anything else."""
        while True:
            try:
                await engine.put(f"ended/{name}", b"", revision=0)
                if name in self.ended:
                    self.twice += 1
                self.ended.add(name)
                return
            except Conflict:
                self.ended.add(name)
                return
            except Timeout:
                await asyncio.sleep(0.05)

    @property
    def counts(self) -> dict[str, Any]:
        return {
            "accepted": len(self.accepted),
            "ended": len(self.ended & self.accepted),
            "ended though not confirmed": len(self.ended - self.accepted),
            "rerun": sum(1 for count in self.runs.values() if count > 1),
            "ended twice": self.twice,
            "lost": len(self.accepted - self.ended),
            "longest append s": round(self.longest_s, 2),
        }


async def run(
    servers: LocalServers, hurt: Callable[[Load, Engine], Awaitable[None]], *, workers: int = 8
) -> dict[str, Any]:
    """Runs the load while `hurt` acts, then until all that was accepted has ended, and returns the counts."""
    load = Load(servers)
    engines = [await open_engine(load.settings) for _ in range(3)]
    takers = [asyncio.create_task(load.take(engines[1 + i % 2])) for i in range(workers)]
    appenders = [asyncio.create_task(load.append(engines[0], i)) for i in range(workers)]
    try:
        await hurt(load, engines[0])
        load.stopping.set()
        async with asyncio.timeout(DRAIN_S):
            await asyncio.gather(*appenders)
        seen, end = 0, time.monotonic() + DRAIN_S
        while len(load.accepted - load.ended) and time.monotonic() < end:
            if len(load.ended) > seen:  # a backlog on a slow disk is not lost
                seen, end = len(load.ended), time.monotonic() + DRAIN_S
            await asyncio.sleep(0.05)
    finally:
        running = {*takers, *appenders}
        # wait_for of Python 3.11 may lose a cancellation that comes together with the answer.
        while running:
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=1.0)
        await asyncio.gather(*takers, *appenders, return_exceptions=True)
        for engine in engines:
            await engine.close()
    print(json.dumps({"engine": servers.kind, "servers": servers.count, **load.counts}), file=sys.stderr)
    return load.counts


async def more(load: Load, count: int) -> None:
    """Waits until that many more tasks have ended."""
    wanted = len(load.ended) + count
    async with asyncio.timeout(DRAIN_S):
        while len(load.ended) < wanted:
            await asyncio.sleep(0.01)
