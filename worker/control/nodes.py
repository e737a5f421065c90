"""Defines the params and results of the methods `node.*`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

NodeName = Annotated[str, Meta(min_length=1, max_length=48)]


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
