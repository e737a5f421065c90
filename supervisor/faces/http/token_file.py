"""Reads the bearer token of the daemon's user from a file that its owner alone can read, and makes that file."""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from corral.worker.contract.errors import InvalidParams, PermissionDenied

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
