"""Prints what a task streams while the command waits for its end: text on stdout, other values on stderr, or all as JSON lines.

The text is on stdout as it comes, also in a pipe; the result is printed after it only if it is something else.
"""

from collections.abc import Mapping

from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES, Notification

from .. import render
from ..context import Session
from ..render import number, word
from .wait import Mode, TaskProgress


class PartPrinter:
    """Prints the parts of one task, over as many connections and attempts as it takes."""

    def __init__(self, session: Session, progress: TaskProgress, mode: Mode) -> None:
        self._session = session
        self._progress = progress
        self._mode = mode
        self._beginning: tuple[object, object] | None = None
        self._text: list[str] = []
        self._chars = 0
        self._is_whole = True
        """Whether all that was printed is the text of the present attempt from its beginning."""
        self._is_midline = False

    def show(self, notification: Notification) -> None:
        """Prints a part, or else shows the progress."""
        if notification.method != "task.part":
            if not self._is_midline:  # the line that is rewritten would be that of the text
                self._progress.show(notification)
        elif self._mode == "json":
            self._session.print_json(notification.params)
            self._session.stdout.flush()
        else:
            self._show_part(notification.params)

    def _show_part(self, facts: Mapping[str, object]) -> None:
        beginning = (facts.get("attempt"), facts.get("delivery"))
        if self._beginning not in (None, beginning):
            self.end_line()
            self._is_whole = False
            self._progress.print(f"attempt {word(facts, 'attempt')} begins anew")
        self._beginning = beginning
        if lost := number(facts, "lost"):
            self.end_line()
            self._is_whole = False
            self._progress.print(f"{lost:.0f} parts were lost: they came faster than they are read")
        part = facts.get("part")
        if not isinstance(part, str):
            self.end_line()
            self._progress.print(render.json_text(part, indent=False))
        elif part:
            self._progress.above(lambda: self._write(part))
            self._chars += len(part)
            self._is_whole = self._is_whole and self._chars <= MAX_MESSAGE_BYTES
            if self._is_whole:
                self._text.append(part)

    def _write(self, text: str) -> None:
        session = self._session
        if session.is_terminal:
            text = render.visible(text, keep_colours=session.colours)
        session.stdout.write(text)
        session.stdout.flush()
        self._is_midline = not text.endswith("\n")

    def end_line(self) -> None:
        """Ends the line of the text, before something else is printed."""
        if self._is_midline:
            self._progress.above(lambda: self._write("\n"))

    def has_printed(self, output: object) -> bool:
        """Returns whether the text that was printed is this output."""
        return self._is_whole and bool(self._text) and "".join(self._text) == output
