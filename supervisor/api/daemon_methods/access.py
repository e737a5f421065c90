"""Serves the methods `token.*` and `auth.*` of the table: tokens, and the identity of the caller."""

from collections.abc import Mapping

from corral.supervisor.tenants.registry.tenants import Tenants as TenantRegistry
from corral.supervisor.tenants.tokens.scope import own_globs
from corral.supervisor.tenants.tokens.tokens import Tokens, digest_of
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.control.access import (
    LoginParams,
    NewToken,
    TokenAddParams,
    TokenList,
    TokenNameParams,
    TokenRemoved,
    TokenRotateParams,
    Whoami,
)
from corral.worker.control.params import NoParams
from corral.worker.methods.access import AUTH_LOGIN, AUTH_WHOAMI, TOKEN_ADD, TOKEN_LIST, TOKEN_RM, TOKEN_ROTATE

from ..table.caller import Caller, narrowed
from ..table.cluster import JoinedCluster
from ..table.handlers import serve


class AccessMethods:
    """Serves the methods `token.*` and `auth.*`."""

    def __init__(self, tokens: Tokens, tenants: TenantRegistry, joined: JoinedCluster) -> None:
        self._tokens = tokens
        self._tenants = tenants
        self._joined = joined

    @serve(TOKEN_ADD)
    async def _add(self, params: TokenAddParams, caller: Caller) -> NewToken:
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

    @serve(TOKEN_LIST)
    async def _list(self, _params: NoParams, caller: Caller) -> TokenList:
        return TokenList(self._tokens.list(caller.tenant or None))

    @serve(TOKEN_RM)
    async def _rm(self, params: TokenNameParams, _caller: Caller) -> TokenRemoved:
        await self._tokens.remove(params.name)
        return TokenRemoved([params.name])

    @serve(TOKEN_ROTATE)
    async def _rotate(self, params: TokenRotateParams, _caller: Caller) -> NewToken:
        return await self._tokens.rotate(params.name, params.overlap_s, params.expires_s)

    @serve(AUTH_LOGIN)
    async def _login(self, params: LoginParams, caller: Caller) -> Whoami:
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

    @serve(AUTH_WHOAMI)
    async def _auth_whoami(self, _params: NoParams, caller: Caller) -> Whoami:
        return self._whoami(caller)

    def _whoami(self, caller: Caller) -> Whoami:
        token = caller.who.get("token")
        return Whoami(
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
