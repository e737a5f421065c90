"""The garbage of removed workers is bounded, and is not collected while more are removed."""

import asyncio

import pytest

from corral.supervisor.agents.running.replicas import CLOSED_MAX, COLLECTION_S, Garbage

pytestmark = pytest.mark.core


def test_many_removed_workers_are_collected_once_and_few_are_not() -> None:
    async def scenario() -> None:
        collected = asyncio.Event()
        runs = 0

        def collect() -> None:
            nonlocal runs
            runs += 1
            collected.set()

        garbage = Garbage(collect)
        for _ in range(CLOSED_MAX - 1):
            garbage.add()
        await asyncio.sleep(0)
        assert runs == 0
        for _ in range(CLOSED_MAX):
            garbage.add()
        assert runs == 0, "more are removed"
        await asyncio.wait_for(collected.wait(), 10 * COLLECTION_S)
        assert runs == 1

    asyncio.run(scenario())
