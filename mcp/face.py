"""corral as an MCP server, without a transport: what a client of either era asks, answered from an Offering.

It knows no daemon, no pool and no pipe. `Link` is the way back to the client for as long as one request lasts.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from .caller import Caller
from .catalogue import Kind


class Offering(Protocol):
    """What one client is offered: the pool through its access, and corral's own tools."""

    @property
    def instructions(self) -> str:
        """What models are told about the whole."""
        ...

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        """MCP's objects under exposed names, sorted; starts servers that never listed anything."""
        ...

    async def request(
        self, method: str, params: Mapping[str, object], caller: Caller
    ) -> dict[str, object]:
        """The result of tools/call, prompts/get, resources/read or completion/complete.

        `params` are those of MCP, with `_meta` of the caller that is not the protocol's, and with
        `inputResponses` and `requestState` where it has them.

        Raises:
            CorralError: it could not be had.
        """
        ...

    async def subscribe(self, uri: str, on_updated: Callable[[str], None]) -> Callable[[], None]:
        """Has `on_updated` called with the URI whenever the resource changes; returns what ends that.

        Raises:
            CorralError: there is no such resource, or its server does not tell.
        """
        ...

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Has `on_change` called when a list has changed; returns what ends that."""
        ...


class Link(Protocol):
    """The way back to the client while one of its requests is served."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification that belongs to the request."""
        ...

    def ask(self, method: str, params: Mapping[str, object]) -> Awaitable[object]:
        """The client's answer to a request of ours; raises CorralError."""
        ...
