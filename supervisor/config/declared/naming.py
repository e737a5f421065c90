"""Judges full names, and resolves the names that a tenant's own tables refer to: a short one is the tenant's own."""

import re
from collections.abc import Iterable

from corral.worker.contract.names import LOCAL, SEPARATOR, is_tenant_name, local_name, qualified, tenant_of

from ..decoding.values import Refused

BUILT_IN = ("cortex",)
"""Names that mean the same to all."""

_LOCAL = re.compile(LOCAL)


def why_no_name(name: str) -> str:
    """Returns the reason for refusing a full name; "" where it is one."""
    if SEPARATOR in name and not is_tenant_name(tenant_of(name)):
        return "the part before / is a tenant: 1 to 32 small letters, digits and -, and a letter first"
    if not _LOCAL.fullmatch(local_name(name)):
        return "a name has 1 to 48 letters, digits, _ and -, and starts with a letter"
    return '"__" stands between a server and its tool' if "__" in name else ""


def own_name(name: str, tenant: str) -> str:
    """Returns the full name of what a table of `tenant` ("" for the owner) refers to."""
    if name in BUILT_IN:
        return name
    full = qualified(name, tenant)
    if tenant_of(full) != tenant:
        whose = f'the tenant "{tenant}"' if tenant else "the owner"
        raise Refused(f"no name of {whose}: a table refers to what has the same tenant", name)
    return full


def own_names(names: Iterable[str], tenant: str) -> tuple[str, ...]:
    """Returns the full names of what a table of `tenant` refers to."""
    return tuple(own_name(name, tenant) for name in names)
