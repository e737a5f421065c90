"""Represents the record of a node: the value of its lease, which every beat renews."""

from typing import Literal

import msgspec
from msgspec import Struct

NODES = "nodes"
"""The prefix of the keys of all nodes."""


class NodeRecord(Struct, frozen=True, kw_only=True):
    """Represents a node as it describes itself. `incarnation` differs for every start of a daemon; `load` counts replicas.

    `address` is where its daemon is, in words, and `since` when that began, in UTC; both are "" for an older version.
    `refuses` names the agents that it was to run, and of which its version cannot read the table.
    """

    name: str
    incarnation: str
    version: str = ""
    address: str = ""
    since: str = ""
    labels: dict[str, str] = {}
    capacity: int = 1
    load: int = 0
    state: Literal["ready", "cordoned", "draining"] = "ready"
    refuses: list[str] = []


def key_of(name: str) -> str:
    """Returns the key of a node's lease."""
    return f"{NODES}/{name}"


def name_of(key: str) -> str:
    """Returns the name of the node that has a key."""
    return key.removeprefix(f"{NODES}/")


def encoded(record: NodeRecord) -> bytes:
    """Returns the record as JSON."""
    return msgspec.json.encode(record)


def decoded(value: bytes) -> NodeRecord | None:
    """Returns the record; None where a newer version wrote what this one cannot read."""
    try:
        return msgspec.json.decode(value, type=NodeRecord)
    except msgspec.MsgspecError:
        return None
