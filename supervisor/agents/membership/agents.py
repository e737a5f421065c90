"""Composes the running set of one daemon, and offers it to the rooms above.

Begin reading here: `registry` finds agents by name, `membership` adds and removes them, `tables` changes one, `reload`
follows the file, `replicas` changes their number of workers, `operations` starts and stops workers, `startup` knows the
order and the limit.
"""

import logging
from collections.abc import Iterable

from corral.supervisor.config.spec.spec import Config, Spec
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.worker.contract.errors import Timeout

from ..external.logins import Logins
from ..kept.agent_rows import EmergencyStop
from ..kept.overrides import Overrides
from ..rollout.rollouts import Rollouts
from ..running.running_agents import RunningAgents
from .changes import SpecChanges
from .groups import Groups
from .loading import Loading
from .membership import Membership
from .reload import Reload
from .tables import Tables

logger = logging.getLogger(__name__)


class Agents:
    """Holds the agents and MCP servers of one daemon by name, and offers the operations on them."""

    def __init__(self, running: RunningAgents, rollouts: Rollouts, logins: Logins) -> None:
        self.shared = running.workers.shared
        self.registry = registry = running.registry
        self.in_force = registry.in_force
        self.agents = registry.agents
        self.of, self.unknown = registry.of, registry.unknown
        self.supervisors, self.all_supervisors, self.selected = (
            registry.supervisors,
            registry.all_supervisors,
            registry.selected,
        )
        self.tenants = running.tenants
        self.revisions = running.revisions
        self.emergency = running.emergency
        self.startup = running.startup
        self.operations = running.operations
        self.replicas = running.replicas
        self.servers = running.servers
        self.check_may_call = running.control.check_may_call
        self.overrides = overrides = Overrides(running.revisions, registry.config)
        self.groups = groups = Groups(running, overrides)
        self.changes = changes = SpecChanges(running, rollouts)
        self.membership = membership = Membership(running, changes, groups, overrides, logins)
        self.tables = Tables(registry, groups, overrides, membership)
        self.reload = Reload(running, membership, changes, groups, overrides)
        self._loading = Loading(running, membership, changes, groups, overrides)

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

    # -- the daemon's life

    async def load(self, built_in: Iterable[Spec]) -> None:
        """Takes in the configured agents, those added at run time, and the built-in ones."""
        await self._loading.load(built_in)

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
        self._loading.resume()

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
