"""Sends one reader the parts of a task at its own pace."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from corral.worker.contract.errors import CorralError

from .buffer import Cursor, PartBuffer

METHOD = "task.part"
"""The notification that has a part."""

PACE_S = 0.01
"""Seconds after a message in which parts are gathered for the next one; the first part after a silence waits for nothing."""


class Receiver(Protocol):
    """Receives notifications."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while the receiver reads too slowly."""
        ...


class PartSender:
    """Sends the parts of one task from now on, beginning with those that are kept."""

    def __init__(self, buffer: PartBuffer, receiver: Receiver, pace_s: float = PACE_S) -> None:
        self._buffer = buffer
        self._receiver = receiver
        self._pace_s = pace_s
        self._sending: asyncio.Task[None] | None = None
        if buffer.last:
            self._start()
        else:
            buffer.starts.append(self._start)

    async def finish(self) -> None:
        """Waits until all parts of a task that has ended are sent, or its receiver is gone."""
        if self._sending is not None:
            with suppress(CorralError):
                await self._sending

    async def close(self) -> None:
        """Stops sending."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        elif self._start in self._buffer.starts:
            self._buffer.starts.remove(self._start)

    def _start(self) -> None:
        self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        buffer, cursor = self._buffer, Cursor()
        while True:
            is_sent = False
            while (message := buffer.read(cursor)) is not None:
                self._receiver.notify(METHOD, message)
                await self._receiver.drain()
                is_sent = True
            if buffer.closed.is_set():
                if not is_sent:
                    return
            elif not is_sent:
                await buffer.stirred.wait()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace_s):
                        await buffer.closed.wait()
