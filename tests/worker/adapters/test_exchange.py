"""What all adapters share, without any framework."""

import dataclasses
import enum
from types import SimpleNamespace
from typing import Any, cast

import pytest

from corral.worker.adapters.exchange import as_json, earlier, prompt_of

pytestmark = pytest.mark.core


def test_a_trimmed_history_begins_at_a_message_of_the_user() -> None:
    history = [{"role": role, "content": role} for role in ("tool", "assistant", "user", "tool")]
    task: Any = SimpleNamespace(session="ada", memory=SimpleNamespace(history=history))
    assert [each.role for each in earlier(task, "x")] == ["user", "tool"]
    history.clear()
    assert earlier(task, "x") == []


def test_objective_and_input_are_one_prompt() -> None:
    for objective, given, text in (("do", None, "do"), ("do", "it", "do\n\nit"), ("", {"a": 1}, '{"a": 1}')):
        assert prompt_of(cast("Any", SimpleNamespace(objective=objective, input=given))) == text


def test_an_output_becomes_json() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    class Colour(enum.Enum):
        RED = "red"

    assert as_json({"p": Point(1), "c": (Colour.RED,)}) == {"p": {"x": 1}, "c": ["red"]}
