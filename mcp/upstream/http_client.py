"""Sends HTTP requests to one remote server, and reads its answers: errors become typed ones without secrets.

Redirections are followed within the origin only, because the headers may hold credentials.
"""

import asyncio
import contextlib
import http
import re
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Self

import aiohttp
from yarl import URL

from corral import __version__
from corral.worker.contract.codec import as_object, decode
from corral.worker.contract.errors import CorralError, Overloaded, ToolFailed
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES

from ..protocol.sse import Event, EventStream, too_long
from . import http_headers

CONNECT_S = 10.0
"""Seconds for name resolution, the connection and TLS; the session limits the response."""

RETRY_S = 1.0
"""Seconds before a retry, where the server gives no time."""

MAX_REDIRECTS = 5

MAX_REASON_BYTES = 2000

KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 20, socket.TCP_KEEPCNT: 3}
"""Seconds and a count: a broken stream must be detected even if nothing is sent on it."""

JSON_TYPE, STREAM_TYPE = "application/json", "text/event-stream"


class HttpClient:
    """Sends requests to one server, and only to its origin."""

    def __init__(self, url: URL, headers: Mapping[str, str]) -> None:
        self.url = url
        self.address = url.origin()
        """Scheme, host and port."""
        self._headers = dict(headers)
        self._hidden = ""
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S)
        # The caller limits concurrency: open streams must not delay requests.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_kept_alive),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            trust_env=True,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.close()

    async def send(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Sends a request and returns the response, after redirections within the same origin."""
        accept = STREAM_TYPE if method == "GET" else f"{JSON_TYPE}, {STREAM_TYPE}"
        whole = {**self._headers, "Accept": accept, "User-Agent": f"corral/{__version__}", **headers}
        if body is not None:
            whole["Content-Type"] = JSON_TYPE
        url = self.url
        for _ in range(MAX_REDIRECTS):
            response = await self._http.request(method, url, data=body, headers=whole, allow_redirects=False)
            if response.status not in (301, 302, 307, 308):
                return response
            response.close()
            try:
                url = url.join(URL(response.headers.get("Location", "")))
                origin = url.origin()
            except ValueError as error:
                raise ToolFailed(f"cannot follow the redirection of {self.address}") from error
            if origin != self.address:
                raise ToolFailed(f"cannot follow the redirection of {self.address} to {origin}", status=response.status)
        raise ToolFailed(f"cannot follow more than {MAX_REDIRECTS} redirections of {self.address}")

    def error_of(self, response: aiohttp.ClientResponse, body: bytes) -> CorralError:
        """Returns the error for an HTTP error without a JSON-RPC error; its text is short and has no header."""
        status = response.status
        reason = self.described(status, body)
        if status == http.HTTPStatus.UNAUTHORIZED:
            reason += "; it requires other credentials in its headers"
        text = f"cannot call {self.address}: {reason}"
        after = response.headers.get("Retry-After", "")
        if status in (429, 503):
            retry_after_s = float(after) if after.isascii() and after.isdigit() else RETRY_S
            return Overloaded(text, status=status, retry_after_s=retry_after_s)
        return ToolFailed(text, status=status)

    def described(self, status: int, body: bytes) -> str:
        """Describes an HTTP error in a short printable text."""
        phrases = {one.value: one.phrase for one in http.HTTPStatus}
        reason = f"HTTP {status} {phrases.get(status, '')}".rstrip()
        text = body.decode("utf-8", "replace").strip()
        if not text or text.startswith("<"):  # a page is for browsers
            return reason
        words = "".join(one if one.isprintable() else " " for one in text[:200])
        return f"{reason}: {self.masked(words)}"

    def hide(self, text: str) -> None:
        """Masks a text from now on, in place of the one before."""
        self._hidden = text

    def masked(self, text: str) -> str:
        """Masks the values of the own headers in a text, in case the server repeats them, and the query."""
        for value in (*self._headers.values(), self._hidden):
            for secret in (value, value.partition(" ")[2]):
                if len(secret) >= 4:
                    text = text.replace(secret, "…")
        return text.replace(self.url.raw_query_string, "…") if self.url.raw_query_string else text


async def whole_body(response: aiohttp.ClientResponse) -> bytes:
    """Reads a whole body."""
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > MAX_MESSAGE_BYTES:
            raise too_long()
    return b"".join(chunks)


async def head_of(response: aiohttp.ClientResponse) -> bytes:
    """Reads the beginning of an error's body, for its text."""
    chunks: list[bytes] = []
    size_bytes = 0
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(CONNECT_S):
            async for chunk in response.content.iter_any():
                chunks.append(chunk)
                size_bytes += len(chunk)
                if size_bytes > MAX_REASON_BYTES:
                    break
    return b"".join(chunks)


def _kept_alive(address: "aiohttp.AddrInfoType") -> socket.socket:
    domain, kind, protocol, _, _ = address
    made = socket.socket(domain, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


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
