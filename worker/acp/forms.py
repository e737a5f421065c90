"""Turns a form of ACP (`elicitation/create`) into questions to a person, and the answers into its content.

Values in, values out. Each field is one question: a choice has options, any other takes text, which is read as its type.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..contract.approvals import OPTION_CHARS, OPTIONS_MOST, QUESTION_CHARS
from ..contract.codec import as_array, as_object
from ..contract.errors import InvalidParams
from ..sdk.results import Json

FIELDS_MOST = 20
"""Number of fields of a form."""

YES, NO = "yes", "no"

KINDS = ("string", "number", "integer", "boolean", "array")


class Field(NamedTuple):
    """Represents one field: `choices` are the values by the words that a person says, empty for free text."""

    key: str
    kind: str
    question: str
    choices: Mapping[str, Json]
    default: str | None
    is_required: bool


def fields_of(params: Mapping[str, object]) -> list[Field]:
    """Returns the fields of a form, in its order.

    Raises:
        InvalidParams: it is no form, has too many fields, or one of a kind that ACP does not have.
    """
    mode = params.get("mode")
    if mode != "form":
        text = f"cannot ask in mode {mode!r:.100}: forms are served alone"
        raise InvalidParams(text, key="mode", value=mode)
    schema = as_object(params.get("requestedSchema")) or {}
    properties = as_object(schema.get("properties")) or {}
    if not 0 < len(properties) <= FIELDS_MOST:
        text = f"cannot ask a form of {len(properties)} fields: it has 1 to {FIELDS_MOST}"
        raise InvalidParams(text, key="requestedSchema", value=len(properties))
    required = as_array(schema.get("required")) or []
    message = str(params.get("message") or "")
    return [
        _field(message, key, as_object(raw) or {}, is_required=key in required)
        for key, raw in properties.items()
    ]


def value_of(field: Field, answer: str) -> Json:
    """Returns the value that an answer stands for; None for a field that is left out.

    Raises:
        ValueError: it is none of the field.
    """
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
    return float(answer) if field.kind == "number" else answer


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
    is_fit = len(folded) == len(found) <= OPTIONS_MOST and all(
        0 < len(each) <= OPTION_CHARS for each in found
    )
    return found if is_fit else {}
