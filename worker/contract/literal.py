"""Writes text so that a configuration file does not take parts of it for variables."""

import re
from collections.abc import Mapping

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
