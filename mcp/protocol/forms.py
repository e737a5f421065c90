"""Turns a form (`elicitation/create` of MCP and ACP) into questions to a person, and the answers into its response.

Each field is one question: a choice has options, any other takes text, which is read as its type. A form without fields
asks for consent alone. It must not know who asks, and how the questions reach a person.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from corral.worker.contract.approvals import OPTION_CHARS, OPTIONS_MOST, QUESTION_CHARS, ApprovalState
from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams, ToolFailed

Json = Any  # a value of the form's sender: only it knows the shape

FIELDS_MOST = 20
"""Number of fields of a form."""

YES, NO = "yes", "no"

CONSENT = "consent"
"""Kind of the only question of a form without fields."""

KINDS = ("string", "number", "integer", "boolean", "array")

TRIES_MOST = 3
"""Number of answers to one field that are read, before the form counts as cancelled."""


class Field(NamedTuple):
    """Represents one field: `choices` are the values by the words that a person says, empty for free text."""

    key: str
    kind: str
    question: str
    choices: Mapping[str, Json]
    default: str | None
    is_required: bool


class Asked(NamedTuple):
    """Represents one question: `number` of the field, from 1, and `attempt` at it, from 1."""

    field: Field
    number: int
    attempt: int


class Reply(NamedTuple):
    """Represents the end of a question: answered without words it was declined."""

    state: ApprovalState
    answer: str | None


Ask = Callable[[Asked], Awaitable[Reply]]
"""Asks a person, and returns the end of the question; raises CorralError."""


async def fill(params: Mapping[str, object], ask: Ask) -> dict[str, Json]:
    """Returns the response to a form, whose fields are asked one after the other.

    A declined question declines the form. One that expires, is withdrawn, or gets no fitting answer cancels it.
    """
    values: dict[str, Json] = {}
    for number, field in enumerate(fields_of(params), 1):
        for attempt in range(1, TRIES_MOST + 1):
            reply = await ask(Asked(field, number, attempt))
            if reply.state != "answered":
                return {"action": "cancel"}
            if reply.answer is None:
                return {"action": "decline"}
            try:
                value = value_of(field, reply.answer)
            except ValueError:
                continue
            if field.kind == CONSENT and not value:
                return {"action": "decline"}
            if field.kind != CONSENT and value is not None:
                values[field.key] = value
            break
        else:
            return {"action": "cancel"}
    return {"action": "accept", "content": values}


def fields_of(params: Mapping[str, object]) -> list[Field]:
    """Returns the fields of a form, in its order; one of the kind `CONSENT` for a form without any."""
    mode = params.get("mode", "form")
    if mode != "form":
        raise InvalidParams(f"cannot ask in mode {mode!r:.100}: forms are served alone", key="mode", value=mode)
    schema = as_object(params.get("requestedSchema")) or {}
    properties = as_object(schema.get("properties")) or {}
    if len(properties) > FIELDS_MOST:
        text = f"cannot ask a form of {len(properties)} fields: it has {FIELDS_MOST} at most"
        raise InvalidParams(text, key="requestedSchema", value=len(properties))
    required = as_array(schema.get("required")) or []
    if unknown := [each for each in required if each not in properties]:
        text = f"cannot ask for {unknown[0]!r:.100}: it is required, and no field of the form"
        raise InvalidParams(text, key="requestedSchema.required", value=str(unknown[0])[:100])
    message = str(params.get("message") or "")
    if not properties:
        words = (message or "Go on?")[:QUESTION_CHARS]
        return [Field("", CONSENT, words, {YES: True, NO: False}, None, is_required=True)]
    return [_field(message, key, as_object(raw) or {}, is_required=key in required) for key, raw in properties.items()]


def value_of(field: Field, answer: str) -> Json:
    """Returns the value that an answer stands for; None for a field that is left out."""
    if field.kind == "array":
        words = [each.strip() for each in answer.split(",") if each.strip()]
        if unknown := [each for each in words if field.choices and each not in field.choices]:
            raise ValueError(unknown[0])
        return [field.choices.get(each, each) for each in words]
    if not answer and not field.is_required:
        return None
    if field.choices:
        if answer not in field.choices:
            raise ValueError(answer)
        return field.choices[answer]
    if field.kind == "integer":
        return int(answer)
    if field.kind != "number":
        return answer
    number = float(answer)
    if not isfinite(number):
        raise ValueError(answer)  # JSON has none
    return number


def options_of(field: Field) -> Sequence[str]:
    """Returns the options of a field's question; none where it takes text."""
    return () if field.kind == "array" else tuple(field.choices)


