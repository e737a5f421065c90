"""Holds the definitions of all methods, by name."""

from collections.abc import Mapping
from typing import TypeGuard

from . import (
    access,
    agent,
    approval,
    backup,
    command,
    daemon,
    deployment,
    events,
    group,
    login,
    mcp,
    node,
    package,
    report,
    revision,
    runtime,
    schedule,
    secret,
    state,
    task,
    tenant,
)
from .method import AnyMethod, Method

_MODULES = (
    access,
    agent,
    approval,
    backup,
    command,
    daemon,
    deployment,
    events,
    group,
    login,
    mcp,
    node,
    package,
    report,
    revision,
    runtime,
    schedule,
    secret,
    state,
    task,
    tenant,
)


def _is_definition(value: object) -> TypeGuard[AnyMethod]:
    return isinstance(value, Method)


METHODS: Mapping[str, AnyMethod] = {
    each.name: each for module in _MODULES for each in vars(module).values() if _is_definition(each)
}
