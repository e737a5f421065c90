"""Reads the usage from an answer that streams, while its bytes are passed on as they come.

Events are cut at blank lines. An event is decoded only if it can have a usage, so that the cost of a stream is that of
copying it. An event that is too long is passed on unread.
"""

import re
from collections.abc import Mapping

import msgspec

from corral.supervisor.config.declared.models import Kind

from .shapes import CHARS_PER_TOKEN
from .usage import Usage, usage_of

EVENT_BYTES = 8 * 1024 * 1024
"""Bytes of one event that is read: longer ones are passed on, and what they say of usage is not known."""

END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
SEPARATORS = (b"\n\n", b"\r\n\r\n", b"\r\r")
TELLING: Mapping[Kind, re.Pattern[bytes]] = {
    "openai": re.compile(rb'"usage"\s*:(?!\s*null)|\[DONE\]'),
    "anthropic": re.compile(rb'"usage"'),
    "gemini": re.compile(rb'"usageMetadata"|"finishReason"'),
}
"""Pattern of what an event has that says something of usage, or ends a stream."""

PATTERN_BYTES = 64
"""Bytes of such a text, at most."""

SIGNS: Mapping[Kind, re.Pattern[bytes]] = {
    "openai": re.compile(rb'"choices"\s*:|"type"\s*:\s*"response\.[^"]{1,80}\.delta"'),
    "anthropic": re.compile(rb'"content_block_delta"'),
    "gemini": re.compile(rb'"candidates"'),
}
"""Pattern that each event with a part of the output has once, so that it is counted."""

NO_USAGE = re.compile(rb'"usage"\s*:\s*null')


class StreamReader:
    """Reads one answer that streams."""

    def __init__(self, kind: Kind, *, hides_usage: bool = False) -> None:
        self._kind = kind
        self._hides = hides_usage
        self._rest = b""
        self._is_lost = False
        self._is_reading = False  # the rest may say something of usage
        self._reported: dict[str, object] = {}
        self.events = 0
        """Number of events with data."""
        self._has_finished = False
        self._is_known = False  # the provider has told the whole usage
        self.is_over = False
        """Nothing is to come that says something of usage: the last event was read, or the usage."""

    def feed(self, data: bytes) -> bytes:
        """Takes bytes as they come, and returns those to pass on."""
        if self._is_lost:
            return data
        before = self._rest
        whole = before + data if before else data
        seen = max(0, len(before) - PATTERN_BYTES)
        if not self._is_reading and not TELLING[self._kind].search(whole, seen):
            return self._skip(whole, data)
        start, passed = 0, bytearray()
        for match in END.finditer(whole, max(0, len(before) - 3)):
            event = whole[start : match.end()]
            start = match.end()
            if not self._read(event):
                passed += event
        self._rest = whole[start:]
        self._is_reading = bool(self._rest)
        if len(self._rest) > EVENT_BYTES:
            passed += self._rest
            self._rest, self._is_lost = b"", True
        if self._hides:  # an event is passed on when it is known not to be hidden
            return bytes(passed)
        return data

    def _skip(self, whole: bytes, data: bytes) -> bytes:
        """Counts events without usage, and returns the bytes to pass on."""
        end = 0
        for separator in SEPARATORS:
            found = whole.rfind(separator, max(0, len(whole) - len(data) - 3))
            end = max(end, found + len(separator) if found >= 0 else 0)
        if not end and len(whole) > EVENT_BYTES:
            self._rest, self._is_lost = b"", True
            return whole if self._hides else data
        self.events += len(SIGNS[self._kind].findall(whole, 0, end))
        self._rest = whole[end:]
        return whole[:end] if self._hides else data

    def end(self) -> bytes:
        """Returns what is left at the end of the answer."""
        rest, self._rest = self._rest, b""
        if rest:
            is_hidden = self._read(rest)
            return rest if self._hides and not is_hidden else b""
        return b""

    def usage(self, request_bytes: int) -> tuple[Usage, bool]:
        """Returns what was used, and whether it is estimated: of a stream that was cut before the provider has known it.

        Each event counts as a token of output then, and the request as one for each CHARS_PER_TOKEN.
        """
        known = usage_of(self._kind, self._reported)
        if known is not None and (self._is_known or (self.is_over and self._kind == "openai")):
            return known, False
        if known is not None:  # the beginning of a message: its input is known
            return msgspec.structs.replace(known, output=max(known.output, self.events)), True
        return Usage(input=request_bytes // CHARS_PER_TOKEN if self.events else 0, output=self.events), True

    def _read(self, event: bytes) -> bool:
        """Notes what an event says; returns whether it is hidden."""
        data = b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        if not data:
            return False
        if data == b"[DONE]":
            self.is_over = True
            return False
        if self._kind == "gemini":
            self.events += b'"candidates"' in data
            if b'"usageMetadata"' not in data and b'"finishReason"' not in data:
                return False
        elif self._kind == "anthropic":
            self.events += data.find(b'"content_block_delta"') >= 0
        elif b'"usage"' not in data or NO_USAGE.search(data):
            self.events += b'.delta"' in data or b'"choices"' in data
        if self._kind != "gemini" and (b'"usage"' not in data or NO_USAGE.search(data)):
            return False
        try:
            table: object = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        return self._note(table) if isinstance(table, Mapping) else False

    def _note_gemini(self, table: Mapping[str, object]) -> bool:
        """Notes figures, which are sums, and whether the model has finished: the end of the stream comes after that."""
        found = table.get("usageMetadata")
        if isinstance(found, Mapping):
            self._reported |= found
        candidates = table.get("candidates")
        each = candidates[0] if isinstance(candidates, list) and candidates else None
        if isinstance(each, Mapping) and each.get("finishReason"):
            self._has_finished = True
        self._is_known = self._has_finished and bool(self._reported)
        return False

    def _note(self, table: Mapping[str, object]) -> bool:
        if self._kind == "gemini":
            return self._note_gemini(table)
        if self._kind == "anthropic":
            inner = table.get("message")
            found = table.get("usage") or (inner.get("usage") if isinstance(inner, Mapping) else None)
            if isinstance(found, Mapping):  # later figures are sums, and leave out what has not changed
                self._reported |= {key: value for key, value in found.items() if value is not None}
                if table.get("type") == "message_delta":
                    self._is_known = self.is_over = True
            return False
        inner = table.get("response")
        found = table.get("usage") or (inner.get("usage") if isinstance(inner, Mapping) else None)
        if isinstance(found, Mapping) and found:
            self._reported = dict(found)
            is_last = inner is not None or table.get("choices") == []
            if is_last:  # some report after each token, so that only the last counts
                self._is_known = self.is_over = True
            return self._hides and is_last
        return False
