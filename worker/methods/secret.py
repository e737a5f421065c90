"""Defines the methods about secrets."""

from ..control.params import NoParams, SecretRemoveParams, SecretRotateParams, SecretSetParams
from ..control.results import SecretRotated, Secrets, SecretUse
from .faces import faces
from .method import Signature, access, method
from .rules import OPEN, OWN_SECRET

SECRET_SET = method(
    Signature("secret.set", SecretSetParams, SecretUse),
    access("admin", tenant=OWN_SECRET, recorded="or-refused", recorded_keys=("used_by",)),
    faces("PUT /secrets/{name}", python="set_secret", command="secret set"),
    "Keeps a secret for `${secret:NAME}`, of all agents or of those that match `agents`. Returns the agents that name it.",
    example={"name": "API_KEY", "secret": "a-value", "agents": ["crawler"]},
)

SECRET_LIST = method(
    Signature("secret.list", NoParams, Secrets),
    access("admin", tenant=OPEN),
    faces("GET /secrets", python="list_secrets", command="secret list"),
    "Returns the names of all secrets, their places, the agents that may have each and that name it; no values.",
)

SECRET_RM = method(
    Signature("secret.rm", SecretRemoveParams, SecretUse),
    access("admin", tenant=OWN_SECRET, recorded="or-refused"),
    faces("DELETE /secrets/{name}", python="remove_secret", command="secret rm"),
    "Removes a kept secret. One that agents name is refused without `force`.",
    example={"name": "API_KEY"},
)

SECRET_ROTATE = method(
    Signature("secret.rotate", SecretRotateParams, SecretRotated),
    access("admin", tenant=OWN_SECRET, recorded="or-refused", recorded_keys=("used_by", "restarted")),
    faces("POST /secrets/{name}/rotate", python="rotate_secret", command="secret rotate"),
    "Replaces the value of a kept secret; with `restart` the workers of agents that name it restart one after another.",
    example={"name": "API_KEY", "secret": "a-new-value", "restart": True},
)
