"""The document that a configuration is read from: its keys' lines, and errors that name file, key, value and reason.

An error never repeats what could be a secret: tables and environments are named by kind only.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from types import NoneType
from typing import Any

from ...worker.contract.errors import InvalidParams
from .values import SIZE_MAX_BYTES, Refused, Rule, dotted, is_list, is_table, kind_of, quoted

KeyPath = tuple[str, ...]

STORE = "store"
"""The source of what was added at run time: no file that a person could look into."""


class Page:
    """The document that is read: it knows its name and its lines, and makes the errors."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.text = text

    def error(self, path: KeyPath, value: object, reason: str, **data: object) -> InvalidParams:
        """The error to raise about `path`; `value` None where nothing was written."""
        key, shown = dotted(path), _shown(path, value)
        line = _line_of(self.text, path)
        facts: dict[str, object] = {"file": self.source, "key": key, "value": shown}
        facts |= {"reason": reason, **({"line": line} if line else {}), **data}
        where = f"cannot read {_one_line(self.source)}" + (f", line {line}" if line else "")
        if self.source == STORE:
            depth = 3 if path[0] == "mcp" else 2
            where, key = f"cannot accept {_brief(path[depth - 1])}", dotted(path[depth:])
        what = key if value is None or not key else f"{key} = {_brief(shown)}"
        words = ": ".join(filter(None, (where, what, _one_line(reason))))
        return InvalidParams(words, **facts)

    # Any: a table of values of several types, each of which passed its own rule.
    def keys(self, path: KeyPath, raw: object, rules: Mapping[str, Rule]) -> dict[str, Any]:
        """The keys of a table, each after its rule.

        Raises:
            InvalidParams: it is no table, has a key that no rule is for, or a value that its rule refuses.
        """
        if not is_table(raw):
            raise self.error(path, raw, "write a table")
        found: dict[str, Any] = {}
        for key, value in raw.items():
            if key not in rules:
                raise self.error((*path, key), value, f"unknown key; known are {quoted(rules)}")
            try:
                found[key] = rules[key](value)
            except Refused as refused:
                item = value if refused.item is ... else refused.item
                raise self.error((*path, key), item, refused.reason) from refused
        return found

    def tables(self) -> dict[str, object]:
        """What the TOML says.

        Raises:
            InvalidParams: with `line` and `column` where the grammar is broken; `key` and `value` are None.
        """
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
        reason = _one_line(reason[:1].lower() + reason[1:])
        where = "".join(f", {name} {number}" for name, number in facts.items())
        raise InvalidParams(
            f"cannot read {_one_line(self.source)}{where}: {reason}",
            **{"file": self.source, "key": None, "value": None, "reason": reason, **facts},
        )


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _shown(path: KeyPath, value: object) -> object:
    """What an error may repeat of `value`: plain, short, and nothing that could be a secret."""
    if is_table(value) or path[-1] in ("env", "environment", "headers"):
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


def _line_of(text: str, path: KeyPath) -> int | None:
    """The line in which `path` is written, or else its table; None when neither is plain to see."""
    header: KeyPath = ()
    found, depth = None, len(path) - 2
    in_text = False
    for number, line in enumerate(text.split("\n"), 1):
        was_in_text = in_text
        in_text ^= (line.count('"""') + line.count("'''")) % 2 == 1
        match = None if was_in_text else _LINE.match(line)
        if match is None:
            continue
        parts = tuple(part.strip("\"'") for part in re.findall(_PART, match[1] or match[2]))
        if match[2]:
            header = here = parts
        else:
            here = (*header, *parts)
        common = min(len(here), len(path))
        if common > depth and path[:common] == here[:common]:
            found, depth = number, common
    return found
