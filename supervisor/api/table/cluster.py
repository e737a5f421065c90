"""Defines what the method table asks of the cluster that the daemon has joined, and stands for it where it has joined none."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

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


class Cluster:
    """Represents the cluster that the daemon has joined, and here that it has joined none: each call is answered by itself."""

    name = ""
    """The name of this node; "" where there is no cluster."""

    @property
    def degraded(self) -> Sequence[str]:
        """Returns ["cluster"] where this node has no lease that it can rely on."""
        return ()

    @property
    def problem(self) -> str:
        """Returns why it has none, "" where it has one, or needs none."""
        return ""

    async def found(self) -> FoundEngine:
        """Returns the engine as it is now; one without a name where there is none."""
        return FoundEngine("")

    async def nodes(self) -> list[Node]:
        """Returns the nodes that have a lease, by name."""
        raise _none()

    def routed(
        self, method: str, streams: bool, reads: bool, params: Mapping[str, object], caller: Caller, here: Here
    ) -> Awaitable[object]:
        """Returns the answer of the node that the params name, or has what they are about, or of all; `here` answers on this one."""
        return here(params)

    def placed_call(self, method: str, asked: Struct, caller: Caller) -> Awaitable[object] | None:
        """Returns the answer to a call about a task of a placed agent; None for other calls, as the answer where it is none."""
        return None

    async def drain(self, node: str, by: str) -> Node:
        """Requests that a node gives its replicas away; raises NotFound."""
        raise _none()

    async def resume(self, node: str) -> Node:
        """Lets a node get replicas again; raises NotFound."""
        raise _none()


class JoinedCluster:
    """Holds the cluster that the daemon has joined."""

    def __init__(self) -> None:
        self.cluster = Cluster()

    def join(self, cluster: Cluster) -> None:
        """Joins a cluster."""
        self.cluster = cluster


def _none() -> NotFound:
    words = "cannot find a cluster: the daemon has joined none; write [cluster] in its configuration"
    return NotFound(words, key="cluster")
