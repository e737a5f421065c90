"""Answers requests in place of a daemon that is away: like the MCP endpoint of the daemon, with empty lists.

Values in, values out; the standard library alone, because `corral mcp serve` has to be small. A test compares it with
the endpoint.
"""

from collections.abc import Mapping

from corral import __version__
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, WorkerFailed
from corral.worker.contract.mcp_info import INSTRUCTIONS, LEGACY_VERSIONS, META, MODERN_VERSIONS, capabilities

UNSUPPORTED_VERSION = -32022

SERVER_INFO: dict[str, object] = {"name": "corral", "version": __version__}

LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}


class ClientRequest:
    """A request of the client that waits for its answer."""

    __slots__ = ("id", "is_acknowledged", "is_modern", "line", "method", "params", "version")

    def __init__(self, message: Mapping[str, object], line: bytes) -> None:
        self.id = message["id"]
        self.method = str(message["method"])
        self.params = codec.as_object(message.get("params")) or {}
        meta = codec.as_object(self.params.get("_meta")) or {}
        self.version = meta.get(META + "protocolVersion")
        self.is_modern = self.version is not None
        self.is_acknowledged = False
        self.line = line

    def forget(self) -> None:
        """Frees the line and the arguments after sending: they may be large, and many requests may be outstanding."""
        self.line = b""
        if self.method != "initialize":
            self.params = {key: self.params[key] for key in ("name", "uri", "task") if key in self.params}

    @property
    def filter(self) -> dict[str, object]:
        """Returns the filter of a `subscriptions/listen`."""
        return codec.as_object(self.params.get("notifications")) or {}


class UnsupportedVersion(InvalidParams):
    """Raised for a modern request of an unknown revision; `data["supported"]` has the known ones."""

    code = UNSUPPORTED_VERSION


def unsupported_version(asked: ClientRequest) -> UnsupportedVersion | None:
    """Returns the refusal of a request of an unknown revision, None for other requests."""
    if not asked.is_modern or asked.version in MODERN_VERSIONS:
        return None
    return UnsupportedVersion(f'cannot speak MCP revision "{asked.version}"', supported=list(MODERN_VERSIONS))


def offline_answer(asked: ClientRequest, absence: CorralError) -> dict[str, object] | None:
    """Returns the result of a request while the daemon is away; None if there is none."""
    result = _result(asked, absence)
    if result is None or not asked.is_modern:
        return result
    meta = {**(codec.as_object(result.get("_meta")) or {}), META + "serverInfo": SERVER_INFO}
    return {"resultType": "complete", **result, "_meta": meta}


def _result(asked: ClientRequest, absence: CorralError) -> dict[str, object] | None:
    if (key := LISTS.get(asked.method)) is not None:
        return {key: [], **({"ttlMs": 0, "cacheScope": "private"} if asked.is_modern else {})}
    if asked.method == "tools/call" and "task" in asked.params and not asked.is_modern:
        return None  # the result of such a call is a task, and there is none
    if asked.method == "tools/call":
        name = asked.params.get("name")
        text = f'cannot call "{name}": {absence.message}'
        if asked.line == b"":  # it was sent
            text = f'cannot report the result of the call of "{name}": the daemon is gone'
            absence = WorkerFailed(text, reason="daemon-gone")
        return {
            "content": [{"type": "text", "text": text}],
            "isError": True,
            "_meta": {"corral/error": {**absence.to_record(), "message": text}},
        }
    if asked.is_modern:
        if asked.method != "server/discover":
            return None
        return {
            "supportedVersions": list(MODERN_VERSIONS),
            "capabilities": capabilities(MODERN_VERSIONS[-1]),
            "instructions": INSTRUCTIONS,
            "ttlMs": 0,
            "cacheScope": "private",
        }
    if asked.method == "initialize":
        requested = asked.params.get("protocolVersion")
        version = str(requested) if requested in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
        return {
            "protocolVersion": version,
            "capabilities": capabilities(version),
            "serverInfo": SERVER_INFO,
            "instructions": INSTRUCTIONS,
        }
    if asked.method in ("ping", "logging/setLevel", "resources/unsubscribe"):
        return {}  # the next daemon gets it by the replay
    return None
