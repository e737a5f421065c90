"""Defines the methods, revisions, params, results and tools of MCP, without I/O or a clock.

Values in, values out, for both eras of the protocol (https://modelcontextprotocol.io/specification): *legacy*,
2024-11-05 to 2025-11-25, opens with `initialize` and keeps state per connection; *modern*, 2026-07-28, has no
sessions, repeats the client's version and capabilities in the `_meta` of each request, and opens with
`server/discover`. A server's data is hostile input: invalid parts become a typed error or are left out.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import msgspec

from corral import __version__
from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams, ToolFailed
from corral.worker.contract.mcp_info import LEGACY_VERSIONS as LEGACY_VERSIONS
from corral.worker.contract.mcp_info import META as META
from corral.worker.contract.mcp_info import MODERN_VERSIONS as MODERN_VERSIONS

Era = Literal["legacy", "modern"]
Relay = Literal["elicitation", "roots", "sampling"]

BATCHING_VERSION = "2025-03-26"
"""The only revision in which several messages may come in one line."""

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
CALL = "tools/call"
COMPLETE = "completion/complete"
DISCOVER = "server/discover"
GET_PROMPT = "prompts/get"
INITIALIZE = "initialize"
INITIALIZED = "notifications/initialized"
LISTEN = "subscriptions/listen"
LIST_TOOLS = "tools/list"
LOG_MESSAGE = "notifications/message"
PING = "ping"
PROGRESS = "notifications/progress"
READ = "resources/read"
SET_LEVEL = "logging/setLevel"
SUBSCRIBE = "resources/subscribe"
TOKEN = "corral/token"
UNSUBSCRIBE = "resources/unsubscribe"
UPDATED = "notifications/resources/updated"

LIST_CHANGED = {
    f"notifications/{capability}/list_changed": capability for capability in ("tools", "prompts", "resources")
}
"""The notifications of changed lists, with the capability that each belongs to."""

RELAYED: dict[str, Relay] = {
    "elicitation/create": "elicitation",
    "roots/list": "roots",
    "sampling/createMessage": "sampling",
}
"""The requests of a legacy server to its client, with the capability that the client declares for each."""

PROGRESS_TOKEN = "progressToken"

OURS = frozenset({PROGRESS_TOKEN, *(META + key for key in ("protocolVersion", "clientInfo", "clientCapabilities"))})
"""Keys of `_meta` that identify the client of a connection: never passed on from a caller."""

LOG_LEVEL = META + "logLevel"
SUBSCRIPTION_ID = META + "subscriptionId"

CLIENT_INFO: dict[str, object] = {"name": "corral", "version": __version__}
"""Name and version of corral, for servers that log them."""

RESOURCE_NOT_FOUND = -32002
"""Code of legacy servers for a missing resource; since 2026-07-28 it is -32602."""

# -- opening


def eras_to_try(protocol_version: str, hint: Era | None) -> tuple[Era, ...]:
    """Returns the eras to open a connection with, to be tried in this order until one succeeds.

    For an unknown server the legacy `initialize` comes first. Every legacy server expects it as the first
    message, and some exit or hang on any other; a modern server answers it with an error, which costs one round
    trip; a server of both eras keeps that of the first message, and works in either. A server known to be modern
    (`hint`) is opened in the modern era; in case it was replaced by a legacy one, `initialize` follows, and in case
    it was only slow, its refusal of `initialize` leads back to the modern era.
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
    """Represents the negotiated revision, and the server's description of itself."""

    era: Era
    version: str
    server_info: dict[str, object] = {}
    capabilities: dict[str, object] = {}
    instructions: str = ""


def initialize_params(protocol_version: str, relays: Collection[Relay] = ()) -> dict[str, object]:
    """Returns the params of `initialize`.

    Only the capabilities in `relays` are declared: a shared server has no single user to ask.
    """
    offered = protocol_version if protocol_version in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
    capabilities: dict[str, object] = {
        relay: {"listChanged": False} if relay == "roots" else {} for relay in sorted(relays)
    }
    return {"protocolVersion": offered, "capabilities": capabilities, "clientInfo": CLIENT_INFO}


def read_initialize(result: object) -> Opened:
    """Decodes a result of `initialize`."""
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
    """Decodes a result of `server/discover`."""
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


