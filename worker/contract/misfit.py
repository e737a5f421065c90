"""Describes a value that does not fit its shape in plain English: the key, the value, and what to write.

It translates the text of an error of the decoder, so that no word of that library reaches a person. Pure functions of the
text, the value and the shape; it must not import msgspec, which an agent's own environment need not have.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from inspect import get_annotations
from typing import NamedTuple, cast, get_args

SHOWN = 60
"""Number of characters of a value that a message shows."""

KNOWN = 12
"""Number of known keys that a message lists."""

NAME = "^[A-Za-z][A-Za-z0-9_-]{0,47}$"
"""Pattern of names, which is told in words."""

_SECRET = re.compile(r"secret|token|password", re.IGNORECASE)
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_LENGTH = re.compile(r"Expected `(str|array|object|bytes)` of length (<=|>=) (\d+)")
_BOUND = re.compile(r"Expected `(int|float)` (<=|>=|<|>) (\S+)")
_PATTERN = re.compile(r"Expected `str` matching regex '(.*)'", re.DOTALL)
_TYPE = re.compile(r"Expected `([^`]*)`(?:, got `([^`]*)`)?")

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "number": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


class Misfit(NamedTuple):
    """Names the key of a value, the value as JSON ("" if there is none), and what to write."""

    key: str
    shown: str
    rule: str

    @property
    def words(self) -> str:
        """Returns all of it, for the end of a message."""
        if not self.key:
            return self.rule
        return f"{self.key} = {self.shown}: {self.rule}" if self.shown else f"{self.key}: {self.rule}"


def misfit_of(error: Exception, value: object, shape: type) -> Misfit:
    """Returns what is wrong with a value that could not be converted to a Struct."""
    found = _AT.match(str(error))
    assert found is not None, "the pattern matches any text"
    what, path = found["what"], (found["path"] or "$").removeprefix("$").removeprefix(".")
    if unknown := _UNKNOWN.fullmatch(what):
        return Misfit(_join(path, unknown[1]), "", _unknown(unknown[1], shape, path))
    if missing := _MISSING.fullmatch(what):
        return Misfit(_join(path, missing[1]), "", "it is missing")
    at = _value_at(value, path)
    is_hidden = at is _NOTHING or _SECRET.search(path) is not None
    return Misfit(path, "" if is_hidden else _shown(at), _rule(what, shape, path))


def _rule(what: str, shape: type, path: str) -> str:
    if length := _LENGTH.fullmatch(what):
        kind, sign, count = length[1], length[2], int(length[3])
        things = {"str": "characters", "bytes": "bytes", "object": "keys"}.get(kind, "items")
        if (sign, count) == (">=", 1):
            return f"write {'a text' if kind == 'str' else 'a list'} that is not empty"
        return f"write {_BOUNDS[sign]} {count} {things}"
    if bound := _BOUND.fullmatch(what):
        number = bound[3].removesuffix(".0")
        between = "of " if "=" in bound[2] else ""
        return f"write {_TYPES[bound[1]]} {between}{_BOUNDS[bound[2]]} {number}"
    if pattern := _PATTERN.fullmatch(what):
        if pattern[1] == NAME:
            return "write a name: letters, digits, _ and -, a letter first, at most 48"
        return f"write a text that matches {pattern[1].removeprefix('^').removesuffix('$')}"
    if what.startswith("Invalid enum value"):
        choices = _choices(shape, path)
        return f"write {_or(choices)}" if choices else "it is none of the known words"
    if kind_ := _TYPE.fullmatch(what):
        if not path and kind_[1] == "object":
            return "write an object"
        return f"write {_or([_TYPES.get(each, each) for each in kind_[1].split(' | ')])}"
    return "it has another form than the one that is documented"


def _unknown(name: str, shape: type, path: str) -> str:
    known = sorted(_fields(_shape_at(shape, path)))
    near = get_close_matches(name, known, 1)
    if near:
        return f'unknown key; did you mean "{near[0]}"?'
    if known and len(known) <= KNOWN:
        return f"unknown key; known are {', '.join(known)}"
    return "unknown key"


def _shape_at(shape: type, path: str) -> type:
    """Returns the Struct at a path, or `object`, which has no keys, where it is not known."""
    for step in path.split(".") if path else ():
        inner = _fields(shape).get(step.partition("[")[0])
        shape = next(filter(_fields, _types_in(inner)), object)
    return shape


def _types_in(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for each in get_args(annotation):
        yield from _types_in(each)


def _fields(shape: type) -> dict[str, object]:
    """Returns the types of a Struct by the names of its keys."""
    found: dict[str, object] = {}
    for each in reversed(shape.__mro__):
        found |= get_annotations(each)
    names = cast("Sequence[str]", getattr(shape, "__struct_fields__", ()))
    return {name: found.get(name) for name in names}


def _choices(shape: type, path: str) -> list[str]:
    """Returns the words that a key takes, in quotes."""
    words: list[str] = []

    def look(annotation: object) -> None:
        for each in get_args(annotation):
            if isinstance(each, str):
                words.append(json.dumps(each))
            else:
                look(each)

    look(_fields(shape).get(path.partition("[")[0].partition(".")[0]))
    return words


class _Nothing:
    """Stands for a value that cannot be found."""


_NOTHING = _Nothing()


def _value_at(value: object, path: str) -> object:
    for name, index in _STEP.findall(f".{path}" if path else ""):
        if name and isinstance(value, Mapping) and name in value:
            value = cast("Mapping[str, object]", value)[name]
        elif index.isdecimal() and isinstance(value, list):
            value = cast("list[object]", value)[int(index)]
        else:
            return _NOTHING
    return value if path else _NOTHING


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return ""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
