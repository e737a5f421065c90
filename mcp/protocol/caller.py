"""Whom a request comes from, as far as a server may know, tell and ask him.

A server process is shared: what it says of progress goes to the one caller whose request it is about, and what it
asks is asked of nobody unless it is certain who is meant (`Session`).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from .messages import Progress


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request comes from."""

    name: str = ""
    """For events, logs and errors: a worker's id, or a client such as `uid 1000`."""
    sharer: str = ""
    """Who has processes of its own where a server is not shared by all: an agent's name, or a client's identity."""
    tenant: str = ""
    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])
    """What it declared (`ClientCapabilities` of MCP); a modern server is told so with the request."""
    on_progress: Callable[[Progress], None] | None = None
    on_message: Callable[[Mapping[str, object]], None] | None = None
    """Takes the params of `notifications/message` that came while its request was the only one."""
    ask: Callable[[str, Mapping[str, object]], Awaitable[object]] | None = None
    """Answers a legacy server's request (sampling, elicitation, roots), by method and params; raises CorralError."""


NOBODY = Caller()
