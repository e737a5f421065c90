"""The pipes of a worker, read as fast as they fill into the streams of its log, and at its end for a bounded time.

What the bytes become is the business of `capture`. Everything is on the loop's thread, one read per turn and pipe.
"""

import asyncio
import functools
import os
from contextlib import suppress

from .capture import LogStream

DRAIN_READS = 64  # what is read at most after the time of a drain is over


HEAP_BYTES = 1024 * 1024
"""More than one read takes in all, copies and prefixes included."""


@functools.cache
def hold_heap() -> None:
    """Have the C library keep what is freed after one read for the next one.

    Otherwise it gives the top of the heap back to the kernel at every read, or not, as luck will have it, and pages that
    come back cost more than all copying. glibc learns from the size of a block that is freed: see M_MMAP_THRESHOLD in
    mallopt(3). Other libraries take no notice.
    """
    bytes(HEAP_BYTES)


class Capture:
    """Reads one pipe of a worker into a stream, as fast as it comes, until its end."""

    __slots__ = ("_ended", "_fd", "_loop", "_stream", "closed")

    def __init__(self, fd: int, stream: LogStream) -> None:
        """Own the descriptor from now on; needs the running loop."""
        hold_heap()
        self._fd = fd
        self._stream = stream
        stream.hold()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Event | None = None  # made for whoever waits for it: it takes 1 kB
        self.closed = False
        """True once the pipe has ended, or was given up."""
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    async def drain(self, timeout_s: float) -> bool:
        """After the exit of the worker: read to the end, for `timeout_s` at most, and close.

        False if somebody else still held the pipe open; what he writes from now on is lost to him (EPIPE).
        """
        if not self.closed:
            self._ended = self._ended or asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._ended.wait()
        ended = self.closed
        self.close()
        self._stream.let_go()
        return ended

    def close(self) -> None:
        """Read what is there, bounded, then close the pipe and the stream."""
        self.catch_up()
        self._end()

    def catch_up(self) -> None:
        """Read what is in the pipe now, bounded: of a process that is dead, all that it wrote."""
        for _ in range(DRAIN_READS):
            if self.closed or not self._read():
                break

    def _read(self) -> bool:
        """One read per wake-up: the pipe holds no more, and a flood must not starve the others."""
        try:
            chunk = os.read(self._fd, self._stream.read_bytes)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the other side of a terminal is gone
            chunk = b""
        if chunk:
            self._stream.write(chunk)
        else:
            self._end()
        return bool(chunk)

    def _end(self) -> None:
        if not self.closed:
            self.closed = True
            if self._ended is not None:
                self._ended.set()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._stream.close()
