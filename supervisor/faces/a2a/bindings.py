"""Reads requests of A2A and encodes their answers, in the two bindings: JSON-RPC, and HTTP with JSON.

Values in, values out: both lead to the same operations with the same params. Errors of JSON-RPC are answers with status 200, as
the protocol has it; those of HTTP have a status and the form of google.rpc.Status.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web

from corral.worker.contract import codec
from corral.worker.contract.errors import MethodNotFound

from ..http.answers import JSON, Refused, answer
from .messages import REASONS, VERSION, VERSION_HEADER, A2aError

TYPES = ("", JSON, "application/a2a+json", "application/x-www-form-urlencoded")
"""Types of a body of JSON; the last is the one that curl gives unless told otherwise."""

ROUTES: tuple[tuple[str, str, str], ...] = (
    ("POST", "message:send", "SendMessage"),
    ("POST", "message:stream", "SendStreamingMessage"),
    ("GET", "tasks", "ListTasks"),
    ("GET", "tasks/{id}", "GetTask"),
    ("POST", "tasks/{id}:cancel", "CancelTask"),
    ("POST", "tasks/{id}:subscribe", "SubscribeToTask"),
    ("GET", "tasks/{id}:subscribe", "SubscribeToTask"),
    ("POST", "tasks/{taskId}/pushNotificationConfigs", "CreateTaskPushNotificationConfig"),
    ("GET", "tasks/{taskId}/pushNotificationConfigs", "ListTaskPushNotificationConfigs"),
    ("GET", "tasks/{taskId}/pushNotificationConfigs/{id}", "GetTaskPushNotificationConfig"),
    ("DELETE", "tasks/{taskId}/pushNotificationConfigs/{id}", "DeleteTaskPushNotificationConfig"),
    ("GET", "extendedAgentCard", "GetExtendedAgentCard"),
)
"""Verb, path below that of the agent, and operation."""

_PATTERNS = tuple(
    (verb, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", path)), operation) for verb, path, operation in ROUTES
)

FREE = ("data", "metadata")
"""Fields with any value."""

NUMBERS = ("historyLength", "pageSize")
FLAGS = ("includeArtifacts",)

STATUSES: Mapping[int, tuple[int, str]] = {
    -32001: (404, "NOT_FOUND"),
    -32002: (409, "FAILED_PRECONDITION"),
    -32003: (400, "UNIMPLEMENTED"),
    -32004: (400, "UNIMPLEMENTED"),
    -32005: (415, "INVALID_ARGUMENT"),
    -32007: (400, "FAILED_PRECONDITION"),
    -32009: (400, "UNIMPLEMENTED"),
    -32600: (400, "INVALID_ARGUMENT"),
    -32601: (404, "NOT_FOUND"),
    -32602: (400, "INVALID_ARGUMENT"),
    -32700: (400, "INVALID_ARGUMENT"),
}
"""Status of HTTP, and that of google.rpc, by the code of an error."""

OF_HTTP: Mapping[int, str] = {
    403: "PERMISSION_DENIED",
    409: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Status of google.rpc by that of HTTP, for errors of corral."""

Json = Any  # a value of the protocol, checked where it is used


class Binding(Protocol):
    """Defines one binding for one request."""

    def read(self, body: bytes) -> tuple[str, Json]:
        """Returns the operation and its params; raises A2aError."""
        ...

    def result(self, value: object) -> object:
        """Returns a result, or an event of a stream, as it is sent."""
        ...

    def error(self, error: A2aError) -> object:
        """Returns an error as it is sent."""
        ...

    def refusal(self, error: A2aError) -> web.Response:
        """Returns the answer for an error."""
        ...


