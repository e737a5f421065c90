"""What MCP says, without saying it: revisions, params, results, tools and the names they are exposed by.

Values in, values out; no I/O and no clock. Both eras of the protocol (https://modelcontextprotocol.io/specification):
*legacy*, 2024-11-05 to 2025-11-25, opens with `initialize` and keeps state per connection; *modern*,
2026-07-28, knows no sessions, repeats the client's version and capabilities in each request's `_meta`,
and is asked with `server/discover`. What a server sends is hostile input: whatever is wrong in it
becomes a typed error or is left out.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from ..worker.codec import as_array, as_object, encode
from ..worker.errors import InvalidParams, ToolFailed

Era = Literal["legacy", "modern"]

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)

CALL = "tools/call"
DISCOVER = "server/discover"
INITIALIZE = "initialize"
INITIALIZED = "notifications/initialized"
LISTEN = "subscriptions/listen"
LIST_TOOLS = "tools/list"
LOG_MESSAGE = "notifications/message"
PING = "ping"
PROGRESS = "notifications/progress"
TOOLS_CHANGED = "notifications/tools/list_changed"

LISTEN_PARAMS: dict[str, object] = {"notifications": {"toolsListChanged": True}}

META = "io.modelcontextprotocol/"

MAX_EXPOSED_CHARACTERS = 48
"""Clients allow names of 64 characters and put a prefix of their own before ours."""

HASH_CHARACTERS = 8

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")


# -- opening


def eras_to_try(protocol_version: str, hint: Era | None) -> tuple[Era, ...]:
    """The eras to open a connection with, in this order, until one is answered.

    Without knowledge the legacy `initialize` comes first. Every legacy server expects it as the first
    message, and some end or fall silent on anything else; a modern server answers it with an error,
    which costs one round trip; one that speaks both eras pins itself to the first message, and is
    as good in either. A server known to be modern (`hint`) is asked the modern way; should it have been
    replaced by a legacy one since, `initialize` follows, and should it merely have been slow, its
    refusal of `initialize` leads back.

    Raises:
        InvalidParams: no such revision.
    """
    if protocol_version in LEGACY_VERSIONS:
        return ("legacy",)
    if protocol_version in MODERN_VERSIONS:
        return ("modern",)
    if protocol_version != "auto":
        known = ["auto", *LEGACY_VERSIONS, *MODERN_VERSIONS]
        text = f'cannot speak MCP revision "{protocol_version}"'
        raise InvalidParams(text, key="protocol_version", value=protocol_version, known=known)
    if hint == "modern":
        return ("modern", "legacy", "modern")
    return ("legacy", "modern")


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What the two sides agreed on, and what the server says of itself."""

    era: Era
    version: str
    server_info: dict[str, object] = {}
    capabilities: dict[str, object] = {}
    instructions: str = ""


def initialize_params(protocol_version: str, client_version: str) -> dict[str, object]:
    """The params of `initialize`. We declare no capability: a shared server has no one user to ask."""
    offered = protocol_version if protocol_version in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
    return {
        "protocolVersion": offered,
        "capabilities": {},
        "clientInfo": client_info(client_version),
    }


def client_info(client_version: str) -> dict[str, object]:
    """Who we are, for servers that log it."""
    return {"name": "corral", "version": client_version}


def read_initialize(result: object) -> Opened:
    """The agreement in a result of `initialize`.

    Raises:
        ToolFailed: it is none, or of a revision that is not known.
    """
    fields = as_object(result) or {}
    version = fields.get("protocolVersion")
    if version not in LEGACY_VERSIONS:
        text = f"cannot agree on an MCP revision: the server answered {version!r}"
        raise ToolFailed(text, version=version, known=list(LEGACY_VERSIONS))
    return Opened(
        era="legacy",
        version=str(version),
        server_info=as_object(fields.get("serverInfo")) or {},
        capabilities=as_object(fields.get("capabilities")) or {},
        instructions=_text(fields.get("instructions")),
    )


def read_discover(result: object) -> Opened:
    """The agreement in a result of `server/discover`.

    Raises:
        ToolFailed: it is none, or the server speaks no modern revision that is known.
    """
    fields = as_object(result) or {}
    offered = as_array(fields.get("supportedVersions")) or []
    common = [version for version in MODERN_VERSIONS if version in offered]
    if not common:
        text = f"cannot agree on an MCP revision: the server supports {offered!r}"
        raise ToolFailed(text, version=offered, known=list(MODERN_VERSIONS))
    stamp = (as_object(fields.get("_meta")) or {}).get(META + "serverInfo")
    return Opened(
        era="modern",
        version=common[-1],
        server_info=as_object(stamp) or as_object(fields.get("serverInfo")) or {},
        capabilities=as_object(fields.get("capabilities")) or {},
        instructions=_text(fields.get("instructions")),
    )


def announces_tools(opened: Opened) -> bool:
    """Whether the server says that it tells of changed tools."""
    tools = as_object(opened.capabilities.get("tools"))
    return tools is not None and tools.get("listChanged") is True


