"""MCP servers as the tool pool sees them: processes that a call starts, and lists that outlive the processes.

Which process takes a call is the pool's to decide; how one is started, restarted and told that it has work is
what stands here. It starts nothing by itself.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from ...mcp.pool.backend import Concurrency
from ...mcp.pool.placement import Phase, Share
from ...mcp.pool.pool import Pool
from ...mcp.protocol.catalog import Catalogue
from ...mcp.upstream.session import Session
from ...worker.contract.errors import Conflict, CorralError, NotFound, Timeout, ToolFailed
from ..config.spec import Spec
from ..events.bus import Bus
from ..lifecycle.state_machine import ASKED_FOR, UP, State, Worked, Worker
from ..supervision.line import McpLine
from ..supervision.worker_supervisor import WorkerSupervisor
from .agent import Agent, is_at_risk, not_up
from .tool_cache import ToolCache, fingerprint

GONE_S = 5.0
"""How long a process that has closed its pipes is waited for: until then its end is told, or it lives on deaf."""

TOOLS_TOLD = 100
"""Names of tools in one event, of those that came and of those that went."""

logger = logging.getLogger(__name__)


class Steering(Protocol):
    """What the running set does for the servers."""

    def check_may_call(self, what: str) -> None:
        """Raises CorralError when nothing is called now."""
        ...

    def is_to_go(self, supervisor: WorkerSupervisor) -> bool:
        """Whether the worker is being added or removed, or was removed: nothing starts it now."""
        ...

    async def call_up(self, supervisor: WorkerSupervisor) -> None:
        """Starts a worker, or waits for one that is on its way."""
        ...

    def start_soon(self, supervisor: WorkerSupervisor) -> None:
        """Starts a worker if that can be done, without waiting."""
        ...

    async def restart(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        """Ends workers, starts them anew and waits for them."""
        ...

    async def grow(self, agent: Agent) -> None:
        """Adds a worker."""
        ...


class ServerProcess:
    """One worker of a server."""

    def __init__(self, supervisor: WorkerSupervisor, steering: Steering) -> None:
        self.supervisor = supervisor
        self._steering = steering

    @property
    def phase(self) -> Phase:
        """What can be had of it now."""
        worker = self.supervisor.worker
        if worker.paused_at is not None or _has_given_up(worker):
            return Phase.LOST
        if worker.state in UP:
            return Phase.UP
        if self._steering.is_to_go(self.supervisor):
            return Phase.LOST
        is_coming = worker.wanted and not (
            worker.state is State.TERMINATED and worker.resume_at is None
        )
        return Phase.COMING if is_coming else Phase.DOWN

    @property
    def life(self) -> int:
        """The number of its incarnation."""
        return self.supervisor.worker.incarnation

    @property
    def session(self) -> Session | None:
        """The session, where a request can be sent at once."""
        supervisor = self.supervisor
        worker, life = supervisor.worker, supervisor.life
        if worker.state not in UP or worker.paused_at is not None or life is None:
            return None
        line = life.line
        return line.session if isinstance(line, McpLine) and line.session.is_open else None

    async def acquire(self) -> Session:
        """A session with the process, which is started if it is not up.

        Raises:
            Conflict: it is paused.
            SpawnFailed, Timeout: it does not come up.
            ToolFailed: it is deaf, went in this instant, or is being removed: another one may take the call.
            ResourceLimitExceeded: there is no room for it.
        """
        supervisor = self.supervisor
        name = supervisor.spec.name
        if supervisor.worker.paused_at is not None:
            text = f'cannot call MCP server "{name}": it is paused; corral resume {name}'
            raise Conflict(text, server=name, reason="paused")
        if supervisor.worker.state in UP and self.session is None:
            try:
                async with asyncio.timeout(GONE_S):
                    await supervisor.until(lambda worker: worker.state not in UP)
            except TimeoutError as error:
                raise self._gone() from error
        if supervisor.worker.state not in UP:
            try:
                await self._steering.call_up(supervisor)
            except (Conflict, NotFound) as error:
                if not self._steering.is_to_go(supervisor):
                    raise
                raise ToolFailed(error.message, server=name, lost=True, sent=False) from error
        session = self.session
        if session is None:
            raise self._gone()
        return session

    def _gone(self) -> ToolFailed:
        name = self.supervisor.spec.name
        text = f'cannot call MCP server "{name}": it has closed its connection'
        return ToolFailed(text, server=name, lost=True, sent=False)

    async def renew(self) -> None:
        """Restarts it, and waits until it is up again.

        Raises:
            CorralError: it does not come up.
        """
        await self._steering.restart([self.supervisor])

    def start(self) -> None:
        """Starts it, if that can be done; waits for nothing."""
        self._steering.start_soon(self.supervisor)

    def note(self, *, is_busy: bool) -> None:
        """Takes note that it has work, or has none left."""
        if self.supervisor.worker.pid is not None:
            self.supervisor.send(Worked(is_busy))

    def trouble(self) -> CorralError | None:
        """Why it is not up: how it ended last, or what it said while it starts."""
        supervisor = self.supervisor
        worker, name = supervisor.worker, supervisor.spec.name
        last = worker.last_exit
        if worker.state in UP or not worker.wanted:
            return None
        if last is not None and last.result not in ASKED_FOR and worker.state is not State.STARTING:
            return not_up(worker)
        words = supervisor.stderr_tail(1)
        text = f'cannot wait for MCP server "{name}" any longer: it is being started'
        return Timeout(f"{text}: {words[-1]}" if words else text, server=name, reason="starting")


class McpServer:
    """A backend of the pool."""

    def __init__(self, agent: Agent, steering: Steering) -> None:
        self._agent = agent
        self._steering = steering
        self._processes: tuple[ServerProcess, ...] = ()
        self._supervisors: list[WorkerSupervisor] = []
        """Whose `_processes` are, in the same order."""

    @property
    def name(self) -> str:
        """The server's name."""
        return self._agent.name

    @property
    def concurrency(self) -> Concurrency:
        """How its calls may overlap: auto, serial or parallel."""
        return self._agent.spec.concurrency

    @property
    def share(self) -> Share:
        """Who has processes of its own."""
        return self._agent.spec.share

    @property
    def spares(self) -> int:
        """How many of the processes are held in reserve."""
        return self._agent.spec.spares

    @property
    def max_processes(self) -> int:
        """How many processes there may be."""
        spec = self._agent.spec
        return max(spec.instances.maximum + spec.spares, len(self._agent.supervisors))

    @property
    def request_timeout_s(self) -> float:
        """The longest wait for an answer where the caller names none."""
        return self._agent.spec.mcp.request_timeout

    @property
    def max_request_timeout_s(self) -> float:
        """The longest wait of all."""
        return self._agent.spec.mcp.max_request_timeout

    @property
    def max_retries(self) -> int:
        """How often a call that is safe to repeat is repeated."""
        return self._agent.spec.mcp.max_retries

    @property
    def max_calls_per_minute(self) -> int:
        """How many requests it takes; 0 is any number."""
        return self._agent.spec.max_calls_per_minute

    @property
    def denied_tools(self) -> Sequence[str]:
        """Patterns of tools that nobody sees."""
        return self._agent.spec.denied_tools

    @property
    def catalogue(self) -> Catalogue:
        """What it offers, as it said last."""
        return self._agent.catalogue

    @property
    def processes(self) -> Sequence[ServerProcess]:
        """One for each of its workers."""
        supervisors = self._agent.supervisors
        if supervisors != self._supervisors:  # of the same ones, a look at each
            earlier = {process.supervisor: process for process in self._processes}
            self._processes = tuple(
                earlier.get(supervisor) or ServerProcess(supervisor, self._steering)
                for supervisor in supervisors
            )
            self._supervisors = list(supervisors)
        return self._processes

    def check(self) -> None:
        """Refuses calls of what somebody has stopped.

        Raises:
            Conflict: it is stopped, or an emergency stop is in force.
            ShuttingDown: the daemon stops.
        """
        what = f'call MCP server "{self.name}"'
        self._steering.check_may_call(what)
        if self._agent.held or not self._agent.supervisors:
            text = f"cannot {what}: it is stopped; corral start {self.name}"
            raise Conflict(text, server=self.name)

    async def grow(self) -> None:
        """Adds a process.

        Raises:
            ResourceLimitExceeded: there is no room for it.
        """
        await self._steering.grow(self._agent)


