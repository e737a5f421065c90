"""What tasks have cost, against a count by hand; the clock is an argument, the store a real one."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.supervisor.api.reports.costs import DAY_H, DETAIL_S, HOUR_S, KEPT_S, CostSums
from corral.supervisor.records.store.store import Store
from corral.worker.contract.records import Task, TaskState
from corral.worker.control.reports import CostGroup, CostParams, Costs

pytestmark = pytest.mark.shell

NOW = 1_790_000_000.0 - 1_790_000_000.0 % 86_400 + 12 * HOUR_S
"""Noon of a day."""


class Book:
    """Sums of a store, with a clock that the test sets."""

    def __init__(self, store: Store) -> None:
        self.now = NOW
        self.sums = CostSums(store, lambda: self.now)

    def end(
        self,
        agent: str = "a",
        cents: float = 1.0,
        *,
        session: str | None = None,
        state: TaskState = "succeeded",
        tokens: int = 10,
    ) -> None:
        self.sums.ended(
            Task(id="t", agent=agent, state=state, session=session, tokens_used=tokens, cost_cents=cents, cpu_ms=2.0)
        )

    async def listed(
        self,
        by: CostGroup = "agent",
        *,
        since: float | None = None,
        until: float | None = None,
        knows: Callable[[str], bool] | None = None,
    ) -> Costs:
        return await self.sums.listed(CostParams(by=by, since=since, until=until), knows)


@asynccontextmanager
async def book(folder: Path) -> AsyncGenerator[Book]:
    store = Store.open(folder / "corral.db")
    try:
        yield Book(store)
    finally:
        await store.close()


def names(costs: Costs) -> dict[str | None, tuple[int, float]]:
    return {each.name: (each.tasks, each.cost_cents) for each in costs.costs}


def test_sums_are_those_of_a_count_by_hand_also_after_they_were_folded(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)

    async def run() -> None:
        async with book(tmp_path) as here:
            agents, days = Counter[str](), Counter[str]()
            start = here.now - 20 * 86_400
            for step in range(200):
                here.now = start + step * 8_640.0
                agent, cents = choose.choice("abc"), choose.randrange(100)
                here.end(agent, float(cents), session=choose.choice([None, "s", "t"]))
                agents[agent] += cents
                days[f"{int(here.now) // 86_400}"] += cents
                if step % 50 == 49:
                    await here.sums.expire()
            found = await here.listed()
            assert {each.name: each.cost_cents for each in found.costs} == dict(agents)
            assert found.total.tasks == 200
            assert found.total.tokens == 2_000
            by_day = await here.listed("day")
            assert [each.cost_cents for each in by_day.costs] == [*days.values()]
            sessions = await here.listed("session")
            assert sum(each.tasks for each in sessions.costs) == 200
            assert {each.session for each in sessions.costs} == {None, "s", "t"}

    asyncio.run(run())


def test_only_tasks_that_ended_in_the_time_count(tmp_path: Path) -> None:
    async def run() -> None:
        async with book(tmp_path) as here:
            for hours in (0, 1, 2):
                here.now = NOW + hours * HOUR_S
                here.end(cents=10.0**hours)
            assert (await here.listed(since=NOW + HOUR_S)).total.cost_cents == 110
            assert (await here.listed(until=NOW + HOUR_S)).total.cost_cents == 1
            found = await here.listed("hour", since=NOW, until=NOW + 2 * HOUR_S)
            assert [each.cost_cents for each in found.costs] == [1, 10]
            here.now = NOW + DETAIL_S + (DAY_H + 1) * HOUR_S
            await here.sums.expire()
            assert (await here.listed(since=NOW + HOUR_S)).total.cost_cents == 111, "the whole day"
            here.now = NOW + KEPT_S + 2 * DAY_H * HOUR_S
            await here.sums.expire()
            assert (await here.listed()).total.tasks == 0

    asyncio.run(run())


def test_failures_are_counted_and_groups_do_not_count_their_parts_twice(tmp_path: Path) -> None:
    async def run() -> None:
        async with book(tmp_path) as here:
            for state in ("succeeded", "failed", "timeout", "cancelled"):
                here.end(state=state)
            here.sums.ended(Task(id="w", agent="flow", kind="workflow", cost_cents=4.0))
            found = await here.listed()
            assert names(found) == {"a": (4, 4.0), "flow": (1, 0.0)}
            assert found.costs[0].failed == 2
            assert found.costs[0].cpu_ms == 8.0

    asyncio.run(run())


def test_a_caller_with_some_agents_sees_these_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with book(tmp_path) as here:
            here.end("mine", 1.0)
            here.end("theirs", 2.0)
            here.end("red/mine", 4.0)
            assert names(await here.listed(knows=lambda name: name == "mine")) == {"mine": (1, 1.0)}
            none = await here.listed(knows=lambda _: False)
            assert (none.costs, none.total.tasks) == ([], 0)
            assert names(await here.listed("tenant")) == {"red": (1, 4.0), None: (2, 3.0)}

    asyncio.run(run())
