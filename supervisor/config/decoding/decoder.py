"""Decodes every table of a configuration: TOML text to tables, and a table to the values of a Struct, key by key.

`keys` has the declaration of the keys, which is applied here. An error names file, line, key, value and reason.

An error never repeats what could be a secret: tables and environments are named by kind only.
"""

import contextlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from types import NoneType
from typing import Any, TypeVar

from corral.worker.contract.errors import InvalidParams

from .keys import Fields
from .shapes import Rule
from .values import SIZE_MAX_BYTES, Refused, RefusedKey, dotted, is_list, is_table, kind_of, quoted

KeyPath = tuple[str, ...]

SECRET = frozenset({"env", "environment", "headers", "webhook_secret"})
"""Keys whose values are never repeated."""

STORE = "store"
"""The source of entries that were added at run time: no file that a person could look into."""


def why_unknown(key: str, known: Collection[str]) -> str:
    """Returns the reason for refusing a key that the table does not have."""
    return f"unknown key; known are {quoted(known)}"


# Any: a value that passed the rules of its own field, which only they know.
def decode_key(
    key: str,
    raw: object,
    fields: Fields,
    *,
    directory: str = "",
    unknown: Callable[[str, Collection[str]], str] = why_unknown,
) -> Any:
    """Decodes the value of one key; a relative path is one in `directory`."""
    field = fields.get(key)
    if field is None:
        raise RefusedKey(key, raw, unknown(key, fields))
    plain = as_text(raw)
    value: Any = None
    try:
        value = _ruled(plain, field.rules)
    except Refused as refused:
        if plain is raw:
            raise refused.below(key, raw) from refused
        try:  # "2" from a variable is a number where the key wants one
            value = _ruled(as_value(raw), field.rules)
        except Refused:
            raise RefusedKey(key, as_written(raw), f"{refused.reason}; its variables are expanded") from refused
    if not field.is_path or (key == "python" and "/" not in value):  # found in PATH
        return value
    if isinstance(value, str):
        return str(PurePosixPath(directory, value))
    return tuple(str(PurePosixPath(directory, item)) for item in value)


def decode_inline(raw: object, keys: Fields, example: str) -> dict[str, Any]:  # Any: see `decode_key`
    """Decodes a table that is the value of a key; one that is refused has its own path in it."""
    if not is_table(raw):
        raise Refused(f"write a table: {example}")
    return {key: decode_key(key, value, keys) for key, value in raw.items()}


def _ruled(value: Any, rules: tuple[Rule, ...]) -> Any:  # Any: see Rule
    for rule in rules:
        value = rule(value)
    return value


class Expanded(str):
    """Represents a string in which variables were replaced; `written` is the text before."""

    __slots__ = ("written",)

    def __new__(cls, value: str, written: str) -> "Expanded":
        """Makes it from both texts."""
        made = super().__new__(cls, value)
        made.written = written
        return made

    written: str


_T = TypeVar("_T")


