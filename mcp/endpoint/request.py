"""Represents one request that the endpoint serves: its sources, the link to its client, and the form of its errors.

Notifications and requests of a server during a request go to the client of that request, as far as that client has
declared support; after the end nothing is sent. Errors get the codes and shapes that clients of either era handle.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InternalError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    ResourceLimitExceeded,
    ToolFailed,
)

from ..protocol.catalog import Kind
from ..protocol.messages import (
    LOG_MESSAGE,
    MODERN_VERSIONS,
    PROGRESS,
    PROGRESS_TOKEN,
    READ,
    RELAYED,
    RESOURCE_NOT_FOUND,
    SUBSCRIBE,
    Caller,
    Progress,
)
from ..protocol.tasks import McpTask, without_tasks

ERROR_KEY = "corral/error"

HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

OF_SERVERS = range(-32099, -31999)
"""Codes that JSON-RPC reserves for servers, and to which MCP has given a meaning."""

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class ClientLink(Protocol):
    """Defines the connection to the client while one of its requests is served."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification that belongs to the request."""
        ...

    def ask(self, method: str, params: Mapping[str, object]) -> Awaitable[object]:
        """Returns the client's response to a request; raises CorralError."""
        ...


class ProtocolError(InternalError):
    """Represents an error with a code of MCP or of a server that has no class in `contract.errors`."""

    def __init__(self, wire_code: int, message: str, /, **data: object) -> None:
        super().__init__(message, **data)
        self.wire_code = wire_code

    def to_wire(self) -> dict[str, object]:
        """Returns the JSON-RPC error object with that code."""
        return {"code": self.wire_code, "message": self.message, "data": self.data}


def unsupported_version(requested: object) -> ProtocolError:
    """Returns the error for a revision that modern requests cannot be served in."""
    text = f"cannot serve MCP revision {requested!r}"
    return ProtocolError(UNSUPPORTED_VERSION, text, supported=list(MODERN_VERSIONS), requested=requested)


