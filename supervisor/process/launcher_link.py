"""Our line to a parent of workers, and one launcher process from its start until it is buried.

It guarantees that nothing blocks the loop, that descriptors are closed once they are sent, and that a
parent that is silent for too long is found out.  What the messages mean, `process` and `zygote` know.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..launcher import program, protocol
from . import orphans

PING_S = 1.0
LATE_S = 0.5
"""When our own loop was late by more than this, the launcher's silence is forgiven."""
RETRY_S = 0.1
"""The pause when the kernel has no room for descriptors under way."""

log = logging.getLogger(__name__)


class Channel:
    """Our end of the socket: sends in order without blocking, and closes descriptors that it has sent."""

    def __init__(
        self,
        sock: socket.socket,
        hear: Callable[[Any], None],  # Any: JSON, or what `receive` makes of a packet
        *,
        receive: Callable[
            [socket.socket], tuple[Any, list[int]]
        ] = protocol.receive,  # Any: as above
        on_end: Callable[[], None] | None = None,
        batch: int = sys.maxsize,
    ) -> None:
        """`on_end` is called when the other end is closed; at most `batch` messages are heard in one turn of the loop."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._hear = hear
        self._receive = receive
        self._on_end = on_end
        self._batch = batch
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._is_writing = False
        self._loop.add_reader(sock.fileno(), self._read_batch)

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, message: dict[str, object], fds: Sequence[int] = ()) -> None:
        """Send it now or later, or drop it once we have hung up; `fds` are ours to close from now on."""
        owned = list(fds)
        if log.isEnabledFor(logging.DEBUG):
            _tell("to the launcher", message)
        if self._sock.fileno() < 0:
            close_all(owned)
            return
        try:
            data, memfd = protocol.encode(message)
        except BaseException:
            close_all(owned)
            raise
        self._queue.append((data, owned if memfd is None else [*owned, memfd]))
        if len(self._queue) == 1:
            self._flush()

    def _read_batch(self) -> None:
        self.read(self._batch)

    def read(self, limit: int = sys.maxsize) -> None:
        """Hear all that has arrived, or so many messages of it."""
        while self._sock.fileno() >= 0 and limit > 0:
            limit -= 1
            try:
                message, fds = self._receive(self._sock)
            except BlockingIOError:
                return
            except (EOFError, ConnectionResetError):
                self._loop.remove_reader(self._sock.fileno())  # its pidfd will tell the rest
                if self._on_end is not None:
                    self._on_end()
                return
            close_all(fds)
            self._hear(message)

    def _flush(self) -> None:
        self._retry = None
        while self._queue:
            data, fds = self._queue[0]
            try:
                socket.send_fds(self._sock, [data], fds)
            except BlockingIOError:
                self._write(True)
                return
            except (BrokenPipeError, ConnectionResetError):
                pass  # the launcher is dead, and its pidfd will tell
            except OSError as error:
                if error.errno not in (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._write(False)  # the socket is writable, so that only time can help
                self._retry = self._loop.call_later(RETRY_S, self._flush)
                return
            self._queue.popleft()
            close_all(fds)
        self._write(False)

    def _write(self, wanted: bool) -> None:
        if wanted and not self._is_writing:
            self._loop.add_writer(self._sock.fileno(), self._flush)
        elif self._is_writing and not wanted:
            self._loop.remove_writer(self._sock.fileno())
        self._is_writing = wanted

    def close(self) -> None:
        """Close our end and what waits here; again harmless."""
        if self._sock.fileno() < 0:
            return
        self._write(False)
        self._loop.remove_reader(self._sock.fileno())
        if self._retry is not None:
            self._retry.cancel()
        for _data, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._sock.close()


class Pulse:
    """Asks for a sign of life every PING_S, and calls `on_silence` once when there was none for `silence_s`."""

    def __init__(self, channel: Channel, silence_s: float, on_silence: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._silence_s = silence_s
        self._on_silence = on_silence
        self._tick: asyncio.TimerHandle | None = None
        self._tick_due_s = 0.0
        self._heard_s = self._loop.time()
        self.pings = 0
        """How often it has asked: the number of the newest question."""

    def heard(self) -> None:
        """It has said something."""
        self._heard_s = self._loop.time()

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.pings += 1
        self._channel.send({"op": "ping", "seq": self.pings})

    def watch(self) -> None:
        """Ping from now on, and tell of a silence that is too long while we listen."""
        self._tick_due_s = self._loop.time() + PING_S
        self._tick = self._loop.call_at(self._tick_due_s, self._on_tick)

    def stop(self) -> None:
        """Ask no more."""
        if self._tick is not None:
            self._tick.cancel()

    def _on_tick(self) -> None:
        now = self._loop.time()
        if now - self._tick_due_s > LATE_S:
            self._heard_s = now
        if now - self._heard_s > self._silence_s:
            self._on_silence()
            return
        if not len(self._channel):
            self.ping()
        self.watch()


class Link:
    """A launcher process that has been started.

    `options` are those of its command line, and `hear` is called with every message of it.  `ended` is
    set when the process has ended; `bury` reaps it.
    """

    def __init__(
        self,
        python: str,
        options: Mapping[str, object],
        hear: Callable[[Any], None],  # Any: JSON
        silence_s: float,
    ) -> None:
        """Start it.

        Raises:
            OSError: it does not start.
        """
        self._loop = asyncio.get_running_loop()
        self._listener = hear
        self._silence_s = silence_s
        self.ended = asyncio.Event()
        self.refusal: tuple[int, str] | None = None  # why there is no PID namespace for it
        self.is_inside = False  # its pids are those of a PID namespace
        self.pid, self._pidfd, sock = _start(python, options)
        orphans.launchers.add(self.pid)
        self._loop.add_reader(self._pidfd, self._on_end)
        self.channel = Channel(sock, self._hear)
        self._pulse = Pulse(self.channel, silence_s, self._on_silence)
        self._pulse.ping()

    def watch(self) -> None:
        """Ping from now on, and kill a launcher that is silent for too long while we listen."""
        self._pulse.watch()

    def kill(self) -> None:
        """SIGKILL the launcher; its direct children die at once, and the rest become ours."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def hang_up(self) -> None:
        """Say no more: the launcher kills whatever it has, and ends."""
        self._pulse.stop()
        self.channel.close()

    def bury(self) -> None:
        """Reap the launcher that has ended, or is about to, and close what was open towards it."""
        self.hang_up()
        self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._pidfd = -1
        orphans.launchers.discard(self.pid)

    def _hear(self, message: Any) -> None:  # Any: JSON
        self._pulse.heard()
        if log.isEnabledFor(logging.DEBUG):
            _tell("from the launcher", message)
        match message["op"]:
            case "moved":
                self._follow(message["pid"])
            case "refused":
                self.refusal = message["errno"], message["message"]
            case _:
                self._listener(message)

    def _follow(self, pid: int) -> None:
        """It goes on as another process, the first of a PID namespace; the one that we know ends now."""
        pidfd = os.pidfd_open(pid)  # not reaped yet, since that is up to us
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        os.waitpid(self.pid, 0)
        orphans.launchers.add(pid)
        orphans.launchers.discard(self.pid)
        self.pid, self._pidfd, self.is_inside = pid, pidfd, True
        self._loop.add_reader(pidfd, self._on_end)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.ended.set()

    def _on_silence(self) -> None:
        log.error("the launcher, pid %d, has said nothing for %.1f s", self.pid, self._silence_s)
        self.kill()


def _tell(what: str, message: dict[str, object]) -> None:
    """Writes a message into the log, without what is in an environment, and without those that only show life."""
    if message["op"] not in ("ping", "pong"):
        facts = {key: value for key, value in message.items() if key not in ("v", "env")}
        log.debug("%s: %s", what, message["op"], extra={"fields": facts})


def _start(python: str, options: Mapping[str, object]) -> tuple[int, int, socket.socket]:
    """A new launcher process: pid, pidfd, and our end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.enter_context(theirs)
        undo.callback(ours.close)
        # Python takes its encoding from the locale: without one it is UTF-8 (PEP 540).  Nothing else
        # of our environment goes there, so that a worker's is exactly what its spec says.
        environment = {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
        pid = os.posix_spawn(
            python,
            [python, "-I", "-S", program.__file__, "3", json.dumps(options)],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
            ],
            # Before its first instruction: a Ctrl-C at our terminal is not for the launcher.
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE,),
        )
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        ours.setblocking(False)
        undo.pop_all()
    theirs.close()
    return pid, pidfd, ours


def close_all(fds: Sequence[int]) -> None:
    """Close every one of them."""
    for fd in fds:
        os.close(fd)
