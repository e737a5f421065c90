"""Serves the methods `token.*`, `auth.*`, `secret.*` and `audit.*` of the table: who may do what, and who has done what.

It never returns a secret.
"""

import asyncio
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.secrets.secrets import Secrets as SecretValues
from corral.supervisor.config.secrets.secrets import referred
from corral.supervisor.config.secrets.store import SecretStore
from corral.supervisor.records.audit.hash_chain import Record, parse_position
from corral.supervisor.records.audit.log import Audit, stamp
from corral.supervisor.tenants.registry.tenants import Tenants as TenantRegistry
from corral.supervisor.tenants.tokens.scope import own_globs
from corral.supervisor.tenants.tokens.tokens import Tokens, digest_of
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, PermissionDenied
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.control import access as shapes
from corral.worker.control.params import (
    AuditParams,
    NoParams,
    SecretRemoveParams,
    SecretRotateParams,
    SecretSetParams,
    VerifyParams,
)
from corral.worker.control.results import AuditPage, AuditVerdict, Secret, SecretRotated, Secrets, SecretUse
from corral.worker.methods import access as methods
from corral.worker.methods.events import AUDIT_LIST, AUDIT_VERIFY

from ..table.cluster import JoinedCluster
from ..table.handlers import Caller, as_result, narrowed, serve


class AccessMethods:
    """Serves the methods `token.*` and `auth.*`."""

    def __init__(self, tokens: Tokens, tenants: TenantRegistry, joined: JoinedCluster) -> None:
        self._tokens = tokens
        self._tenants = tenants
        self._joined = joined

    @serve(methods.TOKEN_ADD)
    async def _add(self, params: shapes.TokenAddParams, caller: Caller) -> shapes.NewToken:
        tenant = params.tenant or tenant_of(params.name) or caller.tenant
        name = qualified(params.name, tenant)
        if tenant_of(name) != tenant or caller.tenant not in ("", tenant):
            raise NotFound(f'cannot find tenant "{tenant}"', name=tenant, known=[])
        if tenant:
            self._tenants.of(tenant)
        return await self._tokens.add(
            name,
            params.rights,
            own_globs(params.agents, tenant) if tenant else params.agents,
            params.expires_s,
            _named(caller.who),
        )

    @serve(methods.TOKEN_LIST)
    async def _list(self, _params: NoParams, caller: Caller) -> shapes.TokenList:
        return shapes.TokenList(self._tokens.list(caller.tenant or None))

    @serve(methods.TOKEN_RM)
    async def _rm(self, params: shapes.TokenNameParams, _caller: Caller) -> shapes.TokenRemoved:
        await self._tokens.remove(params.name)
        return shapes.TokenRemoved([params.name])

    @serve(methods.TOKEN_ROTATE)
    async def _rotate(self, params: shapes.TokenRotateParams, _caller: Caller) -> shapes.NewToken:
        return await self._tokens.rotate(params.name, params.overlap_s, params.expires_s)

    @serve(methods.AUTH_LOGIN)
    async def _login(self, params: shapes.LoginParams, caller: Caller) -> shapes.Whoami:
        if params.token is None and params.tenant is None:
            raise InvalidParams("cannot log in: give a token, a tenant, or both", key="token")
        tenant, digest = params.tenant or "", None
        if params.token is not None:
            grant, digest = self._tokens.find(params.token), digest_of(params.token)
            if grant is None or (caller.tenant and grant.tenant not in ("", caller.tenant)):
                raise PermissionDenied("cannot log in: the token is wrong or has expired", reason="token")
            tenant = narrowed(self._tenants, grant.tenant, tenant)
        tenant = narrowed(self._tenants, caller.tenant, tenant)
        caller.log_in(digest, tenant)
        return self._whoami(caller)

    @serve(methods.AUTH_WHOAMI)
    async def _auth_whoami(self, _params: NoParams, caller: Caller) -> shapes.Whoami:
        return self._whoami(caller)

    def _whoami(self, caller: Caller) -> shapes.Whoami:
        token = caller.who.get("token")
        return shapes.Whoami(
            name=str(token or caller.name),
            rights=caller.permission,
            agents=None if caller.agents is None else list(caller.agents),
            tenant=caller.tenant or None,
            via="http" if "http" in caller.who else "socket",
            token=None if token is None else str(token),
            node=self._joined.cluster.name or None,
        )


def _named(who: Mapping[str, object]) -> str:
    """Returns the caller in a few words, from the name that the audit has of it."""
    for key in ("token", "agent", "uid"):
        if who.get(key) is not None:
            return f"{key} {who[key]}"
    return "unknown"


