"""Decodes `oauth` of a remote MCP server: how corral gets its access tokens, where the server's own answers do not say it."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from ..decoding.decoder import decode_key, fields_of
from ..decoding.values import Refused, RefusedKey, each, is_table, matching, quoted, web_url

_EXAMPLE = 'write a table: oauth = { client_id = "...", client_secret = "${secret:NAME}" }'


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

    grant: Literal["authorization_code", "client_credentials", "jwt_bearer", "enterprise"] = "authorization_code"
    issuer: Annotated[str, web_url] = ""
    client_id: Annotated[str, matching(r"[\x20-\x7e]{1,1000}", "printable ASCII")] = ""
    client_secret: Annotated[str, a_reference] = ""
    private_key: Annotated[str, a_reference] = ""
    assertion: Annotated[str, a_reference] = ""
    idp_issuer: Annotated[str, web_url] = ""
    idp_client_id: Annotated[str, matching(r"[\x20-\x7e]{1,1000}", "printable ASCII")] = ""
    client_metadata_url: Annotated[str, matching(r"https://[^\s/?#@]+/[^\s#]*", '"https://HOST/PATH"')] = ""
    scopes: Annotated[tuple[str, ...], each(matching(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}", "a scope"), "scopes")] = ()
    redirect_uri: Annotated[str, loopback_address] = ""

    @property
    def secrets(self) -> dict[str, str]:
        """Returns the references to secrets, by key."""
        keys = ("client_secret", "private_key", "assertion")
        found = {key: str(getattr(self, key)) for key in keys}
        return {key: value for key, value in found.items() if value}


OAUTH_KEYS = fields_of(Oauth)


def oauth_table(raw: object) -> Oauth:
    """Decodes the table `oauth`."""
    if not is_table(raw):
        raise Refused(_EXAMPLE)
    for key, value in raw.items():
        if key not in OAUTH_KEYS:
            raise RefusedKey(key, value, f"unknown key; known are {quoted([*OAUTH_KEYS])}")
    found = Oauth(**{key: decode_key(key, value, OAUTH_KEYS) for key, value in raw.items()})
    if found.secrets and not (found.client_id or found.client_metadata_url):
        raise Refused(f"a secret needs the client_id that it belongs to: {_EXAMPLE}")
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
    usual = Oauth()
    keys = (key for key in OAUTH_KEYS if getattr(oauth, key) != getattr(usual, key))
    return {key: list(value) if isinstance(value := getattr(oauth, key), tuple) else value for key in keys}
