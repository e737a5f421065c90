"""Reads the certificate and the key of the HTTP server, and the token of the daemon's user, from files that others may not read."""

import contextlib
import os
import secrets
import ssl
import stat
from pathlib import Path

from corral.worker.contract.errors import InvalidParams, PermissionDenied

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


TOKEN_BYTES = 32

MIN_TOKEN = 16
"""Number of characters of a token that a person wrote: fewer can be guessed."""

MAX_TOKEN_BYTES = 4096


def read_token(path: Path) -> str:
    """Reads the bearer token from a file that only its owner may read; makes a file that does not exist."""

    def refused(reason: str) -> PermissionDenied:
        text = f'cannot use token file "{path}": {reason}'
        return PermissionDenied(text, key="daemon.http_token_file", path=str(path), reason=reason)

    try:
        if not os.path.lexists(path):
            _make(path)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise refused(error.strerror or "") from error
    if not stat.S_ISREG(status.st_mode):
        raise refused("it is no regular file")
    if status.st_uid != os.getuid():
        raise refused(f"it belongs to uid {status.st_uid}")
    if status.st_mode & 0o077:
        raise refused(f"its mode is {stat.S_IMODE(status.st_mode):04o}, and must be 0600")
    token = raw.decode("ascii", "replace").strip()
    is_plain = all("!" <= character <= "~" for character in token)
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN_BYTES or not is_plain:
        raise InvalidParams(
            f'cannot use token file "{path}": its token is not {MIN_TOKEN} or more visible ASCII characters',
            key="daemon.http_token_file",
            reason="no token",
        )
    return token


def _make(path: Path) -> None:
    """Makes a token file, whole or not at all: an empty one would be refused at every start from then on."""
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    whole.unlink(missing_ok=True)  # of a process that is dead
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(whole, flags, 0o600), "wb") as made:
            made.write(secrets.token_urlsafe(TOKEN_BYTES).encode("ascii") + b"\n")
        with contextlib.suppress(FileExistsError):
            os.link(whole, path)
    finally:
        whole.unlink(missing_ok=True)
