"""Groups the agents that there are with what starts, stops and counts their workers."""

from dataclasses import dataclass

from corral.mcp.pool.pool import Pool
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Store
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.tenants.quotas.room import TenantRoom
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.zygote.pool import ZygotePool

from ..kept.agent_rows import AgentTable
from ..kept.revisions import Revisions
from .agent import Agent
from .emergency_stop import EmergencyStopSwitch
from .mcp_server import McpServers, ServerControl
from .operations import Operations
from .registry import Registry
from .replicas import Replicas
from .startup import Startup
from .tool_cache import ToolCache


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
    store: Store, workers: WorkersGroup, registry: Registry, pool: Pool, tenants: TenantsGroup
) -> RunningAgents:
    """Makes the running set of one daemon, empty."""
    shared = workers.shared
    table, revisions = AgentTable(store), Revisions(store, shared.bus)
    tools, emergency = ToolCache(store, shared.bus, pool), EmergencyStopSwitch(table, shared.bus)
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
