"""Reads the certificate and the key of the HTTP server into an SSL context."""

import os
import ssl
from pathlib import Path

from corral.worker.contract.errors import InvalidParams

CERT_KEY = "daemon.http_tls_cert"

KEY_KEY = "daemon.http_tls_key"


def read_tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """Returns a context for TLS 1.2 and later with a certificate chain and its key; None where neither is given."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = CERT_KEY if cert is None else KEY_KEY
        raise InvalidParams(
            f"cannot serve HTTP with TLS: {missing} is not set; set both http_tls_cert and http_tls_key",
            key=missing,
            reason="missing",
        )
    for name, path in ((CERT_KEY, cert), (KEY_KEY, key)):
        _check_file(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidParams(
            f'cannot serve HTTP with TLS: "{cert}" and "{key}" are no certificate chain and its key in PEM: {error}',
            key=CERT_KEY,
            value=cert,
            reason=str(error),
        ) from error
    return context


def _check_file(name: str, path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise InvalidParams(
            f'cannot read {name} "{path}": {error.strerror}; write the path of a PEM file that the daemon may read',
            key=name,
            value=path,
            reason=error.strerror or "",
        ) from error
    if name == KEY_KEY and mode & 0o007:
        raise InvalidParams(
            f'cannot use {name} "{path}": any user may read it; write chmod o= {path}',
            key=name,
            value=path,
            reason="others may read it",
        )


def _refuse_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")
