"""What gives way where a memory pool is full, as values."""

import random

import pytest

from corral.supervisor.config.declared.pools import DeclaredPool, Overflow
from corral.supervisor.records.memory.pooling import SLACK, Entry, Verdict, decide, victims

pytestmark = pytest.mark.core

POOL = DeclaredPool(name="p", max_bytes=1600)


@pytest.mark.parametrize(
    ("overflow", "used_bytes", "has_history", "verdict"),
    [
        ("evict", 1600, True, Verdict.FITS),
        ("evict", 1601, True, Verdict.EVICT),
        ("evict", 1601, False, Verdict.EVICT),
        ("refuse", 1600, False, Verdict.FITS),
        ("refuse", 1601, True, Verdict.REFUSE),
        ("trim", 1601, True, Verdict.TRIM),
        ("trim", 1601, False, Verdict.REFUSE),
    ],
)
def test_the_answer_to_a_write_is_that_of_its_pool(
    overflow: Overflow, used_bytes: int, has_history: bool, verdict: Verdict
) -> None:
    pool = DeclaredPool(name="p", max_bytes=1600, overflow=overflow)
    assert decide(pool, used_bytes, has_history=has_history) is verdict


def test_the_oldest_go_until_a_sixteenth_is_free_and_those_that_are_spared_stay() -> None:
    entries = [Entry("a", str(n), None, 100) for n in range(17)]
    chosen = victims(POOL, 1700, entries, {("a", "0", None)})
    assert chosen == [entries[1], entries[2]]
    assert POOL.max_bytes - POOL.max_bytes // SLACK >= 1700 - 200


def test_nothing_is_evicted_where_all_of_it_would_not_be_enough() -> None:
    entries = [Entry("a", "s", None, 100), Entry("a", "s", "k", 50)]
    nothing = set[tuple[str, str, str | None]]()
    assert victims(POOL, 1751, entries, nothing) is None
    assert victims(POOL, 1751, entries, {("a", "s", "k")}) is None
    assert victims(POOL, 1750, entries, nothing) == entries


def test_any_pool_fits_after_an_eviction_and_no_younger_entry_goes_before_an_older_one() -> None:
    chance = random.Random(19)
    keys: list[str | None] = [None, "k"]
    for _ in range(2000):
        entries = [
            Entry(chance.choice("ab"), str(n), chance.choice(keys), chance.randrange(0, 300))
            for n in range(chance.randrange(20))
        ]
        spared = {each.name for each in entries if chance.random() < 0.2}
        used = sum(each.size_bytes for each in entries) + chance.randrange(2000)
        chosen = victims(POOL, used, entries, spared)
        movable = [each for each in entries if each.name not in spared and each.size_bytes]
        if chosen is None:
            assert used - sum(each.size_bytes for each in movable) > POOL.max_bytes
        else:
            assert used - sum(each.size_bytes for each in chosen) <= POOL.max_bytes
            assert chosen == movable[: len(chosen)]
