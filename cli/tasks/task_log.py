"""Implements `corral task log`: prints what a task has done, in order of time, and goes on while it runs."""

from collections.abc import Callable, Mapping

from corral.worker.contract.jsonrpc import Notification

from .. import render
from ..context import Session
from ..log_lines import LOUD, line_at
from ..render import inners, number, word
from .wait import ENDED

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
    """Formats the facts of an entry, and its text last."""
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
