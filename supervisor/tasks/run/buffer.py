"""Keeps the last parts of each task, and sends them to readers at different places, each at its own pace.

Decides which parts are dropped, how text is merged, and what a reader that fell behind is told. Knows no transport.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from corral.worker.contract.errors import CorralError

TASK_BYTES = 256 * 1024
"""Bytes of parts that one task keeps."""

TOTAL_BYTES = 32 * 1024 * 1024
"""Bytes of parts that all running tasks keep together; beyond it each keeps its newest one alone."""

ENDED_BYTES = 4 * 1024 * 1024
"""Bytes of the buffers that are kept of tasks that have ended, the last ones: a reader may come a moment after the end."""

ENDED_S = 60.0
"""Seconds for which they are kept."""

BUFFER_BYTES = 2048
"""Bytes that a buffer takes beside its parts: its events above all."""

MERGED_BYTES = 32 * 1024
"""Bytes of text that one message has, beyond which no further part is merged into it."""

OVERHEAD_BYTES = 64
"""Bytes that a part takes beside its JSON."""

COMPACT_PARTS = 1024
"""Number of dropped parts after which the list of a buffer is cut."""


@dataclass(slots=True, eq=False)
class Cursor:
    """Holds the place of one reader: the last part that it has read of a beginning of the task."""

    delivery: int = 0
    number: int = 0
    has_read: bool = False
    """Whether it has read a part of this beginning, or of an earlier one without having been told of its end."""


class PartBuffers:
    """Holds what the buffers of one daemon share: their size together, and the last ones of tasks that have ended."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.size_bytes = 0
        """Of the parts of running tasks."""
        self._clock = clock
        self._ended: dict[str, tuple[PartBuffer, float]] = {}
        """With the times of their ends."""
        self._ended_bytes = 0

    def of_ended(self, task: str) -> "PartBuffer | None":
        """Returns the parts of a task that ended a short while ago."""
        found = self._ended.get(task)
        return None if found is None else found[0]

    def keep(self, buffer: "PartBuffer") -> None:
        """Takes the buffer of a task that has ended; the oldest ones make room."""
        if not buffer.last or buffer.task in self._ended:
            return
        now = self._clock()
        self._ended[buffer.task] = buffer, now
        self._ended_bytes += buffer.size_bytes + BUFFER_BYTES
        while self._ended:
            task, (oldest, ended_at) = next(iter(self._ended.items()))
            if self._ended_bytes <= ENDED_BYTES and now - ended_at <= ENDED_S:
                break
            del self._ended[task]
            self._ended_bytes -= oldest.size_bytes + BUFFER_BYTES


class PartBuffer:
    """Holds the last parts of one task. The parts of a beginning are numbered from 1."""

    def __init__(self, task: str, shared: PartBuffers) -> None:
        self.task = task
        self.last = 0
        """Number of the newest part."""
        self.size_bytes = 0
        self.stirred = asyncio.Event()
        """Set for an instant when there is a part, or a new beginning, or the end."""
        self.closed = asyncio.Event()
        self.starts: list[Callable[[], None]] = []
        """Called at the first part: until then a reader costs nothing more."""
        self._attempt = 0
        self._delivery = 0
        self._shared = shared
        self._parts: list[tuple[object, int]] = []
        self._start = 0
        """Index of the oldest part that is kept."""

    def begin(self, attempt: int, delivery: int) -> None:
        """Notes that the task begins, anew where it has begun before: the parts until then are void."""
        if delivery == self._delivery:
            return
        self._attempt, self._delivery = attempt, delivery
        self._shared.size_bytes -= self.size_bytes
        self.last = self.size_bytes = self._start = 0
        self._parts = []
        self._stir()

    def put(self, part: object, size: int) -> None:
        """Appends a part of `size` bytes; the oldest ones make room for it."""
        size += OVERHEAD_BYTES
        shared = self._shared
        self._parts.append((part, size))
        self.last += 1
        self.size_bytes += size
        shared.size_bytes += size
        while self.size_bytes > TASK_BYTES or (shared.size_bytes > TOTAL_BYTES and self.size_bytes > size):
            dropped = self._parts[self._start][1]
            self._parts[self._start] = ("", 0)
            self._start += 1
            self.size_bytes -= dropped
            shared.size_bytes -= dropped
        if self.starts:
            starts, self.starts = self.starts, []
            for start in starts:
                start()
        if self._start >= COMPACT_PARTS:
            del self._parts[: self._start]
            self._start = 0
        self._stir()

    def close(self) -> None:
        """Ends the stream: there will be no further part."""
        if not self.closed.is_set():
            self._shared.size_bytes -= self.size_bytes
            self._shared.keep(self)
            self.closed.set()
            self._stir()

    def read(self, cursor: Cursor) -> dict[str, object] | None:
        """Returns the next message for a reader, and moves its cursor; None if it has read everything.

        The message is {task, attempt, delivery, number, part, lost}: `number` is that of the newest part in it, `lost` the
        number of parts before it that the reader has lost. Number 0 with the part "" says that the task begins anew.
        """
        if cursor.delivery != self._delivery:
            cursor.delivery, cursor.number = self._delivery, 0
            if cursor.has_read:
                cursor.has_read = False
                return self._message(0, "", 0)
        if cursor.number >= self.last:
            return None
        oldest = self.last - (len(self._parts) - self._start)
        lost = max(0, oldest - cursor.number)
        index = self._start + cursor.number + lost - oldest
        part, size = self._parts[index]
        number = cursor.number + lost + 1
        if isinstance(part, str) and number < self.last:
            texts = [part]
            for more, more_size in self._parts[index + 1 :]:
                size += more_size
                if not isinstance(more, str) or size > MERGED_BYTES:
                    break
                texts.append(more)
            number += len(texts) - 1
            part = "".join(texts)
        cursor.number, cursor.has_read = number, True
        return self._message(number, part, lost)

    def _message(self, number: int, part: object, lost: int) -> dict[str, object]:
        return {
            "task": self.task,
            "attempt": self._attempt,
            "delivery": self._delivery,
            "number": number,
            "part": part,
            "lost": lost,
        }

    def _stir(self) -> None:
        self.stirred.set()
        self.stirred.clear()


METHOD = "task.part"
"""The notification that has a part."""

PACE_S = 0.01
"""Seconds after a message in which parts are gathered for the next one; the first part after a silence waits for nothing."""


class Receiver(Protocol):
    """Receives notifications."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""

    async def drain(self) -> None:
        """Waits while the receiver reads too slowly."""


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
