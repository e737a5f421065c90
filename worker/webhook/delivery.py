"""Encodes a task as the request of a webhook, and decodes the response into an output or a typed error.

Values in, values out: the time is an argument. No message that it makes has a value of a header or of the query.
"""

import hmac
import http
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from ..contract.codec import as_object, decode, encode
from ..contract.errors import CorralError, Overloaded, TaskFailed
from ..sdk.results import Json
from ..sdk.task import TaskRequest

RETRY_S = 1.0
"""Seconds before the next request, where a service that is overloaded names no time."""

MAX_RETRY_S = 86_400.0
"""Seconds that a service can ask for, at most."""

SHOWN_CHARS = 200
"""Characters of an error's body that its message repeats."""

ENVELOPE = frozenset(("output", "tokens_used", "cost_cents"))
"""Keys of a response that has more to say than the output; one with another key is an output itself."""

SIGNATURE, TIMESTAMP = "X-Corral-Signature", "X-Corral-Timestamp"


class Answer(NamedTuple):
    """Represents the response to a task that has succeeded."""

    output: Json
    tokens_used: int = 0
    cost_cents: float = 0.0


def body_of(task: TaskRequest) -> bytes:
    """Encodes a task as the JSON object that the service receives."""
    return encode(
        {
            "task": task.id,
            "attempt": task.attempt,
            "delivery": task.delivery,
            "agent": task.agent,
            "worker": task.worker,
            "objective": task.objective,
            "input": task.input,
            "context": task.context,
            "session": task.session,
            "boundaries": task.boundaries,
            "output_format": task.output_format,
            "config": task.config,
        }
    )


def headers_of(task: TaskRequest, body: bytes, secret: str, unix_s: int) -> dict[str, str]:
    """Returns the headers of one request; with a secret its signature over the timestamp, a dot and the body."""
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Idempotency-Key": task.id,
        TIMESTAMP: str(unix_s),
    }
    if task.traceparent is not None:
        headers["traceparent"] = task.traceparent
    if secret:
        headers[SIGNATURE] = signature(secret, str(unix_s), body)
    return headers


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Returns `sha256=` and the HMAC-SHA256, in hexadecimal digits, of the timestamp, a dot and the body."""
    signed = timestamp.encode() + b"." + body
    return f"sha256={hmac.digest(secret.encode(), signed, 'sha256').hex()}"


def answer_of(body: bytes, address: str) -> Answer:
    """Decodes the body of a successful response; an empty one has the output None."""
    if not body.strip():
        return Answer(None)
    try:
        value = decode(body)
    except ValueError as error:
        text = f"cannot read the response of {address}: it is not JSON: {shown(body)}"
        raise TaskFailed(text, reason=str(error)) from None
    fields = as_object(value)
    if fields is None or "output" not in fields or not fields.keys() <= ENVELOPE:
        return Answer(value)
    tokens, cost = fields.get("tokens_used", 0), fields.get("cost_cents", 0)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise _bad_figure(address, "tokens_used", tokens)
    if not isinstance(cost, int | float) or isinstance(cost, bool) or cost < 0:
        raise _bad_figure(address, "cost_cents", cost)
    return Answer(fields["output"], tokens, float(cost))


def error_of(status: int, headers: Mapping[str, str], body: bytes, address: str, now: datetime) -> CorralError:
    """Returns the error that a response without success stands for."""
    phrases = {one.value: one.phrase for one in http.HTTPStatus}
    reason = f"HTTP {status} {phrases.get(status, '')}".rstrip()
    words = shown(body)
    if 300 <= status < 400:
        reason += "; redirections are not followed"
    elif words and not words.startswith("<"):  # a page is for browsers
        reason += f": {words}"
    text = f"cannot run the task at {address}: {reason}"
    if status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
        return Overloaded(text, status=status, retry_after_s=retry_after_s(headers.get("Retry-After", ""), now))
    return TaskFailed(text, status=status, body=words)


def retry_after_s(value: str, now: datetime) -> float:
    """Returns the seconds that `Retry-After` asks for, a number or a date (RFC 9110, 10.2.3)."""
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(float(value), MAX_RETRY_S)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return RETRY_S
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), MAX_RETRY_S)


def shown(body: bytes) -> str:
    """Returns the beginning of a body as one printable line."""
    words = body[: 4 * SHOWN_CHARS].decode("utf-8", "replace").strip()[:SHOWN_CHARS]
    return "".join(one if one.isprintable() else " " for one in words)


def _bad_figure(address: str, key: str, value: object) -> TaskFailed:
    text = f'cannot read the response of {address}: "{key}" is not a number of at least 0'
    return TaskFailed(text, key=key, value=value)
