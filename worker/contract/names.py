"""Splits and joins full names: `NAME` is the owner's, `TENANT/NAME` is a tenant's.

The owner of a thing stands in its name and nowhere else. The names of workers, of servers, of teams and of all that
belongs to an agent follow the same form.
"""

import re

SEPARATOR = "/"
TENANT = r"[a-z][a-z0-9-]{0,31}"
"""Pattern of the name of a tenant."""
LOCAL = r"[A-Za-z][A-Za-z0-9_-]{0,47}"
"""Pattern of a name without its tenant."""
FULL = f"(?:{TENANT}/)?{LOCAL}"
"""Pattern of a full name, or of a short one."""

_TENANT = re.compile(TENANT)


def tenant_of(name: str) -> str:
    """Returns the tenant of a full name; "" where the owner has it."""
    return name.partition(SEPARATOR)[0] if SEPARATOR in name else ""


def local_name(name: str) -> str:
    """Returns a name without its tenant."""
    return name.partition(SEPARATOR)[2] if SEPARATOR in name else name


def qualified(name: str, tenant: str) -> str:
    """Returns the full name of a short one of `tenant`; a name that has a tenant already stays as it is."""
    return f"{tenant}{SEPARATOR}{name}" if tenant and SEPARATOR not in name else name


def is_tenant_name(name: str) -> bool:
    """Returns whether a tenant may have this name."""
    return _TENANT.fullmatch(name) is not None
