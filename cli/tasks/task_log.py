"""Prints what a task does: all of it in order of time (`task log`), its lines on stderr (`run --logs`), its tool calls (`task show --calls`)."""

import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError, Unreachable
from corral.worker.contract.jsonrpc import Notification
from corral.worker.contract.log_pieces import PieceJoiner

from .. import render
from ..context import ANSWER_S, Session
from ..log_lines import LOUD, LogWriter, line_at
from ..render import Record, Table, inner, inners, number, word
from .wait import ENDED, RECONNECT_S, TaskProgress

Entry = Mapping[str, object]


def print_log(session: Session, task_id: str, count: int, *, follow: bool, utc: bool) -> int:
    """Prints the log of a task; returns the exit code of its end, 0 where it has not ended or was not waited for."""
    params: dict[str, object] = {"task": task_id, "lines": count}
    write = session.print_ndjson if session.json else _writer(session, is_local=not utc)
    if not follow:
        write(inners(session.call("task.log", params), "entries"))
        return 0

    def note(notification: Notification) -> None:
        if notification.method == "task.log":
            write(inners(notification.params, "entries"))

    with session.connect() as connection:
        answer = connection.call("task.log", {**params, "follow": True}, timeout_s=None, on_notification=note)
    state = word(render.as_record(answer), "state")
    return 1 if state in ENDED and state != "succeeded" else 0


def _writer(session: Session, *, is_local: bool) -> Callable[[list[dict[str, object]]], None]:
    is_terminal = session.stdout.isatty()

    def write(entries: list[dict[str, object]]) -> None:
        for entry in entries:
            stamp = session.styled(line_at(word(entry, "at"), is_local=is_local and is_terminal), "grey")
            after = f"+{render.duration(number(entry, 'after_s'))}"
            step = session.styled(f"{word(entry, 'step'):9}", _colour(entry))
            session.print_foreign(f"{stamp} {after:>8} {step} {_words(entry)}".rstrip())
        session.stdout.flush()

    return write


def _colour(entry: Entry) -> str:
    level, outcome = word(entry, "level").lower(), word(entry, "outcome")
    if outcome and outcome not in ("ok", "succeeded"):
        return "red"
    return LOUD.get(level, "grey" if word(entry, "step") == "log" else "bold")


def _words(entry: Entry) -> str:
    step, text = word(entry, "step"), word(entry, "text")
    facts = [word(entry, "name"), word(entry, "task"), word(entry, "outcome")]
    attempt = number(entry, "attempt")
    if step in ("started", "retried") and attempt:
        facts.append(f"attempt {attempt:.0f}")
    if step in ("started", "log"):
        facts.append(word(entry, "worker"))
    if step == "log":
        facts.append(word(entry, "level"))
    duration_s = number(entry, "duration_s")
    if duration_s is not None:
        facts.append(f"in {render.duration(duration_s)}")
    if memory := number(entry, "memory_bytes"):
        facts.append(f"{render.size(memory)}")
    if cpu_ms := number(entry, "cpu_ms"):
        facts.append(f"cpu {render.duration(cpu_ms / 1000)}")
    for key, words in (("tool_calls", "calls"), ("tokens_used", "tokens"), ("cost_cents", "cents")):
        if value := number(entry, key):
            facts.append(f"{value:.12g} {words}")
    return "  ".join([*filter(None, facts), *([render.one_line(text)] if text else [])])


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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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


def print_calls(session: Session, task_id: str) -> None:
    """Prints the tool calls of a task, oldest first."""
    record = session.call("task.show", {"task": task_id, "calls": True})
    calls = session.records(record, "calls", f'no tool calls of task "{task_id}" are kept')
    if not calls:
        return
    session.print_records(calls, CALLS)
    made = int(number(record, "tool_calls") or 0)
    if made > len(calls):
        session.note(f"{len(calls)} of {made} calls are kept")


def _result(call: Record) -> str:
    """Returns the text of a tool's result; of one without text its JSON."""
    if call.get("result") is None:
        return ""
    result = inner(call, "result")
    texts = [word(item, "text") for item in inners(result, "content") if item.get("text")]
    return word(result, "text") or "\n".join(texts) or render.json_text(result, indent=False)


CALLS = Table(
    "AT TOOL OUTCOME TOOK=duration_s BYTES=size_bytes RESULT",
    drop="BYTES",
    sparse="RESULT",
    right="TOOK BYTES",
    result=_result,
)


def print_steps(session: Session, task_id: str) -> None:
    """Prints the steps of a task in their order, each with a bar for when it ran and how long."""
    record = session.call("task.show", {"task": task_id, "steps": True})
    steps = session.records(record, "steps", f'no steps of task "{task_id}" are kept')
    if not steps:
        return
    begins = [datetime.fromisoformat(word(step, "at")).timestamp() for step in steps]
    ends = [begin + (number(step, "duration_s") or 0.0) for begin, step in zip(begins, steps, strict=True)]
    first, last = min(begins), max(ends)
    scale = BAR / max(last - first, 1e-9)
    shown: list[Record] = []
    for step, begin, end in zip(steps, begins, ends, strict=True):
        before = min(int((begin - first) * scale), BAR - 1)
        length = max(1, min(round((end - begin) * scale), BAR - before))
        shown.append({**step, "time": f"{'·' * before}{'█' * length}".ljust(BAR, "·")})
    session.print_records(shown, STEPS)


def _kept(step: Record) -> str:
    """Returns why a step failed, or the result that is kept of it."""
    if step.get("error") is not None:
        return word(step, "error")
    return "" if step.get("result") is None else render.json_text(step["result"], indent=False)


BAR = 24
"""Characters of the bar for the time of all steps."""

STEPS = Table(
    "NUMBER NAME KIND STATE DELIVERY TRIES TOOK=duration_s TIME=time RESULT",
    drop="KIND TRIES TIME",
    right="NUMBER DELIVERY TRIES TOOK",
    result=_kept,
)
