"""One request that the face serves: the way back to its client meanwhile, and what its failures look like.

What a server tells and asks while it works on a request goes to the client of that request, as far as that client
has said that it wants it; after the end nothing does. Errors get the codes and shapes that clients of
either era act on.
"""

import contextlib
from collections.abc import Awaitable, Mapping
from typing import Protocol

from ...worker.contract.codec import as_object
from ...worker.contract.errors import (
    Conflict,
    CorralError,
    InternalError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    ToolFailed,
)
from ..protocol.caller import Caller
from ..protocol.messages import (
    LOG_MESSAGE,
    MODERN_VERSIONS,
    PROGRESS,
    PROGRESS_TOKEN,
    READ,
    RELAYED,
    RESOURCE_NOT_FOUND,
    SUBSCRIBE,
    Progress,
)

ERROR_KEY = "corral/error"

HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

OF_SERVERS = range(-32099, -31999)
"""Codes that JSON-RPC leaves to servers, and MCP has given a meaning."""

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Link(Protocol):
    """The way back to the client while one of its requests is served."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification that belongs to the request."""
        ...

    def ask(self, method: str, params: Mapping[str, object]) -> Awaitable[object]:
        """The client's answer to a request of ours; raises CorralError."""
        ...


class ProtocolError(InternalError):
    """An error with a code of MCP's own, or of a server's, which no class of ours stands for."""

    def __init__(self, wire_code: int, message: str, /, **data: object) -> None:
        super().__init__(message, **data)
        self.wire_code = wire_code

    def to_wire(self) -> dict[str, object]:
        """The JSON-RPC error object with that code."""
        return {"code": self.wire_code, "message": self.message, "data": self.data}


def unsupported_version(requested: object) -> ProtocolError:
    """The refusal of a revision that no modern request can be served in."""
    text = f"cannot serve MCP revision {requested!r}"
    return ProtocolError(
        UNSUPPORTED_VERSION, text, supported=list(MODERN_VERSIONS), requested=requested
    )


class Exchange:
    """One request that is being served, and what its server may tell and ask meanwhile."""

    __slots__ = ("_capabilities", "_least", "_link", "_token", "id", "is_modern", "is_over")

    def __init__(
        self,
        request_id: str | int,
        link: Link,
        meta: Mapping[str, object] | None,
        capabilities: dict[str, object],
        least: int | None,
        *,
        is_modern: bool = False,
    ) -> None:
        self.id = request_id
        self.is_modern = is_modern
        self.is_over = False
        self._link = link
        self._capabilities = capabilities
        self._least = least
        self._token = None if meta is None else meta.get(PROGRESS_TOKEN)

    def caller(self, base: Caller) -> Caller:
        """Whom the request comes from, as its server may know him."""
        can_be_asked = not self.is_modern and bool(self._capabilities)
        return Caller(
            name=base.name,
            sharer=base.sharer,
            tenant=base.tenant,
            capabilities=self._capabilities,
            on_progress=None if self._token is None else self._tell_progress,
            on_message=None if self._least is None else self._tell_message,
            ask=self.ask if can_be_asked else None,
        )

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Tells the client; what cannot be said is not worth an end of the request."""
        with contextlib.suppress(CorralError):
            self._link.notify(method, params)

    def _tell_progress(self, progress: Progress) -> None:
        if not self.is_over:
            params = {PROGRESS_TOKEN: self._token, "progress": progress.progress}
            if progress.total is not None:
                params["total"] = progress.total
            if progress.message is not None:
                params["message"] = progress.message
            self.notify(PROGRESS, params)

    def _tell_message(self, params: Mapping[str, object]) -> None:
        level = params.get("level")
        rank = LEVELS.index(str(level)) if level in LEVELS else 0
        if self._least is not None and rank >= self._least and not self.is_over:
            self.notify(LOG_MESSAGE, params)

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        """The client's answer.

        Raises:
            MethodNotFound: it never declared that it can be asked this.
            CorralError: it refuses.
        """
        needed = RELAYED.get(method)
        if needed is None or needed not in self._capabilities or self.is_over:
            text = f'cannot ask the client "{method}": it has not declared that it can be asked'
            raise MethodNotFound(text, method=method)
        return await self._link.ask(method, params)


# -- errors


def failed(error: CorralError) -> dict[str, object]:
    """A call that failed, as a result that the model can read."""
    return {
        "content": [{"type": "text", "text": error.message}],
        "isError": True,
        "_meta": {ERROR_KEY: error.to_record()},
    }


def is_unknown_tool(error: CorralError, name: str) -> bool:
    """Whether nobody has this tool; a tool may have raised NotFound about something else."""
    if not isinstance(error, NotFound | Conflict):
        return False
    if isinstance(error, Conflict):
        return "candidates" in error.data
    server = error.data.get("server")
    return error.data.get("tool") == name or (
        isinstance(server, str) and name.startswith(f"{server}__")
    )


def of_server(error: CorralError) -> CorralError | None:
    """The error as the server itself said it, where clients act on that: missing capabilities and input, wrong params.

    What was wrong by our own check of the arguments is not among it: that is for the model to read.
    """
    code = error.data.get("code")
    if (
        isinstance(error, ToolFailed | InternalError)
        and isinstance(code, int)
        and code in OF_SERVERS
    ):
        details = as_object(error.data.get("details"))
        if details is None:
            details = {key: value for key, value in error.data.items() if key != "code"}
        return ProtocolError(code, error.message, **details)
    is_said = isinstance(error, InvalidParams) and "server" in error.data
    return error if is_said and "rule" not in error.data else None


def refusal(error: CorralError, method: str, name: object, *, is_modern: bool) -> CorralError:
    """The error of a request that is no tool call, under the codes that clients expect."""
    if isinstance(error, NotFound):
        if method in (READ, SUBSCRIBE):
            data = {**error.data, "uri": name}
            if is_modern:
                return InvalidParams(error.message, **data)
            return ProtocolError(RESOURCE_NOT_FOUND, error.message, **data)
        return InvalidParams(error.message, **error.data)
    if error.data.get("code") == MethodNotFound.code:
        return MethodNotFound(error.message, **error.data)
    return of_server(error) or error
