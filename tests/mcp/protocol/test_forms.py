"""Forms of ACP agents and MCP servers as questions to a person, and the answers as their responses."""

import asyncio
from typing import Any

import pytest

from corral.mcp.protocol import forms
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
        ({"type": "number"}, "inf"),
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


def filled(params: dict[str, object], *replies: forms.Reply) -> tuple[list[forms.Asked], object]:
    """Returns what is asked, and the response; the replies are given one after the other."""
    asked: list[forms.Asked] = []
    given = iter(replies)

    async def ask(question: forms.Asked) -> forms.Reply:
        asked.append(question)
        return next(given)

    return asked, asyncio.run(forms.fill(params, ask))


def said(*words: str | None) -> list[forms.Reply]:
    return [forms.Reply("answered", each) for each in words]


def test_a_form_without_a_mode_is_filled_in_field_by_field() -> None:
    params = form(first={"type": "string"}, second={"type": "integer"}, third={"type": "integer"})
    del params["mode"]
    asked, response = filled(params, *said("a", "none", "2", ""))
    assert [(each.number, each.attempt) for each in asked] == [(1, 1), (2, 1), (2, 2), (3, 1)]
    assert response == {"action": "accept", "content": {"first": "a", "second": 2}}


@pytest.mark.parametrize(
    ("replies", "action"),
    [
        (said(None), "decline"),
        (said("1", None), "decline"),
        (said("x", "y", "z"), "cancel"),
        ([forms.Reply("expired", "7")], "cancel"),
        ([*said("1"), forms.Reply("withdrawn", None)], "cancel"),
    ],
)
def test_a_declined_question_declines_a_form_and_one_without_an_answer_cancels_it(
    replies: list[forms.Reply], action: str
) -> None:
    params = form(first={"type": "integer", "default": 7}, second={"type": "string"})
    asked, response = filled(params, *replies)
    assert response == {"action": action}
    assert len(asked) == len(replies)


@pytest.mark.parametrize(("words", "action"), [("yes", "accept"), ("no", "decline")])
def test_a_form_without_fields_asks_for_consent(words: str, action: str) -> None:
    params: dict[str, object] = {"message": "Delete all?", "requestedSchema": {"type": "object"}}
    (asked,), response = filled(params, *said(words))
    assert (asked.field.question, forms.options_of(asked.field)) == ("Delete all?", ("yes", "no"))
    assert response == ({"action": "accept", "content": {}} if words == "yes" else {"action": action})
