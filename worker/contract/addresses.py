"""Decides where an address leads: to the public network, to a private one, to this link or to this machine."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Zone = Literal["public", "private", "local"]
"""`local` is this machine and its link, with the metadata services of clouds; `private` a network that is not reached from outside."""

METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16"})
"""Addresses of cloud metadata that are neither loopback nor link-local."""


def plain(address: str) -> Address | None:
    """Returns an address without its zone, and an IPv4 address that is written as IPv6 as what it is; None for other text."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_local(address: Address) -> bool:
    """Returns whether an address is loopback, link-local (cloud metadata), unspecified, multicast or reserved."""
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address.is_reserved
        or str(address) in METADATA
    )


def zone_of(address: str) -> Zone:
    """Returns where an address leads; text that is no address leads to this machine, as far as anybody can tell."""
    found = plain(address)
    if found is None or is_local(found):
        return "local"
    return "public" if found.is_global else "private"


class Reach:
    """Judges connections to addresses that others name: where the configuration leads itself, they may lead too, else to the public network alone."""

    def __init__(self, configured: Iterable[str]) -> None:
        self._zones: set[Zone] = {"public"}
        self._unresolved = {host for url in configured if (host := urlsplit(url).hostname)}

    async def resolve(self) -> None:
        """Finds out where the names of the configuration lead, once for each; nowhere while it cannot be resolved."""
        for host in tuple(self._unresolved):
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError:
                continue
            self._zones |= {zone_of(str(address[0])) for *_, address in found}
            self._unresolved.discard(host)

    def socket(self, info: Any) -> socket.socket:  # as getaddrinfo returns it
        """Makes the socket of a connection, if its address may be reached; its name has been resolved by then, and leads nowhere else."""
        family, kind, protocol, _, address = info
        zone = zone_of(address[0])
        if zone not in self._zones:
            where = "this machine or its link" if zone == "local" else "a private network"
            raise OSError(errno.EACCES, f"{address[0]} is an address of {where}, where nothing of the configuration is")
        return socket.socket(family, kind, protocol)
