"""Defines what a caller asks of a command beside a worker, and who reads its output."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class ExecRequest(NamedTuple):
    """Describes a command: its program, what differs from the worker's environment and folder, and its streams.

    `size` is that of a terminal, rows and columns; None for pipes. Without `has_input` its stdin is /dev/null.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    folder: str | None
    size: tuple[int, int] | None
    has_input: bool


class Reader(Protocol):
    """Receives notifications."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while it reads too slowly."""
        ...
