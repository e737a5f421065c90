"""Formats the tool calls of a task for `corral task show --calls`."""

from collections.abc import Mapping

from .. import render
from ..context import Session
from ..render import inners, number, word


def print_calls(session: Session, task_id: str) -> None:
    """Prints the tool calls of a task, oldest first."""
    record = session.call("task.show", {"task": task_id, "calls": True})
    calls = session.records(record, "calls", f'no tool calls of task "{task_id}" are kept')
    if not calls:
        return
    has_results = any(call.get("result") is not None for call in calls)
    header = ("AT", "TOOL", "OUTCOME", "TOOK", "BYTES", "RESULT")
    session.print_table(
        header if has_results else header[:-1],
        [_call_row(session, call)[: None if has_results else -1] for call in calls],
        droppable=("BYTES",),
        right=("TOOK", "BYTES"),
    )
    made = int(number(record, "tool_calls") or 0)
    if made > len(calls):
        session.note(f"{len(calls)} of {made} calls are kept")


def _call_row(session: Session, call: Mapping[str, object]) -> list[str]:
    result = call.get("result")
    return [
        session.at(word(call, "at")),
        word(call, "tool"),
        word(call, "outcome"),
        render.duration(number(call, "duration_s")),
        render.size(number(call, "size_bytes")),
        "" if result is None else _result_text(render.as_record(result)),
    ]


def _result_text(result: Mapping[str, object]) -> str:
    """Returns the text of a tool's result; of one without text its JSON."""
    texts = [word(item, "text") for item in inners(result, "content") if item.get("text")]
    kept = word(result, "text") or "\n".join(texts)
    return kept or render.json_text(result, indent=False)
