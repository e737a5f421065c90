"""Encodes a task as the content of a prompt turn, and decodes the end of the turn into an output or a typed error.

Values in, values out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..contract.codec import as_object, decode, encode
from ..contract.errors import CorralError, ResourceLimitExceeded, TaskFailed
from ..sdk.results import Json
from ..sdk.task import TaskRequest

EARLIER_CHARS = 200_000
"""Characters of earlier turns that a new ACP session is told, the latest ones."""

SHOWN_CHARS = 2_000
"""Characters of the last message in the data of an error."""

_FENCED = re.compile(r"\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)

_LIMITS = {"max_tokens": "max_tokens", "max_turn_requests": "max_turn_requests"}
"""Stop reasons that are a limit of the agent's own, by the name of the limit."""


class Usage(NamedTuple):
    """Represents the tokens that a turn has used, 0 where the agent does not say."""

    tokens: int = 0


def blocks_of(
    task: TaskRequest, *, embeds: bool, earlier: Sequence[Mapping[str, Json]] = ()
) -> list[dict[str, object]]:
    """Returns the content blocks of a prompt: the objective, and what else the task has."""
    found: list[dict[str, object]] = []
    if earlier:
        found.append(_text(_conversation(earlier)))
    if task.objective:
        found.append(_text(task.objective))
    for name, value in (("input", task.input), ("context", task.context)):
        if value is None:
            continue
        is_text = isinstance(value, str)
        written = value if is_text else encode(value).decode()
        if embeds:
            resource = {
                "uri": f"corral:///tasks/{task.id}/{name}",
                "mimeType": "text/plain" if is_text else "application/json",
                "text": written,
            }
            found.append({"type": "resource", "resource": resource})
        else:
            found.append(_text(f"The {name} of the task:\n\n{written}"))
    for key in ("constraints", "scope"):
        if value := task.boundaries.get(key):
            found.append(_text(f"The {key} of the task: {encode(value).decode()}"))
    if words := _form(task.output_format):
        found.append(_text(words))
    return found or [_text("Begin.")]


def output_of(text: str, others: Sequence[Json], output_format: Json) -> Json:
    """Returns the output of a turn: its last message, as JSON where the task asks for such.

    Content that is no text makes it an object, `{"text", "content"}`.
    """
    if others:
        return {"text": text, "content": list(others)}
    if _wants_json(output_format):
        fenced = _FENCED.fullmatch(text)
        try:
            return decode((fenced[1] if fenced else text).encode())
        except ValueError:
            return text  # the daemon holds it to the schema, and says why it does not fit
    return text


def error_of(answer: object, text: str) -> CorralError | None:
    """Returns the error for a turn that has not come to its end; None if it has."""
    fields = as_object(answer)
    reason = fields.get("stopReason") if fields is not None else None
    if reason == "end_turn":
        return None
    facts: dict[str, object] = {"stop_reason": reason, "output": text[-SHOWN_CHARS:]}
    if limit := _LIMITS.get(str(reason)):
        words = f"cannot finish the turn: the agent's own limit {limit} is reached"
        return ResourceLimitExceeded(words, limit=limit, value=None, **facts)
    if reason == "refusal":
        return TaskFailed("cannot finish the turn: the agent refuses to continue", **facts)
    if reason == "cancelled":
        return TaskFailed("cannot finish the turn: the agent has cancelled it itself", **facts)
    shown = encode(answer)[:SHOWN_CHARS].decode("utf-8", "replace")
    return TaskFailed(f"cannot read the end of the turn: {shown}", **facts)


def usage_of(answer: object) -> Usage:
    """Reads the usage in the response to `session/prompt`."""
    fields = as_object((as_object(answer) or {}).get("usage")) or {}
    total = _count(fields.get("totalTokens"))
    return Usage(total or _count(fields.get("inputTokens")) + _count(fields.get("outputTokens")))


def cost_cents_of(update: Mapping[str, object]) -> float | None:
    """Reads the cost of the whole session in a `usage_update`, in US cents; None if it has none."""
    cost = as_object(update.get("cost")) or {}
    amount, currency = cost.get("amount"), cost.get("currency")
    if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
        return None
    return float(amount) * 100 if currency in (None, "USD") else None


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def _conversation(messages: Sequence[Mapping[str, Json]]) -> str:
    lines: list[str] = []
    left = EARLIER_CHARS
    for message in reversed(messages):
        content = message.get("content")
        words = content if isinstance(content, str) else encode(content).decode()
        line = f"{message.get('role')}: {words}"
        if (left := left - len(line)) < 0:
            break
        lines.append(line)
    return "\n\n".join(["The conversation until now:", *reversed(lines)])


def _form(output_format: Json) -> str:
    fields = as_object(output_format) or {}
    words = [str(fields["description"])] if fields.get("description") else []
    if _wants_json(output_format):
        schema = encode(fields["schema"]).decode()
        words.append(f"Answer with one JSON value alone, which is valid by this schema: {schema}")
    return "\n".join(words)


def _wants_json(output_format: Json) -> bool:
    schema = as_object((as_object(output_format) or {}).get("schema"))
    return schema is not None and schema.get("type") != "string"
