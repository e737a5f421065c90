"""The turns of calls on a real loop: a flood of one tenant stands before no call of another."""

import asyncio
from collections import Counter

import pytest

from corral.supervisor.tenants.quotas.turns import (
    BURST_S,
    CALLS_MAX,
    NEAR_S,
    PACE_S,
    QUIET_S,
    READ_BYTES_PER_S,
    READ_S,
    TURN_S,
    WRITE_S,
    WRITE_WAIT_S,
    WRITES,
    WRITES_NEAR,
    WRITES_SAVED,
    CallTurns,
)

BOUND_S = 30.0

pytestmark = pytest.mark.shell


class Calls:
    """Calls that note the order in which they get their turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turns = CallTurns(asyncio.get_running_loop(), lambda: self.now)
        self.order: list[str] = []

    async def one(self, tenant: str, caller: str = "", cost_s: float = 0.0) -> None:
        if not self.turns.is_next(tenant):
            await self.turns.wait(tenant, caller)
        self.now += cost_s
        self.order.append(caller or tenant)


def test_a_call_waits_for_about_one_of_each_other_tenant() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(calls.one("flood"))
            for _ in range(3):
                group.create_task(calls.one("b"))
                group.create_task(calls.one("c"))
        first = calls.order[1:12]
        assert (first.count("b"), first.count("c")) == (3, 3)
        assert Counter(calls.order) == {"flood": 100, "b": 4, "c": 3}

    asyncio.run(test())


def test_a_flood_has_a_call_and_then_the_loop_turns_without_it_while_another_tenant_calls() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(calls.one("flood"))
            seen = turns = 0
            while calls.order.count("flood") < 5:
                await asyncio.sleep(0)
                turns += 1
                assert calls.order.count("flood") <= seen + 1
                seen = calls.order.count("flood")
            assert turns > 3 * 5, "without a pause it has a call in nearly each turn of the loop"
            await asyncio.sleep(2 * PACE_S)
            assert calls.turns.is_next("b"), "the first call of another tenant needs no turn"

    asyncio.run(test())


def test_a_tenant_that_calls_alone_waits_for_nothing() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        assert calls.turns.is_next("a")
        assert not calls.turns.is_next("a")  # b has just called
        await asyncio.sleep(2 * PACE_S)
        calls.now += QUIET_S
        assert all(calls.turns.is_next("a") for _ in range(10))

    asyncio.run(test())


@pytest.mark.parametrize("cost_s", [0.0001, 0.001, 0.02])
def test_a_burst_of_one_caller_leaves_the_loop_to_others_after_a_few_milliseconds(cost_s: float) -> None:
    async def test() -> None:
        calls = Calls()
        count = 4 * CALLS_MAX
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(calls.one("", "worker", cost_s))
            took_s: list[float] = []
            while len(calls.order) < count:
                before = calls.now
                await asyncio.sleep(0)
                took_s.append(calls.now - before)
        assert took_s[0] <= TURN_S + cost_s
        assert max(took_s[12:]) <= max(2 * TURN_S, cost_s), "the first turns show what a call costs"

    asyncio.run(test())


def test_a_single_call_waits_for_one_of_each_other_caller_of_its_tenant() -> None:
    async def test() -> None:
        calls = Calls()
        async with asyncio.TaskGroup() as group:
            for caller in ("worker-0", "worker-1"):
                for _ in range(2 * CALLS_MAX):
                    group.create_task(calls.one("", caller))
            while len(calls.order) < CALLS_MAX:
                await asyncio.sleep(0)
            begun = len(calls.order)
            group.create_task(calls.one("", "person"))
        assert calls.order.index("person") - begun <= 2 + 2 * CALLS_MAX, (
            "the turns that are given already, and one of each"
        )

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


@pytest.mark.parametrize(("passed_s", "limit"), [(0.0, WRITES_NEAR), (2 * NEAR_S, WRITES)])
def test_few_tasks_of_a_tenant_are_written_at_once_while_others_call(passed_s: float, limit: int) -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        await calls.one("flood")
        calls.now += passed_s
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
            assert most == limit
            tasks[limit].cancel()  # one that waits
            async with calls.turns.submitting("b"):
                assert together == limit
            calls.now += 200
            ended.set()
        assert together == 0
        assert most > limit  # nobody else calls any more

    asyncio.run(test())


def test_a_flood_of_tasks_rests_between_two_writes_near_the_call_of_another() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        await calls.one("flood")
        begun = turns = 0

        async def submit() -> None:
            nonlocal begun
            async with calls.turns.submitting("flood"):
                begun += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(3 * WRITES_NEAR):
                group.create_task(submit())
            while begun < 3 * WRITES_NEAR:
                before = begun
                await asyncio.sleep(0)
                turns += 1
                assert begun <= before + WRITES_NEAR
        assert turns > 3 * 3 * WRITES_NEAR, "without a rest one begins in each turn of the loop"

    asyncio.run(test())


def test_a_submission_that_hangs_up_as_its_place_is_free_leaves_it_to_the_next() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        await calls.one("flood")
        calls.now += 2 * NEAR_S  # none of them rests
        done = list[str]()

        async def submit(name: str, hold: asyncio.Event) -> None:
            async with calls.turns.submitting("flood"):
                await hold.wait()
                done.append(name)

        first, never, now = asyncio.Event(), asyncio.Event(), asyncio.Event()
        now.set()
        holding = [asyncio.create_task(submit("one", first)) for _ in range(WRITES)]
        await asyncio.sleep(0)
        second = asyncio.create_task(submit("second", never))
        third = asyncio.create_task(submit("third", now))
        await asyncio.sleep(0)
        holding[0].cancel()
        await asyncio.sleep(0)
        second.cancel()  # it has its place, and has not run yet
        async with asyncio.timeout(BOUND_S):
            await third
        assert done == ["third"]
        first.set()
        await asyncio.gather(*holding, second, return_exceptions=True)

    asyncio.run(test())


def test_output_is_read_at_a_pace_while_another_tenant_calls() -> None:
    async def test() -> None:
        calls = Calls()
        turns, size_bytes = calls.turns, 64 * 1024
        assert not any(turns.read_pause_s("flood", size_bytes) for _ in range(100))
        await calls.one("flood")
        assert not any(turns.read_pause_s("flood", size_bytes) for _ in range(100)), "its own calls"
        await calls.one("b")
        taken_bytes = 0
        for _ in range(1000):
            taken_bytes += size_bytes
            calls.now += turns.read_pause_s("flood", size_bytes)
            calls.turns.is_next("b")
        passed_s = calls.now - 100.0
        assert taken_bytes <= (passed_s + BURST_S) * READ_BYTES_PER_S
        assert not any(turns.read_pause_s("quiet", 100) for _ in range(10))
        calls.now += 2 * NEAR_S
        assert turns.read_pause_s("flood", size_bytes) == 0.0

    asyncio.run(test())


def test_short_reads_of_output_have_their_price_too() -> None:
    async def test() -> None:
        calls = Calls()
        await calls.one("b")
        reads = 0
        while not calls.turns.read_pause_s("flood", 1):
            reads += 1
        assert reads <= BURST_S / READ_S

    asyncio.run(test())


def test_the_writes_of_a_flood_wait_for_others_while_another_tenant_calls() -> None:
    async def test() -> None:
        calls = Calls()
        turns = calls.turns
        await calls.one("flood")
        assert not any(turns.write_wait_s("flood") for _ in range(100)), "its own calls"
        await calls.one("b")
        waits = [turns.write_wait_s("flood") for _ in range(100)]
        assert waits[: WRITES_SAVED - 1] == [0.0] * (WRITES_SAVED - 1)
        assert waits[-1] == pytest.approx(WRITE_WAIT_S)
        assert max(waits) <= WRITE_WAIT_S + 1e-9
        calls.now += 2 * NEAR_S
        assert turns.write_wait_s("flood") == 0.0

    asyncio.run(test())


def test_the_writes_of_a_tenant_that_calls_now_and_then_wait_for_nothing() -> None:
    async def test() -> None:
        calls = Calls()
        for _ in range(200):
            await calls.one("flood")
            await calls.one("b")
            assert calls.turns.write_wait_s("b") == 0.0, "the begin of a task"
            calls.now += WRITE_S / 4
            assert calls.turns.write_wait_s("b") == 0.0, "its end"
            calls.now += 2 * WRITE_S

    asyncio.run(test())
