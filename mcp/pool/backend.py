"""Defines the interface of an MCP server's processes that the pool needs; `supervisor.agents` implements it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from corral.worker.contract.errors import CorralError

from ..protocol.catalog import Catalogue
from ..upstream.session import Session
from .placement import Phase, Share

Concurrency = Literal["auto", "serial", "parallel"]


class Settings(NamedTuple):
    """Holds what the configuration says of the calls of a server."""

    concurrency: Concurrency
    """Whether calls may overlap."""
    share: Share
    """Unit that has processes of its own."""
    spares: int
    """Number of processes held in reserve."""
    request_timeout_s: float
    """Seconds for requests without a timeout."""
    max_request_timeout_s: float
    max_retries: int
    """Number of retries of a call that is safe to repeat, when the server dies."""
    max_calls_per_minute: int
    """Number of requests a minute; 0 is no limit."""
    denied_tools: Sequence[str]
    """Patterns of tools that are hidden from all callers."""


class Process(Protocol):
    """Defines one process of a server, running or not."""

    @property
    def phase(self) -> Phase:
        """Returns its present availability."""
        ...

    @property
    def life(self) -> int:
        """Returns the number of its incarnation."""
        ...

    @property
    def session(self) -> Session | None:
        """Returns the session if a request can be sent at once, else None."""
        ...

    async def acquire(self) -> Session:
        """Returns a session; starts the process if needed and waits until it is ready.

        Bounded by the process itself (spawn timeout, restart limit). Concurrent callers share one start.
        """
        ...

    async def renew(self) -> None:
        """Restarts it, and waits until it is up again."""
        ...

    def start(self) -> None:
        """Starts it if possible, without waiting."""
        ...

    def end(self) -> None:
        """Ends it, without waiting; a later call starts it again."""
        ...

    def note(self, *, is_busy: bool) -> None:
        """Records whether it has work."""
        ...

    def trouble(self) -> CorralError | None:
        """Returns the reason why it is not up, if known."""
        ...


class Backend(Protocol):
    """Defines a configured server; its settings may change between two calls."""

    @property
    def name(self) -> str:
        """Returns the server's name, the first part of the exposed names."""
        ...

    @property
    def settings(self) -> Settings:
        """Returns its present settings."""
        ...

    @property
    def max_processes(self) -> int:
        """Returns the maximum number of processes, spares included."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """Returns the last listing of the server, also while it is stopped; `Pool.listed` reports changes."""
        ...

    @property
    def processes(self) -> Sequence[Process]:
        """Returns its processes, in the order of their numbers."""
        ...

    def check(self) -> None:
        """Raises CorralError if the server may not be called now."""
        ...

    async def grow(self) -> None:
        """Adds a process, up to `max_processes`."""
        ...
