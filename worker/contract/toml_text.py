"""Writes tables as TOML text, and text so that a configuration file does not take parts of it for variables."""

import json
import re
from collections.abc import Iterator, Mapping

from .codec import as_array, as_object

_DOLLAR = re.compile(r"\$(?=[${]|\Z)(?!\{(?:secret:[^}]*|port:[^}]*|instance)\})")


def literal(text: str) -> str:
    """Returns the text with each dollar doubled that would be expanded, here or before a text that follows.

    The references that the start of a worker expands, such as `${instance}`, stay as they are.
    """
    return _DOLLAR.sub("$$", text) if "$" in text else text


def literal_table(table: Mapping[str, object]) -> dict[str, object]:
    """Returns the table with all of its strings as `literal` writes them."""
    return {key: _literal_value(value) for key, value in table.items()}


def _literal_value(value: object) -> object:
    if isinstance(value, str):
        return literal(value)
    if (table := as_object(value)) is not None:
        return literal_table(table)
    if (array := as_array(value)) is not None:
        return [_literal_value(each) for each in array]
    return value


def lines(path: tuple[str, ...], table: Mapping[str, object]) -> Iterator[str]:
    """Yields the lines of a table under the header `path`, those of the tables in it after its own keys."""
    yield f"[{'.'.join(map(key, path))}]"
    inner = {name: as_object(each) for name, each in table.items()}
    for name, each in table.items():
        if inner[name] is None:
            yield f"{key(name)} = {value(each)}"
    for name, each in inner.items():
        if each is not None:
            yield from lines((*path, name), each)


def key(name: str) -> str:
    """Formats a key, in quotes where it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else value(name)


def value(item: object) -> str:
    """Formats a value on one line; a table becomes an inline table."""
    if (array := as_array(item)) is not None:
        return f"[{', '.join(map(value, array))}]"
    if (table := as_object(item)) is not None:
        pairs = ", ".join(f"{key(name)} = {value(each)}" for name, each in table.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    text = json.dumps(item, ensure_ascii=False)  # its escapes are TOML's, too
    return text.replace("\x7f", "\\u007F")
