"""Numbers of lives: on disk before a life begins, reserved ahead, never given twice; real files and a real kill -9."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from corral.supervisor.records.store.incarnations import Incarnations
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import ShuttingDown

pytestmark = pytest.mark.shell

BOUND_S = 60.0

LIVES = """
import asyncio, os, signal, sys
from pathlib import Path
from corral.supervisor.records.store.incarnations import Incarnations
from corral.supervisor.records.store.store import Store

async def live():
    incarnations = Incarnations(Store.open(Path(sys.argv[1])))
    await incarnations.load()
    for turn in range(1, int(sys.argv[2]) + 1):
        number = incarnations.last("a-0") + 1
        answer = incarnations.claim("a-0", number)
        if answer is not None:
            await answer
        print(number, flush=True)
        if turn % 2:  # what another one waits for has the next of this one reserved, too
            await incarnations.claim(f"b-{os.getpid()}-{turn}", 1)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(live())
"""


def run(path: Path, test: Callable[[Store, Incarnations], Awaitable[None]]) -> None:
    async def bounded() -> None:
        store = Store.open(path)
        incarnations = Incarnations(store)
        try:
            async with asyncio.timeout(BOUND_S):
                await incarnations.load()
                await test(store, incarnations)
        finally:
            await store.close()

    uvloop.run(bounded())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corral.db"


async def until_reserved(store: Store, worker: str, number: int) -> None:
    query = "SELECT 1 FROM incarnation WHERE worker = ? AND value >= ?"
    while not await store.read(query, (worker, number)):
        await asyncio.sleep(0)


def test_no_number_is_given_twice_whenever_the_daemon_is_killed(path: Path) -> None:
    given: list[int] = []
    for lives in (1, 2, 3, 5, 1):
        arguments = [sys.executable, "-P", "-c", LIVES, str(path), str(lives)]
        done = subprocess.run(arguments, capture_output=True, check=False, timeout=BOUND_S, env=dict(os.environ))
        assert done.returncode == -signal.SIGKILL, done.stderr
        said = [int(line) for line in done.stdout.split()]
        assert len(said) == lives
        given += said
    assert given == sorted(set(given))
    assert given[-1] <= sum((1, 2, 3, 5, 1)) + 4, "a kill leaves out one at most"


def test_a_first_life_waits_for_the_disk_and_the_next_one_does_not(path: Path) -> None:
    async def test(store: Store, incarnations: Incarnations) -> None:
        answer = incarnations.claim("a-0", 1)
        assert answer is not None
        await answer
        assert await store.read("SELECT value FROM incarnation") == [(2,)]
        assert incarnations.claim("a-0", 2) is None
        await until_reserved(store, "a-0", 3)

    run(path, test)


def test_those_that_begin_together_share_one_write(path: Path) -> None:
    async def test(_store: Store, incarnations: Incarnations) -> None:
        answers = {incarnations.claim(f"a-{number}", 1) for number in range(1000)}
        assert len(answers) == 1
        (answer,) = answers
        assert answer is not None
        await answer
        assert all(incarnations.claim(f"a-{number}", 2) is None for number in range(1000))

    run(path, test)


def test_a_life_that_follows_before_its_number_is_reserved_waits(path: Path) -> None:
    async def test(store: Store, incarnations: Incarnations) -> None:
        first = incarnations.claim("a-0", 1)
        second = incarnations.claim("a-0", 2)
        assert first is not None
        assert second is first
        await first
        third = incarnations.claim("a-0", 3)
        assert third is None, "the second one had the third reserved"
        fourth = incarnations.claim("a-0", 4)
        assert fourth is not None
        await fourth
        assert (await store.read("SELECT value FROM incarnation"))[0][0] == 5

    run(path, test)


def test_after_a_stop_nothing_is_left_out(path: Path) -> None:
    async def first(_store: Store, incarnations: Incarnations) -> None:
        for number in (1, 2, 3):
            answer = incarnations.claim("a-0", number)
            if answer is not None:
                await answer
        await incarnations.release_unused()

    async def second(_store: Store, incarnations: Incarnations) -> None:
        assert incarnations.last("a-0") == 3
        answer = incarnations.claim("a-0", 4)
        assert answer is not None, "what an earlier daemon reserved is not ours"
        await answer

    run(path, first)
    run(path, second)


def test_what_begins_after_the_end_is_on_disk_before_it_does(path: Path) -> None:
    async def test(store: Store, incarnations: Incarnations) -> None:
        answer = incarnations.claim("a-0", 1)
        assert answer is not None
        await answer
        await incarnations.release_unused()
        late = incarnations.claim("a-0", 2)
        assert late is not None, "the end gave its number back"
        await late
        assert await store.read("SELECT value FROM incarnation") == [(3,)]

    run(path, test)


def test_without_a_store_no_life_begins(path: Path) -> None:
    async def test(store: Store, incarnations: Incarnations) -> None:
        answer = incarnations.claim("a-0", 1)
        assert answer is not None
        await answer
        await store.close()
        assert incarnations.claim("a-0", 2) is None, "it is on disk"
        refused = incarnations.claim("a-0", 3)
        assert refused is not None
        with pytest.raises(ShuttingDown):
            await refused

    run(path, test)
