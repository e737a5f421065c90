"""Reads the answers of streamable HTTP beyond single messages: sessions, errors, streams and the pauses before they are resumed.

It must not know which request an answer is for, nor send any.
"""

import http
import re
from collections.abc import AsyncGenerator

import aiohttp

from corral.worker.contract.codec import as_object, decode
from corral.worker.contract.errors import ToolFailed

from ..protocol.sse import Event, EventStream
from . import http_headers
from .http_client import RETRY_S

MAX_RETRY_S = 30.0
"""Seconds before a broken stream is resumed, at most: RETRY_S first, or the server's value, then doubled."""


def is_forgotten(status: int, body: bytes) -> bool:
    """Returns True if an HTTP error means that the session is gone; many servers send 400 in place of 404."""
    if status == http.HTTPStatus.BAD_REQUEST:
        return re.search(rb"session|not initialized", body, re.IGNORECASE) is not None
    return status == http.HTTPStatus.NOT_FOUND


def pause_s(stream: EventStream, tries: int) -> float:
    """Returns the seconds before a broken stream is resumed, after so many tries."""
    base_s = RETRY_S if stream.retry_s is None else stream.retry_s
    return min(base_s * 2.0 ** min(tries, 10), max(MAX_RETRY_S, base_s))


def session_id(response: aiohttp.ClientResponse) -> str | None:
    """Returns the id of the session that the server opened; None for a server without sessions."""
    given = response.headers.get(http_headers.SESSION)
    if given is not None and not all("\x21" <= one <= "\x7e" for one in given):
        raise ToolFailed("cannot open a session: its id is not visible ASCII")
    return given or None


def error_answer(body: bytes) -> dict[str, object] | None:
    """Returns the JSON-RPC error in the body of an HTTP error, if there is one."""
    try:
        message = as_object(decode(body)) or {}
    except ValueError:
        return None
    error = as_object(message.get("error"))
    return message if error is not None and isinstance(error.get("code"), int) else None


async def events(response: aiohttp.ClientResponse, stream: EventStream) -> AsyncGenerator[Event, None]:
    """Yields the events of a response's body, as they come."""
    async for chunk in response.content.iter_any():
        for event in stream.feed(chunk):
            yield event
