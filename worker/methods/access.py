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
from .method import Signature, access, method
from .rules import OPEN, OWN_TOKEN

TOKEN_ADD = method(
    Signature("token.add", TokenAddParams, NewToken),
    access("admin", tenant=OWN_TOKEN, recorded="or-refused", recorded_keys=("rights", "agents", "expires_at")),
    faces("POST /tokens", python="add_token", command="token add"),
    "Makes a token with rights, for some agents or all, of the owner or of a tenant; only the answer has its text.",
    example={"name": "ci", "rights": "operate", "agents": ["web*"], "expires_s": 2592000.0},
)

TOKEN_LIST = method(
    Signature("token.list", NoParams, TokenList),
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
    Signature("auth.whoami", NoParams, Whoami),
    access("read", OPEN),
    faces("GET /whoami", python="whoami", command="whoami"),
    "Returns the caller as this daemon knows it: name, rights and agents.",
)
