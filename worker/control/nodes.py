"""Defines the params and results of the methods `node.*`, and places in streams of all nodes."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

NodeName = Annotated[str, Meta(min_length=1, max_length=48)]


NODES_MAX = 10_000
"""Number of nodes in one place of a stream."""

NodePlaces = Annotated[str, Meta(pattern="^[^:,]+:[^:,]+(,[^:,]+:[^:,]+)*$", max_length=1_000_000)]
"""A place in a stream of all nodes: NODE:PLACE,NODE:PLACE…, where PLACE is what the node alone calls it."""


def places_of(text: str) -> dict[str, str]:
    """Returns the place of each node.

    Raises:
        ValueError: the text is no place of nodes.
    """
    pairs = [each.partition(":") for each in text.split(",", NODES_MAX)]
    if any(not node or not place or ":" in place or "," in place for node, _, place in pairs):
        raise ValueError("not a place of nodes")
    return {node: place for node, _, place in pairs}


def places_text(places: Mapping[str, str]) -> str:
    """Returns the places of nodes as one text."""
    return ",".join(f"{node}:{place}" for node, place in sorted(places.items()))


class NodeParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a node of the cluster."""

    name: NodeName


class Node(Struct, frozen=True, kw_only=True):
    """Represents a node of the cluster that has a lease, or had one when this daemon knew it last.

    `load` is the number of replicas of placed agents that it runs, `capacity` how many it takes. `here` is true for the
    node that answers. One that is `draining` gives its replicas away, and gets none; a `cordoned` one gets none.
    Without the engine the node that answers is `away`, and others are `unknown`.
    """

    name: str
    state: Literal["ready", "cordoned", "draining", "away", "unknown"]
    version: str
    labels: dict[str, str] = {}
    capacity: int
    load: int
    here: bool = False


class Nodes(Struct, frozen=True, kw_only=True):
    """Lists the nodes of the cluster, by name."""

    nodes: list[Node]
