"""Judges full names, decodes `[pools.NAME]`, and resolves the names that tables refer to: a short one is the tenant's own."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Literal

from msgspec import Struct

from corral.worker.contract.names import FULL, LOCAL, SEPARATOR, is_tenant_name, local_name, qualified, tenant_of

from ..decoding.decoder import Document, KeyPath
from ..decoding.keys import fields_of
from ..decoding.values import KIB, Bytes, Refused, Seconds, between, did_you_mean, matching

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


a_pool = matching(FULL, "the name of a pool")

Overflow = Literal["evict", "refuse", "trim"]
"""The ways of making room for a write that finds its pool full."""


class DeclaredPool(Struct, frozen=True, kw_only=True):
    """Represents a memory pool: how many bytes the sessions and keys of its agents may have together.

    A `retention` of 0 is that of each agent, a `cleanup_interval` of 0 that of `[memory]`.
    """

    name: str
    max_bytes: Annotated[Bytes, between(KIB, None)]
    """Size of the sessions and keys of its agents together, as JSON."""
    overflow: Overflow = "evict"
    """For a write that finds it full: the least recently used sessions and keys are removed, the write is refused, or
    the oldest history of its session is removed."""
    retention: Seconds = 0.0
    """A session that was not used for so long is removed; 0 is `memory.retention` of its agent."""
    cleanup_interval: Seconds = 0.0
    """Time between two removals of what has expired in it; 0 is `memory.cleanup_interval`."""


def decode_pools(document: Document, tables: Mapping[str, object]) -> tuple[dict[str, DeclaredPool], set[str]]:
    """Returns the pools of a file, and the names of those whose tables are refused, which are noted."""

    def decode(path: KeyPath, name: str, table: object) -> DeclaredPool:
        if reason := why_no_name(name):
            raise document.error(path, name, reason)
        keys = document.decode(path, table, fields_of(DeclaredPool))
        document.require(path, keys, max_bytes='max_bytes = "256MiB"')
        return DeclaredPool(name=name, **keys)

    return document.decode_named("pools", tables, decode)


def check_pool(document: Document, path: KeyPath, name: str | None, pools: Collection[str], tenant: str = "") -> None:
    """Refuses the name of a pool that there is not, or that another tenant has."""
    if name is None:
        return
    if tenant_of(name) not in ("", tenant):
        whose = f'the tenant "{tenant}"' if tenant else "the owner"
        raise document.error(path, name, f"no pool of {whose}")
    if name not in pools:
        guess = did_you_mean(name, pools)
        table = f'[pools."{name}"]' if tenant_of(name) else f"[pools.{name}]"
        raise document.error(path, name, f"no pool has this name: write {table}{guess}")
