"""Defines what the method table asks of the services over HTTP, and of listening sockets; `services` and `activation` have them."""

from typing import Literal, Protocol

from ...worker.contract.records import ListenStatus, ServiceStatus
from ..agents.agent import Agent


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

    async def expose(
        self, name: str, address: str | None, auth: Literal["token", "none"]
    ) -> ServiceStatus | None:
        """Serves an agent, team or workflow at an address from now on; with None not at all."""
        ...
