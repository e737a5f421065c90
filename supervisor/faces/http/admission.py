"""Decides which HTTP requests are served: those that name a host that is ours, come from no foreign page, and bring a token.

`Host` keeps a page in a browser out that has had its own name point to this machine; `Origin` keeps out the pages
whose browser says where they come from. Both are looked at before the token. The answer to a wrong token waits: nobody
who mistypes one notices it, and nobody guesses many.
"""

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from corral.worker.contract.errors import InvalidParams, InvalidRequest, PermissionDenied

from .face import Authenticate, HttpClient

NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names of this machine in `Host` and `Origin`."""

HOST = re.compile(r"([a-z0-9._-]{1,255}|\[[0-9a-f:.]{2,64}\])(:[0-9]{1,5})?")
"""A host as `Host` has it, in lower case."""


def address_of(address: str, *, is_protected: bool) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT`; a host that others reach only where the connections are protected."""
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    if not is_protected and not is_loopback(bare):
        raise InvalidParams(
            f'cannot serve HTTP at "{address}": the host is no loopback address; set http_tls_cert and http_tls_key, '
            "or http_behind_proxy = true, or write 127.0.0.1, [::1] or localhost",
            key="daemon.http",
            value=address,
            reason="no loopback address",
        )
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a host, written without brackets."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bracketed(host: str) -> str:
    """Returns a host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


def check_target(target: str) -> None:
    """Rejects the target of a request that is no plain path, with or without a query."""
    path = target.partition("?")[0]
    if "%" not in path and "/." not in path and path.startswith("/") and path.isascii():
        return
    try:
        decoded = unquote_to_bytes(path.encode("utf-8")).decode("utf-8")
    except UnicodeError as error:
        raise InvalidRequest("cannot serve the path: it is no UTF-8") from error
    if not path.startswith("/"):
        raise InvalidRequest("cannot serve the target: it is no path")
    if any(character < " " or character == "\x7f" for character in decoded):
        raise InvalidRequest("cannot serve the path: it has control characters")
    if not {".", ".."}.isdisjoint(decoded.split("/")):
        raise InvalidRequest("cannot serve the path: it has a segment of dots")


class Admission:
    """Identifies the client of a request."""

    def __init__(
        self,
        host: str,
        port: int,
        authenticate: Authenticate,
        *,
        names: Collection[str] = (),
        is_behind_proxy: bool = False,
    ) -> None:
        self._authenticate = authenticate
        self._names = frozenset(name.lower() for name in names)
        self._takes_any = not names and (is_behind_proxy or not is_loopback(host))
        local = NAMES | {bracketed(host)}
        self._hosts = frozenset(f"{name}:{port}" for name in local)
        if port in (80, 443):
            self._hosts |= local

    def check_place(self, hosts: Sequence[str], origins: Sequence[str]) -> None:
        """Rejects a request whose headers `Host` and `Origin` have these values."""
        host = hosts[0].lower() if hosts else ""
        if len(hosts) != 1 or not self._is_ours(host):
            raise PermissionDenied(f"cannot serve host {host!r}", header="Host")
        if origins and (len(origins) > 1 or not (is_local(origins[0]) or _is_of(origins[0], host))):
            raise PermissionDenied(f"cannot serve origin {origins[0]!r}", header="Origin")

    def _is_ours(self, host: str) -> bool:
        if host in self._hosts:
            return True
        if self._takes_any:
            return HOST.fullmatch(host) is not None
        return bool(self._names) and HOST.fullmatch(host) is not None and _bare(host) in self._names

    def client(self, headers: Mapping[str, str]) -> HttpClient:
        """Returns the client whose token is in the header `Authorization`."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip()
        return self._authenticate(token if scheme.lower() == "bearer" and token else None)


def is_local(origin: str) -> bool:
    """Returns whether the page of this `Origin` is one of this machine."""
    scheme, separator, host = origin.lower().partition("://")
    return scheme in ("http", "https") and bool(separator) and _bare(host) in NAMES


def _is_of(origin: str, host: str) -> bool:
    """Returns whether the page of this `Origin` came from this host."""
    scheme, separator, rest = origin.lower().partition("://")
    return scheme in ("http", "https") and bool(separator) and rest == host


def _bare(host: str) -> str:
    """Returns a host without its port."""
    name, _, port = host.rpartition(":")
    return name if port.isdecimal() else host


FREE = 5
"""Wrong tokens of one address within a window that are answered at once."""

WINDOW_S = 60.0

STEP_S = 0.1
"""Seconds by which each further one waits longer."""

MOST_S = 0.3

ADDRESSES_MAX = 1000
"""Addresses that are remembered; beyond, the one that was silent for the longest is forgotten."""


class Guesses:
    """Counts the wrong tokens of each address; the clock is an argument, in seconds."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Counts one more wrong token, and returns the seconds that its answer has to wait."""
        count, since = self._counts.pop(address, (0, now))
        if now - since > WINDOW_S:
            count, since = 0, now
        self._counts[address] = (count + 1, since)
        if len(self._counts) > ADDRESSES_MAX:
            self._counts.popitem(last=False)
        return min(MOST_S, max(0, count + 1 - FREE) * STEP_S)
