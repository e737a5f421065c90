"""Signals of what a handler forks: they are not the worker's.

A loop hears of signals through a descriptor that a fork inherits (signal.set_wakeup_fd), so that a SIGTERM to a
child of multiprocessing, with which its pools end, would be taken for one to the worker, and not end the child.
"""

import os
import signal
import threading
from collections.abc import Mapping


def keep_signals(handlers: Mapping[int, object]) -> None:
    """From now on a fork of this process has no wake-up descriptor, and none of these handlers; once in a process."""
    masks: dict[int, set[int | signal.Signals]] = {}

    def before() -> None:  # a signal that is sent to the child at once would find all as it was
        masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)

    def restore() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(threading.get_ident(), set()))

    def part() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            if signal.getsignal(number) is handler:  # else an author has set another one
                signal.signal(number, signal.SIG_DFL)
        restore()

    os.register_at_fork(before=before, after_in_parent=restore, after_in_child=part)
