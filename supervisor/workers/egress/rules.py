"""Decides which hosts a worker may reach: a pure function of the hosts that its spec lists.

A host is a name, `*.` and a name for all below it, or an address, each with a port or without one, which means 80 and 443.
"""

from collections.abc import Sequence

from msgspec import Struct

from corral.worker.contract.addresses import is_local, plain

PORTS = (80, 443)
"""Ports of a host that is listed without one."""


class Rule(Struct, frozen=True):
    """Holds one listed host: `name` in lower case, `is_wildcard` for all below it."""

    name: str
    ports: tuple[int, ...]
    is_wildcard: bool = False


def rule_of(listed: str) -> Rule:
    """Returns the rule of a host as a spec lists it."""
    name, port = listed, ""
    if listed.startswith("["):
        name, _, rest = listed[1:].partition("]")
        port = rest.removeprefix(":")
    elif listed.count(":") == 1:
        name, _, port = listed.partition(":")
    return Rule(name.removeprefix("*.").lower(), (int(port),) if port else PORTS, name.startswith("*."))


def why_refused(host: str, port: int, rules: Sequence[Rule]) -> str:
    """Returns why a host may not be reached at a port, by its name alone; "" if it may."""
    name = host.lower().removesuffix(".")
    found = [rule for rule in rules if _covers(rule, name)]
    if not found:
        return "this host is not among allowed_hosts"
    if not any(port in rule.ports for rule in found):
        return "this port of the host is not among allowed_hosts"
    return ""


def why_address_refused(host: str, address: str, port: int, rules: Sequence[Rule]) -> str:
    """Returns why an address that a name has led to may not be reached; "" if it may.

    An address that is not public to the machine's network is reached only where it is listed itself, so that a name
    cannot be made to lead to services of this machine or to the metadata of a cloud.
    """
    found = plain(address)
    if found is None:
        return "it is no address"
    if is_local(found) and why_refused(str(found), port, rules):
        named = f"{host} is at {found}" if host != str(found) else f"{found}"
        return f"{named}, an address of this machine or its link, which is not among allowed_hosts"
    return ""


def _covers(rule: Rule, name: str) -> bool:
    if rule.is_wildcard:
        return name.endswith(f".{rule.name}")
    if rule.name == name:
        return True
    listed, asked = plain(rule.name), plain(name)
    return listed is not None and listed == asked
