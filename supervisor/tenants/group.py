"""Makes the tenants, and what holds each to its rights and limits."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.workers.group import WorkersGroup
from corral.worker.contract.names import tenant_of

from .limits.disk import TenantDisk
from .limits.slices import Slices
from .limits.trees import TenantTrees
from .quotas.room import DiskUse, Refusals, TenantGate
from .quotas.task_limits import TaskLimits
from .quotas.turns import CallTurns, RequestGate
from .registry.accounts import Accounts
from .registry.tenants import Tenants
from .tokens.tokens import Tokens


@dataclass(frozen=True, slots=True)
class TenantsGroup:
    """Holds what other groups use of the tenants of one daemon."""

    tenants: Tenants
    accounts: Accounts
    tokens: Tokens
    turns: CallTurns
    gate: TenantGate
    task_limits: TaskLimits
    disk_use: DiskUse
    disk: TenantDisk
    trees: TenantTrees
    slices: Slices

    def measured(self, tenant: str) -> Mapping[str, float]:
        """Returns what a tenant was seen to use of the limits that are measured, by key."""
        return {
            "max_processes": self.trees.processes(tenant),
            "max_memory_bytes": self.trees.memory_bytes(tenant),
            "max_disk_bytes": self.disk_use.used(tenant),
        }


def make_tenants(records: RecordsGroup, workers: WorkersGroup) -> TenantsGroup:
    """Makes them; what is a tenant's is launched, served and read from within their limits from now on."""
    store, state_dir, launcher = records.store, records.state_dir, workers.launcher
    tenants, refusals = Tenants(store, records.in_force), Refusals(records.bus)
    accounts = Accounts(tenants, state_dir, workers.host.default_user)
    workers.host.before_launch(accounts.given)

    turns = CallTurns(asyncio.get_running_loop())
    records.logs.pause_by(lambda agent, size_bytes: turns.read_pause_s(tenant_of(agent), size_bytes))

    disk_use = DiskUse(tenants, refusals)
    workers.requests.admit_by(RequestGate(turns, disk_use))
    task_limits = TaskLimits(tenants, refusals, disk_use)

    def changed(name: str) -> None:
        if tenants.find(name) is None:  # a removed one has used nothing
            task_limits.forget(name)
            disk_use.forget(name)

    tenants.subscribe(changed)
    trees = TenantTrees(tenants, workers.limits, launcher, refusals)
    slices = Slices(tenants, launcher, refusals)
    records.in_force.subscribe(lambda _: slices.reloaded())
    records.in_force.subscribe(lambda _: trees.reloaded())
    return TenantsGroup(
        tenants,
        accounts,
        Tokens(store, is_tenant=lambda name: tenants.find(name) is not None),
        turns,
        TenantGate(tenants, refusals, trees.processes, disk_use.files),
        task_limits,
        disk_use,
        TenantDisk(disk_use, store, state_dir),
        trees,
        slices,
    )
