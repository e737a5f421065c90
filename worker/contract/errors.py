"""The one table of errors: class, JSON-RPC code and exit status, the same in the daemon, the SDK and the CLI.

The codes from -32700 to -32600 are those of JSON-RPC 2.0, section 5.1; those from -33000 on are
corral's own. A class exists only where somebody who catches it acts differently. Standard library alone.
"""

from typing import ClassVar, cast


class CorralError(Exception):
    """Base of every error that crosses a boundary: a message for people, `data` for programs."""

    code: ClassVar[int]
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, /, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, object] = data

    @property
    def name(self) -> str:
        """The class name, as `--json` prints it."""
        return type(self).__name__

    def to_wire(self) -> dict[str, object]:
        """The JSON-RPC error object: `{"code", "message", "data"}`."""
        return {"code": self.code, "message": self.message, "data": self.data}

    def to_record(self) -> dict[str, object]:
        """The error as records and `--json` show it: `{"code", "name", "message", "data"}`."""
        return {"code": self.code, "name": self.name, "message": self.message, "data": self.data}


class Unreachable(CorralError):
    """No daemon answers on the socket. It arises in clients and never travels."""

    code = -33000
    exit_status = 6


class ParseError(CorralError):
    """The peer sent a line that is not JSON."""

    code = -32700
    exit_status = 2


class InvalidRequest(CorralError):
    """The peer sent JSON that is no JSON-RPC request."""

    code = -32600
    exit_status = 2


class MethodNotFound(CorralError):
    """The method does not exist."""

    code = -32601
    exit_status = 2


class InvalidParams(CorralError):
    """A parameter, a configuration key or a command-line value is wrong; `data` names it."""

    code = -32602
    exit_status = 2


class InternalError(CorralError):
    """We are wrong: a defect of corral, or an error code that this version does not know."""

    code = -32603
    exit_status = 2


class NotFound(CorralError):
    """The named agent, worker, task, server or tool does not exist."""

    code = -33001
    exit_status = 3


class Conflict(CorralError):
    """The thing is in a state in which this cannot be done."""

    code = -33002
    exit_status = 4


class PermissionDenied(CorralError):
    """The caller may not do this."""

    code = -33003
    exit_status = 4


class Timeout(CorralError):
    """It took longer than the caller or the specification allows."""

    code = -33004
    exit_status = 5


class ResourceLimitExceeded(CorralError):
    """A limit was hit; `data` has `limit` and `value`."""

    code = -33005
    exit_status = 7


class NotInitialized(CorralError):
    """The peer has not said `initialize` yet."""

    code = -33006
    exit_status = 4


class ShuttingDown(CorralError):
    """The daemon or the worker is stopping and takes no new work."""

    code = -33007
    exit_status = 4


class SpawnFailed(CorralError):
    """A process could not be started, or did not become ready; `data` has `result`."""

    code = -33008


class WorkerFailed(CorralError):
    """The worker died while it was needed; `data` has `worker` and `result`."""

    code = -33009


class Cancelled(CorralError):
    """Somebody cancelled it."""

    code = -33010
    exit_status = 8


class Overloaded(CorralError):
    """A bounded queue is full; `data` has `retry_after_s`."""

    code = -33011
    exit_status = 7


class ToolFailed(CorralError):
    """The MCP server failed while it ran the tool, or answered outside the protocol."""

    code = -33012


class TaskFailed(CorralError):
    """The task's handler raised; `data` has `exception`."""

    code = -33013


class Corrupted(CorralError):
    """A record of the store is not what was written: `data["record"]` names it. An earlier one may do."""

    code = -33014


CLASSES: dict[int, type[CorralError]] = {
    cls.code: cls
    for cls in (
        Unreachable,
        ParseError,
        InvalidRequest,
        MethodNotFound,
        InvalidParams,
        InternalError,
        NotFound,
        Conflict,
        PermissionDenied,
        Timeout,
        ResourceLimitExceeded,
        NotInitialized,
        ShuttingDown,
        SpawnFailed,
        WorkerFailed,
        Cancelled,
        Overloaded,
        ToolFailed,
        TaskFailed,
        Corrupted,
    )
}


def from_wire(error: object) -> CorralError:
    """The error that a peer's JSON-RPC error object stands for.

    A code that is not in the table becomes an InternalError that keeps it as `data["code"]`; an
    object of another shape becomes an InternalError too: a peer's mistake is never an exception of ours.
    """
    fields = _as_object(error)
    if fields is None:
        return InternalError("cannot read the peer's error object", error=error)
    code = fields.get("code")
    text = str(fields.get("message") or "the peer gave no message")
    data = fields.get("data")
    facts = _as_object(data)
    if facts is None:
        facts = {} if data is None else {"data": data}
    known = CLASSES.get(code) if isinstance(code, int) else None
    if known is None:
        return InternalError(text, **{**facts, "code": code})
    return known(text, **facts)


def _as_object(value: object) -> dict[str, object] | None:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)  # it was read from JSON: its keys are strings
    return None
