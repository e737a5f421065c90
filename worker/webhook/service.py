"""Holds the service that a worker sends tasks to, and reads the bodies of its answers within limits.

Common to webhooks and to remote agents of A2A. The variables are taken out of the environment at the start, and none is
ever printed.
"""

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

import aiohttp
from yarl import URL

from ..contract.codec import as_object, decode
from ..contract.errors import CorralError, InternalError, ResourceLimitExceeded, WorkerFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES

URL_VARIABLE = "CORRAL_WEBHOOK_URL"
METHOD_VARIABLE = "CORRAL_WEBHOOK_METHOD"
HEADERS_VARIABLE = "CORRAL_WEBHOOK_HEADERS"
SECRET_VARIABLE = "CORRAL_WEBHOOK_SECRET"

CONNECT_S = 10.0
"""Seconds for name resolution, the connection and TLS; the time of the task bounds the rest."""

ERROR_BYTES = 4096
"""Bytes that are read of the body of an error."""

MASKED_CHARS = 4
"""Characters from which on a value of a header is masked in the words of a service."""


class Target(NamedTuple):
    """Holds where the tasks are sent, and with which headers."""

    url: URL
    method: str
    headers: Mapping[str, str]
    secret: str

    @property
    def address(self) -> str:
        """Returns scheme, host and port, for messages."""
        return str(self.url.origin())

    def mask(self, error: CorralError) -> None:
        """Masks the same in the message and the facts of an error."""
        error.message = self.masked(error.message)
        for key, value in error.data.items():
            error.data[key] = self.masked(value) if isinstance(value, str) else value
        error.args = (error.message,)

    def masked(self, text: str) -> str:
        """Masks the values of the headers, the secret and the query in a text, in case the service repeats them."""
        values = [*self.headers.values(), self.secret, self.url.raw_query_string]
        values += [value.partition(" ")[2] for value in self.headers.values()]
        for value in values:
            if len(value) >= MASKED_CHARS:
                text = text.replace(value, "…")
        return text


def connections() -> aiohttp.ClientSession:
    """Returns a pool of connections; the daemon limits the number of tasks at once."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
        trust_env=True,
    )


def unreachable(error: Exception, address: str, worker: str) -> WorkerFailed:
    """Returns the error about a service that cannot be reached, or has broken off."""
    reason = str(error) or type(error).__name__
    unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    verb = "reach" if unsent else "get a response of"
    return WorkerFailed(f"cannot {verb} {address}: {reason}", worker=worker, result="unreachable", sent=not unsent)


async def whole_body(response: aiohttp.ClientResponse, task: str) -> bytes:
    """Reads a body up to the limit of a message; the daemon holds the output to `max_output_size_bytes`."""
    chunks = bytearray()
    async for chunk in response.content.iter_any():
        chunks += chunk
        if len(chunks) > MAX_MESSAGE_BYTES:
            text = f'cannot read the response to task "{task}": it exceeds {MAX_MESSAGE_BYTES} bytes'
            raise ResourceLimitExceeded(text, limit="max_output_size_bytes", value=MAX_MESSAGE_BYTES)
    return bytes(chunks)


async def head_of(response: aiohttp.ClientResponse) -> bytes:
    """Reads the beginning of a body, within a bounded time."""
    chunks = bytearray()
    try:
        async with asyncio.timeout(CONNECT_S):
            async for chunk in response.content.iter_any():
                chunks += chunk
                if len(chunks) >= ERROR_BYTES:
                    break
    except (aiohttp.ClientError, OSError):
        pass  # the status says enough
    return bytes(chunks[:ERROR_BYTES])


def take_environment(environ: MutableMapping[str, str]) -> Target:
    """Takes the target out of the environment, so that no child gets it."""
    address = environ.pop(URL_VARIABLE, "")
    method = environ.pop(METHOD_VARIABLE, "POST")
    written = environ.pop(HEADERS_VARIABLE, "{}")
    secret = environ.pop(SECRET_VARIABLE, "")
    try:
        url = URL(address)
        given = as_object(decode(written.encode()))
    except ValueError:
        url, given = URL(), None
    if url.scheme not in ("http", "https") or not url.host:
        raise InternalError(f"cannot start: {URL_VARIABLE} is not the address of a service")
    if given is None or not all(isinstance(value, str) for value in given.values()):
        raise InternalError(f"cannot start: {HEADERS_VARIABLE} is not a JSON object of strings")
    return Target(url, method, {name: str(value) for name, value in given.items()}, secret)