def _field(message: str, key: str, schema: Mapping[str, object], *, is_required: bool) -> Field:
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        text = f'cannot ask for "{key[:100]}": its type is {kind!r:.100}'
        raise InvalidParams(text, key=f"requestedSchema.properties.{key[:100]}.type", value=kind)
    choices = {YES: True, NO: False} if kind == "boolean" else _choices(schema, kind)
    title = str(schema.get("title") or key)
    words = f"{message}\n{title}" if message else title
    if (more := schema.get("description")) and isinstance(more, str):
        words += f": {more}"
    if kind == "array" and choices:
        words += f" (some of {', '.join(choices)}, separated by commas)"
    given = schema.get("default")
    default = next((word for word, value in choices.items() if value == given), None)
    if not choices and isinstance(given, str | int | float) and not isinstance(given, bool):
        default = str(given)
    return Field(key, kind, words[:QUESTION_CHARS], choices, default, is_required)


def _choices(schema: Mapping[str, object], kind: str) -> dict[str, Json]:
    """Returns the values of a choice by their words; none where they are more or longer than options may be."""
    items = (as_object(schema.get("items")) or {}) if kind == "array" else schema
    listed = as_array(items.get("oneOf") or items.get("anyOf")) or []
    found: dict[str, Json] = {}
    for each in listed:
        one = as_object(each) or {}
        if isinstance(value := one.get("const"), str):
            found[str(one.get("title") or value)] = value
    found |= {each: each for each in as_array(items.get("enum")) or [] if isinstance(each, str)}
    folded = {each.lower() for each in found}
    is_fit = len(folded) == len(found) <= OPTIONS_MOST and all(0 < len(each) <= OPTION_CHARS for each in found)
    return found if is_fit else {}


MAX_ROUNDS = 10
"""Number of times that a modern server may ask for input before its result."""

AskClient = Callable[[str, Mapping[str, object]], Awaitable[object]]
"""Returns the response to a request of a server, by method and params; raises CorralError."""


def requires_input(result: Mapping[str, object]) -> bool:
    """Returns True if a result is none yet: its request has to be repeated with more input."""
    return result.get("resultType") == "input_required"


async def with_input(
    method: str, params: Mapping[str, object], result: Mapping[str, object], ask: AskClient
) -> dict[str, object]:
    """Returns the params of the next request: those of the last one, with the input that its result requires."""
    responses: dict[str, object] = {}
    for key, raw in (as_object(result.get("inputRequests")) or {}).items():
        asked = as_object(raw) or {}
        wanted = asked.get("method")
        if not isinstance(wanted, str):
            raise ToolFailed(f'cannot finish "{method}": its server asks for nothing')
        responses[key] = await ask(wanted, as_object(asked.get("params")) or {})
    again = {**params, "inputResponses": responses}
    again.pop("requestState", None)
    if "requestState" in result:
        again["requestState"] = result["requestState"]
    return again


def too_many_rounds(method: str) -> ToolFailed:
    """Returns the error of a request whose server asks again and again."""
    return ToolFailed(f'cannot finish "{method}": its server asked {MAX_ROUNDS} times for more', limit=MAX_ROUNDS)
