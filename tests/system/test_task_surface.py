"""What people ask of tasks: dead letters, trees, following, several at once, damaged records."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Corrupted
from corral.worker.contract.jsonrpc import Notification
from daemon_process import AGENTS, BOUND_S, DaemonProcess

CREW = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"

[agents.pair]
entrypoint = "crew_agent:agent"
instances = 2
process.working_directory = "{AGENTS}"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("surface"), CREW) as process:
        process.call("agent.start", names=["crew", "pair"])
        yield process


def printed(daemon: DaemonProcess, *arguments: str, code: int = 0) -> Any:  # the JSON document
    done = daemon.corral(*arguments, "--json")
    assert done.returncode == code, done
    return json.loads(done.stdout)


def fail(daemon: DaemonProcess, agent: str, why: str) -> str:
    """The id of a task that has failed."""
    task = daemon.call("task.run", agent=agent, objective=f"raise {why}")
    assert task["state"] == "failed"
    return str(task["id"])


def dead(daemon: DaemonProcess, agent: str) -> list[str]:
    return [task["id"] for task in printed(daemon, "tasks", "--dead", "--agent", agent)]


def begun(daemon: DaemonProcess, agent: str, objective: str, *words: str) -> list[str]:
    """Submits a task; the ids of those that said each of the words as their progress, in that order."""
    found: dict[str, str] = {}
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        daemon.call("task.submit", agent=agent, objective=objective)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            found |= {event["message"]: event["task"] for event in events}
            if found.keys() >= set(words):
                return [found[word] for word in words]
    raise AssertionError("the stream of events does not end")


def test_a_failed_task_is_a_dead_letter_and_is_tried_again_as_a_new_task(daemon: DaemonProcess) -> None:
    old = fail(daemon, "crew", "a first time")
    assert old in dead(daemon, "crew")
    done = daemon.corral("task", "retry", old)
    assert done.returncode == 0
    new = done.stdout.strip()
    again = printed(daemon, "task", "wait", new, code=1)
    assert (again["state"], again["retry_of"]) == ("failed", old)
    assert again["objective"] == "raise a first time"
    was = printed(daemon, "task", "show", old)
    assert (was["state"], was["retried_by"]) == ("failed", new)
    assert old not in dead(daemon, "crew")
    assert new in dead(daemon, "crew")
    refused = printed(daemon, "task", "retry", old, code=4)
    assert refused["retried"] == []
    assert refused["failed"][0]["error"]["data"]["retried_by"] == new
    assert printed(daemon, "task", "discard", new) == {"discarded": 1}
    assert new not in dead(daemon, "crew")
    assert printed(daemon, "task", "show", new)["state"] == "failed"


def test_dead_letters_are_tried_again_in_batches_and_what_fails_again_waits_for_the_next_time(
    daemon: DaemonProcess,
) -> None:
    failed = [fail(daemon, "pair", str(number)) for number in range(3)]
    other = fail(daemon, "crew", "nobody asked")
    first = daemon.call("task.retry", dead=True, agent="pair", limit=2)
    assert [each["task"] for each in first["retried"]] == failed[:2]
    assert first["more"] is not None
    for each in first["retried"]:
        daemon.call("task.wait", task=each["by"])
    rest = printed(daemon, "task", "retry", "--dead", "--agent", "pair")
    named = [each["task"] for each in rest["retried"]]
    assert named == [failed[2], *(each["by"] for each in first["retried"])]
    assert other in dead(daemon, "crew")
    for each in rest["retried"]:
        daemon.call("task.wait", task=each["by"])
    assert len(dead(daemon, "pair")) == 3
    assert printed(daemon, "task", "discard", "--dead", "--agent", "pair") == {"discarded": 3}
    assert dead(daemon, "pair") == []


def test_what_has_not_failed_is_not_tried_again(daemon: DaemonProcess) -> None:
    fine = daemon.call("task.run", agent="crew", objective="echo")["id"]
    (waiting,) = begun(daemon, "crew", "wait", "waits")
    refused = printed(daemon, "task", "retry", fine, waiting, "none", code=4)
    assert [each["error"]["name"] for each in refused["failed"]] == ["Conflict", "Conflict", "NotFound"]
    daemon.call("task.cancel", task=waiting)
    assert waiting not in dead(daemon, "crew")
    assert len(printed(daemon, "task", "retry", waiting)["retried"]) == 1
    daemon.call("task.cancel", task=daemon.call("task.show", task=waiting)["retried_by"])


def test_two_who_try_the_same_task_again_at_once_make_one_task(daemon: DaemonProcess) -> None:
    old = fail(daemon, "crew", "for two")
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(daemon.call, "task.retry", task=old) for _ in range(4)]
        answers: list[Any] = [each.result(BOUND_S) for each in asking]
    made = {each["by"] for answer in answers for each in answer["retried"]}
    assert len(made) == 1
    assert {task["id"] for task in printed(daemon, "tasks", "-g", "for two")} == {old, *made}


def test_the_tree_of_a_task_has_what_it_delegated(daemon: DaemonProcess) -> None:
    root = daemon.call("task.run", agent="crew", objective="delegate pair", input={"a": 1})["id"]
    tree = printed(daemon, "task", "show", root, "--tree")
    (child,) = tree["children"]
    assert (tree["task"]["id"], tree["more"], child["children"]) == (root, 0, [])
    assert (child["task"]["agent"], child["task"]["parent"]) == ("pair", root)
    assert "output" not in child["task"]
    shown = daemon.corral("task", "show", root).stdout
    assert f"  {child['task']['id']}  pair" in shown
    assert [t["id"] for t in printed(daemon, "tasks", "--parent", root)] == [child["task"]["id"]]
    assert root in [t["id"] for t in printed(daemon, "tasks", "--roots")]
    assert child["task"]["id"] not in [t["id"] for t in printed(daemon, "tasks", "--roots")]
    cut = daemon.call("task.tree", task=root, limit=1)
    assert (cut["children"], cut["more"]) == ([], 1)


def test_a_follower_of_a_task_gets_the_events_of_those_below_it_and_then_its_end(daemon: DaemonProcess) -> None:
    (child,) = begun(daemon, "crew", "delegate-wait pair", "waits")
    root = daemon.call("task.show", task=child)["parent"]
    told: list[Any] = []

    def hear(notification: Notification) -> None:
        told.append(notification.params["event"])
        if len(told) == 2:  # how both stand
            daemon.call("task.cancel", task=root)

    with daemon.client() as client:
        ended: Any = client.call("task.follow", {"task": root}, timeout_s=BOUND_S, on_notification=hear)
    assert [(each["task"], each["type"]) for each in told[:2]] == [(root, "task.started"), (child, "task.started")]
    assert ended["state"] == "cancelled"
    assert (root, "cancelled") in [(each["task"], each.get("state")) for each in told[2:]]


def test_a_task_that_is_followed_from_the_start_reports_each_step_and_what_it_delegates(daemon: DaemonProcess) -> None:
    (first,) = begun(daemon, "crew", "wait", "waits")
    task = daemon.call("task.submit", agent="crew", objective="delegate pair")["id"]
    told: list[Any] = []

    def hear(notification: Notification) -> None:
        told.append(notification.params["event"])
        if len(told) == 1:  # it is queued behind the other
            daemon.call("task.cancel", task=first)

    with daemon.client() as client:
        ended: Any = client.call("task.follow", {"task": task}, timeout_s=BOUND_S, on_notification=hear)
    (child,) = ended["children"]
    steps = [(event["task"], event["type"]) for event in told]
    assert steps[0] == (task, "task.queued")
    for each in ((task, "task.started"), (child, "task.queued"), (child, "task.ended")):
        assert each in steps
    assert steps[-1] == (task, "task.ended")


def test_follow_reports_on_stderr_and_ends_with_the_result(daemon: DaemonProcess) -> None:
    task = daemon.call("task.run", agent="crew", objective="delegate pair")["id"]
    *events, record = map(json.loads, daemon.corral("task", "follow", task, "--json").stdout.splitlines())
    assert (record["id"], record["state"]) == (task, "succeeded")
    assert (events[0]["task"], events[0]["seq"]) == (task, None)
    people = daemon.corral("task", "follow", task)
    assert "child" in people.stdout
    assert task in people.stderr


def test_several_tasks_are_waited_for_and_the_first_that_failed_is_the_exit_code(daemon: DaemonProcess) -> None:
    fine = daemon.call("task.submit", agent="pair", objective="echo", input="x")["id"]
    bad = daemon.call("task.submit", agent="pair", objective="raise no")["id"]
    records = printed(daemon, "task", "wait", fine, bad, code=1)
    assert [record["state"] for record in records] == ["succeeded", "failed"]
    shown = daemon.corral("task", "wait", fine, bad)
    assert f"{fine} succeeded\n" in shown.stdout
    assert f"{bad} failed\n" in shown.stdout
    waiting = [begun(daemon, "pair", "wait", "waits")[0] for _ in range(2)]
    assert [t["state"] for t in printed(daemon, "task", "cancel", *waiting)] == ["cancelled"] * 2


def test_run_has_an_option_for_everything_that_a_task_takes(daemon: DaemonProcess) -> None:
    asked = ["run", "crew", "echo", "--detach", "--at", "1h", "--context", '{"why": 1}']
    asked += ["--max-tokens", "5", "--max-cost-cents", "0.5", "--scope", "here", "--timeout", "9s"]
    asked += ["--constraint", "one", "--constraint", "two", "--output-format", "a word"]
    asked += ["--output-schema", '{"type": "string"}', "--sticky-key", "k", "--session", "s"]
    asked += ["--max-attempts", "2", "--retry-on", "any", "--retry-backoff", "2s"]
    asked += ["--key", "everything", "--priority", "9", "--allow-tool", "git__*"]
    first = printed(daemon, *asked)
    assert printed(daemon, *asked)["id"] == first["id"]
    assert first["boundaries"] == {
        "timeout_s": 9.0,
        "max_tool_calls": None,
        "allowed_tools": ["git__*"],
        "constraints": ["one", "two"],
        "scope": "here",
        "timeout": None,
        "max_tokens": 5,
        "max_cost_cents": 0.5,
    }
    assert first["output_format"] == {"description": "a word", "schema": {"type": "string"}}
    assert first["retry"]["max_attempts"] == 2
    assert first["retry"]["retry_backoff_base_s"] == 2.0
    assert (first["session"], first["sticky_key"], first["priority"]) == ("s", "k", 9)
    assert first["context"] == {"why": 1}
    assert first["scheduled_at"] is not None
    later = printed(daemon, "run", "crew", "echo", "--after", first["id"], "--detach")
    assert later["after"] == [first["id"]]
    daemon.call("task.cancel", task=first["id"])
    assert printed(daemon, "task", "wait", later["id"], code=8)["state"] == "cancelled"
    brief = printed(daemon, "run", "crew", "echo", "--no-durable")
    assert (brief["state"], brief["durable"]) == ("succeeded", False)
    mistaken = printed(daemon, "run", "crew", "echo", "--overlap", "queue", code=2)
    assert mistaken["error"]["data"]["key"] == "--overlap"


def damage(daemon: DaemonProcess, task: str) -> None:
    """Flips a letter in a record; what is left is good JSON."""
    with closing(sqlite3.connect(daemon.state_dir / "corral.db", timeout=BOUND_S)) as connection:
        changed = connection.execute(
            "UPDATE task SET record = CAST(replace(CAST(record AS TEXT), 'fragile', 'fragilf') AS BLOB) WHERE id = ?",
            (task,),
        )
        assert changed.rowcount == 1
        connection.commit()


def test_a_damaged_record_is_reported_by_name_and_costs_no_other_task_anything(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        daemon.call("agent.start", names=["crew"])
        fine = daemon.call("task.run", agent="crew", objective="echo")["id"]
        broken = daemon.call("task.run", agent="crew", objective="echo fragile")["id"]
        later = daemon.call("task.submit", agent="crew", objective="fragile", at=4e9)["id"]
        damage(daemon, broken)
        with pytest.raises(Corrupted) as corrupted:
            daemon.call("task.show", task=broken)
        assert corrupted.value.data["task"] == broken
        assert printed(daemon, "task", "show", broken, code=1)["error"]["name"] == "Corrupted"
        listed = daemon.corral("tasks")
        assert fine in listed.stdout
        assert broken not in listed.stdout
        assert "cannot be read" in listed.stderr
        daemon.kill()
        damage(daemon, later)
        daemon.start()
        (event,) = daemon.call("event.list", types=["task.corrupted"])["events"]
        assert event["task"] == later
        with pytest.raises(Corrupted):
            daemon.call("task.wait", task=later)
        assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"
