"""Reads the pipes of workers into the streams of their logs, as fast as they fill, and after an exit for a bounded time.

Lines and files are the business of `capture`. Everything is on the loop's thread, one read per turn and pipe. The
loop watches one descriptor for all pipes: a watch of its own for each costs a kilobyte a worker. A worker of a tenant that prints
without end is read at a pace while other tenants call: it waits at its full pipe.
"""

import asyncio
import fcntl
import functools
import os
import select
from contextlib import suppress

from msgspec import Struct

from .capture import LogStream, StreamHandover, StreamName

READS_PER_TURN = 256
"""Number of pipes that are read before the loop does something else; the kernel begins with the others then."""

FULL_READS = 8
"""Number of full reads in a row after which a pipe is made larger: half as many reads and writes for the same bytes, a fifth of
the processor time from a flood of fifty workers."""

LARGER_PIPES = 64
"""Number of pipes that are made larger: all pipes of an ordinary user share 64 MiB, and beyond that new ones are small."""

DRAIN_READS = 64
"""Number of reads, at most, after the time of a drain is over."""

PRESENT_READS = 4
"""Number of reads that take in all that a pipe holds."""

HEAP_BYTES = 1024 * 1024
"""Bytes of half the memory that is kept: more than one read takes in all, copies and prefixes included."""


@functools.cache
def keep_heap() -> None:
    """Makes the C library keep the memory that is freed after one read for the next one.

    Otherwise it gives the top of the heap back to the kernel at every read, or not, as luck will have it, and pages that
    come back cost more than all copying. glibc learns from the size of a block that is freed: see M_MMAP_THRESHOLD in
    mallopt(3). Other libraries take no notice.
    """
    bytes(HEAP_BYTES)


class _Pipes:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._captures: dict[int, Capture] = {}
        self._larger: set[int] = set()
        loop.add_reader(self._epoll.fileno(), self._read)

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "_Pipes":
        """Returns the pipes of a running loop: one object, from the first pipe to the last."""
        found = _PIPES.get(loop)
        if found is None:
            found = _PIPES[loop] = _Pipes(loop)
        return found

    def add(self, fd: int, capture: "Capture") -> None:
        """Reads a pipe from now on, whenever there is something in it."""
        self._epoll.register(fd, select.EPOLLIN)
        self._captures[fd] = capture

    def rest(self, fd: int, seconds: float) -> None:
        """Leaves what is in a pipe there for a while; not of a dead process, for its end cannot be masked."""
        self._epoll.modify(fd, 0)
        self._loop.call_later(seconds, self._go_on, fd, self._captures[fd])

    def _go_on(self, fd: int, capture: "Capture") -> None:
        if self._captures.get(fd) is capture:  # else it was closed meanwhile
            self._epoll.modify(fd, select.EPOLLIN)

    def hold(self) -> None:
        """Reads nothing more: what is printed stays in the pipes."""
        self._loop.remove_reader(self._epoll.fileno())

    def release(self) -> None:
        """Reads again."""
        self._loop.add_reader(self._epoll.fileno(), self._read)

    def remove(self, fd: int) -> None:
        """Stops reading a pipe, which is still open."""
        del self._captures[fd]
        self._larger.discard(fd)
        self._epoll.unregister(fd)
        if not self._captures:
            del _PIPES[self._loop]
            if not self._loop.is_closed():
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def enlarge(self, fd: int, size_bytes: int) -> bool:
        """Makes a pipe hold `size_bytes`; returns whether it does from now on."""
        if len(self._larger) >= LARGER_PIPES:
            return False
        try:
            held_bytes = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size_bytes)
        except OSError:  # no pipe, or what the user may have is used up
            return False
        self._larger.add(fd)
        return held_bytes >= size_bytes

    def _read(self) -> None:
        for fd, _ in self._epoll.poll(0, READS_PER_TURN):
            capture = self._captures.get(fd)
            if capture is not None:  # else it was closed in this turn
                pause_s = capture.paced_read()
                if pause_s and not capture.closed:
                    self.rest(fd, pause_s)
            if self._epoll.closed:
                return


