"""ACP agents under a whole daemon: a task is a prompt turn of a real program, written with the official SDK."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.linux import landlock
from corral.worker.contract.errors import (
    CorralError,
    PermissionDenied,
    ResourceLimitExceeded,
    TaskFailed,
    Timeout,
    WorkerFailed,
    from_wire,
)
from corral.worker.contract.jsonrpc import Notification
from daemon_process import AGENTS, BOUND_S, DaemonProcess, children

pytestmark = [pytest.mark.contract, pytest.mark.long]

PROGRAM = json.dumps([sys.executable, "-P", str(AGENTS / "acp_agent.py")])

CONFIG = f"""
[tasks]
retry_backoff_base = "10ms"
cancel_grace = "500ms"
[recovery]
restart_backoff_base = "10ms"
max_restart_attempts = 100
[process]
shutdown_grace_period = "2s"
[agents.coder]
protocol = "acp"
command = {PROGRAM}
tools = ["cortex__cortex_search"]
permission_rules = {{ read = "allow", "*rm -rf*" = "deny" }}
resources.max_output_size_bytes = "100KiB"
[agents.permitted]
protocol = "acp"
command = {PROGRAM}
tools = []
permissions = "allow"
environment = {{ ACP_CAPABLE = "embed" }}
[agents.hasty]
protocol = "acp"
command = {PROGRAM}
permission_timeout = "100ms"
environment = {{ ACP_CAPABLE = "load,resume" }}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("acp")
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def folder_of(daemon: DaemonProcess) -> Path:
    """The working directory of the agents."""
    return Path(daemon.call("agent.show", name="coder")["spec"]["process"]["working_directory"])


def run(daemon: DaemonProcess, objective: str, agent: str = "coder", **params: Any) -> Any:
    """The record of a task that has ended."""
    return daemon.call("task.run", agent=agent, objective=objective, **params)


def output(daemon: DaemonProcess, objective: str, agent: str = "coder", **params: Any) -> Any:
    """The output of a task that has succeeded."""
    record = run(daemon, objective, agent, **params)
    assert record["error"] is None, record["error"]
    return record["output"]


def failure(daemon: DaemonProcess, objective: str, **params: Any) -> CorralError:
    """The error with which a task has ended."""
    return from_wire(run(daemon, objective, **params)["error"])


def begun(daemon: DaemonProcess, objective: str, word: str) -> str:
    """The id of a task whose turn has said a word."""
    task = str(daemon.call("task.submit", agent="coder", objective=objective)["id"])
    with daemon.client() as client:
        client.call("log.follow", {"names": ["coder"]}, timeout_s=BOUND_S)
        for one in client.notifications():
            if word in str(one.params):
                return task
    raise AssertionError("the turn has ended")


