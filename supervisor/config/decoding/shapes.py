"""States what a rule accepts, beside the rule itself: in words for the reference, and as JSON Schema (2020-12) for editors.

A rule is a function that is decorated, by `accepts` if it takes a value as it is written, by `narrows` if it bounds what
the rule before it has accepted.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

Schema = dict[str, Any]  # Any: JSON
Rule = Callable[[Any], Any]  # Any: each rule takes the result of the one before

TEXT: Schema = {"type": "string"}
STRINGS: Schema = {"type": "object", "additionalProperties": TEXT}
VARIABLE: Schema = {"type": "string", "pattern": r"\$\{"}
"""A string with a variable, which may stand for a value of any type."""


class Shape(NamedTuple):
    """Describes the values that some rules accept: `unit` in words, `schema` for programs."""

    unit: str
    schema: Schema


_Narrowing = Callable[[Shape], Shape]
_R = TypeVar("_R", bound=Rule)


_SHAPES: WeakKeyDictionary[Rule, _Narrowing] = WeakKeyDictionary()
"""The shapes of rules. Some are made for one value: they are gone with it."""


def narrows(shape: _Narrowing) -> Callable[[_R], _R]:
    """Decorates a rule that bounds what the rules before it accept."""

    def note(rule: _R) -> _R:
        _SHAPES[rule] = shape
        return rule

    return note


def accepts(unit: str, schema: Schema | Callable[[], Schema]) -> Callable[[_R], _R]:
    """Decorates a rule that takes a value as it is written; `schema` is a function where it takes long to make."""
    return narrows(lambda _before: Shape(unit, schema() if callable(schema) else schema))


def unchanged(before: Shape) -> Shape:
    """Narrows nothing that a schema can tell."""
    return before


def shape_of(rules: Iterable[Rule]) -> Shape:
    """Returns what these rules accept, applied in order."""
    shape = Shape("", {})
    for rule in rules:
        shape = _SHAPES[rule](shape)
    return shape


def or_variable(schema: Schema) -> Schema:
    """Returns a schema that also takes a string with a variable."""
    if schema.get("type") == "string" and "pattern" not in schema:
        return schema
    return {"anyOf": [schema, {"$ref": "#/$defs/variable"}]} if schema else schema


def closed_object(properties: Mapping[str, Schema], *required: str) -> Schema:
    """Returns the schema of a table that has no other keys."""
    table: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**table, "required": [*required]} if required else table
