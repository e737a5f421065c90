"""Runs one worker of a webhook agent: takes tasks from the daemon, and sends each to a service over HTTP.

The address is in CORRAL_WEBHOOK_URL, the method in CORRAL_WEBHOOK_METHOD, the headers, a JSON object, in
CORRAL_WEBHOOK_HEADERS, and the key of the signature in CORRAL_WEBHOOK_SECRET; they are taken out of the environment
at the start, and none is ever printed. A service that cannot be reached, or that breaks off, has failed as a worker that
has died: the daemon tries the task again. A cancelled task closes its connection.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import NamedTuple

import aiohttp
from yarl import URL

from ... import __version__
from ..contract.codec import as_object, decode
from ..contract.errors import CorralError, InternalError, ResourceLimitExceeded, WorkerFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES
from ..sdk.agent import Agent
from ..sdk.results import Json
from ..sdk.task import Start, Task
from . import delivery, streamed_response

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

    def masked(self, text: str) -> str:
        """Masks the values of the headers, the secret and the query in a text, in case the service repeats them."""
        values = [*self.headers.values(), self.secret, self.url.raw_query_string]
        values += [value.partition(" ")[2] for value in self.headers.values()]
        for value in values:
            if len(value) >= MASKED_CHARS:
                text = text.replace(value, "…")
        return text


class Sender:
    """Sends tasks to one service.

    Args:
        target: where they are sent.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._http: aiohttp.ClientSession

    async def open(self, _start: Start) -> None:
        """Opens the pool of connections, before the worker is ready."""
        # The daemon limits the number of tasks at once.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
            trust_env=True,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def run(self, task: Task) -> Json:
        """Sends a task, and returns the output of the response.

        Raises:
            TaskFailed: the service refused the task, or its response is invalid.
            Overloaded: the service asks for a pause.
            WorkerFailed: the service cannot be reached, or has broken off.
            ResourceLimitExceeded: the response exceeds the size limit of a message.
        """
        try:
            answer = await self._sent(task)
        except CorralError as error:
            error.message = self._target.masked(error.message)
            for key, value in error.data.items():
                error.data[key] = self._target.masked(value) if isinstance(value, str) else value
            error.args = (error.message,)
            raise
        if answer.tokens_used or answer.cost_cents:
            task.usage(answer.tokens_used, answer.cost_cents)
        return answer.output

    async def _sent(self, task: Task) -> delivery.Answer:
        target = self._target
        body = delivery.body_of(task)
        own = delivery.headers_of(task, body, target.secret, int(time.time()))
        headers = {"User-Agent": f"corral/{__version__}", **target.headers, **own}
        try:
            async with self._http.request(
                target.method, target.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                if 200 <= status < 300:
                    if kind := streamed_response.KINDS.get(response.content_type):
                        reader = streamed_response.StreamedResponse(kind, target.address)
                        return await _streamed(response, task, reader)
                    return delivery.answer_of(await _whole(response, task.id), target.address)
                head = await _head(response)
                now = datetime.now(UTC)
                raise delivery.error_of(status, response.headers, head, target.address, now)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
            reason = str(error) or type(error).__name__
            unsent = isinstance(
                error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError
            )
            verb = "reach" if unsent else "get a response of"
            text = f"cannot {verb} {target.address}: {reason}"
            raise WorkerFailed(
                text, worker=task.worker, result="unreachable", sent=not unsent
            ) from None


async def _whole(response: aiohttp.ClientResponse, task: str) -> bytes:
    """Reads a body up to the limit of a message; the daemon holds the output to `max_output_size_bytes`."""
    chunks = bytearray()
    async for chunk in response.content.iter_any():
        chunks += chunk
        if len(chunks) > MAX_MESSAGE_BYTES:
            text = (
                f'cannot read the response to task "{task}": it exceeds {MAX_MESSAGE_BYTES} bytes'
            )
            raise ResourceLimitExceeded(
                text, limit="max_output_size_bytes", value=MAX_MESSAGE_BYTES
            )
    return bytes(chunks)


async def _streamed(
    response: aiohttp.ClientResponse, task: Task, reader: streamed_response.StreamedResponse
) -> delivery.Answer:
    """Streams the parts of a body as they come, and returns the answer that they end with."""
    async for chunk in response.content.iter_any():
        for part in reader.feed(chunk):
            await task.stream(part)
    for part in reader.finish():
        await task.stream(part)
    return reader.answer()


async def _head(response: aiohttp.ClientResponse) -> bytes:
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
    """Takes the target out of the environment, so that no child gets it.

    Raises:
        InternalError: the variables are invalid; the message contains no value of them.
    """
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


def main() -> int:
    """Runs until the daemon ends the worker (0), or not at all (2)."""
    # A netrc file must not apply: the service gets only the configured headers.
    os.environ["NETRC"] = os.devnull
    try:
        sender = Sender(take_environment(os.environ))
    except CorralError as error:
        print(f"corral: {error.message}", file=sys.stderr)
        return 2
    agent = Agent(version=__version__)
    agent.on_start(sender.open)
    agent.on_shutdown(sender.close)
    agent.task(sender.run)
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
