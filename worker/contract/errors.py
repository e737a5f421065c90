"""Defines the only table of errors: class, JSON-RPC code, exit status and HTTP status, for the daemon, the SDK and the CLI.

The codes from -32700 to -32600 are those of JSON-RPC 2.0, section 5.1; those from -33000 on are
corral's own. A class exists only where a caller handles it differently. Standard library alone.
"""

from typing import ClassVar, cast

CLASSES: "dict[int, type[CorralError]]" = {}
"""The classes of the table, by their codes."""


class CorralError(Exception):
    """Base of every error that crosses a boundary: a message for people, `data` for programs."""

    code: ClassVar[int]
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init_subclass__(cls, *, code: int | None = None, exit_status: int = 1, http_status: int = 500) -> None:
        """Enters a class of the table below; one of a program has no code, or sets it itself."""
        if code is not None:
            cls.code, cls.exit_status, cls.http_status = code, exit_status, http_status
            CLASSES[code] = cls

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
        return [str(fields["message"]) for each in found if (fields := _as_object(each))] or [self.message]

    def to_wire(self) -> dict[str, object]:
        """Returns the JSON-RPC error object: `{"code", "message", "data"}`."""
        return {"code": self.code, "message": self.message, "data": self.data}

    def to_record(self) -> dict[str, object]:
        """Returns the error as records and `--json` contain it: `{"code", "name", "message", "data"}`."""
        return {"code": self.code, "name": self.name, "message": self.message, "data": self.data}


class Unreachable(CorralError, code=-33000, exit_status=6, http_status=503):
    """Raised in clients if no daemon answers on the socket; never sent."""


class ParseError(CorralError, code=-32700, exit_status=2, http_status=400):
    """Raised for a line that is not JSON."""


class InvalidRequest(CorralError, code=-32600, exit_status=2, http_status=400):
    """Raised for JSON that is not a JSON-RPC request."""


class MethodNotFound(CorralError, code=-32601, exit_status=2, http_status=404):
    """Raised for a method that does not exist."""


class InvalidParams(CorralError, code=-32602, exit_status=2, http_status=422):
    """Raised for a wrong parameter, configuration key or command-line value; `data` names it."""


class InternalError(CorralError, code=-32603, exit_status=2):
    """Raised for a defect of corral, or for an error code that this version does not know."""


class NotFound(CorralError, code=-33001, exit_status=3, http_status=404):
    """Raised if the named agent, worker, task, server or tool does not exist."""


class Conflict(CorralError, code=-33002, exit_status=4, http_status=409):
    """Raised if the present state does not permit the operation."""


class PermissionDenied(CorralError, code=-33003, exit_status=4, http_status=403):
    """Raised if the caller has no right to the operation."""


class Timeout(CorralError, code=-33004, exit_status=5, http_status=504):
    """Raised if it took longer than the caller or the configuration allows."""


class ResourceLimitExceeded(CorralError, code=-33005, exit_status=7, http_status=429):
    """Raised at a limit; `data` has `limit` and `value`."""


class NotInitialized(CorralError, code=-33006, exit_status=4, http_status=409):
    """Raised if the peer has not sent `initialize` yet."""


class ShuttingDown(CorralError, code=-33007, exit_status=4, http_status=503):
    """Raised if the daemon or the worker is stopping and accepts no new work."""


class SpawnFailed(CorralError, code=-33008, http_status=502):
    """Raised if a process could not be started, or did not become ready; `data` has `result`."""


class WorkerFailed(CorralError, code=-33009, http_status=502):
    """Raised if the worker died while it was needed; `data` has `worker` and `result`."""


class Cancelled(
    CorralError, code=-33010, exit_status=8, http_status=409
):  # a state that its reader did not expect; 499 is no registered status
    """Raised if the request or task was cancelled."""


class Overloaded(CorralError, code=-33011, exit_status=7, http_status=429):
    """Raised if a bounded queue is full; `data` has `retry_after_s`."""


class ToolFailed(CorralError, code=-33012, http_status=502):
    """Raised if an MCP server failed while it ran the tool, or violated the protocol."""


class TaskFailed(CorralError, code=-33013, http_status=502):
    """Raised if the task's handler raised an exception; `data` has `exception`."""


class Corrupted(CorralError, code=-33014):
    """Raised if a record of the store is damaged: `data["record"]` names it. An earlier one may be usable."""


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
