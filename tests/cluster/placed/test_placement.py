"""Placement as a pure function: rules one by one, and random clusters from printed seeds."""

import random

import pytest
from msgspec.structs import replace

from corral.supervisor.cluster.placed.placement import (
    Change,
    Node,
    Placement,
    Refusal,
    choose,
    decide,
    must_leave,
    why_not,
)
from seeds import seeds

pytestmark = pytest.mark.core


def nodes(*found: Node) -> dict[str, Node]:
    return {node.name: node for node in found}


def test_the_least_load_per_capacity_is_chosen() -> None:
    big, small = Node("big", capacity=100, load=30), Node("small", capacity=10, load=4)
    assert choose("a", Placement(), [small, big], {}) == big


def test_a_full_cordoned_draining_or_gone_node_gets_nothing_and_the_reason_counts_them() -> None:
    found = choose(
        "a",
        Placement(labels={"zone": "a"}),
        [
            Node("one", 1, 1, {"zone": "a"}),
            Node("two", 1, 0, {"zone": "a"}, "cordoned"),
            Node("three", 1, 0, {"zone": "b"}),
            Node("four", 1, 0, {"zone": "a"}, "gone"),
        ],
        {},
    )
    assert isinstance(found, Refusal)
    assert found.nodes == 4
    assert found.reasons == {"full": 1, "cordoned": 1, "without the labels": 1, "gone": 1}


def test_no_nodes_are_a_reason_of_their_own() -> None:
    assert decide("a", Placement(), {}, {})[1] == Refusal("a", 0, {})


def test_replicas_are_spread_over_nodes_before_load_counts() -> None:
    both = nodes(Node("idle", 100), Node("busy", 100, 90))
    changes, refusal, _ = decide("a", Placement(spread="node", replicas=2), both, {})
    assert refusal is None
    assert {change.node for change in changes} == {"idle", "busy"}
    packed, _, _ = decide("a", Placement(replicas=2), both, {})
    assert {change.node for change in packed} == {"idle"}


def test_a_draining_node_keeps_a_replica_that_no_other_node_takes() -> None:
    both = nodes(Node("old", 1, 1, state="draining"), Node("full", 1, 1))
    changes, refusal, _ = decide("a", Placement(), both, {0: "old"})
    assert changes == []
    assert refusal is not None


def test_a_cordoned_node_keeps_what_it_has() -> None:
    changes, refusal, _ = decide("a", Placement(), nodes(Node("one", 1, 1, state="cordoned")), {0: "one"})
    assert (changes, refusal) == ([], None)


def test_a_node_that_cannot_run_an_agent_gives_it_to_one_that_can_and_else_keeps_it() -> None:
    old = Node("old", 9, 1, refuses=frozenset(["a"]))
    changes, refusal, _ = decide("a", Placement(), nodes(old, Node("new", 1, 0)), {0: "old"})
    assert (changes, refusal) == ([Change("a", 0, "new", "old")], None)
    changes, refusal, _ = decide("a", Placement(), nodes(old), {0: "old"})
    assert changes == []
    assert refusal is not None
    assert list(refusal.reasons) == ["of a version that cannot read its table"]
    assert decide("b", Placement(), nodes(old), {0: "old"})[:2] == ([], None)


def test_fewer_replicas_take_the_last_numbers_away() -> None:
    changes, _, after = decide("a", Placement(replicas=1), nodes(Node("one", 9, 3)), {0: "one", 1: "one", 2: "one"})
    assert changes == [Change("a", 1, "", "one"), Change("a", 2, "", "one")]
    assert after["one"].load == 1


@pytest.mark.parametrize("seed", seeds(200))
def test_whatever_the_cluster_is_like_the_decision_is_sound_and_stable(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    states = ["ready"] * 6 + ["cordoned", "draining", "gone"]
    found = {
        f"n{i}": Node(
            f"n{i}",
            rng.randint(1, 20),
            0,
            {"zone": rng.choice("ab")},
            rng.choice(states),  # type: ignore[arg-type]  # a word of the Literal
            frozenset(["agent"] if rng.random() < 0.15 else ["other"]),
        )
        for i in range(rng.randint(0, 12))
    }
    placement = Placement(
        labels=rng.choice([{}, {"zone": "a"}]), spread=rng.choice(["none", "node"]), replicas=rng.randint(1, 12)
    )
    assigned = {i: f"n{rng.randint(0, 14)}" for i in range(rng.randint(0, 14))}
    for name in assigned.values():
        if name in found:
            node = found[name]
            found[name] = replace(node, load=node.load + 1)
    changes, refusal, after = decide("agent", placement, found, assigned)
    now = dict(assigned)
    for change in changes:
        assert now.get(change.number, "") == change.before
        if change.node:
            to = found[change.node]
            assert not why_not("agent", to, placement) or to.load > 0
            assert to.state == "ready"
            assert "agent" not in to.refuses
            assert placement.labels.items() <= found[change.node].labels.items()
            now[change.number] = change.node
        else:
            del now[change.number]
    for name, node in after.items():
        count = sum(1 for value in now.values() if value == name)
        assert node.load == count
        assert count <= max(node.capacity, found[name].load)
    if refusal is None:
        assert sorted(now) == list(range(placement.replicas))
        assert not any(must_leave("agent", found.get(name), placement) for name in now.values())
    again, refusal_again, _ = decide("agent", placement, after, now)
    assert again == []
    assert (refusal_again is None) == (refusal is None)
    if placement.spread == "node" and not assigned and refusal is None:
        eligible = [n for n in found.values() if n.state == "ready"]
        if all(n.capacity >= placement.replicas for n in eligible):
            counts = [sum(1 for v in now.values() if v == n.name) for n in eligible]
            same = [c for c, n in zip(counts, eligible, strict=True) if placement.labels.items() <= n.labels.items()]
            assert max(same) - min(same) <= 1


def test_a_spread_agent_is_mended_gently_and_then_stays() -> None:
    spread = Placement(replicas=4, spread="node")
    nodes = {"a": Node("a", 10, 4), "b": Node("b", 10), "c": Node("c", 10)}
    changes, refusal, after = decide("x", spread, nodes, dict.fromkeys(range(4), "a"))
    assert refusal is None
    assert sorted(each.node for each in changes) == ["b", "c"]
    assert {(each.number, each.before, each.gently) for each in changes} == {(3, "a", True), (2, "a", True)}
    assert [after[each].load for each in "abc"] == [2, 1, 1]
    moved = {0: "a", 1: "a"} | {each.number: each.node for each in changes}
    assert decide("x", spread, after, moved)[0] == []  # no further one
    assert decide("x", Placement(replicas=4), nodes, dict.fromkeys(range(4), "a"))[0] == []
    full = {**nodes, "b": Node("b", 1, 1), "c": Node("c", 10, state="draining")}
    assert decide("x", spread, full, dict.fromkeys(range(4), "a"))[0] == []
    doubtful = {**nodes, "a": Node("a", 10, 4, state="cordoned")}
    assert decide("x", spread, doubtful, dict.fromkeys(range(4), "a"))[0] == []
