"""Decodes a response that comes in parts: server-sent events, lines of JSON, or text.

Values in, values out. Of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) an event
`part`, or one without a name, is a part, `result` is the output, and `error` ends the task; others are ignored. Without a
`result` the output is that of the parts together.
"""

import codecs
import re

from ..contract.codec import as_object, decode
from ..contract.errors import ResourceLimitExceeded, TaskFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES
from ..contract.parts import JoinedParts
from ..sdk.results import Json
from .delivery import Answer, answer_of

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
