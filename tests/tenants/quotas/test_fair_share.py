"""The sharing of a queue, of turns and of a rate, decided without a daemon."""

import random
from collections import Counter

import pytest

from corral.supervisor.tenants.quotas.fair_share import Turns, has_room, shares

pytestmark = pytest.mark.core

SEED = random.randrange(2**32)


@pytest.mark.parametrize("parties", [1, 2, 5])
def test_floods_leave_places_for_a_party_that_has_none(parties: int) -> None:
    held = [0] * parties
    while any(has_room(1000, sum(held), own) for own in held):
        for party, own in enumerate(held):
            held[party] += has_room(1000, sum(held), own)
    assert max(held) - min(held) <= 1
    assert 1000 - sum(held) == pytest.approx(1000 / (4 * parties + 1), abs=parties + 1)
    assert has_room(1000, sum(held), 0)


def test_a_full_queue_has_room_for_nobody() -> None:
    assert not has_room(10, 10, 0)
    assert has_room(10, 9, 0)


def test_turns_give_each_party_the_same_cost_whatever_it_queues() -> None:
    choose = random.Random(SEED)
    for _ in range(300):
        turns = Turns[str, int](choose.uniform(0.5, 4.0))
        biggest = 3.0
        queued, given = Counter[str](), Counter[str]()
        for number in range(choose.randrange(1, 120)):
            party = choose.choice("aaaaab")
            cost = choose.uniform(0.1, biggest)
            turns.put(party, number, cost)
            queued[party] += 1
            given[f"{party}{number}"] = 0
        seen: dict[str, list[int]] = {}
        while found := turns.next():
            seen.setdefault(found[0], []).append(found[1])
            assert turns.waiting(found[0]) == queued[found[0]] - len(seen[found[0]])
        assert {k: len(v) for k, v in seen.items()} == dict(queued), SEED
        assert all(items == sorted(items) for items in seen.values()), SEED
        assert not len(turns)


def test_an_item_waits_for_about_one_of_each_other_party() -> None:
    turns = Turns[str, int]()
    for number in range(10_000):
        turns.put("flood", number)
    turns.next()
    for party in ("x", "y"):
        turns.put(party, 0)
    assert {turns.next() for _ in range(4)} >= {("x", 0), ("y", 0)}


def test_costs_are_shared_within_a_quantum_and_an_item() -> None:
    turns = Turns[str, float](2.0)
    for _ in range(1000):
        turns.put("small", 0.5, 0.5)
        turns.put("big", 5.0, 5.0)
    got = Counter[str]()
    for _ in range(900):
        party, cost = turns.next() or ("", 0.0)
        got[party] += int(cost * 2)
        assert abs(got["small"] - got["big"]) <= 2 * (2.0 + 5.0)


def test_a_dropped_party_has_no_turn_and_others_go_on() -> None:
    turns = Turns[str, int]()
    for number in range(3):
        turns.put("a", number)
        turns.put("b", number)
    assert turns.next() == ("a", 0)
    assert turns.drop("a") == [1, 2]
    assert turns.drop("nobody") == []
    assert [turns.next() for _ in range(4)] == [("b", 0), ("b", 1), ("b", 2), None]
    turns.put("a", 9)
    turns.put("b", 9)
    assert turns.drop("b") == [9]
    assert turns.next() == ("a", 9)


def test_shares_are_max_min_fair() -> None:
    assert shares(100, {"idle": 0, "light": 10, "x": 500, "y": 90}) == {
        "idle": 0, "light": 10, "x": 45, "y": 45,
    }  # fmt: skip
    assert shares(100, {"x": 20, "y": 30}) == {"x": 20, "y": 30}
    assert shares(100, dict[str, float]()) == {}
    choose = random.Random(SEED)
    for _ in range(500):
        wanted = {n: choose.uniform(0, 100) for n in range(choose.randrange(1, 9))}
        total = choose.uniform(1, 300)
        found = shares(total, wanted)
        assert sum(found.values()) == pytest.approx(min(total, sum(wanted.values()))), SEED
        most = max(found.values())
        for n, share in found.items():  # who gets less than another wants no more
            assert share == pytest.approx(wanted[n]) or share == pytest.approx(most), SEED
