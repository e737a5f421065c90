"""Compares the headers of a modern MCP request, which repeat parts of its message, with the message."""

import re
from collections.abc import Callable, Mapping

from corral.mcp.endpoint.request import HEADER_MISMATCH, ProtocolError
from corral.mcp.upstream import http_headers

LAST_EVENT = "Last-Event-ID"

_DECIMAL = re.compile(r"-?[0-9]{1,100}(\.0+)?")

Values = Callable[[str], list[str]]
"""Returns all values of the header of a name."""


def check_routing(values: Values, method: str, params: Mapping[str, object], version: object) -> None:
    """Compares the headers that every request has."""
    if _only(values, http_headers.VERSION) != version:
        raise _mismatch(http_headers.VERSION, "the revision in _meta")
    if _only(values, http_headers.METHOD) != method:
        raise _mismatch(http_headers.METHOD, "the method")
    key = http_headers.NAMED.get(method)
    named = None if key is None else params.get(key)
    if named is not None:
        decoded_value = _only(values, http_headers.NAME)
        if decoded_value is None or http_headers.decoded(decoded_value) != named:
            raise _mismatch(http_headers.NAME, f'"{key}"')


def check_params(values: Values, schema: object, arguments: Mapping[str, object]) -> None:
    """Compares the headers that the schema of a tool asks for with the arguments of a call."""
    try:
        marks = http_headers.marks_of(schema)
    except ValueError:
        return  # no client can send the headers of this schema
    for path, mark in marks.items():
        header, argument = f"{http_headers.PARAM}{mark}", f'argument "{".".join(path)}"'
        if not _is_same(http_headers.argument_at(arguments, path), _only(values, header)):
            raise _mismatch(header, argument)


def _only(values: Values, name: str) -> str | None:
    found = values(name)
    if len(found) > 1:
        raise ProtocolError(HEADER_MISMATCH, f"cannot serve the request: header {name} is there twice", header=name)
    return found[0].strip(" \t") if found else None


def _mismatch(name: str, what: str) -> ProtocolError:
    return ProtocolError(HEADER_MISMATCH, f"cannot serve the request: header {name} differs from {what}", header=name)


def _is_same(value: object, header: str | None) -> bool:
    """Returns whether a header has the value of an argument: numbers compare as numbers, a missing header is right for a value that has no text."""
    text = http_headers.text_of(value)
    if header is None:
        return text is None
    decoded_value = http_headers.decoded(header)
    if decoded_value is None:
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        if text is not None and _DECIMAL.fullmatch(decoded_value):
            return int(decoded_value.partition(".")[0]) == int(text)
        return decoded_value == str(value)
    return decoded_value == text
