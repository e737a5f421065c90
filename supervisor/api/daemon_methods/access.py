"""Serves the methods `token.*` and `auth.*` of the table: tokens, and the identity of the caller."""

from collections.abc import Mapping

from corral.supervisor.tenants.tokens.scope import OPEN, OWN_TOKEN, own_globs
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

from ..table.caller import narrowed
from ..table.faces import faces
from ..table.table import Caller, Control, method


@method(
    "token.add",
    "admin",
    TokenAddParams,
    NewToken,
    recorded="or-refused",
    recorded_keys=("rights", "agents", "expires_at"),
    tenant=OWN_TOKEN,
    faces=faces("POST /tokens", python="add_token", command="token add"),
)
async def _add(control: Control, params: TokenAddParams, caller: Caller) -> NewToken:
    """Makes a token with rights, for some agents or all, of the owner or of a tenant; the answer alone has its text."""
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


@method(
    "token.list",
    "admin",
    NoParams,
    TokenList,
    tenant=OPEN,
    faces=faces("GET /tokens", python="list_tokens", command="token list"),
)
async def _list(control: Control, _params: NoParams, caller: Caller) -> TokenList:
    """Lists the tokens with their rights, agents, ends and last use; without their texts, which are kept nowhere."""
    return TokenList(control.tokens.list(caller.tenant or None))


@method(
    "token.rm",
    "admin",
    TokenNameParams,
    TokenRemoved,
    recorded="always",
    recorded_keys=("removed",),
    tenant=OWN_TOKEN,
    faces=faces("DELETE /tokens/{name}", python="remove_token", command="token rm"),
)
async def _remove(control: Control, params: TokenNameParams, _caller: Caller) -> TokenRemoved:
    """Removes a token: its next request is refused."""
    await control.tokens.remove(params.name)
    return TokenRemoved([params.name])


@method(
    "token.rotate",
    "admin",
    TokenRotateParams,
    NewToken,
    recorded="or-refused",
    recorded_keys=("rights", "agents", "expires_at"),
    tenant=OWN_TOKEN,
    faces=faces("POST /tokens/{name}/rotate", python="rotate_token", command="token rotate"),
)
async def _rotate(control: Control, params: TokenRotateParams, _caller: Caller) -> NewToken:
    """Replaces the text of a token, and keeps its rights; the one before ends at once, or after `overlap_s`."""
    return await control.tokens.rotate(params.name, params.overlap_s, params.expires_s)


@method(
    "auth.login",
    "read",
    LoginParams,
    Whoami,
    scope=OPEN,
    faces=faces(
        command="--token",
        reason="it restricts a connection of the socket; a request over HTTP brings its token and its tenant with it",
    ),
)
async def _login(control: Control, params: LoginParams, caller: Caller) -> Whoami:
    """Restricts this connection to the rights and agents of a token, for as long as that is valid, and to a tenant; nothing is ever added."""
    if params.token is None and params.tenant is None:
        raise InvalidParams("cannot log in: give a token, a tenant, or both", key="token")
    tenant, digest = params.tenant or "", None
    if params.token is not None:
        grant, digest = control.tokens.find(params.token), digest_of(params.token)
        if grant is None or (caller.tenant and grant.tenant not in ("", caller.tenant)):
            raise PermissionDenied("cannot log in: the token is wrong, or valid no more", reason="token")
        tenant = narrowed(control.tenants, grant.tenant, tenant)
    tenant = narrowed(control.tenants, caller.tenant, tenant)
    caller.log_in(digest, tenant)
    return _whoami(control, caller)


@method(
    "auth.whoami", "read", NoParams, Whoami, scope=OPEN, faces=faces("GET /whoami", python="whoami", command="whoami")
)
async def _show(control: Control, _params: NoParams, caller: Caller) -> Whoami:
    """Returns the caller as this daemon knows it: name, rights and agents."""
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
