"""Runs the program of an ACP agent as a child, and is the client on its stdin and stdout.

A line of it that is no message goes to the log, as its stderr does. When it ends unasked, so does this process, in the
same way: its exit status or signal is what the daemon reports.
"""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn

from ..contract.channel import Channel
from ..contract.errors import CorralError, SpawnFailed, WorkerFailed
from ..contract.jsonrpc import Foreign, Notification, Peer, Request
from ..sdk.stdio import exit_now, log_line

CLOSED_S = 2.0
"""Seconds that the program may live after it has closed its stdout."""

EOF_S = 0.3
"""Seconds that the program has to end after its stdin is closed, before it gets SIGTERM."""


class AgentProcess:
    """Represents the running program."""

    def __init__(
        self,
        argv: Sequence[str],
        serve: Callable[[Request], Awaitable[object]],
        receive: Callable[[Notification], None],
    ) -> None:
        self._argv = argv
        self._loop = asyncio.get_running_loop()
        self._child: subprocess.Popen[bytes]
        self._pidfd = -1
        self._ended = asyncio.Event()
        self._is_stopping = False
        self.channel = Channel(
            Peer(log_foreign=True, mends_text=True),
            name=f'ACP agent "{argv[0]}"',
            on_request=serve,
            on_notification=receive,
            on_foreign=_log,
            on_closed=self._closed,
            lost=WorkerFailed,
        )

    async def start(self, env: Mapping[str, str]) -> None:
        """Starts the program."""
        read_fd, its_stdout = os.pipe()
        its_stdin, write_fd = os.pipe()
        try:
            self._child = subprocess.Popen(self._argv, stdin=its_stdin, stdout=its_stdout, env=dict(env))
        except (OSError, ValueError) as error:
            os.close(read_fd)
            os.close(write_fd)
            reason = getattr(error, "strerror", None) or str(error)
            raise SpawnFailed(f'cannot run "{self._argv[0]}": {reason}', result="exec-failed", reason=reason) from None
        finally:
            os.close(its_stdin)
            os.close(its_stdout)
        self._pidfd = os.pidfd_open(self._child.pid)
        self._loop.add_reader(self._pidfd, self._exited)
        await self.channel.open_pipes(read_fd, write_fd)

    async def request(self, method: str, params: Mapping[str, object], *, timeout_s: float | None = None) -> object:
        """Returns the response to a request. A caller that is cancelled does not withdraw it: ACP has methods for that.

        Never returns when the program is gone: this process ends then, too.
        """
        try:
            call = await self.channel.call(method, params, timeout_s=timeout_s)
            return await asyncio.shield(call.answer)
        except WorkerFailed:
            if not self.channel.is_closed:
                raise
            await asyncio.Event().wait()
            raise

    async def stop(self) -> None:
        """Ends the program: by the end of its input, then by SIGTERM; the daemon kills what is left."""
        self._is_stopping = True
        if self._pidfd < 0:
            return
        self.channel.close_writing()
        try:
            await asyncio.wait_for(self._ended.wait(), EOF_S)
        except TimeoutError:
            self._child.terminate()
            await self._ended.wait()

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        status = self._child.wait()
        self._ended.set()
        if not self._is_stopping:
            self._loop.call_soon(end_as, status)  # after its last words

    def _closed(self, error: CorralError | None) -> None:
        if self._is_stopping or self._pidfd < 0:
            return
        if error is not None:
            log_line(f"corral: {error.message}")
        self._loop.call_later(CLOSED_S, self._end_silent)

    def _end_silent(self) -> None:
        if self._pidfd >= 0 and not self._is_stopping:
            log_line(f'corral: "{self._argv[0]}" has closed its stdout, and is killed')
            self._child.kill()


def end_as(status: int) -> NoReturn:
    """Ends this process as its child ended; a success that nobody asked for is a failure."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-status, signal.SIG_DFL) if -status not in _FIXED else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-status])
        sys.stderr.flush()
        os.kill(os.getpid(), -status)
        exit_now(128 - status)
    if status == 0:
        log_line("corral: the ACP agent has exited with status 0 unasked")
    exit_now(status or 1)


_FIXED = (signal.SIGKILL, signal.SIGSTOP)
"""Signals without a handler."""


def _log(foreign: Foreign) -> None:
    if foreign.line or foreign.cut_bytes:
        cut = f" … {foreign.cut_bytes} bytes are cut" if foreign.cut_bytes else ""
        sys.stderr.buffer.write(foreign.line + cut.encode() + (b"\n" if foreign.ended else b""))
        sys.stderr.buffer.flush()
