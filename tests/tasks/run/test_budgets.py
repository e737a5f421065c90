"""The budgets of agents with a real store: what is written down, found again, and forgotten."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.supervisor.config.spec.spec import Resources, Spec, Tasks
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.run import cluster
from corral.supervisor.tasks.run.budgets import Budgets
from corral.supervisor.tasks.run.cluster import Cluster
from corral.supervisor.tenants.quotas.spending import NO_COST, NO_TOKENS, Spending
from task_harness import no_tenants
from worker_peer import on_loop

pytestmark = pytest.mark.shell

DAY_S = 86_400.0


class AgentWithBudget:
    """An agent "a" with a budget of 100 cents a day, and a clock that is set by hand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1_790_000_000.0
        self.events: list[Event] = []
        self.freed: list[str] = []
        self.cluster = Cluster()
        self.bus = Bus(1, self.events.append)
        self.spec = Spec(
            name="a", kind="agent", source="test", resources=Resources(), tasks=Tasks(max_cost_cents_per_day=100)
        )

    def spec_of(self, name: str) -> Spec | None:
        return self.spec if name == "a" else None

    async def budgets(self) -> Budgets:
        """Returns those of a new daemon."""
        limits, gathered = no_tenants(self.store, self.bus), Gathered(self.store)
        made = Budgets(self.store, self.bus, self.spec_of, limits, gathered, self.cluster, lambda: self.now)
        made.subscribe(self.freed.append)
        await made.load()
        return made

    async def rows(self) -> list[tuple[object, ...]]:
        await self.store.write()  # what was posted before is on disk then
        return [tuple(row) for row in await self.store.read("SELECT agent, cost_cents FROM spending")]


@asynccontextmanager
async def agent_with_budget(folder: Path) -> AsyncGenerator[AgentWithBudget, None]:
    store = Store.open(folder / "corral.db")
    try:
        yield AgentWithBudget(store)
    finally:
        await store.close()


@on_loop
async def test_a_budget_is_used_up_until_a_day_has_passed(tmp_path: Path) -> None:
    async with agent_with_budget(tmp_path) as here:
        budgets = await here.budgets()
        budgets.charge("a", 0, 60.0)
        assert budgets.holds(here.spec) is None
        here.now += 3600
        budgets.charge("a", 0, 40.0)
        assert budgets.holds(here.spec) is not None
        budgets.charge("a", 0, 1.0)
        (event,) = here.events  # it is published once
        assert (event.type, event.fields["key"]) == ("limit.cost", "max_cost_cents_per_day")
        here.now += DAY_S - 3600
        assert budgets.holds(here.spec) is not None
        here.now += 301
        assert budgets.holds(here.spec) is None
        budgets.close()


@on_loop
async def test_the_next_daemon_knows_what_was_spent(tmp_path: Path) -> None:
    async with agent_with_budget(tmp_path) as here:
        first = await here.budgets()
        for _ in range(4):
            first.charge("a", 0, 30.0)
            here.now += 400
        first.close()
        await here.rows()
        second = await here.budgets()
        assert second.holds(here.spec) is not None
        second.charge("a", 0, 5.0)
        second.close()
        assert sum(float(str(cents)) for _, cents in await here.rows()) == 125.0
        third = await here.budgets()
        here.now += DAY_S
        assert third.holds(here.spec) is None
        third.close()


@on_loop
async def test_what_counts_no_more_is_forgotten(tmp_path: Path) -> None:
    async with agent_with_budget(tmp_path) as here:
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
    async with agent_with_budget(tmp_path) as here:
        budgets = await here.budgets()
        budgets.charge("a", 0, 100.0)
        budgets.look_again()
        assert (here.freed, budgets.holds(here.spec) is None) == ([], False)
        here.spec = Spec(name="a", kind="agent", source="test", tasks=Tasks())
        budgets.look_again()
        assert (here.freed, budgets.holds(here.spec)) == (["a"], None)
        budgets.close()


# -- the amounts of a window


MINUTE = Spending(60.0, 1.0)


def test_what_is_used_counts_until_it_has_left_the_window() -> None:
    spending = MINUTE.plus(60, 0.0).plus(60, 30.0)
    assert [spending.used(now) for now in (30.0, 60.9, 61.0, 91.0)] == [120, 120, 60, 0]


def test_the_wait_for_room_ends_when_there_is_room_and_not_before() -> None:
    spending = MINUTE.plus(60, 0.0).plus(30, 10.0).plus(40, 20.0)
    wait_s = spending.wait_s(100, 25.0)
    assert wait_s == pytest.approx(36.0)
    assert spending.used(25.0 + wait_s - 0.001) >= 100
    assert spending.used(25.0 + wait_s + 0.001) < 100
    assert spending.wait_s(1000, 25.0) == 0.0


def test_what_is_kept_of_spending_is_bounded() -> None:
    spending = MINUTE
    for number in range(10_000):
        spending = spending.plus(1, number / 10)
    assert len(spending.entries) <= 63
    assert spending.used(999.9) == pytest.approx(610, abs=20)


def test_a_clock_that_goes_back_loses_nothing() -> None:
    spending = MINUTE.plus(60, 1000.0).plus(60, 100.0)
    assert spending.used(100.0) == 120
    assert spending.used(1030.0) == 120


def test_a_day_of_costs_is_kept_in_few_entries() -> None:
    spending = NO_COST
    for number in range(24 * 60 * 2):
        spending = spending.plus(0.5, number * 60.0)
    assert len(spending.entries) <= 290
    assert spending.used(24 * 60 * 2 * 60.0) == pytest.approx(0.5 * 24 * 60, rel=0.01)


class Elsewhere(cluster.Elsewhere):
    """Other nodes of a cluster, which have used 60 cents and 30 tokens a while ago."""

    def __init__(self, now: float) -> None:
        self.used_at = now
        self.told: list[str] = []

    def tokens(self, agent: str) -> Spending:
        return NO_TOKENS.plus(30 if agent == "a" else 0, self.used_at)

    def cents(self, agent: str) -> Spending:
        return NO_COST.plus(60 if agent == "a" else 0, self.used_at)

    def changed(self, agent: str) -> None:
        self.told.append(agent)


@on_loop
async def test_what_other_nodes_have_used_counts_until_it_is_past(tmp_path: Path) -> None:
    async with agent_with_budget(tmp_path) as scene:
        budgets = await scene.budgets()
        elsewhere = Elsewhere(scene.now)
        scene.cluster.join(scene.cluster.runner, elsewhere, scene.cluster.schedules, scene.cluster.steps)
        assert budgets.used("a") == (30, 60)
        budgets.charge("a", 5, 39)
        assert elsewhere.told == ["a"]
        assert budgets.holds(scene.spec) is None
        budgets.charge("a", 0, 1)
        held = budgets.holds(scene.spec)
        assert held is not None
        assert "100 of max_cost_cents_per_day = 100" in held
        assert budgets.spent("a")[1].used(scene.now) == 40, "its own alone"
        exceeded = budgets.exceeded(scene.spec)
        assert exceeded is not None
        assert 0 < exceeded[2] <= DAY_S + NO_COST.step_s
        scene.now += 100
        assert budgets.used("a") == (5, 100)
        elsewhere.used_at -= DAY_S + NO_COST.step_s
        assert budgets.holds(scene.spec) is None
        budgets.close()
