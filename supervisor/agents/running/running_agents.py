"""Groups the agents that there are with what starts, stops and counts their workers, and shows MCP servers to the tool pool.

Which process takes a call is the pool's to decide; how one is started, restarted and told that it has work is what stands
here. It starts nothing by itself.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from corral.mcp.pool.backend import Settings
from corral.mcp.pool.placement import Phase
from corral.mcp.pool.pool import Pool
from corral.mcp.protocol.catalog import Catalogue
from corral.mcp.upstream.session import Session
from corral.supervisor.config.spec.spec import Config, Spec
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.tenants.quotas.room import TenantRoom
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, UP, State, Stop, Worked, Worker
from corral.supervisor.workers.supervision.line import McpLine
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.supervisor.workers.zygote.pool import ZygotePool
from corral.worker.contract.errors import Conflict, CorralError, NotFound, ShuttingDown, Timeout, ToolFailed

from ..kept.revision_rows import AgentTable
from ..kept.revisions import Revisions
from .agent import Agent, not_up
from .emergency_stop import EmergencyStopSwitch
from .operations import Operations
from .registry import Registry
from .replicas import Replicas
from .startup import Startup
from .tool_cache import ToolCache
from .tool_pins import ToolPins

GONE_S = 5.0
"""Seconds to wait for the end of a process that has closed its pipes; after that it counts as unreachable."""


@dataclass(frozen=True)
class ServerControl:
    """Groups the parts of the running set that act on a server's processes when it is called."""

    registry: Registry
    emergency: EmergencyStopSwitch
    startup: Startup
    operations: Operations
    replicas: Replicas

    def check_may_call(self, what: str) -> None:
        """Refuses calls of servers that would be started for them; `what` is what cannot be done."""
        self.emergency.check(what)
        if self.registry.draining:
            raise ShuttingDown(f"cannot {what}: the daemon is stopping")


class ServerProcess:
    """Presents one worker of a server to the pool."""

    def __init__(self, supervisor: WorkerSupervisor, control: ServerControl) -> None:
        self.supervisor = supervisor
        self._control = control

    @property
    def phase(self) -> Phase:
        """Returns its present availability."""
        worker = self.supervisor.worker
        if worker.paused_at is not None or _has_given_up(worker):
            return Phase.LOST
        is_held = not self.supervisor.is_open_to_calls
        if worker.state in UP:
            return Phase.HELD if is_held else Phase.UP
        if self._control.registry.is_to_go(self.supervisor):
            return Phase.LOST
        if is_held:
            return Phase.HELD
        is_coming = worker.wanted and not (worker.state is State.TERMINATED and worker.resume_at is None)
        return Phase.COMING if is_coming else Phase.DOWN

    @property
    def life(self) -> int:
        """Returns the number of its incarnation."""
        return self.supervisor.worker.incarnation

    @property
    def session(self) -> Session | None:
        """Returns the session if a request can be sent at once."""
        supervisor = self.supervisor
        worker, life = supervisor.worker, supervisor.life
        if worker.state not in UP or worker.paused_at is not None or life is None:
            return None
        line = life.line
        return line.session if isinstance(line, McpLine) and line.session.is_open else None

    async def acquire(self) -> Session:
        """Returns a session with the process, which is started if it is not up."""
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
                await self._control.startup.call_up(supervisor)
            except (Conflict, NotFound) as error:
                if not self._control.registry.is_to_go(supervisor):
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
        """Restarts it, and waits until it is up again."""
        await self._control.operations.restart([self.supervisor])

    def start(self) -> None:
        """Starts it, if that can be done; waits for nothing."""
        self._control.startup.start_soon(self.supervisor)

    def end(self) -> None:
        """Ends it, without waiting; a later call starts it again."""
        self.supervisor.job.cancel()
        self.supervisor.send(Stop(reason="the agent or the tenant that had it alone was removed"))

    def note(self, *, is_busy: bool) -> None:
        """Takes note that it has work, or has none left."""
        if self.supervisor.worker.pid is not None:
            self.supervisor.send(Worked(is_busy))

    def trouble(self) -> CorralError | None:
        """Describes why it is not up: its last exit, or its output during the start."""
        supervisor = self.supervisor
        worker, name = supervisor.worker, supervisor.spec.name
        last = worker.last_exit
        if worker.state in UP or not worker.wanted:
            return None
        if last is not None and last.result not in ASKED_FOR and worker.state is not State.STARTING:
            return not_up(worker)
        words = supervisor.log.tail("stderr", 1)
        text = f'cannot wait for MCP server "{name}" any longer: it is being started'
        return Timeout(f"{text}: {words[-1]}" if words else text, server=name, reason="starting")


