"""The clock of Redis' machine jumps: what it decides by time goes on. The clock of a NATS server cannot be moved by itself."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cluster_of_daemons import engine_or_skip
from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.local_servers import LocalServers, ServerPlaces
from corral.supervisor.config.declared.cluster import ClusterSettings
from faults import clock
from faults.clock import WallClock

BOUND_S = 30.0
DAY_S = 86_400.0


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[tuple[WallClock, LocalServers]]:
    engine_or_skip("redis")
    if reason := clock.why_not():
        pytest.skip(reason)
    found = WallClock(tmp_path, "redis")
    with LocalServers("redis", 1, tmp_path, places=ServerPlaces(environ=found.environ)) as servers:
        yield found, servers


def run(servers: LocalServers, test: Callable[[Engine, Engine], Awaitable[None]]) -> None:
    async def both() -> None:
        settings = ClusterSettings(engine="redis", url=servers.url)
        first, second = await open_engine(settings), await open_engine(settings)
        try:
            async with asyncio.timeout(BOUND_S):
                await test(first, second)
        finally:
            await first.close()
            await second.close()

    asyncio.run(both())


@pytest.mark.parametrize("seconds", [-DAY_S, DAY_S])
def test_a_lease_ends_although_the_clock_jumps(moved: tuple[WallClock, LocalServers], seconds: float) -> None:
    async def test(engine: Engine, _other: Engine) -> None:
        watch = await engine.watch("leases")
        first = await engine.put("leases/one", b"x", revision=0, ttl_s=1)
        assert (await watch.next()).value == b"x"
        moved[0].move(seconds)
        ended = await watch.next()
        assert (ended.key, ended.value) == ("leases/one", None)
        assert ended.revision > first
        assert await engine.put("leases/one", b"y", revision=0, ttl_s=1) > ended.revision

    run(moved[1], test)


def test_a_lease_that_is_renewed_outlives_a_clock_that_goes_back(moved: tuple[WallClock, LocalServers]) -> None:
    async def test(engine: Engine, _other: Engine) -> None:
        revision = await engine.put("leases/one", b"x", revision=0, ttl_s=60)
        moved[0].move(-DAY_S)
        revision = await engine.put("leases/one", b"y", revision=revision, ttl_s=60)
        entry = await engine.get("leases/one")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"y", revision)

    run(moved[1], test)


@pytest.mark.parametrize("seconds", [-DAY_S, DAY_S])
def test_the_task_of_a_silent_taker_is_delivered_again_although_the_clock_jumps(
    moved: tuple[WallClock, LocalServers], seconds: float
) -> None:
    async def test(engine: Engine, other: Engine) -> None:
        await engine.put("keys/any", b"x", revision=0)
        await engine.append("queue", "one", b"work")
        assert len(await engine.take("queue", BOUND_S)) == 1
        moved[0].move(seconds)
        await engine.put("keys/other", b"x", revision=0)
        (again,) = await other.take("queue", BOUND_S)
        assert (again.id, again.delivery) == ("one", 2)

    run(moved[1], test)
