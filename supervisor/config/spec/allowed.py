"""Decides which keys a tenant may write into a table of its own: those that are marked so, so that a new key is refused at first.

The tables of the owner are not judged here: the floor of `tenants.registry` holds for them. A path has to lie in the folder of the
tenant. A variable of the daemon's environment is never expanded for a tenant.
"""

import re
from collections.abc import Mapping
from posixpath import join, normpath
from typing import Literal

from msgspec import Struct

from corral.worker.contract import codec
from corral.worker.contract.errors import PermissionDenied

from ..decoding.keys import fields_of
from .spec import SECTIONS, Spec
from .team import Team
from .workflow import Workflow

Kind = Literal["agent", "mcp", "team", "workflow"]


def _marked(struct: type[Struct]) -> frozenset[str]:
    return frozenset(key for key, field in fields_of(struct).items() if field.key.tenant)


IN_SECTIONS: Mapping[str, frozenset[str] | None] = {
    "resources": None,
    "tasks": None,
    **{name: keys for name, struct in SECTIONS.items() if (keys := _marked(struct))},
}
"""Keys of the sections that a tenant may write; None for all of them."""

_PROGRAM = _marked(Spec) | IN_SECTIONS.keys()

KEYS: Mapping[Kind, frozenset[str]] = {
    "agent": _PROGRAM,
    "mcp": _PROGRAM,
    "team": _marked(Team),
    "workflow": _marked(Workflow),
}
"""Keys of a table that a tenant may write."""

PATHS = ("working_directory", "read_paths", "write_paths")

TEMPLATES = ("default",)
"""Templates of the owner that a tenant may use."""

_VARIABLE = re.compile(r"\$\{(?!secret:|param\.)[^}]*\}?")


def check_table(kind: Kind, name: str, table: Mapping[str, object], folder: str) -> None:
    """Accepts a table, or the changes of one, that a tenant writes; `folder` is that of the tenant."""
    for key, value in table.items():
        if key not in KEYS[kind]:
            raise _refused(name, key, value, "this key is not for tenants")
        section = codec.as_object(value)
        if key in IN_SECTIONS and section is not None:
            for inner, given in section.items():
                allowed = IN_SECTIONS[key]
                if allowed is not None and inner not in allowed:
                    raise _refused(name, f"{key}.{inner}", given, "this key is not for tenants")
                _check_value(name, f"{key}.{inner}", inner, given, folder)
        else:
            _check_value(name, key, key, value, folder)
    _check_variables(name, "", table)


def _check_value(name: str, path: str, key: str, value: object, folder: str) -> None:
    if value is None:  # it removes the key
        return
    if key == "isolation" and value == "none":
        raise _refused(name, path, value, "a tenant's agent is isolated")
    if key == "nice" and isinstance(value, int | float) and value < 0:
        raise _refused(name, path, value, "a tenant's agent has no higher priority than others")
    if key == "network" and value == "host":
        raise _refused(name, path, value, "a tenant's agent has no network of the host by its own table")
    if key == "template" and value not in TEMPLATES:
        raise _refused(name, path, value, "templates are the owner's")
    if key in PATHS:
        for each in codec.as_array(value) or [value]:
            if not isinstance(each, str) or not _is_below(each.removeprefix("-"), folder):
                raise _refused(name, path, each, f'it has to lie in "{folder}"')


def _is_below(path: str, folder: str) -> bool:
    folder = normpath(folder)
    path = normpath(join(folder, path))
    return path == folder or path.startswith(f"{folder}/")


def _check_variables(name: str, path: str, value: object) -> None:
    if isinstance(value, str):
        if _VARIABLE.search(value.replace("$$", "")):
            raise _refused(name, path, value, "variables of the daemon are not for tenants")
        return
    inner = codec.as_object(value)
    entries = inner.items() if inner is not None else enumerate(codec.as_array(value) or [])
    for key, each in entries:
        _check_variables(name, f"{path}.{key}".lstrip("."), each)


def _refused(name: str, key: str, value: object, reason: str) -> PermissionDenied:
    words = f'cannot take the table of "{name}": {key} = {value!r}: {reason}'
    return PermissionDenied(words, name=name, key=key, value=value, reason=reason)
