"""Whose daemon this is: a pipe that he holds, and the process that he is. It ends when either does.

The pipe alone would not do: a child that he forks holds it too. His process alone would not either: a program may be
done with its daemon, by an exception say, long before it ends. See pipe(7) and pidfd_open(2).
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import Self

from ..worker.contract.errors import InvalidParams


class Lifeline:
    """The reading end of a pipe, and a pidfd of who started us; None where he was gone already."""

    def __init__(self, fd: int, supervisor_fd: int | None) -> None:
        self._fd = fd
        self._supervisor_fd = supervisor_fd

    @classmethod
    def of(cls, fd: int) -> Self:
        """The lifeline at a descriptor that was passed on; what we start does not have it.

        Raises:
            InvalidParams: it is not open.
        """
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
            if os.getppid() != parent:  # he died meanwhile, and it may be another's by now
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
                is_over = not os.read(self._fd, 4096)  # what he writes means nothing
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
