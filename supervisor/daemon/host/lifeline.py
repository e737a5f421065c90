"""Ties an embedded daemon to its parent: it exits when the parent's pipe closes or the parent dies.

The pipe alone would not do: a child that the parent forks holds it too. The process alone would not either: a program
may be done with its daemon, by an exception say, long before it ends. See pipe(7) and pidfd_open(2).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable
from typing import Self

from corral.worker.contract.errors import InvalidParams


class Lifeline:
    """Holds the reading end of a pipe, and a pidfd of the parent; None where that was gone already."""

    def __init__(self, fd: int, supervisor_fd: int | None) -> None:
        self._fd = fd
        self._supervisor_fd = supervisor_fd

    @classmethod
    def of(cls, fd: int) -> Self:
        """Makes the lifeline of a descriptor that was passed on; children do not inherit it."""
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)
        except OSError as error:
            reason = (error.strerror or "").lower()
            text = f"cannot use lifeline {fd}: {reason}"
            raise InvalidParams(text, key="--lifeline", value=fd, reason=reason) from error
        supervisor_fd = None
        parent = os.getppid()
        with contextlib.suppress(OSError):
            supervisor_fd = os.pidfd_open(parent)
            if os.getppid() != parent:  # it died meanwhile, and the pid may be another's by now
                os.close(supervisor_fd)
                supervisor_fd = None
        return cls(fd, supervisor_fd)

    def watch(self, loop: asyncio.AbstractEventLoop, lost: Callable[[], None]) -> None:
        """Calls `lost` once when it ends; the descriptors are closed with the process."""

        def end() -> None:
            for fd in (self._fd, self._supervisor_fd):
                if fd is not None:
                    loop.remove_reader(fd)
            lost()

        def read() -> None:
            try:
                is_over = not os.read(self._fd, 4096)  # its content means nothing
            except BlockingIOError:
                return
            except OSError:
                is_over = True
            if is_over:
                end()

        if self._supervisor_fd is None:
            lost()
            return
        loop.add_reader(self._fd, read)
        loop.add_reader(self._supervisor_fd, end)


logger = logging.getLogger(__name__)


class EndSignal:
    """Holds whether the daemon has to end, and at once: signals are handled from the first moment on."""

    def __init__(self, lifeline: Lifeline | None) -> None:
        self.is_wanted = asyncio.Event()
        self.is_urgent = asyncio.Event()
        loop = asyncio.get_running_loop()
        if lifeline is not None:
            lifeline.watch(loop, self._lose)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the file has just been read

    def _lose(self) -> None:
        """Ends at once: nothing is left to be waited for."""
        logger.info("the process that started the daemon is gone")
        self.is_wanted.set()
        self.is_urgent.set()

    def _ask(self) -> None:
        if self.is_wanted.is_set():
            self.is_urgent.set()  # a second SIGTERM or Ctrl-C means at once
        self.is_wanted.set()
