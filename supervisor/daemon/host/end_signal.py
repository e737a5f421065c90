"""Holds whether the daemon has to end, and whether at once: SIGTERM, SIGINT and the lifeline ask for it."""

import asyncio
import logging
import signal

from .lifeline import Lifeline

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
