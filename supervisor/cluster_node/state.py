"""Represents what the engine keeps about a cluster beside the leases: keys below `state`, and their values as JSON.

Pure. A value that a newer version wrote, and that cannot be read here, counts as absent.
"""

from typing import TypeVar

import msgspec
from msgspec import Struct

STATE = "state"
"""The prefix of all keys here."""

_S = TypeVar("_S", bound=Struct)


class Drained(Struct, frozen=True, kw_only=True):
    """Represents the wish that a node gets no replicas, and gives away those that it has. `by` asked for it, `at` in UTC."""

    by: str
    at: str


def drained_key(node: str) -> str:
    """Returns the key of the wish to drain a node."""
    return f"{STATE}/drained/{node}"


def kind_and_name(key: str) -> tuple[str, str]:
    """Returns the kind of a key below `state`, and the rest of it."""
    _, kind, name = key.split("/", 2)
    return kind, name


def encoded(value: Struct) -> bytes:
    """Returns a value as JSON."""
    return msgspec.json.encode(value)


def decoded(value: bytes, kind: type[_S]) -> _S | None:
    """Returns the value; None where it cannot be read."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        return None
