"""Names requests by what they ask, and shapes their answers for the record of a task, and back. Values in, values out."""

import base64
import hashlib
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple

from aiohttp import web
from msgspec import Struct, to_builtins

DIGEST_CHARS = 32
"""Characters of the digest in a name."""


class KeptAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Represents an answer as it was passed on, of a stream all its events; `encoding` is there where the body is no UTF-8."""

    status: int
    headers: dict[str, str] = {}
    body: str = ""
    encoding: Literal["", "base64"] = ""

    @property
    def content(self) -> bytes:
        """Returns the bytes of the body."""
        return base64.b64decode(self.body) if self.encoding else self.body.encode()


class Recorded(NamedTuple):
    """Represents an answer that is in the record of the task that calls, as the step of this name."""

    unit: str
    step: str
    answer: KeptAnswer

    def response(self) -> web.Response:
        """Returns it as a response, which says whence it comes; a stream comes at once."""
        headers = {**self.answer.headers, "X-Corral-Step": self.step}
        return web.Response(status=self.answer.status, body=self.answer.content, headers=headers)


def request_name(model: str, method: str, target: str, body: bytes) -> str:
    """Returns the name of a request to a model: equal ones are equal byte for byte, but for their headers."""
    digest = hashlib.sha256(b"%s %s\n%s" % (method.encode(), target.encode(), body)).hexdigest()
    return f"model:{model}:{digest[:DIGEST_CHARS]}"


class Keeping:
    """Collects the answer of one call for the record of its task, up to `most` bytes."""

    def __init__(self, unit: str, task: str | None, request: str, most: int) -> None:
        self._about = {"unit": unit, "task": task, "request": request, "at": time.time()}
        self._began = time.monotonic()
        self._most = most
        self._body: bytearray | None = bytearray()

    def add(self, data: bytes) -> None:
        """Adds a part; a body that is too long is forgotten."""
        if self._body is not None:
            self._body += data
            if len(self._body) > self._most:
                self._body = None

    def message(self, status: int, headers: Mapping[str, str]) -> Mapping[str, object]:
        """Returns what the daemon is told, without the answer where it is too long."""
        answer: object = None
        if self._body is not None:
            try:
                kept = KeptAnswer(status=status, headers=dict(headers), body=self._body.decode())
            except UnicodeDecodeError:
                text = base64.b64encode(self._body).decode()
                kept = KeptAnswer(status=status, headers=dict(headers), body=text, encoding="base64")
            answer = to_builtins(kept)
        return {**self._about, "duration_s": round(time.monotonic() - self._began, 6), "answer": answer}
