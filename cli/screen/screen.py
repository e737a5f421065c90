"""Runs the screen of `corral top`: keys and changes in, a painted terminal out, until the user quits or a signal ends it.

Everything happens in one loop of asyncio. Painting follows changes, at most once in PAINT_S, however many there are.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from corral.worker.client.async_ import Endpoint

from ..console import ANSWER_S, Session
from ..render import Record
from .feed import Feed
from .pages import DEFAULT_SORTS, SORTS, Drawn, drawn
from .snapshot import Snapshot
from .terminal import Click, Terminal, is_usable
from .view import Action, Sort, View, pressed, selected, sorted_by

PAINT_S = 0.05
"""Seconds between two paintings at least."""

MESSAGE_S = 6.0
"""Seconds for which the result of an action is shown."""

ENDS: tuple[int, ...] = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end the command; it dies by them once the terminal is restored."""


def show(session: Session, params: Record, interval_s: float, order: str) -> bool:
    """Shows the screen until the user quits; returns False if the terminal cannot show one."""
    if not is_usable():
        return False
    with session.connect() as connection:  # it waits for a daemon that starts, and tells what is wrong
        connection.call("statistics.show", params, timeout_s=ANSWER_S)
    is_descending = DEFAULT_SORTS["agents"].is_descending and order != "name"
    view = View(sorts={"agents": Sort(SORTS[order], is_descending)})
    with Terminal(has_colours=session.colours) as terminal:
        screen = Screen(terminal, Endpoint(session.socket, session.token, session.tenant), params, interval_s, view)
        ended_by = asyncio.run(screen.run())
    if ended_by is not None:
        signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    return True


class Screen:
    """Holds the view, and repaints it after each change."""

    def __init__(self, terminal: Terminal, daemon: Endpoint, params: Record, interval_s: float, view: View) -> None:
        self._terminal = terminal
        self._snapshot = Snapshot()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended_by: int | None = None
        self._view = view
        self._page = Drawn([], view)
        self._keys: list[str | Click] = []
        self._has_keys = asyncio.Event()
        self._message = ""
        self._message_until = 0.0
        self._feed = Feed(daemon, params, interval_s, self._snapshot, self._changed.set)

    async def run(self) -> int | None:
        """Runs until the user quits; returns the signal that has ended it, if one has."""
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._read_keys)
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGINT: self._ended.set,
            signal.SIGWINCH: self._resize,
            signal.SIGTSTP: self._suspend,
            signal.SIGCONT: self._continue,
        }
        for number in ENDS:
            loop.add_signal_handler(number, self._end_by, number)
        for signal_, handler in handlers.items():
            loop.add_signal_handler(signal_, handler)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed.run())
                group.create_task(self._paint_changes())
                group.create_task(self._press_keys(group))
                await self._ended.wait()
                raise _Quit
        except* _Quit:
            pass
        finally:
            loop.remove_reader(0)
            for signal_ in (*ENDS, *handlers):
                with suppress(ValueError, RuntimeError):
                    loop.remove_signal_handler(signal_)
        return self._ended_by

    # -- painting

    async def _paint_changes(self) -> None:
        self._paint()
        while True:
            try:
                async with asyncio.timeout(self._seconds_of_message()):
                    await self._changed.wait()
            except TimeoutError:
                self._message = ""
            self._changed.clear()
            self._paint()
            await asyncio.sleep(PAINT_S)

    def _seconds_of_message(self) -> float | None:
        return max(self._message_until - time.monotonic(), 0.0) if self._message else None

    def _paint(self) -> None:
        self._snapshot.settle()
        self._page = drawn(self._view, self._snapshot, self._terminal.size, time.time(), self._message)
        self._view = self._page.view
        self._terminal.paint(self._page.lines)

    def _show_message(self, message: str) -> None:
        self._message = message
        self._message_until = time.monotonic() + MESSAGE_S
        self._changed.set()

    # -- keys

    def _read_keys(self) -> None:
        self._keys += self._terminal.keys()
        self._has_keys.set()

    async def _press_keys(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._has_keys.wait()
            self._has_keys.clear()
            keys, self._keys = self._keys, []
            for key in keys:
                self._press(key, group)
            self._changed.set()

    def _press(self, key: str | Click, group: asyncio.TaskGroup) -> None:
        if isinstance(key, Click):
            self._view = self._clicked(key)
        elif key == "hangup":
            self._ended.set()
        elif key in ("resize", "redraw"):
            self._resize()
        else:
            self._message = ""
            self._view, wish = pressed(self._view, key, self._page.shown)
            if wish == "quit":
                self._ended.set()
            elif isinstance(wish, Action):
                group.create_task(self._act(wish))
        self._feed.is_paused = self._view.is_paused
        self._feed.show(self._view, group)
        # The next key is about what this one has made, not about what is on the screen yet.
        self._page = drawn(self._view, self._snapshot, self._terminal.size, time.time())
        self._view = self._page.view

    def _clicked(self, click: Click) -> View:
        view, page = self._view, self._page
        if view.mode != "keys":
            return view
        if click.lines:
            return selected(view, view.place(view.page).index + click.lines, page.shown)
        if column := page.column_at(click.line, click.column):
            is_sortable = column in page.shown.columns
            return sorted_by(view, column, page.shown) if is_sortable else view
        index = page.index_at(click.line)
        return view if index is None else selected(view, index, page.shown)

    async def _act(self, action: Action) -> None:
        self._show_message(f'{action.verb} "{action.name}" …')
        self._show_message(await self._feed.act(action))

    # -- signals

    def _end_by(self, number: int) -> None:
        self._ended_by = number
        self._ended.set()

    def _resize(self) -> None:
        self._terminal.resize()
        self._changed.set()

    def _suspend(self) -> None:
        self._terminal.suspend()
        self._changed.set()

    def _continue(self) -> None:
        self._terminal.restore()
        self._changed.set()


class _Quit(Exception):
    """Ends the tasks of a screen."""
