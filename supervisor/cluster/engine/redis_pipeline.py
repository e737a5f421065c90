"""Sends the commands of one moment to Redis together, over one connection: with many tasks at once each costs a fraction of a round trip.

Commands that come while some are on their way are sent when those are answered, and after STALL_S in any case, over another
connection: an answer may never come over one that was lost.
"""

import asyncio
from typing import Any

from redis.exceptions import RedisError

STALL_S = 0.05
"""Seconds that commands wait for the answers of earlier ones, at most."""

FAILURES = (RedisError, OSError, TimeoutError)

Wire = Any  # Any: each command defines the shape of its answer


class RedisPipeline:
    """Sends commands."""

    def __init__(self, client: Wire, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._waiting: list[tuple[tuple[Wire, ...], asyncio.Future[Wire]]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, *command: Wire) -> Wire:
        """Returns the answer to a command."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Wire] = loop.create_future()
        self._waiting.append((command, answer))
        if not self._sending:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(STALL_S, self._send)
        return await answer

    def close(self) -> None:
        """Waits for no answer any more."""
        if self._timer is not None:
            self._timer.cancel()
        for each in self._sending:
            each.cancel()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            batch, self._waiting = self._waiting, []
            sending = asyncio.create_task(self._sent(batch))
            self._sending.add(sending)
            sending.add_done_callback(self._over)

    def _over(self, sending: "asyncio.Task[None]") -> None:
        self._sending.discard(sending)
        if not sending.cancelled():
            self._send()

    async def _sent(self, batch: list[tuple[tuple[Wire, ...], "asyncio.Future[Wire]"]]) -> None:
        wanted = [(command, answer) for command, answer in batch if not answer.done()]
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._answers([command for command, _ in wanted])
        except FAILURES as error:
            found = [error] * len(wanted)
        for (_, answer), value in zip(wanted, found, strict=True):
            if answer.done():
                continue
            if isinstance(value, Exception):
                answer.set_exception(value)
            else:
                answer.set_result(value)

    async def _answers(self, commands: list[tuple[Wire, ...]]) -> list[Wire]:
        if len(commands) == 1:
            return [await self._client.execute_command(*commands[0])]
        pipeline: Wire = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))