class SecretMethods:
    """Serves the methods `secret.*`."""

    def __init__(self, agents: Agents, tenants: TenantRegistry, secrets: SecretValues) -> None:
        self._agents = agents
        self._tenants = tenants
        self._secrets = secrets

    @serve(methods.SECRET_SET)
    async def _set(self, params: SecretSetParams, _caller: Caller) -> SecretUse:
        if tenant := tenant_of(params.name):
            self._tenants.of(tenant)
        await asyncio.to_thread(
            self._store().set,
            params.name,
            params.secret,
            tuple(own_globs(params.agents, tenant_of(params.name)) or ()),
            replace=params.replace,
        )
        return SecretUse(name=params.name, used_by=self._users(params.name))

    @serve(methods.SECRET_LIST)
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

    @serve(methods.SECRET_RM)
    async def _rm(self, params: SecretRemoveParams, _caller: Caller) -> SecretUse:
        users = self._users(params.name)
        if users and not params.force:
            words = f"{', '.join(users)} could not start without it; --force removes it"
            raise Conflict(f'cannot remove secret "{params.name}": {words}', name=params.name, used_by=users)
        await asyncio.to_thread(self._store().remove, params.name)
        return SecretUse(name=params.name, used_by=users)

    @serve(methods.SECRET_ROTATE)
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

    def _store(self) -> SecretStore:
        store = self._secrets.store
        assert store is not None, "a daemon has a state folder"
        return store

    def _users(self, name: str) -> list[str]:
        return sorted(agent.spec.name for agent in self._agents.agents.values() if name in _named_by(agent))


def _named_by(agent: Agent) -> set[str]:
    tenant = tenant_of(agent.spec.name)
    return {qualified(name, tenant) for name in referred(agent.spec.expandable)}


RECORDS = 100
"""Number of records on a page, unless `n` asks for more."""


class AuditMethods:
    """Serves the methods `audit.*`."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    @serve(AUDIT_LIST)
    async def _list(self, params: AuditParams, caller: Caller) -> AuditPage:
        n = RECORDS if params.n is None else params.n
        if params.since is not None and params.before is not None:
            raise InvalidParams("cannot list from both ends: give since or before", key="before")
        records, next_place = await self._audit.page(
            n, _filter(params, caller.tenant), after=params.since, before=params.before
        )
        return AuditPage(records=records, next=next_place)

    @serve(AUDIT_VERIFY)
    async def _verify(self, params: VerifyParams, _caller: Caller) -> AuditVerdict:
        expected = None
        if params.head is not None:
            try:
                expected = parse_position(params.head)
            except ValueError:
                words = f'cannot look for "{params.head}": a head is NUMBER:HASH, with 64 digits of hash'
                raise InvalidParams(words, key="head", value=params.head) from None
        return as_result(await self._audit.verify(expected), AuditVerdict)


def _filter(params: AuditParams, tenant: str) -> Callable[[Record], bool]:
    actions = [re.compile(fnmatch.translate(glob)) for glob in params.actions or ()]
    since = None if params.since_time is None else stamp(params.since_time)
    until = None if params.until_time is None else stamp(params.until_time)

    def is_wanted(record: Record) -> bool:
        at, action = str(record.get("at")), str(record.get("action"))
        return (
            (since is None or at >= since)
            and (until is None or at < until)
            and (not actions or any(each.match(action) for each in actions))
            and (params.name is None or _is_about(record, params.name))
            and (not tenant or _is_of(record, tenant))
        )

    return is_wanted


def _is_of(record: Record, tenant: str) -> bool:
    """Returns whether a record is one of a tenant: of its callers and agents, or about nothing but what is its own."""
    who = codec.as_object(record.get("who")) or {}
    if who.get("tenant") == tenant or tenant_of(str(who.get("agent") or "")) == tenant:
        return True
    names = codec.as_array(record.get("names")) or []
    return bool(names) and all(tenant_of(str(each)) == tenant for each in names)


def _is_about(record: Record, name: str) -> bool:
    who = codec.as_object(record.get("who")) or {}
    words = [*(codec.as_array(record.get("names")) or ()), record.get("server")]
    words += [who.get("agent"), who.get("worker")]
    results = codec.as_object(record.get("told")) or {}
    for value in results.values():  # what a reload touched
        words += codec.as_array(value) or codec.as_object(value) or ()
    return any(word in (name, "*") or (isinstance(word, str) and word.rpartition("-")[0] == name) for word in words)
