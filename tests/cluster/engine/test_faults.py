"""Servers that are killed, frozen and cut off under load: nothing that was accepted is lost, nothing ends twice.

`CORRAL_ENGINE_ROUNDS=100` makes the lives longer. The network of a test is a namespace of its own, which needs root.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import engine_load
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.jetstream import JetStream
from corral.supervisor.cluster.engine.jetstream_wire import TASKS
from corral.supervisor.cluster.engine.local_servers import LocalServers, ServerPlaces, program_of
from corral.worker.contract.errors import InvalidParams, Timeout
from daemon_process import BOUND_S
from engine_load import Load, more

pytestmark = [
    pytest.mark.long,
    pytest.mark.shell,
    # The clients do not wait for the end of a connection that they lost.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

ROUNDS = int(os.environ.get("CORRAL_ENGINE_ROUNDS", "2"))

Hurt = Callable[[Load, Engine], Awaitable[None]]


def servers_of(kind: Literal["nats", "redis"], count: int, folder: Path, **how: Any) -> LocalServers:
    try:
        program_of(kind)
        __import__(kind)
    except (InvalidParams, ImportError) as error:
        pytest.skip(str(error))
    return LocalServers(kind, count, folder, **how)


def check(counts: dict[str, Any], at_least: int) -> None:
    assert counts["accepted"] > at_least
    assert counts["lost"] == 0
    assert counts["ended twice"] == 0
    assert counts["ended"] == counts["accepted"]


async def leader(engine: Engine) -> int | None:
    """The number of the server that leads the tasks; None while none does."""
    assert isinstance(engine, JetStream)
    try:
        info = await engine.api(f"STREAM.INFO.{TASKS}", {}, TASKS)
    except Timeout:
        return None
    found = info.get("cluster", {}).get("leader") or ""
    return int(found.rpartition("-")[2]) if found else None


async def known_leader(engine: Engine) -> int:
    async with asyncio.timeout(30):
        while True:
            found = await leader(engine)
            if found is not None:
                return found
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_kills_of_the_only_server_lose_nothing(kind: Literal["nats", "redis"], tmp_path: Path) -> None:
    with servers_of(kind, 1, tmp_path) as servers:

        async def hurt(load: Load, _engine: Engine) -> None:
            for _ in range(ROUNDS):
                await more(load, 100)
                servers.kill(0)
                servers.start(0)
            await more(load, 100)

        check(asyncio.run(engine_load.run(servers, hurt)), 200)


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_server_that_is_frozen_beyond_the_redelivery_loses_nothing(
    kind: Literal["nats", "redis"], tmp_path: Path
) -> None:
    with servers_of(kind, 1, tmp_path) as servers:

        async def hurt(load: Load, _engine: Engine) -> None:
            await more(load, 100)
            servers.signal(0, signal.SIGSTOP)
            await asyncio.sleep(4.0)  # beyond a lease: that is the fault itself
            servers.signal(0, signal.SIGCONT)
            await more(load, 100)

        check(asyncio.run(engine_load.run(servers, hurt)), 100)


def test_kills_of_the_leader_of_three_servers_lose_nothing(tmp_path: Path) -> None:
    with servers_of("nats", 3, tmp_path) as servers:

        async def hurt(load: Load, engine: Engine) -> None:
            for _ in range(ROUNDS):
                await more(load, 100)
                number = await known_leader(engine)
                servers.kill(number)
                await more(load, 100)
                assert await known_leader(engine) != number
                servers.start(number)
            await more(load, 100)

        check(asyncio.run(engine_load.run(servers, hurt)), 200)


def test_a_frozen_leader_of_three_servers_loses_nothing(tmp_path: Path) -> None:
    with servers_of("nats", 3, tmp_path) as servers:

        async def hurt(load: Load, engine: Engine) -> None:
            await more(load, 100)
            number = await known_leader(engine)
            servers.signal(number, signal.SIGSTOP)
            await more(load, 100)
            servers.signal(number, signal.SIGCONT)
            await more(load, 100)

        check(asyncio.run(engine_load.run(servers, hurt)), 200)


# -- a network of its own


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """A namespace with one interface, which can be cut: its name, and the address in it."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root and ip")
    name = f"corral{os.getpid() % 100_000}"
    here, there = f"{name}a"[-15:], f"{name}b"[-15:]
    octet = os.getpid() % 250 + 1
    address = f"10.231.{octet}.2"
    words = [
        f"ip netns add {name}",
        f"ip link add {here} type veth peer name {there} netns {name}",
        f"ip addr add 10.231.{octet}.1/24 dev {here}",
        f"ip link set {here} up",
        f"ip -n {name} addr add {address}/24 dev {there}",
        f"ip -n {name} link set {there} up",
        f"ip -n {name} link set lo up",
    ]
    try:
        for command in words:
            done = subprocess.run(command.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"{command}: {done.stderr.strip()}")
        yield name, address
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", here], capture_output=True)


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_partition_ends_every_wait_and_loses_nothing(
    kind: Literal["nats", "redis"], network: tuple[str, str], tmp_path: Path
) -> None:
    name, address = network
    port = 24_222
    before = ("ip", "netns", "exec", name)
    places = ServerPlaces(hosts=[address], ports=[port], before=[before])
    with servers_of(kind, 1, tmp_path, places=places, token="secret") as servers:

        def link(state: str) -> None:
            there = f"{name}b"[-15:]
            subprocess.run(["ip", "-n", name, "link", "set", there, state], check=True)

        async def hurt(load: Load, engine: Engine) -> None:
            for _ in range(ROUNDS):
                await more(load, 100)
                link("down")
                async with asyncio.timeout(BOUND_S):
                    for _ in range(3):
                        with pytest.raises(Timeout):
                            await engine.get("a")
                    assert await engine.take("elsewhere", 0.5) == []
                link("up")
                await more(load, 100)

        check(asyncio.run(engine_load.run(servers, hurt)), 200)
