"""`corral call`: any method of the daemon from a shell."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess

CONFIG = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("call"), CONFIG) as process:
        process.call("agent.start", names=["crew"])
        yield process


def test_params_are_given_as_words_or_as_json(daemon: DaemonProcess, tmp_path: Path) -> None:
    given = tmp_path / "params.json"
    given.write_text('{"agent": "crew", "key": "of-the-file", "value": {"page": 3}}')
    assert daemon.corral("call", "memory.put", "--params", f"@{given}").stdout == "{}\n"
    done = daemon.corral("call", "memory.put", "--params", f"@{given}", "key=a", "value=[1, null]")
    assert done.returncode == 0, done.stderr
    for key, value in (("of-the-file", {"page": 3}), ("a", [1, None])):
        done = daemon.corral("call", "memory.get", f"key={key}", "--params", "-", stdin='{"agent":"crew"}')
        assert json.loads(done.stdout) == {"value": value}
    daemon.corral("call", "memory.put", "agent=crew", "key=word", 'value={"no json')
    assert daemon.call("memory.get", agent="crew", key="word") == {"value": '{"no json'}


def test_an_error_exits_as_that_of_any_command(daemon: DaemonProcess) -> None:
    for words, status in (
        (["no.method"], 2),
        (["agent.show", "name=nobody"], 3),
        (["agent.show", "nmae=crew"], 2),
        (["agent.show", "crew"], 2),
        (["agent.show", "--params", "[1]"], 2),
        (["agent.show", "name=@/nonexistent"], 2),
    ):
        done = daemon.corral("call", *words)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.count("\n") == 1


def test_a_task_that_is_followed_is_its_events_and_then_its_record(daemon: DaemonProcess) -> None:
    task = daemon.call("task.submit", agent="crew", objective="echo")["id"]
    done = daemon.corral("call", "task.follow", f"task={task}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["method"] for line in lines[:-1]} <= {"task.event"}
    assert lines[-1]["result"]["state"] == "succeeded"


def test_events_are_followed_until_ctrl_c(daemon: DaemonProcess) -> None:
    words = [str(BIN / "corral"), "--socket", str(daemon.socket), "call", "event.follow"]
    with subprocess.Popen([*words, 'types=["price.*"]'], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None, "it is a pipe"
            assert "position" in json.loads(process.stdout.readline())["result"]
            daemon.call("event.publish", type="price.changed", data=12)
            shown = json.loads(process.stdout.readline())
            assert shown["method"] == "event"
            assert shown["params"]["events"][0]["type"] == "price.changed"
            process.send_signal(signal.SIGINT)
            assert process.wait(BOUND_S) == 0
        finally:
            process.kill()


def test_past_lines_of_a_log_end_by_themselves(daemon: DaemonProcess) -> None:
    task = daemon.call("task.run", agent="crew", objective="echo", input="some words")
    assert task["state"] == "succeeded"
    done = daemon.corral("call", "log.follow", "follow=false", 'names=["crew"]')
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["result"].keys() == {"position"}
    assert lines[-1]["method"] == "log.end"
