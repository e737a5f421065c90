"""Defines the only table of errors: class, JSON-RPC code, exit status and HTTP status, for the daemon, the SDK and the CLI.

The codes from -32700 to -32600 are those of JSON-RPC 2.0, section 5.1; those from -33000 on are
corral's own. A class exists only where a caller handles it differently. Standard library alone.
"""

from typing import ClassVar, cast


class CorralError(Exception):
    """Base of every error that crosses a boundary: a message for people, `data` for programs."""

    code: ClassVar[int]
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, /, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, object] = data

    @property
    def name(self) -> str:
        """Returns the class name, as `--json` prints it."""
        return type(self).__name__

    @property
    def messages(self) -> list[str]:
        """Returns the line of each mistake, where `data["errors"]` has several; else the message alone."""
        errors = self.data.get("errors")
        found = cast("list[object]", errors) if isinstance(errors, list) else []
        lines = [str(fields["message"]) for each in found if (fields := _as_object(each))]
        return lines or [self.message]

    def to_wire(self) -> dict[str, object]:
        """Returns the JSON-RPC error object: `{"code", "message", "data"}`."""
        return {"code": self.code, "message": self.message, "data": self.data}

    def to_record(self) -> dict[str, object]:
        """Returns the error as records and `--json` contain it: `{"code", "name", "message", "data"}`."""
        return {"code": self.code, "name": self.name, "message": self.message, "data": self.data}


class Unreachable(CorralError):
    """Raised in clients if no daemon answers on the socket; never sent."""

    code = -33000
    exit_status = 6
    http_status = 503


class ParseError(CorralError):
    """Raised for a line that is not JSON."""

    code = -32700
    exit_status = 2
    http_status = 400


class InvalidRequest(CorralError):
    """Raised for JSON that is not a JSON-RPC request."""

    code = -32600
    exit_status = 2
    http_status = 400


class MethodNotFound(CorralError):
    """Raised for a method that does not exist."""

    code = -32601
    exit_status = 2
    http_status = 404


class InvalidParams(CorralError):
    """Raised for a wrong parameter, configuration key or command-line value; `data` names it."""

    code = -32602
    exit_status = 2
    http_status = 422


class InternalError(CorralError):
    """Raised for a defect of corral, or for an error code that this version does not know."""

    code = -32603
    exit_status = 2


class NotFound(CorralError):
    """Raised if the named agent, worker, task, server or tool does not exist."""

    code = -33001
    exit_status = 3
    http_status = 404


class Conflict(CorralError):
    """Raised if the present state does not permit the operation."""

    code = -33002
    exit_status = 4
    http_status = 409


class PermissionDenied(CorralError):
    """Raised if the caller has no right to the operation."""

    code = -33003
    exit_status = 4
    http_status = 403


class Timeout(CorralError):
    """Raised if it took longer than the caller or the configuration allows."""

    code = -33004
    exit_status = 5
    http_status = 504


class ResourceLimitExceeded(CorralError):
    """Raised at a limit; `data` has `limit` and `value`."""

    code = -33005
    exit_status = 7
    http_status = 429


class NotInitialized(CorralError):
    """Raised if the peer has not sent `initialize` yet."""

    code = -33006
    exit_status = 4
    http_status = 409


class ShuttingDown(CorralError):
    """Raised if the daemon or the worker is stopping and accepts no new work."""

    code = -33007
    exit_status = 4
    http_status = 503


class SpawnFailed(CorralError):
    """Raised if a process could not be started, or did not become ready; `data` has `result`."""

    code = -33008
    http_status = 502


class WorkerFailed(CorralError):
    """Raised if the worker died while it was needed; `data` has `worker` and `result`."""

    code = -33009
    http_status = 502


class Cancelled(CorralError):
    """Raised if the request or task was cancelled."""

    code = -33010
    exit_status = 8
    http_status = 409  # a state that its reader did not expect; 499 is no registered status


class Overloaded(CorralError):
    """Raised if a bounded queue is full; `data` has `retry_after_s`."""

    code = -33011
    exit_status = 7
    http_status = 429


class ToolFailed(CorralError):
    """Raised if an MCP server failed while it ran the tool, or violated the protocol."""

    code = -33012
    http_status = 502


class TaskFailed(CorralError):
    """Raised if the task's handler raised an exception; `data` has `exception`."""

    code = -33013
    http_status = 502


class Corrupted(CorralError):
    """Raised if a record of the store is damaged: `data["record"]` names it. An earlier one may be usable."""

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
    """Returns the error of a peer's JSON-RPC error object.

    A code that is not in the table becomes an InternalError that keeps it as `data["code"]`; an
    object of another shape becomes an InternalError too: a peer's mistake never raises here.
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


NOT_OF_AN_AGENT = (Unreachable, ParseError, InvalidRequest, MethodNotFound, InternalError)
"""Classes that an agent's code does not mean: they say that the exchange is broken, or corral itself."""


def of_agent(error: CorralError) -> CorralError:
    """Returns an error that an agent answered as the failure that it is for the caller.

    An error of the table keeps its class, as that of a delegated task. Any other code is the agent's own, also one that
    JSON-RPC reserves (-32603, -32000): TaskFailed, which keeps it as `data["code"]`.
    """
    if isinstance(error, NOT_OF_AN_AGENT):
        return TaskFailed(error.message, **{"code": error.code, **error.data})
    return error


def _as_object(value: object) -> dict[str, object] | None:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)  # it was read from JSON: its keys are strings
    return None
