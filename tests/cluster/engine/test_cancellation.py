"""A cancellation that comes together with an answer ends its task, also where the client library loses it."""

import asyncio
from typing import Any

import pytest


async def library_call(answers: list[asyncio.Future[Any]]) -> object:
    """Waits for an answer as the client library does."""
    answers.append(answer := asyncio.get_running_loop().create_future())
    return await asyncio.wait_for(answer, 60.0)


def test_a_cancellation_that_comes_with_the_answer_is_not_lost() -> None:
    pytest.importorskip("nats")

    async def test() -> None:
        from corral.supervisor.cluster.engine.jetstream_wire import cancellable  # noqa: PLC0415  # its client may be absent

        answers: list[asyncio.Future[Any]] = []
        asked = asyncio.create_task(cancellable(library_call(answers)))
        while not answers:
            await asyncio.sleep(0)
        answers[0].set_result(object())
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(test())
