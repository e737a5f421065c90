"""The log, the usage and the cost of tasks under a whole daemon."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from corral.worker.contract.errors import NotFound
from corral.worker.contract.jsonrpc import Notification
from daemon_process import AGENTS, BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

AGENT = """\
import asyncio, os, signal
from corral.worker import Agent, Task
agent = Agent("doer")
@agent.task
async def run(task: Task) -> object:
    if task.objective == "allocate":
        loop = asyncio.get_running_loop()
        block, until = bytearray(48 << 20), loop.time() + 0.1
        del block
        while loop.time() < until:
            sum(range(10_000))
        task.usage(tokens=70, cost_cents=1.5)
        return None
    if task.objective == "echo":
        return task.input
    if task.objective == "speak and wait":
        print("before")
        await task.progress(0.5)
        while await task.recall("go") is None:
            pass
        print("after")
        return None
    if task.objective == "go":
        await task.remember("go", 1)
        return None
    await task.progress(0.25, "begun")
    print("a printed line")
    task.log("a message", "warning")
    await task.recall("nothing")  # what was sent before has arrived
    if task.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    await task.tool("state__get")
    await task.delegate("other", "echo", input=1)
    task.usage(tokens=30, cost_cents=0.5)
    return None
"""

CONFIG = f"""
[recovery]
restart_backoff_base = "10ms"
[agents.doer]
entrypoint = "doer:agent"
[agents.other]
entrypoint = "doer:agent"
[agents.pair]
entrypoint = "doer:agent"
instances = 2
[mcp.servers.state]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("usage")
    (folder / "doer.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def steps(entries: list[Any]) -> list[tuple[str, str | None]]:
    """The steps that do not depend on when lines are read."""
    return [(each["step"], each.get("outcome")) for each in entries if each["step"] != "log"]


EXPECTED = [
    ("queued", None),
    ("started", None),
    ("progress", None),
    ("retried", None),
    ("started", None),
    ("progress", None),
    ("call", "ok"),
    ("delegated", None),
    ("delegated", "succeeded"),
    ("ended", "succeeded"),
]


def test_the_log_of_a_task_has_all_of_its_steps_also_while_it_is_followed(daemon: DaemonProcess) -> None:
    task = daemon.call("task.submit", agent="doer", objective="work")["id"]
    sent: list[Any] = []

    def note(notification: Notification) -> None:
        assert notification.method == "task.log"
        entries: Any = notification.params["entries"]
        sent.extend(entries)

    with daemon.client() as client:
        answer: Any = client.call("task.log", {"task": task, "follow": True}, timeout_s=BOUND_S, on_notification=note)
    assert answer == {"task": task, "state": "succeeded", "entries": []}
    followed = sorted(sent, key=lambda each: each["after_s"])
    found: list[Any] = []
    for _ in range(1000):  # a tool call is stored within 100 ms
        found = daemon.call("task.log", task=task)["entries"]
        if any(each["step"] == "call" for each in found):
            break
    assert steps(found) == EXPECTED
    assert {*steps(found)} <= {*steps(followed)}
    assert [each["step"] for each in (sent[0], sent[-1])] == ["queued", "ended"]
    for entries in (found, followed):
        texts = [each["text"] for each in entries if each["step"] == "log"]
        assert sorted(texts) == ["a message", "a message", "a printed line", "a printed line"]
    assert [each["attempt"] for each in found if each["step"] == "started"] == [1, 2]
    end = found[-1]
    assert (end["tool_calls"], end["tokens_used"], end["cost_cents"]) == (1, 30, 0.5)
    assert end["cpu_ms"] > 0
    shown = daemon.corral("task", "log", task).stdout
    assert "state__get" in shown
    assert "30 tokens" in shown
    rows = daemon.corral("--json", "task", "log", task, "-n", "0").stdout.splitlines()
    assert not [row for row in rows if json.loads(row)["step"] == "log"]
    followed_once_more = daemon.corral("task", "log", "-f", task)
    assert followed_once_more.stdout.splitlines()[-1].split()[2] == "ended"


def test_a_follower_that_comes_late_gets_each_line_once(daemon: DaemonProcess) -> None:
    task = daemon.call("task.submit", agent="pair", objective="speak and wait")["id"]
    sent: list[Any] = []

    def note(notification: Notification) -> None:
        entries: Any = notification.params["entries"]
        sent.extend(entries)
        if any(each["step"] == "progress" for each in entries):
            daemon.call("task.submit", agent="pair", objective="go")

    for _ in range(1000):  # its first line is in the log by then
        past = daemon.call("task.log", task=task)["entries"]
        if {"log", "progress"} <= {each["step"] for each in past}:
            break
    with daemon.client() as client:
        client.call("task.log", {"task": task, "follow": True}, timeout_s=BOUND_S, on_notification=note)
    assert [each["text"] for each in sent if each["step"] == "log"] == ["before", "after"]


def test_a_task_is_said_to_have_used_what_it_used(daemon: DaemonProcess) -> None:
    daemon.call("task.run", agent="doer", objective="echo")
    task = daemon.call("task.run", agent="doer", objective="allocate")
    assert task["state"] == "succeeded", task["error"]
    assert task["peak_memory_bytes"] > 48 << 20
    assert 20 < task["cpu_ms"] < 1000 * (task["duration_s"] + 1)
    after = daemon.call("task.run", agent="doer", objective="echo")
    assert after["cpu_ms"] < task["cpu_ms"]


def test_the_cost_of_an_agent_stays_when_it_is_removed_and_over_a_restart(daemon: DaemonProcess) -> None:
    daemon.call("task.run", agent="doer", objective="echo")  # of one agent alone there is no sum
    spec = {"entrypoint": "doer:agent", "process": {"working_directory": str(daemon.folder)}}
    daemon.call("agent.add", name="brief", spec=spec)
    for session in ("one", "one", "two"):
        daemon.call("task.run", agent="brief", objective="allocate", session=session)
    daemon.call("agent.rm", names=["brief"])
    daemon.stop()
    daemon.start()

    def costs(*options: str) -> list[list[Any]]:
        shown = json.loads(daemon.corral("--json", "cost", "--agent", "brief", *options).stdout)
        assert shown["total"]["tokens"] == 210
        return [[each["session"], each["tasks"], each["tokens"], each["cost_cents"]] for each in shown["costs"]]

    assert costs() == [[None, 3, 210, 4.5]]
    assert costs("--by", "session", "--since", "1h") == [["one", 2, 140, 3.0], ["two", 1, 70, 1.5]]
    assert sum(each[1] for each in costs("--by", "day")) == 3
    table = daemon.corral("cost").stdout.splitlines()
    assert table[0].split() == ["AGENT", "TASKS", "FAILED", "TOKENS", "CENTS", "CPU"]
    assert [line.split()[0] for line in table[1:]][-1] == "(all)"
    with pytest.raises(NotFound):
        daemon.call("task.log", task="task-nowhere")
