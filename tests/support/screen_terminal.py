"""A program in a pseudo terminal of its own, whose screen pyte reads: keys in, what a person would see out."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

BOUND_S = 60.0
"""Every wait ends after this long, by failing."""

ALTERNATE, BACK = b"\x1b[?1049h", b"\x1b[?1049l"
"""What xterm is told at the begin and at the end of a program with a screen."""


class ScreenTerminal:
    """Runs a command as the session of a pseudo terminal; a `with` kills it if it still runs."""

    def __init__(
        self, command: Sequence[str], columns: int, lines: int, environ: Mapping[str, str] | None = None
    ) -> None:
        self._ours, self._theirs = pty.openpty()
        self.written = b""
        # Any: pyte has no types
        self.screen: Any = pyte.Screen(columns, lines)
        self._stream: Any = pyte.ByteStream(self.screen)
        self._set_size(columns, lines)
        self.modes = termios.tcgetattr(self._theirs)
        # That of linux: pyte does not know all that xterm does, such as repeating a character.
        environ = {"TERM": "linux", "LC_ALL": "C.UTF-8", **(environ or {})}
        kept = {key: os.environ[key] for key in os.environ if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**kept, **environ},
        )

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without blanks at their ends."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """The whole screen."""
        return "\n".join(self.lines)

    @property
    def is_restored(self) -> bool:
        """Whether the terminal has the modes that it had before the command."""
        return termios.tcgetattr(self._theirs) == self.modes

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Gives the terminal another size, as dragging a window does."""
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the command."""
        self.process.send_signal(number)

    def wait_for(self, is_so: Callable[[str], object]) -> str:
        """The screen as soon as it is so."""
        give_up_at = time.monotonic() + BOUND_S
        while not is_so(self.text):
            self._read(give_up_at)
        return self.text

    def wait_text(self, *texts: str) -> str:
        """The screen as soon as it has all the texts."""
        return self.wait_for(lambda screen: all(text in screen for text in texts))

    def wait_end(self) -> int:
        """The exit status, once everything that was written is read."""
        give_up_at = time.monotonic() + BOUND_S
        while self.process.poll() is None:
            self._read(give_up_at, wait_s=0.05)
        while select.select([self._ours], [], [], 0)[0]:
            self._read(give_up_at)
        return self.process.returncode

    def wait_full(self) -> None:
        """Waits until the command sleeps in a write, as the terminal takes no more."""
        give_up_at = time.monotonic() + BOUND_S
        waits, status = select.poll(), Path(f"/proc/{self.process.pid}/status")
        waits.register(self._theirs, select.POLLOUT)
        while waits.poll(0) or "\nState:\tS" not in status.read_text():
            assert time.monotonic() < give_up_at, "it writes no page"
            time.sleep(0.01)

    def _set_size(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, size)

    def _read(self, give_up_at: float, wait_s: float | None = None) -> None:
        left_s = give_up_at - time.monotonic()
        assert left_s > 0, f"it never came; the screen is:\n{self.text}"
        if select.select([self._ours], [], [], left_s if wait_s is None else wait_s)[0]:
            data = os.read(self._ours, 65_536)
            self.written += data
            self._stream.feed(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(BOUND_S)
        os.close(self._ours)
        os.close(self._theirs)
