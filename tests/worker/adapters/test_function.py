"""Plain functions as handlers: their parameters, parts, and factories of objects of a framework."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic_ai import Agent as Thinker
from pydantic_ai.models.test import TestModel

from adapter_runs import run
from corral.adapters import wrap
from corral.worker import SyncTask, Task
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.shell


def add(first: int, second: int = 1) -> int:
    return first + second


async def shout(text: str) -> str:
    return text.upper()


def describe(objective: str, session: str, **rest: object) -> dict[str, object]:
    return {"objective": objective, "session": session, "rest": rest}


async def with_task(task: Task, text: str) -> str:
    return f"{task.id} {(await task.tool('notes__store', text=text)).text}"


def with_sync_task(task: SyncTask, text: str) -> str:
    return f"{task.id} {task.tool('notes__store', text=text).text}"


def words(text: str) -> Iterator[str]:
    yield from text.split(" ")


async def words_later(text: str) -> AsyncIterator[str]:
    for word in text.split(" "):
        yield word


def thinker(tools: list[Any]) -> Any:
    return Thinker(TestModel(), tools=tools)


@pytest.mark.parametrize(
    ("function", "objective", "given", "output"),
    [
        (add, "", {"first": 2, "second": 3}, 5),
        (add, "", {"first": 2}, 3),
        (add, "", 4, 5),
        (shout, "hello", None, "HELLO"),
        (shout, "shout it", "hello", "HELLO"),
        (shout, "", {"text": "hello"}, "HELLO"),
        (describe, "do", {"a": 1}, {"objective": "do", "session": "ada", "rest": {"a": 1}}),
        (with_task, "", {"text": "a"}, "1 number 1"),
        (with_sync_task, "", {"text": "a"}, "1 number 1"),
        (words, "", {"text": "a b"}, "ab"),
        (words_later, "", {"text": "a b"}, "ab"),
    ],
)
def test_the_parameters_of_a_function_are_taken_from_the_task(
    function: Any, objective: str, given: object, output: object
) -> None:
    assert run(function, objective, given).output == output


@pytest.mark.parametrize("function", [words, words_later])
def test_a_generator_streams(function: Any) -> None:
    assert run(function, "a b").parts == ["a", "b"]


def test_an_argument_that_the_input_lacks_is_named() -> None:
    def two(left: int, right: int) -> int:
        return left + right

    with pytest.raises(InvalidParams) as refused:
        run(two, "add", {"left": 1, "more": 2})
    assert refused.value.data["missing"] == ["right"]
    assert run(wrap(two, right=5), "", {"left": 1}).output == 6


def test_a_factory_gets_the_tools_in_the_shape_of_the_framework_that_its_module_uses() -> None:
    done = run(thinker, "store it")
    assert done.calls == [("notes__store", {"text": "a"})]
    assert "number 1" in done.output


def test_a_factory_of_no_framework_is_refused() -> None:
    place: dict[str, Any] = {}
    exec("def made(tools): return tools", place)
    with pytest.raises(InvalidParams):
        wrap(place["made"])
