"""Questions of tasks in a whole daemon, answered by persons."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound
from daemon_process import AGENTS, BOUND_S, DaemonProcess

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[agents.questions]
entrypoint = "questions_agent:agent"
instances = 3
recovery.restart_backoff_base = "1ms"
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path, CONFIG) as running:
        yield running


def submit(daemon: DaemonProcess, question: str, **more: Any) -> str:  # Any: what a test asks
    timeout_s = more.pop("task_timeout_s", None)
    limits = {} if timeout_s is None else {"timeout_s": timeout_s}
    return str(daemon.call("task.submit", agent="questions", objective=question, input=more or None, **limits)["id"])


def asked(daemon: DaemonProcess, task: str) -> Any:  # a record
    """The open question of a task, as soon as it is there."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.asked"]}, timeout_s=BOUND_S)
        asks = client.notifications()
        while not (found := daemon.call("approval.list", task=task)["approvals"]):
            next(asks)
        return found[0]


def ended(daemon: DaemonProcess, task: str) -> Any:  # a record
    return daemon.call("task.wait", task=task)


def test_a_task_goes_on_with_the_answer_of_a_person(daemon: DaemonProcess) -> None:
    task = submit(daemon, "Deploy?", options=["Yes", "no"], detail={"version": "1.2"})
    found = asked(daemon, task)
    assert (found["agent"], found["state"]) == ("questions", "open")
    assert (found["question"], found["options"]) == ("Deploy?", ["Yes", "no"])
    assert daemon.call("approval.show", approval=found["id"])["detail"] == {"version": "1.2"}

    done = daemon.call("approval.answer", approval=found["id"], answer="allow")
    assert (done["state"], done["answer"]) == ("answered", "Yes")
    assert ended(daemon, task)["output"] == "Yes"
    assert daemon.call("approval.list")["approvals"] == []
    assert daemon.call("approval.list", ended=True)["approvals"] == [done]
    events = daemon.call("event.list", types=["approval.*"])["events"]
    assert [event["type"] for event in events] == ["approval.asked", "approval.answered"]
    assert events[1]["answer"] == "Yes"
    records = daemon.call("audit.list", actions=["approval.answer"])["records"]
    assert [record["told"]["answer"] for record in records] == ["Yes"]


def test_what_is_no_answer_is_refused_and_the_first_answer_counts(daemon: DaemonProcess) -> None:
    task = submit(daemon, "Which?", options=["red", "green"])
    number = asked(daemon, task)["id"]
    for words in ("allow", "blue", ""):
        with pytest.raises(InvalidParams, match="its answers are red, green") as refused:
            daemon.call("approval.answer", approval=number, answer=words)
        assert refused.value.data["options"] == ["red", "green"]
    with pytest.raises(NotFound):
        daemon.call("approval.answer", approval=number + 1, answer="red")
    outcomes: list[str] = []

    def answer(words: str) -> None:
        try:
            outcomes.append(daemon.call("approval.answer", approval=number, answer=words)["answer"])
        except Conflict:
            outcomes.append("Conflict")

    threads = [threading.Thread(target=answer, args=(words,)) for words in ("red", "green") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_S)
    assert sorted(outcomes, key=lambda word: word != "Conflict")[:7] == ["Conflict"] * 7
    counted = next(word for word in outcomes if word != "Conflict")
    assert ended(daemon, task)["output"] == counted


def test_a_question_outlives_worker_and_daemon_and_the_task_gets_its_answer(daemon: DaemonProcess) -> None:
    one, other = submit(daemon, "One?"), submit(daemon, "Other?", options=["yes", "no"])
    first, second = asked(daemon, one), asked(daemon, other)
    both = sorted((first, second), key=lambda each: int(each["id"]))
    daemon.kill()
    daemon.start()
    assert daemon.call("approval.list")["approvals"] == both
    daemon.call("approval.answer", approval=first["id"], answer="any words")
    assert ended(daemon, one)["output"] == "any words"

    pid = daemon.await_worker("questions-0", lambda w: w["pid"] is not None)["pid"]
    daemon.call("agent.signal", names=["questions"], signal="SIGKILL")
    daemon.await_worker("questions-0", lambda w: w["pid"] not in (None, pid))
    assert asked(daemon, other)["id"] == second["id"]
    daemon.call("approval.answer", approval=second["id"], answer="no")
    assert ended(daemon, other)["output"] == "no"


