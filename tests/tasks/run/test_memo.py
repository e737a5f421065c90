"""The recorded calls of a task: which one answers a request, and where a new one has its place."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from corral.supervisor.tasks.run.memo import Memo, Place
from corral.supervisor.tasks.run.steps import MEMO, Steps
from corral.worker.contract.records import Task, TaskStep

pytestmark = pytest.mark.core

AGAIN = Task(id="t", agent="a", delivery=2)


class Kept:
    """Steps of a task, without a store."""

    def __init__(self, *names: str, kind: str = MEMO) -> None:
        self.steps = [
            TaskStep(number=number, name=name, state="done", kind=kind, at="", duration_s=None, delivery=1)
            for number, name in enumerate(names, 1)
        ]

    async def all(self, _task: Task) -> Sequence[TaskStep]:
        return self.steps


def taken(memo: Memo, kept: Kept, *requests: str, task: Task = AGAIN) -> list[int | None]:
    """Returns the numbers of the steps that answer requests."""

    async def take() -> list[Place | None]:
        return [await memo.take(task, cast("Steps", kept), each) for each in requests]

    return [None if each is None else each.number for each in asyncio.run(take())]


def test_each_recorded_call_answers_once_in_the_order_of_the_record() -> None:
    kept = Kept("a", "b", "a#2")
    assert taken(Memo(2), kept, "a", "c", "a", "a", "b", "b") == [1, None, 3, None, 2, None]


def test_a_new_call_comes_behind_all_and_equal_ones_are_numbered() -> None:
    memo = Memo(2)
    taken(memo, Kept("a", "b", "a#4"), "a")
    assert memo.place("a", 9) == Place(4, "a#5")
    assert memo.place("c", 9) == Place(5, "c")
    assert memo.place("c", 9) == Place(6, "c#2")
    assert memo.place("d", 6) is None


def test_steps_of_the_worker_itself_answer_nothing_and_keep_their_numbers() -> None:
    memo = Memo(2)
    assert taken(memo, Kept("a", "b", kind="step"), "a") == [None]
    assert memo.place("a", 9) == Place(3, "a")


def test_a_first_beginning_does_not_ask_the_store() -> None:
    assert taken(Memo(1), Kept("a"), "a", task=Task(id="t", agent="a", delivery=1)) == [None]


def test_a_beginning_goes_on_in_another_program_of_the_daemon_with_what_it_has_left() -> None:
    before = Memo(2)
    taken(before, Kept("a", "a#2", "b"), "a")
    assert before.recorded == (2, 3)
    before.place("c", 9)
    after = Memo(2, before.recorded)
    assert taken(after, Kept("a", "a#2", "b", "c"), "a", "a", "c", "b") == [2, None, None, 3]
    first = Memo(1, ())
    assert taken(first, Kept("a"), "a", task=Task(id="t", agent="a", delivery=1)) == [None]
    assert first.place("a", 9) == Place(2, "a#2")
