"""Authenticates corral at a token endpoint: by nothing but its id, by a secret in two places, or by a signed assertion.

Values in, values out, but for the time and random numbers. cryptography is imported only where an assertion is signed.
"""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from corral.worker.contract.errors import InvalidParams, ToolFailed

from ..protocol.dpop import base64url
from .records import Client, Endpoints, Settings

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

ASSERTION_S = 60
"""Seconds for which an assertion is good."""

Signed = tuple[dict[str, str], dict[str, str]]
"""Fields of the form, and headers."""


def method_for(settings: Settings, offered: Sequence[str]) -> str:
    """Returns the method of a configured client, by what the server offers."""
    if settings.private_key:
        return "private_key_jwt"
    if not settings.client_secret:
        return "none"
    if "client_secret_basic" not in offered and "client_secret_post" in offered:
        return "client_secret_post"
    return "client_secret_basic"


def method_to_ask(offered: Sequence[str]) -> str:
    """Returns the method to register with: none, since a loopback client keeps no secret, unless the server wants one."""
    if not offered or "none" in offered:
        return "none"
    known = (each for each in offered if each in ("client_secret_basic", "client_secret_post"))
    if (found := next(known, None)) is None:
        text = f"cannot register: the server takes {', '.join(offered)[:200]} alone"
        raise ToolFailed(text, reason="unsupported-client-auth", offered=list(offered[:10]))
    return found


def authenticated(client: Client, endpoints: Endpoints, settings: Settings, now: float) -> Signed:
    """Returns what authenticates the client in a request to the token endpoint."""
    fields = {"client_id": client.client_id}  # some servers look for it beside the header, too
    if client.method == "client_secret_basic" and client.client_secret:
        words = f"{quote(client.client_id, safe='')}:{quote(client.client_secret, safe='')}"
        return fields, {"Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}
    if client.method == "client_secret_post" and client.client_secret:
        fields["client_secret"] = client.client_secret
    if client.method == "private_key_jwt":
        fields["client_assertion_type"] = ASSERTION_TYPE
        claims = {
            "iss": client.client_id,
            "sub": client.client_id,
            "aud": endpoints.issuer,
            "iat": int(now),
            "exp": int(now) + ASSERTION_S,
            "jti": secrets.token_urlsafe(16),
        }
        fields["client_assertion"] = signed(claims, settings.private_key)
    return fields, {}


def signed(claims: Mapping[str, object], key: str) -> str:
    """Returns a JWT with these claims, signed by a private key in PEM: EC P-256, RSA or Ed25519."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # few need it
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils  # noqa: PLC0415

    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # whose text could have a part of it
        raise _no_key("it is no private key in PEM without a password") from None
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.key_size == 256:
        head = _encoded({"alg": "ES256", "typ": "JWT"}, claims)
        r, s = utils.decode_dss_signature(private.sign(head, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    elif isinstance(private, rsa.RSAPrivateKey):
        head = _encoded({"alg": "RS256", "typ": "JWT"}, claims)
        signature = private.sign(head, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        head = _encoded({"alg": "EdDSA", "typ": "JWT"}, claims)
        signature = private.sign(head)
    else:
        raise _no_key("it is neither EC P-256, RSA nor Ed25519")
    return f"{head.decode()}.{base64url(signature)}"


def _no_key(why: str) -> InvalidParams:
    return InvalidParams(f"cannot use oauth.private_key: {why}", key="oauth.private_key")


def _encoded(head: Mapping[str, object], claims: Mapping[str, object]) -> bytes:
    parts = (json.dumps(each, separators=(",", ":")).encode() for each in (head, claims))
    return ".".join(map(base64url, parts)).encode()
