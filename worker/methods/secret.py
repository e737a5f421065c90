"""Defines the methods about secrets."""

from ..control.params import NoParams, SecretRemoveParams, SecretRotateParams, SecretSetParams
from ..control.results import SecretRotated, Secrets, SecretUse
from .faces import faces
from .method import method
from .rules import OPEN, OWN_SECRET

SECRET_SET = method(
    "secret.set",
    "admin",
    SecretSetParams,
    SecretUse,
    recorded="or-refused",
    recorded_keys=("used_by",),
    tenant=OWN_SECRET,
    faces=faces("PUT /secrets/{name}", python="set_secret", command="secret set"),
    doc="Keeps a secret for `${secret:NAME}`, of all agents or of those that match `agents`. Returns the agents that name it.",
    example={"name": "API_KEY", "secret": "a-value", "agents": ["crawler"]},
)

SECRET_LIST = method(
    "secret.list",
    "admin",
    NoParams,
    Secrets,
    tenant=OPEN,
    faces=faces("GET /secrets", python="list_secrets", command="secret list"),
    doc="Returns the names of all secrets, their places, and the agents that they are for and that name them; no value.",
)

SECRET_RM = method(
    "secret.rm",
    "admin",
    SecretRemoveParams,
    SecretUse,
    recorded="or-refused",
    tenant=OWN_SECRET,
    faces=faces("DELETE /secrets/{name}", python="remove_secret", command="secret rm"),
    doc="Removes a kept secret. One that agents name is refused without `force`.",
    example={"name": "API_KEY"},
)

SECRET_ROTATE = method(
    "secret.rotate",
    "admin",
    SecretRotateParams,
    SecretRotated,
    recorded="or-refused",
    recorded_keys=("used_by", "restarted"),
    tenant=OWN_SECRET,
    faces=faces("POST /secrets/{name}/rotate", python="rotate_secret", command="secret rotate"),
    doc="Replaces the value of a kept secret; with `restart` the workers of agents that name it restart one after another.",
    example={"name": "API_KEY", "secret": "a-new-value", "restart": True},
)
