"""Parses the head of an HTTP request: the query of the address, accepted content types, and headers that repeat the message."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from aiohttp import web

from corral.mcp.endpoint.request import HEADER_MISMATCH, ProtocolError, Provider, TaskSource
from corral.mcp.protocol.messages import CALL, META
from corral.mcp.upstream import http_headers
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import InvalidParams

from ..http.face import TENANT_KEY
from .mcp_session import RpcRequest

LAST_EVENT = "Last-Event-ID"

MAX_ACCEPT_CHARACTERS = 8190
"""Characters of a header `Accept` that are parsed: as long as one line of it may be."""

MAX_NAME = 100
"""Characters of a client's name that are kept."""

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


class HttpTools(Provider, Protocol):
    """Describes a Provider whose tools can be looked up one by one."""

    def tool(self, name: str) -> Mapping[str, object] | None:
        """Returns the tool that a call of this name would reach; None if it is not known, or not offered."""
        ...

    @property
    def tasks(self) -> TaskSource | None:
        """Returns the tasks of the client."""
        ...


class ViewQuery(NamedTuple):
    """Holds what the query of a client's address says of its tools."""

    only: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    read_only: bool = False
    profile: str | None = None
    tools: Literal["auto", "all"] = "auto"


def check_headers(request: web.BaseRequest, rpc: RpcRequest, client_tools: HttpTools) -> None:
    """Compares the headers of a modern request with its message and with the schema of its tool."""
    meta = as_object(rpc.params.get("_meta")) or {}
    for key in ("protocolVersion", "clientCapabilities"):
        if META + key not in meta:
            raise InvalidParams(f'cannot serve "{rpc.method}": its _meta has no "{META}{key}"', key=META + key)

    def values(name: str) -> list[str]:
        return request.headers.getall(name, [])

    check_routing(values, rpc.method, rpc.params, version_of({"params": rpc.params}))
    tool = client_tools.tool(str(rpc.params.get("name"))) if rpc.method == CALL else None
    if tool is not None:
        arguments = as_object(rpc.params.get("arguments")) or {}
        check_params(values, tool.get("inputSchema"), arguments)


def version_of(message: Mapping[str, object]) -> object:
    """Returns the revision in the `_meta` of a request; None where it names none."""
    params = as_object(message.get("params")) or {}
    return (as_object(params.get("_meta")) or {}).get(META + "protocolVersion")


def client_name(client: object) -> str:
    """Names a client for events and the audit, by the name that it gives."""
    name = (as_object(client) or {}).get("name")
    return f"http {name[:MAX_NAME]}" if isinstance(name, str) and name else "http"


def view_query(request: web.BaseRequest) -> ViewQuery:
    """Parses the query of the address."""
    query = request.query
    known = {"only", "deny", "read_only", "profile", "tools"}
    if unknown := sorted(query.keys() - known - {TENANT_KEY}):
        raise InvalidParams(
            f'cannot serve "?{unknown[0]}=": there is no such parameter', key=unknown[0], known=sorted(known)
        )
    read_only = query.get("read_only", "0")
    if read_only not in ("0", "1", "true", "false"):
        raise InvalidParams(f"cannot read read_only={read_only!r}: write 1 or 0", key="read_only")
    if (tools := query.get("tools", "auto")) not in ("auto", "all"):
        raise InvalidParams(f"cannot read tools={tools!r}: write all or auto", key="tools")
    return ViewQuery(
        only=tuple(query.getall("only")) if "only" in query else None,
        deny=tuple(query.getall("deny", [])),
        read_only=read_only in ("1", "true"),
        profile=query.get("profile"),
        tools="all" if tools == "all" else "auto",
    )


def accepted_types(request: web.BaseRequest) -> frozenset[str]:
    """Returns those of our two types of content that the client accepts."""
    return _media_types(",".join(request.headers.getall("Accept", ["*/*"]))[:MAX_ACCEPT_CHARACTERS])


@lru_cache(64)
def _media_types(accept: str) -> frozenset[str]:
    ours = ("application/json", "text/event-stream")
    found: set[str] = set()
    for part in accept.lower().split(","):
        kind, _, rest = part.strip().partition(";")
        if rest.replace(" ", "") in ("q=0", "q=0.0"):
            continue
        main, _, sub = kind.strip().partition("/")
        found |= {
            each for each in ours if kind.strip() in (each, "*/*") or (each.startswith(f"{main}/") and sub == "*")
        }
    return frozenset(found)
