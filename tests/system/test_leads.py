"""`corral.leads:fanout`, the lead that comes with corral: it divides a task among members and merges what they return."""

from collections.abc import Iterator
from typing import Any

import pytest

from daemon_process import BOUND_S, DaemonProcess

AGENT = """
import asyncio
from pathlib import Path

from corral.worker import Agent

agent = Agent("member")


@agent.task
async def run(task):
    with Path("ran.txt").open("a") as ran:
        print(task.agent, task.input, file=ran)
    if task.input == "bad" or task.objective == f"{task.agent} fails" or task.objective == "all fail":
        raise ValueError("as it was asked")
    if task.input == "wait" and not Path("go").exists():
        await task.progress(0.5, "waits")
        await asyncio.Event().wait()
    if task.agent == "writer":
        return [part.get("output", "-") for part in task.input]
    return f"{task.agent} {task.objective} {task.input}"
"""

CONFIG = """
[agents.reader]
entrypoint = "member:agent"
[agents.checker]
entrypoint = "member:agent"
[agents.writer]
entrypoint = "member:agent"

[agents.chief]
entrypoint = "corral.leads:fanout"
[agents.poet]
entrypoint = "corral.leads:fanout"
config = { merge = "text" }
[agents.quick]
entrypoint = "corral.leads:fanout"
config = { merge = "first" }
[agents.editor]
entrypoint = "corral.leads:fanout"
config = { synthesiser = "writer", max_parallel = 1 }
[agents.wrong]
entrypoint = "corral.leads:fanout"
config = { merge = "sum" }

[teams.plain]
lead = "chief"
members = ["reader", "checker"]
[teams.text]
lead = "poet"
members = ["reader", "checker"]
[teams.first]
lead = "quick"
members = ["reader", "checker"]
[teams.edited]
lead = "editor"
members = ["reader", "checker", "writer"]
[teams.mistaken]
lead = "wrong"
members = ["reader"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("leads")
    (folder / "member.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def ended(daemon: DaemonProcess, team: str, objective: str, value: object = None) -> Any:
    """The record of a task of a team, at its end."""
    return daemon.call("task.run", agent=team, objective=objective, input=value)


def run(daemon: DaemonProcess, team: str, objective: str, value: object = None) -> Any:
    record = ended(daemon, team, objective, value)
    assert record["state"] == "succeeded", record["error"]
    return record["output"]


def test_every_member_gets_the_task_and_the_output_names_each(daemon: DaemonProcess) -> None:
    assert run(daemon, "plain", "look at", "it") == [
        {"member": "reader", "output": "reader look at it"},
        {"member": "checker", "output": "checker look at it"},
    ]
    assert run(daemon, "text", "look at", "it") == "reader look at it\n\nchecker look at it"
    assert run(daemon, "first", "look at", "it") == "reader look at it"
    assert run(daemon, "first", "reader fails", "it") == "checker reader fails it"


def test_the_items_of_a_list_go_to_the_members_in_turn(daemon: DaemonProcess) -> None:
    found = run(daemon, "plain", "read", ["a", "b", "bad"])
    assert [part["member"] for part in found] == ["reader", "checker", "reader"]
    assert [part.get("output") for part in found] == ["reader read a", "checker read b", None]
    assert found[2]["error"]["name"] == "TaskFailed"
    assert "as it was asked" in found[2]["error"]["message"]
    assert run(daemon, "plain", "read", []) == []


def test_a_synthesiser_gets_the_results_and_no_part(daemon: DaemonProcess) -> None:
    assert run(daemon, "edited", "read", ["a", "b", "c"]) == [*("reader read a", "checker read b", "reader read c")]


def test_the_task_fails_when_each_part_has(daemon: DaemonProcess) -> None:
    error = ended(daemon, "plain", "all fail")["error"]
    assert error["name"] == "TaskFailed"
    assert "reader, checker" in error["message"]
    assert [part["member"] for part in error["data"]["parts"]] == ["reader", "checker"]


def test_a_wrong_configuration_or_a_lead_without_a_team_is_reported(daemon: DaemonProcess) -> None:
    assert "config.merge" in ended(daemon, "mistaken", "read")["error"]["message"]
    assert "run the team" in ended(daemon, "chief", "read")["error"]["message"]


def test_parts_that_have_ended_are_not_run_again_after_a_kill_of_the_daemon(daemon: DaemonProcess) -> None:
    folder = daemon.config.parent
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.*"]}, timeout_s=BOUND_S)
        task = daemon.call("task.submit", agent="plain", objective="read", input=["once", "wait"])
        missing = {("task.ended", "reader"), ("task.progress", "checker")}
        for notification in client.notifications():
            events: Any = notification.params["events"]
            missing -= {(each["type"], each["agent"]) for each in events}
            if not missing:
                break
    daemon.kill()
    (folder / "go").touch()
    daemon.start()
    done = daemon.call("task.wait", task=task["id"])
    assert done["state"] == "succeeded", done["error"]
    assert [part["output"] for part in done["output"]] == ["reader read once", "checker read wait"]
    lines = (folder / "ran.txt").read_text().splitlines()
    assert lines.count("reader once") == 1
    assert lines.count("checker wait") == 2, "its first life ended with the daemon"
