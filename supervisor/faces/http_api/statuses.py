"""Gives the HTTP status of each class of error, and of each result.

It must not know aiohttp: the OpenAPI document and the routes take the same table.
"""

from collections.abc import Mapping

from corral.worker.contract.errors import (
    CLASSES,
    Conflict,
    CorralError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    ShuttingDown,
    Timeout,
    WorkerFailed,
)
from corral.worker.methods.faces import Route
from corral.worker.methods.method import AnyMethod

ERROR_STATUSES: Mapping[str, int] = {cls.__name__: cls.http_status for cls in CLASSES.values()}
"""HTTP status of each class; one without a token or with an unknown one is 401."""

MESSAGES: Mapping[int, CorralError] = {
    400: InvalidRequest("cannot read the body: it is no JSON"),
    401: PermissionDenied("cannot answer: the token is missing or unknown"),
    403: PermissionDenied('cannot call "agent.add": reader may only read', method="agent.add", needs="admin"),
    404: NotFound('cannot find "crawler": there is no such agent', name="crawler"),
    406: InvalidRequest("cannot answer: the client does not take application/json"),
    408: Timeout("cannot wait longer for the body"),
    409: Conflict('cannot add "crawler": the name is taken', name="crawler"),
    412: Conflict('cannot change "crawler": it has changed meanwhile', name="crawler", reason="stale"),
    413: InvalidRequest("cannot read the body: it has more than 16 MiB"),
    415: InvalidRequest('cannot read the body: its type is "text/plain"'),
    422: InvalidParams('cannot use "instances": -1 is less than 0', key="instances"),
    429: Overloaded("cannot queue the task: the queue is full", retry_after_s=1.0),
    431: InvalidRequest("cannot parse the request: got more than 8190 bytes"),
    500: InternalError("cannot answer: a defect of corral, which its log has"),
    502: WorkerFailed('cannot finish the task: worker "crawler-1" died', worker="crawler-1"),
    503: ShuttingDown("cannot start anything: the daemon stops"),
    504: Timeout("cannot wait longer than 30 s: it goes on"),
}
"""An example of each refusal, by status."""


def success(method: AnyMethod, route: Route) -> int:
    """Returns the status of an answer: 201 for what was added, 202 for what was only accepted."""
    if method.name == "task.submit":
        return 202
    is_added = route.verb == "POST" and method.name.rpartition(".")[2].startswith("add")
    return 201 if is_added else 200
