"""Decides where an address leads: to the public network, to a private one, to this link or to this machine."""

import ipaddress
from typing import Literal, TypeAlias

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
