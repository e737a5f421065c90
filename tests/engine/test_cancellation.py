"""A cancellation that comes together with an answer ends its task, also where the client library loses it."""

import asyncio
from typing import Any

import pytest


class Library:
    """Stands for a connected client, and waits for answers as that does."""

    is_connected = True

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []

    async def request(self, *_: object, headers: object) -> object:
        answer = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await asyncio.wait_for(answer, 60.0)


def test_a_cancellation_that_comes_with_the_answer_is_not_lost() -> None:
    pytest.importorskip("nats")

    async def test() -> None:
        from corral.supervisor.engine.jetstream import JetStream  # noqa: PLC0415  # its client may be absent

        library: Any = Library()
        asked = asyncio.create_task(JetStream(library).request("subject", b"", 60.0))
        while not library.answers:
            await asyncio.sleep(0)
        library.answers[0].set_result(object())
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(test())