class ServedRequest:
    """Holds a request being served, and relays notifications and requests of its server to the client."""

    __slots__ = ("_capabilities", "_least", "_link", "_token", "id", "is_modern", "is_over")

    def __init__(
        self,
        request_id: str | int,
        link: ClientLink,
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

    @property
    def capabilities(self) -> Mapping[str, object]:
        """Returns what the client declares for this request."""
        return self._capabilities

    def caller(self, base: Caller) -> Caller:
        """Returns the caller of the request, with the capabilities and callbacks that the server may use."""
        can_be_asked = not self.is_modern and bool(self._capabilities)
        return Caller(
            name=base.name,
            sharer=base.sharer,
            tenant=base.tenant,
            capabilities=without_tasks(self._capabilities),
            on_progress=None if self._token is None else self._notify_progress,
            on_message=None if self._least is None else self._notify_message,
            ask=self.ask if can_be_asked else None,
        )

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Notifies the client; a notification that cannot be sent is dropped."""
        with contextlib.suppress(CorralError):
            self._link.notify(method, params)

    def _notify_progress(self, progress: Progress) -> None:
        if not self.is_over:
            params = {PROGRESS_TOKEN: self._token, "progress": progress.progress}
            if progress.total is not None:
                params["total"] = progress.total
            if progress.message is not None:
                params["message"] = progress.message
            self.notify(PROGRESS, params)

    def _notify_message(self, params: Mapping[str, object]) -> None:
        level = params.get("level")
        rank = LEVELS.index(str(level)) if level in LEVELS else 0
        if self._least is not None and rank >= self._least and not self.is_over:
            self.notify(LOG_MESSAGE, params)

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        """Returns the client's response to a request of the server."""
        needed = RELAYED.get(method)
        if needed is None or needed not in self._capabilities or self.is_over:
            text = f'cannot ask the client "{method}": it has not declared that it can be asked'
            raise MethodNotFound(text, method=method)
        return await self._link.ask(method, params)


# -- errors


def failed(error: CorralError) -> dict[str, object]:
    """Returns a failed call as a result that the model can read."""
    return {
        "content": [{"type": "text", "text": error.message}],
        "isError": True,
        "_meta": {ERROR_KEY: error.to_record()},
    }


def is_unknown_tool(error: CorralError, name: str) -> bool:
    """Returns True if there is no such tool; a tool may raise NotFound for something else."""
    if not isinstance(error, NotFound | Conflict):
        return False
    if isinstance(error, Conflict):
        return "candidates" in error.data
    server = error.data.get("server")
    return error.data.get("tool") == name or (isinstance(server, str) and name.startswith(f"{server}__"))


def of_server(error: CorralError) -> CorralError | None:
    """Returns the server's own error if clients handle it: missing capabilities and input, wrong params; else None.

    An error of corral's own check of the arguments is not returned: the model has to read that.
    """
    code = error.data.get("code")
    if isinstance(error, ToolFailed | InternalError) and isinstance(code, int) and code in OF_SERVERS:
        details = as_object(error.data.get("details"))
        if details is None:
            details = {key: value for key, value in error.data.items() if key != "code"}
        return ProtocolError(code, error.message, **details)
    is_of_server = isinstance(error, InvalidParams) and "server" in error.data
    return error if is_of_server and "rule" not in error.data else None


def refusal(error: CorralError, method: str, name: object, *, is_modern: bool) -> CorralError:
    """Returns the error of a request other than a tool call, with the codes that clients expect."""
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


def too_many(what: str, limit: int) -> ResourceLimitExceeded:
    """Returns the refusal of one more than `limit`."""
    return ResourceLimitExceeded(f"cannot {what}: the client has {limit} already", limit=limit, value=limit + 1)


class Provider(Protocol):
    """Defines the tools, prompts and resources of one client: those of the pool within its access, and corral's own."""

    @property
    def instructions(self) -> str:
        """Returns the server's instructions for models."""
        ...

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        """Returns MCP's objects under exposed names, sorted; starts servers that never listed anything."""
        ...

    async def request(self, method: str, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
        """Returns the result of tools/call, prompts/get, resources/read or completion/complete.

        `params` are those of MCP, with the caller's `_meta` except the protocol's own keys, and with
        `inputResponses` and `requestState` where it has them.
        """
        ...

    async def subscribe(self, uri: str, on_updated: Callable[[str], None]) -> Callable[[], None]:
        """Calls `on_updated` with the URI whenever the resource changes; returns a function that ends that."""
        ...

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Calls `on_change` when a list has changed; returns a function that ends that."""
        ...


class TaskFeed(Protocol):
    """Defines the reports of changed statuses of some tasks."""

    def add(self, task_id: str, status: str | None) -> None:
        """Reports each status of a task that differs from the one before, the first from `status`; a final one is the last."""
        ...

    def close(self) -> None:
        """Ends the reports."""
        ...


class TaskSource(Protocol):
    """Defines the tasks of one client: those that it may see, also where another has begun them."""

    async def begin(self, params: Mapping[str, object], caller: Caller) -> McpTask | None:
        """Begins a call of a tool as a task; returns None, without any effect, for a tool whose calls are no tasks."""
        ...

    def requires(self, name: object) -> bool:
        """Returns True if a tool can be called as a task alone."""
        ...

    async def task(self, task_id: str, caller: Caller) -> McpTask:
        """Returns a task."""
        ...

    async def ended(self, task_id: str, caller: Caller) -> McpTask:
        """Returns a task when its status is final; meanwhile the client is asked what the task needs to know."""
        ...

    async def page(self, cursor: str | None, caller: Caller) -> tuple[list[McpTask], str | None]:
        """Returns tasks without results, the newest first, and the cursor of the next ones."""
        ...

    async def cancel(self, task_id: str, caller: Caller) -> McpTask:
        """Cancels a task and returns it when it has ended; one that had ended before stays as it is."""
        ...

    async def answer(self, task_id: str, responses: Mapping[str, object], caller: Caller) -> None:
        """Takes the client's answers to what a task needs to know; those to other questions are ignored."""
        ...

    def feed(self, caller: Caller, on_status: Callable[[McpTask], None]) -> TaskFeed:
        """Returns a feed, without any task, that reports to `on_status`."""
        ...
