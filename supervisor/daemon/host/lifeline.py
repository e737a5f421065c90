"""Ties an embedded daemon to its parent: it exits when the parent's pipe closes or the parent dies.

The pipe alone would not do: a child that the parent forks holds it too. The process alone would not either: a program
may be done with its daemon, by an exception say, long before it ends. See pipe(7) and pidfd_open(2).
"""

import asyncio
import contextlib
import fcntl
import os
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
