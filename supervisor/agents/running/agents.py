"""Composes the running set of one daemon, and offers it to the rooms above.

Begin reading here: `registry` finds agents by name, `membership` adds and removes them, `reload` follows the file,
`replicas` changes their number of workers, `operations` starts and stops workers, `startup` knows the order and the
limit.
"""

import logging
from collections.abc import Iterable, Sequence

from corral.mcp.pool.pool import Pool
from corral.supervisor.config.spec.spec import Config, Spec
from corral.supervisor.tenants.quotas.room import TenantGate, TenantRoom
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import NotFound, Timeout

from ..kept.agent_rows import AgentTable, EmergencyStop
from ..kept.overrides import Overrides
from ..kept.revisions import Revisions
from .agent import Agent
from .changes import SpecChanges
from .emergency_stop import EmergencyStopSwitch
from .groups import Groups
from .mcp_server import McpServers, ServerControl
from .membership import Membership
from .operations import Operations
from .registry import Registry
from .reload import Reload
from .replicas import Replicas
from .startup import Startup
from .tool_cache import ToolCache

logger = logging.getLogger(__name__)


class Agents:
    """Holds the agents and MCP servers of one daemon by name, and offers the operations on them."""

    def __init__(
        self, workers: WorkersGroup, registry: Registry, pool: Pool, tenants: Tenants, gate: TenantGate | None = None
    ) -> None:
        shared = workers.shared
        table, bus = AgentTable(shared.store), shared.bus
        self.revisions = revisions = Revisions(shared.store, bus)
        tools = ToolCache(shared.store, bus, pool)
        self.shared = shared
        self.in_force = registry.in_force
        self.tenants = tenants
        self.registry = registry
        self.agents = registry.agents
        self.overrides = overrides = Overrides(revisions, registry.config)
        self.groups = Groups(bus, revisions, overrides, registry, tenants)
        self.emergency = EmergencyStopSwitch(table, bus)
        room = TenantRoom(registry, gate)
        self.startup = Startup(registry, self.emergency, bus, tenants, room)
        self.operations = Operations(shared, registry, self.startup, self.emergency)
        self.replicas = Replicas(workers, registry, revisions, self.startup, self.operations, tools)
        self._control = ServerControl(registry, self.emergency, self.startup, self.operations, self.replicas)
        self.servers = McpServers(pool, tools, self._control)
        self.changes = changes = SpecChanges(shared, registry, self.startup, self.operations, tools)
        self.membership = Membership(
            shared,
            registry,
            table,
            revisions,
            overrides,
            self.groups,
            self.emergency,
            self.startup,
            room,
            self.operations,
            self.replicas,
            tools,
            self.servers,
            changes,
            tenants,
        )
        self.reload = Reload(
            shared,
            registry,
            self.groups,
            self.emergency,
            self.startup,
            room,
            self.replicas,
            self.membership,
            changes,
            revisions,
            overrides,
            tenants,
        )

    @property
    def config(self) -> Config:
        """Returns the configuration in force."""
        return self.registry.config

    @property
    def draining(self) -> bool:
        """Returns whether the daemon is stopping."""
        return self.registry.draining

    @property
    def emergency_stop(self) -> EmergencyStop | None:
        """Returns the emergency stop that is in force."""
        return self.emergency.in_force

    # -- look-up

    def of(self, name: str) -> Agent:
        """Returns the agent or server of that name."""
        return self.registry.of(name)

    def unknown(self, what: str, name: str) -> NotFound:
        """Makes the error for a name that is no agent's; `what` is the kind that was looked for."""
        return self.registry.unknown(what, name)

    def supervisors(self, name: str) -> list[WorkerSupervisor]:
        """Returns all supervisors of an agent, or the one of a worker id."""
        return self.registry.supervisors(name)

    def all_supervisors(self) -> list[WorkerSupervisor]:
        """Returns every supervisor, in the order of the configuration."""
        return self.registry.all_supervisors()

    def selected(self, names: Sequence[str], everything: bool) -> list[WorkerSupervisor]:
        """Returns the supervisors that a command names, each once."""
        return self.registry.selected(names, everything)

    def check_may_call(self, what: str) -> None:
        """Refuses calls of servers that would be started for them; `what` is what cannot be done."""
        self._control.check_may_call(what)

    # -- the daemon's life

    async def load(self, built_in: Iterable[Spec]) -> None:
        """Takes in the configured agents, those added at run time, and the built-in ones."""
        await self.membership.load(built_in)

    def boot(self) -> None:
        """Starts what starts by itself, as far as the process limit goes and no emergency stop is in force.

        Changes that an earlier daemon had not finished go on from there.
        """
        if self.emergency.in_force is None:
            self.startup.start_within_limit(
                supervisor
                for agent in self.agents.values()
                if agent.spec.autostart
                for supervisor in agent.supervisors
                if not supervisor.is_cordoned(Unschedulable.HIBERNATED)
            )
        self.membership.resume()

    async def drain(self) -> None:
        """Stops everything, dependents before the agents that they require."""
        self.registry.draining = True
        try:
            await self.operations.stop(self.registry.lives())
        except Timeout as error:  # what the kernel cannot end must not keep the others
            logger.error("%s", error)
        await self.replicas.close(self.registry.lives())
        await self.replicas.settle()
        await self.shared.removals.finish()
        await self.shared.incarnations.release_unused()
