"""Runs one worker of a webhook agent: takes tasks from the daemon, and sends each to a service over HTTP.

The address is in CORRAL_WEBHOOK_URL, the method in CORRAL_WEBHOOK_METHOD, the headers, a JSON object, in
CORRAL_WEBHOOK_HEADERS, and the key of the signature in CORRAL_WEBHOOK_SECRET; they are taken out of the environment
at the start, and none is ever printed. A service that cannot be reached, or that breaks off, has failed as a worker that
has died: the daemon tries the task again. A cancelled task closes its connection.
"""

import sys
import time
from functools import partial

from corral import __version__

from ..sdk.results import Json
from ..sdk.task import Task
from . import delivery
from .service import Service, serve, whole_body


async def run(service: Service, task: Task) -> Json:
    """Sends a task, and returns the output of the response."""
    answer = await _sent(service, task)
    if answer.tokens_used or answer.cost_cents:
        task.usage(answer.tokens_used, answer.cost_cents)
    return answer.output


async def _sent(service: Service, task: Task) -> delivery.Answer:
    target = service.target
    body = delivery.body_of(task)
    own = delivery.headers_of(task, body, target.secret, int(time.time()))
    headers = {"User-Agent": f"corral/{__version__}", **target.headers, **own}
    async with service.request(task, target.method, target.url, body, headers) as response:
        kind = delivery.KINDS.get(response.content_type)
        if kind is None:
            return delivery.answer_of(await whole_body(response, task.id), target.address)
        reader = delivery.StreamedResponse(kind, target.address)
        async for chunk in response.content.iter_any():
            for part in reader.feed(chunk):
                await task.stream(part)
        for part in reader.finish():
            await task.stream(part)
        return reader.answer()


if __name__ == "__main__":
    sys.exit(serve(lambda service: partial(run, service)))