def with_meta(
    params: Mapping[str, object],
    *,
    modern_version: str | None,
    client_version: str,
    progress_token: int | None = None,
) -> dict[str, object]:
    """The params of a request with the `_meta` that its era asks for.

    Args:
        params: without `_meta`.
        modern_version: the revision on a modern connection, None on a legacy one.
        client_version: corral's own.
        progress_token: given when somebody wants to hear of progress.
    """
    meta: dict[str, object] = {}
    if modern_version is not None:
        meta[META + "protocolVersion"] = modern_version
        meta[META + "clientInfo"] = client_info(client_version)
        meta[META + "clientCapabilities"] = {}
    if progress_token is not None:
        meta["progressToken"] = progress_token
    return {**params, "_meta": meta} if meta else dict(params)


# -- tools


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool, as its server describes it."""

    name: str
    description: str = ""
    input_schema: dict[str, object] = {}
    output_schema: dict[str, object] | None = None
    annotations: dict[str, object] = {}

    @staticmethod
    def from_wire(value: object) -> "Tool | None":
        """The tool in one entry of `tools/list`, or None: without a name nobody could call it."""
        fields = as_object(value) or {}
        name = fields.get("name")
        if not isinstance(name, str) or not name:
            return None
        return Tool(
            name=name,
            description=_text(fields.get("description")),
            input_schema=as_object(fields.get("inputSchema")) or {"type": "object"},
            output_schema=as_object(fields.get("outputSchema")),
            annotations=as_object(fields.get("annotations")) or {},
        )

    @property
    def is_read_only(self) -> bool:
        """Whether the server says that a call changes nothing."""
        return self.annotations.get("readOnlyHint") is True

    @property
    def is_idempotent(self) -> bool:
        """Whether the server says that a second call changes nothing more."""
        return self.is_read_only or self.annotations.get("idempotentHint") is True

    @property
    def size_bytes(self) -> int:
        """What keeping it costs, roughly: its length as JSON."""
        return len(encode(self))


def read_tools(result: object) -> tuple[list[Tool], str | None]:
    """The tools of one page and the cursor of the next; None after the last, `""` is a cursor.

    Raises:
        ToolFailed: it is no page.
    """
    fields = as_object(result)
    entries = None if fields is None else as_array(fields.get("tools"))
    if fields is None or entries is None:
        raise ToolFailed("cannot read the tools: the answer has no list of them")
    tools = [tool for tool in map(Tool.from_wire, entries) if tool is not None]
    cursor = fields.get("nextCursor")
    return tools, cursor if isinstance(cursor, str) else None


def exposed_names(server: str, tools: Iterable[Tool]) -> dict[str, Tool]:
    """The tools of a server by the name under which clients see them, `SERVER__TOOL`.

    Names consist of [A-Za-z0-9_-] and of MAX_EXPOSED_CHARACTERS at most. A longer one ends in a hash
    of the whole; so does one that had to be altered, where another tool would have the same. The
    names do not depend on the order of the tools. Of two tools of one name the first counts.
    """
    distinct: dict[str, Tool] = {}
    for tool in tools:
        distinct.setdefault(tool.name, tool)
    plain = {name: f"{server}__{_FORBIDDEN.sub('_', name)}" for name in distinct}
    crowd: dict[str, int] = {}
    for name in plain.values():
        crowd[name] = crowd.get(name, 0) + 1
    exposed: dict[str, Tool] = {}
    for name, tool in distinct.items():
        whole = f"{server}__{name}"
        short = plain[name]
        is_altered_twin = short != whole and crowd[short] > 1
        if len(short) > MAX_EXPOSED_CHARACTERS or is_altered_twin:
            short = _hashed(short, whole)
        exposed[short] = tool
    return exposed


def _hashed(name: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARACTERS]
    return f"{name[: MAX_EXPOSED_CHARACTERS - HASH_CHARACTERS - 1]}_{digest}"


# -- calls


def read_call(result: object) -> dict[str, object]:
    """The result of a tool call as it came, after a check that a client can rely on its shape.

    A failed tool (`isError`) is a result, and so is `input_required`: both are the caller's to read.
    Absent `content` is an empty one.

    Raises:
        ToolFailed: the answer is outside the protocol.
    """
    fields = as_object(result)
    if fields is None:
        raise ToolFailed("cannot read the answer: it is no object")
    kind = fields.get("resultType", "complete")
    if kind == "input_required":
        return fields
    content = as_array(fields.setdefault("content", []))
    if content is None or any(as_object(part) is None for part in content):
        raise ToolFailed("cannot read the answer: its content is no list of objects")
    if not isinstance(fields.get("isError", False), bool):
        raise ToolFailed("cannot read the answer: its isError is neither true nor false")
    return fields


class Progress(msgspec.Struct, frozen=True):
    """How far a call has come: `progress` of `total` in the server's own unit."""

    progress: float
    total: float | None = None
    message: str | None = None


def read_progress(params: Mapping[str, object]) -> tuple[object, Progress] | None:
    """The token and the progress in a notification; None if there is none in it."""
    progress = _number(params.get("progress"))
    if progress is None:
        return None
    message = params.get("message")
    text = message if isinstance(message, str) else None
    return params.get("progressToken"), Progress(progress, _number(params.get("total")), text)


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
