"""The budgets of agents with a real store: what is written down, found again, and forgotten."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.supervisor.config.spec import Resources, Spec, Tasks
from corral.supervisor.events.bus import Bus, Event
from corral.supervisor.store.store import Store
from corral.supervisor.tasks.budget import Budgets
from worker_peer import on_loop

pytestmark = pytest.mark.shell

DAY_S = 86_400.0


class Desk:
    """An agent "a" with a budget of 100 cents a day, and the hands of the clock."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1_790_000_000.0
        self.told: list[Event] = []
        self.bus = Bus(1, self.told.append)
        self.spec = Spec(
            name="a",
            kind="agent",
            source="test",
            resources=Resources(),
            tasks=Tasks(max_cost_cents_per_day=100),
        )

    def spec_of(self, name: str) -> Spec | None:
        return self.spec if name == "a" else None

    async def budgets(self) -> Budgets:
        """Those of a new daemon."""
        made = Budgets(self.store, self.bus, self.spec_of, clock=lambda: self.now)
        await made.load()
        return made

    async def rows(self) -> list[tuple[object, ...]]:
        await self.store.write()  # what was posted before is on disk then
        return [
            tuple(row) for row in await self.store.read("SELECT agent, cost_cents FROM spending")
        ]


@asynccontextmanager
async def desk(folder: Path) -> AsyncGenerator[Desk, None]:
    store = Store.open(folder / "corral.db")
    try:
        yield Desk(store)
    finally:
        await store.close()


@on_loop
async def test_a_budget_is_used_up_until_a_day_has_passed(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        budgets = await here.budgets()
        budgets.charge("a", 0, 60.0)
        assert budgets.holds("a") is None
        here.now += 3600
        budgets.charge("a", 0, 40.0)
        assert budgets.holds("a") is not None
        budgets.charge("a", 0, 1.0)
        (told,) = here.told  # it is told of once
        assert (told.type, told.fields["key"]) == ("limit.cost", "max_cost_cents_per_day")
        here.now += DAY_S - 3600
        assert budgets.holds("a") is not None
        here.now += 301
        assert budgets.holds("a") is None
        budgets.close()


@on_loop
async def test_the_next_daemon_knows_what_was_spent(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        first = await here.budgets()
        for _ in range(4):
            first.charge("a", 0, 30.0)
            here.now += 400
        first.close()
        await here.rows()
        second = await here.budgets()
        assert second.holds("a") is not None
        second.charge("a", 0, 5.0)
        second.close()
        assert sum(float(str(cents)) for _, cents in await here.rows()) == 125.0
        third = await here.budgets()
        here.now += DAY_S
        assert third.holds("a") is None
        third.close()


@on_loop
async def test_what_counts_no_more_is_forgotten(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        budgets = await here.budgets()
        budgets.charge("a", 0, 30.0)
        budgets.charge("gone", 0, 30.0)
        budgets.save()
        assert len(await here.rows()) == 2
        here.now += 2 * DAY_S
        budgets.charge("a", 0, 1.0)
        budgets.close()
        assert await here.rows() == [("a", 1.0)]


@on_loop
async def test_a_limit_that_is_raised_or_gone_holds_nobody(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        freed: list[str] = []
        budgets = await here.budgets()
        budgets.on_free = freed.append
        budgets.charge("a", 0, 100.0)
        budgets.look_again()
        assert (freed, budgets.holds("a") is None) == ([], False)
        here.spec = Spec(name="a", kind="agent", source="test", tasks=Tasks())
        budgets.look_again()
        assert (freed, budgets.holds("a")) == (["a"], None)
        budgets.close()