class McpServers:
    """The servers of the running set: what they offer is kept, told and served by the pool."""

    def __init__(self, pool: Pool, bus: Bus, listings: ToolCache, steering: Steering) -> None:
        self._pool = pool
        self._bus = bus
        self._listings = listings
        self._steering = steering
        self._warned: set[str] = set()

    async def load(self) -> None:
        """Reads what servers offered to an earlier daemon."""
        await self._listings.load()

    def add(self, agent: Agent) -> None:
        """A server has come: it is listed at once if it is known what it offers."""
        agent.catalogue = self._listings.of(agent.spec)
        for supervisor in agent.supervisors:
            self.attach(agent, supervisor)
        self._pool.add(McpServer(agent, self._steering))

    def attach(self, agent: Agent, supervisor: WorkerSupervisor) -> None:
        """A server has one more worker."""
        supervisor.era = agent.catalogue.era
        supervisor.on_catalogue = partial(self._listed, agent, supervisor)
        supervisor.on_updated = partial(self._updated, agent, supervisor)

    def remove(self, name: str) -> None:
        """A server is gone, and what it offered with it."""
        self._pool.remove(name)
        self._listings.forget([name])
        self._warned.discard(name)

    def reconfigure(self, agent: Agent, before: Spec) -> None:
        """A server's spec has changed: what another program offered is not what this one does."""
        if fingerprint(before) != fingerprint(agent.spec):
            agent.catalogue = Catalogue()
            self._listings.forget([agent.name])
        self._pool.listed(agent.name)

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """A worker has changed: calls may wait for that."""
        if supervisor.spec.kind == "mcp":
            self._pool.changed(supervisor.spec.name)

    def _updated(self, agent: Agent, supervisor: WorkerSupervisor, uri: str) -> None:
        if supervisor in agent.supervisors:
            self._pool.updated(agent.name, agent.supervisors.index(supervisor), uri)

    def _listed(self, agent: Agent, supervisor: WorkerSupervisor, catalogue: Catalogue) -> None:
        """Takes what a server offers; other tools than before are told."""
        earlier = agent.catalogue
        agent.catalogue = catalogue
        self._listings.keep(agent.spec, catalogue)
        before, after = (_tool_names(each) for each in (earlier, catalogue))
        if before != after and earlier.is_known:
            self._bus.publish(
                "mcp.tools_changed",
                agent=agent.name,
                worker=supervisor.id,
                incarnation=supervisor.worker.incarnation,
                added=sorted(after - before)[:TOOLS_TOLD],
                removed=sorted(before - after)[:TOOLS_TOLD],
                tools=len(after),
            )
        if is_at_risk(agent) and agent.name not in self._warned:
            self._warned.add(agent.name)
            text = "server %s speaks a revision of MCP in which its state is its process's, and has several: %s"
            logger.warning(text, agent.name, "calls of one caller may meet different states")
        self._pool.listed(agent.name)


def _tool_names(catalogue: Catalogue) -> set[str]:
    return {tool.name for tool in catalogue.tools}


def _has_given_up(worker: Worker) -> bool:
    last = worker.last_exit
    is_at_rest = worker.state is State.TERMINATED and worker.resume_at is None
    return is_at_rest and last is not None and last.result == "restart-limit"
