"""Sets the terminal of this process to raw mode for a command elsewhere, and reads the keys that leave it.

Guarantees that the terminal is as it was when the `with` is left. It knows no daemon.
"""

import contextlib
import os
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType

LEAVING = b"\x10\x11"
"""Ctrl-P Ctrl-Q: the keys that leave, as those of docker attach."""


class RawTerminal:
    """Holds stdin in raw mode, where it is a terminal; without `is_raw` it is left as it is."""

    def __init__(self, *, is_raw: bool) -> None:
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd) if is_raw else None

    def __enter__(self) -> "RawTerminal":
        if self._before is not None:
            tty.setraw(self._fd, termios.TCSADRAIN)  # what was typed already is kept
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


class Signals:
    """Collects signals in place of being ended by them; `fileno` is readable when there are some."""

    def __init__(self, *names: str) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._seen: list[str] = []
        for name in names:
            signal.signal(getattr(signal, name), self._note)

    def fileno(self) -> int:
        """Returns the descriptor to wait for."""
        return self._reader

    def take(self) -> list[str]:
        """Returns the names of the signals since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
        seen, self._seen = self._seen, []
        return seen

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._seen.append(signal.Signals(number).name)
        with contextlib.suppress(BlockingIOError):  # it is readable already
            os.write(self._writer, b"0")


class LeavingKeys:
    """Finds the keys that leave in what is typed; a first one alone is held back until the next."""

    def __init__(self) -> None:
        self._held = b""

    def pass_on(self, typed: bytes) -> tuple[bytes, bool]:
        """Returns what is to be sent, and whether the keys that leave were typed after it."""
        typed, self._held = self._held + typed, b""
        before, found, _ = typed.partition(LEAVING)
        if found:
            return before, True
        if typed.endswith(LEAVING[:1]):
            typed, self._held = typed[:-1], LEAVING[:1]
        return typed, False


def size() -> tuple[int, int]:
    """Returns rows and columns of the terminal of stdin."""
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    return rows or 24, columns or 80  # one that does not say its size
