"""Defines what the steps of an authorization take and return: settings, clients, pending logins, grants.

Frozen values that travel as JSON between a daemon and the process of a step. No representation of one has a secret.
"""

import re
from typing import Literal

from msgspec import Struct

MAX_CHARS = 4096
"""Characters of a header that are looked at."""

_PART = re.compile(
    r"""[\s,]*(?:
        (?P<key>[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))
      | (?P<scheme>[!#$%&'*+.^_`|~0-9A-Za-z-]+)
    )""",
    re.VERBOSE,
)


class Challenge(Struct, frozen=True, kw_only=True):
    """Represents what a server demands: where its metadata is, and which scopes the request needs."""

    status: int = 401
    scheme: str = "bearer"
    resource_metadata: str = ""
    scope: str = ""
    error: str = ""

    @property
    def wants_more_scope(self) -> bool:
        """Returns True if the token was good, and its scopes did not suffice."""
        return self.error == "insufficient_scope"


def parse(status: int, header: str) -> Challenge:
    """Returns the challenge of a 401 or 403 for a bearer token; one without parameters where the header has none."""
    found: dict[str, str] = {}
    scheme = ""
    for part in _PART.finditer(header[:MAX_CHARS]):
        if part["scheme"] is not None:
            scheme = part["scheme"].lower()
        elif scheme in ("bearer", "dpop"):
            value = part["plain"] if part["quoted"] is None else re.sub(r"\\(.)", r"\1", part["quoted"])
            found.setdefault(part["key"].lower(), value)
    return Challenge(
        status=status,
        resource_metadata=found.get("resource_metadata", ""),
        scope=" ".join(found.get("scope", "").split()),
        error=found.get("error", ""),
    )


VARIABLE = "CORRAL_MCP_OAUTH"
"""The variable that has the order of a step, for `program`."""

MARK = b"corral-oauth: "
"""Beginning of the line in which `program` answers."""

GrantType = Literal["authorization_code", "client_credentials", "jwt_bearer", "enterprise"]


class _Hiding(Struct, frozen=True, kw_only=True):
    """Represents itself by the name of its class alone: fields of it are secrets."""

    def __repr__(self) -> str:
        """Returns it without its values."""
        return f"{type(self).__name__}(...)"


class Settings(_Hiding, frozen=True, kw_only=True):
    """Holds what the configuration says about one server; secrets are expanded.

    `assertion` is the JWT of the workload, or with `enterprise` the ID token that the identity provider at `idp_issuer` exchanges.
    """

    grant: GrantType = "authorization_code"
    issuer: str = ""
    client_id: str = ""
    client_secret: str = ""
    client_metadata_url: str = ""
    private_key: str = ""
    assertion: str = ""
    idp_issuer: str = ""
    idp_client_id: str = ""
    scopes: tuple[str, ...] = ()
    redirect_uri: str = ""


class Client(_Hiding, frozen=True, kw_only=True):
    """Represents corral as a client of one authorization server: `origin` is how it came to its id.

    `method` is that of the token endpoint: none, client_secret_basic, client_secret_post or private_key_jwt.
    """

    issuer: str
    client_id: str
    client_secret: str = ""
    method: str = "none"
    origin: Literal["configured", "document", "registered"] = "registered"
    redirect_uri: str = ""
    expires_at: float = 0.0


class Endpoints(Struct, frozen=True, kw_only=True):
    """Holds what is known of an authorization server; `binds_tokens` by DPoP, with an algorithm that is known here."""

    issuer: str
    token: str
    authorization: str = ""
    registration: str = ""
    device: str = ""
    revocation: str = ""
    sends_iss: bool = False
    takes_documents: bool = False
    methods: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    binds_tokens: bool = False


class Authorization(_Hiding, frozen=True, kw_only=True):
    """Names what tokens are for, and who gives them; `expires_at` is wall-clock time in seconds, 0 without an end.

    `dpop_key` is the private key to which the tokens are bound, "" for bearer tokens.
    """

    url: str
    resource: str
    endpoints: Endpoints
    client: Client
    scope: str = ""
    expires_at: float = 0.0
    dpop_key: str = ""


class Grant(Authorization, frozen=True, kw_only=True):
    """Holds the tokens of one server."""

    access_token: str
    refresh_token: str = ""
    obtained_at: float = 0.0


class Pending(Authorization, frozen=True, kw_only=True):
    """Represents a login that a person has to finish: in a browser, or with `device_code` at another device."""

    redirect_uri: str = ""
    state: str = ""
    verifier: str = ""
    authorization_url: str = ""
    device_code: str = ""
    user_code: str = ""
    verification_uri: str = ""
    verification_uri_complete: str = ""
    interval_s: float = 5.0


class Order(_Hiding, frozen=True, kw_only=True):
    """Asks for one step. Fields that the step does not need are absent.

    `client` and `scope` are those of an earlier grant or registration; `redirect` is the address to which the browser
    was sent back; `until` is the wall-clock time until which the step may wait.
    """

    step: Literal["start", "device", "finish", "poll", "refresh", "client", "revoke"]
    url: str
    settings: Settings = Settings()
    challenge: Challenge | None = None
    client: Client | None = None
    scope: str = ""
    redirect: str = ""
    pending: Pending | None = None
    grant: Grant | None = None
    until: float = 0.0


class Answer(_Hiding, frozen=True, kw_only=True):
    """Holds the result of a step: a login under way, or the grant, or neither while a device has not been told yet."""

    pending: Pending | None = None
    grant: Grant | None = None
