"""Decides which HTTP requests are served: those that name a host that is ours, come from no foreign page, and bring a token.

`Host` keeps a page in a browser out that has had its own name point to this machine; `Origin` keeps out the pages
whose browser says where they come from. Both are looked at before the token.
"""

import ipaddress
from collections.abc import Mapping, Sequence

from ...worker.contract.errors import InvalidParams, PermissionDenied
from .face import Authenticate, HttpClient

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


def bracketed(host: str) -> str:
    """Returns a host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


class Admission:
    """Identifies the client of a request.

    Args:
        host: that the server listens at.
        port: that it listens at.
        authenticate: returns the client of a token.
    """

    def __init__(self, host: str, port: int, authenticate: Authenticate) -> None:
        self._authenticate = authenticate
        names = NAMES | {bracketed(host)}
        self._hosts = frozenset(f"{name}:{port}" for name in names)
        if port == 80:
            self._hosts |= names

    def check_place(self, hosts: Sequence[str], origins: Sequence[str]) -> None:
        """Rejects a request whose headers `Host` and `Origin` have these values.

        Raises:
            PermissionDenied: it names another host or origin.
        """
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            host = hosts[0] if hosts else ""
            raise PermissionDenied(f"cannot serve host {host!r}", header="Host")
        if origins and (len(origins) > 1 or not is_local(origins[0])):
            raise PermissionDenied(f"cannot serve origin {origins[0]!r}", header="Origin")

    def client(self, headers: Mapping[str, str]) -> HttpClient:
        """Returns the client whose token is in the header `Authorization`.

        Raises:
            PermissionDenied: there is none, or it is wrong.
        """
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip()
        return self._authenticate(token if scheme.lower() == "bearer" and token else None)


def is_local(origin: str) -> bool:
    """Returns whether the page of this `Origin` is one of this machine."""
    scheme, separator, rest = origin.lower().partition("://")
    host = rest.rpartition(":")[0] if rest.rpartition(":")[2].isdecimal() else rest
    return scheme in ("http", "https") and bool(separator) and host in NAMES
