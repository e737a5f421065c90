"""Defines the methods about tokens, and who a caller is."""

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
from ..control.params import NoParams
from .faces import faces
from .method import method
from .rules import OPEN, OWN_TOKEN

TOKEN_ADD = method(
    "token.add",
    "admin",
    TokenAddParams,
    NewToken,
    recorded="or-refused",
    recorded_keys=("rights", "agents", "expires_at"),
    tenant=OWN_TOKEN,
    faces=faces("POST /tokens", python="add_token", command="token add"),
    doc="Makes a token with rights, for some agents or all, of the owner or of a tenant; the answer alone has its text.",
    example={"name": "ci", "rights": "operate", "agents": ["web*"], "expires_s": 2592000.0},
)

TOKEN_LIST = method(
    "token.list",
    "admin",
    NoParams,
    TokenList,
    tenant=OPEN,
    faces=faces("GET /tokens", python="list_tokens", command="token list"),
    doc="Lists the tokens with their rights, agents, ends and last use; without their texts, which are kept nowhere.",
)

TOKEN_RM = method(
    "token.rm",
    "admin",
    TokenNameParams,
    TokenRemoved,
    recorded="always",
    recorded_keys=("removed",),
    tenant=OWN_TOKEN,
    faces=faces("DELETE /tokens/{name}", python="remove_token", command="token rm"),
    doc="Removes a token: its next request is refused.",
    example={"name": "ci"},
)

TOKEN_ROTATE = method(
    "token.rotate",
    "admin",
    TokenRotateParams,
    NewToken,
    recorded="or-refused",
    recorded_keys=("rights", "agents", "expires_at"),
    tenant=OWN_TOKEN,
    faces=faces("POST /tokens/{name}/rotate", python="rotate_token", command="token rotate"),
    doc="Replaces the text of a token, and keeps its rights; the one before ends at once, or after `overlap_s`.",
    example={"name": "ci", "overlap_s": 600.0},
)

AUTH_LOGIN = method(
    "auth.login",
    "read",
    LoginParams,
    Whoami,
    scope=OPEN,
    faces=faces(
        command="--token",
        reason="it restricts a connection of the socket; a request over HTTP brings its token and its tenant with it",
    ),
    doc="Restricts this connection to the rights and agents of a token, for as long as that is valid, and to a tenant; nothing is ever added.",
    example={"token": "corral_9f8e7d"},
)

AUTH_WHOAMI = method(
    "auth.whoami",
    "read",
    NoParams,
    Whoami,
    scope=OPEN,
    faces=faces("GET /whoami", python="whoami", command="whoami"),
    doc="Returns the caller as this daemon knows it: name, rights and agents.",
)