_PIPES: dict[asyncio.AbstractEventLoop, _Pipes] = {}


def hold_pipes() -> None:
    """Reads nothing more of any pipe, nor of those that are added: the next program goes on from there."""
    _Pipes.of(asyncio.get_running_loop()).hold()


def release_pipes() -> None:
    """Reads all pipes again."""
    _Pipes.of(asyncio.get_running_loop()).release()


class CaptureHandover(Struct, frozen=True):
    """Holds what the next program goes on from: the descriptor of a pipe, and the stream that it is read into."""

    fd: int
    name: StreamName
    stream: StreamHandover


class Capture:
    """Reads one pipe of a worker into a stream, as fast as it comes, until its end."""

    __slots__ = ("_ended", "_fd", "_full_reads", "_is_larger", "_is_paced", "_loop", "_stream", "closed")

    def __init__(self, fd: int, stream: LogStream) -> None:
        """Takes the descriptor over, and closes it at the end; needs the running loop."""
        keep_heap()
        self._fd = fd
        self._stream = stream
        stream.writer.add_pipe()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Event | None = None  # made by the first `drain`: it takes 1 kB
        self._full_reads = 0  # in a row
        self._is_larger = False
        self._is_paced = False
        self.closed = False
        """True once the pipe has ended, or was given up."""
        os.set_blocking(fd, False)
        _Pipes.of(self._loop).add(fd, self)

    def hand_over(self) -> CaptureHandover:
        """Returns what the next program goes on from; for one that is not closed."""
        return CaptureHandover(self._fd, self._stream.name, self._stream.hand_over())

    def release(self) -> None:
        """Ends after the exit of the worker, where the pipe has been read to its end; else `drain` is due."""
        assert self.closed, "a pipe that is still open is to be drained"
        self._stream.writer.remove_pipe()

    async def drain(self, timeout_s: float) -> bool:
        """Reads to the end after the exit of the worker, for `timeout_s` at most, and closes the pipe.

        Returns False if another process still holds the write end; its later writes fail with EPIPE.
        """
        if not self.closed:
            self._ended = self._ended or asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._ended.wait()
        ended = self.closed
        self.close()
        self._stream.writer.remove_pipe()
        return ended

    def close(self) -> None:
        """Reads the rest, bounded, then closes the pipe and the stream."""
        self.catch_up()
        self._end()

    def catch_up(self, reads: int = DRAIN_READS) -> None:
        """Reads the present contents of the pipe, bounded: of a dead process, all that it wrote."""
        for _ in range(reads):
            if self.closed or not self.read():
                break

    def paced_read(self) -> float:
        """Reads once; returns the seconds for which what follows is to be left in the pipe."""
        size_bytes = self.read()
        pause_s = self._stream.writer.read_pause_s(size_bytes) if size_bytes else 0.0
        self._is_paced = pause_s > 0
        return pause_s

    def read(self) -> int:
        """Reads once: the pipe holds no more, and a flood must not starve the others. Returns the number of bytes."""
        sizes = self._stream.writer.sizes
        is_large = self._is_larger and not self._is_paced
        size = sizes.flood_bytes if is_large else sizes.read_bytes
        try:
            chunk = os.read(self._fd, size)
        except BlockingIOError:
            return 0
        except OSError:  # EIO: the other side of a terminal is gone
            chunk = b""
        if not chunk:
            self._end()
            return 0
        self._stream.write(chunk)
        if len(chunk) < size:
            self._full_reads = 0
        elif not self._is_larger and not self._is_paced:
            self._full_reads += 1
            if self._full_reads == FULL_READS and not self.closed:
                self._full_reads = 0
                self._is_larger = _Pipes.of(self._loop).enlarge(self._fd, sizes.flood_bytes)
        return len(chunk)

    def _end(self) -> None:
        if not self.closed:
            self.closed = True
            if self._ended is not None:
                self._ended.set()
            _Pipes.of(self._loop).remove(self._fd)
            os.close(self._fd)
            self._stream.close()