def test_a_question_expires_with_its_default_or_as_a_timeout_and_limits_of_time_wait_for_it(
    daemon: DaemonProcess,
) -> None:
    late = submit(daemon, "Late?", timeout_s=1.0, default="then", task_timeout_s=0.5)
    plain = submit(daemon, "Plain?", timeout_s=0.05)
    assert ended(daemon, late)["output"] == "then"  # after twice the time limit of the task
    assert ended(daemon, plain)["output"] == "Timeout"
    states = [each["state"] for each in daemon.call("approval.list", ended=True)["approvals"]]
    assert states == ["expired", "expired"]


def test_a_question_is_withdrawn_with_its_task(daemon: DaemonProcess) -> None:
    task = submit(daemon, "Still?")
    number = asked(daemon, task)["id"]
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.withdrawn"]}, timeout_s=BOUND_S)
        daemon.call("task.cancel", task=task)
        next(client.notifications())
    assert daemon.call("approval.show", approval=number)["state"] == "withdrawn"
    with pytest.raises(Conflict, match="withdrawn"):
        daemon.call("approval.answer", approval=number, answer="yes")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"options": ["a", "A"]}, "InvalidParams"),
        ({"options": ["a"], "default": "b"}, "InvalidParams"),
        ({"options": ["x"] * 21}, "InvalidParams"),
        ({"detail": "x" * 65_536}, "ResourceLimitExceeded"),
    ],
)
def test_a_question_that_no_answer_could_end_is_refused(
    daemon: DaemonProcess, given: dict[str, Any], name: str
) -> None:
    assert ended(daemon, submit(daemon, "Bad?", **given))["output"] == name
    assert daemon.call("approval.list")["approvals"] == []


def test_the_command_lists_and_answers(daemon: DaemonProcess) -> None:
    empty = daemon.corral("approvals")
    assert (empty.returncode, "no task waits for an answer" in empty.stdout + empty.stderr) == (0, True)
    tasks = [submit(daemon, f"Number {number}?", options=["allow", "deny"]) for number in range(3)]
    numbers = [str(asked(daemon, task)["id"]) for task in tasks]
    listed = daemon.corral("approvals").stdout
    assert all(task in listed for task in tasks)
    assert "allow, deny" in listed
    assert daemon.corral("approvals", "allow", *numbers[:1]).returncode == 0
    assert daemon.corral("approvals", "deny", numbers[1]).returncode == 0
    wrong = daemon.corral("approvals", "answer", numbers[2], "perhaps")
    assert (wrong.returncode, "allow, deny" in wrong.stderr) == (2, True)
    assert daemon.corral("approvals", "answer", numbers[2], "ALLOW").returncode == 0
    assert [ended(daemon, task)["output"] for task in tasks] == ["allow", "deny", "allow"]
    shown = json.loads(daemon.corral("approvals", "list", "--ended", "--json").stdout)
    answers = {each["task"]: each["answer"] for each in shown}
    assert [answers[task] for task in tasks] == ["allow", "deny", "allow"]


def test_every_list_says_which_task_waits_for_a_person_and_which_wait_behind_it(daemon: DaemonProcess) -> None:
    daemon.call("agent.scale", name="questions", instances=1)
    first = submit(daemon, "Delete 312 files?\nThey are old.", options=["yes", "no"])
    number = asked(daemon, first)["id"]
    second = submit(daemon, "And these?")
    asks = "asks: Delete 312 files? (corral approvals)"
    waits = "questions waits for an answer: Delete 312 files? (corral approvals)"
    reasons = {each["id"]: each["reason"] for each in daemon.call("task.list")["tasks"]}
    assert reasons == {first: asks, second: waits}
    (worker,) = daemon.call("daemon.status", names=["questions"])["agents"][0]["workers"]
    assert (worker["task"], worker["task_reason"]) == (first, asks)
    for command in ("status", "tasks", "top --once"):
        assert asks in daemon.corral(*command.split()).stdout, command

    daemon.call("approval.answer", approval=number, answer="yes")
    ended(daemon, first)
    assert asked(daemon, second)["question"] == "And these?"
    assert daemon.call("task.show", task=first)["reason"] == ""
    assert daemon.call("task.show", task=second)["reason"] == "asks: And these? (corral approvals)"
