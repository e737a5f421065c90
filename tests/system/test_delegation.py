"""Delegation through the whole: to one and to many, how deep, how many, never in a circle, and never left behind."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    ResourceLimitExceeded,
    TaskFailed,
    WorkerFailed,
)
from daemon_process import AGENTS, BOUND_S, DaemonProcess

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[tasks]
cancel_grace = "200ms"
max_attempts = 1
[recovery]
restart_backoff_base = "10ms"

[agents.lead]
entrypoint = "bounded_agent:agent"
[agents.other]
entrypoint = "bounded_agent:agent"
[agents.crew]
entrypoint = "bounded_agent:agent"
capabilities = ["reading", "writing"]
instances = 4
[agents.deep]
entrypoint = "bounded_agent:agent"
instances = 4
tasks.max_delegation_depth = 2
[agents.few]
entrypoint = "bounded_agent:agent"
tasks.max_children = 2
[teams.both]
members = ["lead", "crew"]
mode = "broadcast"
[agents.raw]
command = ["{sys.executable}", "{AGENTS}/tool_user.py"]
"""

NAMES = ["lead", "other", "crew", "deep", "few", "raw"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("delegation"), CONFIG) as process:
        process.call("agent.start", names=NAMES)
        yield process


def run(daemon: DaemonProcess, objective: str, given: object = None, *, agent: str = "lead", **more: object) -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, input=given, **more)


def succeeded(task: Any) -> Any:
    assert task["state"] == "succeeded", task["error"]
    return task["output"]


def failed(task: Any, kind: type[CorralError]) -> Any:
    """The facts of its error."""
    assert task["state"] == "failed", task
    assert task["error"]["name"] == kind.__name__
    return task["error"]["data"]


def show(daemon: DaemonProcess, task_id: str) -> Any:
    return daemon.call("task.show", task=task_id)


def await_task(daemon: DaemonProcess, task_id: str, is_so: Callable[[Any], bool]) -> Any:
    """The record of a task as soon as it is so; looked at again at each event of tasks."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.*"]}, timeout_s=BOUND_S)
        changes = client.notifications()
        while not is_so(task := show(daemon, task_id)):
            next(changes)
        return task


def child(objective: str, given: object = None, **more: object) -> dict[str, object]:
    return {"agent": "crew", "objective": objective, "input": given, **more}


# -- to one


def test_a_child_knows_its_place_in_the_tree(daemon: DaemonProcess) -> None:
    below = child("delegate", {"agent": "other", "objective": "echo"})
    task = run(daemon, "delegate", below)
    middle = show(daemon, task["children"][0])
    last = show(daemon, middle["children"][0])
    assert [(each["depth"], each["parent"]) for each in (task, middle, last)] == [
        (0, None),
        (1, task["id"]),
        (2, middle["id"]),
    ]
    assert succeeded(task)["id"] == middle["id"]


def test_a_child_is_found_by_all_that_it_has_to_be_able_to(daemon: DaemonProcess) -> None:
    asked = {"objective": "echo", "required_capabilities": ["reading", "writing"]}
    task = run(daemon, "delegate", asked)
    assert show(daemon, succeeded(task)["id"])["agent"] == "crew"
    failed(run(daemon, "delegate", {**asked, "required_capabilities": ["reading", "flying"]}), NotFound)


def test_a_field_of_a_child_that_is_wrong_is_named(daemon: DaemonProcess) -> None:
    for fields, key in (
        ({"boundaries": {"timeout": "soon"}}, "boundaries.timeout"),
        ({"output_format": {"schema": {"type": "odd"}}}, "output_format.schema"),
        ({"allowed_tools": ["a b"]}, "allowed_tools[0]"),
    ):
        task = run(daemon, "delegate", child("echo", **fields))
        assert failed(task, InvalidParams)["key"] == key
        assert task["children"] == []
    # What the SDK has no word for.
    answer = succeeded(run(daemon, "task/delegate", {**child("echo"), "urgent": True}, agent="raw"))
    assert answer["code"] == InvalidParams.code


def test_a_child_that_fails_fails_with_its_own_error(daemon: DaemonProcess) -> None:
    data = failed(run(daemon, "delegate", child("raise", "words")), TaskFailed)
    assert data["exception"] == "ValueError"
    assert show(daemon, data["task"])["state"] == "failed"


# -- to many


def test_results_come_in_order_and_each_failure_has_its_type(daemon: DaemonProcess) -> None:
    tasks = [
        child("echo", 0),
        child("raise", "words"),
        {"agent": "nobody", "objective": "echo"},
        child("wait", timeout_s=0.1),
        child("echo", 4),
        {"agent": "lead", "objective": "echo"},
        child(" "),
        child("die"),
        child("echo", 8),
    ]
    task = run(daemon, "delegate-all", {"tasks": tasks})
    found = succeeded(task)
    told = [each.get("output", each.get("name")) for each in found]
    assert told == [0, "TaskFailed", "NotFound", "Timeout", 4, "Conflict", "InvalidParams", "WorkerFailed", 8]
    refused = {2, 5, 6}
    ids = [each.get("id") or each["data"].get("task") for each in found]
    accepted = [each for number, each in enumerate(ids) if number not in refused]
    assert sorted(task["children"]) == sorted(accepted)
    assert found[6]["data"]["key"] == "objective"


def test_children_are_in_work_together_and_not_more_than_may_be(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Each of a pair ends only when the other has begun; three pairs, two at once."""
    pairs = [(str(tmp_path / f"{n}-a"), str(tmp_path / f"{n}-b")) for n in range(3)]
    tasks = [child("meet", each) for one, two in pairs for each in ((one, two), (two, one))]
    task = run(daemon, "delegate-all", {"tasks": tasks, "max_parallel": 2})
    assert [each["output"] for each in succeeded(task)] == [
        "0-a", "0-b", "1-a", "1-b", "2-a", "2-b",
    ]  # fmt: skip
    events = daemon.call("event.list", types=["task.queued", "task.ended"])["events"]
    at_once = most = 0
    for event in events:
        if event["task"] in task["children"]:
            at_once += 1 if event["type"] == "task.queued" else -1
            most = max(most, at_once)
    assert most == 2


