"""Represents the caller of another node: it has the rights that its node tells, and notifications go back there."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from msgspec import Struct

from ...worker.contract.errors import Conflict, CorralError
from ...worker.control.access import Rights
from ...worker.control.params import AttachParams
from ..supervision.worker_supervisor import WorkerSupervisor

WAITING_MAX = 1_000
"""Number of notifications that wait to be sent before the sender has to wait."""


class CallerFacts(Struct, frozen=True, kw_only=True):
    """Represents a caller on the wire between nodes."""

    name: str
    permission: Rights
    who: dict[str, object]
    agents: list[str] | None = None
    tenant: str = ""


class Part(Struct, frozen=True, kw_only=True):
    """Represents one notification to a caller on another node."""

    method: str
    params: dict[str, object]


class RemoteCaller:
    """Sends notifications to the node of the caller, one after the other.

    Args:
        facts: of the caller.
        send: sends one encoded notification.
        is_direct: whether it asks for what this node itself runs.
    """

    def __init__(
        self,
        facts: CallerFacts,
        send: Callable[[bytes], Awaitable[None]],
        *,
        is_direct: bool = False,
    ) -> None:
        self.is_direct = is_direct
        self.name = facts.name
        self.permission: Rights = facts.permission
        self.who: Mapping[str, object] = facts.who
        self.agents: Sequence[str] | None = facts.agents
        self.tenant = facts.tenant
        self.supervisor: WorkerSupervisor | None = None
        self.following: Awaitable[None] | None = None
        self.sent = 0
        self._send = send
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._task = asyncio.create_task(self._send_always())

    async def _send_always(self) -> None:
        while True:
            part = await self._waiting.get()
            with contextlib.suppress(CorralError):  # what is lost was published at most once
                await self._send(part)
            if self._waiting.qsize() < WAITING_MAX:
                self._room.set()
            self._waiting.task_done()

    async def flush(self) -> None:
        """Returns once all notifications were sent."""
        await self._waiting.join()

    async def close(self) -> None:
        """Sends nothing more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        self.sent += 1
        part = Part(method=method, params=dict(params))
        self._waiting.put_nowait(msgspec.json.encode(part))
        if self._waiting.qsize() >= WAITING_MAX:
            self._room.clear()

    async def drain(self) -> None:
        """Waits while too many notifications wait to be sent."""
        await self._room.wait()

    def follow(self, following: Awaitable[None]) -> None:
        """Keeps what is to run after the answer."""
        self.following = following

    def attach(self, _view: AttachParams) -> None:
        """Refuses: MCP is spoken with the daemon that a client has connected to."""
        raise Conflict("cannot attach to another node: connect to its own daemon")

    def log_in(self, _digest: bytes | None, _tenant: str) -> None:
        """Refuses: a login is of the connection to this daemon."""
        raise Conflict("cannot log in on another node: the login is that of the connection")
