"""The turns of calls on a real loop: a flood of one tenant stands before no call of another."""

import asyncio
from collections import Counter

import pytest

from corral.supervisor.quotas.turns import QUIET_S, WRITES, CallTurns

pytestmark = pytest.mark.shell


class Calls:
    """Calls that note the order in which they get their turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turns = CallTurns(asyncio.get_running_loop(), lambda: self.now)
        self.order: list[str] = []

    async def one(self, tenant: str) -> None:
        if not self.turns.is_next(tenant):
            await self.turns.wait(tenant)
        self.order.append(tenant)


def test_a_call_waits_for_about_one_of_each_other_tenant() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        async with asyncio.TaskGroup() as group:
            for _ in range(500):
                group.create_task(calls.one("flood"))
            for _ in range(3):
                group.create_task(calls.one("b"))
                group.create_task(calls.one("c"))
        first = calls.order[1:12]
        assert (first.count("b"), first.count("c")) == (3, 3)
        assert Counter(calls.order) == {"flood": 500, "b": 4, "c": 3}

    asyncio.run(test())


def test_a_flood_has_one_call_in_a_turn_of_the_loop_while_another_tenant_calls() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(calls.one("flood"))
            await asyncio.sleep(0)
            for _ in range(10):
                before = len(calls.order)
                await asyncio.sleep(0)
                assert len(calls.order) <= before + 1
            await calls.one("b")
            assert len(calls.order) < 20

    asyncio.run(test())


def test_a_tenant_that_calls_alone_waits_for_nothing() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        assert calls.turns.is_next("a")
        assert not calls.turns.is_next("a")  # b has just called
        calls.now += QUIET_S
        assert all(calls.turns.is_next("a") for _ in range(100))

    asyncio.run(test())


def test_a_caller_that_hangs_up_costs_no_turn() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        flood = [asyncio.create_task(calls.one("flood")) for _ in range(100)]
        await asyncio.sleep(0)
        for each in flood:
            each.cancel()
        last = asyncio.create_task(calls.one("flood"))
        await last
        assert calls.order[-1] == "flood"
        assert len(calls.order) <= 4

    asyncio.run(test())


def test_few_tasks_of_a_tenant_are_written_at_once_while_others_call() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        await calls.one("flood")
        together, most, ended = 0, 0, asyncio.Event()

        async def submit() -> None:
            nonlocal together, most
            async with calls.turns.submitting("flood"):
                together += 1
                most = max(most, together)
                await (ended.wait() if calls.now < 200 else asyncio.sleep(0))
                together -= 1

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(submit()) for _ in range(100)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert most == WRITES
            tasks[WRITES].cancel()  # one that waits
            async with calls.turns.submitting("b"):
                assert together == WRITES
            calls.now += 200
            ended.set()
        assert together == 0
        assert most > WRITES  # nobody else calls any more

    asyncio.run(test())
