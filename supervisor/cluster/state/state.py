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


class PlacedSpec(Struct, frozen=True, kw_only=True):
    """Represents a placed agent: its whole table, the folder of its relative paths, and the node that published it.

    `base` is the table as that node's file has it, where `table` was changed since on request. One that `is_added` was added
    on request, and is in no file.
    """

    table: dict[str, object]
    directory: str
    by: str = ""
    is_added: bool = False
    base: dict[str, object] | None = None

    @property
    def of_file(self) -> dict[str, object]:
        """Returns the table as the file of the node has it."""
        return self.table if self.base is None else self.base


class Assignment(Struct, frozen=True, kw_only=True):
    """Represents where one replica is: on `node`, which has claimed it under `lease`, 0 before.

    With `to` the node has to end it, with `gently` when no task runs there, and to pass it on to that node, "" for none. `node` "" is a replica that waits for a
    place. The revision of a claim is the fencing token of the replica.
    """

    node: str
    lease: int = 0
    to: str | None = None
    gently: bool = False


ReplicaName = tuple[str, int]
"""The agent and the number of a replica."""


class CancelledTask(Struct, frozen=True, kw_only=True):
    """Represents a task that was cancelled while it waited in its queue, by a node: it is still there, and is not to be run."""

    by: str


def cancelled_key(task_id: str) -> str:
    """Returns the key of the mark of a cancelled task."""
    return f"{STATE}/cancelled/{task_id}"


class Spent(Struct, frozen=True, kw_only=True):
    """Represents what one node has used of the budgets of an agent: times by its wall clock, and amounts, the oldest first."""

    tokens: tuple[tuple[float, float], ...] = ()
    cents: tuple[tuple[float, float], ...] = ()


def spent_key(agent: str, node: str) -> str:
    """Returns the key of what a node has used of the budgets of an agent."""
    return f"{STATE}/spent/{agent}/{node}"


def drained_key(node: str) -> str:
    """Returns the key of the wish to drain a node."""
    return f"{STATE}/drained/{node}"


def spec_key(agent: str) -> str:
    """Returns the key of a placed agent."""
    return f"{STATE}/specs/{agent}"


def schedule_key(name: str) -> str:
    """Returns the key of a schedule that all nodes have."""
    return f"{STATE}/schedules/{name}"


def assignment_key(replica: ReplicaName) -> str:
    """Returns the key of the assignment of a replica."""
    return f"{STATE}/placed/{replica[0]}/{replica[1]}"


def kind_and_name(key: str) -> tuple[str, str]:
    """Returns the kind of a key below `state`, and the rest of it."""
    _, kind, name = key.split("/", 2)
    return kind, name


def replica_of(name: str) -> ReplicaName | None:
    """Returns the replica of the rest of a key; None where it is none."""
    agent, _, number = name.rpartition("/")
    return (agent, int(number)) if agent and number.isdecimal() else None


def encoded(value: Struct) -> bytes:
    """Returns a value as JSON."""
    return msgspec.json.encode(value)


def decoded(value: bytes, kind: type[_S]) -> _S | None:
    """Returns the value; None where it cannot be read."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        return None
