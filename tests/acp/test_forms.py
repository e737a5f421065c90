"""Forms of ACP agents as questions to a person, and the answers as their content."""

from typing import Any

import pytest

from corral.worker.acp import forms
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core


def form(**properties: Any) -> dict[str, object]:
    schema = {"type": "object", "properties": properties, "required": ["first"]}
    return {"mode": "form", "message": "Tell me", "requestedSchema": schema}


@pytest.mark.parametrize(
    ("schema", "options", "default", "answer", "value"),
    [
        ({"type": "string"}, (), None, "words", "words"),
        ({"type": "string", "default": "d"}, (), "d", "", ""),
        ({"type": "integer", "default": 3}, (), "3", "12", 12),
        ({"type": "number"}, (), None, "1.5", 1.5),
        ({"type": "boolean", "default": False}, ("yes", "no"), "no", "yes", True),
        ({"type": "string", "enum": ["a", "b"], "default": "b"}, ("a", "b"), "b", "a", "a"),
        ({"type": "string", "oneOf": [{"const": "x", "title": "Ex"}]}, ("Ex",), None, "Ex", "x"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, (), None, "a, b", ["a", "b"]),
        ({"type": "string", "enum": ["x" * 300]}, (), None, "free", "free"),
    ],
)
def test_a_field_is_a_question_and_its_answer_a_value(
    schema: Any, options: tuple[str, ...], default: str | None, answer: str, value: object
) -> None:
    (field,) = forms.fields_of(form(first=schema))
    assert field.question.startswith("Tell me\nfirst")
    assert (tuple(forms.options_of(field)), field.default) == (options, default)
    assert forms.value_of(field, answer) == value


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"type": "integer"}, "many"),
        ({"type": "number"}, ""),
        ({"type": "string", "enum": ["a"]}, "b"),
        ({"type": "array", "items": {"enum": ["a"]}}, "a, c"),
    ],
)
def test_an_answer_that_is_none_of_the_field_is_no_value(schema: Any, answer: str) -> None:
    (field,) = forms.fields_of(form(first=schema))
    with pytest.raises(ValueError, match=r".*"):
        forms.value_of(field, answer)


def test_a_field_that_is_not_required_can_be_left_out() -> None:
    _, field = forms.fields_of(form(first={"type": "string"}, second={"type": "integer"}))
    assert forms.value_of(field, "") is None


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "url", "url": "https://a.example", "elicitationId": "1"},
        form(),
        form(first={"type": "object"}),
        form(**{f"f{number}": {"type": "string"} for number in range(21)}),
    ],
)
def test_what_is_no_form_is_refused(params: dict[str, object]) -> None:
    with pytest.raises(InvalidParams):
        forms.fields_of(params)
