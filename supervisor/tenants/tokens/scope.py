"""Decides what a caller may know whose token names agents, or who is bound to a tenant: pure functions of its globs and of names.

None in place of the globs means that nothing is restricted, and no glob that nothing may be known. A name that is out of scope is answered as one that is not there, so that
nothing here says which of the two it is. A glob is about the names of one owner: without a tenant it matches no tenant's name.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import SEPARATOR, local_name, qualified, tenant_of
from corral.worker.control.access import Rights, permits


def lesser(one: Rights, other: Rights) -> Rights:
    """Returns the one of two rights that permits less."""
    return one if permits(other, one) else other


def is_in_scope(name: str, globs: Sequence[str] | None) -> bool:
    """Returns whether a caller with these globs may know an agent, server, team or workflow."""
    if globs is None:
        return True
    tenant, local = tenant_of(name), local_name(name)
    return any(tenant_of(glob) == tenant and fnmatchcase(local, local_name(glob)) for glob in globs)


def bound(globs: Sequence[str] | None, tenant: str) -> Sequence[str] | None:
    """Returns the globs of a caller that is bound to `tenant`, "" for none: those of the tenant among its own, or all of the tenant."""
    if not tenant:
        return globs
    if globs is None:
        return (f"{tenant}{SEPARATOR}*",)
    return tuple(glob for glob in globs if tenant_of(glob) == tenant)


def own_globs(globs: Sequence[str] | None, tenant: str) -> list[str] | None:
    """Returns globs with the tenant that they are about, "" for the owner."""
    if globs is None:
        return None
    found = [qualified(glob, tenant) for glob in globs]
    for glob in found:
        if tenant_of(glob) != tenant:
            raise InvalidParams(
                f'cannot restrict to "{glob}": it is about names of another tenant', key="agents", value=glob
            )
    return found


def knows(globs: Sequence[str] | None) -> Callable[[str], bool] | None:
    """Returns the filter of names for a list that is cut into pages; None where nothing is restricted."""
    return None if globs is None else lambda name: is_in_scope(name, globs)


def as_glob(name: str) -> str:
    """Returns a glob that a name alone matches: a choice by it is one that does not name it."""
    return f"[{name[0]}]{name[1:]}"


def kept(value: Mapping[str, object], key: str, path: str, globs: Sequence[str]) -> dict[str, object]:
    """Returns an object without the entries of its list `key` whose agent, at `path`, is out of scope or missing."""
    entries = codec.as_array(value.get(key)) or []
    return {**value, key: [each for each in entries if _is_kept(each, path, globs)]}


def _is_kept(entry: object, path: str, globs: Sequence[str]) -> bool:
    found = entry
    for part in path.split("."):
        found = (codec.as_object(found) or {}).get(part)
    return isinstance(found, str) and is_in_scope(found, globs)


NAMING = ("known", "near", "candidates")
"""Keys of an error's data that have names beside the one that was asked for."""


def without_names(data: Mapping[str, object], globs: Sequence[str]) -> dict[str, object]:
    """Returns the data of an error without names that are out of scope."""
    return {
        key: [each for each in codec.as_array(value) or [] if is_in_scope(str(each), globs)] if key in NAMING else value
        for key, value in data.items()
    }
