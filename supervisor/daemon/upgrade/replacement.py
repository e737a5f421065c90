"""Executes the next program of the daemon in its process, and on failure the one before again.

Until the next program has taken up the handover, a failure or a silence of ADOPTION_S gives the process back: it is a matter of
executing once more, since the handover and its descriptors stay as they are.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from .handover import Handover, Program, set_inheritable

ADOPTION_S = 20.0
"""Seconds within which the next program has to have taken up the handover."""

HELD_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})
"""Signals that wait until a program can handle them: by default they would end it."""

logger = logging.getLogger(__name__)


def execute(program: Program, handover: Handover, fd: int, returned: str = "") -> None:
    """Executes a program that takes up the handover at `fd`; returns only if the kernel refuses that.

    With `returned` it is the one before, which is told why.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)  # it would go on in the next program, and end it
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    set_inheritable([fd, *handover.descriptors], True)
    for output in (sys.stdout, sys.stderr):
        output.flush()
    more = [f"--take-up={fd}", *([f"--returned={returned}"] if returned else [])]
    environ = {**os.environ, **({"JOURNAL_STREAM": handover.journal_stream} if handover.journal_stream else {})}
    try:
        os.execve(program.python, program.command(*more), environ)
    except OSError as error:
        logger.error("cannot execute %s: %s", program.python, error.strerror)


@contextlib.contextmanager
def giving_back(adoption: "Adoption | None") -> Iterator[None]:
    """Gives the process back at the first error, before anything is taken down."""
    try:
        yield
    except Exception as error:
        if adoption is not None and adoption.is_open:
            logger.critical("cannot take up what another program has left", exc_info=True)
            adoption.give_back(str(error))
        raise


class Adoption:
    """Represents a handover that is being taken up: it succeeds, or the program before gets the process back."""

    def __init__(self, handover: Handover, fd: int, returned: str = "") -> None:
        self.handover = handover
        self.returned = returned
        """Why another program could not go on; empty where this is the first that takes the handover up."""
        self.is_open = True
        """Nothing was read or sent yet: the program before can go on."""
        self._fd = fd
        set_inheritable([fd, *handover.descriptors], False)

    def begin(self) -> None:
        """Gives the process back when this takes too long."""
        signal.signal(signal.SIGALRM, lambda *_: self.give_back(f"it has not gone on within {ADOPTION_S:g} s"))
        signal.setitimer(signal.ITIMER_REAL, ADOPTION_S)

    def give_back(self, reason: str) -> NoReturn:
        """Executes the program before, which goes on from the same handover; the second failure is the end."""
        logger.error("cannot go on from the program before: %s", reason)
        if not self.returned:
            execute(self.handover.before, self.handover, self._fd, reason)
        os._exit(1)  # the launcher ends all that is left

    def succeed(self) -> None:
        """Ends the time in which the process is given back: from now on something is read and sent."""
        self.is_open = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.close(self._fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
