"""Converts the arguments of a method of `AgentRuntime` into the params that the daemon takes, as JSON.

Params that have their default are left out, so that a daemon that does not know a newer one takes the call.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import cast

import msgspec
from msgspec import NODEFAULT, UNSET


def given(type_: type[msgspec.Struct], **arguments: object) -> dict[str, object]:
    """Returns the arguments that differ from the defaults of `type_`, as JSON; None stands for the default."""
    params: dict[str, object] = {}
    for field in msgspec.structs.fields(type_):
        value = plain(arguments.get(field.name, UNSET))
        if value is UNSET or (value is None and not field.required):
            continue
        default = field.default_factory() if field.default_factory is not NODEFAULT else field.default
        if field.required or value != default or type(value) is not type(default):
            params[field.name] = value
    return params


def plain(value: object) -> object:
    """Returns a value as JSON has it: a Struct or mapping as a dict, a sequence as a list, a time as Unix seconds."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, msgspec.Struct):
        return cast("object", msgspec.to_builtins(value))
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in cast("list[object]", value)]
    return value
