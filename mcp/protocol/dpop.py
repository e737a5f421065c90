"""Makes the proofs of DPoP (RFC 9449), which show that a token is used by the holder of its key.

Values in, values out, but for random numbers. cryptography is imported only where a key is used.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ALGORITHM = "ES256"
HEADER, NONCE = "DPoP", "DPoP-Nonce"
USE_NONCE = "use_dpop_nonce"
"""The error that asks for another proof with the nonce of the answer."""

MAX_NONCE_CHARS = 1024


def new_key() -> str:
    """Returns a new private key, EC P-256 in PEM."""
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415  # few need it
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()).decode()


def thumbprint(key: str) -> str:
    """Returns the thumbprint of the public half of a key (RFC 7638), to which a code is bound."""
    public = json.dumps(_public(_loaded(key)), separators=(",", ":"), sort_keys=True)
    return base64url(hashlib.sha256(public.encode()).digest())


def proof(key: str, method: str, url: str, now: float, *, token: str = "", nonce: str = "") -> str:
    """Returns the proof for one request, with the hash of the token that it presents and the nonce of its server."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # few need it
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415

    private = _loaded(key)
    parts = urlsplit(url)
    claims: dict[str, object] = {
        "jti": secrets.token_urlsafe(16),
        "htm": method,
        "htu": urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")),
        "iat": int(now),
    }
    if token:
        claims["ath"] = base64url(hashlib.sha256(token.encode("ascii")).digest())
    if nonce:
        claims["nonce"] = nonce
    head = {"typ": "dpop+jwt", "alg": ALGORITHM, "jwk": _public(private)}
    signed = b".".join(base64url(json.dumps(each, separators=(",", ":")).encode()).encode() for each in (head, claims))
    r, s = utils.decode_dss_signature(private.sign(signed, ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{signed.decode()}.{base64url(signature)}"


def nonce_of(headers: Mapping[str, str]) -> str:
    """Returns the nonce that an answer gives; "" without one, or where it is none."""
    nonce = headers.get(NONCE, "")
    is_good = len(nonce) <= MAX_NONCE_CHARS and nonce.isascii() and nonce.isprintable()
    return nonce if is_good else ""


def base64url(data: bytes) -> str:
    """Encodes bytes as Base64 for addresses, without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _loaded(key: str) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # few need it
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    private = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey), "it is one of `new_key`"
    return private


def _public(private: "EllipticCurvePrivateKey") -> dict[str, str]:
    numbers = private.public_key().public_numbers()
    x, y = (base64url(each.to_bytes(32, "big")) for each in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}
