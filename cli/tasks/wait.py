"""Waits for the end of a task over as many connections as it takes, and shows its progress on stderr.

Used by `run`, `task wait` and `task follow`. What a task streams is printed as it comes: text on stdout, other values on stderr, or
all as JSON lines. The result is not: the caller prints it, if it is something else.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Conflict, InvalidParams, ShuttingDown, Unreachable
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES, Notification

from .. import render
from ..context import ANSWER_S, Session, waiting_s
from ..render import number, word

RECONNECT_S = 30.0
"""Seconds that a waiting `run` tolerates an absent daemon."""

RETRY_S = 0.05
"""Seconds before the next request to a daemon that is shutting down."""

SERVED_S = 1.0
"""Seconds of waiting after which the daemon counts as present: its next absence is a new one."""

PROGRESS_LINE_S = 1.0
"""Seconds between two lines about the same state, on a stderr that is no terminal."""

Mode = Literal["text", "json", "off"]
"""Names the ways in which `run` prints what a task streams."""

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "timeout")
ENDED = frozenset(STATES[2:])


class TaskWait:
    """Waits for the end of one task, over as many connections as it takes."""

    def __init__(
        self,
        session: Session,
        connection: Client,
        task: str,
        on_notification: Callable[[Notification], None],
        method: str = "task.wait",
        *,
        is_streamed: bool = False,
    ) -> None:
        self._method = method
        self._more = {"stream": True} if is_streamed else {}
        self._session = session
        self._connection = connection
        self._task = task
        self._on_notification = on_notification

    def until_ended(self, timeout_s: float | None) -> dict[str, object]:
        """Returns the record of the task when it has ended."""
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        lost_at: float | None = None
        while True:
            params: dict[str, object] = {"task": self._task, **self._more}
            left_s = None if give_up_at is None else max(give_up_at - time.monotonic(), 0.001)
            if left_s is not None:
                params["timeout_s"] = left_s
            asked_at: float | None = None
            try:
                if lost_at is not None:
                    self._connection = self._session.connect_again(max(lost_at + RECONNECT_S - time.monotonic(), 0.0))
                asked_at = time.monotonic()
                return self._call(self._method, params, waiting_s(left_s))
            except InvalidParams as error:
                if not self._more or error.data.get("key") != "stream":
                    raise
                self._more = {}  # the daemon is older than this command
                continue
            except (Unreachable, ShuttingDown) as error:
                self._connection.close()
                now = time.monotonic()
                was_served = asked_at is not None and now - asked_at > SERVED_S
                if lost_at is None or was_served:
                    lost_at = now  # away for the first time, or again
                    self._session.note(f"{error.message}; waiting for it to come back")
                if now - lost_at >= RECONNECT_S:
                    words = f'cannot wait for task "{self._task}": {error.message}'
                    raise Unreachable(words, **{**error.data, "task": self._task}) from error
            time.sleep(RETRY_S)

    def cancel(self) -> dict[str, object]:
        """Cancels the task, and returns its record.

        Over another connection: Ctrl-C may have cut a line in two on this one.
        """
        self._connection.close()
        self._connection = self._session.connect()
        try:
            record = self._call("task.cancel", {"task": self._task}, ANSWER_S)
        except Conflict:  # it has just ended by itself
            record = {}
        return record if has_ended(record) else self.until_ended(None)

    def _call(self, method: str, params: Mapping[str, object], timeout_s: float | None) -> dict[str, object]:
        found = self._connection.call(method, params, timeout_s=timeout_s, on_notification=self._on_notification)
        return render.as_record(found)


class TaskProgress:
    """Shows the progress of a task on stderr: one line that is rewritten on a terminal, else lines."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_terminal = sys.stderr.isatty()
        self._has_line = False
        self._last = ("", 0.0)
        self._lock = threading.Lock()
        """Held while stderr is written to: lines of the task come from a thread of their own."""

    def __enter__(self) -> "TaskProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.above(lambda: None)

    def show(self, notification: Notification) -> None:
        """Shows a `task.progress` notification."""
        with self._lock:
            self._show(notification)

    def _show(self, notification: Notification) -> None:
        if notification.method != "task.progress" or self._session.json:
            return
        facts = notification.params
        state = word(facts, "state")
        if state in ENDED:
            return  # the result says it
        parts = [word(facts, "task"), state, word(facts, "worker"), share(facts)]
        message = render.one_line(word(facts, "message"))
        text = render.one_line(" ".join(part for part in parts if part)) + (f" {message}" if message else "")
        if self._is_terminal:
            width = (self._session.width or 80) - 1
            sys.stderr.write(f"\r\x1b[K{render.cut(text, width)}")
            sys.stderr.flush()
            self._has_line = True
            return
        key, now = f"{state} {message}", time.monotonic()
        if key != self._last[0] or now - self._last[1] >= PROGRESS_LINE_S:
            self._last = (key, now)
            print(text, file=sys.stderr, flush=True)

    def print(self, text: str) -> None:
        """Writes a permanent line."""
        self.above(lambda: self._session.note(text))

    def above(self, write: Callable[[], None]) -> None:
        """Writes permanent lines in place of the one that is rewritten; may be called from any thread."""
        with self._lock:
            if self._has_line:
                self._has_line = False
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            write()


def share(facts: Mapping[str, object]) -> str:
    """Formats progress: `50%`, or `3/10` if the total is not 1."""
    done, total = number(facts, "progress"), number(facts, "total")
    if done is None:
        return ""
    if total is not None and total != 1:
        return f"{done:g}/{total:g}"
    return f"{done:.0%}" if 0 <= done <= 1 else f"{done:g}"


def has_ended(record: Mapping[str, object]) -> bool:
    """Returns True if the task of a record has ended."""
    return word(record, "state") in ENDED


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
