"""The answers of all nodes to one call are joined: lists with their nodes, counts as sums, tasks as pages."""

from typing import Any

import pytest

from corral.supervisor.cluster.calls.one_view import united

pytestmark = pytest.mark.core


def task(number: int, state: str = "succeeded") -> dict[str, object]:
    at = f"2026-01-01T00:00:{number:02d}.000Z"
    return {"id": f"t{number}", "state": state, "created_at": at}


def cursor(number: int) -> str:
    return f"{1767225600.0 + number!r}:{number}"


def test_lists_are_joined_and_other_values_are_those_of_this_node() -> None:
    one = {"agents": [{"name": "a"}], "daemon": {"pid": 1}, "tasks": {"queued": 1, "failed": 2}}
    two = {"agents": [{"name": "b"}], "daemon": {"pid": 2}, "tasks": {"queued": 3, "failed": 0}}
    assert united("daemon.status", {"one": one, "two": two}) == {
        "agents": [{"name": "a", "node": "one"}, {"name": "b", "node": "two"}],
        "daemon": {"pid": 1},
        "tasks": {"queued": 4, "failed": 2},
    }


def test_inboxes_are_one_in_its_order_and_needs_add_up() -> None:
    def item(kind: str, second: int) -> dict[str, object]:
        return {"id": f"{kind}{second}", "kind": kind, "at": f"2026-01-01T00:00:0{second}Z"}

    one = {"items": [item("question", 1), item("failed", 4)], "needs_you": 2}
    two = {"items": [item("question", 3), item("done", 9)], "needs_you": 1}
    found: Any = united("inbox.list", {"one": one, "two": two})
    assert [(each["id"], each["node"]) for each in found["items"]] == [
        ("question3", "two"),
        ("question1", "one"),
        ("failed4", "one"),
        ("done9", "two"),
    ]
    assert found["needs_you"] == 3
    daemons = {name: {"daemon": {"pid": n, "needs_you": n}} for n, name in enumerate(("one", "two"), 1)}
    assert united("daemon.status", daemons)["daemon"] == {"pid": 1, "needs_you": 3}


def test_tasks_are_the_newest_first_and_once_each() -> None:
    answers = {
        "one": {"tasks": [task(3), task(1)], "more": None, "skipped": 0},
        "two": {"tasks": [task(2)], "more": None, "skipped": 0},
        "": {"tasks": [task(3, "queued"), task(4, "queued")]},
    }
    found = united("task.list", answers)
    assert found["more"] is None
    tasks: Any = found["tasks"]
    assert [(each["id"], each["node"], each["state"]) for each in tasks] == [
        ("t4", None, "queued"),
        ("t3", "one", "succeeded"),
        ("t2", "two", "succeeded"),
        ("t1", "one", "succeeded"),
    ]


def test_a_page_ends_where_the_page_of_a_node_does() -> None:
    answers = {
        "one": {"tasks": [task(9), task(8)], "more": cursor(8)},
        "two": {"tasks": [task(5), task(1)], "more": cursor(1)},
    }
    found = united("task.list", answers)
    tasks: Any = found["tasks"]
    assert [each["id"] for each in tasks] == ["t9", "t8"]  # older ones of "two" are in the next
    assert found["more"] == cursor(8)


def test_events_of_a_task_are_those_of_the_nodes_and_what_the_engine_has_beside_in_the_order_of_its_life() -> None:
    def event(kind: str, second: int, seq: int, **more: object) -> dict[str, object]:
        return {"seq": seq, "at": f"2026-01-01T00:00:{second:02d}.000Z", "type": f"task.{kind}", **more}

    kept = {
        "events": [
            event("queued", 1, 0, node="gone"),
            event("started", 2, 3, node="gone"),
            event("started", 4, 6, node="one"),
            event("ended", 5, 0, node="one"),
        ]
    }
    one = {"events": [event("started", 4, 6), event("ended", 5, 7)], "next": None, "newest": 9}
    two = {"events": [event("queued", 3, 8)], "next": None, "newest": 8}
    found = united("event.list", {"one": one, "two": two, "": kept})
    events: Any = found["events"]
    assert [(each["type"], each["node"], each["seq"]) for each in events] == [
        ("task.queued", "two", 8),
        ("task.started", "gone", 3),
        ("task.started", "one", 6),
        ("task.ended", "one", 7),
    ]
    assert (found["newest"], found["next"]) == ("one:9,two:8", None)
