"""Encodes the headers in which streamable HTTP repeats parts of a message.

Values in, values out; no I/O. From revision 2026-07-28 on a client mirrors the method, the name and those arguments of
a tool that its schema marks with `x-mcp-header`, so that intermediaries need not read bodies
(https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http#request-metadata).
"""

import base64
import binascii
import re
from collections.abc import Mapping

from corral.worker.contract.codec import as_array, as_object

from ..protocol import messages, tasks

VERSION = "MCP-Protocol-Version"
METHOD = "Mcp-Method"
NAME = "Mcp-Name"
PARAM = "Mcp-Param-"
SESSION = "Mcp-Session-Id"

MARK = "x-mcp-header"

Path = tuple[str, ...]
"""The keys that lead to an argument."""

MAX_MARKS = 100
"""Number of marked arguments of one tool: servers and proxies accept about as many headers."""

NAMED = {
    messages.CALL: "name",
    messages.GET_PROMPT: "name",
    messages.READ: "uri",
    tasks.CANCEL_TASK: "taskId",
    tasks.GET_TASK: "taskId",
    tasks.UPDATE_TASK: "taskId",
}
"""The param that `Mcp-Name` repeats, by method."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PLAIN = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")
_ENCODED = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_DATA = frozenset(("const", "default", "enum", "examples"))
_PRIMITIVE = frozenset(("boolean", "integer", "string"))
_MAX_INTEGER = 2**53 - 1


def modern_version(params: Mapping[str, object]) -> str | None:
    """Returns the revision that a request of the modern era names; None for one of the legacy era."""
    meta = as_object(params.get("_meta")) or {}
    version = meta.get(messages.META + "protocolVersion")
    return version if isinstance(version, str) else None


def request_headers(
    version: str, method: str, params: Mapping[str, object], marks: Mapping[Path, str]
) -> dict[str, str]:
    """Returns the headers of a request of the modern era."""
    headers = {VERSION: version, METHOD: encoded(method)}
    name = params.get(NAMED.get(method, ""))
    if isinstance(name, str):
        headers[NAME] = encoded(name)
    for path, mark in marks.items():
        value = text_of(argument_at(params.get("arguments"), path))
        if value is not None:
            headers[f"{PARAM}{mark}"] = encoded(value)
    return headers


def encoded(text: str) -> str:
    """Encodes a text for a header: unchanged where that is safe, else as marked Base64."""
    if _PLAIN.fullmatch(text) and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'replace')).decode('ascii')}?="


def decoded(value: str) -> str | None:
    """Decodes a text from `encoded`; returns None for invalid Base64."""
    wrapped = _ENCODED.fullmatch(value)
    if wrapped is None:
        return value
    try:
        raw = base64.b64decode(wrapped[1], validate=True)
        is_canonical = base64.b64encode(raw).decode("ascii") == wrapped[1]
        return raw.decode("utf-8") if is_canonical else None
    except (binascii.Error, ValueError):
        return None


def marks_of(schema: object) -> dict[Path, str]:
    """Returns the arguments that a tool's input schema marks, by path, with the name of the header of each."""
    marks: dict[Path, str] = {}
    seen: set[str] = set()
    # None in place of a path: it cannot be reached through `properties` alone.
    left: list[tuple[object, Path | None]] = [(schema, ())]
    while left:
        node, path = left.pop()
        if (items := as_array(node)) is not None:
            left += [(item, None) for item in items]
        if (fields := as_object(node)) is None:
            continue
        if MARK in fields:
            mark = _checked(fields, path)
            if mark.lower() in seen:
                raise ValueError(f'two properties are marked "{mark}"')
            seen.add(mark.lower())
            assert path is not None, "it was checked"
            marks[path] = mark
        for key, value in fields.items():
            properties = as_object(value) if key == "properties" else None
            if properties is not None:
                for name, child in properties.items():
                    left.append((child, None if path is None else (*path, name)))
            elif key not in _DATA:
                left.append((value, None))
    if len(marks) > MAX_MARKS:
        raise ValueError(f"it marks {len(marks)} properties, more than {MAX_MARKS}")
    return marks


def argument_at(value: object, path: Path) -> object:
    """Returns the argument of a call at a path; None if there is none."""
    for key in path:
        fields = as_object(value)
        if fields is None:
            return None
        value = fields.get(key)
    return value


def text_of(value: object) -> str | None:
    """Returns an argument as text; None if it has no header."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() if abs(value) <= _MAX_INTEGER:
            return str(value)
        case float() if value.is_integer() and abs(value) <= _MAX_INTEGER:
            return str(int(value))
        case _:
            return None


def _checked(fields: Mapping[str, object], path: Path | None) -> str:
    mark = fields[MARK]
    if not isinstance(mark, str) or not _TOKEN.fullmatch(mark):
        raise ValueError(f"{mark!r} is not a name of a header")
    if not path:
        raise ValueError(f'"{mark}" is marked where only properties can be')
    kind = fields.get("type")
    named = {one if isinstance(one, str) else "" for one in as_array(kind) or [kind]}
    if not named & _PRIMITIVE or named - _PRIMITIVE - {"null"}:
        raise ValueError(f'"{mark}" is neither string, integer nor boolean')
    return mark
