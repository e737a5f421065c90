"""Keeps the words of the tools of MCP servers that were accepted, also on disk, and tells of changes.

The pins belong to the name of a server: a changed command does not lose them, the removal of the server does. What is
told is in the audit before the store has it as told, so that a killed daemon tells it again.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from msgspec.structs import replace

from corral.mcp.pool import pins
from corral.mcp.pool.pins import Pin, Pins
from corral.mcp.protocol.catalog import Catalogue, exposed_names
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.audit.log import Audit, daemon_record
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Statement, Store
from corral.worker.contract.errors import Conflict, CorralError, NotFound
from corral.worker.contract.names import local_name

TOLD_MAX = 100
"""Number of changed tools of one server that are told in TOLD_S, and named at once: one that changes in a loop must not fill the audit."""

TOLD_S = 3_600.0

NAME_CHARS = 200
"""Characters of a tool's name in an event and in the audit."""

logger = logging.getLogger(__name__)


class ToolPins:
    """Holds the pins of each server; the table `tool_pin`."""

    def __init__(self, store: Store, bus: Bus, audit: Audit) -> None:
        self._store = store
        self._bus = bus
        self._audit = audit
        self._pins: dict[str, Pins] = {}
        self._stored: dict[str, Pins] = {}
        self._told: dict[str, tuple[float, int]] = {}
        self._saving: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Reads the pins that an earlier daemon stored."""
        found: dict[str, dict[str, Pin]] = {}
        for server, tool, accepted, pending in await self._store.read(
            "SELECT server, tool, accepted, pending FROM tool_pin"
        ):
            pin = Pin(
                accepted if isinstance(accepted, bytes) else None, pending if isinstance(pending, bytes) else None
            )
            found.setdefault(str(server), {})[str(tool)] = pin
        self._pins, self._stored = {**found}, {**found}

    def trusted(self, spec: Spec, catalogue: Catalogue) -> Catalogue:
        """Returns a listing of a server as it is offered, and tells what nobody has accepted since the last listing."""
        before = self._pins.get(spec.name, {})
        now = pins.pinned(before, catalogue.tools)
        hold = spec.mcp.on_tool_change == "hold"
        if now != before:
            self._pins[spec.name] = now
            news = [
                name
                for name, pin in now.items()
                if pin.pending is not None and (name not in before or before[name].pending != pin.pending)
            ]
            if news:
                self._tell(spec.name, news, hold)
                task = asyncio.get_running_loop().create_task(self._save_told(spec.name))
                self._saving.add(task)
                task.add_done_callback(self._saving.discard)
            else:
                self._store.post(*self._statements(spec.name))
        return replace(catalogue, tools=pins.trusted(now, catalogue.tools, hold=hold))

    def pending(self, server: str, tool: str | None) -> dict[str, Pin]:
        """Returns the pins of the tools that are not as accepted: of one, by its own name or its exposed one, or of all.

        Raises:
            NotFound: the server has never listed such a tool.
        """
        known = self._pins.get(server, {})
        chosen: Iterable[str] = sorted(known)
        if tool is not None:
            exposed = exposed_names(local_name(server), known)
            name = tool if tool in known else exposed.get(f"{local_name(server)}__{tool}")
            if name is None:
                raise NotFound(f'cannot find tool "{tool}" of MCP server "{server}"', server=server, tool=tool)
            chosen = [name]
        return {name: known[name] for name in chosen if known[name].pending is not None}

    async def accept(self, server: str, tool: str | None, digest: str | None) -> list[str]:
        """Accepts the words that tools have now, durably; returns the names of those tools.

        Raises:
            Conflict: what is pending has another digest than the one that was seen.
        """
        chosen = self.pending(server, tool)
        if digest is not None and digest != (now := pins.digest_of(chosen, chosen)):
            text = (
                f'cannot accept the tools of MCP server "{server}": they have changed again; corral mcp diff {server}'
            )
            raise Conflict(text, server=server, digest=now)
        if chosen:
            stored = self._stored.get(server, {})
            self._pins[server] = {**self._pins[server], **{name: Pin(pin.pending) for name, pin in chosen.items()}}
            try:
                await self._store.write(*self._statements(server))
            except CorralError:
                self._pins[server], self._stored[server] = {**self._pins[server], **chosen}, stored
                raise
            names = [name[:NAME_CHARS] for name in sorted(chosen)[:TOLD_MAX]]
            self._bus.publish("mcp.tools_accepted", agent=server, tools=names, accepted=len(chosen))
        return sorted(chosen)

    def forget(self, server: str) -> None:
        """Forgets the pins of a server that was removed."""
        self._told.pop(server, None)
        self._pins.pop(server, None)
        if self._stored.pop(server, None):
            self._store.post(("DELETE FROM tool_pin WHERE server = ?", (server,)))

    def _tell(self, server: str, names: list[str], hold: bool) -> None:
        known = self._pins[server]
        changed = sum(pin.pending is not None for pin in known.values())
        since, count = self._told.get(server, (0.0, 0))
        if time.monotonic() - since > TOLD_S:
            since, count = time.monotonic(), 0
        left = max(0, TOLD_MAX - count)
        for name in names[:left]:
            pin = known[name]
            parts = pins.changed_parts(pin)
            accepted, pending = pins.digest(pin.accepted), pins.digest(pin.pending)
            what = {"names": [server], "tool": name[:NAME_CHARS], "parts": parts}
            self._audit.add(daemon_record("mcp.tool_changed", **what, accepted=accepted, pending=pending, held=hold))
            self._bus.publish(
                "mcp.tool_changed",
                agent=server,
                tool=name[:NAME_CHARS],
                parts=parts,
                accepted=accepted,
                pending=pending,
                held=hold,
                changed=changed,
            )
        if len(names) > left and count <= TOLD_MAX:
            logger.warning("server %s changes its tools too often: %d more in this hour are not told", server, TOLD_MAX)
        self._told[server] = (since, count + len(names))

    async def _save_told(self, server: str) -> None:
        await self._audit.settle()
        self._store.post(*self._statements(server))

    def _statements(self, server: str) -> list[Statement]:
        """Returns what makes the stored pins of a server the present ones, and takes them as stored."""
        now, before = self._pins.get(server, {}), self._stored.get(server, {})
        self._stored[server] = now
        put = "INSERT OR REPLACE INTO tool_pin (server, tool, accepted, pending) VALUES (?, ?, ?, ?)"
        written: list[Statement] = [
            (put, (server, name, pin.accepted, pin.pending)) for name, pin in now.items() if before.get(name) != pin
        ]
        gone = "DELETE FROM tool_pin WHERE server = ? AND tool = ?"
        return written + [(gone, (server, name)) for name in before if name not in now]
