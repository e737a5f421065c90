"""Notes in a file what calls use, before the daemon is told and before the last byte of an answer is passed on.

The file outlives the end of this process and of the daemon by any signal. The daemon opens the file, reads it when
either has died, and removes it.
"""

import os
import sys
import time

from .call_journal import Account, Line, encoded
from .usage import Usage

NOTE_S, NOTE_SHARE = 1.0, 0.1
"""Seconds between two lines of an answer that streams, and their share of the time that it takes already."""


class Journal:
    """Represents one file; calls that have begun in it end in it."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._is_torn = False
        self._calls = 0
        self._is_last = True

    def begin(self, call: int, model: str, size: int, account: Account) -> None:
        """Notes that a call is passed on; its input counts as estimated until more is known."""
        self._calls += 1
        guessed = Usage(input=size)
        self._append(Line(call=call, at=time.time(), model=model, usage=guessed, is_estimated=True, account=account))

    def note(self, call: int, model: str, usage: Usage) -> None:
        """Notes what a call has used until now, as an estimate."""
        self._append(Line(call=call, at=time.time(), model=model, usage=usage, is_estimated=True))

    def end(self, call: int, model: str, usage: Usage, outcome: str, *, is_estimated: bool) -> int:
        """Notes what a call has used, and returns the position behind its line."""
        self._calls -= 1
        line = Line(call=call, at=time.time(), model=model, usage=usage, is_estimated=is_estimated, outcome=outcome)
        self._append(line)
        return self._size

    def retire(self) -> None:
        """Notes that no call begins in it any more."""
        self._is_last = False

    def close_if_over(self) -> bool:
        """Closes it if no call of it is under way, and none begins in it any more; returns whether it is closed."""
        if self._is_last or self._calls or self._fd < 0:
            return False
        os.close(self._fd)
        self._fd = -1
        return True

    def _append(self, line: Line) -> None:
        data = encoded(line)
        if self._is_torn:
            data = b"\n" + data
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            if not self._is_torn:
                sys.stderr.write(f"cannot note calls in a file: {error.strerror}\n")
                sys.stderr.flush()
            self._is_torn = True
            return
        self._size += written
        self._is_torn = written < len(data)
