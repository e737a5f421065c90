"""Holds the definitions of all methods, by name."""

from collections.abc import Mapping
from typing import TypeGuard

from . import access, agent, daemon, deployment, events, mcp, state, task
from .method import AnyMethod, Method

_MODULES = (access, agent, daemon, deployment, events, mcp, state, task)


def _is_definition(value: object) -> TypeGuard[AnyMethod]:
    return isinstance(value, Method)


METHODS: Mapping[str, AnyMethod] = {
    each.name: each for module in _MODULES for each in vars(module).values() if _is_definition(each)
}
