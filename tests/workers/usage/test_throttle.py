"""Trees of simulated processes under the throttle: what share they get, and how long they stand still."""

import random

import pytest

from corral.supervisor.workers.usage.limits import (
    BURST_S,
    FREEZE_MAX_S,
    IDLE_LOOK_S,
    PERIOD_S,
    SLICE_S,
    Throttle,
    begin,
    step,
)

pytestmark = pytest.mark.core

SHARE = 0.15
"""How far from its limit a busy tree's share may be over SECONDS."""

SECONDS = 5.0


class Tree:
    """A tree that would keep `cores` processors busy, looked at up to `late_s` later than it should be."""

    def __init__(self, limit_percent: int, cores: float, late_s: float = 0.002) -> None:
        self.random = random.Random(f"{limit_percent} {cores} {late_s}")
        self.cores = cores
        self.late_s = late_s
        self.now = 1000.0
        self.used_s = 0.0
        self.account = begin(limit_percent, 0.0, self.now)
        self.wait_s = 0.0
        self.freezes: list[float] = []

    def look(self) -> None:
        passed_s = self.wait_s + self.random.random() * self.late_s
        was_frozen = self.account.is_frozen
        self.now += passed_s
        if was_frozen:
            self.freezes[-1] += passed_s
        else:
            self.used_s += passed_s * self.cores
        self.account, self.wait_s = step(self.account, self.used_s, self.now)
        if self.account.is_frozen and not was_frozen:
            self.freezes.append(0.0)

    def run(self, seconds: float) -> float:
        """The share of one processor that it had, in per cent."""
        began, before = self.now, self.used_s
        while self.now < began + seconds:
            self.look()
        return 100 * (self.used_s - before) / (self.now - began)


@pytest.mark.parametrize("cores", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("limit", [2, 3, 5, 10, 20, 50, 80, 95, 120, 150, 190])
def test_a_busy_tree_has_the_share_of_its_limit(limit: int, cores: float) -> None:
    tree = Tree(limit, cores)
    tree.run(1.0)
    share = tree.run(SECONDS)
    assert share == pytest.approx(min(limit, 100 * cores), rel=SHARE)


@pytest.mark.parametrize("limit", [5, 20, 50, 80])
def test_looks_that_come_late_cost_no_share(limit: int) -> None:
    tree = Tree(limit, 1.0, late_s=0.03)
    tree.run(1.0)
    assert tree.run(20.0) == pytest.approx(limit, rel=SHARE)


@pytest.mark.parametrize("limit", [50, 80, 100, 200])
def test_a_tree_that_uses_less_than_it_may_is_never_frozen(limit: int) -> None:
    tree = Tree(limit, limit / 100 * 0.95)
    tree.run(20.0)
    assert tree.freezes == []


def test_a_tree_that_uses_nothing_is_seldom_looked_at() -> None:
    account = begin(50, 0.0, 0.0)
    for number in range(1, 10):
        account, wait_s = step(account, 0.0, number * IDLE_LOOK_S)
        assert wait_s == IDLE_LOOK_S
        assert not account.is_frozen


@pytest.mark.parametrize("limit", [1, 2, 5, 50, 99])
def test_no_freeze_is_longer_than_it_may_be(limit: int) -> None:
    tree = Tree(limit, 8.0)
    tree.run(30.0)
    assert max(tree.freezes) <= FREEZE_MAX_S + tree.late_s


def test_a_tree_that_was_idle_may_use_what_it_saved_up_and_no_more() -> None:
    tree = Tree(50, 0.0)
    tree.run(60.0)
    tree.cores = 1.0
    before = tree.used_s
    while not tree.account.is_frozen:
        tree.look()
    assert tree.used_s - before <= 2 * 0.5 * BURST_S + IDLE_LOOK_S + SLICE_S


def test_what_was_found_too_late_is_paid_by_the_freeze() -> None:
    account = begin(50, 0.0, 0.0)
    account, wait_s = step(account, 0.5, 0.25)  # two processors, looked at after 0.25 s
    assert account.is_frozen
    until = 0.25 + wait_s
    account, _ = step(account, 0.5, until)
    assert not account.is_frozen
    assert 0.5 / until == pytest.approx(0.5, rel=0.5)
    assert account.balance_s == pytest.approx(0.5 * PERIOD_S)


def test_time_that_was_frozen_is_counted() -> None:
    tree = Tree(10, 1.0)
    tree.run(10.0)
    total_s = sum(tree.freezes)
    assert tree.account.frozen_s == pytest.approx(total_s)
    assert 8.0 < total_s < 10.0


def test_figures_that_go_backwards_change_nothing() -> None:
    account, _ = step(begin(50, 3.0, 10.0), 3.1, 10.5)
    after, wait_s = step(account, 2.0, 10.4)
    assert (after.used_s, after.balance_s) == (account.used_s, account.balance_s)
    assert wait_s > 0.0


def test_a_wait_is_never_nothing() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    lots = random.Random(seed)
    for _ in range(50):
        account: Throttle = begin(lots.choice([1, 7, 50, 100, 350, 1_000_000]), 0.0, 0.0)
        now = used_s = 0.0
        for _ in range(500):
            passed_s = lots.choice([0.0, 1e-9, 0.001, 0.1, 3.0, 1e6])
            now += passed_s
            used_s += passed_s * lots.choice([0.0, 0.5, 1.0, 64.0])
            before = account
            account, wait_s = step(account, used_s, now)
            assert 0.0 < wait_s <= FREEZE_MAX_S + 1e-6  # the clock's own rounding
            assert account.frozen_s >= before.frozen_s
