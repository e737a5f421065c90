"""Formats the tool calls of a task for `corral task show --calls`."""

from .. import render
from ..context import Session
from ..render import Record, Table, inner, inners, number, word


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
