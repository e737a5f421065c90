"""The `corral` command against the real daemon: that both mean the same by every method and every code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import BOUND_S, DaemonProcess

CORRAL = [sys.executable, "-P", "-m", "corral.cli"]

AGENT = """
import asyncio
from corral.worker import Agent, Task

agent = Agent("echo")

@agent.task
async def run(task: Task):
    word, _, rest = task.objective.partition(" ")
    if word == "raise":
        raise ValueError(rest)
    if word == "wait":
        await task.progress(0.5, "waiting")
        await asyncio.Event().wait()
    if word == "second" and task.attempt == 1:
        await task.progress(0.5, "waiting for the end of the world")
        await asyncio.Event().wait()
    print("said", rest)
    return rest if word == "say" else {"attempt": task.attempt, "input": task.input}
"""

CONFIG = """
[agents.echo]
entrypoint = "echo_agent:agent"

[agents.sleeper]
command = ["sleep", "1000"]
protocol = "none"
autostart = false

[agents.missing]
command = ["/nonexistent/program"]
protocol = "none"
autostart = false
"""


def made(folder: Path) -> DaemonProcess:
    (folder / "echo_agent.py").write_text(AGENT)
    process = DaemonProcess(folder, CONFIG)
    process.call("agent.start", names=["echo"])
    return process


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with made(tmp_path_factory.mktemp("cli")) as process:
        yield process


def answer(daemon: DaemonProcess, *arguments: str, status: int = 0) -> Any:  # a JSON document
    """What a command prints with --json."""
    done = daemon.corral("--json", *arguments)
    assert (done.returncode, done.stderr) == (status, ""), done
    return json.loads(done.stdout)


def begin(daemon: DaemonProcess, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*CORRAL, "--socket", str(daemon.socket), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_status_has_the_documented_shape_and_a_readable_one(daemon: DaemonProcess) -> None:
    status = answer(daemon, "status")
    assert {"daemon", "agents", "mcp_servers", "tasks"} <= set(status)
    assert status["daemon"]["pid"] == daemon.pid
    (echo,) = (entry for entry in status["agents"] if entry["name"] == "echo")
    shown = daemon.corral("status", "echo")
    assert shown.returncode == 0
    assert str(echo["workers"][0]["pid"]) in shown.stdout


def test_every_refusal_has_its_exit_code(daemon: DaemonProcess) -> None:
    def code(*arguments: str) -> int:
        done = daemon.corral(*arguments)
        if done.returncode:
            lines = done.stderr.splitlines()  # of run: progress before it
            assert lines[-1].startswith("corral: cannot ")
            assert sum(line.startswith("corral:") for line in lines) == 1
        return done.returncode

    assert code("start", "echo") == 0, "it runs already"
    assert code("start", "missing") == 1
    assert code("run", "echo", "raise no") == 1
    assert code("add", "x", "--protocol", "none", "--memory", "much", "--", "true") == 2
    assert code("status", "nobody") == 3
    assert code("run", "nobody", "x") == 3
    assert code("task", "show", "nothing") == 3
    assert code("mcp", "call", "nothing__here") == 3
    assert code("logs", "nobody") == 3
    assert code("run", "sleeper", "x") == 4
    assert code("add", "echo", "--", "true") == 4
    assert code("run", "echo", "wait", "--timeout", "100ms") == 5


def test_a_task_runs_and_is_found_again(daemon: DaemonProcess) -> None:
    assert daemon.corral("run", "echo", "say hello").stdout == "hello\n"
    record = answer(daemon, "run", "echo", "input", "--input", '{"x": 1}')
    assert record["output"] == {"attempt": 1, "input": {"x": 1}}
    assert answer(daemon, "task", "show", record["id"]) == record
    assert answer(daemon, "task", "wait", record["id"]) == record
    assert answer(daemon, "tasks", "--limit", "1") == [record]
    queued = answer(daemon, "run", "echo", "say it", "--detach")
    assert queued["state"] in ("queued", "running")
    assert daemon.corral("task", "wait", queued["id"]).stdout == "it\n"
    for arguments in (("tasks",), ("task", "show", record["id"])):
        assert record["id"] in daemon.corral(*arguments).stdout


def test_ctrl_c_of_run_cancels_the_task(daemon: DaemonProcess) -> None:
    with begin(daemon, "run", "echo", "wait") as process:
        assert process.stderr is not None
        while "waiting" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=BOUND_S)
        assert process.returncode == 8
    assert answer(daemon, "tasks", "--limit", "1")[0]["state"] == "cancelled"


def test_agents_are_added_scaled_stopped_started_and_removed(daemon: DaemonProcess) -> None:
    entry = answer(daemon, "add", "more", "--protocol", "none", "--env", "A=b", "--", "sleep", "99")
    assert (entry["name"], entry["state"]) == ("more", "Ready")
    shown = answer(daemon, "show", "more")
    assert shown["spec"]["environment"] == {"A": "***"}
    assert shown["spec"]["process"]["working_directory"] == os.getcwd()
    assert len(answer(daemon, "scale", "more", "2")["workers"]) == 2
    for verb, state in (("stop", "Terminated"), ("start", "Ready"), ("restart", "Ready")):
        (entry,) = answer(daemon, verb, "more")["agents"]
        assert entry["state"] == state
    assert daemon.corral("signal", "more-0", "CONT").returncode == 0
    assert daemon.corral("rm", "more").returncode == 0
    assert daemon.corral("show", "more").returncode == 3


def test_a_file_of_agents_is_added(daemon: DaemonProcess) -> None:
    file = daemon.folder / "more.toml"
    file.write_text('[agents.filed]\ncommand = ["sleep", "99"]\nprotocol = "none"\n')
    (entry,) = answer(daemon, "add", "--file", str(file))
    assert (entry["name"], entry["state"]) == ("filed", "Ready")
    assert daemon.corral("rm", "filed").returncode == 0


def test_logs_and_events_report_what_happened(daemon: DaemonProcess) -> None:
    with begin(daemon, "logs", "-f", "-n", "0", "--json", "echo") as process:
        assert process.stdout is not None
        # A follower that is there sees the next line; how soon it is there, nobody says: say it until seen.
        reader = process.stdout
        os.set_blocking(reader.fileno(), False)
        line = ""
        while not line:
            assert daemon.corral("run", "echo", "say follow-me").returncode == 0
            line = reader.readline()
        os.set_blocking(reader.fileno(), True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=BOUND_S)
        assert process.returncode == 0
    assert json.loads(line)["text"] == "said follow-me"
    past = daemon.corral("logs", "echo", "--json", "--since", "1h").stdout.splitlines()
    assert {"at", "agent", "worker", "stream", "level", "text"} <= set(json.loads(past[-1]))
    events = daemon.corral("events", "--json", "--type", "worker.state").stdout.splitlines()
    first = json.loads(events[0])
    assert (first["type"], {"seq", "at", "from", "to"} <= set(first)) == ("worker.state", True)
    later = daemon.corral("events", "--json", "--since", str(first["seq"])).stdout.splitlines()
    assert json.loads(later[0])["seq"] > first["seq"]
    assert daemon.corral("events").returncode == 0
    assert daemon.corral("logs").returncode == 0


def test_tools_are_listed_and_called(daemon: DaemonProcess) -> None:
    tools = answer(daemon, "mcp", "tools", "cortex")
    assert "cortex__cortex_store" in [tool["name"] for tool in tools]
    given = json.dumps({"content": "the barn is red", "key": "barn"})
    done = daemon.corral("mcp", "call", "cortex__cortex_store", "--args", "-", stdin=given)
    assert done.returncode == 0
    given = json.dumps({"key": "barn"})
    result = answer(daemon, "mcp", "call", "cortex__cortex_retrieve", "--args", given)
    assert "the barn is red" in result["content"][0]["text"]
    (server,) = answer(daemon, "mcp", "servers")
    assert server["name"] == "cortex"
    assert server["state"] in ("Busy", "Idle")  # it rests a moment before it is told to be idle


def test_a_waiting_run_outlives_kill_9_of_the_daemon(tmp_path: Path) -> None:
    with made(tmp_path) as daemon:
        with begin(daemon, "run", "echo", "second") as process:
            assert process.stderr is not None
            while "waiting" not in process.stderr.readline():
                assert process.poll() is None
            daemon.kill()
            daemon.start()
            stdout, stderr = process.communicate(timeout=BOUND_S)
            assert process.returncode == 0, stderr
        assert json.loads(stdout)["attempt"] == 2
        assert len(answer(daemon, "tasks")) == 1