class JsonRpc:
    """Speaks JSON-RPC 2.0."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._id: object = None

    def read(self, body: bytes) -> tuple[str, Json]:
        """Returns the method and its params."""
        _check_type(self._request, body)
        call = _decoded(body)
        if not isinstance(call, dict) or call.get("jsonrpc") != "2.0":
            raise A2aError(-32600, "cannot read the body as a request of JSON-RPC 2.0")
        given: Mapping[str, Json] = call
        if isinstance(given.get("id"), str | int):
            self._id = given["id"]
        method, params = given.get("method"), given.get("params", {})
        if not isinstance(method, str) or self._id is None:
            raise A2aError(-32600, 'cannot read the request: it needs "id" and "method"')
        if not isinstance(params, dict):
            raise A2aError(-32602, 'cannot read the request: "params" is an object')
        _check_version(self._request)
        return method, _camel(params)

    def result(self, value: object) -> object:
        """Returns a result as it is sent."""
        return {"jsonrpc": "2.0", "id": self._id, "result": value}

    def error(self, error: A2aError) -> object:
        """Returns an error as it is sent."""
        return {"jsonrpc": "2.0", "id": self._id, "error": error.to_json()}

    def refusal(self, error: A2aError) -> web.Response:
        """Returns the answer for an error."""
        return answer(self.error(error))


class Rest:
    """Speaks HTTP with JSON."""

    def __init__(self, request: web.BaseRequest, path: str) -> None:
        self._request = request
        self._path = path

    def read(self, body: bytes) -> tuple[str, Json]:
        """Returns the operation and its params: those of the path, of the query and of the body."""
        verbs: list[str] = []
        for verb, pattern, operation in _PATTERNS:
            if (found := pattern.fullmatch(self._path)) is None:
                continue
            if verb != self._request.method:
                verbs.append(verb)
                continue
            _check_type(self._request, body)
            given = _decoded(body) if body and verb == "POST" else {}
            if not isinstance(given, dict):
                raise A2aError(-32602, "cannot read the body: it is no object")
            _check_version(self._request)
            query = {key: _from_query(key, text) for key, text in _camel(dict(self._request.query)).items()}
            return operation, {**query, **_camel(given), **found.groupdict()}
        if not verbs:
            raise A2aError(-32601, f'cannot serve "{self._request.path}": A2A has no such path')
        text = f'cannot serve {self._request.method} "{self._request.path}": it takes {verbs[0]}'
        raise Refused(405, MethodNotFound(text), Allow=", ".join(dict.fromkeys(verbs)))

    def result(self, value: object) -> object:
        """Returns a result as it is sent."""
        return value

    def error(self, error: A2aError) -> object:
        """Returns an error as it is sent."""
        code, status = self._status(error)
        details = error.to_json()["data"] if error.code in REASONS else []
        return {"error": {"code": code, "status": status, "message": error.message, "details": details}}

    def refusal(self, error: A2aError) -> web.Response:
        """Returns the answer for an error."""
        return answer(self.error(error), self._status(error)[0])

    def _status(self, error: A2aError) -> tuple[int, str]:
        if error.code in STATUSES:
            return STATUSES[error.code]
        return error.http_status, OF_HTTP.get(error.http_status, "INTERNAL")


def _camel(value: Json) -> Json:
    """Returns an object with the names of the JSON form, for which the names of the Protocol Buffers may stand; free values stay."""
    if isinstance(value, list):
        return [_camel(each) for each in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Json] = {}
    for key, each in value.items():
        name = re.sub(r"_([a-z])", lambda letter: letter[1].upper(), key)
        found[name] = each if name in FREE else _camel(each)
    return found


def _decoded(body: bytes) -> Json:
    try:
        return codec.decode(body)
    except ValueError as error:
        raise A2aError(-32700, f"cannot read the body as JSON: {error}") from error


def _check_type(request: web.BaseRequest, body: bytes) -> None:
    given = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if body and given not in TYPES:
        raise A2aError(-32005, f'cannot read a body of type "{given[:100]}": send {JSON}')


def _check_version(request: web.BaseRequest) -> None:
    given = request.headers.get(VERSION_HEADER) or request.query.get(VERSION_HEADER, "")
    version = given.strip() or "0.3"
    if version != VERSION and not version.startswith(f"{VERSION}."):
        text = f"cannot speak version {version} of A2A: send the header {VERSION_HEADER}: {VERSION}"
        raise A2aError(-32009, text, version=version)


def _from_query(key: str, text: str) -> object:
    if key in NUMBERS:
        try:
            return int(text)
        except ValueError:
            return text  # it is refused where it is used
    return text == "true" if key in FLAGS else text
