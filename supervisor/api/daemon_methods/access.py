"""Serves the methods `token.*` and `auth.*` of the table: tokens, and the identity of the caller."""

from collections.abc import Mapping

from corral.supervisor.tenants.tokens.scope import own_globs
from corral.supervisor.tenants.tokens.tokens import digest_of
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

from ..table.caller import narrowed
from ..table.table import Caller, Control, serve


@serve(TOKEN_ADD)
async def _add(control: Control, params: TokenAddParams, caller: Caller) -> NewToken:
    tenant = params.tenant or tenant_of(params.name) or caller.tenant
    name = qualified(params.name, tenant)
    if tenant_of(name) != tenant or caller.tenant not in ("", tenant):
        raise NotFound(f'cannot find tenant "{tenant}"', name=tenant, known=[])
    if tenant:
        control.tenants.of(tenant)
    return await control.tokens.add(
        name,
        params.rights,
        own_globs(params.agents, tenant) if tenant else params.agents,
        params.expires_s,
        _named(caller.who),
    )


@serve(TOKEN_LIST)
async def _list(control: Control, _params: NoParams, caller: Caller) -> TokenList:
    return TokenList(control.tokens.list(caller.tenant or None))


@serve(TOKEN_RM)
async def _remove(control: Control, params: TokenNameParams, _caller: Caller) -> TokenRemoved:
    await control.tokens.remove(params.name)
    return TokenRemoved([params.name])


@serve(TOKEN_ROTATE)
async def _rotate(control: Control, params: TokenRotateParams, _caller: Caller) -> NewToken:
    return await control.tokens.rotate(params.name, params.overlap_s, params.expires_s)


@serve(AUTH_LOGIN)
async def _login(control: Control, params: LoginParams, caller: Caller) -> Whoami:
    if params.token is None and params.tenant is None:
        raise InvalidParams("cannot log in: give a token, a tenant, or both", key="token")
    tenant, digest = params.tenant or "", None
    if params.token is not None:
        grant, digest = control.tokens.find(params.token), digest_of(params.token)
        if grant is None or (caller.tenant and grant.tenant not in ("", caller.tenant)):
            raise PermissionDenied("cannot log in: the token is wrong or has expired", reason="token")
        tenant = narrowed(control.tenants, grant.tenant, tenant)
    tenant = narrowed(control.tenants, caller.tenant, tenant)
    caller.log_in(digest, tenant)
    return _whoami(control, caller)


@serve(AUTH_WHOAMI)
async def _show(control: Control, _params: NoParams, caller: Caller) -> Whoami:
    return _whoami(control, caller)


def _whoami(control: Control, caller: Caller) -> Whoami:
    token = caller.who.get("token")
    return Whoami(
        name=str(token or caller.name),
        rights=caller.permission,
        agents=None if caller.agents is None else list(caller.agents),
        tenant=caller.tenant or None,
        via="http" if "http" in caller.who else "socket",
        token=None if token is None else str(token),
        node=None if control.optional_cluster is None else control.optional_cluster.name,
    )


def _named(who: Mapping[str, object]) -> str:
    """Returns the caller in a few words, from the name that the audit has of it."""
    for key in ("token", "agent", "uid"):
        if who.get(key) is not None:
            return f"{key} {who[key]}"
    return "unknown"
