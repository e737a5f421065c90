"""Represents `[templates.NAME]` as values: declared parameters, and keys of an agent with references to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import Struct

from ..decoding.values import is_table

DEFAULT = "default"
"""Name of the template of an agent that has no program; there is a built-in one of this name."""


class Reference(NamedTuple):
    """Represents `${param.NAME}` in a text."""

    name: str


@dataclass(frozen=True)
class Text:
    """Represents a string with references to parameters: its parts, with variables expanded, and how it was written."""

    parts: tuple[str | Reference, ...]
    written: str


class Layer(Struct, frozen=True):
    """Holds the keys of one template, as they are before any parameter is put in; relative paths are in `directory`."""

    template: str
    directory: str
    body: dict[str, object]


class Template(Struct, frozen=True, kw_only=True):
    """Represents a template; `layers` are those that it begins with, then its own, and `params` those of all of them."""

    name: str
    source: str
    directory: str
    base: str | None = None
    params: dict[str, dict[str, object]] = {}
    layers: tuple[Layer, ...] = ()

    @property
    def description(self) -> str:
        """Returns its description, where that has no parameter."""
        found = [layer.body.get("description") for layer in self.layers]
        words = [each for each in found if isinstance(each, str)]
        return words[-1] if words else ""

    def values(self, given: Mapping[str, object]) -> dict[str, object]:
        """Returns the values of all parameters: the given ones, and the defaults of the rest."""
        return {**{k: each["default"] for k, each in self.params.items() if "default" in each}, **given}


Templates = Mapping[str, Template]

BUILT_IN_TEMPLATES: Templates = {
    DEFAULT: Template(
        name=DEFAULT,
        source="built-in",
        directory="/",
        params={
            "name": {"type": "string", "default": "", "description": "how it calls itself"},
            "description": {"type": "string", "default": "", "description": "what it is for"},
        },
        layers=(
            Layer(
                DEFAULT,
                "/",
                {
                    "entrypoint": "corral.worker.default_agent:agent",
                    "config": {
                        "name": Text((Reference("name"),), "${param.name}"),
                        "description": Text((Reference("description"),), "${param.description}"),
                    },
                },
            ),
        ),
    )
}
"""Templates that are there unless the file has its own of the same name."""


def merge(base: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    """Returns a table with another merged over it, as RFC 7396 says: tables key by key, null removes, all else replaces."""
    found = dict(base)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif is_table(value):
            inner = found.get(key)
            found[key] = merge(inner if is_table(inner) else {}, value)
        else:
            found[key] = value
    return found
