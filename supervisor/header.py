"""Whether the headers of an HTTP request say the same as its MCP message; revision 2026-07-28 has some repeat it.

Whatever stands between a client and us may route and decide by headers: so that nobody can say one
thing there and another in the body, a request in which they differ is refused. Values in, values out.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping

from ..mcp.exchange import HEADER_MISMATCH, ProtocolError
from ..worker.codec import as_object

VERSION = "MCP-Protocol-Version"
METHOD = "Mcp-Method"
NAME = "Mcp-Name"
PARAM = "Mcp-Param-"
SESSION = "Mcp-Session-Id"
LAST_EVENT = "Last-Event-ID"

NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose `Mcp-Name` repeats a param, and which."""

ANNOTATION = "x-mcp-header"
"""The key in the schema of a property that has to be repeated in a header, with the end of its name."""

MAX_DEPTH = 20

_WRAPPED = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
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
    if _only(values, VERSION) != version:
        raise _mismatch(VERSION, "the revision in _meta")
    if _only(values, METHOD) != method:
        raise _mismatch(METHOD, "the method")
    key = NAMED.get(method)
    named = None if key is None else params.get(key)
    if named is not None and _decoded(_only(values, NAME)) != named:
        raise _mismatch(NAME, f'"{key}"')


def check_params(values: Values, schema: object, arguments: Mapping[str, object]) -> None:
    """Compares the headers that the schema of a tool asks for with the arguments of a call.

    Raises:
        ProtocolError: they differ, or one is there and the other is not.
    """
    annotated = list(_annotated(schema, (), 0))
    if len({name.lower() for _, name, _ in annotated}) < len(annotated):
        return  # no client can do what this schema asks for
    for path, name, kind in annotated:
        value = _at(arguments, path)
        header, argument = f"{PARAM}{name}", f'argument "{".".join(path)}"'
        said = _only(values, header)
        if (value is None) != (said is None) or not _is_same(value, _decoded(said), kind):
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


def _decoded(value: str | None) -> str | None:
    """A header's value as its sender meant it: what no header can say comes as base64. None if that is broken."""
    wrapped = None if value is None else _WRAPPED.fullmatch(value)
    if wrapped is None:
        return value
    try:
        raw = base64.b64decode(wrapped[1], validate=True)
        if base64.b64encode(raw).decode("ascii") != wrapped[1]:
            return None
        return raw.decode("utf-8")
    except (binascii.Error, ValueError):
        return None


def _annotated(
    schema: object, path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Path, end of the header's name and type of each property that is to be repeated."""
    fields = as_object(schema) or {}
    name, kind = fields.get(ANNOTATION), fields.get("type")
    is_name = path and isinstance(name, str) and _TOKEN.fullmatch(name)
    if is_name and kind in ("string", "integer", "boolean"):
        yield path, str(name), str(kind)
    if depth < MAX_DEPTH:
        for key, each in (as_object(fields.get("properties")) or {}).items():
            yield from _annotated(each, (*path, key), depth + 1)


def _at(arguments: Mapping[str, object], path: tuple[str, ...]) -> object:
    value: object = arguments
    for key in path:
        value = (as_object(value) or {}).get(key)
    return value


def _is_same(value: object, said: str | None, kind: str) -> bool:
    if value is None or said is None:
        return value is None and said is None
    if isinstance(value, bool):
        return said == ("true" if value else "false")
    if isinstance(value, int | float):
        if kind == "integer" and value == int(value) and _DECIMAL.fullmatch(said):
            return int(said.partition(".")[0]) == int(value)
        return said == str(value)
    return said == value
