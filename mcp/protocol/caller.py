"""Describes the caller of a request, as far as a server may know, notify and ask it.

A server process is shared: progress goes to the one caller whose request it concerns, and a request of the server goes
to a caller only if it is certain which one it concerns (`Session`).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from .messages import Progress


@dataclass(frozen=True, slots=True)
class Caller:
    """Represents the caller of a request."""

    name: str = ""
    """Name in events, logs and errors: a worker's id, or a client such as `uid 1000`."""
    sharer: str = ""
    """Owner of processes where a server is not shared by all: an agent's name, or a client's identity."""
    tenant: str = ""
    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])
    """Its declared `ClientCapabilities` of MCP; a modern server receives them with the request."""
    on_progress: Callable[[Progress], None] | None = None
    on_message: Callable[[Mapping[str, object]], None] | None = None
    """Takes the params of `notifications/message` that came while its request was the only one."""
    ask: Callable[[str, Mapping[str, object]], Awaitable[object]] | None = None
    """Answers a legacy server's request (sampling, elicitation, roots), by method and params; raises CorralError."""


NOBODY = Caller()