class McpServer:
    """A backend of the pool."""

    def __init__(self, agent: Agent, control: ServerControl) -> None:
        self._agent = agent
        self._control = control
        self._settings_of = agent.spec
        self._settings = _settings(agent.spec)
        self._processes: tuple[ServerProcess, ...] = ()
        self._supervisors: list[WorkerSupervisor] = []
        """Supervisors of `_processes`, in the same order."""

    @property
    def name(self) -> str:
        """Returns the server's name."""
        return self._agent.name

    @property
    def settings(self) -> Settings:
        """Returns what its specification says of its calls."""
        if self._settings_of is not self._agent.spec:  # once for each specification: a call asks several times
            self._settings_of = self._agent.spec
            self._settings = _settings(self._settings_of)
        return self._settings

    @property
    def max_processes(self) -> int:
        """Returns the maximum number of processes."""
        spec, present = self._agent.spec, len(self._agent.supervisors)
        most = spec.instances.maximum + spec.spares
        if most > present and (bound := self._control.registry.workers_max(spec.name)) is not None:
            most = min(most, bound)
        return max(most, present)

    @property
    def catalogue(self) -> Catalogue:
        """Returns its tools, prompts and resources, as listed last."""
        return self._agent.catalogue

    @property
    def processes(self) -> Sequence[ServerProcess]:
        """Returns one process for each of its workers."""
        supervisors = self._agent.supervisors
        if supervisors != self._supervisors:  # of the same ones, a look at each
            earlier = {process.supervisor: process for process in self._processes}
            self._processes = tuple(
                earlier.get(supervisor) or ServerProcess(supervisor, self._control) for supervisor in supervisors
            )
            self._supervisors = list(supervisors)
        return self._processes

    def check(self) -> None:
        """Refuses calls of a server that was stopped on request."""
        what = f'call MCP server "{self.name}"'
        self._control.check_may_call(what)
        if self._agent.held or not self._agent.supervisors:
            raise Conflict(f"cannot {what}: it is stopped; corral start {self.name}", server=self.name)

    async def grow(self) -> None:
        """Adds a process."""
        await self._control.replicas.grow(self._agent)


class McpServers:
    """Registers the servers of the running set in the tool pool."""

    def __init__(self, pool: Pool, tools: ToolCache, control: ServerControl) -> None:
        self.pool = pool
        self.pins, self.accept = tools.pins, tools.accept
        self._tools = tools
        self._control = control

    def add(self, agent: Agent) -> None:
        """Registers a server; it is listed at once if an earlier process of it has listed its tools."""
        agent.catalogue = self._tools.of(agent.spec)
        for supervisor in agent.supervisors:
            self._tools.attach(agent, supervisor)
        self.pool.add(McpServer(agent, self._control))

    def relist(self, agent: Agent) -> None:
        """Offers what the processes of a server offer that have their places now, after some were replaced."""
        self._tools.relist(agent)
        self.pool.changed(agent.name)

    def remove(self, name: str) -> None:
        """Removes a server, and what it offered with it."""
        self.pool.remove(name)
        self._tools.forget(name)

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Wakes the calls that wait for a server's worker, which has changed its state."""
        if supervisor.spec.kind == "mcp":
            self.pool.changed(supervisor.spec.name)


def _has_given_up(worker: Worker) -> bool:
    last = worker.last_exit
    is_at_rest = worker.state is State.TERMINATED and worker.resume_at is None
    return is_at_rest and last is not None and last.result == "restart-limit"


def _settings(spec: Spec) -> Settings:
    timeouts_s = (spec.mcp.request_timeout, spec.mcp.max_request_timeout)
    calls = (spec.mcp.max_retries, spec.max_calls_per_minute)
    return Settings(spec.concurrency, spec.share, spec.spares, *timeouts_s, *calls, spec.denied_tools)


@dataclass(frozen=True, slots=True)
class RunningAgents:
    """Holds the running set, for the rooms that change it."""

    workers: WorkersGroup
    registry: Registry
    table: AgentTable
    revisions: Revisions
    tools: ToolCache
    tenants: Tenants
    room: TenantRoom
    emergency: EmergencyStopSwitch
    startup: Startup
    operations: Operations
    replicas: Replicas
    control: ServerControl
    servers: McpServers

    @property
    def agents(self) -> dict[str, Agent]:
        """Returns the agents and servers by name."""
        return self.registry.agents

    @property
    def config(self) -> Config:
        """Returns the configuration in force."""
        return self.registry.config

    @property
    def draining(self) -> bool:
        """Returns whether the daemon is stopping."""
        return self.registry.draining

    @property
    def bus(self) -> Bus:
        """Returns the bus."""
        return self.workers.shared.bus

    @property
    def zygotes(self) -> ZygotePool:
        """Returns the zygotes."""
        return self.workers.shared.zygotes


def make_running(
    records: RecordsGroup, workers: WorkersGroup, registry: Registry, pool: Pool, tenants: TenantsGroup
) -> RunningAgents:
    """Makes the running set of one daemon, empty."""
    shared, store = workers.shared, records.store
    pins = ToolPins(store, shared.bus, records.audit)
    table, revisions = AgentTable(store), Revisions(store, shared.bus)
    tools, emergency = ToolCache(store, shared.bus, pool, pins), EmergencyStopSwitch(table, shared.bus)
    room = TenantRoom(registry, tenants.gate)
    startup = Startup(registry, emergency, shared.bus, tenants.tenants, room)
    operations = Operations(shared, registry, startup, emergency)
    replicas = Replicas(workers, registry, revisions, startup, operations, tools)
    control = ServerControl(registry, emergency, startup, operations, replicas)
    servers = McpServers(pool, tools, control)
    return RunningAgents(
        workers,
        registry,
        table,
        revisions,
        tools,
        tenants.tenants,
        room,
        emergency,
        startup,
        operations,
        replicas,
        control,
        servers,
    )
