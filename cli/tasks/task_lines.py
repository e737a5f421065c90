"""Prints what a task prints and logs on stderr while the command waits for its end: `run --logs`."""

import sys
import threading
from functools import partial
from types import TracebackType

from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError, Unreachable
from corral.worker.contract.log_pieces import PieceJoiner

from ..context import ANSWER_S, Session
from ..log_lines import LogWriter
from ..render import inners, word
from .wait import RECONNECT_S, TaskProgress

LAST_LINES_S = 5.0
"""Seconds that the last lines may take after the end of the task, before its result is printed."""


class TaskLines:
    """Follows the lines of one task over a connection of its own, until the task has ended."""

    def __init__(self, session: Session, progress: TaskProgress, task: str) -> None:
        self._progress = progress
        self._task = task
        self._session = session
        self._after = ""
        self._writer = LogWriter(session, stream=sys.stderr)
        self._connection = session.connect()
        # A daemon thread: a second Ctrl-C ends the command at once.
        self._thread = threading.Thread(target=self._run, name="corral-lines", daemon=True)

    def __enter__(self) -> "TaskLines":
        self._connection.call("log.follow", {"task": self._task}, timeout_s=ANSWER_S)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._thread.join(LAST_LINES_S)

    def _run(self) -> None:
        try:
            while not self._follow(self._connection):
                self._connection.close()
                self._connection = self._reconnected()
        except CorralError as error:
            self._progress.print(f"cannot show further lines of the task: {error.message}")
        finally:
            self._connection.close()

    def _reconnected(self) -> Client:
        """Returns a connection that goes on behind the last line, once the daemon is back."""
        connection = self._session.connect_again(RECONNECT_S)
        try:
            params = {"task": self._task, **({"after": self._after} if self._after else {})}
            connection.call("log.follow", params, timeout_s=ANSWER_S)
        except BaseException:
            connection.close()
            raise
        return connection

    def _follow(self, connection: Client) -> bool:
        """Prints lines; returns True at the end of the task, False if the daemon is lost before."""
        joiner = PieceJoiner()
        try:
            for notification in connection.notifications():
                records = joiner.flush() if notification.method == "log.end" else []
                if notification.method == "log":
                    records = joiner.join(inners(notification.params, "records"))
                    self._after = word(notification.params, "position") or self._after
                if records:
                    self._progress.above(partial(self._writer.write, records))
                if notification.method == "log.end":
                    return True
        except Unreachable:
            if records := joiner.flush():
                self._progress.above(partial(self._writer.write, records))
        return False
