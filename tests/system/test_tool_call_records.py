"""Tool calls under a whole daemon: they are in the record of their task, and an agent makes so many a minute."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.codec import as_array
from daemon_process import AGENTS, BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

AGENT = """\
from corral.worker.errors import CorralError
from corral.worker import Agent, Task
agent = Agent("caller")
@agent.task
async def run(task: Task) -> object:
    if task.objective == "fail":
        raise ValueError("as it was asked")
    found = []
    for name, arguments in task.input:
        try:
            await task.tool(name, **arguments)
            found.append("ok")
        except CorralError as error:
            found.append([error.name, error.data.get("limit"), error.data.get("retry_after_s", 0)])
    return found
"""

CONFIG = f"""
[monitoring]
alert_task_failures = 2
alert_task_failures_window = "1s"
[agents.brief]
entrypoint = "calls:agent"
[agents.full]
entrypoint = "calls:agent"
tasks.record_tool_calls = "results"
[agents.silent]
entrypoint = "calls:agent"
tasks.record_tool_calls = "none"
[agents.slow]
entrypoint = "calls:agent"
resources.max_tool_calls_per_minute = 3
[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
"""

ECHO = ("odd__echo", {"text": "hello", "token": "hunter2-token"})
LONG = ("odd__echo", {"text": "é" * 5000})
WRONG: tuple[str, object] = ("odd__raw", {"result": {"isError": True, "content": []}})
NOBODY: tuple[str, object] = ("odd__nobody", {})


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("calls")
    (folder / "calls.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def run(daemon: DaemonProcess, agent: str, *calls: tuple[str, object], **more: object) -> Any:
    return daemon.call("task.run", agent=agent, objective="call", input=list(calls), **more)


def calls_of(daemon: DaemonProcess, task: str, count: int) -> Any:
    """The calls of a task, as soon as there are so many: a row is written within 100 ms."""
    return settled(daemon, lambda: daemon.call("task.show", task=task, calls=True)["calls"], count)


def settled(daemon: DaemonProcess, look: Callable[[], Any], count: int) -> Any:
    found = look()
    with daemon.client() as client:
        for _ in range(1000):
            if len(found) >= count:
                break
            client.call("daemon.ping", timeout_s=BOUND_S)
            found = look()
    assert len(found) >= count
    return found


def test_the_record_of_a_task_has_its_tool_calls(daemon: DaemonProcess) -> None:
    task = run(daemon, "brief", ECHO, WRONG, NOBODY)
    found = calls_of(daemon, task["id"], 3)
    assert [(each["tool"], each["ok"], each["outcome"]) for each in found] == [
        ("odd__echo", True, "ok"),
        ("odd__raw", False, "error"),
        ("odd__nobody", False, "NotFound"),
    ]
    assert {each["delivery"] for each in found} == {1}
    assert found[0]["size_bytes"] > 0
    assert [each["result"] for each in found] == [None] * 3, "a summary has no results"
    assert task["calls"] is None
    assert daemon.call("task.show", task=task["id"])["calls"] is None
    shown = daemon.corral("task", "show", task["id"], "--calls").stdout.splitlines()
    assert [line.split()[1:3] for line in shown[1:]] == [
        ["odd__echo", "ok"],
        ["odd__raw", "error"],
        ["odd__nobody", "NotFound"],
    ]
    assert "RESULT" not in shown[0]


def test_results_are_kept_where_they_are_wanted_bounded(daemon: DaemonProcess) -> None:
    task = run(daemon, "full", ECHO, LONG)
    short, long = calls_of(daemon, task["id"], 2)
    assert "hello" in json.dumps(short["result"])
    assert long["size_bytes"] > 5000
    assert long["result"]["cut"] is True
    assert 3000 < len(long["result"]["text"].encode()) <= 4096
    assert "hello" in daemon.corral("task", "show", task["id"], "--calls").stdout
    silent = run(daemon, "silent", ECHO)
    calls_of(daemon, run(daemon, "brief", ECHO)["id"], 1)  # a later one is written
    assert calls_of(daemon, silent["id"], 0) == []


def test_calls_outlive_a_kill_of_the_daemon(daemon: DaemonProcess) -> None:
    task = run(daemon, "brief", ECHO)
    calls_of(daemon, task["id"], 1)
    daemon.kill()
    daemon.start()
    assert len(calls_of(daemon, task["id"], 1)) == 1


def test_an_agent_makes_so_many_calls_a_minute_and_a_reload_changes_that(daemon: DaemonProcess) -> None:
    output = run(daemon, "slow", *[ECHO] * 5)["output"]
    assert output[:3] == ["ok"] * 3
    for name, limit, retry_after_s in output[3:]:
        assert (name, limit) == ("Overloaded", "max_tool_calls_per_minute")
        assert 0 < retry_after_s <= 61
    assert run(daemon, "brief", ECHO)["output"] == ["ok"], "others have their own"
    figures = daemon.call("statistics.show", names=["slow"])["agents"]["slow"]["executor"]
    assert figures["tool_calls_last_minute"] == 3
    assert daemon.call("agent.show", name="slow")["tool_calls"] == {"last_minute": 3, "limit": 3}
    events = daemon.call("event.list", types=["limit.tool_calls"], since=0)["events"]
    assert [(each["agent"], each["limit"]) for each in events] == [("slow", 3)], "one for both"
    pid = daemon.worker("slow-0")["pid"]
    daemon.config.write_text(CONFIG.replace("per_minute = 3", "per_minute = 9"))
    daemon.call("daemon.reload")
    assert run(daemon, "slow", ECHO)["output"] == ["ok"]
    assert daemon.worker("slow-0")["pid"] == pid, "it is in force without a restart"


def test_tasks_that_fail_again_and_again_are_published_and_so_is_their_end(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("event.follow", {"types": ["agent.tasks_*"]}, timeout_s=BOUND_S)
        for _ in range(2):
            daemon.call("task.run", agent="silent", objective="fail")
        first = next_event(client)
        assert (first["type"], first["agent"], first["failures"]) == (*("agent.tasks_failing", "silent"), 2)
        assert "as it was asked" in first["reason"]
        assert next_event(client)["type"] == "agent.tasks_recovered"


def next_event(client: Client) -> Any:
    events = as_array(next(client.notifications()).params["events"]) or []
    return events[0]