def _mapped(value: _T, change: Callable[[Expanded], object]) -> _T | object:
    """Returns the same value if nothing in it is Expanded, else a copy with each such string changed."""
    if isinstance(value, Expanded):
        return change(value)
    if is_table(value):
        changed: dict[str, object] = {k: _mapped(each, change) for k, each in value.items()}
        return changed if any(changed[k] is not value[k] for k in changed) else value
    if is_list(value):
        items: list[object] = [_mapped(each, change) for each in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def as_text(raw: object) -> object:
    """Returns a value with plain strings; the same object if no variable was expanded in it."""
    return _mapped(raw, str)


def as_written(raw: object) -> object:
    """Returns a value as it was written; the same object if no variable was expanded in it."""
    return _mapped(raw, lambda text: text.written)


def written_keys(table: Mapping[str, object]) -> dict[KeyPath, object]:
    """Returns the keys of an agent's table in whose values variables were expanded, as written; without environments and headers."""
    found: dict[KeyPath, object] = {}
    for key, value in table.items():
        inner = value if is_table(value) else {}
        both = [((key,), value), *(((key, below), each) for below, each in inner.items())]
        for path, raw in both:
            written = as_written(raw)
            if written is not raw and path[-1] not in SECRET:
                found[path] = written
    return found


def written_secrets(table: Mapping[str, object]) -> dict[KeyPath, str]:
    """Returns the strings that `written_keys` leaves out, as they are written: those with variables in environments and headers."""
    process = table.get("process")
    outer = process if is_table(process) else {}
    environment = {**_table_or_empty(outer, "environment"), **_table_or_empty(table, "environment")}
    found: dict[KeyPath, str] = {}
    for key, values in (("environment", environment), ("headers", _table_or_empty(table, "headers"))):
        found |= {(key, n): v.written for n, v in values.items() if isinstance(v, Expanded)}
    secret = table.get("webhook_secret")
    return found | ({("webhook_secret",): secret.written} if isinstance(secret, Expanded) else {})


def _table_or_empty(table: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = table.get(key)
    return value if is_table(value) else {}


def as_value(raw: object) -> object:
    """Returns a value in which expanded strings that are numbers, true or false are such values."""
    return _mapped(raw, _typed)


def _typed(text: Expanded) -> object:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[+-]?[0-9]{1,30}\.[0-9]{1,30}", text) else str(text)


MISTAKES_MAX = 100
"""Number of mistakes of one document that its error lists."""


class Stopped(Exception):
    """Raised to leave a table some of whose mistakes were noted; `Document.collecting` takes it."""


@dataclass(frozen=True)
class Part:
    """Represents one file of a document: its name, its text, and the folder that paths in it start at."""

    source: str
    text: str
    directory: str = "/"

    @cached_property
    def places(self) -> list[tuple[KeyPath, int]]:
        """Returns the keys that are plain to see, each with its line."""
        return places_of(self.text)

    def tables(self) -> dict[str, object]:
        """Parses the TOML."""
        try:
            return tomllib.loads(self.text)
        except RecursionError:
            reason, place = "it is nested too deeply", None
        except tomllib.TOMLDecodeError as error:
            reason = str(error)
            place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", reason)
        except ValueError:  # int() takes no number of thousands of digits
            reason, place = "a number is too long", None
        facts: dict[str, object] = {}
        if place:
            lines = self.text.split("\n")
            facts["line"] = int(place[1]) if place[1] else len(lines)
            facts["column"] = int(place[2]) if place[2] else len(lines[-1]) + 1
            reason = reason[: place.start()]
        if _OTHER_LANGUAGE.search(self.text.split("\n")[_line_number(facts) - 1]):
            reason += "; corral reads TOML: KEY = VALUE below a [TABLE]"
        reason = _one_line(reason[:1].lower() + reason[1:])
        where = "".join(f", {name} {number}" for name, number in facts.items())
        words = f"cannot read {_one_line(self.source)}{where}: {reason}"
        raise InvalidParams(words, **{"file": self.source, "key": None, "value": None, "reason": reason, **facts})


class Document:
    """Represents the document that is read: knows its name and its lines, makes the errors, and collects them.

    A mistake ends the key or table that has it, not the reading: `collecting` notes it, and `check` raises all.
    """

    def __init__(self, source: str, text: str, directory: str = "/") -> None:
        self.source = source
        self.main = Part(source, text, directory)
        self.failures = 0
        self._mistakes: list[InvalidParams] = []
        self._shared: dict[KeyPath, Part] = {}
        self._inherited: dict[KeyPath, KeyPath] = {}

    def share(self, path: KeyPath, part: Part) -> None:
        """Notes that the table of a name is in an included file."""
        self._shared[path] = part

    def inherit(self, path: KeyPath, origin: KeyPath) -> None:
        """Notes that the value of a key was taken from another key, which errors about it are to name."""
        self._inherited[path] = origin

    def _origin_of(self, path: KeyPath) -> KeyPath | None:
        for end in range(len(path), 0, -1) if self._inherited else ():
            if (origin := self._inherited.get(path[:end])) is not None:
                return (*origin, *path[end:])
        return None

    def part_of(self, path: KeyPath) -> Part:
        """Returns the file that has a key: the main one, unless its table is in another."""
        if not self._shared:
            return self.main
        return self._shared.get(path[: 3 if path[0] == "mcp" else 2], self.main)

    def place_of(self, path: KeyPath) -> str:
        """Returns the file and the line of a table, for people."""
        part = self.part_of(path)
        line = line_of(part.places, path)
        return _one_line(part.source) + (f", line {line}," if line else "")

    def error(
        self, path: KeyPath, value: object, reason: str, *, part: Part | None = None, **data: object
    ) -> InvalidParams:
        """Makes the error to raise about `path` in its file, or in `part`; `value` is None where nothing was written."""
        if (origin := self._origin_of(path)) is not None:
            by = dotted(path[: 3 if path[0] == "mcp" else 2])
            if self.source == STORE:
                reason += f" (a value of {dotted(origin)})"
            else:
                path, part, reason = origin, None, f"{reason} (in {by})"
        part = part or self.part_of(path)
        key, shown = dotted(path), _shown(path, value)
        line = line_of(part.places, path)
        facts: dict[str, object] = {"file": part.source, "key": key, "value": shown}
        facts |= {"reason": reason, **({"line": line} if line else {}), **data}
        where = f"cannot read {_one_line(part.source)}" + (f", line {line}" if line else "")
        if self.source == STORE:
            depth = 3 if path[0] == "mcp" else 2
            where, key = f"cannot accept {_brief(path[depth - 1])}", dotted(path[depth:])
        if value is None or not key:
            what = key
        else:
            what = f"[{key}]" if isinstance(value, Mapping) else f"{key} = {_brief(shown)}"
        return InvalidParams(": ".join(filter(None, (where, what, _one_line(reason)))), **facts)

    @contextlib.contextmanager
    def collecting(self) -> Generator[None, None, None]:
        """Notes the mistake that ends the block, so that what stands behind it is read as well."""
        try:
            yield
        except Stopped:
            pass
        except InvalidParams as error:
            self.note(error)

    def note(self, error: InvalidParams) -> None:
        """Notes a mistake; a second one about the same key, which follows from the first, is only counted."""
        self.failures += 1
        place = (error.data["file"], error.data["key"])
        if place not in {(each.data["file"], each.data["key"]) for each in self._mistakes}:
            self._mistakes.append(error)

    def stop_after(self, failures: int) -> None:
        """Leaves the present table if there are mistakes beyond the first `failures`."""
        if self.failures > failures:
            raise Stopped

    def check(self) -> None:
        """Raises all mistakes that were noted, in the order of their lines."""
        if not self._mistakes:
            return
        lines = [each.data.get("line") for each in self._mistakes]
        found = [
            error
            for _, _, error in sorted(
                (line if isinstance(line, int) else 1 << 30, n, error)
                for n, (line, error) in enumerate(zip(lines, self._mistakes, strict=True))
            )
        ]
        first, more = found[0], len(found) - 1
        if not more:
            raise first
        errors = [{"message": each.message, **each.data} for each in found[:MISTAKES_MAX]]
        also = f"{more} more mistakes" if more > 1 else "one more mistake"
        raise InvalidParams(f"{first.message} (and {also})", **{**first.data, "errors": errors})

    def decode_key(
        self, path: KeyPath, raw: object, fields: Fields, *, part: Part | None = None, **how: Any
    ) -> Any:  # Any: see `decode_key`
        """Decodes the value of the key that `path` ends with."""
        part = part or self.part_of(path)
        try:
            return decode_key(path[-1], raw, fields, directory=part.directory, **how)
        except RefusedKey as refused:
            where = (*path[:-1], *refused.path)
            raise self.error(where, refused.item, refused.reason, part=part) from refused

    def decode_keys(
        self, path: KeyPath, table: Mapping[str, object], fields: Fields, **how: Any
    ) -> dict[str, Any]:  # Any: see `decode_key`
        """Decodes the keys of a table; those that are refused are noted, and left out."""
        found: dict[str, Any] = {}
        for key, value in table.items():
            try:
                found[key] = self.decode_key((*path, key), value, fields, **how)
            except InvalidParams as error:
                self.note(error)
        return found

    def require(self, path: KeyPath, keys: Collection[str], **examples: str) -> None:
        """Refuses a table without one of the keys that have an example."""
        for key, example in examples.items():
            if key not in keys:
                raise self.error((*path, key), None, f"it is missing: write {example}")

    def refuse(
        self, path: KeyPath, table: Mapping[str, object], keys: Iterable[str], reason: str, *, shown: bool = True
    ) -> None:
        """Refuses a table in which one of these keys is not empty; its value is told where it is to be `shown`."""
        for key in keys:
            if table.get(key):
                raise self.error((*path, key), table[key] if shown else None, reason)

    def decode_named(
        self, section: str, tables: Mapping[str, object], decode: Callable[[KeyPath, str, object], _T]
    ) -> tuple[dict[str, _T], set[str]]:
        """Returns the named tables of a section, and the names of those that are refused, which are noted."""
        found: dict[str, _T] = {}
        for name, table in tables.items():
            with self.collecting():
                found[name] = decode((section, name), name, table)
        return found, {*tables} - found.keys()

    def decode(self, path: KeyPath, raw: object, fields: Fields) -> dict[str, Any]:
        """Decodes a table by its keys."""
        if not is_table(raw):
            raise self.error(path, raw, "write a table")
        before = self.failures
        found = self.decode_keys(path, raw, fields)
        self.stop_after(before)
        return found


_OTHER_LANGUAGE = re.compile(r"""^\s*(?:[{}\]]|-\s|---|["']?[\w.-]+["']?\s*:)""")
"""Line of YAML or JSON."""


def _line_number(facts: Mapping[str, object]) -> int:
    line = facts.get("line")
    return line if isinstance(line, int) else 1


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _shown(path: KeyPath, value: object) -> object:
    """Returns the part of `value` that an error may repeat: plain, short, and nothing that could be a secret."""
    value = as_written(value)
    if is_table(value) or path[-1] in SECRET:
        return kind_of(value)
    if isinstance(value, int) and abs(value) > SIZE_MAX_BYTES:
        return "a huge number"
    if isinstance(value, str | bool | int | NoneType):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if is_list(value):
        return [_shown(path, v) if not is_list(v) else kind_of(v) for v in value[:20]]
    return str(value)  # the dates and times of TOML


def _brief(shown: object) -> str:
    text = json.dumps(shown, ensure_ascii=False)
    text = text if text.isprintable() else json.dumps(shown)
    return text if len(text) <= 100 else f"{text[:96]} ..."


_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\\]*"|'[^']*')"""
_KEY = rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*"
_LINE = re.compile(rf"{_KEY}=|\s*\[\[?{_KEY}\]\]?\s*(?:#.*)?$")


_STEP_NAME = re.compile(r"\s*name\s*=\s*(?:\"([^\"\\]*)\"|'([^']*)')")


def places_of(text: str) -> list[tuple[KeyPath, int]]:
    """Returns the keys and headers that are plain to see, each with its line; steps of workflows by name, else by number."""
    header: KeyPath = ()
    steps: dict[KeyPath, int] = {}
    names: dict[KeyPath, str] = {}
    found: list[tuple[KeyPath, int]] = []
    in_text = False
    for number, line in enumerate(text.split("\n"), 1):
        was_in_text = in_text
        in_text ^= (line.count('"""') + line.count("'''")) % 2 == 1
        match = None if was_in_text else _LINE.match(line)
        if match is None:
            continue
        parts = tuple(part.strip("\"'") for part in re.findall(_PART, match[1] or match[2]))
        if match[2] is None:
            found.append(((*header, *parts), number))
            if header[3:4] and (named := _STEP_NAME.match(line)):
                names.setdefault(header, named[1] or named[2] or header[3])
            continue
        array = parts[:3]
        if parts[0] == "workflows" and array[2:] == ("steps",):
            if len(parts) == 3:
                steps[array] = steps.get(array, 0) + 1
            parts = (*array, str(steps.get(array, 1)), *parts[3:])
        header = parts
        found.append((header, number))
    return [((*path[:3], names[path[:4]], *path[4:]) if path[:4] in names else path, number) for path, number in found]


def line_of(places: Iterable[tuple[KeyPath, int]], path: KeyPath) -> int | None:
    """Finds the line in which `path` is written, or else its table; None when neither is plain to see."""
    found, depth = None, min(len(path) - 2, 2 if path[0] == "mcp" else 1)
    for here, number in places:
        common = min(len(here), len(path))
        if common > depth and path[:common] == here[:common]:
            found, depth = number, common
    return found
