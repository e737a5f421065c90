"""What the pool asks of whoever keeps the processes of an MCP server. It decides nothing."""

from collections.abc import Sequence
from typing import Literal, Protocol

from ...worker.contract.errors import CorralError
from ..protocol.catalog import Catalogue
from ..upstream.session import Session
from .placement import Phase, Share

Concurrency = Literal["auto", "serial", "parallel"]


class Process(Protocol):
    """One process of a server, running or not, as the pool sees it."""

    @property
    def phase(self) -> Phase:
        """What can be had of it now."""
        ...

    @property
    def life(self) -> int:
        """The number of its incarnation."""
        ...

    @property
    def session(self) -> Session | None:
        """The session, where a request can be sent at once."""
        ...

    async def acquire(self) -> Session:
        """A session; starts the process if need be and waits until it is ready.

        Bounded by the process itself (spawn timeout, restart limit). Concurrent callers share one start.
        """
        ...

    async def renew(self) -> None:
        """Restarts it, and waits until it is up again."""
        ...

    def start(self) -> None:
        """Starts it, if that can be done; waits for nothing."""
        ...

    def note(self, *, is_busy: bool) -> None:
        """Takes note that it has work, or has none left."""
        ...

    def trouble(self) -> CorralError | None:
        """Why it is not up, as far as it is known."""
        ...


class Backend(Protocol):
    """A configured server, as the pool sees it. What is in force may change between two calls."""

    @property
    def name(self) -> str:
        """The server's, the first part of the exposed names."""
        ...

    @property
    def concurrency(self) -> Concurrency:
        """What the configuration says about overlapping calls."""
        ...

    @property
    def share(self) -> Share:
        """Who has processes of its own."""
        ...

    @property
    def spares(self) -> int:
        """How many of the processes are held in reserve."""
        ...

    @property
    def max_processes(self) -> int:
        """How many processes there may be, those in reserve included."""
        ...

    @property
    def request_timeout_s(self) -> float:
        """For requests that bring no timeout."""
        ...

    @property
    def max_request_timeout_s(self) -> float:
        """For all: no caller may wait longer."""
        ...

    @property
    def max_retries(self) -> int:
        """How often a call that is safe to repeat is repeated when the server dies."""
        ...

    @property
    def max_calls_per_minute(self) -> int:
        """How many requests it takes; 0 is any number."""
        ...

    @property
    def denied_tools(self) -> Sequence[str]:
        """Patterns of tools that nobody sees."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """What the server listed last, also while it is stopped; `Pool.listed` tells when it has changed."""
        ...

    @property
    def processes(self) -> Sequence[Process]:
        """Its processes, in the order of their numbers."""
        ...

    def check(self) -> None:
        """Raises CorralError when it is not to be called now."""
        ...

    async def grow(self) -> None:
        """Adds a process, up to `max_processes`."""
        ...
