"""Represents the caller of another node: it has the rights that its node tells, and notifications go back there."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from msgspec import Struct

from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, CorralError
from corral.worker.contract.records import Error
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams

WAITING_MAX = 1_000
"""Number of messages that wait to be sent before the sender has to wait."""

MESSAGE_BYTES = 600_000
"""Bytes of a notification that is sent in one message; a longer one goes in pieces, which JSON makes longer by a third."""


class CallerFacts(Struct, frozen=True, kw_only=True):
    """Represents a caller on the wire between nodes."""

    name: str
    permission: Rights
    who: dict[str, object]
    agents: list[str] | None = None
    tenant: str = ""


class Part(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Represents one message to a caller on another node: a notification, or a piece of one.

    Without either it is a sign of life, or the end of what is followed. `number` counts the messages; of a sign, it is that
    of the last one.
    """

    method: str = ""
    params: dict[str, object] = {}
    number: int = 0
    piece: bytes = b""
    goes_on: bool = False
    """Whether another piece follows."""
    ends: bool = False
    error: Error | None = None

    @property
    def is_sign(self) -> bool:
        """Returns whether it has nothing to pass on."""
        return not self.method and not self.piece


class Notification(Struct, frozen=True, kw_only=True):
    """Represents a whole notification."""

    method: str
    params: dict[str, object]


class Pieces:
    """Puts notifications together of the messages in which they come."""

    def __init__(self) -> None:
        self._pieces = bytearray()

    def whole(self, part: Part) -> Notification | None:
        """Returns a notification once its last message is there."""
        if not part.piece:
            return Notification(method=part.method, params=part.params)
        self._pieces += part.piece
        if part.goes_on:
            return None
        whole = msgspec.json.decode(bytes(self._pieces), type=Notification)
        self._pieces.clear()
        return whole


class RemoteCaller:
    """Sends notifications to the node of the caller, one after the other."""

    def __init__(
        self, facts: CallerFacts, send: Callable[[bytes], Awaitable[None]], *, is_direct: bool = False, window: int = 0
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
        self._window = window
        self._taken = 0
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
            self._look_for_room()
            self._waiting.task_done()

    def _look_for_room(self) -> None:
        is_ahead = 0 < self._window <= self.sent - self._taken
        if is_ahead or self._waiting.qsize() >= WAITING_MAX:
            self._room.clear()
        else:
            self._room.set()

    def acknowledge(self, count: int) -> None:
        """Notes how many messages the other node has passed on."""
        self._taken = max(self._taken, count)
        self._look_for_room()

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
        encoded = msgspec.json.encode(Part(method=method, params=dict(params), number=self.sent))
        if len(encoded) <= MESSAGE_BYTES:
            self._waiting.put_nowait(encoded)
        else:
            self.sent -= 1
            self._put_in_pieces(Notification(method=method, params=dict(params)))
        self._look_for_room()

    def _put_in_pieces(self, notification: Notification) -> None:
        whole = msgspec.json.encode(notification)
        for start in range(0, len(whole), MESSAGE_BYTES):
            self.sent += 1
            end = start + MESSAGE_BYTES
            part = Part(piece=whole[start:end], goes_on=end < len(whole), number=self.sent)
            self._waiting.put_nowait(msgspec.json.encode(part))

    def sign(self, *, ends: bool = False, error: Error | None = None) -> None:
        """Sends a sign of life, or the end of what is followed, after all that waits."""
        self._waiting.put_nowait(msgspec.json.encode(Part(number=self.sent, ends=ends, error=error)))

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
