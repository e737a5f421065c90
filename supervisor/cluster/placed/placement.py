"""Decides which node runs which replica of an agent: the least load per capacity among the nodes that qualify.

A replica that has a place keeps it while its node is there and still has the labels: nothing moves to even out load. With
spread = "node" one moves to a node that has two less of the agent, when it has no task. All nodes decide alike from the same facts, since ties fall by a hash of agent and node. Load is a count of replicas.
"""

from collections.abc import Iterable, Mapping
from typing import Literal
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.declared.cluster import Placement as Placement


class Node(Struct, frozen=True):
    """Represents a node as all see it. `load` is the number of replicas that are assigned to it, `refuses` the agents that it cannot run."""

    name: str
    capacity: int
    load: int = 0
    labels: dict[str, str] = {}
    state: Literal["ready", "cordoned", "draining", "gone"] = "ready"
    refuses: frozenset[str] = frozenset()


class Refusal(Struct, frozen=True):
    """Explains why a replica has no node: how many nodes there are, and how many fail for each reason."""

    agent: str
    nodes: int
    reasons: dict[str, int]

    @property
    def reason(self) -> str:
        """Returns the reason as one line."""
        if not self.nodes:
            return "there are no nodes"
        parts = ", ".join(f"{count} {words}" for words, count in sorted(self.reasons.items()))
        return f"none of {self.nodes} nodes qualifies: {parts}"


Assignments = Mapping[int, str]
"""The node of each replica of one agent, by the replica's number."""


def why_not(agent: str, node: Node, placement: Placement) -> str:
    """Returns why a node gets no new replica of an agent, "" where it may."""
    if node.state != "ready":
        return node.state
    if agent in node.refuses:
        return "of a version that cannot read its table"
    if any(node.labels.get(key) != value for key, value in placement.labels.items()):
        return "without the labels"
    return "full" if node.load >= node.capacity else ""


def choose(agent: str, placement: Placement, nodes: Iterable[Node], held: Mapping[str, int]) -> Node | Refusal:
    """Returns the node of one more replica; `held` is how many replicas of this agent each node has.

    With spread = "node" a node with fewer replicas of this agent comes first, whatever its load.
    """
    best: Node | None = None
    best_rank: tuple[int, float, int, str] | None = None
    count = 0
    reasons: dict[str, int] = {}
    for node in nodes:
        count += 1
        if reason := why_not(agent, node, placement):
            reasons[reason] = reasons.get(reason, 0) + 1
            continue
        near = held.get(node.name, 0) if placement.spread == "node" else 0
        tie = crc32(f"{agent}\0{node.name}".encode())
        rank = (near, (node.load + 1) / node.capacity, tie, node.name)
        if best_rank is None or rank < best_rank:
            best, best_rank = node, rank
    return Refusal(agent, count, reasons) if best is None else best


def must_leave(agent: str, node: Node | None, placement: Placement) -> bool:
    """Returns whether a replica of an agent cannot stay on its node; a cordoned node keeps what it has."""
    if node is None or node.state in ("gone", "draining") or agent in node.refuses:
        return True
    return any(node.labels.get(key) != value for key, value in placement.labels.items())


class Change(Struct, frozen=True):
    """Represents one assignment to write: replica `number` of `agent` is on `node`; `before` is where it was, "" nowhere.

    `node` "" takes the replica away. With `gently` it moves when no task runs there.
    """

    agent: str
    number: int
    node: str
    before: str = ""
    gently: bool = False


def decide(
    agent: str, placement: Placement, nodes: Mapping[str, Node], assigned: Assignments
) -> tuple[list[Change], Refusal | None, dict[str, Node]]:
    """Returns the changes for one agent, why not all replicas have a node, and the nodes with their new loads.

    A replica on a node that drains, or cannot run it, moves only if another node takes it.
    """
    after = dict(nodes)
    changes: list[Change] = []
    kept: dict[int, str] = {}
    for number, name in assigned.items():
        if number >= placement.replicas:
            changes.append(Change(agent, number, "", name))
            _add(after, name, -1)
        elif not must_leave(agent, nodes.get(name), placement):
            kept[number] = name
    held: dict[str, int] = {}
    for name in kept.values():
        held[name] = held.get(name, 0) + 1
    refusal: Refusal | None = None
    for number in range(placement.replicas):
        if number in kept:
            continue
        found = choose(agent, placement, after.values(), held)
        if isinstance(found, Refusal):
            refusal = found
            break  # the others need the same
        before = assigned.get(number, "")
        changes.append(Change(agent, number, found.name, before))
        _add(after, before, -1)
        _add(after, found.name, 1)
        held[found.name] = held.get(found.name, 0) + 1
    if refusal is None and placement.spread == "node":
        changes += _mended(agent, placement, after, kept, held)
    return changes, refusal, after


def _mended(
    agent: str, placement: Placement, nodes: dict[str, Node], kept: dict[int, str], held: dict[str, int]
) -> list[Change]:
    """Returns the moves that spread the replicas of an agent evenly; `held` is how many each node has, those without a move included."""
    changes: list[Change] = []
    for number, name in sorted(kept.items(), reverse=True):
        if nodes[name].state != "ready":
            continue  # it may be gone in a moment
        found = choose(agent, placement, nodes.values(), held)
        if isinstance(found, Node) and held[name] - held.get(found.name, 0) > 1:
            changes.append(Change(agent, number, found.name, name, gently=True))
            _add(nodes, name, -1)
            _add(nodes, found.name, 1)
            held[name] -= 1
            held[found.name] = held.get(found.name, 0) + 1
    return changes


def _add(nodes: dict[str, Node], name: str, count: int) -> None:
    if name in nodes:
        nodes[name] = replace(nodes[name], load=max(0, nodes[name].load + count))
