"""Describes results that no Struct can have, and makes the parts that several results share.

It must not know a method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from ...worker.contract.errors import CorralError
from ...worker.contract.records import Error


@dataclass(frozen=True)
class Open:
    """Describes a result that others shape, so that corral passes it on and no Struct can have its keys.

    These are results of MCP servers, and documents whose form another specification defines.
    """

    title: str
    description: str

    @property
    def type(self) -> Any:  # an annotated type, for which there is no other
        """Returns its type as msgspec takes it, with title and description in its JSON Schema."""
        return Annotated[dict[str, object], Meta(title=self.title, description=self.description)]


def recorded_values(result: object, keys: tuple[str, ...]) -> dict[str, object]:
    """Returns these keys of a result as plain values, without those that it lacks."""
    found = {key: getattr(result, key, UNSET) for key in keys}
    return {key: msgspec.to_builtins(each) for key, each in found.items() if each is not UNSET}


def error_record(error: CorralError) -> Error:
    """Returns an error as results have it."""
    return Error(error.code, error.name, error.message, error.data)


def error_records(errors: Mapping[str, CorralError]) -> dict[str, Error]:
    """Returns errors by name as results have them."""
    return {name: error_record(error) for name, error in errors.items()}
