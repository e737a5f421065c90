"""Keeps the catalogs of MCP servers (tools, prompts, resources), also on disk, and announces their changes.

A server that is not running stays listed, also by the next daemon. A catalog is stored with a fingerprint of what
was started, and dropped when the configuration would start something else.
"""

import hashlib
import logging
from functools import partial

import msgspec

from corral.mcp.pool.pool import Pool
from corral.mcp.protocol.catalog import Catalogue
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Statement, Store
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.line import McpLine
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError

from .agent import Agent, is_at_risk
from .tool_pins import ToolPins

MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Bytes of one stored catalog as JSON: a larger one is read from its server again by each daemon."""

NAMES_MAX = 100
"""Number of tool names in one event, for each of added and removed."""

logger = logging.getLogger(__name__)


def fingerprint(spec: Spec) -> bytes:
    """Returns a SHA-256 of everything in a spec that the catalogue depends on; references to secrets unresolved."""
    process = spec.process
    described = {
        "command": spec.command,
        "url": spec.url,
        "headers": spec.headers,
        "environment": spec.environment,
        "environment_file": str(process.environment_file),
        "working_directory": str(process.working_directory),
        "user": process.user,
        "protocol_version": spec.mcp.protocol_version,
        "relays": spec.relays,
    }
    return hashlib.sha256(codec.encode(described)).digest()


class ToolCache:
    """Holds what each server offers; the table `catalogue`."""

    def __init__(self, store: Store, bus: Bus, pool: Pool, pins: ToolPins) -> None:
        self.pins = pins
        self._store = store
        self._bus = bus
        self._pool = pool
        self._kept: dict[str, tuple[bytes, bytes]] = {}
        self._warned: set[str] = set()

    async def load(self) -> None:
        """Reads the catalogs that an earlier daemon stored."""
        await self.pins.load()
        rows = await self._store.read("SELECT server, fingerprint, value FROM catalogue")
        for server, stamp, value in rows:
            if isinstance(stamp, bytes) and isinstance(value, bytes):
                self._kept[str(server)] = (stamp, value)

    def of(self, spec: Spec) -> Catalogue:
        """Returns what the server offered when this spec of it ran; an empty catalog where that is not known."""
        stamp, value = self._kept.get(spec.name, (b"", b""))
        if stamp != fingerprint(spec):
            return Catalogue()
        try:
            return self.pins.trusted(spec, msgspec.json.decode(value, type=Catalogue))
        except msgspec.DecodeError as error:  # another version of corral has written it
            logger.info("lists of %s are read again: %s", spec.name, error)
            return Catalogue()

    def attach(self, agent: Agent, supervisor: WorkerSupervisor) -> None:
        """Subscribes to the catalog and the resource updates of one more worker of a server."""
        supervisor.bind_catalogue(
            agent.catalogue.era, partial(self._listed, agent, supervisor), partial(self._updated, agent, supervisor)
        )

    def reconfigure(self, agent: Agent, before: Spec) -> None:
        """Drops the catalog if the changed spec of a server starts another program than `before`."""
        if fingerprint(before) != fingerprint(agent.spec):
            agent.catalogue = Catalogue()
            self._drop(agent.name)
            self._pool.listed(agent.name)
        elif before.mcp.on_tool_change != agent.spec.mcp.on_tool_change:
            self.relist(agent)
        else:
            self._pool.listed(agent.name)

    async def accept(self, agent: Agent, tool: str | None, digest: str | None) -> list[str]:
        """Accepts the words that tools of a server have now, and offers them; returns the names of those tools."""
        accepted = await self.pins.accept(agent.name, tool, digest)
        self.relist(agent)
        return accepted

    def relist(self, agent: Agent) -> None:
        """Takes the catalog of the processes that have their places now, after some were replaced."""
        for supervisor in agent.supervisors:
            line = None if supervisor.life is None else supervisor.life.line
            if supervisor.worker.state in UP and isinstance(line, McpLine):
                self._listed(agent, supervisor, line.session.catalogue)
                return
        agent.catalogue = self.of(agent.spec)
        self._pool.listed(agent.name)

    def forget(self, name: str) -> None:
        """Drops the catalog of a server that was removed."""
        self._drop(name)
        self.pins.forget(name)
        self._warned.discard(name)

    def _updated(self, agent: Agent, supervisor: WorkerSupervisor, uri: str) -> None:
        if supervisor in agent.supervisors:
            self._pool.updated(agent.name, agent.supervisors.index(supervisor), uri)

    def _listed(self, agent: Agent, supervisor: WorkerSupervisor, catalogue: Catalogue) -> None:
        """Takes the catalog that a worker has listed; publishes an event if the tools are others than before."""
        if supervisor not in agent.supervisors:
            return  # it has no place yet, or no longer
        earlier = agent.catalogue
        agent.catalogue = self.pins.trusted(agent.spec, catalogue)
        self._keep(agent.spec, catalogue)
        before, after = ({tool.name for tool in each.tools} for each in (earlier, catalogue))
        if before != after and earlier.is_known:
            self._bus.publish(
                "mcp.tools_changed",
                agent=agent.name,
                worker=supervisor.id,
                incarnation=supervisor.worker.incarnation,
                added=sorted(after - before)[:NAMES_MAX],
                removed=sorted(before - after)[:NAMES_MAX],
                tools=len(after),
            )
        if is_at_risk(agent) and agent.name not in self._warned:
            self._warned.add(agent.name)
            text = "server %s speaks a revision of MCP in which its state is its process's, and has several: %s"
            logger.warning(text, agent.name, "calls of one caller may meet different states")
        self._pool.listed(agent.name)

    def _keep(self, spec: Spec, catalogue: Catalogue) -> None:
        value = msgspec.json.encode(catalogue)
        if len(value) > MAX_KEPT_BYTES:
            self._drop(spec.name)
            return
        stamp = fingerprint(spec)
        before = self._kept.get(spec.name)
        if before is not None and before[0] == stamp and _is_same(before[1], catalogue):
            return
        self._kept[spec.name] = (stamp, value)
        self._post(
            "INSERT OR REPLACE INTO catalogue (server, fingerprint, value) VALUES (?, ?, ?)", (spec.name, stamp, value)
        )

    def _drop(self, name: str) -> None:
        if self._kept.pop(name, None) is not None:
            self._post("DELETE FROM catalogue WHERE server = ?", (name,))

    def _post(self, sql: str, params: tuple[object, ...]) -> None:
        statement: Statement = (sql, params)
        try:
            self._store.post(statement)
        except CorralError as error:  # it is read from the server again
            logger.warning("what a server offers is not kept: %s", error)


def _is_same(kept: bytes, catalogue: Catalogue) -> bool:
    """Returns whether only the time has changed, which is no reason to write."""
    try:
        before = msgspec.json.decode(kept, type=Catalogue)
    except msgspec.DecodeError:
        return False
    return msgspec.structs.replace(before, listed_at=catalogue.listed_at) == catalogue
