"""Nodes as processes of their own, on real engines: leases are kept, lost, and taken again; a frozen node stops first."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.jetstream import JetStream
from corral.supervisor.cluster.engine.jetstream_wire import KEYS
from corral.supervisor.cluster.engine.local_servers import LocalServers, program_of
from corral.supervisor.cluster.lease.lease import ELECTION_TIMING, TIMING
from corral.supervisor.cluster.lease.membership import boot_clock
from corral.supervisor.cluster.lease.observer import Observer, nodes_now
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import InvalidParams
from daemon_process import BOUND_S

pytestmark = [
    pytest.mark.shell,
    # The clients do not wait for the end of a connection that they lost.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

PROGRAM = Path(__file__).parents[2] / "support" / "programs" / "cluster_node.py"


@pytest.fixture(params=["nats", pytest.param("redis", marks=pytest.mark.long)])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalServers]:
    try:
        program_of(request.param)
        __import__(request.param)
    except (InvalidParams, ImportError) as error:
        pytest.skip(str(error))
    with LocalServers(request.param, 1, tmp_path) as found:
        yield found


class Node:
    """A node process, and the lines that it prints."""

    def __init__(self, servers: LocalServers, name: str, folder: Path, lease: str = "usual") -> None:
        self.path = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.path.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), servers.kind, servers.url, name, lease],
                stdout=output,
                stderr=subprocess.DEVNULL,
            )

    def lines(self, word: str) -> list[tuple[float, str]]:
        found: list[tuple[float, str]] = []
        for line in self.path.read_text().splitlines(True):
            if line.endswith("\n"):  # whole
                when, kind, *rest = line.strip().split(" ", 2)
                if kind == word:
                    found.append((float(when), rest[0] if rest else ""))
        return found

    async def until(self, word: str, count: int) -> tuple[float, str]:
        async with asyncio.timeout(BOUND_S):
            while len(self.lines(word)) < count:
                await asyncio.sleep(0.01)
        return self.lines(word)[count - 1]

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


def run(servers: LocalServers, test: Callable[[Engine], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(BOUND_S * 2):
            settings = ClusterSettings(engine=servers.kind, url=servers.url)
            engine = await open_engine(settings)
            try:
                await test(engine)
            finally:
                await engine.close()

    asyncio.run(whole())


async def names(engine: Engine) -> list[str]:
    return [each.name for each in await nodes_now(engine, BOUND_S)]


@pytest.mark.long
def test_nodes_join_and_are_listed_and_a_second_of_one_name_never_runs(servers: LocalServers, tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        with Node(servers, "n1", tmp_path) as first, Node(servers, "n2", tmp_path) as second:
            await first.until("run", 1)
            await second.until("run", 1)
            found = await nodes_now(engine, BOUND_S)
            assert [each.name for each in found] == ["n1", "n2"]
            assert (found[0].capacity, found[0].labels) == (7, {"zone": "a"})
            with Node(servers, "n1", tmp_path) as third:
                await first.until("arm", len(first.lines("arm")) + 8)  # beyond a lease
                assert third.lines("run") == []
                assert first.lines("stop") == []
                assert len(first.lines("run")) == 1

    run(servers, test)


@pytest.mark.long
def test_a_killed_node_is_over_after_its_lease_and_not_before(servers: LocalServers, tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        over: dict[str, float] = {}
        observer = Observer(engine, lambda name: over.update({name: boot_clock()}))
        following = asyncio.create_task(observer.run())
        with Node(servers, "n1", tmp_path) as node, Node(servers, "n2", tmp_path) as other:
            await other.until("run", 1)
            await node.until("arm", 4)
            node.process.kill()
            last_kill_at = float(node.lines("arm")[-1][1])
            async with asyncio.timeout(BOUND_S):
                while not over:
                    await asyncio.sleep(0.01)
            assert list(over) == ["n1"]
            assert over["n1"] >= last_kill_at + TIMING.kill_s
            assert over["n1"] < last_kill_at + TIMING.lease_s + 1.5
            assert await names(engine) == ["n2"]
        following.cancel()

    run(servers, test)


@pytest.mark.long
def test_a_node_that_loses_the_engine_stops_before_its_lease_ends_and_joins_again(
    servers: LocalServers, tmp_path: Path
) -> None:
    async def test(engine: Engine) -> None:
        with Node(servers, "n1", tmp_path) as node:
            await node.until("arm", 2)
            servers.signal(0, signal.SIGSTOP)
            stopped_at, _ = await node.until("stop", 1)
            good_at = float(node.lines("arm")[-1][1]) - TIMING.kill_after_s
            assert stopped_at - good_at < TIMING.kill_after_s
            assert node.lines("cordon")[0][0] < stopped_at
            servers.signal(0, signal.SIGCONT)
            again_at, _ = await node.until("run", 2)
            assert again_at > stopped_at

    run(servers, test)


@pytest.mark.long
def test_a_frozen_node_is_over_elsewhere_and_stops_before_anything_else_when_it_wakes(
    servers: LocalServers, tmp_path: Path
) -> None:
    async def test(engine: Engine) -> None:
        over: list[float] = []
        following = asyncio.create_task(Observer(engine, lambda _: over.append(boot_clock())).run())
        with Node(servers, "n1", tmp_path) as node:
            await node.until("arm", 3)
            node.process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(BOUND_S):
                while not over:
                    await asyncio.sleep(0.01)
            # The launcher, which is not frozen, has killed its workers by then.
            assert over[0] >= float(node.lines("arm")[-1][1]) + TIMING.kill_s
            token = int(node.lines("run")[0][1])
            node.process.send_signal(signal.SIGCONT)
            _, new = await node.until("run", 2)
            text = node.path.read_text()
            assert text.index(" stop ") < text.rindex(" run ")
            assert int(new) > token
        following.cancel()

    run(servers, test)


def test_a_clock_of_the_server_that_jumps_is_no_end_of_a_lease(tmp_path: Path) -> None:
    """The engine ends the key early: the node stops at its next beat, others wait for a whole lease."""
    try:
        program_of("redis")
        __import__("redis")
    except (InvalidParams, ImportError) as error:
        pytest.skip(str(error))

    with LocalServers("redis", 1, tmp_path) as servers:

        async def test(engine: Any) -> None:
            over: list[float] = []
            following = asyncio.create_task(Observer(engine, lambda _: over.append(boot_clock())).run())
            with Node(servers, "n1", tmp_path) as node:
                await node.until("arm", 3)
                node.process.send_signal(signal.SIGSTOP)
                armed = float(node.lines("arm")[-1][1])
                await engine.client.zadd("{corral}:ends", {"nodes/n1": 1})  # as a clock far ahead would
                async with asyncio.timeout(BOUND_S):
                    while await engine.get("nodes/n1") is not None:
                        await asyncio.sleep(0.01)
                async with asyncio.timeout(BOUND_S):
                    while not over:
                        await asyncio.sleep(0.01)
                assert over[0] >= armed + TIMING.kill_s
            following.cancel()

        run(servers, test)


@pytest.mark.long
@pytest.mark.parametrize("lease", ["usual", "election"])
def test_a_node_stops_at_an_election_only_if_that_takes_longer_than_its_lease(lease: str, tmp_path: Path) -> None:
    try:
        program_of("nats")
        __import__("nats")
    except (InvalidParams, ImportError) as error:
        pytest.skip(str(error))
    timing = ELECTION_TIMING if lease == "election" else TIMING
    with LocalServers("nats", 3, tmp_path) as servers:

        async def test(engine: Engine) -> None:
            assert isinstance(engine, JetStream)
            with Node(servers, "n1", tmp_path, lease) as node:
                await node.until("arm", 3)
                info = await engine.api(f"STREAM.INFO.{KEYS}", {}, KEYS)
                servers.kill(int(info["cluster"]["leader"].rpartition("-")[2]))
                await node.until("arm", len(node.lines("arm")) + 3)
                goods = [float(kill_at) - timing.kill_after_s for _, kill_at in node.lines("arm")]
                gap_s = max(b - a for a, b in pairwise(goods))
                print(f"{gap_s:.2f} s without a beat")
                stops = len(node.lines("stop"))
                if gap_s > timing.stop_after_s + 1.5 * timing.beat_s:
                    assert stops == 1
                if gap_s < timing.stop_after_s:
                    assert stops == 0
                assert (len(node.lines("run")) > 1) == bool(stops or node.lines("cordon"))

        run(servers, test)
