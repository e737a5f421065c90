"""Defines the methods about tokens, secrets, tenants, and who a caller is."""

from ..control import params, results, tenants
from ..control.access import (
    LoginParams,
    NewToken,
    TokenAddParams,
    TokenList,
    TokenNameParams,
    TokenRemoved,
    TokenRotateParams,
    Whoami,
)
from .faces import faces
from .method import Signature, access, method
from .rules import OPEN, OWN_SECRET, OWN_TENANT, OWN_TENANTS, OWN_TOKEN

TOKEN_ADD = method(
    Signature("token.add", TokenAddParams, NewToken),
    access("admin", tenant=OWN_TOKEN, recorded="or-refused", recorded_keys=("rights", "agents", "expires_at")),
    faces("POST /tokens", python="add_token", command="token add"),
    "Makes a token with rights, for some agents or all, of the owner or of a tenant; only the answer has its text.",
    example={"name": "ci", "rights": "operate", "agents": ["web*"], "expires_s": 2592000.0},
)

TOKEN_LIST = method(
    Signature("token.list", params.NoParams, TokenList),
    access("admin", tenant=OPEN),
    faces("GET /tokens", python="list_tokens", command="token list"),
    "Lists the tokens with their rights, agents, expiry and last use, without their texts, which are not kept.",
)

TOKEN_RM = method(
    Signature("token.rm", TokenNameParams, TokenRemoved),
    access("admin", tenant=OWN_TOKEN, recorded="always", recorded_keys=("removed",)),
    faces("DELETE /tokens/{name}", python="remove_token", command="token rm"),
    "Removes a token: its next request is refused.",
    example={"name": "ci"},
)

TOKEN_ROTATE = method(
    Signature("token.rotate", TokenRotateParams, NewToken),
    access("admin", tenant=OWN_TOKEN, recorded="or-refused", recorded_keys=("rights", "agents", "expires_at")),
    faces("POST /tokens/{name}/rotate", python="rotate_token", command="token rotate"),
    "Replaces the text of a token, and keeps its rights; the old one ends at once, or after `overlap_s`.",
    example={"name": "ci", "overlap_s": 600.0},
)

AUTH_LOGIN = method(
    Signature("auth.login", LoginParams, Whoami),
    access("read", OPEN),
    faces(
        command="--token",
        reason="it restricts a connection of the socket; a request over HTTP brings its token and its tenant with it",
    ),
    "Restricts this connection to the rights and agents of a token, for as long as that is valid, and to a tenant; nothing is ever added.",
    example={"token": "corral_9f8e7d"},
)

AUTH_WHOAMI = method(
    Signature("auth.whoami", params.NoParams, Whoami),
    access("read", OPEN),
    faces("GET /whoami", python="whoami", command="whoami"),
    "Returns the caller as this daemon knows it: name, rights and agents.",
)


SECRET_SET = method(
    Signature("secret.set", params.SecretSetParams, results.SecretUse),
    access("admin", tenant=OWN_SECRET, recorded="or-refused", recorded_keys=("used_by",)),
    faces("PUT /secrets/{name}", python="set_secret", command="secret set"),
    "Keeps a secret for `${secret:NAME}`, of all agents or of those that match `agents`. Returns the agents that name it.",
    example={"name": "API_KEY", "secret": "a-value", "agents": ["crawler"]},
)

SECRET_LIST = method(
    Signature("secret.list", params.NoParams, results.Secrets),
    access("admin", tenant=OPEN),
    faces("GET /secrets", python="list_secrets", command="secret list"),
    "Returns the names of all secrets, their places, the agents that may have each and that name it; no values.",
)

SECRET_RM = method(
    Signature("secret.rm", params.SecretRemoveParams, results.SecretUse),
    access("admin", tenant=OWN_SECRET, recorded="or-refused"),
    faces("DELETE /secrets/{name}", python="remove_secret", command="secret rm"),
    "Removes a kept secret. One that agents name is refused without `force`.",
    example={"name": "API_KEY"},
)

SECRET_ROTATE = method(
    Signature("secret.rotate", params.SecretRotateParams, results.SecretRotated),
    access("admin", tenant=OWN_SECRET, recorded="or-refused", recorded_keys=("used_by", "restarted")),
    faces("POST /secrets/{name}/rotate", python="rotate_secret", command="secret rotate"),
    "Replaces the value of a kept secret; with `restart` the workers of agents that name it restart one after another.",
    example={"name": "API_KEY", "secret": "a-new-value", "restart": True},
)


TENANT_RM = method(
    Signature("tenant.rm", tenants.TenantNameParams, tenants.TenantRemoved),
    access("admin", recorded="always", recorded_keys=("removed", "erased")),
    faces("DELETE /tenants/{name}", python="remove_tenant", command="tenant rm"),
    """Ends a tenant's processes, then erases its data; only the audit keeps its records.

    A tenant that the configuration file has is a Conflict: its tables go first. So is one whose removal is under way.
    """,
    example={"name": "acme"},
)

TENANT_ADD = method(
    Signature("tenant.add", tenants.TenantAddParams, tenants.TenantAdded),
    access("admin", recorded="or-refused", recorded_keys=("created", "restarted")),
    faces("PUT /tenants/{name}", python="add_tenant", command="tenant add"),
    """Adds a tenant, or returns the existing one, whose agents that have given up start again.

    A tenant that is there with other values of the given keys is a Conflict, and so is any with `new`.
    """,
    example={"name": "acme", "spec": {"tier": "free", "max_agents": 5}},
)

TENANT_LIST = method(
    Signature("tenant.list", params.NoParams, tenants.Tenants),
    access("read", tenant=OWN_TENANTS),
    faces("GET /tenants", python="list_tenants", command="tenant list"),
    "Lists the tenants with their limits and counts; a tenant sees only itself.",
)

TENANT_SHOW = method(
    Signature("tenant.show", tenants.TenantShowParams, tenants.TenantShown),
    access("read", tenant=OWN_TENANT),
    faces("GET /tenants/{name}", "GET /tenant", python="show_tenant", command="tenant show"),
    """Returns one tenant in full: its table, the names of what it has, and the layers that keep it apart.

    A caller that is bound to a tenant names its own, or none.
    """,
    example={"name": "acme"},
)

TENANT_SET = method(
    Signature("tenant.set", tenants.TenantSetParams, tenants.TenantChanged),
    access("admin", recorded="or-refused", recorded_keys=("keys",)),
    faces("PATCH /tenants/{name}", python="set_tenant", command="tenant set"),
    "Changes keys of the table of a tenant at once; null restores the value of the file or the tier.",
    example={"name": "acme", "spec": {"max_agents": 10}},
)

TENANT_SUSPEND = method(
    Signature("tenant.suspend", tenants.TenantNameParams, tenants.TenantSwitched),
    access("admin", recorded="always", recorded_keys=("workers",)),
    faces("POST /tenants/{name}/suspend", python="suspend_tenant", command="tenant suspend"),
    "Stops all agents and servers of a tenant, and refuses its tasks and starts until it is resumed; repeating it is harmless.",
    example={"name": "acme"},
)

TENANT_RESUME = method(
    Signature("tenant.resume", tenants.TenantNameParams, tenants.TenantSwitched),
    access("admin", recorded="or-refused", recorded_keys=("workers",)),
    faces("POST /tenants/{name}/resume", python="resume_tenant", command="tenant resume"),
    "Starts the agents of a suspended tenant that start by themselves, and accepts its tasks again; repeating it is harmless.",
    example={"name": "acme"},
)
