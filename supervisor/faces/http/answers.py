"""Encodes answers as JSON, and errors as `{"error": {"code", "name", "message", "data"}}` with the status of their class."""

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence

from aiohttp import HttpVersion11, StreamReader, web

from corral.worker.contract import codec
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InternalError,
    InvalidRequest,
    Overloaded,
    ResourceLimitExceeded,
    Timeout,
)

MAX_BODY_BYTES = 16 * 1024 * 1024

MAX_BODIES_BYTES = 8 * MAX_BODY_BYTES
"""Bytes of all bodies that are being received, by this process: each of many clients could send one byte at a time."""

BODY_S = 30.0
"""Seconds that a body may take to arrive."""

STALL_S = 30.0
"""Seconds to wait for a client that does not read."""

STALE = "stale"
"""`data["reason"]` of the Conflict of a change to something that has changed meanwhile."""


JSON = "application/json"

CURL_TYPE = "application/x-www-form-urlencoded"
"""The type that curl gives the body of `--data` unless told otherwise: it is read as JSON, too."""


class Refused(Exception):
    """Raised about a request that is answered with a status of its own."""

    def __init__(self, status: int, error: CorralError, **headers: str) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}


def check_type(request: web.BaseRequest, body: bytes, types: Sequence[str] = (JSON, CURL_TYPE)) -> None:
    """Refuses a body of another type; one without a type is JSON."""
    given = request.headers.get("Content-Type", JSON).partition(";")[0].strip().lower()
    if body and (given not in types or "Content-Encoding" in request.headers):
        raise Refused(415, InvalidRequest(f"cannot read the body: it is no plain {types[0]}"), Accept=", ".join(types))


def status_of(error: CorralError) -> int:
    """Returns the status of an error."""
    if isinstance(error, Conflict) and error.data.get("reason") == STALE:
        return 412
    return error.http_status


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Encodes a value as the answer."""
    try:
        body = codec.encode(value)
    except ValueError as error:
        raise InternalError(f"cannot send the result: {error}") from error
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def failure(error: CorralError, status: int | None = None, headers: Mapping[str, str] | None = None) -> web.Response:
    """Encodes an error as the answer; `status` replaces the one of its class."""
    all_headers = dict(headers or {})
    wait_s = error.data.get("retry_after_s")
    if isinstance(wait_s, int | float) and "Retry-After" not in all_headers:
        all_headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    status = status_of(error) if status is None else status
    try:
        response = answer({"error": error.to_record()}, status, all_headers)
    except InternalError:  # it quotes bytes that are no text
        quoted = error.message.encode("ascii", "backslashreplace").decode()
        record: dict[str, object] = {"code": error.code, "name": error.name, "message": quoted}
        record["data"] = {}
        response = answer({"error": record}, status, all_headers)
    if all_headers.get("Connection") == "close":
        response.force_close()
    return response


class Bodies:
    """Counts the bytes of bodies that are being received."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0

    async def read(self, content: StreamReader, most_bytes: int) -> bytes:
        """Returns a body as it arrives; refuses it once it is too long, or too much of all is held."""
        body = bytearray()
        try:
            while part := await content.readany():
                body += part
                self._held_bytes += len(part)
                if len(body) > most_bytes:
                    raise too_long(most_bytes)
                if self._held_bytes > self._most_bytes:
                    text = "cannot take the message now: too many are being received"
                    full = Overloaded(text, limit="messages", value=self._most_bytes, retry_after_s=1.0)
                    raise Refused(503, full, Connection="close")
            return bytes(body)
        finally:
            self._held_bytes -= len(body)


_BODIES = Bodies(MAX_BODIES_BYTES)


async def read_body(request: web.BaseRequest, most_bytes: int = MAX_BODY_BYTES, within_s: float = BODY_S) -> bytes:
    """Returns the body of a request, `b""` where it has none."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, InvalidRequest("cannot read the body: it has a Content-Encoding"))
    if (request.content_length or 0) > most_bytes:  # before any of it is kept
        raise too_long(most_bytes)
    if "Expect" in request.headers:
        await _continue(request)
    try:
        # Nearly always all of it came with the headers, and nothing has to be waited for.
        is_here = request.content.is_eof()
        async with asyncio.timeout(within_s) if not is_here else contextlib.nullcontext():
            return await _BODIES.read(request.content, most_bytes)
    except TimeoutError as error:
        raise Refused(408, Timeout("cannot wait longer for the body"), Connection="close") from error
    except web.RequestPayloadError as error:
        raise Refused(400, InvalidRequest(f"cannot read the body: {error}"), Connection="close") from error


def too_long(most_bytes: int) -> Refused:
    """Returns the answer to a body that is too long."""
    text = f"cannot take a message of more than {most_bytes} bytes"
    return Refused(413, ResourceLimitExceeded(text, limit="message", value=most_bytes), Connection="close")


async def _continue(request: web.BaseRequest) -> None:
    """Sends 100 Continue to a client that expects it before its body (RFC 9110, 10.1.1)."""
    if request.headers["Expect"].lower() != "100-continue":
        raise Refused(417, InvalidRequest("cannot do what the client expects"))
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


async def write(request: web.BaseRequest, response: web.StreamResponse, data: bytes) -> None:
    """Sends a part of a stream to a client that reads it in time."""
    try:
        async with asyncio.timeout(STALL_S):
            await response.write(data)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from error
