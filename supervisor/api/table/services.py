"""Defines what the method table asks of rooms above it: services over HTTP, listening sockets, commands beside workers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.workers.exec.request import ExecRequest, Reader
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.records import ListenStatus, ServiceStatus
from corral.worker.control.nodes import Node

from .caller import Caller


class Activation(Protocol):
    """Listens for agents, and starts them by connections."""

    @property
    def degraded(self) -> list[str]:
        """Returns the names of agents that lack an address."""
        ...

    def status(self, agent: Agent) -> list[ListenStatus]:
        """Returns the addresses of an agent, in the order of its spec."""
        ...


class Services(Protocol):
    """Serves single agents, teams and workflows over HTTP."""

    @property
    def degraded(self) -> list[str]:
        """Returns the names of those that cannot listen at their address."""
        ...

    @property
    def token_file(self) -> str:
        """Returns the path of the file with the token of the daemon's user."""
        ...

    def status(self, name: str) -> ServiceStatus | None:
        """Returns the service of an agent, team or workflow; None where it has none."""
        ...

    async def expose(self, name: str, address: str | None, auth: Literal["token", "none"]) -> ServiceStatus | None:
        """Serves an agent, team or workflow at an address from now on; with None not at all."""
        ...


class FoundEngine(NamedTuple):
    """Describes the engine of a cluster: its name, why it cannot be used, "" where it can, and what it cannot promise."""

    name: str
    problem: str = ""
    weaknesses: Sequence[str] = ()


class Cluster(Protocol):
    """Represents the cluster that the daemon has joined."""

    @property
    def name(self) -> str:
        """Returns the name of this node."""
        ...

    @property
    def degraded(self) -> list[str]:
        """Returns ["cluster"] where this node has no lease that it can rely on."""
        ...

    async def found(self) -> FoundEngine:
        """Returns the engine as it is now."""
        ...

    async def nodes(self) -> list[Node]:
        """Returns the nodes that have a lease, by name."""
        ...

    async def routed(
        self,
        method: str,
        streams: bool,
        reads: bool,
        params: Mapping[str, object],
        caller: Caller,
        here: Callable[[Mapping[str, object]], Awaitable[object]],
    ) -> object:
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


class RunningCommand(Protocol):
    """Represents a command that an operator runs beside a worker."""

    unit: str
    worker: str
    pid: int | None

    @property
    def outcome(self) -> str:
        """Returns how it ended, in a few words."""
        ...

    @property
    def record(self) -> dict[str, object]:
        """Returns its end, as the last notification tells it."""
        ...

    async def run(self, reader: Reader) -> None:
        """Sends its output to the reader until it has ended; a cancelled one is killed."""
        ...

    async def write(self, data: bytes, *, end: bool) -> None:
        """Writes to its stdin, and returns once it is taken."""
        ...

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of its terminal."""
        ...

    def signal(self, signum: int) -> None:
        """Signals it."""
        ...

    def end(self, reason: str) -> None:
        """Kills it with all of its processes, for a reason that its end names."""
        ...


class Execs(Protocol):
    """Runs commands of operators beside workers; `interactive` has them."""

    async def start(self, supervisor: WorkerSupervisor, wanted: ExecRequest, owner: object) -> RunningCommand:
        """Starts a command beside a worker; `owner` alone may write to it."""
        ...

    def of(self, unit: str, owner: object) -> RunningCommand:
        """Returns a running command of an owner; raises NotFound."""
        ...

    def forget(self, unit: str) -> None:
        """Forgets a command that has ended."""
        ...

    def leaders(self) -> dict[int, str]:
        """Returns the pids of all running commands with the names of their agents."""
        ...
