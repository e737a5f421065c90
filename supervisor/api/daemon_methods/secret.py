"""Serves the methods `secret.*` of the table: they set, list, rotate and remove secrets, and never return one."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.secrets.secrets import referred
from corral.supervisor.config.secrets.store import SecretStore
from corral.supervisor.tenants.tokens.scope import own_globs
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.worker.contract.errors import Conflict
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.control.params import NoParams, SecretRemoveParams, SecretRotateParams, SecretSetParams
from corral.worker.control.results import Secret, SecretRotated, Secrets, SecretUse
from corral.worker.methods.secret import SECRET_LIST, SECRET_RM, SECRET_ROTATE, SECRET_SET

from ..table.results import as_result
from ..table.table import Caller, Control, serve


@serve(SECRET_SET)
async def _set(control: Control, params: SecretSetParams, _caller: Caller) -> SecretUse:
    _check_tenant(control, params.name)
    await asyncio.to_thread(
        _store(control).set,
        params.name,
        params.secret,
        tuple(own_globs(params.agents, tenant_of(params.name)) or ()),
        replace=params.replace,
    )
    return SecretUse(name=params.name, used_by=_users(control, params.name))


@serve(SECRET_LIST)
async def _list(control: Control, _params: NoParams, caller: Caller) -> Secrets:
    secrets = control.shared.host.secrets
    found = await asyncio.to_thread(secrets.listed)
    if caller.tenant:
        found = [each for each in found if tenant_of(str(each["name"])) == caller.tenant]
    named = {
        name
        for agent in control.agents.agents.values()
        for name in _named_by(agent)
        if caller.tenant in ("", tenant_of(name))
    }
    known = {str(each["name"]) for each in found}
    lost = [Secret(name=each, source=None, used_by=[]) for each in sorted(named - known)]
    kept = [as_result({**each, "used_by": []}, Secret) for each in found]
    users = {each.name: _users(control, each.name) for each in (*kept, *lost)}
    return Secrets(secrets=[replace(each, used_by=users[each.name]) for each in (*kept, *lost)])


@serve(SECRET_RM)
async def _remove(control: Control, params: SecretRemoveParams, _caller: Caller) -> SecretUse:
    users = _users(control, params.name)
    if users and not params.force:
        words = f"{', '.join(users)} could not start without it; --force removes it"
        raise Conflict(f'cannot remove secret "{params.name}": {words}', name=params.name, used_by=users)
    await asyncio.to_thread(_store(control).remove, params.name)
    return SecretUse(name=params.name, used_by=users)


@serve(SECRET_ROTATE)
async def _rotate(control: Control, params: SecretRotateParams, _caller: Caller) -> SecretRotated:
    globs = own_globs(params.agents, tenant_of(params.name))
    agents = None if globs is None else tuple(globs)
    await asyncio.to_thread(_store(control).rotate, params.name, params.secret, agents)
    users = _users(control, params.name)
    restarted = await _restarted(control, users) if params.restart else []
    return SecretRotated(name=params.name, used_by=users, restarted=restarted)


async def _restarted(control: Control, names: Sequence[str]) -> list[str]:
    """Restarts the workers of agents that are up one after another, each until it is up; returns their ids."""
    found: list[str] = []
    for name in names:
        for supervisor in control.agents.selected([name], False):
            if supervisor.worker.state in UP:
                await control.agents.operations.restart([supervisor])
                found.append(supervisor.id)
    return found


def _check_tenant(control: Control, name: str) -> None:
    """Refuses the name of a secret of a tenant that is not there."""
    if tenant := tenant_of(name):
        control.tenants.of(tenant)


def _store(control: Control) -> SecretStore:
    store = control.shared.host.secrets.store
    assert store is not None, "a daemon has a state folder"
    return store


def _users(control: Control, name: str) -> list[str]:
    """Returns the agents and servers whose specification names a secret, sorted."""
    agents = control.agents.agents.values()
    return sorted(agent.spec.name for agent in agents if name in _named_by(agent))


def _named_by(agent: Agent) -> set[str]:
    """Returns the full names of the secrets that the specification of an agent names: a tenant's are its own."""
    tenant = tenant_of(agent.spec.name)
    return {qualified(name, tenant) for name in referred(agent.spec.expandable)}
