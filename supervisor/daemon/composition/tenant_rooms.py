"""Composes the rooms of tenants: their tables, accounts, limits, and what looks at their use.

Nothing is decided here. `composition` makes it before the agents, which start within these limits, and binds it after the
tasks, which it frees.
"""

from pathlib import Path

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tenants.limits.disk import TenantDisk
from corral.supervisor.tenants.limits.slices import Slices
from corral.supervisor.tenants.limits.sums import over_disk
from corral.supervisor.tenants.limits.trees import TenantTrees
from corral.supervisor.tenants.quotas.disk_use import DiskUse
from corral.supervisor.tenants.quotas.refusals import Refusals
from corral.supervisor.tenants.quotas.room import TenantGate
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.shared import Shared
from corral.supervisor.workers.supervision.worker_changes import WorkerChanges
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor


class TenantRooms:
    """Holds the rooms of tenants of a running daemon."""

    def __init__(
        self, shared: Shared, state_dir: Path, tenants: Tenants, accounts: Accounts, limits: LimitEnforcer
    ) -> None:
        self.tenants = tenants
        refusals = Refusals(shared.bus)
        self.disk_use = DiskUse(self.tenants, refusals)
        self.disk = TenantDisk(self.disk_use, shared.store, state_dir)
        self.accounts = accounts
        self.task_limits = TaskLimits(self.tenants, refusals, self.disk_use)
        self.trees = TenantTrees(self.tenants, limits, lambda: shared.launcher.containment, refusals)
        self.slices = Slices(self.tenants, shared.launcher, refusals.note)
        self.gate = TenantGate(self.tenants, refusals, self.trees.processes, self.disk_use.files)

    def subscribe(self, changes: WorkerChanges[WorkerSupervisor]) -> None:
        """Follows the changes of workers."""
        changes.subscribe(self.slices.changed)
        changes.subscribe(self.trees.changed)

    def follow(self, agents: Agents, tasks: Tasks) -> None:
        """Puts changed limits in force for agents and tasks."""

        def changed(name: str) -> None:
            if self.tenants.find(name) is None:  # a removed one has used nothing
                self.task_limits.forget(name)
                self.disk_use.forget(name)
            tasks.budgets.look_again()
            agents.startup.fill_room()

        def over(tenant: str, limit: int, used: int) -> None:
            self.trees.hold_all(tenant, over_disk(tenant, limit, used), agents.startup.hold_until_room)

        self.disk.subscribe(over, agents.startup.fill_room)
        self.tenants.subscribe(changed)
        agents.in_force.subscribe(lambda _: self.slices.reloaded())
        agents.in_force.subscribe(lambda _: self.trees.reloaded())

    def measured(self, tenant: str) -> dict[str, float]:
        """Returns what a tenant was seen to use of the limits that are measured, by key."""
        return {
            "max_processes": self.trees.processes(tenant),
            "max_memory_bytes": self.trees.memory_bytes(tenant),
            "max_disk_bytes": self.disk_use.used(tenant),
        }
