"""Serves the methods `secret.*` of the table: they set, list, rotate and remove secrets, and never return one."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.secrets.secrets import Secrets as SecretValues
from corral.supervisor.config.secrets.secrets import referred
from corral.supervisor.config.secrets.store import SecretStore
from corral.supervisor.tenants.registry.tenants import Tenants as TenantRegistry
from corral.supervisor.tenants.tokens.scope import own_globs
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.worker.contract.errors import Conflict
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.control.params import NoParams, SecretRemoveParams, SecretRotateParams, SecretSetParams
from corral.worker.control.results import Secret, SecretRotated, Secrets, SecretUse
from corral.worker.methods.secret import SECRET_LIST, SECRET_RM, SECRET_ROTATE, SECRET_SET

from ..table.caller import Caller
from ..table.handlers import serve
from ..table.results import as_result


class SecretMethods:
    """Serves the methods `secret.*`."""

    def __init__(self, agents: Agents, tenants: TenantRegistry, secrets: SecretValues) -> None:
        self._agents = agents
        self._tenants = tenants
        self._secrets = secrets

    @serve(SECRET_SET)
    async def _set(self, params: SecretSetParams, _caller: Caller) -> SecretUse:
        self._check_tenant(params.name)
        await asyncio.to_thread(
            self._store().set,
            params.name,
            params.secret,
            tuple(own_globs(params.agents, tenant_of(params.name)) or ()),
            replace=params.replace,
        )
        return SecretUse(name=params.name, used_by=self._users(params.name))

    @serve(SECRET_LIST)
    async def _list(self, _params: NoParams, caller: Caller) -> Secrets:
        found = await asyncio.to_thread(self._secrets.listed)
        if caller.tenant:
            found = [each for each in found if tenant_of(str(each["name"])) == caller.tenant]
        named = {
            name
            for agent in self._agents.agents.values()
            for name in _named_by(agent)
            if caller.tenant in ("", tenant_of(name))
        }
        known = {str(each["name"]) for each in found}
        lost = [Secret(name=each, source=None, used_by=[]) for each in sorted(named - known)]
        kept = [as_result({**each, "used_by": []}, Secret) for each in found]
        users = {each.name: self._users(each.name) for each in (*kept, *lost)}
        return Secrets(secrets=[replace(each, used_by=users[each.name]) for each in (*kept, *lost)])

    @serve(SECRET_RM)
    async def _rm(self, params: SecretRemoveParams, _caller: Caller) -> SecretUse:
        users = self._users(params.name)
        if users and not params.force:
            words = f"{', '.join(users)} could not start without it; --force removes it"
            raise Conflict(f'cannot remove secret "{params.name}": {words}', name=params.name, used_by=users)
        await asyncio.to_thread(self._store().remove, params.name)
        return SecretUse(name=params.name, used_by=users)

    @serve(SECRET_ROTATE)
    async def _rotate(self, params: SecretRotateParams, _caller: Caller) -> SecretRotated:
        globs = own_globs(params.agents, tenant_of(params.name))
        agents = None if globs is None else tuple(globs)
        await asyncio.to_thread(self._store().rotate, params.name, params.secret, agents)
        users = self._users(params.name)
        restarted = await self._restarted(users) if params.restart else []
        return SecretRotated(name=params.name, used_by=users, restarted=restarted)

    async def _restarted(self, names: Sequence[str]) -> list[str]:
        """Restarts the workers of agents that are up one after another, each until it is up; returns their ids."""
        found: list[str] = []
        for name in names:
            for supervisor in self._agents.selected([name], False):
                if supervisor.worker.state in UP:
                    await self._agents.operations.restart([supervisor])
                    found.append(supervisor.id)
        return found

    def _check_tenant(self, name: str) -> None:
        """Refuses the name of a secret of a tenant that is not there."""
        if tenant := tenant_of(name):
            self._tenants.of(tenant)

    def _store(self) -> SecretStore:
        store = self._secrets.store
        assert store is not None, "a daemon has a state folder"
        return store

    def _users(self, name: str) -> list[str]:
        """Returns the agents and servers whose specification names a secret, sorted."""
        return sorted(agent.spec.name for agent in self._agents.agents.values() if name in _named_by(agent))


def _named_by(agent: Agent) -> set[str]:
    """Returns the full names of the secrets that the specification of an agent names: a tenant's are its own."""
    tenant = tenant_of(agent.spec.name)
    return {qualified(name, tenant) for name in referred(agent.spec.expandable)}
