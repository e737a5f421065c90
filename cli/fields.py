"""Formats records for people: a line for each value, and tables of a specification as TOML. Values in, text out."""

import json
import re
from collections.abc import Callable, Iterator, Mapping

from .render import as_record, duration, size

Shown = tuple[str, str]

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
"""Form of the times that the daemon sends."""


def field_lines(record: Mapping[str, object], time: Callable[[str], str]) -> list[str]:
    """Returns a line for each value of a record, aligned; those that are null or empty are left out."""
    pairs = [pair for key, value in record.items() for pair in _pairs(key, value, time)]
    width = max((len(key) for key, _ in pairs), default=0)
    return [f"{key:<{width}}  {text}" for key, text in pairs]


def _pairs(key: str, value: object, time: Callable[[str], str]) -> Iterator[Shown]:
    if isinstance(value, dict):
        for inner_key, each in as_record(value).items():
            yield from _pairs(f"{key}.{inner_key}", each, time)
    elif isinstance(value, list):
        items: list[object] = value  # pyright: ignore[reportUnknownVariableType]  # an array of JSON
        if any(isinstance(each, dict | list) for each in items):
            for number, each in enumerate(items):
                yield from _pairs(f"{key}.{number}", each, time)
        elif items:
            yield key, ", ".join(_text(key, each, time) for each in items)
    elif value is not None and value != "":
        yield key, _text(key, value, time)


def _text(key: str, value: object, time: Callable[[str], str]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    unit = key.rpartition("_")[2]
    if isinstance(value, int | float):
        if unit == "s":
            return duration(value)
        return size(value) if unit == "bytes" else str(value)
    if isinstance(value, str):
        return time(value) if STAMP.fullmatch(value) else value
    return "-" if value is None else str(value)


def toml_text(value: object) -> str:
    """Returns a value of a specification as TOML on one line; null, which TOML has not, as `-`."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {toml_text(each)}" for key, each in as_record(value).items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        items: list[object] = value  # pyright: ignore[reportUnknownVariableType]  # an array of JSON
        return f"[{', '.join(map(toml_text, items))}]"
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
