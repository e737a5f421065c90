"""What becomes an item of the inbox, and in which order."""

from typing import Any

import pytest

from corral.supervisor.tasks.attention.inbox import item_of_task, needs, ordered
from corral.worker.contract.records import Error, Task
from corral.worker.control.reports import InboxItem

pytestmark = pytest.mark.core


def ended(state: Any = "failed", **more: Any) -> Task:
    return Task(id="t1", agent="a", state=state, objective="tidy up", finished_at="2026-01-01T00:00:00Z", **more)


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [
        (ended(error=Error(-1, "TaskFailed", "no")), "failed", "no"),
        (ended("timeout"), "failed", "tidy up"),
        (ended("succeeded"), "done", "tidy up"),
        (ended(schedule="nightly"), "failed", "tidy up"),
    ],
)
def test_a_task_that_nobody_waited_for_is_an_item(task: Task, kind: str, text: str) -> None:
    found = item_of_task(task, is_awaited=False)
    assert found is not None
    assert (found.id, found.kind, found.text) == ("t1", kind, text)


@pytest.mark.parametrize(
    ("task", "is_awaited"),
    [
        (ended(), True),
        (ended(parent="t0"), False),
        (ended("cancelled"), False),
        (ended("succeeded", schedule="nightly"), False),
        (ended(kind="placed"), False),
    ],
    ids=["awaited", "delegated", "cancelled", "as every night", "told by another node"],
)
def test_an_end_that_somebody_takes_or_expects_is_none(task: Task, is_awaited: bool) -> None:
    assert item_of_task(task, is_awaited=is_awaited) is None


def item(kind: Any, second: int, **more: Any) -> InboxItem:
    return InboxItem(id=f"{kind}{second}", kind=kind, at=f"2026-01-01T00:00:0{second}Z", agent="a", text="", **more)


def test_questions_come_first_then_other_needs_then_good_ends_and_of_each_the_newest() -> None:
    shuffled = [item("done", 9), item("failed", 2), item("question", 1), item("gave-up", 3), item("question", 2)]
    assert [each.id for each in ordered(shuffled)] == ["question2", "question1", "gave-up3", "failed2", "done9"]


def test_good_ends_need_nobody_and_a_question_needs_somebody_also_when_it_was_seen() -> None:
    assert (
        needs([item("done", 1), item("failed", 1), item("gave-up", 1, seen=True), item("question", 1, seen=True)]) == 2
    )
