"""Makes the running set, and what changes it: on request, by its load, by deployments."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from corral.mcp.pool.pool import Pool
from corral.supervisor.config.declared.stores import DeclaredStore
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.records.memory.expiry import Expiry
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.tenants.limits.sums import over_disk
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.lifecycle.state_machine import UP

from .demand.activation import SocketActivation
from .demand.autoscaler import Autoscaler
from .demand.hibernation import Hibernation
from .deployment.deployments import Deployments
from .deployment.folders import Integrity, MarkedFolders
from .deployment.installer import INSTALLED, Installer
from .deployment.plan import PackageSource
from .deployment.records import Records
from .deployment.running_set import RunningSet
from .external.logins import Logins
from .external.steps import Steps
from .external.stores import Stores, User
from .external.token_store import TokenStore
from .membership.agents import Agents
from .packages.store import Packages
from .rollout.rollouts import RollingRestart, Rollouts
from .running.registry import Registry
from .running.running_agents import make_running


@dataclass(frozen=True, slots=True)
class AgentsGroup:
    """Holds what other groups use of the agents of one daemon."""

    agents: Agents
    pool: Pool
    logins: Logins
    stores: Stores
    memory: Memory
    memory_expiry: Expiry
    rollouts: Rollouts
    rolling_restart: RollingRestart
    hibernation: Hibernation
    autoscaler: Autoscaler
    activation: SocketActivation
    packages: Packages
    deployments: Deployments


def make_agents(records: RecordsGroup, workers: WorkersGroup, tenants: TenantsGroup, registry: Registry) -> AgentsGroup:
    """Makes them upon the registry of their names, which is empty until the daemon loads."""
    bus, host = records.bus, workers.host

    def note_refused(server: str, limit: int, wait_s: float) -> None:
        reason = f"max_calls_per_minute = {limit} is used up"
        bus.publish("limit.calls", agent=server, limit=limit, wait_s=round(wait_s, 3), reason=reason)

    pool = Pool(on_refused=note_refused)
    grants = TokenStore(records.state_dir, host.environ.get("CREDENTIALS_DIRECTORY"))
    logins = Logins(grants, Steps(workers.commands, host), bus.publish)
    workers.requests.give_tokens_by(logins.token)

    running = make_running(records, workers, registry, pool, tenants)
    rollouts, rolling_restart = Rollouts(running), RollingRestart(running)
    agents = Agents(running, rollouts, logins)
    startup = agents.startup

    def over(tenant: str, limit: int, used: int) -> None:
        tenants.trees.hold_all(tenant, over_disk(tenant, limit, used), startup.hold_until_room)

    tenants.disk.subscribe(over, startup.fill_room)
    tenants.tenants.subscribe(lambda _: startup.fill_room())

    hibernation = Hibernation(agents, workers.checkpoints)
    workers.requests.begin_by(hibernation.checkpoint_of)
    agents.membership.subscribe(hibernation.removed)
    autoscaler = Autoscaler(agents)
    agents.replicas.subscribe(autoscaler.resized)
    records.in_force.subscribe(autoscaler.reloaded)

    host.before_launch(Integrity(MarkedFolders(records.state_dir / INSTALLED)).checked)
    packages = Packages(records.store, records.state_dir / "packages", records.in_force)
    deployments = _deployments(records, workers, tenants.accounts, agents, packages, rollouts)
    packages.keep_for(deployments.users_of)

    memory = Memory(records.store, bus, records.in_force, registry.spec_of, tenants.tenants.all)
    activation = SocketActivation(agents, bus, workers.shared.sockets)
    return AgentsGroup(
        *(agents, pool, logins, _stores(records, workers, agents), memory, Expiry(records.store, memory), rollouts),
        *(rolling_restart, hibernation, autoscaler, activation, packages, deployments),
    )


def _deployments(
    records: RecordsGroup,
    workers: WorkersGroup,
    accounts: Accounts,
    agents: Agents,
    packages: Packages,
    rollouts: Rollouts,
) -> Deployments:
    def folder_of(tenant: str) -> str:
        return str(accounts.folder(tenant))

    host = workers.host
    return Deployments(
        Records(records.store, records.bus),
        Installer(workers.commands, host, accounts.floor, records.logs, records.state_dir),
        PackageSource(packages),
        RunningSet(agents, rollouts, host, folder_of),
        host.environ.get("PATH", os.defpath),
        folder_of,
    )


def _stores(records: RecordsGroup, workers: WorkersGroup, agents: Agents) -> Stores:
    def users() -> Iterable[User]:
        for agent in agents.agents.values():
            runs = any(supervisor.worker.state in UP for supervisor in agent.supervisors)
            yield User(agent.name, agent.spec.stores, runs)

    def expanded(store: DeclaredStore, agent: str) -> str:
        """Returns the address of a store with the secrets that an agent gets."""
        return workers.host.secrets.expand({store.name: store.url}, agent, "store")[store.name]

    return Stores(records.in_force, users, expanded, records.bus.publish)