def test_one_after_the_other_is_a_way_to_be_in_parallel_too(daemon: DaemonProcess) -> None:
    tasks = [child("echo", number) for number in range(5)]
    found = succeeded(run(daemon, "delegate-all", {"tasks": tasks, "max_parallel": 1}))
    assert [each["output"] for each in found] == list(range(5))
    assert succeeded(run(daemon, "delegate-all", {"tasks": []})) == []


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"tasks": [child("echo"), {"agent": "crew"}]}, "tasks[1].objective"),
        ({"tasks": [child("echo"), child("echo", priority=11)]}, "tasks[1].priority"),
        ({"tasks": [child("echo")], "max_parallel": 0}, "max_parallel"),
        ({"tasks": []}, "tasks"),
    ],
)
def test_many_of_which_one_is_malformed_are_refused_together(daemon: DaemonProcess, params: object, key: str) -> None:
    task = run(daemon, "task/delegate_all", params, agent="raw")
    answer = succeeded(task)
    assert (answer["code"], answer["data"]["key"]) == (InvalidParams.code, key)
    assert task["children"] == []


def test_what_is_too_long_for_one_answer_is_named_and_stays_in_the_store(daemon: DaemonProcess) -> None:
    tasks = [child("big", 6_000_000) for _ in range(3)]
    found = succeeded(run(daemon, "lengths", {"tasks": tasks}))
    errors = [each for each in found if each != 6_000_000]
    assert len(errors) == 1
    data = errors[0]["data"]
    assert (errors[0]["code"], data["limit"]) == (ResourceLimitExceeded.code, "message")
    assert data["state"] == "succeeded"
    assert len(show(daemon, data["task"])["output"]) == 6_000_000


# -- limits


def test_a_task_has_as_many_children_as_it_may_and_no_more(daemon: DaemonProcess) -> None:
    tasks = [child("echo", number) for number in range(3)]
    task = run(daemon, "delegate-all", {"tasks": tasks}, agent="few")
    data = failed(task, ResourceLimitExceeded)
    assert (data["limit"], data["value"], task["children"]) == ("max_children", 2, [])
    task = run(daemon, "in turn", tasks, agent="few")
    data = failed(task, ResourceLimitExceeded)
    assert (data["limit"], data["value"], len(task["children"])) == ("max_children", 2, 2)


def test_tasks_delegate_as_deep_as_they_may_and_no_deeper(daemon: DaemonProcess) -> None:
    task = run(daemon, "down", agent="deep")
    data = failed(task, ResourceLimitExceeded)
    assert (data["limit"], data["value"]) == ("max_delegation_depth", 2)
    middle = show(daemon, task["children"][0])
    last = show(daemon, middle["children"][0])
    assert (last["depth"], last["children"]) == (2, [])


# -- circles


