"""Runs one launcher process from its start until it is reaped, and the channel to it.

It guarantees that the loop never blocks, that descriptors are closed once they are sent, and that a parent that is
silent for too long is noticed.  The meaning of the messages is known to `launcher_client` and `zygote.client`.
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
from typing import Any, Self

from corral.supervisor.machine.launcher import program, protocol

from . import orphans

PING_S = 1.0
LATE_S = 0.5
"""Seconds of delay of this process's own loop after which the launcher's silence does not count."""
RETRY_S = 0.1
"""Seconds of pause when the kernel has no room for descriptors in flight."""

log = logging.getLogger(__name__)


class Channel:
    """Sends messages in order without blocking, and closes descriptors that it has sent."""

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Any], None],  # Any: JSON, or what `receive` makes of a packet
        *,
        receive: Callable[[socket.socket], tuple[Any, list[int]]] = protocol.receive,  # Any: as above
        on_end: Callable[[], None] | None = None,
        batch: int = sys.maxsize,
    ) -> None:
        """Watches the socket; `on_end` is called when the other end closes, `batch` bounds the messages per turn of the loop."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_message = on_message
        self._receive = receive
        self._on_end = on_end
        self._batch = batch
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._is_writing = False
        self._loop.add_reader(sock.fileno(), self._read_batch)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def fd(self) -> int:
        """Returns the descriptor of the socket."""
        return self._sock.fileno()

    def hold(self) -> None:
        """Reads nothing more: what the other end sends stays in the socket."""
        self._loop.remove_reader(self._sock.fileno())

    def send(self, message: dict[str, object], fds: Sequence[int] = ()) -> None:
        """Sends a message now or later, or drops it after `close`; the channel closes `fds` in any case."""
        owned = list(fds)
        if log.isEnabledFor(logging.DEBUG):
            _log_message("to the launcher", message)
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
        """Passes on the messages that have arrived, at most `limit` of them."""
        while self._sock.fileno() >= 0 and limit > 0:
            limit -= 1
            try:
                message, fds = self._receive(self._sock)
            except BlockingIOError:
                return
            except (EOFError, ConnectionResetError):
                self._loop.remove_reader(self._sock.fileno())  # its end is seen by the pidfd
                if self._on_end is not None:
                    self._on_end()
                return
            close_all(fds)
            self._on_message(message)

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
                pass  # the launcher is dead, which the pidfd shows
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
        """Closes the socket and drops waiting messages; may be called again."""
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


class Heartbeat:
    """Pings every PING_S, and calls `on_silence` once when nothing was received for `silence_s`."""

    def __init__(self, channel: Channel, silence_s: float, on_silence: Callable[[], None], pings: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._silence_s = silence_s
        self._on_silence = on_silence
        self._tick: asyncio.TimerHandle | None = None
        self._tick_due_s = 0.0
        self._received_s = self._loop.time()
        self.pings = pings
        """Number of pings sent, and the sequence number of the newest."""

    def received(self) -> None:
        """Notes that a message has arrived."""
        self._received_s = self._loop.time()

    def ping(self) -> None:
        """Sends a ping."""
        self.pings += 1
        self._channel.send({"op": "ping", "seq": self.pings})

    def watch(self) -> None:
        """Pings from now on, and calls `on_silence` after too long a silence."""
        self._tick_due_s = self._loop.time() + PING_S
        self._tick = self._loop.call_at(self._tick_due_s, self._on_tick)

    def stop(self) -> None:
        """Stops pinging."""
        if self._tick is not None:
            self._tick.cancel()

    def _on_tick(self) -> None:
        now = self._loop.time()
        if now - self._tick_due_s > LATE_S:
            self._received_s = now
        if now - self._received_s > self._silence_s:
            self._on_silence()
            return
        if not len(self._channel):
            self.ping()
        self.watch()


class Link:
    """Represents a launcher process, a child of this one: its pid, its pidfd and the daemon's end of the socket.

    `on_message` is called with each of its messages; with `is_inside` its pids are those of a PID namespace.  `ended` is
    set when the process has ended; `reap` reaps it.
    """

    def __init__(
        self,
        process: tuple[int, int, socket.socket],
        on_message: Callable[[Any], None],  # Any: JSON
        silence_s: float,
        *,
        is_inside: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = on_message
        self._silence_s = silence_s
        self.ended = asyncio.Event()
        self.refusal: tuple[int, str] | None = None  # why there is no PID namespace for it
        self.is_inside = is_inside
        self.pid, self._pidfd, sock = process
        orphans.launchers.add(self.pid)
        self._loop.add_reader(self._pidfd, self._on_end)
        self.channel = Channel(sock, self._on_message)
        self._heartbeat = Heartbeat(self.channel, silence_s, self._on_silence)
        self._heartbeat.ping()

    @classmethod
    def started(
        cls,
        python: str,
        options: Mapping[str, object],
        on_message: Callable[[Any], None],  # Any: JSON
        silence_s: float,
    ) -> Self:
        """Starts a launcher process with these options of its command line."""
        return cls(_start(python, options), on_message, silence_s)

    def watch(self) -> None:
        """Pings from now on, and kills a launcher that is silent for too long."""
        self._heartbeat.watch()

    def hold(self) -> None:
        """Reads nothing more, and judges no silence: another program goes on from here."""
        self._heartbeat.stop()
        self.channel.hold()
        self._loop.remove_reader(self._pidfd)

    def kill(self) -> None:
        """Sends SIGKILL to the launcher; its direct children die at once, the rest are reparented to this process."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def hang_up(self) -> None:
        """Closes the channel; the launcher then kills all its processes and ends."""
        self._heartbeat.stop()
        self.channel.close()

    def reap(self) -> None:
        """Reaps a launcher that has ended or is about to, and closes the descriptors for it."""
        self.hang_up()
        self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._pidfd = -1
        orphans.launchers.discard(self.pid)

    def _on_message(self, message: Any) -> None:  # Any: JSON
        self._heartbeat.received()
        if log.isEnabledFor(logging.DEBUG):
            _log_message("from the launcher", message)
        match message["op"]:
            case "moved":
                self._follow(message["pid"])
            case "refused":
                self.refusal = message["errno"], message["message"]
            case _:
                self._listener(message)

    def _follow(self, pid: int) -> None:
        """Switches to the process as which the launcher continues, the first of a PID namespace; the known one ends."""
        pidfd = os.pidfd_open(pid)  # it exists until this process reaps it
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


def _log_message(what: str, message: dict[str, object]) -> None:
    """Logs a message without its environment; pings and pongs are not logged."""
    if message["op"] not in ("ping", "pong"):
        facts = {key: value for key, value in message.items() if key not in ("v", "env")}
        log.debug("%s: %s", what, message["op"], extra={"fields": facts})


def _start(python: str, options: Mapping[str, object]) -> tuple[int, int, socket.socket]:
    """Starts a launcher process; returns its pid, its pidfd and the daemon's end of the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.enter_context(theirs)
        undo.callback(ours.close)
        # Python takes its encoding from the locale: without one it is UTF-8 (PEP 540).  Nothing else of the daemon's
        # environment is passed on, so that a worker's is exactly the one of its spec.
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
            # Before its first instruction: a Ctrl-C at the daemon's terminal is not for the launcher.
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
    """Closes every descriptor."""
    for fd in fds:
        os.close(fd)
