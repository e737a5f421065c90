"""What MCP says, without saying it: methods and revisions, params, results and tools.

Values in, values out; no I/O and no clock. Both eras of the protocol (https://modelcontextprotocol.io/specification):
*legacy*, 2024-11-05 to 2025-11-25, opens with `initialize` and keeps state per connection; *modern*,
2026-07-28, knows no sessions, repeats the client's version and capabilities in each request's `_meta`,
and is asked with `server/discover`. What a server sends is hostile input: whatever is wrong in it
becomes a typed error or is left out.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from ...worker.contract.codec import as_array, as_object
from ...worker.contract.errors import InvalidParams, ToolFailed
from ...worker.contract.mcp_info import LEGACY_VERSIONS as LEGACY_VERSIONS
from ...worker.contract.mcp_info import META as META
from ...worker.contract.mcp_info import MODERN_VERSIONS as MODERN_VERSIONS

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
UNSUBSCRIBE = "resources/unsubscribe"
UPDATED = "notifications/resources/updated"

LIST_CHANGED = {
    f"notifications/{family}/list_changed": family for family in ("tools", "prompts", "resources")
}
"""The notifications of changed lists, with the capability that each belongs to."""

RELAYED: dict[str, Relay] = {
    "elicitation/create": "elicitation",
    "roots/list": "roots",
    "sampling/createMessage": "sampling",
}
"""What a legacy server may ask of its client, with the capability that the client declares for it."""

PROGRESS_TOKEN = "progressToken"

OURS = frozenset(
    {
        PROGRESS_TOKEN,
        *(META + key for key in ("protocolVersion", "clientInfo", "clientCapabilities")),
    }
)
"""Keys of `_meta` that say who speaks on a connection: never passed on from a caller."""

LOG_LEVEL = META + "logLevel"
SUBSCRIPTION_ID = META + "subscriptionId"

RESOURCE_NOT_FOUND = -32002
"""Of legacy servers; since 2026-07-28 it is -32602."""

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


def initialize_params(
    protocol_version: str, client_version: str, relays: Collection[Relay] = ()
) -> dict[str, object]:
    """The params of `initialize`.

    Of capabilities we declare what `relays` names and nothing else: a shared server has no one user to ask.
    """
    offered = protocol_version if protocol_version in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
    capabilities: dict[str, object] = {
        relay: {"listChanged": False} if relay == "roots" else {} for relay in sorted(relays)
    }
    return {
        "protocolVersion": offered,
        "capabilities": capabilities,
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


def announced(opened: Opened) -> list[str]:
    """The families of lists, as in LIST_CHANGED, of which the server says that it tells when they change."""
    families: list[str] = []
    for family in LIST_CHANGED.values():
        declared = as_object(opened.capabilities.get(family))
        if declared is not None and declared.get("listChanged") is True:
            families.append(family)
    return families


def request_meta(
    given: object,
    *,
    modern_version: str | None,
    client_version: str,
    capabilities: Mapping[str, object],
    log_level: str | None = None,
) -> dict[str, object]:
    """The `_meta` of a request as its era asks for; what the caller gave is kept where it is not OURS.

    Args:
        given: the caller's `_meta`, if it has one.
        modern_version: the revision on a modern connection, None on a legacy one.
        client_version: corral's own.
        capabilities: the caller's, which a modern server is told with each request.
        log_level: the least severe log message that a modern server shall send, unless the caller says one.
    """
    meta: dict[str, object] = {}
    theirs = as_object(given)
    if theirs:
        meta = {key: value for key, value in theirs.items() if key not in OURS}
    if modern_version is None:
        meta.pop(LOG_LEVEL, None)
        return meta
    meta[META + "protocolVersion"] = modern_version
    meta[META + "clientInfo"] = client_info(client_version)
    meta[META + "clientCapabilities"] = dict(capabilities)
    if log_level is not None:
        meta.setdefault(LOG_LEVEL, log_level)
    return meta


# -- tools


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool, as its server describes it.

    `fields` is the entry as it came, with all its keys: clients may know more of them than we do.
    """

    name: str
    description: str = ""
    input_schema: dict[str, object] = {}
    output_schema: dict[str, object] | None = None
    annotations: dict[str, object] = {}
    fields: dict[str, object] = {}

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
            fields=fields,
        )

    @property
    def is_read_only(self) -> bool:
        """Whether the server says that a call changes nothing."""
        return self.annotations.get("readOnlyHint") is True

    @property
    def is_idempotent(self) -> bool:
        """Whether the server says that a second call changes nothing more."""
        return self.is_read_only or self.annotations.get("idempotentHint") is True


# -- requests


def read_result(method: str, result: object) -> dict[str, object]:
    """The result of a request as it came, after a check that a client can rely on its shape.

    A failed tool (`isError`) is a result, and so is `input_required`: both are the caller's to read.
    Absent `content` of a tool is an empty one. Whether structured content fits the tool's output schema
    is not looked at: the caller has the schema as well, and corral uses none of it.

    Raises:
        ToolFailed: the answer is outside the protocol.
    """
    fields = as_object(result)
    if fields is None:
        raise ToolFailed("cannot read the answer: it is no object")
    if method != CALL or fields.get("resultType") == "input_required":
        return fields
    content = as_array(fields.setdefault("content", []))
    if content is None:
        raise ToolFailed("cannot read the answer: its content is no list")
    for part in content:
        if not isinstance(part, dict):
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
