"""Whether the headers of an HTTP request say the same as its MCP message; revision 2026-07-28 has some repeat it.

Whatever stands between a client and us may route and decide by headers: so that nobody can say one
thing there and another in the body, a request in which they differ is refused. Values in, values out.
"""

import re
from collections.abc import Callable, Mapping

from ...mcp.endpoint.request import HEADER_MISMATCH, ProtocolError
from ...mcp.upstream import http_headers

LAST_EVENT = "Last-Event-ID"

_DECIMAL = re.compile(r"-?[0-9]{1,100}(\.0+)?")

Values = Callable[[str], list[str]]
"""All values of the header of a name."""


def check_routing(
    values: Values, method: str, params: Mapping[str, object], version: object
) -> None:
    """Compares the headers that every request has.

    Raises:
        ProtocolError: they differ from the message, are missing, or are there twice.
    """
    if _only(values, http_headers.VERSION) != version:
        raise _mismatch(http_headers.VERSION, "the revision in _meta")
    if _only(values, http_headers.METHOD) != method:
        raise _mismatch(http_headers.METHOD, "the method")
    key = http_headers.NAMED.get(method)
    named = None if key is None else params.get(key)
    if named is not None:
        said = _only(values, http_headers.NAME)
        if said is None or http_headers.decoded(said) != named:
            raise _mismatch(http_headers.NAME, f'"{key}"')


def check_params(values: Values, schema: object, arguments: Mapping[str, object]) -> None:
    """Compares the headers that the schema of a tool asks for with the arguments of a call.

    Raises:
        ProtocolError: they differ, or one is there and the other is not.
    """
    try:
        marks = http_headers.marks_of(schema)
    except ValueError:
        return  # no client can do what this schema asks for
    for path, mark in marks.items():
        header, argument = f"{http_headers.PARAM}{mark}", f'argument "{".".join(path)}"'
        if not _is_same(http_headers.argument_at(arguments, path), _only(values, header)):
            raise _mismatch(header, argument)


def _only(values: Values, name: str) -> str | None:
    found = values(name)
    if len(found) > 1:
        raise ProtocolError(
            HEADER_MISMATCH, f"cannot serve the request: header {name} is there twice", header=name
        )
    return found[0].strip(" \t") if found else None


def _mismatch(name: str, what: str) -> ProtocolError:
    text = f"cannot serve the request: header {name} does not say the same as {what}"
    return ProtocolError(HEADER_MISMATCH, text, header=name)


def _is_same(value: object, header: str | None) -> bool:
    """Whether a header says an argument: numbers as numbers, and those that no client needs to repeat if it does."""
    text = http_headers.text_of(value)
    if header is None:
        return text is None
    said = http_headers.decoded(header)
    if said is None:
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        if text is not None and _DECIMAL.fullmatch(said):
            return int(said.partition(".")[0]) == int(text)
        return said == str(value)
    return said == text
