"""Serves the method `tenant.rm`: ends all of a tenant, then erases it."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.secrets.store import SecretStore
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.workflows.schedules import Schedules
from corral.supervisor.tenants.registry.removal import erase
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.tenants.tokens.tokens import Tokens
from corral.worker.contract.errors import Conflict
from corral.worker.contract.names import tenant_of
from corral.worker.control.tenants import TenantNameParams, TenantRemoved
from corral.worker.methods.tenant import TENANT_RM

from ..table.caller import Caller
from ..table.handlers import serve

Forget = Callable[[str], Awaitable[None] | None]
"""Ends and forgets what one part of the daemon holds of a tenant."""


class RemovalMethods:
    """Serves `tenant.rm`; `forgetting` are called in their order before files and rows are erased."""

    def __init__(
        self, tenants: Tenants, agents: Agents, store: Store, bus: Bus, state_dir: Path, forgetting: Sequence[Forget]
    ) -> None:
        self._tenants = tenants
        self._agents = agents
        self._store = store
        self._bus = bus
        self._state_dir = state_dir
        self._forgetting = forgetting

    @serve(TENANT_RM)
    async def _rm(self, params: TenantNameParams, _caller: Caller) -> TenantRemoved:
        name, tenants = params.name, self._tenants
        self._check(name)
        with tenants.removal(name):
            await tenants.keep(name, replace(tenants.kept(name), removing=True))
            for forget in self._forgetting:
                if (waiting := forget(name)) is not None:
                    await waiting
            erased = await erase(self._store, tenants, self._state_dir, name)
        self._bus.publish("tenant.removed", tenant=name, store=False)
        return TenantRemoved(removed=[name], erased=erased)

    def _check(self, name: str) -> None:
        """Refuses a tenant that is not there, or that the file has."""
        tenants, config = self._tenants, self._agents.config
        if tenants.find(name) is None and name not in tenants.kept_names():
            tenants.of(name)
        of_file = [key for key in (*config.agents, *config.groups, *config.schedules) if tenant_of(key) == name]
        if name in config.tenants or of_file:
            words = "the configuration file has it: take its tables out, and reload"
            raise Conflict(f'cannot remove tenant "{name}": {words}', name=name, reason="file", names=sorted(of_file))


class RunningSet:
    """Ends what tenants run: their agents, the tasks and schedules of these, and what they remember."""

    def __init__(
        self, agents: Agents, hibernation: Hibernation, tasks: Tasks, schedules: Schedules, memory: Memory
    ) -> None:
        self._agents = agents
        self._hibernation = hibernation
        self._tasks = tasks
        self._schedules = schedules
        self._memory = memory

    async def forget(self, tenant: str) -> None:
        """Ends all of a tenant, and removes it."""
        agents = [each for each in self._agents.agents.values() if tenant_of(each.name) == tenant]
        groups = [each for each in self._agents.groups.by_name if tenant_of(each) == tenant]
        self._hibernation.stopped([k for agent in agents for k in agent.supervisors])
        await self._tasks.cancel_all(tenant)
        if agents:
            await self._agents.membership.take_out(agents, groups)
        elif groups:
            await self._agents.membership.remove(groups, cascade=True)
        for schedule in self._schedules.list():
            if tenant_of(schedule.task.agent or schedule.name) == tenant:
                await self._schedules.remove(schedule.name)
        for agent in agents:
            await self._memory.clear(agent.name, None)


async def forget_tokens(tokens: Tokens, tenant: str) -> None:
    """Removes the tokens of a tenant."""
    for token in tokens.list():
        if tenant_of(token.name) == tenant:
            await tokens.remove(token.name)


def forget_secrets(secrets: SecretStore | None, tenant: str) -> None:
    """Removes the secrets of a tenant."""
    for secret in () if secrets is None else secrets.names():
        if secrets is not None and tenant_of(secret) == tenant:
            secrets.remove(secret)
