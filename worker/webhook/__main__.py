"""Runs one worker of a webhook agent: takes tasks from the daemon, and sends each to a service over HTTP.

The address is in CORRAL_WEBHOOK_URL, the method in CORRAL_WEBHOOK_METHOD, the headers, a JSON object, in
CORRAL_WEBHOOK_HEADERS, and the key of the signature in CORRAL_WEBHOOK_SECRET; they are taken out of the environment
at the start, and none is ever printed. A service that cannot be reached, or that breaks off, has failed as a worker that
has died: the daemon tries the task again. A cancelled task closes its connection.
"""

import sys
import time
from datetime import UTC, datetime

import aiohttp

from corral import __version__

from ..contract.errors import CorralError
from ..sdk.results import Json
from ..sdk.task import Start, Task
from . import delivery, streamed_response
from .service import Target, connections, head_of, unreachable, whole_body
from .worker import serve


class Sender:
    """Sends tasks to one service."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._http: aiohttp.ClientSession

    async def open(self, _start: Start) -> None:
        """Opens the pool of connections, before the worker is ready."""
        self._http = connections()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def run(self, task: Task) -> Json:
        """Sends a task, and returns the output of the response."""
        try:
            answer = await self._sent(task)
        except CorralError as error:
            self._target.mask(error)
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
                        async for chunk in response.content.iter_any():
                            for part in reader.feed(chunk):
                                await task.stream(part)
                        for part in reader.finish():
                            await task.stream(part)
                        return reader.answer()
                    return delivery.answer_of(await whole_body(response, task.id), target.address)
                head = await head_of(response)
                now = datetime.now(UTC)
                raise delivery.error_of(status, response.headers, head, target.address, now)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
            raise unreachable(error, target.address, task.worker) from None


if __name__ == "__main__":
    sys.exit(serve(Sender))
