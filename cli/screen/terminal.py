"""Owns the terminal of the screen of `corral top`: paints lines, reads keys, and gives the terminal back as it was.

curses of the standard library; the screen is the alternate one, so that what was there before comes back. The only module that
knows curses; it decides nothing.
"""

import codecs
import curses
import locale
import os
import select
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

KEYS: Mapping[int, str] = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "pageup",
    curses.KEY_NPAGE: "pagedown",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_DC: "backspace",
    curses.KEY_RESIZE: "resize",
}

CONTROLS: Mapping[str, str] = {
    "\n": "enter",
    "\r": "enter",
    "\t": "tab",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x03": "interrupt",
    "\x04": "interrupt",
    "\x0c": "redraw",
}

COLOURS: Mapping[str, int] = {
    "red": curses.COLOR_RED,
    "green": curses.COLOR_GREEN,
    "yellow": curses.COLOR_YELLOW,
    "blue": curses.COLOR_CYAN,
}
"""Colour of a style; blue is hardly readable on black, so that cyan stands for it."""

PLAIN = str.maketrans({"…": "~", "▼": "v", "▲": "^", "▏": "_", "↑": "^", "↓": "v"})
"""Characters instead of those that a terminal without UTF-8 has not."""

ESCAPE_MS = 25
"""Milliseconds after which an Esc is that key, not the begin of another one."""

KEYS_AT_ONCE = 1_000
"""Number of waiting keys that are read at once: of text that is pasted by mistake."""

WHEEL_LINES = 3


@dataclass(frozen=True)
class Click:
    """Represents a click of the left button, or a turn of the wheel (`lines`, negative upwards)."""

    line: int
    column: int
    lines: int = 0


def _opened() -> curses.window:
    """Opens the screen, so that curses leaves SIGTSTP alone.

    A curses that finds the default action ignores the signal in each update: Ctrl-Z would be lost then. It looks once, at its
    start. A Ctrl-Z that comes meanwhile stops the process at the end.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
    before = signal.signal(signal.SIGTSTP, lambda *_: None)
    try:
        return curses.initscr()
    finally:
        signal.signal(signal.SIGTSTP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def is_usable() -> bool:
    """Returns whether the database of terminals knows this one, and it can move its cursor."""
    try:
        curses.setupterm(os.environ.get("TERM", ""), sys.stdout.fileno())
    except (curses.error, ValueError, OSError):
        return False
    return bool(curses.tigetstr("cup")) and bool(curses.tigetstr("clear"))


class Terminal:
    """Holds the terminal while the screen is shown; a `with` gives it back."""

    def __init__(self, *, has_colours: bool) -> None:
        self._wants_colours = has_colours
        self._styles: dict[str, int] = {}
        self._is_utf8 = True
        self._window: curses.window | None = None

    def __enter__(self) -> Self:
        with suppress(locale.Error):  # of a name that this machine does not have: it stays C
            locale.setlocale(locale.LC_ALL, "")
        self._is_utf8 = codecs.lookup(locale.nl_langinfo(locale.CODESET)).name == "utf-8"
        window = self._window = _opened()
        try:
            curses.noecho()
            curses.cbreak()
            with suppress(curses.error):
                curses.curs_set(0)
            window.keypad(True)
            window.nodelay(True)
            curses.set_escdelay(ESCAPE_MS)
            curses.mousemask(curses.BUTTON1_PRESSED | curses.BUTTON4_PRESSED | WHEEL_DOWN)
            curses.mouseinterval(0)
            self._make_styles()
            self.resize()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the terminal back; further calls do nothing."""
        if self._window is not None:
            self._window = None
            with suppress(curses.error):
                curses.endwin()

    @property
    def size(self) -> tuple[int, int]:
        """Returns the columns and lines of the terminal."""
        assert self._window is not None, "it is open"
        lines, columns = self._window.getmaxyx()
        return columns, lines

    def resize(self) -> None:
        """Takes the present size of the terminal, and paints everything anew at the next `paint`."""
        with suppress(OSError, curses.error):
            found = os.get_terminal_size(sys.stdout.fileno())
            if found.lines > 0 and found.columns > 0:
                curses.resizeterm(found.lines, found.columns)
        self.forget()

    def forget(self) -> None:
        """Paints everything anew at the next `paint`: something else may have written to the terminal."""
        if self._window is not None:
            self._window.clearok(True)

    def paint(self, lines: Sequence[Iterable[tuple[str, str]]]) -> None:
        """Shows lines of styled text; curses writes only what has changed."""
        window = self._window
        if window is None:
            return
        window.erase()
        for number, line in enumerate(lines[: window.getmaxyx()[0]]):
            with suppress(curses.error):  # the last cell of the screen cannot be left behind
                window.move(number, 0)
                for text, style in line:
                    shown = text if self._is_utf8 else text.translate(PLAIN).encode("ascii", "replace").decode("ascii")
                    window.addstr(shown, self._styles.get(style, curses.A_NORMAL))
        window.refresh()

    def keys(self) -> list[str | Click]:
        """Returns the keys that wait; "hangup" once the terminal is gone."""
        found: list[str | Click] = []
        window = self._window
        while window is not None and len(found) < KEYS_AT_ONCE:
            try:
                key = window.get_wch()
            except curses.error:  # none is left
                break
            if key == curses.KEY_MOUSE:
                found += _clicks()
            elif isinstance(key, str):
                found.append(CONTROLS.get(key, key))
            elif key in KEYS:
                found.append(KEYS[key])
        if not found and _is_gone(sys.stdin.fileno()):
            return ["hangup"]
        return found

    def suspend(self) -> None:
        """Gives the terminal back and stops the process, as Ctrl-Z does; returns when it is continued, with the screen again."""
        with suppress(curses.error):
            curses.endwin()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self.restore()

    def restore(self) -> None:
        """Shows the screen again after the process was stopped."""
        if self._window is not None:
            with suppress(curses.error):
                curses.reset_prog_mode()
            self.resize()

    def _make_styles(self) -> None:
        self._styles = {
            "bold": curses.A_BOLD,
            "bar": curses.A_REVERSE,
            "selected": curses.A_REVERSE | curses.A_BOLD,
            "alarm": curses.A_REVERSE | curses.A_BOLD,
            "underlined": curses.A_BOLD | curses.A_UNDERLINE,
            "grey": curses.A_DIM,
        }
        if not self._wants_colours or not curses.has_colors():
            return
        background = curses.COLOR_BLACK
        with suppress(curses.error):
            curses.start_color()
            curses.use_default_colors()
            background = -1
        for number, (name, colour) in enumerate(COLOURS.items(), 1):
            with suppress(curses.error):
                curses.init_pair(number, colour, background)
                self._styles[name] = curses.color_pair(number)
        self._styles["alarm"] |= self._styles.get("red", 0)


WHEEL_DOWN: int = getattr(curses, "BUTTON5_PRESSED", 0)  # absent in old curses


def _clicks() -> list[str | Click]:
    try:
        _, column, line, _, button = curses.getmouse()
    except curses.error:
        return []
    if button & curses.BUTTON4_PRESSED:
        return [Click(line, column, -WHEEL_LINES)]
    if button & WHEEL_DOWN:
        return [Click(line, column, WHEEL_LINES)]
    return [Click(line, column)]


def _is_gone(fd: int) -> bool:
    """Returns whether the other end of a terminal has hung up."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
