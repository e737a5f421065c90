"""Declares the keys of a table: a Struct with a field for each, which says once all that is known about the key.

    class Events(Struct, frozen=True, kw_only=True):
        changes: ClassVar[Change] = "daemon, live"

        retention: PositiveSeconds = 7 * DAY_S
        "How long events are kept."

The name of the field is the key, its default the default. `changes` is the cost of a change, where the field does not say
otherwise. The functions in `Annotated[...]` are the rules that a value passes in order, and `Key` there says what neither
type nor rules can. The text below the field is the sentence of the reference and of the schema. From these follow the
decoding, the schema, the reference, the plan of a reload, and which tables have the key. A field without a rule, or with
COMPUTED, is no key.
"""

import ast
import inspect
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from .shapes import Rule, Schema, Shape, closed_object, or_variable, shape_of
from .values import boolean, file_path, file_paths, is_list, one_of

Change = Literal["live", "restart", "daemon", "daemon, live"]
"""What a changed value costs.

"live": nothing, it is in force at once. "restart": the workers that it concerns. "daemon": it counts for the whole daemon,
in no table of one agent, and waits for the next start; "daemon, live": likewise, and it is in force at once.
"""


@dataclass(frozen=True)
class Key:
    """States facts of a key: `change` None is that of its table, `of` the tables that have it ("" for both kinds).

    A tenant may write the key in a table of its own only with `tenant`, so that a new key is refused at first.
    `unit` and `default` are words in place of those that follow from the rules and from the default.
    """

    change: Change | None = None
    of: Literal["", "agent", "mcp"] = ""
    tenant: bool = False
    unit: str = ""
    default: str = ""


_USUAL = Key()

COMPUTED = object()
"""Marks a field that has a rule by its type, and is no key: nobody writes it."""


@dataclass(frozen=True)
class Field:
    """Declares a key: the `rules` that its value passes in order; with `is_path` it is relative to a folder.

    `default` is NODEFAULT for a key that has to be written.
    """

    rules: tuple[Rule, ...]
    is_path: bool = False
    key: Key = _USUAL
    change: Change = "live"
    default: object = NODEFAULT

    @property
    def is_daemon_wide(self) -> bool:
        """Returns whether the key counts for the whole daemon."""
        return self.change.startswith("daemon")

    @property
    def shape(self) -> Shape:
        """Returns what the key accepts."""
        return shape_of(self.rules)

    @property
    def unit(self) -> str:
        """Returns what the key accepts, in words."""
        return self.key.unit or self.shape.unit


Fields = Mapping[str, Field]
"""The keys of one table, in the order of the reference."""


@cache
def fields_of(struct: type[Struct]) -> Fields:
    """Returns the keys of a table whose Struct is `struct`."""
    hints = get_type_hints(struct, include_extras=True)
    usual: Change = getattr(struct, "changes", "live")
    found = {f.name: _field(hints[f.name], _default(f), usual) for f in fields(struct)}
    return {key: field for key, field in found.items() if field is not None}


def _default(field: FieldInfo) -> object:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def _field(hint: object, default: object, usual: Change) -> Field | None:
    marks: tuple[Any, ...] = ()  # Any: whatever stands in Annotated
    kinds = [hint]
    while kinds:
        kind = kinds.pop()
        if get_origin(kind) is Annotated:
            inner, *given = get_args(kind)
            marks = (*given, *marks)
            kinds.append(inner)
        elif NoneType in get_args(kind):
            kinds += [each for each in get_args(kind) if each is not NoneType]
        elif kind is bool:
            marks = (boolean, *marks)
        elif get_origin(kind) is Literal:
            marks = (one_of(get_args(kind)), *marks)
    key = next((mark for mark in marks if isinstance(mark, Key)), _USUAL)
    rules = tuple(mark for mark in marks if callable(mark))
    if not rules or COMPUTED in marks:
        return None
    return Field(rules, file_path in rules or file_paths in rules, key, key.change or usual, default)


def differing(table: Struct, usual: Struct) -> dict[str, object]:
    """Returns the keys of a table that have another value than in another table of its kind."""
    both = ((key, getattr(table, key)) for key in fields_of(type(table)))
    return {key: value for key, value in both if value != getattr(usual, key)}


def listed(value: object) -> object:
    """Returns the value of a key as TOML and JSON have it: a tuple as a list."""
    return list(value) if is_list(value) else value


def schema_of(struct: type[Struct], without: Collection[str] = (), *, has_variables: bool = True) -> Schema:
    """Returns the schema of a table whose Struct is `struct`, with the sentences of its keys."""
    sentences = sentences_of(struct)
    keys = {key: field for key, field in fields_of(struct).items() if key not in without}
    properties: dict[str, Schema] = {}
    for key, field in keys.items():
        schema = or_variable(field.shape.schema) if has_variables else field.shape.schema
        words = f"{sentences[key].removesuffix('.')} ({field.unit})." if key in sentences else ""
        properties[key] = {**schema, "description": plain(words)} if words else schema
    return closed_object(properties, *(key for key, field in keys.items() if field.default is NODEFAULT))


def plain(text: str) -> str:
    """Returns a sentence without the marks of Markdown, for readers that show it as it is."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


@cache
def sentences_of(struct: type[Struct]) -> dict[str, str]:
    """Returns the sentence below each field of a Struct and of those that it extends, from the source, since Python keeps none."""
    module = ast.parse(inspect.getsource(sys.modules[struct.__module__]))
    body = next(n.body for n in ast.walk(module) if isinstance(n, ast.ClassDef) and n.name == struct.__name__)
    found: dict[str, str] = {}
    for base in struct.__bases__:
        found |= sentences_of(base) if issubclass(base, Struct) and base is not Struct else {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                found[key] = " ".join(text.split())
            case _:
                pass
    return found