def asked(daemon: DaemonProcess, task: str) -> Any:
    """The open question of a task, as soon as it is there."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.asked"]}, timeout_s=BOUND_S)
        asks = client.notifications()
        while not (found := daemon.call("approval.list", task=task)["approvals"]):
            next(asks)
        return found[0]


def test_a_task_is_a_turn_whose_words_are_streamed_and_are_its_output(daemon: DaemonProcess) -> None:
    parts: list[str] = []

    def hear(notification: Notification) -> None:
        if notification.method == "task.part":
            parts.append(str(notification.params["part"]))

    with daemon.client() as client:
        order = {"agent": "coder", "objective": "say one two three", "stream": True}
        record: Any = client.call("task.run", order, timeout_s=BOUND_S, on_notification=hear)
    assert (record["state"], record["output"]) == ("succeeded", "one two three ")
    assert "".join(parts) == "one two three "


def test_the_output_is_the_last_message_and_the_rest_is_progress_and_log(daemon: DaemonProcess) -> None:
    record = run(daemon, "work")
    assert record["output"] == "It is done."
    assert (record["progress"], record["progress_total"]) == (1, 2)
    assert (record["tokens_used"], record["cost_cents"]) == (123, 2)
    log = daemon.call("log.read", names=["coder"])["records"]
    fields = [each["fields"] for each in log if each["text"] == "Read a.txt"]
    assert [each["status"] for each in fields] == ["pending", "completed"]


def test_the_log_keeps_what_is_said_planned_and_changed_in_its_order(daemon: DaemonProcess) -> None:
    task = run(daemon, "edit")["id"]
    records = [each for each in daemon.call("log.read", task=task)["records"] if each.get("fields")]
    told = [(each["text"].partition("\n")[0], *sorted(each["fields"])) for each in records]
    assert told == [
        ("plan: 0 of 2 done, rename", "plan"),
        ("I rename it:", "message"),
        ("changes a.py", "diff", "path", "tool_call"),
        ("Edit a.py", "kind", "status", "tool_call"),
        ("Edit a.py", "status", "tool_call"),
        ("Renamed.", "message"),
    ]
    assert records[2]["fields"]["diff"] == "@@ -1,2 +1,2 @@\n-def a():\n+def b():\n     return 1"
    assert records[0]["fields"]["plan"][0] == {"content": "rename", "status": "in_progress"}


def test_a_turn_gets_the_input_and_the_context(daemon: DaemonProcess) -> None:
    told = json.loads(output(daemon, "blocks", input={"a": 1}, context="why"))
    assert told["texts"][0] == "blocks"
    assert [text.partition("\n\n")[2] for text in told["texts"][1:]] == ['{"a":1}', "why"]
    told = json.loads(output(daemon, "blocks", "permitted", input={"a": 1}))
    assert [each["text"] for each in told["others"]] == ['{"a":1}']


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("max_tokens", ResourceLimitExceeded),
        ("max_turn_requests", ResourceLimitExceeded),
        ("refusal", TaskFailed),
        ("cancelled", TaskFailed),
    ],
)
def test_a_turn_that_stops_early_is_a_typed_end(daemon: DaemonProcess, reason: str, kind: type[CorralError]) -> None:
    error = failure(daemon, f"stop {reason}")
    assert type(error) is kind
    assert (error.data["stop_reason"], error.data["output"]) == (reason, "so far")


def test_a_cancelled_task_cancels_its_turn(daemon: DaemonProcess) -> None:
    before = daemon.worker("coder-0")["incarnation"]
    task = begun(daemon, "wait", "waits now")
    daemon.call("task.cancel", task=task)
    assert daemon.call("task.wait", task=task)["state"] == "cancelled"
    assert output(daemon, "say again") == "again "
    assert (folder_of(daemon) / "cancelled").exists()
    assert daemon.worker("coder-0")["incarnation"] == before


def test_an_agent_that_ignores_a_cancel_is_replaced(daemon: DaemonProcess) -> None:
    before = daemon.worker("coder-0")["incarnation"]
    assert isinstance(failure(daemon, "ignore", timeout_s=0.3), Timeout)
    assert output(daemon, "say again") == "again "
    assert daemon.worker("coder-0")["incarnation"] > before


def test_a_death_in_a_turn_is_that_of_the_worker_and_the_task_is_tried_again(daemon: DaemonProcess) -> None:
    record = run(daemon, "die SIGUSR1")
    assert (record["state"], record["attempt"]) == ("succeeded", 2)
    assert daemon.call("agent.show", name="coder")["exits"][0]["signal"] == "SIGUSR1"
    error = failure(daemon, "leave 7", retry={"max_attempts": 1})
    assert isinstance(error, WorkerFailed)
    assert (error.data["result"], error.data["code"]) == ("exited", 7)


def test_an_agent_that_exits_unasked_has_failed_and_is_started_again(daemon: DaemonProcess) -> None:
    assert isinstance(failure(daemon, "leave 0", retry={"max_attempts": 1}), WorkerFailed)
    assert output(daemon, "say again") == "again "


def test_garbage_on_stdout_is_log(daemon: DaemonProcess) -> None:
    assert output(daemon, "garbage 300000") == "still here"
    records = daemon.call("log.read", names=["coder"])["records"]
    assert any(each["text"] == "this is no JSON" for each in records)


def test_an_output_is_held_to_its_size(daemon: DaemonProcess) -> None:
    error = failure(daemon, "flood 5000")
    assert isinstance(error, ResourceLimitExceeded)
    assert error.data["limit"] == "max_output_size_bytes"


# --- sessions


def test_a_session_goes_on_in_the_same_conversation_and_over_restarts(daemon: DaemonProcess) -> None:
    output(daemon, "say one", session="s1")
    assert json.loads(output(daemon, "history", session="s1")) == ["say one", "history"]
    assert json.loads(output(daemon, "history", session="other")) == ["history"]
    daemon.call("agent.restart", names=["coder"])
    third = json.loads(output(daemon, "history", session="s1"))
    assert third == ["say one", "history", "history"]
    shown = daemon.call("memory.show", agent="coder", session="s1")
    assert [each["content"] for each in shown["history"][:2]] == ["say one", "one "]


def test_a_session_is_resumed_where_the_agent_can(daemon: DaemonProcess) -> None:
    output(daemon, "say one", "hasty", session="s1")
    daemon.call("agent.restart", names=["hasty"])
    assert json.loads(output(daemon, "history", "hasty", session="s1")) == ["say one", "history"]


def test_an_agent_that_cannot_load_a_session_gets_the_conversation(daemon: DaemonProcess) -> None:
    output(daemon, "say one", "permitted", session="s1")
    assert json.loads(output(daemon, "history", "permitted", session="s1")) == ["say one", "history"]
    daemon.call("agent.restart", names=["permitted"])
    told = json.loads(output(daemon, "blocks", "permitted", session="s1"))
    assert "user: say one" in told["texts"][0]
    assert json.loads(output(daemon, "history", "permitted", session="s1")) == ["blocks", "history"]


def test_a_session_that_was_cleared_is_a_new_conversation(daemon: DaemonProcess) -> None:
    output(daemon, "say one", session="s2")
    daemon.call("memory.clear", agent="coder", session="s2")
    assert json.loads(output(daemon, "history", session="s2")) == ["history"]


# --- permissions


def test_rules_of_the_spec_permit_and_refuse(daemon: DaemonProcess) -> None:
    assert output(daemon, "ask read Read a.txt") == "yes"
    assert output(daemon, "ask execute rm -rf /") == "no"
    assert output(daemon, "ask execute rm -rf /", "permitted") == "yes"
    assert daemon.call("approval.list", ended=True, agent="coder")["approvals"] == []


@pytest.mark.parametrize(("answer", "option"), [("allow", "yes"), ("allow always", "always"), ("deny", "no")])
def test_a_person_answers_for_the_rest(daemon: DaemonProcess, answer: str, option: str) -> None:
    task = daemon.call("task.submit", agent="coder", objective="ask edit Write b.txt")["id"]
    question = asked(daemon, task)
    assert (question["kind"], question["options"]) == ("permission", ["allow", "allow always", "deny"])
    detail = daemon.call("approval.show", approval=question["id"])["detail"]
    assert (detail["kind"], detail["title"]) == ("edit", "Write b.txt")
    daemon.call("approval.answer", approval=question["id"], answer=answer)
    assert daemon.call("task.wait", task=task)["output"] == option


def test_a_question_that_nobody_answers_in_time_is_refused(daemon: DaemonProcess) -> None:
    assert output(daemon, "ask edit Write b.txt", "hasty") == "no"


def test_a_question_outlives_the_agent_and_its_answer_counts(daemon: DaemonProcess) -> None:
    task = daemon.call("task.submit", agent="coder", objective="ask edit Write c.txt")["id"]
    question = asked(daemon, task)
    daemon.call("agent.signal", names=["coder"], signal="SIGKILL")
    daemon.call("approval.answer", approval=question["id"], answer="allow")
    record = daemon.call("task.wait", task=task)
    assert (record["output"], record["attempt"]) == ("yes", 2)


def answered(daemon: DaemonProcess, task: str, *answers: str) -> list[str]:
    """The questions that were answered, in their order."""
    asked: list[str] = []
    known = 0
    for answer in answers:
        while not (found := daemon.call("approval.list", task=task)["approvals"]) or (found[0]["id"] == known):
            time.sleep(0)
        known = found[0]["id"]
        asked.append(found[0]["question"])
        daemon.call("approval.answer", approval=known, answer=answer)
    return asked


def test_a_form_of_an_agent_is_asked_field_by_field(daemon: DaemonProcess) -> None:
    task = daemon.call("task.submit", agent="coder", objective="form")["id"]
    asked = answered(daemon, task, "Ada", "many", "3", "yes")
    assert asked == ["A form\nYour name", "A form\ncount", "A form\ncount", "A form\nsure"]
    said = json.loads(daemon.call("task.wait", task=task)["output"])
    assert said["action"] == "accept"
    assert said["content"] == {"name": "Ada", "count": 3, "sure": True}


def test_a_form_that_nobody_answers_is_cancelled(daemon: DaemonProcess) -> None:
    assert json.loads(output(daemon, "form", "hasty"))["action"] == "cancel"


def test_a_cancelled_task_takes_its_question_back(daemon: DaemonProcess) -> None:
    task = daemon.call("task.submit", agent="coder", objective="ask edit Write d.txt")["id"]
    question = asked(daemon, task)
    daemon.call("task.cancel", task=task)
    assert daemon.call("task.wait", task=task)["state"] == "cancelled"
    assert output(daemon, "say again") == "again "
    assert (folder_of(daemon) / "outcome").read_text("utf-8") == "cancelled"
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.*"]}, timeout_s=BOUND_S)
        changes = client.notifications()
        while daemon.call("approval.show", approval=question["id"])["state"] == "open":
            next(changes)


# --- files, commands, tools


def test_files_and_commands_are_served_in_the_working_directory(daemon: DaemonProcess) -> None:
    path = folder_of(daemon) / "notes" / "a.txt"
    assert output(daemon, f"write {path} one two") == "written"
    assert output(daemon, f"read {path}") == "one two"
    assert output(daemon, "read /etc/hostname").startswith(f"{PermissionDenied.code}:")
    assert output(daemon, f"read {path}.none").startswith("-32002:")
    found = json.loads(output(daemon, "run pwd"))
    assert found == [0, None, f"{folder_of(daemon)}\n", False]
    code, _, printed, _ = json.loads(output(daemon, "run sh -c echo"))
    assert (code, printed) == (0, "\n")
    assert output(daemon, "kill") == "None SIGKILL"


def test_no_command_outlives_the_agent(daemon: DaemonProcess) -> None:
    task = begun(daemon, "hold", "holds now")
    left = _sleepers(daemon)
    assert left
    daemon.call("agent.signal", names=["coder"], signal="SIGKILL")
    daemon.call("task.cancel", task=task)
    until = time.monotonic() + BOUND_S
    while any(os.path.exists(f"/proc/{pid}") for pid in left):
        assert time.monotonic() < until


def _sleepers(daemon: DaemonProcess) -> list[int]:
    found: list[int] = []
    waiting = list(children(daemon.worker("coder-0")["pid"]))
    while waiting:
        pid = waiting.pop()
        waiting += children(pid)
        try:
            if b"1000" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def test_the_tools_of_the_pool_are_handed_in_within_the_allow_list(daemon: DaemonProcess) -> None:
    assert json.loads(output(daemon, "tools")) == ["cortex__cortex_search"]
    record = run(daemon, 'tools cortex__cortex_search {"query": "nothing"}')
    is_error, _ = json.loads(record["output"])
    assert not is_error
    assert record["tool_calls"] == 1
    is_error, _ = json.loads(output(daemon, 'tools cortex__cortex_store {"a": 1}'))
    assert is_error
    assert output(daemon, "servers", "permitted") == "0"


def test_a_task_narrows_the_tools(daemon: DaemonProcess) -> None:
    narrow = {"allowed_tools": ["other__*"]}
    assert json.loads(output(daemon, "tools", boundaries=narrow)) == []


@pytest.mark.skipif(landlock.abi() < 1, reason="this kernel has no Landlock")
def test_an_agent_works_within_the_paths_of_its_spec(daemon: DaemonProcess) -> None:
    folder = daemon.folder / "confined"
    folder.mkdir()
    spec = {
        "protocol": "acp",
        "command": [sys.executable, "-P", str(Path(__file__).parents[2] / "examples" / "acp" / "agent.py")],
        "permissions": "allow",
        "process": {"working_directory": str(folder), "read_paths": [str(folder)], "write_paths": [str(folder)]},
    }
    daemon.call("agent.add", name="confined", spec=spec)
    assert output(daemon, "buy bread", "confined") == "written: buy bread"
    assert (folder / "notes.txt").read_text("utf-8") == "buy bread\n"
    daemon.call("agent.rm", names=["confined"])


# --- starts that fail


@pytest.mark.parametrize(
    ("environment", "more", "words"),
    [
        ({"ACP_SIGN_IN": "1"}, {}, "sign in by hand"),
        ({"ACP_SIGN_IN": "1"}, {"auth_method": "api-key"}, "refuses to sign in"),
        ({"ACP_SIGN_IN": "1"}, {"auth_method": "other"}, '"api-key"'),
        ({"ACP_VERSION": "7"}, {}, "ACP version 7"),
    ],
)
def test_a_start_that_cannot_be_says_why_and_is_not_repeated(
    daemon: DaemonProcess, environment: dict[str, str], more: dict[str, str], words: str
) -> None:
    spec = {"protocol": "acp", "command": json.loads(PROGRAM), "environment": environment, **more}
    try:
        daemon.call("agent.add", name="unfit", spec=spec, wait=False)
        status = daemon.await_worker("unfit-0", lambda worker: worker["state"] == "Terminated")
        assert status["last_exit"]["result"] == "exec-failed"
        assert words in status["last_exit"]["message"]
        assert status["next_start_in_s"] is None
    finally:
        daemon.call("agent.rm", names=["unfit"])


def test_an_agent_with_a_key_is_signed_in(daemon: DaemonProcess) -> None:
    spec = {
        "protocol": "acp",
        "command": json.loads(PROGRAM),
        "auth_method": "api-key",
        "environment": {"ACP_SIGN_IN": "1", "ACP_KEY": "right"},
    }
    daemon.call("agent.add", name="signed", spec=spec)
    assert output(daemon, "say hello", "signed") == "hello "
    error = failure(daemon, "sign", agent="signed")
    assert isinstance(error, PermissionDenied)
    assert error.data["reason"] == "authentication"
    daemon.call("agent.rm", names=["signed"])


@pytest.mark.parametrize(
    ("command", "environment", "result"),
    [
        ([sys.executable, "-P", str(AGENTS / "acp_agent.py")], {"ACP_SILENT": "1"}, "start-timeout"),
        (["/nonexistent/agent"], {}, "exec-failed"),
        (["sh", "-c", "echo no agent; exit 3"], {}, "exited"),
        (["sh", "-c", "yes | head -c 300000; exit 3"], {}, "exited"),
        (["sh", "-c", "exec >&-; sleep 1000"], {}, "signaled"),
    ],
    ids=["silent", "missing", "another program", "a flood", "deaf"],
)
def test_a_program_that_is_no_agent_ends_with_the_reason(
    daemon: DaemonProcess, command: list[str], environment: dict[str, str], result: str
) -> None:
    spec = {
        "protocol": "acp",
        "command": command,
        "environment": environment,
        "process": {"spawn_timeout": "1s" if result == "start-timeout" else "30s"},
        "recovery": {"enable_auto_restart": False},
    }
    try:
        daemon.call("agent.add", name="unfit", spec=spec, wait=False)
        status = daemon.await_worker("unfit-0", lambda worker: worker["state"] == "Terminated")
        assert status["last_exit"]["result"] == result
        if result == "exited":
            assert status["last_exit"]["code"] == 3
    finally:
        daemon.call("agent.rm", names=["unfit"])
