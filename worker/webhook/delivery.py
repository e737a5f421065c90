"""Encodes a task as the request of a webhook, and decodes the response into an output or a typed error.

Values in, values out: the time is an argument. No message that it makes has a value of a header or of the query.
"""

import codecs
import hmac
import http
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from ..contract.codec import as_object, decode, encode
from ..contract.errors import CorralError, Overloaded, ResourceLimitExceeded, TaskFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES
from ..contract.parts import JoinedParts
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


EVENTS, LINES, TEXT = "text/event-stream", "application/x-ndjson", "text/plain"

KINDS = {EVENTS: EVENTS, LINES: LINES, "application/jsonl": LINES, TEXT: TEXT}
"""Types of a body that is decoded in parts."""

PIECE_CHARS = 10_000
"""Characters of text in one part."""

END = "[DONE]"
"""Data of the last event of many services; it is no part."""

_LINE_END = re.compile(r"\r\n|\n|\r(?!$)")


class StreamedResponse:
    """Holds what of one body is not decoded yet."""

    def __init__(self, kind: str, address: str) -> None:
        self._kind = kind
        self._address = address
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._event = ""
        self._data: list[str] = []
        self._joined = JoinedParts()
        self._result: Answer | None = None
        self._is_json: bool | None = None
        """Whether a text is the JSON of an answer, which has no parts; None while nothing of it has come."""

    def feed(self, data: bytes) -> list[Json]:
        """Returns the parts that the next bytes complete."""
        return self._parts(self._decoder.decode(data))

    def finish(self) -> list[Json]:
        """Returns the last parts, after the last byte; raises as `feed`."""
        return self._parts(self._decoder.decode(b"", final=True) + "\n\n" * (self._kind != TEXT))

    def answer(self) -> Answer:
        """Returns the output, after the last part."""
        if self._result is not None:
            return self._result
        value = self._joined.value
        if self._kind == TEXT and isinstance(value, str):
            try:
                return answer_of(value.encode(), self._address)  # a service need not name its JSON
            except TaskFailed:
                return Answer(value)
        return Answer([] if value is None and self._kind == LINES else value)

    def _parts(self, text: str) -> list[Json]:
        text = self._pending + text
        if self._kind == TEXT:
            found = self._pieces(text)
        else:
            *lines, self._pending = _LINE_END.split(text)
            if len(self._pending) > MAX_MESSAGE_BYTES:
                words = f"cannot read a line of {self._address}: it exceeds {MAX_MESSAGE_BYTES} bytes"
                raise ResourceLimitExceeded(words, limit="message", value=MAX_MESSAGE_BYTES)
            take = self._take_line if self._kind == LINES else self._take_field
            found = [part for line in lines for part in take(line)]
        for part in found:
            self._joined.add(part, len(part) if isinstance(part, str) else len(str(part)))
        return [] if self._is_json else found

    def _pieces(self, text: str) -> list[Json]:
        """Returns text as parts, as soon as it is known whether it is the JSON of an answer."""
        if self._is_json is None and (begun := text.lstrip()):
            self._is_json = begun[0] in "{["
        self._pending = text if self._is_json is None else ""
        if self._is_json is None:
            return []
        return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]

    def _take_line(self, line: str) -> list[Json]:
        if not line.strip():
            return []
        try:
            return [decode(line.encode())]
        except ValueError as error:
            words = f"cannot read a line of {self._address}: it is not JSON: {line[:200]}"
            raise TaskFailed(words, reason=str(error)) from None

    def _take_field(self, line: str) -> list[Json]:
        """Takes a line of an event; returns the part that the end of the event completes."""
        if line:
            key, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if key == "event":
                self._event = value
            elif key == "data":
                self._data.append(value)
            return []
        name, text = self._event, "\n".join(self._data)
        has_data = bool(self._data)
        self._event, self._data = "", []
        if not has_data:
            return []
        if name == "result":
            self._result = answer_of(text.encode(), self._address)
        elif name == "error":
            fields = as_object(_value_of(text)) or {}
            words = str(fields.get("message") or text)[:200]
            raise TaskFailed(f"cannot run the task at {self._address}: {words}", body=text[:200])
        elif name in ("", "part", "message") and text != END:
            return [_value_of(text)]
        return []


def _value_of(text: str) -> Json:
    """Returns JSON as its value, another text as it is."""
    try:
        return decode(text.encode())
    except ValueError:
        return text
