"""The inbox of a whole daemon: what waits for a person, until it is answered or seen."""

import json
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import InvalidParams, NotFound
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess, until

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[agents.questions]
entrypoint = "questions_agent:agent"
[agents.crew]
entrypoint = "crew_agent:agent"
tasks.max_attempts = 1
[agents.broken]
command = ["false"]
protocol = "none"
autostart = false
recovery.max_restart_attempts = 1
[tenants.acme]
[agents."acme/crew"]
entrypoint = "crew_agent:agent"
tasks.max_attempts = 1
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Generator[DaemonProcess]:
    with DaemonProcess(tmp_path, CONFIG) as running:
        yield running


def items(daemon: DaemonProcess) -> list[dict[str, Any]]:
    return list(daemon.call("inbox.list")["items"])


def submit(daemon: DaemonProcess, agent: str, objective: str, **more: object) -> str:
    return str(daemon.call("task.submit", agent=agent, objective=objective, **more)["id"])


def await_items(daemon: DaemonProcess, *ids: str) -> list[str]:
    """The kinds of what is in the inbox, as soon as these are."""
    found = until(lambda: items(daemon), lambda found: {*ids} <= {each["id"] for each in found})
    return [each["kind"] for each in found]


def await_question(daemon: DaemonProcess) -> dict[str, Any]:
    return until(lambda: [each for each in items(daemon) if each["kind"] == "question"])[0]


def needs_you(daemon: DaemonProcess) -> int:
    return int(daemon.call("daemon.status")["daemon"]["needs_you"])


def test_what_nobody_waits_for_is_listed_until_it_is_seen_also_after_a_kill(daemon: DaemonProcess) -> None:
    assert (items(daemon), needs_you(daemon)) == ([], 0)
    done, failed = submit(daemon, "crew", "echo"), submit(daemon, "crew", "raise no")
    daemon.call("task.run", agent="crew", objective="echo")
    daemon.call("task.run", agent="crew", objective="raise at once")
    await_items(daemon, done, failed)
    submit(daemon, "questions", "Deploy?", input={"options": ["yes", "no"]})
    question = await_question(daemon)
    assert (question["text"], question["options"], question["agent"]) == ("Deploy?", ["yes", "no"], "questions")
    assert [each["kind"] for each in items(daemon)] == ["question", "failed", "done"]
    assert needs_you(daemon) == 2

    daemon.call("inbox.seen", items=[done])
    before = items(daemon)
    daemon.kill()
    daemon.start()
    assert items(daemon) == before
    assert [each["id"] for each in before] == [question["id"], failed]

    assert daemon.call("inbox.seen", all=True)["seen"] == [question["id"], failed]
    daemon.kill()
    daemon.start()
    assert [(each["id"], each["seen"]) for each in items(daemon)] == [(question["id"], True)]
    assert needs_you(daemon) == 1, "the task still waits"
    daemon.call("approval.answer", approval=question["approval"], answer="yes")
    await_items(daemon, question["task"])
    assert needs_you(daemon) == 0


def test_a_worker_that_gave_up_is_listed_until_it_is_stopped_or_up_again(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["broken"], wait=False)
    found = until(lambda: items(daemon))
    assert [(each["kind"], each["worker"]) for each in found] == [("gave-up", "broken-0")]
    assert needs_you(daemon) == 1
    daemon.call("agent.stop", names=["broken"])
    assert items(daemon) == []


def test_delegated_tasks_are_no_items(daemon: DaemonProcess) -> None:
    task = submit(daemon, "crew", "delegate questions")
    question = await_question(daemon)
    daemon.call("approval.answer", approval=question["approval"], answer="yes")
    await_items(daemon, task)
    assert [each["id"] for each in items(daemon)] == [task]


def test_a_tenant_sees_and_ends_its_own_items_alone(daemon: DaemonProcess) -> None:
    own, other = submit(daemon, "acme/crew", "raise a"), submit(daemon, "crew", "raise b")
    await_items(daemon, own, other)
    with daemon.client() as client:
        client.call("auth.login", {"tenant": "acme"}, timeout_s=BOUND_S)

        def ask(method: str, **params: object) -> Any:
            return client.call(method, params, timeout_s=BOUND_S)

        assert [each["id"] for each in ask("inbox.list")["items"]] == [own]
        assert ask("daemon.status")["daemon"]["needs_you"] == 1
        with pytest.raises(NotFound):
            ask("inbox.seen", items=[other])
        assert ask("inbox.seen", all=True)["seen"] == [own]
    assert [each["id"] for each in items(daemon)] == [other]


@pytest.mark.parametrize(
    ("params", "error"),
    [({}, InvalidParams), ({"items": ["a"], "all": True}, InvalidParams), ({"items": ["a"]}, NotFound)],
)
def test_what_names_no_item_is_refused(
    daemon: DaemonProcess, params: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        daemon.call("inbox.seen", **params)


def test_the_command_lists_answers_and_marks(daemon: DaemonProcess) -> None:
    assert daemon.corral("inbox").stderr == "nothing waits for you\n"
    failed = submit(daemon, "crew", "raise no")
    await_items(daemon, failed)
    submit(daemon, "questions", "Deploy?")
    question = await_question(daemon)
    lines = daemon.corral("inbox").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["question", question["id"], "questions"],
        ["failed", failed, "crew"],
    ]
    assert daemon.corral("status").stdout.splitlines()[0] == "needs you: 2 (corral inbox)"
    assert daemon.corral("inbox", "answer", failed, "yes").returncode == 2
    assert daemon.corral("inbox", "answer", question["id"], "yes").returncode == 0
    await_items(daemon, question["task"])
    assert json.loads(daemon.corral("--json", "inbox", "seen", "--all").stdout)["seen"] == [failed, question["task"]]
    assert items(daemon) == []


def test_the_command_follows(daemon: DaemonProcess) -> None:
    command = [str(BIN / "corral"), "--socket", str(daemon.socket), "--json", "inbox", "-f"]
    first = submit(daemon, "crew", "raise no")
    await_items(daemon, first)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == first
        second = submit(daemon, "crew", "echo")
        assert json.loads(process.stdout.readline())["id"] == second
        submit(daemon, "questions", "Deploy?")
        assert json.loads(process.stdout.readline())["text"] == "Deploy?"
        process.terminate()
