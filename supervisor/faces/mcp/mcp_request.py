"""Parses the head of an HTTP request: the query of the address, accepted content types, and headers that repeat the message."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

from aiohttp import web

from corral.mcp.endpoint.request import Provider, TaskSource
from corral.mcp.protocol.messages import CALL, META
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import InvalidParams

from ..http.face import TENANT_KEY
from . import mcp_headers
from .mcp_session import RpcRequest

MAX_ACCEPT_CHARACTERS = 8190
"""Characters of a header `Accept` that are parsed: as long as one line of it may be."""

MAX_NAME = 100
"""Characters of a client's name that are kept."""


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
    """Holds the patterns and the profile in the query of a client's address."""

    only: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    read_only: bool = False
    profile: str | None = None


def check_headers(request: web.BaseRequest, rpc: RpcRequest, client_tools: HttpTools) -> None:
    """Compares the headers of a modern request with its message and with the schema of its tool."""
    meta = as_object(rpc.params.get("_meta")) or {}
    for key in ("protocolVersion", "clientCapabilities"):
        if META + key not in meta:
            raise InvalidParams(f'cannot serve "{rpc.method}": its _meta has no "{META}{key}"', key=META + key)

    def values(name: str) -> list[str]:
        return request.headers.getall(name, [])

    mcp_headers.check_routing(values, rpc.method, rpc.params, version_of({"params": rpc.params}))
    tool = client_tools.tool(str(rpc.params.get("name"))) if rpc.method == CALL else None
    if tool is not None:
        arguments = as_object(rpc.params.get("arguments")) or {}
        mcp_headers.check_params(values, tool.get("inputSchema"), arguments)


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
    known = {"only", "deny", "read_only", "profile"}
    if unknown := sorted(query.keys() - known - {TENANT_KEY}):
        raise InvalidParams(
            f'cannot serve "?{unknown[0]}=": there is no such parameter', key=unknown[0], known=sorted(known)
        )
    read_only = query.get("read_only", "0")
    if read_only not in ("0", "1", "true", "false"):
        raise InvalidParams(f"cannot read read_only={read_only!r}: write 1 or 0", key="read_only")
    return ViewQuery(
        only=tuple(query.getall("only")) if "only" in query else None,
        deny=tuple(query.getall("deny", [])),
        read_only=read_only in ("1", "true"),
        profile=query.get("profile"),
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
