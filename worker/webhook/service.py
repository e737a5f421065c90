"""Runs the worker of a remote service: sends it requests, and reads the bodies of its answers within limits.

Common to webhooks and to remote agents of A2A. The variables are taken out of the environment at the start, and none is
ever printed.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import NamedTuple

import aiohttp
from yarl import URL

from corral import __version__

from ..contract.codec import as_object, decode
from ..contract.errors import CorralError, InternalError, ResourceLimitExceeded, WorkerFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES
from ..sdk.agent import Agent
from ..sdk.results import Json
from ..sdk.task import Start, Task, stateless
from .delivery import error_of

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
        """Masks what `masked` does in the message and the facts of an error."""
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


class Service:
    """Represents the service, with the connections to it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._http: aiohttp.ClientSession

    async def open(self, _start: Start) -> None:
        """Opens the pool of connections, before the worker is ready; the daemon limits the number of tasks at once."""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
            trust_env=True,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    @contextlib.asynccontextmanager
    async def request(
        self, task: Task, method: str, url: URL, body: bytes | None, headers: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Sends a request for a task, and yields the response; one without success, or that breaks off, is a typed error."""
        address = self.target.address
        try:
            async with self._http.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
                if not 200 <= response.status < 300:
                    head, now = await _head_of(response), datetime.now(UTC)
                    raise error_of(response.status, response.headers, head, address, now)
                yield response
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
            reason = str(error) or type(error).__name__
            unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            text = f"cannot {'reach' if unsent else 'get a response of'} {address}: {reason}"
            raise WorkerFailed(text, worker=task.worker, result="unreachable", sent=not unsent) from None


async def whole_body(response: aiohttp.ClientResponse, task: str) -> bytes:
    """Reads a body up to the limit of a message; the daemon holds the output to `max_output_size_bytes`."""
    chunks = bytearray()
    async for chunk in response.content.iter_any():
        chunks += chunk
        if len(chunks) > MAX_MESSAGE_BYTES:
            text = f'cannot read the response to task "{task}": it exceeds {MAX_MESSAGE_BYTES} bytes'
            raise ResourceLimitExceeded(text, limit="max_output_size_bytes", value=MAX_MESSAGE_BYTES)
    return bytes(chunks)


async def _head_of(response: aiohttp.ClientResponse) -> bytes:
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


def serve(runner_of: Callable[[Service], Callable[[Task], Awaitable[Json]]]) -> int:
    """Runs tasks of the daemon until it ends the worker (0), or not at all (2): the environment names no service."""
    # A netrc file must not apply: the service gets only the configured headers.
    os.environ["NETRC"] = os.devnull
    try:
        service = Service(take_environment(os.environ))
    except CorralError as error:
        print(f"corral: {error.message}", file=sys.stderr)
        return 2
    runner = runner_of(service)

    async def run(task: Task) -> Json:
        try:
            return await runner(task)
        except CorralError as error:
            service.target.mask(error)
            raise

    agent = Agent(version=__version__)
    agent.on_start(service.open)
    agent.on_shutdown(service.close)
    agent.task(run)
    agent.checkpoint(stateless)
    agent.run()
    return 0
