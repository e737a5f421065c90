"""Defines what the method table asks of the cluster that the daemon has joined, and stands for it where it has joined none."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from corral.worker.contract.errors import NotFound
from corral.worker.control.nodes import Node

from .handlers import Caller

Here = Callable[[Mapping[str, object]], Awaitable[object]]
"""Answers a call with these params on this node."""


class FoundEngine(NamedTuple):
    """Describes the engine of a cluster: its name, why it cannot be used, "" where it can, and what it cannot promise."""

    name: str
    problem: str = ""
    weaknesses: Sequence[str] = ()


class Cluster(Protocol):
    """Represents the cluster that the daemon has joined."""

    @property
    def name(self) -> str:
        """Returns the name of this node; "" where there is no cluster."""
        ...

    @property
    def degraded(self) -> Sequence[str]:
        """Returns ["cluster"] where this node has no lease that it can rely on."""
        ...

    @property
    def problem(self) -> str:
        """Returns why it has none, "" where it has one."""
        ...

    async def found(self) -> FoundEngine:
        """Returns the engine as it is now."""
        ...

    async def nodes(self) -> list[Node]:
        """Returns the nodes that have a lease, by name."""
        ...

    def routed(
        self, method: str, streams: bool, reads: bool, params: Mapping[str, object], caller: Caller, here: Here
    ) -> Awaitable[object]:
        """Returns the answer of the node that the params name, or has what they are about, or of all; `here` answers on this one."""
        ...

    def placed_call(self, method: str, asked: Struct, caller: Caller) -> Awaitable[object] | None:
        """Returns the answer to a call about a task of a placed agent; None for other calls, as the answer where it is none."""
        ...

    async def drain(self, node: str, by: str) -> Node:
        """Requests that a node gives its replicas away; raises NotFound."""
        ...

    async def resume(self, node: str) -> Node:
        """Lets a node get replicas again; raises NotFound."""
        ...


class NoCluster:
    """Represents that the daemon has joined no cluster: each call is answered here."""

    name = ""
    degraded: Sequence[str] = ()
    problem = ""

    async def found(self) -> FoundEngine:
        """Returns an engine without a name."""
        return FoundEngine("")

    async def nodes(self) -> list[Node]:
        """Refuses."""
        raise _none()

    def routed(
        self, method: str, streams: bool, reads: bool, params: Mapping[str, object], caller: Caller, here: Here
    ) -> Awaitable[object]:
        """Returns the answer of this daemon."""
        return here(params)

    def placed_call(self, method: str, asked: Struct, caller: Caller) -> Awaitable[object] | None:
        """Returns None: no task is of a placed agent."""
        return None

    async def drain(self, node: str, by: str) -> Node:
        """Refuses."""
        raise _none()

    async def resume(self, node: str) -> Node:
        """Refuses."""
        raise _none()


class JoinedCluster:
    """Holds the cluster that the daemon has joined."""

    def __init__(self) -> None:
        self.cluster: Cluster = NoCluster()

    def join(self, cluster: Cluster) -> None:
        """Joins a cluster."""
        self.cluster = cluster


def _none() -> NotFound:
    words = "cannot find a cluster: the daemon has joined none; write [cluster] in its configuration"
    return NotFound(words, key="cluster")