def test_two_that_delegate_to_each_other_in_one_moment_do_not_wait_for_ever(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """Whoever asks last is refused; then the other one can have his worker."""
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    ids = [
        daemon.call("task.submit", agent=agent, objective="both", input=given)["id"]
        for agent, given in (
            ("lead", {"meet": (here, there), "agent": "other"}),
            ("other", {"meet": (there, here), "agent": "lead"}),
        )
    ]
    ended = [daemon.call("task.wait", task=each, timeout_s=BOUND_S) for each in ids]
    assert sorted(each["state"] for each in ended) == ["failed", "succeeded"]
    loser = next(each for each in ended if each["state"] == "failed")
    failed(loser, Conflict)


def test_children_in_parallel_that_close_a_circle_are_refused_one_by_one(daemon: DaemonProcess) -> None:
    """lead waits for both of its children, one of which asks lead again."""
    back = {"agent": "lead", "objective": "echo"}
    tasks = [child("delegate", back), child("echo", 1)]
    found = succeeded(run(daemon, "delegate-all", {"tasks": tasks}))
    assert found[0]["name"] == "Conflict"
    assert found[1]["output"] == 1


def test_a_team_is_delegated_to_and_the_circle_through_it_is_seen(daemon: DaemonProcess) -> None:
    """The lead has one worker, and is a member itself: its part could begin only after its own end."""
    task = run(daemon, "delegate", {"agent": "both", "objective": "echo", "input": 5})
    lead, crew = succeeded(task)["output"]
    assert (lead["state"], lead["error"]["name"]) == ("failed", "Conflict")
    assert (crew["state"], crew["output"]) == ("succeeded", 5)
    assert show(daemon, task["children"][0])["kind"] == "team"


def test_a_turn_of_a_session_cannot_wait_for_another_turn_of_it(daemon: DaemonProcess) -> None:
    """There are free workers, but turns of one session come one after the other."""
    asked = {"agent": "crew", "objective": "echo", "input": 1}
    again = run(daemon, "delegate", {**asked, "session": "s"}, agent="crew", session="s")
    failed(again, Conflict)
    other = run(daemon, "delegate", {**asked, "session": "t"}, agent="crew", session="s")
    assert succeeded(other)["output"] == 1


def test_a_child_cannot_come_after_its_parent(daemon: DaemonProcess) -> None:
    failed(run(daemon, "after me", "crew"), Conflict)


def test_a_task_cannot_wait_for_itself_by_its_key(daemon: DaemonProcess) -> None:
    task = run(daemon, "myself", "own", agent="crew", idempotency_key="own")
    failed(task, Conflict)
    assert task["children"] == []


# -- nothing is left behind


def waiting(daemon: DaemonProcess, count: int, **more: object) -> tuple[str, list[str]]:
    """A task of lead that waits for so many children in work, and those."""
    tasks = [child("wait") for _ in range(count)]
    parent = daemon.call("task.submit", agent="lead", objective="delegate-all", input={"tasks": tasks, **more})["id"]
    task = await_task(daemon, parent, lambda task: len(task["children"]) >= min(count, 3))
    for each in task["children"]:
        await_task(daemon, each, lambda task: task["progress"] is not None)
    return parent, task["children"]


def test_cancelling_a_task_cancels_its_children_and_begins_no_more(daemon: DaemonProcess) -> None:
    parent, children = waiting(daemon, 6, max_parallel=3)
    assert len(children) == 3
    task = daemon.call("task.cancel", task=parent)
    assert (task["state"], task["error"]["code"]) == ("cancelled", Cancelled.code)
    ended = [daemon.call("task.wait", task=each, timeout_s=BOUND_S) for each in children]
    assert [each["state"] for each in ended] == ["cancelled"] * 3
    assert show(daemon, parent)["children"] == children
    assert succeeded(run(daemon, "echo", 1)) == 1


def test_a_child_that_nobody_waits_for_any_more_ends_with_its_parent(daemon: DaemonProcess) -> None:
    task = run(daemon, "leave")
    succeeded(task)
    ended = [daemon.call("task.wait", task=each, timeout_s=BOUND_S) for each in task["children"]]
    assert sorted(each["state"] for each in ended) == ["cancelled", "succeeded"]


def test_children_go_with_the_worker_that_delegated_them(daemon: DaemonProcess) -> None:
    parent, children = waiting(daemon, 2)
    daemon.call("agent.signal", name="lead", signal="SIGKILL")
    task = daemon.call("task.wait", task=parent, timeout_s=BOUND_S)
    failed(task, WorkerFailed)
    ended = [daemon.call("task.wait", task=each, timeout_s=BOUND_S) for each in children]
    assert [each["state"] for each in ended] == ["cancelled"] * 2


def test_a_child_that_somebody_else_asked_for_is_waited_for_and_not_cancelled(daemon: DaemonProcess) -> None:
    """Both name the same idempotency key: it is one task, and the first asker's."""
    asked = {"agent": "crew", "objective": "wait", "idempotency_key": "shared"}
    first = daemon.call("task.submit", **asked)["id"]
    parent = daemon.call("task.submit", agent="lead", objective="delegate", input=asked)["id"]
    await_task(daemon, parent, lambda task: task["state"] == "running")
    daemon.call("task.cancel", task=parent)
    assert show(daemon, first)["state"] in ("queued", "running")
    daemon.call("task.cancel", task=first)


def test_twenty_askers_at_once_all_get_their_own(daemon: DaemonProcess) -> None:
    """More tasks than workers, each with three children; the few workers of the crew serve all."""
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        tasks = [child("echo", number * 10 + each) for each in range(3)]
        found[number] = run(daemon, "delegate-all", {"tasks": tasks})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(BOUND_S)
    for number in range(20):
        outputs = [each["output"] for each in succeeded(found[number])]
        assert outputs == [number * 10 + each for each in range(3)]
