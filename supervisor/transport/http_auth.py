"""Decides which HTTP requests are served: those of programs of this machine that know the token.

The token is in a file that its owner alone can read, so that it stands for that user. An address that others could
reach is never used; and a request that a browser sends for a page of another site has that in `Origin`.
"""

import contextlib
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from ...mcp.endpoint.request import HEADER_MISMATCH, ProtocolError
from ...mcp.upstream import http_headers
from ...worker.contract.errors import InvalidParams, PermissionDenied

TOKEN_BYTES = 32

MIN_TOKEN = 16
"""Number of characters of a token that a person wrote: fewer can be guessed."""

MAX_TOKEN_BYTES = 4096

NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names of this machine in `Host` and `Origin`."""


def loopback(address: str) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT`, if the host is a loopback address.

    Raises:
        InvalidParams: others could reach it.
    """
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    try:
        is_ours = bare == "localhost" or ipaddress.ip_address(bare).is_loopback
    except ValueError:
        is_ours = False
    if not is_ours:
        raise InvalidParams(
            f'cannot serve HTTP at "{address}": the host is no loopback address; write 127.0.0.1, [::1] or localhost',
            key="daemon.http",
            value=address,
            reason="no loopback address",
        )
    return bare, int(port)


def read_token(path: Path) -> str:
    """Reads the bearer token from a file that only its owner may read; makes a file that does not exist.

    Raises:
        PermissionDenied: the file is not ours alone, or cannot be used.
        InvalidParams: its content is no token.
    """

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


def is_local(origin: str) -> bool:
    """Returns whether the page of this `Origin` is one of this machine."""
    scheme, separator, rest = origin.lower().partition("://")
    host = rest.rpartition(":")[0] if rest.rpartition(":")[2].isdecimal() else rest
    return (
        scheme in ("http", "https")
        and bool(separator)
        and host in ("localhost", "127.0.0.1", "[::1]")
    )


LAST_EVENT = "Last-Event-ID"

_DECIMAL = re.compile(r"-?[0-9]{1,100}(\.0+)?")

Values = Callable[[str], list[str]]
"""Returns all values of the header of a name."""


def check_routing(
    values: Values, method: str, params: Mapping[str, object], version: object
) -> None:
    """Compares the headers that every request has.

    Raises:
        ProtocolError: they differ from the message, are missing, or are there twice.
    """
    if _only(values, http_headers.VERSION) != version:
        raise _mismatch(http_headers.VERSION, "the revision in _meta")
    if _only(values, http_headers.METHOD) != method:
        raise _mismatch(http_headers.METHOD, "the method")
    key = http_headers.NAMED.get(method)
    named = None if key is None else params.get(key)
    if named is not None:
        decoded_value = _only(values, http_headers.NAME)
        if decoded_value is None or http_headers.decoded(decoded_value) != named:
            raise _mismatch(http_headers.NAME, f'"{key}"')


def check_params(values: Values, schema: object, arguments: Mapping[str, object]) -> None:
    """Compares the headers that the schema of a tool asks for with the arguments of a call.

    Raises:
        ProtocolError: they differ, or one is there and the other is not.
    """
    try:
        marks = http_headers.marks_of(schema)
    except ValueError:
        return  # no client can send the headers of this schema
    for path, mark in marks.items():
        header, argument = f"{http_headers.PARAM}{mark}", f'argument "{".".join(path)}"'
        if not _is_same(http_headers.argument_at(arguments, path), _only(values, header)):
            raise _mismatch(header, argument)


def _only(values: Values, name: str) -> str | None:
    found = values(name)
    if len(found) > 1:
        raise ProtocolError(
            HEADER_MISMATCH, f"cannot serve the request: header {name} is there twice", header=name
        )
    return found[0].strip(" \t") if found else None


def _mismatch(name: str, what: str) -> ProtocolError:
    text = f"cannot serve the request: header {name} differs from {what}"
    return ProtocolError(HEADER_MISMATCH, text, header=name)


def _is_same(value: object, header: str | None) -> bool:
    """Returns whether a header has the value of an argument: numbers compare as numbers, a missing header is right for a value that has no text."""
    text = http_headers.text_of(value)
    if header is None:
        return text is None
    decoded_value = http_headers.decoded(header)
    if decoded_value is None:
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        if text is not None and _DECIMAL.fullmatch(decoded_value):
            return int(decoded_value.partition(".")[0]) == int(text)
        return decoded_value == str(value)
    return decoded_value == text
