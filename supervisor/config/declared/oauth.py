"""Decodes `oauth` of a remote MCP server: how corral gets its access tokens, where the server's own answers do not say it."""

from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from ..decoding.decoder import decode_inline
from ..decoding.keys import Change, differing, fields_of, listed, schema_of
from ..decoding.shapes import accepts
from ..decoding.values import Refused, each, matching, web_url

_EXAMPLE = 'oauth = { client_id = "...", client_secret = "${secret:NAME}" }'


@accepts("http address of this machine", {"type": "string", "pattern": "^http://"})
def loopback_address(raw: object) -> str:
    """Accepts the address to which browsers are sent back: http, on this machine, with a port."""
    words = 'write "http://127.0.0.1:PORT/PATH" or "http://localhost:PORT/PATH"'
    url = web_url(raw)
    parts = urlsplit(url)
    is_own = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "http" or not is_own or parts.port is None or parts.query:
        raise Refused(words, raw)
    return url


a_reference = matching(r"\$\{secret:[A-Za-z_][A-Za-z0-9_.-]*\}", 'a reference to a secret: "${secret:NAME}"')


class Oauth(Struct, frozen=True, kw_only=True):
    """Holds the settings of one server; `client_secret`, `private_key` and `assertion` are references to secrets."""

    changes: ClassVar[Change] = "restart"

    grant: Literal["authorization_code", "client_credentials", "jwt_bearer", "enterprise"] = "authorization_code"
    """A person logs in; or corral gets tokens for itself: by `client_id` and one of the secrets, by the JWT of its
    workload, or by way of the identity provider of an enterprise."""
    issuer: Annotated[str, web_url] = ""
    """The only authorization server that may be used; the credentials below go to no other."""
    client_id: Annotated[str, matching(r"[\x20-\x7e]{1,1000}", "printable ASCII")] = ""
    """The id that the authorization server has for corral; not set: corral registers itself."""
    client_secret: Annotated[str, a_reference] = ""
    """Its secret, a reference to a [secret](#secrets)."""
    private_key: Annotated[str, a_reference] = ""
    """In place of it, a private key in PEM (EC P-256, RSA, Ed25519) that signs assertions (`private_key_jwt`)."""
    assertion: Annotated[str, a_reference] = ""
    """With `jwt_bearer` the JWT of the workload (RFC 7523), with `enterprise` the ID token; read for each token anew."""
    idp_issuer: Annotated[str, web_url] = ""
    """With `enterprise`: the identity provider, which exchanges the ID token for a grant."""
    idp_client_id: Annotated[str, matching(r"[\x20-\x7e]{1,1000}", "printable ASCII")] = ""
    """With `enterprise`: the id that the identity provider has for corral."""
    client_metadata_url: Annotated[str, matching(r"https://[^\s/?#@]+/[^\s#]*", '"https://HOST/PATH"')] = ""
    """The address of a client-id metadata document of yours; used where the server takes such, and no `client_id` is
    set."""
    scopes: Annotated[tuple[str, ...], each(matching(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}", "a scope"), "scopes")] = ()
    """The scopes to ask for, in place of those that the server names."""
    redirect_uri: Annotated[str, loopback_address] = ""
    """Where the browser is sent back to, where the authorization server knows one address alone; not set: a free port
    of 127.0.0.1."""

    @property
    def secrets(self) -> dict[str, str]:
        """Returns the references to secrets, by key."""
        keys = ("client_secret", "private_key", "assertion")
        found = {key: str(getattr(self, key)) for key in keys}
        return {key: value for key, value in found.items() if value}


OAUTH_KEYS = fields_of(Oauth)


@accepts("table", lambda: schema_of(Oauth))
def oauth_table(raw: object) -> Oauth:
    """Decodes the table `oauth`."""
    found = Oauth(**decode_inline(raw, OAUTH_KEYS, _EXAMPLE))
    if found.secrets and not (found.client_id or found.client_metadata_url):
        raise Refused(f"a secret needs the client_id that it belongs to: write {_EXAMPLE}")
    _check_grant(found)
    return found


def _check_grant(found: Oauth) -> None:
    needed: tuple[str, ...] = ()
    words = ""
    match found.grant:
        case "client_credentials":
            needed = (found.client_id, found.client_secret or found.private_key)
            words = "client_id, and client_secret or private_key"
        case "jwt_bearer":
            needed = (found.client_id, found.assertion)
            words = "client_id and assertion"
        case "enterprise":
            needed = (found.client_id, found.assertion, found.idp_issuer, found.idp_client_id)
            words = "client_id, assertion, idp_issuer and idp_client_id"
        case _:
            pass
    if words and not all(needed):
        raise Refused(f'grant = "{found.grant}" needs {words}')
    if found.assertion and found.grant not in ("jwt_bearer", "enterprise"):
        raise Refused('assertion goes with grant = "jwt_bearer" or "enterprise"')
    if (found.idp_issuer or found.idp_client_id) and found.grant != "enterprise":
        raise Refused('idp_issuer and idp_client_id go with grant = "enterprise"')


def oauth_as_table(oauth: Oauth) -> dict[str, object]:
    """Returns the smallest table from which `oauth_table` makes an equal Oauth."""
    return {key: listed(value) for key, value in differing(oauth, Oauth()).items()}
