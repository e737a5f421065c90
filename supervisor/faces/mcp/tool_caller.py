"""Represents the client of one of corral's own tools to the method table: its rights, and where progress goes.

This module must not know a connection.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from corral.mcp.protocol.messages import Progress
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams

from .elicitation import Person

MAX_PART_CHARS = 4_000
"""Characters of what is streamed in one message of progress; the answer has all of it."""

TINY = 1e-9
"""Number by which progress grows with a part: next to nothing, so that the progress of the task is still seen."""


@dataclass(frozen=True)
class Client:
    """Represents an MCP client.

    Attributes:
        name: for errors and events.
        sharer: the owner of processes that it uses of servers that are not shared by all.
        who: as the audit names it.
        permission: for corral's own tools, as it is now; None for nothing.
        supervisor: of the worker in whose tree it is, if that is known.
        agents: globs of the agents that it may know, as they are now; None for all.
        tenant: that it is bound to; "" for none.
    """

    name: str
    sharer: str
    who: Mapping[str, object]
    permission: Callable[[], Rights | None]
    supervisor: WorkerSupervisor | None = None
    agents: Callable[[], Sequence[str] | None] = lambda: None
    tenant: str = ""


class ToolCaller:
    """Represents the caller of one of these tools to the method table."""

    def __init__(
        self,
        client: Client,
        on_progress: Callable[[Progress], None] | None,
        traceparent: str | None = None,
        person: Person | None = None,
    ) -> None:
        self.person = person
        self.tenant = client.tenant
        self.traceparent = traceparent
        self.name = client.name
        self.agents = client.agents()
        self.permission: Rights = client.permission() or "read"
        self.who = client.who
        self.supervisor: WorkerSupervisor | None = None  # none of these calls a tool of the pool
        self._on_progress = on_progress
        self._last = -1.0

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Reports progress, and what is streamed; MCP requires that it grows, so a smaller value than the last is dropped."""
        if self._on_progress is not None and method == "task.part":
            self._last = round(max(self._last, 0.0) + TINY, 9)
            self._on_progress(Progress(self._last, None, _part_text(params)))
        if method != "task.progress" or self._on_progress is None:
            return
        progress, total, message = (params.get(key) for key in ("progress", "total", "message"))
        reached = float(progress) if isinstance(progress, int | float) else 0.0
        if reached > self._last:
            self._last = reached
            of = float(total) if isinstance(total, int | float) else None
            text = str(message) if message else f"{params.get('task')}: {params.get('state')}"
            self._on_progress(Progress(reached, of, text))

    @property
    def wants_parts(self) -> bool:
        """Returns whether the client has asked for progress."""
        return self._on_progress is not None

    async def drain(self) -> None:
        """Returns at once: progress is short, and the transport bounds it."""

    def follow(self, following: Awaitable[None]) -> None:
        """Refuses: a tool has one answer."""
        raise Conflict("cannot follow anything through a tool")

    def attach(self, view: AttachParams) -> None:
        """Refuses: this is MCP already."""
        raise Conflict("cannot attach through a tool")

    def log_in(self, digest: bytes | None, tenant: str) -> None:
        """Refuses: the client of the tool has logged in."""
        raise Conflict("cannot log in through a tool")


def _part_text(params: Mapping[str, object]) -> str:
    """Returns the message of progress for a part."""
    part, lost = params.get("part"), params.get("lost")
    if params.get("number") == 0:
        return f"attempt {params.get('attempt')} begins anew"
    text = part if isinstance(part, str) else codec.encode(part).decode()
    text = text if len(text) <= MAX_PART_CHARS else f"{text[:MAX_PART_CHARS]}…"
    return f"({lost} parts were lost) {text}" if lost else text
