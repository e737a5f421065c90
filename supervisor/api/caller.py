"""Defines the caller of a method: its permission, its agents, its name in the audit, and the way back to it."""

from collections.abc import Awaitable, Mapping, Sequence
from pwd import getpwuid
from typing import Protocol

from ...worker.control.access import Rights
from ...worker.control.params import AttachParams
from ..supervision.worker_supervisor import WorkerSupervisor


class Caller(Protocol):
    """Represents a caller: its permission, and the way to send it notifications during a call."""

    name: str
    permission: Rights
    who: Mapping[str, object]
    """As the audit names it: `uid` and `pid` from the kernel, the `agent` of the worker that it descends from, the name of its `token`."""
    agents: Sequence[str] | None
    """Globs of the agents that it may know; None for all."""
    supervisor: WorkerSupervisor | None
    """Of the worker in whose tree it is, if that is known."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while the caller reads too slowly.

        Raises:
            CorralError: it is gone.
        """
        ...

    def follow(self, following: Awaitable[None]) -> None:
        """Runs `following` after the call, until the caller hangs up."""
        ...

    def attach(self, view: AttachParams) -> None:
        """Switches the connection to MCP.

        Raises:
            CorralError: it cannot, or there is no such profile.
        """
        ...

    def log_in(self, digest: bytes) -> None:
        """Restricts the connection to what the token of a digest permits.

        Raises:
            Conflict: it has logged in already, or is no connection.
        """
        ...


def made_by(caller: Caller) -> str:
    """Returns a caller as revisions name it: its token, the agent that it descends from, else the user of its process."""
    who = caller.who
    if isinstance(token := who.get("token"), str):
        return f"token {token}"
    if isinstance(agent := who.get("agent"), str):
        return f"agent {agent}"
    uid = who.get("uid")
    if not isinstance(uid, int):
        return caller.name
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
