"""Writes the full names of a tenant into the params of its calls, where a caller may say a short name.

It must not know which names there are: a name of another tenant stays as it is, and is refused where names are looked up.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, UnsetType
from msgspec.structs import replace

from corral.worker.contract import codec
from corral.worker.contract.names import qualified

ONE = ("name", "agent", "worker", "schedule")
"""Keys of params that have one name."""

SEVERAL = ("names", "agents")
"""Keys of params that have names or globs, or tables with a `name`."""

BY_NAME = ("specs", "teams", "workflows")
"""Keys of params that have tables by name."""


def with_tenant(asked: Struct, tenant: str) -> Struct:
    """Returns params in which every name that has no tenant is one of `tenant`; a glob is one of its names."""
    changed: dict[str, object] = {}
    for key in asked.__struct_fields__:
        value: Any = getattr(asked, key)  # Any: the shape of the params follows from the method
        if value is None or isinstance(value, UnsetType):
            continue
        found = _in_full(key, value, tenant)
        if found is not value:
            changed[key] = found
    return replace(asked, **changed) if changed else asked


def _in_full(key: str, value: Any, tenant: str) -> object:  # Any: see `with_tenant`
    if key in ONE and isinstance(value, str):
        return qualified(value, tenant)
    if key in SEVERAL and isinstance(value, list):
        return [_entry(each, tenant) for each in codec.as_array(value) or []]
    if key in BY_NAME and isinstance(value, Mapping):
        tables = codec.as_object(value) or {}
        return {qualified(name, tenant): table for name, table in tables.items()}
    if key == "task" and isinstance(value, Struct):
        return with_tenant(value, tenant)
    return value


def _entry(each: object, tenant: str) -> object:
    if isinstance(each, Struct):
        return with_tenant(each, tenant)
    return qualified(each, tenant) if isinstance(each, str) else each