def announced(opened: Opened) -> list[str]:
    """Returns the capabilities in LIST_CHANGED for which the server declares change notifications."""
    capabilities: list[str] = []
    for capability in LIST_CHANGED.values():
        declared = as_object(opened.capabilities.get(capability))
        if declared is not None and declared.get("listChanged") is True:
            capabilities.append(capability)
    return capabilities


def request_meta(
    given: object, modern_version: str | None, capabilities: Mapping[str, object] = MappingProxyType({})
) -> dict[str, object]:
    """Returns the `_meta` that a request needs in its era; the caller's keys are kept, except those in OURS."""
    meta = {key: value for key, value in (as_object(given) or {}).items() if key not in OURS}
    if modern_version is None:
        meta.pop(LOG_LEVEL, None)
        return meta
    meta[META + "protocolVersion"] = modern_version
    meta[META + "clientInfo"] = CLIENT_INFO
    meta[META + "clientCapabilities"] = dict(capabilities)
    return meta


# -- tools


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Represents one tool, as its server describes it.

    `fields` is the unchanged entry, with all its keys: clients may know more of them. `change` says what nobody has accepted:
    its words have changed, or it is new. A tool that `is_held` cannot be called until somebody does; a new one is not listed either.
    """

    name: str
    description: str = ""
    input_schema: dict[str, object] = {}
    output_schema: dict[str, object] | None = None
    annotations: dict[str, object] = {}
    fields: dict[str, object] = {}
    change: Literal["", "changed", "new"] = ""
    is_held: bool = False

    @staticmethod
    def from_wire(value: object) -> "Tool | None":
        """Decodes one entry of `tools/list`; returns None for an entry without a name, which cannot be called."""
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
            fields=fields,
        )

    @property
    def is_listed(self) -> bool:
        """Returns False for a held tool that nobody has accepted: nothing of it is shown to a model."""
        return not (self.is_held and self.change == "new")

    @property
    def is_read_only(self) -> bool:
        """Returns True if the server declares that a call changes nothing."""
        return self.annotations.get("readOnlyHint") is True

    @property
    def is_idempotent(self) -> bool:
        """Returns True if the server declares that a second call changes nothing more."""
        return self.is_read_only or self.annotations.get("idempotentHint") is True


# -- requests


def read_result(method: str, result: object) -> dict[str, object]:
    """Returns the unchanged result of a request, after a check of its shape.

    A failed tool (`isError`) is a result, and so is `input_required`: the caller has to handle both.
    Missing `content` of a tool becomes an empty list. Structured content is not checked against the output
    schema: the caller has the schema as well, and corral does not use the content.
    """
    fields = as_object(result)
    if fields is None:
        raise ToolFailed("cannot read the answer: it is not an object")
    if method != CALL or fields.get("resultType") == "input_required":
        return fields
    content = as_array(fields.setdefault("content", []))
    if content is None:
        raise ToolFailed("cannot read the answer: its content is not a list")
    for part in content:
        if not isinstance(part, dict):
            raise ToolFailed("cannot read the answer: its content is not a list of objects")
    if not isinstance(fields.get("isError", False), bool):
        raise ToolFailed("cannot read the answer: its isError is neither true nor false")
    return fields


class Progress(msgspec.Struct, frozen=True):
    """Represents the progress of a call: `progress` of `total` in the server's own unit."""

    progress: float
    total: float | None = None
    message: str | None = None


def read_progress(params: Mapping[str, object]) -> tuple[object, Progress] | None:
    """Returns the token and the progress in a notification; None if it has no progress."""
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


@dataclass(frozen=True, slots=True)
class Caller:
    """Represents the caller of a request."""

    name: str = ""
    """Name in events, logs and errors: a worker's id, or a client such as `uid 1000`."""
    sharer: str = ""
    """Owner of processes where a server is not shared by all: an agent's name, or a client's identity."""
    tenant: str = ""
    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])
    """Its declared `ClientCapabilities` of MCP; a modern server receives them with the request."""
    on_progress: Callable[[Progress], None] | None = None
    on_message: Callable[[Mapping[str, object]], None] | None = None
    """Takes the params of `notifications/message` that came while its request was the only one."""
    ask: Callable[[str, Mapping[str, object]], Awaitable[object]] | None = None
    """Answers a legacy server's request (sampling, elicitation, roots), by method and params; raises CorralError."""


NOBODY = Caller()
